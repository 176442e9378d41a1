//! Requests of the control connection that have no answer yet, and what becomes of each kind when the connection, the
//! server or the session is lost.
//!
//! A request lives here from the moment it is numbered until it is answered, whether or not its caller still waits:
//! a change whose caller went away happens all the same and must be known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cairn_wire::Request;
use cairn_wire::handshake::Resume;
use cairn_wire::message::Answer;
use tokio::sync::oneshot;

use super::clock::Moment;
use super::replay::ReplayLog;
use crate::error::{Error, ErrorKind, FsResult};

/// Whether the server can be spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connected,
    /// Requests wait.
    Reconnecting,
    /// The server stayed away for too long: requests fail at once until it is back.
    GaveUp,
    /// [`super::Session::close`] was called.
    Closed,
}

pub(super) struct Pending {
    pub(super) request: Arc<Request>,
    /// Bytes that go along with it.
    pub(super) bulk: Vec<Bytes>,
    /// Whoever waits. `None` for an errand, and once the wait has been ended by a deadline.
    pub(super) reply: Option<oneshot::Sender<FsResult<Answer>>>,
    /// When it was written to the connection that stands now.
    pub(super) sent: Option<Moment>,
    /// It was written to some connection, so the server may have acted on it.
    pub(super) ever_sent: bool,
}

impl Pending {
    /// Answers whoever waits; whether somebody does.
    pub(super) fn answer(self, outcome: FsResult<Answer>) -> bool {
        self.reply.is_some_and(|reply| reply.send(outcome).is_ok())
    }

    /// The error for whoever waits, when the wait ends without an answer because of `cause`.
    pub(super) fn unanswered(&self, cause: &Error) -> Error {
        if self.ever_sent && !is_question(&self.request) {
            cause.clone().of_kind(ErrorKind::OutcomeUnknown)
        } else {
            cause.clone()
        }
    }

    /// Somebody still waits for the answer.
    pub(super) fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }
}

/// Requests that change nothing at the server which a client could miss or do twice.
fn is_question(request: &Request) -> bool {
    matches!(
        request,
        Request::Query(_)
            | Request::TestLock(_)
            | Request::Numbers { .. }
            | Request::Reserve { .. }
            | Request::Renew
            | Request::Sync
            | Request::ReadBlobs(_)
            | Request::LocateBlobs(_)
            // Blobs have numbers: storing one twice stores it once.
            | Request::PutBlobs(_)
    )
}

/// Requests that are worth delivering however late: nobody waits for them, or only whoever buffers what they carry.
fn is_patient(request: &Request) -> bool {
    matches!(
        request,
        Request::ReturnLeases(_)
            | Request::CloseFiles(_)
            | Request::GiveBack { .. }
            | Request::CancelLock { .. }
            | Request::ReportDamage { .. }
            | Request::Journal { .. }
            // Content of changes in the journal behind it.
            | Request::PutBlobs(_)
    )
}

/// Everything about the session that changes under one lock.
pub(super) struct State {
    pub(super) phase: Phase,
    /// Why nobody waits for the server any longer; meaningful in [`Phase::GaveUp`].
    pub(super) unreachable: Error,
    /// When contact was lost; meaningful while [`Phase::Reconnecting`].
    pub(super) lost_at: Instant,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Tokens of calls in `pending`.
    pub(super) tokens: BTreeSet<u64>,
    pub(super) replay: ReplayLog,
    /// The session at the server; `None` between fencing and the next session.
    pub(super) resume: Option<Resume>,
    pub(super) boot: u64,
    /// A reclaim was begun and its end is unknown.
    pub(super) reclaiming: bool,
}

impl State {
    pub(super) fn new() -> Self {
        State {
            phase: Phase::Reconnecting,
            unreachable: Error::UNREACHABLE,
            lost_at: Instant::now(),
            pending: BTreeMap::new(),
            tokens: BTreeSet::new(),
            replay: ReplayLog::default(),
            resume: None,
            boot: 0,
            reclaiming: false,
        }
    }

    /// Why a request that somebody waits for cannot be accepted now.
    pub(super) fn refuses(&self) -> Option<Error> {
        match self.phase {
            Phase::Connected | Phase::Reconnecting => None,
            Phase::GaveUp => Some(self.unreachable.clone()),
            Phase::Closed => Some(Error::CLOSED),
        }
    }

    pub(super) fn insert(&mut self, correlation: u64, pending: Pending) {
        if let Request::Call { token, .. } = &*pending.request {
            self.tokens.insert(*token);
        }
        self.pending.insert(correlation, pending);
    }

    pub(super) fn remove(&mut self, correlation: u64) -> Option<Pending> {
        let pending = self.pending.remove(&correlation)?;
        if let Request::Call { token, .. } = &*pending.request {
            self.tokens.remove(token);
        }
        Some(pending)
    }

    /// Takes out every request for which `picks` holds.
    pub(super) fn take(&mut self, picks: impl Fn(u64, &Pending) -> bool) -> Vec<Pending> {
        let numbers: Vec<u64> = self
            .pending
            .iter()
            .filter(|(number, pending)| picks(**number, pending))
            .map(|(number, _)| *number)
            .collect();
        numbers.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Largest number of a pending journal change; 0 if there is none.
    pub(super) fn last_journal_number(&self) -> u64 {
        let numbers = self.pending.values().map(|pending| match &*pending.request {
            Request::Journal { first, ops } => first + (ops.len() as u64).saturating_sub(1),
            _ => 0,
        });
        numbers.max().unwrap_or(0)
    }

    /// The connection is gone: forgets what makes no sense on another one.
    pub(super) fn connection_lost(&mut self) {
        for pending in self.pending.values_mut() {
            pending.sent = None;
        }
        let dropped = self.take(|_, pending| match &*pending.request {
            Request::Renew => true,
            // Given back twice, room would be missing later; not at all, it is set aside until the session ends.
            Request::GiveBack { .. } => pending.ever_sent,
            // Questions nobody waits for any more.
            Request::Query(_)
            | Request::TestLock(_)
            | Request::Numbers { .. }
            | Request::Reserve { .. }
            | Request::Sync => !pending.is_wanted(),
            _ => false,
        });
        drop(dropped);
    }

    /// The server forgot which leases and files are held, and they are declared to it anew: drops returns numbered below `mark`,
    /// which are part of that.
    pub(super) fn drop_returns_below(&mut self, mark: u64) {
        let dropped = self.take(|number, pending| {
            number < mark && matches!(&*pending.request, Request::ReturnLeases(_) | Request::CloseFiles(_))
        });
        drop(dropped);
    }

    /// The server stays away: takes out all that cannot wait for it any longer.
    pub(super) fn take_impatient(&mut self) -> Vec<Pending> {
        self.take(|_, pending| !is_patient(&pending.request))
    }

    /// The session is over: takes out all that cannot be asked of the next one, which is everything but questions.
    pub(super) fn take_fenced(&mut self) -> Vec<Pending> {
        self.take(|_, pending| !matches!(&*pending.request, Request::Query(_) | Request::TestLock(_)))
    }
}
