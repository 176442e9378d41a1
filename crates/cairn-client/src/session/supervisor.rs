//! The life of the control connection: it is read until it ends, and replaced, for as long as the session is wanted.
//!
//! This task alone changes between connected and not, takes a session over from one connection to the next, and ends a
//! fenced one.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_wire::handshake::{Resume, WelcomeDetail};
use cairn_wire::{FrameError, Purpose, Refusal, RefusalKind};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::breaker::Breaker;
use super::clock::{LeaseClock, Moment};
use super::counters::Counters;
use super::data::{DataPool, Packs};
use super::incoming::Heard;
use super::numbers::Numbers;
use super::outgoing::{ControlLink, Outgoing};
use super::pending::{Phase, State};
use super::{ConnectError, Inner, Session, SessionEvents, SessionOptions};
use crate::connect::{Connection, Reader, connect};
use crate::error::Error;

/// Pauses between attempts to reconnect double from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(1);
/// After a connection that lasted this long, the next is tried for at once.
const STABLE: Duration = Duration::from_secs(1);

/// A connection that carries the session now.
struct Standing {
    reader: Reader,
    breaker: Arc<Breaker>,
    since: Instant,
    /// Something came after the welcome.
    heard: bool,
}

/// Why a connection that the server welcomed cannot carry the session.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdmitError {
    #[error("the server took this for another kind of connection")]
    NotASession,
    #[error("the server does not know this session any more")]
    SessionGone,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the server did not answer in time")]
    Silent,
    #[error("the server could not restore the session: {0}")]
    NotReclaimed(String),
    #[error("the emulation profile of the volume was changed, and with it how content is charged: mount it again")]
    CountsOtherwise,
    #[error("the session was closed")]
    Closed,
}

/// See [`Session::open`].
pub(super) async fn open(
    options: SessionOptions,
    events: impl FnOnce(&Session) -> Arc<dyn SessionEvents>,
) -> Result<Session, ConnectError> {
    let (connection, sent) = connect_unless_busy(&options).await?;
    let WelcomeDetail::Session(welcome) = &connection.welcome.detail else {
        return Err(ConnectError::Protocol {
            address: options.connect.address.to_string(),
            reason: AdmitError::NotASession.to_string(),
        });
    };
    let inner = Arc::new(Inner {
        volume: welcome.volume.clone(),
        runtime: Handle::current(),
        events: Mutex::new(None),
        outgoing: Arc::new(tokio::sync::Mutex::new(Outgoing::new())),
        errands: Mutex::new(VecDeque::new()),
        errand_queued: Notify::new(),
        state: Mutex::new(State::new()),
        phase: watch::Sender::new(Phase::Reconnecting),
        breaker: Mutex::new(Arc::new(Breaker::new())),
        clock: LeaseClock::new(Duration::from_millis(welcome.lease_ttl_ms)),
        expiry_reported: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
        generation: AtomicU64::new(0),
        writing_since: AtomicU64::new(0),
        heard_at: AtomicU64::new(0),
        numbers: Numbers::default(),
        data: DataPool::default(),
        packs: Packs::default(),
        protocol: AtomicU32::new(connection.welcome.version),
        counters: Counters::default(),
        options,
    });
    let session = Session { inner: Arc::clone(&inner) };
    let listener = events(&session);
    *inner.events.lock() = Some(listener);
    let standing = inner.admit(connection, sent).await.map_err(|error| ConnectError::Protocol {
        address: inner.options.connect.address.to_string(),
        reason: error.to_string(),
    })?;
    tokio::spawn(Arc::clone(&inner).supervise(standing));
    tokio::spawn(Arc::clone(&inner).keep_up());
    tokio::spawn(Arc::clone(&inner).deliver_errands());
    Ok(session)
}

/// The first connection, and when it was asked for. A server that is starting up is given the time of one attempt.
async fn connect_unless_busy(options: &SessionOptions) -> Result<(Connection, Moment), ConnectError> {
    let started = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        let purpose = Purpose::Session { volume: options.volume.clone(), info: options.info.clone(), resume: None };
        let sent = Moment::now();
        match connect(&options.connect, purpose).await {
            Err(ConnectError::Refused(Refusal { kind: RefusalKind::Busy, .. }))
                if started.elapsed() < options.connect.connect_timeout => {}
            Err(error) => return Err(error),
            Ok(connection) => return Ok((connection, sent)),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
}

impl Inner {
    /// Task: reads the connection until it ends and replaces it, until the session is closed.
    async fn supervise(self: Arc<Self>, first: Standing) {
        let mut standing = first;
        let mut pause = Duration::ZERO;
        loop {
            let ending = tokio::select! {
                biased;
                () = self.closed() => return,
                ending = self.listen(&mut standing) => ending,
            };
            standing.breaker.trip();
            if self.leaving.load(Ordering::Acquire) {
                // The server hangs up after a goodbye; if it did so before, it will end the session by itself.
                return self.shut().await;
            }
            match ending {
                Ok(()) => self.fence().await,
                Err(error) => self.lost(&error).await,
            }
            pause = if standing.since.elapsed() >= STABLE {
                Duration::ZERO
            } else if standing.heard {
                PAUSE_FIRST
            } else {
                grown(pause)
            };
            drop(standing);
            standing = tokio::select! {
                standing = self.reconnect(&mut pause) => standing,
                () = self.closed() => return,
            };
            self.counters.reconnects.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads until the session is fenced (`Ok`) or the connection is of no more use.
    async fn listen(&self, standing: &mut Standing) -> Result<(), FrameError> {
        let mut tripped = pin!(standing.breaker.tripped());
        loop {
            let frame = tokio::select! {
                biased;
                frame = standing.reader.read() => frame?,
                () = &mut tripped => return Err(FrameError::Closed),
            };
            standing.heard = true;
            if self.hear(&frame)? == Heard::Fenced {
                return Ok(());
            }
        }
    }

    async fn lost(&self, error: &FrameError) {
        tracing::warn!(
            server = %self.options.connect.address, reason = %error,
            "lost the connection to the server; reconnecting, requests wait up to {:?}", self.options.give_up_after,
        );
        let mut outgoing = self.outgoing.lock().await;
        outgoing.link = None;
        self.disconnected();
    }

    fn disconnected(&self) {
        let mut state = self.state.lock();
        state.connection_lost();
        if state.phase == Phase::Connected {
            state.lost_at = Instant::now();
            self.set_phase(&mut state, Phase::Reconnecting);
        }
    }

    /// Tries until the session stands again.
    async fn reconnect(self: &Arc<Self>, pause: &mut Duration) -> Standing {
        loop {
            tokio::time::sleep(*pause).await;
            *pause = grown(*pause);
            let resume = self.state.lock().resume;
            let volume = self.volume.id.to_string();
            let purpose = Purpose::Session { volume, info: self.options.info.clone(), resume };
            let sent = Moment::now();
            match connect(&self.options.connect, purpose).await {
                Ok(connection) => match self.admit(connection, sent).await {
                    Ok(standing) => return standing,
                    Err(AdmitError::SessionGone) => self.fence().await,
                    Err(error @ AdmitError::CountsOtherwise) => {
                        self.disconnected();
                        self.give_up(&error.to_string());
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot go on with the session");
                        self.disconnected();
                    }
                },
                Err(ConnectError::Refused(refusal)) => self.refused(&refusal, resume).await,
                Err(error) => tracing::debug!(%error, "cannot reconnect"),
            }
        }
    }

    async fn refused(&self, refusal: &Refusal, resume: Option<Resume>) {
        match refusal.kind {
            RefusalKind::SessionGone if resume.is_some() => self.fence().await,
            RefusalKind::Busy | RefusalKind::SessionGone => tracing::debug!(%refusal, "the server is not ready"),
            // Waiting does not mend these: nobody should have to wait for the end of the server's absence.
            RefusalKind::VersionMismatch | RefusalKind::NotAllowed | RefusalKind::UnknownVolume => {
                self.give_up(&refusal.message);
            }
        }
    }

    /// Lets a fresh connection carry the session: reclaims it if the server has forgotten, then sends again what is
    /// pending, while new requests queue behind.
    async fn admit(self: &Arc<Self>, mut connection: Connection, sent: Moment) -> Result<Standing, AdmitError> {
        let boot = connection.welcome.boot_id;
        self.protocol.store(connection.welcome.version, Ordering::Relaxed);
        let WelcomeDetail::Session(welcome) = connection.welcome.detail.clone() else {
            return Err(AdmitError::NotASession);
        };
        if welcome.volume.allocation != self.volume.allocation {
            return Err(AdmitError::CountsOtherwise);
        }
        let must_reclaim = {
            let mut state = self.state.lock();
            let resumed = match state.resume {
                Some(resume) if resume.session != welcome.session => return Err(AdmitError::SessionGone),
                resume => resume.is_some(),
            };
            state.resume = Some(Resume { session: welcome.session, secret: welcome.secret });
            state.replay.durable(welcome.durable_order);
            let must_reclaim = resumed && (!welcome.state_kept || state.boot != boot || state.reclaiming);
            state.reclaiming = must_reclaim;
            must_reclaim
        };
        self.clock.set_time_to_live(Duration::from_millis(welcome.lease_ttl_ms));
        if must_reclaim {
            self.reclaim(&mut connection).await?;
        } else {
            self.clock.renew(sent);
        }
        let breaker = Arc::new(Breaker::new());
        let mut outgoing = Arc::clone(&self.outgoing).lock_owned().await;
        let unanswered: Vec<u64> = {
            let mut state = self.state.lock();
            if state.phase == Phase::Closed {
                return Err(AdmitError::Closed);
            }
            if state.phase == Phase::GaveUp {
                tracing::info!(server = %self.options.connect.address, "the server is back");
            }
            state.reclaiming = false;
            state.boot = boot;
            outgoing.link = Some(ControlLink { writer: connection.writer, breaker: Arc::clone(&breaker) });
            // Changes that were given up may have left a gap behind what the server knows.
            let known = welcome.journal_applied.max(state.replay.last_journal_number());
            outgoing.next_journal = known.max(state.last_journal_number()) + 1;
            self.set_phase(&mut state, Phase::Connected);
            state.pending.keys().copied().collect()
        };
        *self.breaker.lock() = Arc::clone(&breaker);
        self.heard_at.store(Moment::now().0, Ordering::Relaxed);
        if !unanswered.is_empty() {
            // Beside reading: the server may have to send answers before it takes more.
            let inner = Arc::clone(self);
            tokio::spawn(async move {
                for correlation in unanswered {
                    inner.write(&mut outgoing, correlation).await;
                }
            });
        }
        Ok(Standing { reader: connection.reader, breaker, since: Instant::now(), heard: false })
    }

    /// The server has ended the session: nothing of it is left but questions, which the next one may ask.
    async fn fence(&self) {
        self.clock.void();
        self.expiry_reported.store(true, Ordering::Release);
        let abandoned = {
            let mut outgoing = self.outgoing.lock().await;
            outgoing.link = None;
            outgoing.next_journal = 1;
            self.errands.lock().clear();
            self.disconnected();
            let mut state = self.state.lock();
            state.resume = None;
            state.reclaiming = false;
            state.replay.reset();
            self.generation.fetch_add(1, Ordering::AcqRel);
            self.numbers.clear();
            state.take_fenced()
        };
        tracing::error!(
            volume = %self.volume.name, requests = abandoned.len(),
            "the server has ended this session because it was silent for too long; changes that were not yet written \
             are lost to the volume, and a new session begins",
        );
        if let Some(events) = self.events() {
            events.fenced();
        }
        let error =
            Error::FENCED.because("the server has ended the session because it did not hear from this mount in time");
        for pending in abandoned {
            pending.answer(Err(error.clone()));
        }
    }

    /// The server cannot be had: nobody waits for it any longer.
    pub(super) fn give_up(&self, reason: &str) {
        let (error, given_up) = {
            let mut state = self.state.lock();
            if state.phase != Phase::Reconnecting {
                return;
            }
            self.set_phase(&mut state, Phase::GaveUp);
            state.unreachable = Error::UNREACHABLE.because(reason);
            (state.unreachable.clone(), state.take_impatient())
        };
        tracing::error!(
            server = %self.options.connect.address, volume = %self.volume.name, reason, requests = given_up.len(),
            "requests fail from now on; the volume works again as soon as the server is back",
        );
        for pending in given_up {
            let error = pending.unanswered(&error);
            pending.answer(Err(error));
        }
    }

    /// Ends everything that runs for the session.
    pub(super) async fn shut(&self) {
        let left = {
            let mut state = self.state.lock();
            self.set_phase(&mut state, Phase::Closed);
            state.take(|_, _| true)
        };
        for pending in left {
            pending.answer(Err(Error::CLOSED));
        }
        self.clock.void();
        self.breaker.lock().trip();
        self.errand_queued.notify_one();
        self.outgoing.lock().await.link = None;
        *self.events.lock() = None;
    }
}

fn grown(pause: Duration) -> Duration {
    if pause.is_zero() { PAUSE_FIRST } else { (pause * 2).min(PAUSE_LAST) }
}
