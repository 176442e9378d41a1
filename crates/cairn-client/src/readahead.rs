//! Which bytes to fetch before they are asked for: one [`ReadAhead`] per open file.
//!
//! Arithmetic alone. The kernel's requests of one stream arrive slightly out of order and may skip what it has cached,
//! so a read counts as sequential when it begins anywhere near the furthest point reached.

use std::ops::Range;

/// First window, in bytes.
const WINDOW_MIN: u64 = 512 * 1024;
/// Largest window, in bytes: fills a link of 1 GB/s at 16 ms.
const WINDOW_MAX: u64 = 16 * 1024 * 1024;
/// How far from the furthest point a read of the same stream may begin, in bytes.
const REORDER: u64 = 2 * 1024 * 1024;
/// Reads in a row that make a stream.
const STREAK: u32 = 2;

#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// End of the furthest read of the stream, in bytes.
    reached: u64,
    /// End of what was asked for in advance.
    fetched: u64,
    window: u64,
    streak: u32,
}

impl ReadAhead {
    /// Notes a read and says what to fetch now, if anything. `most` bounds the window, in bytes.
    pub(crate) fn note(&mut self, offset: u64, length: u64, file_size: u64, most: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(length);
        let starts_file = offset == 0 && self.reached == 0;
        let near = offset.abs_diff(self.reached) <= REORDER && (self.streak > 0 || offset >= self.reached);
        if starts_file || near {
            self.streak = self.streak.saturating_add(1);
            self.reached = self.reached.max(end);
        } else {
            *self = ReadAhead { reached: end, fetched: end, window: 0, streak: 0 };
            return None;
        }
        if self.streak < STREAK {
            return None;
        }
        self.fetched = self.fetched.max(self.reached);
        // A new window is asked for when half of the last one is used up, so that the link is never idle.
        if self.window > 0 && self.fetched - self.reached > self.window / 2 {
            return None;
        }
        self.window = (self.window * 2).clamp(WINDOW_MIN, WINDOW_MAX).min(most.max(WINDOW_MIN));
        let target = (self.reached + self.window).min(file_size);
        if target <= self.fetched {
            return None;
        }
        let range = self.fetched..target;
        self.fetched = target;
        Some(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;
    const SIZE: u64 = 1 << 40;

    #[test]
    fn a_stream_is_recognised_and_its_window_grows_to_the_limit() {
        let mut ahead = ReadAhead::default();
        let mut fetched = 0;
        for index in 0..400u64 {
            if let Some(range) = ahead.note(index * 128 * KIB, 128 * KIB, SIZE, u64::MAX) {
                assert!(range.start >= fetched, "nothing is asked for twice");
                fetched = range.end;
            }
        }
        let reached = 400 * 128 * KIB;
        assert!(fetched >= reached + WINDOW_MAX / 2 && fetched <= reached + WINDOW_MAX);
    }

    #[test]
    fn reordered_requests_are_one_stream() {
        let mut ahead = ReadAhead::default();
        let order = [0, 2, 1, 4, 3, 5, 7, 6];
        let asked = order.iter().filter_map(|index| ahead.note(index * 128 * KIB, 128 * KIB, SIZE, u64::MAX)).count();
        assert!(asked >= 1);
        assert!(ahead.streak >= 7);
    }

    #[test]
    fn random_reads_fetch_nothing() {
        let mut ahead = ReadAhead::default();
        let mut place = 1u64;
        for _ in 0..1000 {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            assert_eq!(ahead.note(place >> 24, 4 * KIB, SIZE, u64::MAX), None);
        }
    }

    #[test]
    fn nothing_beyond_the_end_is_fetched() {
        let mut ahead = ReadAhead::default();
        let size = 700 * KIB;
        for index in 0..6 {
            if let Some(range) = ahead.note(index * 128 * KIB, 128 * KIB, size, u64::MAX) {
                assert!(range.end <= size && range.start < range.end);
            }
        }
    }
}
