//! The attributes of one node: as the server said last, with what changes that are buffered here do to them.

use std::num::NonZeroU32;

use cairn_types::Attr;

/// What is ahead of the server.
#[derive(Debug)]
struct Ahead {
    /// Changes of this node that are buffered or on their way, content aside.
    changes: NonZeroU32,
    /// The newest that the server has said meanwhile.
    server: Option<Box<Attr>>,
}

/// Only valid under a lease; forgotten with it.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    known: Option<Attr>,
    ahead: Option<Ahead>,
}

/// What became of attributes that the server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learnt {
    /// Kept until the changes here are answered for.
    Later,
    /// Older than what is known, or under no lease.
    Ignored,
    Taken,
}

impl Attributes {
    pub(super) fn known(&self) -> Option<&Attr> {
        self.known.as_ref()
    }

    /// What is known here is ahead of what the server says.
    pub(super) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Counts a change that is made here first.
    pub(super) fn begin_change(&mut self) {
        match &mut self.ahead {
            Some(ahead) => ahead.changes = ahead.changes.saturating_add(1),
            None => self.ahead = Some(Ahead { changes: NonZeroU32::MIN, server: None }),
        }
    }

    /// What a change that was counted does to them.
    pub(super) fn alter(&mut self, change: impl FnOnce(&mut Attr)) {
        if let Some(known) = &mut self.known {
            change(known);
        }
    }

    /// Those that are ahead of the server, if they are.
    pub(super) fn ahead_mut(&mut self) -> Option<&mut Attr> {
        self.known.as_mut().filter(|_| self.ahead.is_some())
    }

    /// The server has answered for one of the changes. What it said meanwhile, if it was the last: that is to be learnt.
    pub(super) fn end_change(&mut self) -> Option<Box<Attr>> {
        let ahead = self.ahead.as_mut()?;
        match NonZeroU32::new(ahead.changes.get() - 1) {
            Some(left) => {
                ahead.changes = left;
                None
            }
            None => self.ahead.take()?.server,
        }
    }

    /// Takes over what the server says. `granted`: it came with a lease on the node that stands.
    pub(super) fn learn(&mut self, attr: &Attr, granted: bool) -> Learnt {
        if let (Some(ahead), Some(_)) = (&mut self.ahead, &self.known) {
            if ahead.server.as_ref().is_none_or(|said| attr.version >= said.version) {
                ahead.server = Some(Box::new(*attr));
            }
            return Learnt::Later;
        }
        let newer = self.known.as_ref().map_or(granted, |known| attr.version >= known.version);
        if newer {
            self.known = Some(*attr);
        }
        if newer { Learnt::Taken } else { Learnt::Ignored }
    }

    /// Forgets what is known; changes that are on their way still count.
    pub(super) fn forget(&mut self) {
        self.known = None;
        if let Some(ahead) = &mut self.ahead {
            ahead.server = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::attr;
    use super::*;

    #[test]
    fn the_server_does_not_undo_what_it_does_not_know_yet() {
        let mut attributes = Attributes::default();
        assert_eq!(attributes.learn(&attr(1, 10), true), Learnt::Taken);
        attributes.begin_change();
        attributes.begin_change();
        attributes.alter(|attr| attr.mode = 0o600);
        assert_eq!(attributes.learn(&attr(3, 30), false), Learnt::Later);
        assert_eq!(attributes.learn(&attr(2, 20), false), Learnt::Later);
        assert_eq!(attributes.end_change(), None);
        assert_eq!(attributes.known().map(|attr| (attr.mode, attr.size)), Some((0o600, 10)));
        assert_eq!(attributes.end_change().map(|said| said.version), Some(3));
        assert!(!attributes.is_ahead());
        assert_eq!(attributes.end_change(), None);
    }

    #[test]
    fn what_was_said_under_a_lost_lease_is_forgotten_and_changes_still_count() {
        let mut attributes = Attributes::default();
        attributes.learn(&attr(1, 10), true);
        attributes.begin_change();
        attributes.learn(&attr(2, 20), true);
        attributes.forget();
        assert_eq!(attributes.learn(&attr(3, 30), false), Learnt::Ignored);
        assert!(attributes.is_ahead());
        assert_eq!(attributes.end_change(), None);
    }
}
