//! Which sessions have told that they have a file open: they keep its content when its last name goes.

use std::collections::{HashMap, HashSet};

use cairn_types::{Ino, SessionId};
use parking_lot::Mutex;

#[derive(Debug, Default)]
struct State {
    by_file: HashMap<Ino, Vec<SessionId>>,
    by_session: HashMap<SessionId, HashSet<Ino>>,
}

#[derive(Debug, Default)]
pub(super) struct OpenFiles(Mutex<State>);

impl OpenFiles {
    pub(super) fn declare(&self, session: SessionId, ino: Ino) {
        let mut state = self.0.lock();
        if state.by_session.entry(session).or_default().insert(ino) {
            state.by_file.entry(ino).or_default().push(session);
        }
    }

    pub(super) fn close(&self, session: SessionId, files: &[Ino]) {
        let mut state = self.0.lock();
        for ino in files {
            state.close(session, *ino);
        }
    }

    /// Sessions that have the file open.
    pub(super) fn holders(&self, ino: Ino) -> Vec<SessionId> {
        self.0.lock().by_file.get(&ino).cloned().unwrap_or_default()
    }

    pub(super) fn count(&self, session: SessionId) -> usize {
        self.0.lock().by_session.get(&session).map_or(0, HashSet::len)
    }

    pub(super) fn remove_session(&self, session: SessionId) {
        let mut state = self.0.lock();
        for ino in state.by_session.remove(&session).unwrap_or_default() {
            state.forget(session, ino);
        }
    }
}

impl State {
    fn close(&mut self, session: SessionId, ino: Ino) {
        if let Some(files) = self.by_session.get_mut(&session)
            && files.remove(&ino)
        {
            if files.is_empty() {
                self.by_session.remove(&session);
            }
            self.forget(session, ino);
        }
    }

    fn forget(&mut self, session: SessionId, ino: Ino) {
        if let Some(sessions) = self.by_file.get_mut(&ino) {
            sessions.retain(|other| *other != session);
            if sessions.is_empty() {
                self.by_file.remove(&ino);
            }
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
        files.close(SessionId(1), &[Ino(7), Ino(8)]);
        assert_eq!(files.holders(Ino(7)), [SessionId(2)]);
        assert_eq!((files.count(SessionId(1)), files.count(SessionId(2))), (0, 1));
        files.remove_session(SessionId(2));
        assert!(files.holders(Ino(7)).is_empty());
        assert!(files.0.lock().by_session.is_empty());
    }
}
