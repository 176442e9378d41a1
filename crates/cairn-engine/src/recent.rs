//! What became of a session's last changes, so that one that is sent again gets the same answer.
//!
//! The store knows which numbers were applied and which were refused; this knows, since the volume was opened, the places
//! in the order of those that were applied. What it has forgotten was long answered.

use std::collections::{BTreeMap, BTreeSet};

/// Most entries of each kind: several times what a client has under way.
const KEPT: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Recent {
    /// Order numbers by token.
    calls: BTreeMap<u64, u64>,
    /// Order numbers of the journal's entries, by number.
    journal: BTreeMap<u64, u64>,
    /// Entries below the last one that were not among those sent again after a restart. Their answers never reached the
    /// client, so it sends them later, as new ones; they concern other files than those that were answered.
    holes: BTreeSet<u64>,
}

impl Recent {
    pub(crate) fn note_call(&mut self, token: u64, order: u64, acked_below: u64) {
        self.calls.insert(token, order);
        if self.calls.first_key_value().is_some_and(|(first, _)| *first < acked_below) {
            self.calls = self.calls.split_off(&acked_below);
        }
        if self.calls.len() > KEPT {
            self.calls.pop_first();
        }
    }

    /// Order number of a call that was applied; 0 if it was forgotten.
    pub(crate) fn call(&self, token: u64) -> u64 {
        self.calls.get(&token).copied().unwrap_or(0)
    }

    pub(crate) fn note_journal(&mut self, number: u64, order: u64) {
        self.journal.insert(number, order);
        if self.journal.len() > KEPT {
            self.journal.pop_first();
        }
    }

    /// Order number of an entry of the journal that was applied; 0 if it was forgotten (then it was applied before the
    /// start, durably).
    pub(crate) fn journal(&self, number: u64) -> u64 {
        self.journal.get(&number).copied().unwrap_or(0)
    }

    /// After entry `last`, entry `number` was applied again.
    pub(crate) fn note_holes(&mut self, last: u64, number: u64) {
        let count = usize::try_from(number.saturating_sub(last)).unwrap_or(usize::MAX).min(KEPT);
        self.holes.extend((last.saturating_add(1)..number).rev().take(count));
    }

    /// Whether an entry below the last one is still to be applied; only once.
    pub(crate) fn fill_hole(&mut self, number: u64) -> bool {
        self.holes.remove(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_the_same_until_they_are_acknowledged() {
        let mut recent = Recent::default();
        recent.note_call(1, 10, 0);
        recent.note_call(2, 11, 0);
        assert_eq!((recent.call(1), recent.call(2), recent.call(3)), (10, 11, 0));
        recent.note_call(3, 12, 3);
        assert_eq!((recent.call(2), recent.call(3)), (0, 12));
        recent.note_journal(5, 20);
        assert_eq!((recent.journal(5), recent.journal(6)), (20, 0));
    }

    #[test]
    fn entries_that_were_left_out_are_new() {
        let mut recent = Recent::default();
        recent.note_holes(5, 6);
        recent.note_holes(6, 9);
        assert!(!recent.fill_hole(6) && recent.fill_hole(7) && recent.fill_hole(8) && !recent.fill_hole(9));
        assert!(!recent.fill_hole(7));
    }

    #[test]
    fn memory_is_bounded() {
        let mut recent = Recent::default();
        for number in 0..KEPT as u64 + 5 {
            recent.note_call(number, number, 0);
            recent.note_journal(number, number);
        }
        assert_eq!((recent.calls.len(), recent.journal.len()), (KEPT, KEPT));
    }
}
