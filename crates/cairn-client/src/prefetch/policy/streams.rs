//! Which bytes to fetch before they are asked for: one [`ReadAhead`] per open file.
//!
//! Arithmetic alone. A file may be read by several streams at once (threads, or the tensors of a mapped model). The
//! kernel's requests of one stream arrive out of order and may skip what it has cached, so a read belongs to the
//! stream whose furthest point is near. A stream's window doubles whenever its reader had to wait: it grows until the
//! link is full or the reader is the slower one, and takes no more memory than that.
//!
//! What is near, and how large a window may be, is measured by what the stream has read: reads at random places of a file
//! that meet by chance stay small streams, and waste little.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// First window of a stream that has read enough for it, in bytes.
const WINDOW_MIN: u64 = 512 * 1024;
/// Largest window, in bytes: fills a link of 1 GB/s at 32 ms.
pub(crate) const WINDOW_MAX: u64 = 32 * 1024 * 1024;
/// How far from the furthest point a read of the same stream may begin, in bytes.
const REORDER: u64 = 2 * 1024 * 1024;
/// The same before it is known to be a stream, only forward: random reads should not look like one.
const REORDER_UNPROVEN: u64 = 512 * 1024;
/// A read is near, and a window no larger, within this many times the bytes that the stream has read.
const REACH: u64 = 4;
/// Reads in a row that make a stream.
const STREAK: u32 = 2;
/// Streams of one open file that are told apart.
const STREAMS: usize = 8;

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// End of the furthest read, in bytes.
    reached: u64,
    /// End of what was asked for in advance.
    fetched: u64,
    window: u64,
    /// Bytes that it has read.
    read: u64,
    streak: u32,
    /// Its reader had to wait since the window was made.
    waited: bool,
    /// Its end at the end of the file was told.
    ended: bool,
    /// [`ReadAhead::clock`] of the last read.
    used: u64,
}

impl Stream {
    /// How far a read at `offset` is from where this stream is; `None` if it is another stream's.
    fn distance(&self, offset: u64) -> Option<u64> {
        let reach = self.reach();
        let near = if self.streak >= STREAK {
            let around = reach.min(REORDER);
            let highest = self.reached.max(self.fetched).saturating_add(around);
            (self.reached.saturating_sub(around)..=highest).contains(&offset)
        } else {
            (self.reached..=self.reached.saturating_add(reach.min(REORDER_UNPROVEN))).contains(&offset)
        };
        near.then(|| offset.abs_diff(self.reached))
    }

    fn reach(&self) -> u64 {
        self.read.saturating_mul(REACH)
    }

    fn outstanding(&self) -> u64 {
        self.fetched.saturating_sub(self.reached)
    }
}

#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    streams: Vec<Stream>,
    clock: u64,
    /// What the streams have outstanding, as it is counted in `total`.
    counted: u64,
    /// Bytes that all open files of the mount have asked for in advance and not read yet.
    total: Arc<AtomicU64>,
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.total.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl ReadAhead {
    /// `total`: of the mount, for its budget.
    pub(crate) fn new(total: Arc<AtomicU64>) -> Self {
        ReadAhead { streams: Vec::new(), clock: 0, counted: 0, total }
    }

    /// Notes a read and says what to fetch now, if anything. `most` bounds the stream's window, `budget` what all open
    /// files of the mount may have outstanding, both in bytes.
    pub(crate) fn note(
        &mut self,
        offset: u64,
        length: u64,
        file_size: u64,
        most: u64,
        budget: u64,
    ) -> Option<Range<u64>> {
        let others = self.total.load(Ordering::Relaxed).saturating_sub(self.counted);
        let range = self.advance(offset, length, file_size, most.min(budget.saturating_sub(others)));
        let counted = self.streams.iter().map(Stream::outstanding).sum();
        if counted >= self.counted {
            self.total.fetch_add(counted - self.counted, Ordering::Relaxed);
        } else {
            self.total.fetch_sub(self.counted - counted, Ordering::Relaxed);
        }
        self.counted = counted;
        range
    }

    fn advance(&mut self, offset: u64, length: u64, file_size: u64, most: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(length);
        self.clock += 1;
        let index = self.stream_of(offset);
        let stream = self.streams.get_mut(index)?;
        stream.used = self.clock;
        stream.reached = stream.reached.max(end);
        stream.read = stream.read.saturating_add(length);
        stream.streak = stream.streak.saturating_add(1);
        if stream.streak < STREAK {
            return None;
        }
        stream.fetched = stream.fetched.max(stream.reached);
        // More is asked for when half of the window is used up, so that the link is never idle.
        if stream.window > 0 && stream.outstanding() > stream.window / 2 {
            return None;
        }
        if stream.window == 0 || std::mem::take(&mut stream.waited) {
            stream.window = (stream.window * 2).clamp(WINDOW_MIN, WINDOW_MAX);
        }
        stream.window = stream.window.min(most.max(WINDOW_MIN)).min(stream.reach());
        let target = (stream.reached + stream.window).min(file_size);
        if target <= stream.fetched {
            return None;
        }
        let range = stream.fetched..target;
        stream.fetched = target;
        Some(range)
    }

    /// Index of the stream that a read at `offset` belongs to; a new one takes the place of the least proven.
    fn stream_of(&mut self, offset: u64) -> usize {
        let near = self.streams.iter().enumerate();
        let near = near.filter_map(|(index, stream)| stream.distance(offset).map(|distance| (distance, index)));
        if let Some((_, index)) = near.min() {
            return index;
        }
        let fresh = Stream { reached: offset, ..Stream::default() };
        if self.streams.len() < STREAMS {
            self.streams.push(fresh);
            return self.streams.len() - 1;
        }
        let least = self.streams.iter().enumerate().min_by_key(|(_, stream)| (stream.streak.min(STREAK), stream.used));
        let index = least.map_or(0, |(index, _)| index);
        if let Some(stream) = self.streams.get_mut(index) {
            *stream = fresh;
        }
        index
    }

    /// Whether the stream that was read last has now come so far that nothing is left to ask for. True once.
    pub(crate) fn take_end(&mut self, file_size: u64) -> bool {
        let clock = self.clock;
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.used == clock) else { return false };
        let at_end = stream.streak >= STREAK && stream.reached.max(stream.fetched) >= file_size;
        at_end && !std::mem::replace(&mut stream.ended, true)
    }

    /// A read at `offset` had to wait for its bytes: the window of its stream is too small.
    pub(crate) fn waited(&mut self, offset: u64) {
        let near = self.streams.iter_mut().filter_map(|stream| Some((stream.distance(offset)?, stream)));
        if let Some((_, stream)) = near.min_by_key(|(distance, _)| *distance) {
            stream.waited = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;
    const STEP: u64 = 128 * KIB;
    const SIZE: u64 = 1 << 40;

    #[test]
    fn a_window_grows_while_its_reader_waits_and_no_longer() {
        let mut ahead = ReadAhead::default();
        let mut fetched = 0;
        let mut note = |ahead: &mut ReadAhead, index: u64| {
            if let Some(range) = ahead.note(index * STEP, STEP, SIZE, u64::MAX, u64::MAX) {
                assert!(range.start >= fetched, "nothing is asked for twice");
                fetched = range.end;
            }
            fetched.saturating_sub((index + 1) * STEP)
        };
        for index in 0..400 {
            assert!(note(&mut ahead, index) <= WINDOW_MIN);
        }
        for index in 400..2000 {
            ahead.waited(index * STEP);
            note(&mut ahead, index);
        }
        assert!(note(&mut ahead, 2000) >= WINDOW_MAX / 2);
        assert!(ahead.counted <= WINDOW_MAX);
    }

    #[test]
    fn several_streams_of_one_file_are_told_apart() {
        let mut ahead = ReadAhead::default();
        let starts: Vec<u64> = (0..STREAMS as u64).map(|index| index << 30).collect();
        let mut fetched = [0; STREAMS];
        for step in 0..40 {
            for (stream, start) in starts.iter().enumerate() {
                if let Some(range) = ahead.note(start + step * STEP, STEP, SIZE, u64::MAX, u64::MAX) {
                    assert!(range.start >= *start && range.end < start + (1 << 29));
                    fetched[stream] = range.end;
                }
            }
        }
        for (stream, start) in starts.iter().enumerate() {
            assert!(fetched[stream] > start + 40 * STEP);
        }
    }

    #[test]
    fn the_open_files_of_a_mount_share_a_budget() {
        let total = Arc::new(AtomicU64::new(0));
        let budget = 8 * WINDOW_MIN;
        let mut files: Vec<ReadAhead> = (0..4).map(|_| ReadAhead::new(Arc::clone(&total))).collect();
        for index in 0..400 {
            for file in &mut files {
                file.note(index * STEP, STEP, SIZE, WINDOW_MAX, budget);
                file.waited(index * STEP);
            }
            // Each may have the smallest window, however many there are.
            assert!(total.load(Ordering::Relaxed) <= budget + 4 * WINDOW_MIN);
        }
        assert!(total.load(Ordering::Relaxed) > 2 * WINDOW_MIN);
        drop(files);
        assert_eq!(total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn random_reads_do_not_end_a_stream() {
        let mut ahead = ReadAhead::default();
        let mut place = 1u64;
        let mut asked = 0;
        ahead.note(0, STEP, SIZE, u64::MAX, u64::MAX);
        for index in 1..100 {
            asked += u64::from(ahead.note(index * STEP, STEP, SIZE, u64::MAX, u64::MAX).is_some());
            for _ in 0..20 {
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                assert_eq!(ahead.note((1 << 41) + (place >> 20), 4 * KIB, u64::MAX, u64::MAX, u64::MAX), None);
            }
        }
        assert!(asked > 10);
    }

    #[test]
    fn reordered_requests_are_one_stream() {
        let mut ahead = ReadAhead::default();
        let order = [0, 2, 1, 4, 3, 5, 7, 6];
        let asked = order.iter().filter_map(|index| ahead.note(index * STEP, STEP, SIZE, u64::MAX, u64::MAX)).count();
        assert!(asked >= 1);
        assert_eq!(ahead.streams.len(), 1);
    }

    #[test]
    fn random_reads_fetch_next_to_nothing() {
        // In a small file they meet by chance.
        for size in [64 << 20, 1 << 30, SIZE] {
            let mut ahead = ReadAhead::default();
            let mut place = 1u64;
            let mut fetched = 0;
            for _ in 0..4000 {
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let offset = (place >> 16) % size / (4 * KIB) * (4 * KIB);
                let range = ahead.note(offset, 4 * KIB, size, u64::MAX, u64::MAX);
                fetched += range.map_or(0, |range| range.end - range.start);
                ahead.waited(offset);
            }
            assert!(fetched < 4000 * KIB, "{size}: {fetched}");
        }
    }

    #[test]
    fn nothing_beyond_the_end_is_fetched() {
        let mut ahead = ReadAhead::default();
        let size = 700 * KIB;
        for index in 0..6 {
            if let Some(range) = ahead.note(index * STEP, STEP, size, u64::MAX, u64::MAX) {
                assert!(range.end <= size && range.start < range.end);
            }
            assert_eq!(ahead.take_end(size), index == 1, "told once, when the first window reaches the end");
        }
    }

    proptest! {
        /// Whatever programs read: what is fetched ahead lies inside the file, is in no window larger than was read
        /// [`REACH`] times, and keeps to the budget, beyond which a file has its smallest windows only.
        #[test]
        fn windows_keep_to_the_budget_and_to_what_was_read(
            reads in prop::collection::vec((0u64..600, 1u64..4, any::<bool>()), 1..400),
            budget in 0u64..64,
        ) {
            let budget = budget * WINDOW_MIN;
            let size = 500 * STEP;
            let mut ahead = ReadAhead::default();
            let mut read = 0;
            for (place, steps, waited) in reads {
                let (offset, length) = (place.min(499) * STEP, steps * STEP);
                read += length;
                if let Some(range) = ahead.note(offset, length, size, WINDOW_MAX, budget) {
                    prop_assert!(range.start < range.end && range.end <= size);
                    prop_assert!(range.end - range.start <= (read * REACH).min(budget.max(WINDOW_MIN)).min(WINDOW_MAX));
                }
                prop_assert_eq!(ahead.counted, ahead.total.load(Ordering::Relaxed));
                if waited {
                    ahead.waited(offset);
                }
            }
        }
    }
}
