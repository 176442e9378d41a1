//! The data connections of a session: made when first needed, kept, replaced when they break.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_types::Errno;
use cairn_wire::handshake::WelcomeDetail;
use cairn_wire::message::{Answer, Failure};
use cairn_wire::{FrameError, FrameKind, Purpose, RefusalKind, Request, Response};
use tokio::sync::oneshot;

use super::super::breaker::{Breaker, TripOnDrop};
use super::super::pending::Phase;
use super::super::{ConnectError, Inner};
use crate::connect::{Reader, Writer, connect};
use crate::error::{Error, ErrorKind, FsResult};
use crate::lock_order;

/// Pauses before a transfer is tried again double from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(in crate::session) struct DataPool {
    slots: [Slot; 2],
}

/// A place for one connection.
#[derive(Default)]
struct Slot {
    link: tokio::sync::Mutex<Option<Arc<DataLink>>>,
    /// Bytes on their way.
    load: AtomicU64,
}

struct DataLink {
    writer: tokio::sync::Mutex<Writer>,
    waiting: Mutex<Waiting, lock_order::DataRequests>,
    next_correlation: AtomicU64,
    breaker: Breaker,
    /// [`Inner::generation`] of the session it belongs to.
    generation: u64,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<(Response, Bytes)>>,
    ended: bool,
}

impl DataPool {
    /// The first slot if it is idle (so that light use needs one connection), else the less loaded one.
    fn pick(&self) -> &Slot {
        let [first, second] = &self.slots;
        let load = |slot: &Slot| slot.load.load(Ordering::Relaxed);
        if load(first) <= load(second) { first } else { second }
    }
}

/// Counts bytes on their way in a slot until dropped.
struct Load<'slot> {
    slot: &'slot Slot,
    bytes: u64,
}

impl<'slot> Load<'slot> {
    fn new(slot: &'slot Slot, bytes: u64) -> Self {
        slot.load.fetch_add(bytes, Ordering::Relaxed);
        Load { slot, bytes }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.slot.load.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Sends a request with bulk and waits for its answer, over as many connections as it takes. `expected` bytes will
/// travel. With `generation`, the session must still be that one.
///
/// # Errors
/// [`ErrorKind::Unreachable`] if the server cannot be reached for too long, [`ErrorKind::TimedOut`] if it does not
/// answer, [`ErrorKind::Fenced`] if the session was, [`ErrorKind::Closed`] if it was closed; the server's own.
pub(super) async fn transfer(
    inner: &Arc<Inner>,
    request: &Request,
    bulk: &[Bytes],
    expected: u64,
    generation: Option<u64>,
) -> FsResult<(Answer, Bytes)> {
    let started = Instant::now();
    let mut pause = PAUSE_FIRST;
    loop {
        until_connected(inner).await?;
        if generation.is_some_and(|generation| generation != inner.generation()) {
            return Err(Error::FENCED);
        }
        let slot = inner.data.pick();
        let load = Load::new(slot, expected.max(1));
        if let Some(link) = link_of(inner, slot).await? {
            let answer = tokio::select! {
                answer = link.exchange(request, bulk) => answer,
                () = inner.sleep(inner.answer_limit()) => {
                    let reason = format!("the server did not answer a transfer within {:?}", inner.answer_limit());
                    tracing::error!("{reason}");
                    link.breaker.trip();
                    return Err(Error::new(ErrorKind::TimedOut, Errno::ETIMEDOUT).because(reason));
                }
            };
            if let Some((response, bulk)) = answer {
                return response.map(|answer| (answer, bulk)).map_err(Error::from);
            }
        }
        drop(load);
        if started.elapsed() > inner.options.give_up_after {
            let reason = format!("no data connection to the server for {:?}", inner.options.give_up_after);
            tracing::error!("{reason}");
            return Err(Error::UNREACHABLE.because(reason));
        }
        inner.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
}

async fn until_connected(inner: &Inner) -> FsResult<()> {
    let mut phase = inner.phase.subscribe();
    // The sender lies beside: it is never gone.
    let _ = phase.wait_for(|phase| *phase != Phase::Reconnecting).await;
    inner.state.lock().refuses().map_or(Ok(()), Err)
}

/// The slot's connection, made if need be. `None` if there is none now and it is worth trying again.
async fn link_of(inner: &Arc<Inner>, slot: &Slot) -> FsResult<Option<Arc<DataLink>>> {
    let mut current = slot.link.lock().await;
    if let Some(link) = &*current
        && !link.breaker.is_tripped()
        && link.generation == inner.generation()
    {
        return Ok(Some(Arc::clone(link)));
    }
    *current = None;
    let maker = Arc::clone(inner);
    // On the runtime: making a connection takes timers and sockets, and the caller may be on another thread.
    let made = inner.runtime.spawn(async move { make_link(&maker).await }).await.unwrap_or(Err(Errno::EIO.into()))?;
    current.clone_from(&made);
    Ok(made)
}

async fn make_link(inner: &Arc<Inner>) -> FsResult<Option<Arc<DataLink>>> {
    let generation = inner.generation();
    let Some(resume) = inner.state.lock().resume else { return Ok(None) };
    let purpose = Purpose::Data { session: resume.session, secret: resume.secret };
    let connection = match connect(&inner.options.connect, purpose).await {
        Ok(connection) => connection,
        Err(ConnectError::Refused(refusal)) => {
            tracing::debug!(%refusal, "no data connection");
            return match refusal.kind {
                RefusalKind::Busy => Ok(None),
                RefusalKind::SessionGone => {
                    // The control connection will find out the same and a new session will begin.
                    inner.breaker.lock().trip();
                    Ok(None)
                }
                _ => Err(Error::from(Errno::EIO).because(refusal.message)),
            };
        }
        Err(error) => {
            tracing::debug!(%error, "no data connection");
            return Ok(None);
        }
    };
    if !matches!(connection.welcome.detail, WelcomeDetail::Data) {
        let reason = "the server took a data connection for another kind";
        tracing::error!("{reason}");
        return Err(Error::from(Errno::EIO).because(reason));
    }
    let link = Arc::new(DataLink {
        writer: tokio::sync::Mutex::new(connection.writer),
        waiting: Mutex::default(),
        next_correlation: AtomicU64::new(1),
        breaker: Breaker::new(),
        generation,
    });
    let reading = Arc::clone(&link);
    let mut phase = inner.phase.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            () = reading.read_answers(connection.reader) => {}
            _ = phase.wait_for(|phase| *phase == Phase::Closed) => {}
        }
        reading.end();
    });
    Ok(Some(link))
}

impl DataLink {
    /// `None` if the connection broke.
    async fn exchange(&self, request: &Request, bulk: &[Bytes]) -> Option<(Response, Bytes)> {
        let correlation = self.next_correlation.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.ended {
                return None;
            }
            waiting.answers.insert(correlation, reply);
        }
        {
            let mut writer = self.writer.lock().await;
            let guard = TripOnDrop::new(&self.breaker);
            let written = tokio::select! {
                biased;
                written = writer.write(FrameKind::Request, correlation, request, bulk) => written,
                () = self.breaker.tripped() => return None,
            };
            match written {
                Ok(()) => guard.disarm(),
                Err(error @ (FrameError::Codec(_) | FrameError::TooLarge { .. })) => {
                    guard.disarm();
                    tracing::error!(%error, "a transfer cannot be sent");
                    self.waiting.lock().answers.remove(&correlation);
                    return Some((
                        Err(Failure {
                            errno: Errno::EIO,
                            message: "the request cannot be sent to the server".to_owned(),
                        }),
                        Bytes::new(),
                    ));
                }
                Err(_) => return None,
            }
        }
        answer.await.ok()
    }

    /// Hands answers to those who wait, until the connection ends.
    async fn read_answers(&self, mut reader: Reader) {
        let mut tripped = pin!(self.breaker.tripped());
        loop {
            let frame = tokio::select! {
                frame = reader.read() => frame,
                () = &mut tripped => return,
            };
            let decoded = frame.and_then(|frame| {
                let response: Response = frame.expect(FrameKind::Response)?;
                Ok((frame.correlation, response, frame.bulk))
            });
            match decoded {
                Ok((correlation, response, bulk)) => {
                    let reply = self.waiting.lock().answers.remove(&correlation);
                    if let Some(reply) = reply {
                        // A caller that no longer waits is no error.
                        let _ = reply.send((response, bulk));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a data connection ended");
                    return;
                }
            }
        }
    }

    /// Whoever still waits, or comes later, has to use another connection.
    fn end(&self) {
        self.breaker.trip();
        let mut waiting = self.waiting.lock();
        waiting.ended = true;
        waiting.answers.clear();
    }
}
