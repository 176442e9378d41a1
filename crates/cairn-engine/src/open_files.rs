//! Which sessions have told that they have a file open: they keep its content when its last name goes.
//!
//! The table knows too for which of them the store keeps a nameless file, so that closing any other file costs no change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_locks::Mutex;
use cairn_types::{Ino, SessionId};

use crate::Inner;
use crate::committer::{Kind, Round};
use crate::lock_order;

#[derive(Debug, Default)]
struct State {
    by_file: HashMap<Ino, Vec<SessionId>>,
    by_session: HashMap<SessionId, HashSet<Ino>>,
    /// Files whose last name may have gone while they were open.
    nameless: HashSet<Ino>,
}

#[derive(Debug, Default)]
pub(crate) struct OpenFiles(Mutex<State, lock_order::OpenFiles>);

impl OpenFiles {
    pub(crate) fn declare(&self, session: SessionId, ino: Ino) {
        let mut state = self.0.lock();
        if state.by_session.entry(session).or_default().insert(ino) {
            state.by_file.entry(ino).or_default().push(session);
        }
    }

    /// Answers which of the files the store may keep for this session.
    fn close(&self, session: SessionId, files: &[Ino]) -> Vec<Ino> {
        let mut state = self.0.lock();
        files.iter().copied().filter(|ino| state.close(session, *ino)).collect()
    }

    fn is_open(&self, session: SessionId, ino: Ino) -> bool {
        self.0.lock().by_session.get(&session).is_some_and(|files| files.contains(&ino))
    }

    /// Sessions that have the file open, whose last name goes: the store keeps it for them.
    pub(crate) fn holders(&self, ino: Ino) -> Vec<SessionId> {
        let mut state = self.0.lock();
        let sessions = state.by_file.get(&ino).cloned().unwrap_or_default();
        if !sessions.is_empty() {
            state.nameless.insert(ino);
        }
        sessions
    }

    /// The store keeps these files for this session from before.
    fn note_nameless(&self, files: impl Iterator<Item = Ino>) {
        self.0.lock().nameless.extend(files);
    }

    pub(crate) fn count(&self, session: SessionId) -> usize {
        self.0.lock().by_session.get(&session).map_or(0, HashSet::len)
    }

    pub(crate) fn remove_session(&self, session: SessionId) {
        let mut state = self.0.lock();
        for ino in state.by_session.remove(&session).unwrap_or_default() {
            state.forget(session, ino);
        }
    }
}

impl State {
    /// Whether the store may keep the file for this session.
    fn close(&mut self, session: SessionId, ino: Ino) -> bool {
        let Some(files) = self.by_session.get_mut(&session) else { return false };
        if !files.remove(&ino) {
            return false;
        }
        if files.is_empty() {
            self.by_session.remove(&session);
        }
        let nameless = self.nameless.contains(&ino);
        self.forget(session, ino);
        nameless
    }

    fn forget(&mut self, session: SessionId, ino: Ino) {
        if let Some(sessions) = self.by_file.get_mut(&ino) {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.by_file.remove(&ino);
                self.nameless.remove(&ino);
            }
        }
    }
}

impl Inner {
    /// A session has closed files that it had declared open. What the store kept for it alone goes with the next round:
    /// nobody waits for that, and should the server be killed first, the session's return does it
    /// ([`Inner::release_unclaimed`]).
    pub(crate) fn close_files(self: &Arc<Self>, session: SessionId, files: &[Ino]) {
        let kept = self.open_files.close(session, files);
        if !kept.is_empty() {
            let inner = Arc::clone(self);
            drop(self.committer.queue(Kind::Normal, move |round| inner.let_go(round, session, &kept)));
        }
    }

    fn let_go(&self, round: &mut Round<'_>, session: SessionId, files: &[Ino]) {
        for ino in files {
            // It may have been opened again since.
            if self.open_files.is_open(session, *ino) {
                continue;
            }
            let released = round.batch.release_file(session, *ino);
            if round.answer(released) == Ok(true) {
                self.leases.with(|table| table.forget_node(*ino));
                self.deleted.store(true, Ordering::Release);
            }
        }
        self.reservations.freed();
    }

    /// A session is back after a restart of the server and has told what it has open. What the store keeps for it beyond
    /// that was closed before the server could record it.
    pub(crate) fn release_unclaimed(&self, round: &mut Round<'_>, session: SessionId) {
        let open = self.open_files.0.lock().by_session.get(&session).cloned().unwrap_or_default();
        let released = round.batch.release_session_but(session, |ino| open.contains(&ino));
        if round.answer(released).is_ok() {
            self.deleted.store(true, Ordering::Release);
            self.open_files.note_nameless(open.into_iter());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stays_open_until_its_last_session_closes_it() {
        let files = OpenFiles::default();
        files.declare(SessionId(1), Ino(7));
        files.declare(SessionId(1), Ino(7));
        files.declare(SessionId(2), Ino(7));
        assert!(files.close(SessionId(1), &[Ino(7), Ino(8)]).is_empty(), "it has a name");
        assert_eq!(files.holders(Ino(7)), [SessionId(2)]);
        assert_eq!((files.count(SessionId(1)), files.count(SessionId(2))), (0, 1));
        files.declare(SessionId(3), Ino(7));
        assert_eq!(files.close(SessionId(3), &[Ino(7)]), [Ino(7)]);
        files.remove_session(SessionId(2));
        assert!(files.holders(Ino(7)).is_empty());
        let state = files.0.lock();
        assert!(state.by_session.is_empty() && state.nameless.is_empty());
    }
}
