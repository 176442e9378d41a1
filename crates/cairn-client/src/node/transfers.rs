//! Reads and writes of one file that the kernel waits for, and holding them while the file is recalled.
//!
//! While a file is recalled, the kernel's cache of it is emptied, and no page may come into that cache before the lease
//! has gone back. So from the beginning of the recall on, no read or write is answered (other than what the kernel sends
//! from dirty pages, which adds none). The kernel keeps the pages of a read locked, and empty, until it is answered, and
//! may keep the last page of a write locked in the same way; an emptying that meets such a page waits for it. Therefore
//! the emptying goes around them ([`Transfers::pieces`]): what is locked holds nothing that could be stale.
//!
//! A write is *overtaken* if its pages are emptied and read again before it is taken in: the kernel puts the bytes of a
//! write into its pages first and then asks for them to be taken, and pages that it fills meanwhile hold what was there
//! before. Such pages are emptied before the write is answered ([`Transfers::overtaken`]), and reads that were planned before
//! it are planned anew ([`Transfers::overtakings`]). The kernel has one write of a file under way at a time, other than from
//! dirty pages: it holds the file's lock.

use std::ops::Range;
use std::sync::Arc;

use crate::node::{Node, NodeState};

/// The smallest page that any kernel has: larger ones only make the kernel's requests rounder.
const PAGE: u64 = 4096;

/// The whole of any file.
pub(crate) const WHOLE: Range<u64> = 0..u64::MAX;

/// The pages that bytes lie in.
pub(crate) fn whole_pages(bytes: Range<u64>) -> Range<u64> {
    bytes.start / PAGE * PAGE..bytes.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

/// A range of the kernel's cache to be emptied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub range: Range<u64>,
    /// One page, which a write may keep locked; if it does, the page is empty and need not be waited for.
    pub may_be_locked: bool,
}

/// Ranges that are noted one by one; more are noted as one that holds them all.
const REFILLS_MAX: usize = 16;

#[derive(Debug)]
struct Entry {
    number: u64,
    /// Whole pages that may be locked.
    pages: Range<u64>,
    write: bool,
}

/// The transfers of one file, part of its node's state.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    /// None is answered.
    held: bool,
    last: u64,
    under_way: Vec<Entry>,
    /// Pages that were read since the last write was answered, or since they were emptied after it.
    refilled: Vec<Range<u64>>,
    /// Pages were emptied since the last write was answered.
    emptied: bool,
    /// Writes that were overtaken.
    overtakings: u64,
}

impl Transfers {
    /// The kernel's pages of the file are empty.
    pub(crate) fn note_emptied(&mut self) {
        self.refilled.clear();
        self.emptied = true;
    }

    fn note_refilled(&mut self, pages: Range<u64>) {
        let touching = |noted: &&mut Range<u64>| noted.start <= pages.end && pages.start <= noted.end;
        let hull = |a: &Range<u64>, b: &Range<u64>| a.start.min(b.start)..a.end.max(b.end);
        if let Some(noted) = self.refilled.iter_mut().find(touching) {
            *noted = hull(noted, &pages);
        } else if self.refilled.len() < REFILLS_MAX {
            self.refilled.push(pages);
        } else {
            let all = self.refilled.drain(..).fold(pages, |all, noted| hull(&all, &noted));
            self.refilled.push(all);
        }
    }

    /// A write of `pages` has just been taken in. What the kernel may have read there while it was on its way, and must
    /// lose; reads that are planned are planned anew then. `unlocked`: the kernel empties those pages itself when it asks,
    /// and keeps none of them locked.
    pub(crate) fn overtaken(&mut self, pages: &Range<u64>, unlocked: bool) -> Vec<Range<u64>> {
        if !self.emptied && !unlocked {
            return Vec::new();
        }
        let inside = |noted: &Range<u64>| noted.start.max(pages.start)..noted.end.min(pages.end);
        let stale: Vec<_> = self.refilled.iter().map(inside).filter(|range| !range.is_empty()).collect();
        let read_now = |entry: &Entry| !entry.write && entry.pages.start < pages.end && pages.start < entry.pages.end;
        if !stale.is_empty() || self.under_way.iter().any(read_now) {
            self.overtakings += 1;
        }
        stale
    }

    /// Changes whenever what was planned for a read may be older than a write that has been taken in.
    pub(crate) fn overtakings(&self) -> u64 {
        self.overtakings
    }

    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    pub(crate) fn let_go(&mut self) {
        self.held = false;
    }

    pub(crate) fn are_held(&self) -> bool {
        self.held
    }

    pub(crate) fn count(&self) -> usize {
        self.under_way.len()
    }

    /// Whether a transfer may keep a page of `range` locked.
    pub(crate) fn touch(&self, range: &Range<u64>) -> bool {
        self.under_way.iter().any(|entry| entry.pages.start < range.end && range.start < entry.pages.end)
    }

    /// What is left of `pieces` once the pages of transfers are gone around; pages of writes come last, by themselves.
    pub(crate) fn pieces(&self, pieces: &[Piece]) -> Vec<Piece> {
        let mut locked: Vec<&Range<u64>> = self.under_way.iter().map(|entry| &entry.pages).collect();
        locked.sort_unstable_by_key(|pages| pages.start);
        let mut result = Vec::with_capacity(pieces.len());
        for Piece { range, .. } in pieces.iter().filter(|piece| !piece.may_be_locked) {
            let mut cursor = range.start;
            for pages in &locked {
                if pages.start > cursor {
                    result.push(Piece { range: cursor..pages.start.min(range.end), may_be_locked: false });
                }
                cursor = cursor.max(pages.end);
                if cursor >= range.end {
                    break;
                }
            }
            if cursor < range.end {
                result.push(Piece { range: cursor..range.end, may_be_locked: false });
            }
        }
        result.retain(|piece| !piece.range.is_empty());
        let before = pieces.iter().filter(|piece| piece.may_be_locked).map(|piece| &piece.range);
        let now = self.under_way.iter().filter(|entry| entry.write).map(|entry| &entry.pages);
        let inside = |pages: &Range<u64>| pieces.iter().any(|piece| piece.range.contains(&pages.start));
        let mut of_writes: Vec<Range<u64>> = before.chain(now).filter(|pages| inside(pages)).cloned().collect();
        of_writes.sort_unstable_by_key(|pages| pages.start);
        of_writes.dedup();
        result.extend(of_writes.into_iter().map(|range| Piece { range, may_be_locked: true }));
        result
    }

    fn begin(&mut self, pages: Range<u64>, write: bool) -> u64 {
        self.last += 1;
        self.under_way.push(Entry { number: self.last, pages, write });
        self.last
    }

    fn end(&mut self, number: u64) {
        self.under_way.retain(|entry| entry.number != number);
    }

    /// Ends one whose answer is about to reach the kernel.
    fn answer(&mut self, number: u64) {
        let Some(at) = self.under_way.iter().position(|entry| entry.number == number) else { return };
        let Entry { pages, write, .. } = self.under_way.swap_remove(at);
        if write {
            self.refilled.clear();
            self.emptied = false;
        } else {
            self.note_refilled(pages);
        }
    }
}

/// A transfer under way; over when dropped.
#[derive(Debug)]
pub(crate) struct Transfer {
    node: Arc<Node>,
    number: Option<u64>,
}

impl Transfer {
    pub(crate) fn read(node: &Arc<Node>, offset: u64, length: u64) -> Self {
        Self::begin(node, whole_pages(offset..offset.saturating_add(length)), false)
    }

    pub(crate) fn write(node: &Arc<Node>, offset: u64, length: u64) -> Self {
        let last = offset.saturating_add(length).saturating_sub(1) / PAGE * PAGE;
        Self::begin(node, last..last.saturating_add(PAGE), true)
    }

    fn begin(node: &Arc<Node>, pages: Range<u64>, write: bool) -> Self {
        let number = node.lock().transfers_mut().begin(pages, write);
        Transfer { node: Arc::clone(node), number: Some(number) }
    }

    /// It is answered now; `state` is its node's. The kernel may cache what it carries.
    pub(crate) fn answered(&mut self, state: &mut NodeState) {
        if let Some(number) = self.number.take() {
            state.transfers_mut().answer(number);
        }
        state.note_pages();
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(number) = self.number.take() {
            self.node.lock().transfers_mut().end(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole() -> Vec<Piece> {
        vec![Piece { range: WHOLE, may_be_locked: false }]
    }

    fn transfer(state: &mut Transfers, page: u64, write: bool) {
        let number = state.begin(page * PAGE..(page + 1) * PAGE, write);
        state.answer(number);
    }

    #[test]
    fn a_write_is_overtaken_by_what_was_read_since_an_emptying() {
        let mut state = Transfers::default();
        let page = |page: u64| page * PAGE..(page + 1) * PAGE;
        transfer(&mut state, 1, false);
        assert!(state.overtaken(&page(1), false).is_empty(), "the kernel put the write into the page that it had read");
        assert_eq!(state.overtaken(&page(1), true), [page(1)], "it had emptied the page itself");
        state.note_emptied();
        assert!(state.overtaken(&page(1), false).is_empty(), "nothing is there");
        transfer(&mut state, 1, false);
        let before = state.overtakings();
        assert!(state.overtaken(&page(2), false).is_empty());
        assert_eq!((state.overtaken(&page(1), false), state.overtakings()), (vec![page(1)], before + 1));
        transfer(&mut state, 1, true);
        transfer(&mut state, 1, false);
        assert!(state.overtaken(&page(1), false).is_empty(), "no other write was under way since");
    }

    #[test]
    fn many_ranges_are_noted_as_one() {
        let mut state = Transfers::default();
        state.note_emptied();
        for page in 0..100 {
            transfer(&mut state, 3 * page, false);
        }
        assert!(state.refilled.len() <= REFILLS_MAX);
        let stale = state.overtaken(&WHOLE, false);
        assert!((0..100).all(|page| stale.iter().any(|range| range.contains(&(3 * page * PAGE)))));
    }

    #[test]
    fn an_idle_file_is_emptied_at_once() {
        assert_eq!(Transfers::default().pieces(&whole()), whole());
    }

    proptest! {
        /// Every page is emptied or belongs to a read; none that may be locked is in a piece with others.
        #[test]
        fn pieces_go_around_what_is_locked(
            transfers in prop::collection::vec((0..40u64, 1..6u64, any::<bool>()), 0..12),
            probes in prop::collection::vec(0..60u64, 20),
        ) {
            let mut state = Transfers::default();
            for (page, count, write) in &transfers {
                let pages = if *write { page * PAGE..(page + 1) * PAGE } else { page * PAGE..(page + count) * PAGE };
                state.begin(pages, *write);
            }
            let first = state.pieces(&whole());
            // Again over what is left, as after an emptying that got stuck.
            for pieces in [first.clone(), state.pieces(&first)] {
                for piece in pieces.iter().filter(|piece| !piece.may_be_locked) {
                    prop_assert!(!state.touch(&piece.range), "{piece:?}");
                }
                for page in &probes {
                    let at = page * PAGE;
                    let emptied = pieces.iter().any(|piece| piece.range.contains(&at));
                    let read = state.under_way.iter().any(|entry| !entry.write && entry.pages.contains(&at));
                    prop_assert!(emptied || read, "page {page}");
                }
            }
        }
    }
}
