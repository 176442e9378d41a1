//! Requests about advisory locks: waiting for them, giving up, and what to do about holders that are gone.

use std::collections::HashMap;
use std::time::Duration;

use cairn_locks::Mutex;
use cairn_types::{ByteRange, Errno, FileLock, Ino, LockFamily, LockKind, LockOwner, SessionId};
use cairn_wire::message::Answer;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::lock_order;
use crate::locks::{LockTable, Owner, SetOutcome, WaitId};
use crate::{Inner, Reply};

/// How often a waiting request looks whether the holder's session has expired.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// All locks of a volume, and the requests that wait for some.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<State, lock_order::FileLocks>);

#[derive(Debug, Default)]
struct State {
    table: LockTable,
    waiting: HashMap<WaitId, oneshot::Sender<Result<(), Errno>>>,
}

impl State {
    fn wake(&mut self) {
        for id in self.table.take_granted() {
            if let Some(waiter) = self.waiting.remove(&id) {
                // If the waiter is gone, its client asks again under the same name or gives the lock back.
                let _ = waiter.send(Ok(()));
            }
        }
    }
}

impl Locks {
    fn with<T>(&self, act: impl FnOnce(&mut LockTable) -> T) -> T {
        let mut state = self.0.lock();
        let outcome = act(&mut state.table);
        state.wake();
        outcome
    }

    pub(crate) fn count(&self, session: SessionId) -> usize {
        self.0.lock().table.count(session)
    }

    pub(crate) fn remove_session(&self, session: SessionId) {
        let mut state = self.0.lock();
        state.table.remove_session(session);
        state.wake();
        let gone: Vec<WaitId> = state.waiting.keys().filter(|id| id.session == session).copied().collect();
        for id in gone {
            if let Some(waiter) = state.waiting.remove(&id) {
                let _ = waiter.send(Err(Errno::ESTALE));
            }
        }
    }

    /// Takes a lock back that was held before a restart. `false` if it is taken.
    pub(crate) fn reclaim(&self, session: SessionId, lock: &FileLock) -> bool {
        self.with(|table| table.set(session, lock, None)) == SetOutcome::Done
    }

    fn set(
        &self,
        session: SessionId,
        lock: &FileLock,
        wait: Option<WaitId>,
    ) -> (SetOutcome, Option<oneshot::Receiver<Result<(), Errno>>>) {
        let mut state = self.0.lock();
        let outcome = state.table.set(session, lock, wait);
        state.wake();
        let waiting = wait.filter(|_| matches!(outcome, SetOutcome::Conflict(_))).map(|id| {
            let (sender, receiver) = oneshot::channel();
            // An older request of the same name came over a connection that is gone.
            if let Some(older) = state.waiting.insert(id, sender) {
                let _ = older.send(Err(Errno::EINTR));
            }
            receiver
        });
        (outcome, waiting)
    }

    fn cancel(&self, id: WaitId) {
        let mut state = self.0.lock();
        if state.table.cancel(id)
            && let Some(waiter) = state.waiting.remove(&id)
        {
            let _ = waiter.send(Err(Errno::EINTR));
        }
        state.wake();
    }
}

impl Inner {
    pub(crate) fn test_lock(&self, session: SessionId, lock: &FileLock) -> Reply {
        check(lock)?;
        Ok((Answer::Lock(self.locks.with(|table| table.test(session, lock))), Vec::new()))
    }

    pub(crate) async fn set_lock(&self, session: SessionId, correlation: u64, lock: FileLock, wait: bool) -> Reply {
        check(&lock)?;
        let id = WaitId { session, correlation };
        let (mut outcome, mut waiting) = self.locks.set(session, &lock, wait.then_some(id));
        if let (SetOutcome::Conflict(holder), false) = (outcome, wait)
            && self.end_if_expired(holder)
        {
            (outcome, waiting) = self.locks.set(session, &lock, None);
        }
        match (outcome, waiting) {
            (SetOutcome::Done, _) => {
                // The session may have ended between the check and the lock.
                if !self.sessions.is_live(session) && lock.kind != LockKind::Unlock {
                    self.locks.remove_session(session);
                    return Err(Errno::ESTALE.into());
                }
                Ok((Answer::Done, Vec::new()))
            }
            (SetOutcome::Deadlock, _) => Err(Errno::EDEADLK.into()),
            (SetOutcome::Conflict(_), None) => Err(Errno::EAGAIN.into()),
            (SetOutcome::Conflict(_), Some(mut granted)) => {
                self.counters.locks_waited.add(1);
                loop {
                    match timeout(LOOK_AGAIN, &mut granted).await {
                        Ok(Ok(Ok(()))) => return Ok((Answer::Done, Vec::new())),
                        Ok(Ok(Err(errno))) => return Err(errno.into()),
                        Ok(Err(_)) => return Err(Errno::EINTR.into()),
                        Err(_) => {
                            for holder in self.locks.with(|table| table.blockers(id)) {
                                self.end_if_expired(holder);
                            }
                            if !self.sessions.is_live(session) {
                                self.locks.remove_session(session);
                            }
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn cancel_lock(&self, session: SessionId, correlation: u64) -> Reply {
        self.locks.cancel(WaitId { session, correlation });
        Ok((Answer::Done, Vec::new()))
    }

    pub(crate) fn unlock(
        &self,
        session: SessionId,
        ino: Ino,
        owner: LockOwner,
        family: Option<LockFamily>,
        range: ByteRange,
    ) -> Reply {
        let owner = Owner { session, owner };
        self.locks.with(|table| {
            for each in [LockFamily::Flock, LockFamily::Posix] {
                if family.is_none_or(|wanted| wanted == each) {
                    let range = if each == LockFamily::Flock { ByteRange { start: 0, end: u64::MAX } } else { range };
                    table.unlock(owner, ino, each, range);
                }
            }
        });
        Ok((Answer::Done, Vec::new()))
    }

    /// Ends a session that holds what others wait for and whose time is over.
    fn end_if_expired(&self, session: SessionId) -> bool {
        let expired = self.sessions.get(session).is_some_and(|session| self.sessions.is_expired(&session));
        if expired {
            self.fence(session, "it was silent for too long and holds a lock that others wait for");
        }
        expired
    }
}

fn check(lock: &FileLock) -> Result<(), Errno> {
    if lock.range.start > lock.range.end { Err(Errno::EINVAL) } else { Ok(()) }
}
