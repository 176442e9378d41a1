//! One file's content: what is buffered here, what is known of it at the server, and the flush that is under way.

use bytes::Bytes;
use cairn_types::{Attr, Timestamp};

use crate::extents::ExtentMap;
use crate::overlay::Overlay;

/// A flush of the file. There is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flush {
    Idle,
    /// It follows its writer, as long as that goes on.
    UnderWay,
    /// The same, and somebody waits for its end.
    Awaited,
}

/// Times of buffered writes that the server does not know yet.
#[derive(Clone, Copy, Debug, Default)]
struct BufferedTimes {
    /// Modification time that the next flush must carry; `None` if the server's is right.
    mtime: Option<Timestamp>,
    /// Time of the last write.
    ctime: Option<Timestamp>,
}

/// Buffered content of a file and what is known of its content at the server.
#[derive(Debug)]
pub(crate) struct FileState {
    overlay: Overlay,
    extents: ExtentMap,
    times: BufferedTimes,
    /// Bytes of the space reservation that the buffered writes use, as quota counts them.
    reserved: u64,
    flush: Flush,
    /// Flushes that were started: who compares two readings knows whether one came between.
    flushes: u64,
    /// Flushes in a row that failed although the server was there.
    failures: u32,
    /// Listed for the next round of background flushes.
    queued: bool,
    /// Changes of the content that are at the server now (truncate, allocate, copy): background flushes wait.
    content_calls: u32,
}

impl FileState {
    pub(super) fn new(chunk_size: u32) -> Self {
        FileState {
            overlay: Overlay::new(chunk_size),
            extents: ExtentMap::default(),
            times: BufferedTimes::default(),
            reserved: 0,
            flush: Flush::Idle,
            flushes: 0,
            failures: 0,
            queued: false,
            content_calls: 0,
        }
    }

    /// What is buffered.
    pub(crate) fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    pub(crate) fn overlay_mut(&mut self) -> &mut Overlay {
        &mut self.overlay
    }

    /// What is known of the content at the server.
    pub(crate) fn extents(&self) -> &ExtentMap {
        &self.extents
    }

    pub(crate) fn extents_mut(&mut self) -> &mut ExtentMap {
        &mut self.extents
    }

    /// Nothing is buffered.
    pub(crate) fn is_clean(&self) -> bool {
        self.overlay.is_clean()
    }

    /// Nothing is buffered, and no flush has to end.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_clean() && !self.is_flushing()
    }

    pub(crate) fn is_flushing(&self) -> bool {
        self.flush != Flush::Idle
    }

    /// Neither a flush nor a change of the content at the server is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_flushing() && self.content_calls == 0
    }

    /// Begins a flush; the caller has seen that there is none.
    pub(crate) fn begin_flush(&mut self) {
        debug_assert!(!self.is_flushing());
        self.flush = Flush::UnderWay;
        self.flushes += 1;
    }

    /// The flush is over; what it has not sent is for the next one.
    pub(crate) fn end_flush(&mut self) {
        self.flush = Flush::Idle;
        self.overlay.put_back();
    }

    /// Somebody waits for the end of the flush. `false` if there is none.
    pub(crate) fn await_flush(&mut self) -> bool {
        if self.is_flushing() {
            self.flush = Flush::Awaited;
        }
        self.is_flushing()
    }

    /// Whether a flush that follows its writer may take more.
    pub(crate) fn may_follow_writer(&self) -> bool {
        self.flush == Flush::UnderWay && self.content_calls == 0
    }

    /// Lists it for a background flush. `false` if it was listed already.
    pub(crate) fn enlist(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    /// Its turn in the queue has come.
    pub(crate) fn unlist(&mut self) {
        self.queued = false;
    }

    /// Notes that another flush failed although the server was there. How many in a row did.
    pub(crate) fn note_flush_failure(&mut self) -> u32 {
        self.failures += 1;
        self.failures
    }

    /// A change of the content at the server begins. Tells the flushes so far, for [`FileState::is_undisturbed_since`].
    pub(crate) fn begin_content_call(&mut self) -> u64 {
        self.content_calls += 1;
        self.flushes
    }

    pub(crate) fn end_content_call(&mut self) {
        self.content_calls = self.content_calls.saturating_sub(1);
    }

    /// No flush is under way, and none was since `flushes` were counted.
    pub(crate) fn is_undisturbed_since(&self, flushes: u64) -> bool {
        self.flushes == flushes && !self.is_flushing()
    }

    /// A program has written.
    pub(crate) fn note_written(&mut self, now: Timestamp) {
        self.times = BufferedTimes { mtime: Some(now), ctime: Some(now) };
    }

    /// An explicit modification time (`None`: the server's) takes the place of that of buffered writes, if there are any.
    pub(crate) fn supersede_mtime(&mut self, mtime: Option<Timestamp>) {
        if !self.is_clean() {
            self.times.mtime = mtime;
        }
    }

    /// Modification and change time that a flush carries, of a file with attributes `attr`.
    pub(crate) fn times_over(&self, attr: &Attr) -> (Timestamp, Timestamp) {
        (self.times.mtime.unwrap_or(attr.mtime), self.times.ctime.unwrap_or(attr.ctime))
    }

    /// Lays what is buffered over attributes that do not know of it.
    pub(super) fn show_in(&self, attr: &mut Attr) {
        attr.size = attr.size.max(self.overlay.end());
        attr.allocated += self.overlay.grown();
        self.show_times_in(attr);
    }

    fn show_times_in(&self, attr: &mut Attr) {
        if let Some(mtime) = self.times.mtime {
            attr.mtime = mtime;
        }
        if let Some(ctime) = self.times.ctime {
            attr.ctime = attr.ctime.max(ctime);
        }
    }

    /// The server has made these chunks of the flush its own. If nothing is buffered any more, `attr` (which may be ahead
    /// of the server) keeps the times of what was.
    pub(super) fn release(&mut self, chunks: impl IntoIterator<Item = u32>, attr: Option<&mut Attr>) {
        self.overlay.release(chunks);
        self.failures = 0;
        if self.is_clean() {
            if let Some(attr) = attr {
                self.show_times_in(attr);
            }
            self.times = BufferedTimes::default();
        }
    }

    /// Takes out what is buffered: file offsets and bytes, in the order to write them.
    pub(crate) fn take_buffered(&mut self) -> Vec<(u64, Bytes)> {
        self.times = BufferedTimes::default();
        self.failures = 0;
        self.overlay.take_all()
    }

    /// Bytes of the space reservation that the buffered writes use.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// The buffered writes use `bytes` of the space reservation from now on. The caller keeps the reservation's own count.
    pub(crate) fn set_reserved(&mut self, bytes: u64) {
        self.reserved = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::attr;
    use super::*;
    use crate::overlay::Freeze;

    fn time(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    #[test]
    fn a_flush_that_somebody_waits_for_does_not_follow_its_writer() {
        let mut file = FileState::new(64);
        assert!(!file.await_flush() && file.is_quiet());
        file.begin_flush();
        assert!(file.may_follow_writer() && !file.is_quiet());
        assert!(file.await_flush());
        assert!(!file.may_follow_writer() && file.is_flushing());
        file.end_flush();
        file.begin_flush();
        assert!(file.may_follow_writer(), "who waits for one flush does not wait for the next");
    }

    #[test]
    fn a_content_call_notices_a_flush_beside_it() {
        let mut file = FileState::new(64);
        let flushes = file.begin_content_call();
        assert!(file.is_undisturbed_since(flushes) && !file.is_quiet());
        file.begin_flush();
        assert!(!file.is_undisturbed_since(flushes) && !file.may_follow_writer());
        file.end_flush();
        assert!(!file.is_undisturbed_since(flushes));
        file.end_content_call();
        assert!(file.is_quiet());
    }

    #[test]
    fn times_of_writes_last_until_all_of_them_are_at_the_server() {
        let mut file = FileState::new(64);
        file.supersede_mtime(Some(time(3)));
        assert_eq!(file.times_over(&attr(1, 0)), (time(0), time(0)), "nothing is buffered");
        file.overlay_mut().write(0, 0, &[1; 64], 64);
        file.overlay_mut().write(1, 0, &[1; 10], 10);
        file.note_written(time(5));
        file.supersede_mtime(Some(time(4)));
        assert_eq!(file.times_over(&attr(1, 0)), (time(4), time(5)));
        file.overlay_mut().freeze(Freeze::All);
        file.overlay_mut().take_batch(u64::MAX);
        let mut ahead = attr(1, 0);
        file.release([0], Some(&mut ahead));
        assert_eq!((ahead.mtime, file.times_over(&attr(1, 0)).0), (time(0), time(4)));
        file.release([1], Some(&mut ahead));
        assert_eq!((ahead.mtime, ahead.ctime), (time(4), time(5)));
        assert_eq!(file.times_over(&attr(1, 0)), (time(0), time(0)));
    }
}
