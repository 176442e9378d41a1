//! The time of grace after a start: sessions from before come back, and what they had is restored before anybody else is
//! served.
//!
//! What was durable is in the store. The rest only the clients know: leases, open files and locks they simply declare
//! again; changes that were applied but not durable they send with their places in the old order. When all sessions are
//! back, or the time is up, the changes of all of them are merged by that order and applied, each once; sessions that
//! did not come back are ended; then normal work begins.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cairn_locks::Mutex;
use cairn_types::{Errno, FileLock, Ino, LeaseMode, SessionId};
use cairn_wire::message::{Answer, Applied, Failure, Grant, OpNumber, Replay};
use tokio::sync::{oneshot, watch};

use crate::committer::{Kind, Round};
use crate::lock_order;
use crate::sessions::Stage;
use crate::{Inner, Reply};

/// Most changes that one session may send again: a client asks for a flush long before it has so many.
const REPLAYS_MAX: usize = 1_000_000;

/// One message of [`cairn_wire::Request::Reclaim`].
pub(crate) struct Reclaim {
    pub(crate) leases: Vec<(Ino, LeaseMode)>,
    pub(crate) open: Vec<Ino>,
    pub(crate) locks: Vec<FileLock>,
    pub(crate) replay: Vec<Replay>,
    pub(crate) complete: bool,
}

/// What a session has told so far.
#[derive(Debug, Default)]
struct Reclaimed {
    grants: Vec<Grant>,
    replay: Vec<Replay>,
    complete: bool,
    answer: Option<oneshot::Sender<Vec<Applied>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Sessions that may still come back, with what they have told.
    awaited: BTreeMap<SessionId, Reclaimed>,
}

/// Leases that stand, and changes that were sent again.
type Retold = (Vec<Grant>, Vec<Replay>);

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Restart {
    state: Mutex<State, lock_order::Restart>,
    over: watch::Sender<bool>,
    /// What sessions have told once more after the time of grace, so far.
    again: Mutex<HashMap<SessionId, Retold>, lock_order::RetoldChanges>,
}

impl Restart {
    /// Waits for `sessions`; is over at once if there are none.
    pub(crate) fn new(sessions: impl Iterator<Item = SessionId>) -> Self {
        let awaited: BTreeMap<SessionId, Reclaimed> = sessions.map(|session| (session, Reclaimed::default())).collect();
        Restart { state: Mutex::new(State { awaited }), over: watch::Sender::new(false), again: Mutex::default() }
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits until normal work has begun.
    pub(crate) async fn wait(&self) {
        // The sender lives as long as the volume.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    fn all_back(&self) -> bool {
        self.state.lock().awaited.values().all(|reclaimed| reclaimed.complete)
    }

    /// The session has come back and said everything; it is yet to be acted upon.
    pub(crate) fn has_told_all(&self, session: SessionId) -> bool {
        self.state.lock().awaited.get(&session).is_some_and(|reclaimed| reclaimed.complete)
    }

    /// A session that comes back tells everything from the start.
    pub(crate) fn begin_again(&self, session: SessionId) {
        self.again.lock().remove(&session);
        if let Some(reclaimed) = self.state.lock().awaited.get_mut(&session) {
            *reclaimed = Reclaimed::default();
        }
    }

    /// Nobody need wait for this session any more.
    pub(crate) fn session_ended(&self, session: SessionId) {
        self.again.lock().remove(&session);
        self.state.lock().awaited.remove(&session);
    }
}

impl Inner {
    /// Task: ends the time of grace.
    pub(crate) async fn end_grace(self: Arc<Self>, grace: Duration) {
        /// How often to look whether all are back.
        const TICK: Duration = Duration::from_millis(10);
        let deadline = tokio::time::Instant::now() + grace;
        while !self.restart.all_back() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        let reclaimed = {
            let mut state = self.restart.state.lock();
            std::mem::take(&mut state.awaited)
        };
        let awaited = reclaimed.len();
        let (back, lost): (BTreeMap<_, _>, BTreeMap<_, _>) =
            reclaimed.into_iter().partition(|(_, reclaimed)| reclaimed.complete);
        for session in lost.keys() {
            self.finish(*session, "it did not come back after the server was restarted");
        }
        let mut answers: HashMap<SessionId, oneshot::Sender<Vec<Applied>>> = HashMap::new();
        let mut changes = Vec::new();
        let mut returned = Vec::new();
        for (session, reclaimed) in back {
            returned.push(session);
            if let Some(found) = self.sessions.get(session) {
                found.set_stage(Stage::Live);
            }
            answers.extend(reclaimed.answer.map(|answer| (session, answer)));
            changes.extend(reclaimed.replay.into_iter().map(|replay| (session, replay)));
        }
        let replayed = changes.len();
        let inner = Arc::clone(&self);
        let replay = self.committer.submit(Kind::Early, move |round| {
            let results = inner.replay_all(round, changes);
            for session in returned {
                inner.release_unclaimed(round, session);
            }
            results
        });
        match replay.await {
            Ok(mut results) => {
                for (session, answer) in answers {
                    // A client whose connection broke meanwhile asks again.
                    let _ = answer.send(results.remove(&session).unwrap_or_default());
                }
            }
            Err(failure) => tracing::error!(volume = %self.id, %failure, "changes could not be applied again"),
        }
        if awaited > 0 {
            tracing::info!(volume = %self.id, sessions = awaited - lost.len(), lost = lost.len(), changes = replayed,
                "sessions from before the start are back");
        }
        self.committer.open_gate();
        self.restart.over.send_replace(true);
    }

    /// Applies what all sessions sent again, in the one order. Results for each session in the order it sent them.
    fn replay_all(
        &self,
        round: &mut Round<'_>,
        mut changes: Vec<(SessionId, Replay)>,
    ) -> HashMap<SessionId, Vec<Applied>> {
        let mut results: HashMap<SessionId, Vec<(usize, Applied)>> = HashMap::new();
        let mut positions: HashMap<SessionId, usize> = HashMap::new();
        let mut numbered: Vec<(u64, SessionId, usize, Replay)> = changes
            .drain(..)
            .map(|(session, replay)| {
                let position = positions.entry(session).or_default();
                *position += 1;
                (replay.order, session, *position, replay)
            })
            .collect();
        numbered.sort_by_key(|(order, session, position, _)| (*order, *session, *position));
        let durable = self.order_at_start;
        for (_, session, position, replay) in numbered {
            let applied = self.replay_one(round, session, &replay, durable);
            results.entry(session).or_default().push((position, applied));
        }
        let in_order = |mut results: Vec<(usize, Applied)>| {
            results.sort_by_key(|(position, _)| *position);
            results.into_iter().map(|(_, applied)| applied).collect()
        };
        results.into_iter().map(|(session, results)| (session, in_order(results))).collect()
    }

    fn replay_one(&self, round: &mut Round<'_>, session: SessionId, replay: &Replay, durable: u64) -> Applied {
        let refused = |errno| Applied { result: Err(errno), order: 0 };
        let mut last_number = 0;
        let known = match replay.number {
            OpNumber::Call(token) => {
                let earlier = round.batch.call_result(session, token);
                round.must(earlier).map(|result| result.is_some_and(|result| result.is_ok()))
            }
            OpNumber::Journal(number) => {
                let last = round.batch.journal_sequence(session);
                round.must(last).map(|last| {
                    last_number = last.unwrap_or(u64::MAX);
                    number <= last_number
                })
            }
        };
        match known {
            Err(errno) => return refused(errno),
            Ok(known) if known || replay.order <= durable => {
                self.counters.changes_repeated.add(1);
                return Applied { result: Ok(cairn_types::OpReply::default()), order: replay.order };
            }
            Ok(_) => {}
        }
        let applied = self.apply_again(round, session, &replay.op, replay.order);
        if let Err(errno) = &applied.result {
            tracing::error!(volume = %self.id, %session, order = replay.order, ?errno,
                "a change from before the start could not be applied again");
        }
        let recent = round.ledger.recent.entry(session).or_default();
        let recorded = match replay.number {
            OpNumber::Call(_) if applied.result.is_err() => Ok(true),
            OpNumber::Call(token) => {
                recent.note_call(token, applied.order, 0);
                round.batch.record_call(session, token, 0, 0)
            }
            OpNumber::Journal(number) => {
                recent.note_holes(last_number, number);
                let outcome = applied.result.as_ref().map(|_| applied.order).map_err(|errno| *errno);
                if let Err(errno) = Self::note_entry(round, session, number, outcome) {
                    return refused(errno);
                }
                round.batch.set_journal_sequence(session, number)
            }
        };
        match round.must(recorded) {
            Ok(_) => applied,
            Err(errno) => refused(errno),
        }
    }

    pub(crate) async fn reclaim(self: &Arc<Self>, session: SessionId, message: Reclaim) -> Reply {
        let Reclaim { leases, open, locks, replay, complete } = message;
        for ino in open {
            self.open_files.declare(session, ino);
        }
        for lock in &locks {
            if !self.locks.reclaim(session, lock) {
                tracing::warn!(%session, ino = %lock.ino, "a lock from before the start is taken by another session");
            }
        }
        let granted: Vec<Grant> = self
            .leases
            .with(|table| leases.iter().filter_map(|(ino, mode)| table.reclaim(session, *ino, *mode)).collect());
        let waiting = {
            let mut state = self.restart.state.lock();
            match state.awaited.get_mut(&session) {
                Some(reclaimed) => {
                    reclaimed.grants.extend(granted);
                    reclaimed.replay.extend(replay);
                    if reclaimed.replay.len() > REPLAYS_MAX {
                        let message = "more changes are sent again than a session can have".to_owned();
                        return Err(Failure { errno: Errno::EINVAL, message });
                    }
                    if !complete {
                        return Ok((Answer::Done, Vec::new()));
                    }
                    let (sender, receiver) = oneshot::channel();
                    reclaimed.complete = true;
                    reclaimed.answer = Some(sender);
                    Ok((receiver, std::mem::take(&mut reclaimed.grants)))
                }
                None => Err((granted, replay)),
            }
        };
        match waiting {
            Ok((results, grants)) => {
                let replayed = results.await.map_err(|_| Failure::from(Errno::EAGAIN))?;
                // Others may have asked for some of them since: those recalls were sent and are answered as usual.
                Ok((Answer::Reclaimed { replayed, grants }, Vec::new()))
            }
            // Its answer was lost on the way: it tells everything again, which changes nothing.
            Err((grants, replay)) => self.reclaim_again(session, grants, replay, complete).await,
        }
    }

    async fn reclaim_again(
        self: &Arc<Self>,
        session: SessionId,
        grants: Vec<Grant>,
        replay: Vec<Replay>,
        complete: bool,
    ) -> Reply {
        if !self.sessions.is_live(session) {
            return Err(Errno::ESTALE.into());
        }
        let (earlier_grants, earlier_replays) = {
            let mut again = self.restart.again.lock();
            let (all_grants, all_replays) = again.entry(session).or_default();
            all_grants.extend(grants);
            all_replays.extend(replay);
            if !complete {
                return Ok((Answer::Done, Vec::new()));
            }
            again.remove(&session).unwrap_or_default()
        };
        let inner = Arc::clone(self);
        let changes = earlier_replays.into_iter().map(|replay| (session, replay)).collect();
        let mut results = self.committer.submit(Kind::Early, move |round| inner.replay_all(round, changes)).await?;
        let replayed = results.remove(&session).unwrap_or_default();
        Ok((Answer::Reclaimed { replayed, grants: earlier_grants }, Vec::new()))
    }
}
