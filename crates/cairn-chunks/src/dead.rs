//! The dead ranges of one pack: which bytes no live record uses any more, neighbours joined.
//!
//! Kept in memory alone and only for what was freed since the store was opened: space whose neighbours died before
//! that comes back when the pack is compacted. A range takes about 12 bytes.

use std::collections::BTreeMap;

use crate::format::RECORD_ALIGN;

/// Unit in which file systems give space back, in bytes.
const PUNCH_ALIGN: u64 = 4096;

/// A set of byte ranges of a pack, all at multiples of 8 bytes.
#[derive(Debug, Default)]
pub(crate) struct DeadRanges {
    /// Start to end, in units of 8 bytes; disjoint and not touching.
    ranges: BTreeMap<u32, u32>,
    /// Sum of the ranges' lengths, in units of 8 bytes.
    total: u64,
}

/// Largest offset that a range can reach, in bytes.
pub(crate) const OFFSET_MAX: u64 = u32::MAX as u64 * RECORD_ALIGN;

impl DeadRanges {
    /// Adds `start..end` (bytes, multiples of 8, below [`OFFSET_MAX`]) and gives back the part of the joined range that
    /// can be punched now and could not be before, if any: whole units of 4 KiB.
    pub(crate) fn add(&mut self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (new_start, new_end) = ((start / RECORD_ALIGN) as u32, (end / RECORD_ALIGN) as u32);
        let (mut joined_start, mut joined_end) = (new_start, new_end);
        while let Some((&old_start, &old_end)) = self.ranges.range(..=joined_end).next_back() {
            if old_end < joined_start {
                break;
            }
            if old_start <= new_start && old_end >= new_end {
                return None;
            }
            self.ranges.remove(&old_start);
            self.total -= u64::from(old_end - old_start);
            joined_start = joined_start.min(old_start);
            joined_end = joined_end.max(old_end);
        }
        self.ranges.insert(joined_start, joined_end);
        self.total += u64::from(joined_end - joined_start);

        let first = (u64::from(joined_start) * RECORD_ALIGN).next_multiple_of(PUNCH_ALIGN);
        let last = u64::from(joined_end) * RECORD_ALIGN / PUNCH_ALIGN * PUNCH_ALIGN;
        let punch_start = first.max(start / PUNCH_ALIGN * PUNCH_ALIGN);
        let punch_end = last.min(end.next_multiple_of(PUNCH_ALIGN));
        (punch_start < punch_end).then_some((punch_start, punch_end))
    }

    /// Whether any byte of `start..end` is dead.
    pub(crate) fn touches(&self, start: u64, end: u64) -> bool {
        let last = self.ranges.range(..(end.div_ceil(RECORD_ALIGN).min(u64::from(u32::MAX)) as u32)).next_back();
        last.is_some_and(|(_, &dead_end)| u64::from(dead_end) * RECORD_ALIGN > start)
    }

    /// All dead bytes.
    pub(crate) fn total(&self) -> u64 {
        self.total * RECORD_ALIGN
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against an array of flags: totals and queries agree, what is punched is dead, and in the end every whole
        /// dead unit has been punched.
        #[test]
        fn agrees_with_a_map_of_flags(ranges in prop::collection::vec((0..4096u64, 1..1500u64), 1..30)) {
            let mut dead = DeadRanges::default();
            let mut flags = vec![false; 6000];
            let mut punched = vec![false; 6000];
            for (start, length) in ranges {
                let end = start + length;
                flags[start as usize..end as usize].fill(true);
                if let Some((from, to)) = dead.add(start * 8, end * 8) {
                    prop_assert_eq!((from % 4096, to % 4096), (0, 0));
                    let units = (from / 8) as usize..(to / 8) as usize;
                    prop_assert!(flags[units.clone()].iter().all(|&flag| flag));
                    punched[units].fill(true);
                }
                prop_assert_eq!(dead.total(), 8 * flags.iter().filter(|&&flag| flag).count() as u64);
            }
            for at in (0..5990).step_by(7) {
                prop_assert_eq!(dead.touches(at * 8, at * 8 + 64), flags[at as usize..at as usize + 8].contains(&true));
            }
            for (flags, punched) in flags.chunks_exact(512).zip(punched.chunks_exact(512)) {
                prop_assert_eq!(flags.iter().all(|&flag| flag), punched.iter().all(|&flag| flag));
            }
        }
    }
}
