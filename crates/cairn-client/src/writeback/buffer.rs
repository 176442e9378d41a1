//! What is buffered of files: taking note of it when the server has it, and of what is lost.

use std::sync::Arc;
use std::time::Duration;

use cairn_runtime::MemoryShare;
use cairn_types::{Errno, MetaOp, OpReply, WrittenExtent};
use tokio::runtime::Handle as Runtime;

use super::claim::FlushClaim;
use super::dirty::DirtyFiles;
use super::recovery::{Lost, Recovery};
use super::upload::Part;
use crate::error::{Error, ErrorKind, FsResult};
use crate::node::{FileState, Life, Node};
use crate::node_cache::NodeCache;
use crate::overlay::FrozenChunk;
use crate::reservation::SpaceReservation;
use crate::stats::{Counters, add};
use crate::timer::sleep;

/// Most extents of one change.
const OP_EXTENTS: usize = 8192;
/// Flushes in a row that may fail although the server is there, until the content is given up.
const FAILURES_MAX: u32 = 3;
/// How long a writer waits for memory; the server gives errors sooner than this.
const SPACE_LIMIT: Duration = Duration::from_secs(120);
/// How long a file waits after a flush that failed for the time being.
const RETRY: Duration = Duration::from_secs(1);

/// The buffered content of all files. It sends nothing.
pub(crate) struct WriteBuffer {
    pub files: DirtyFiles,
    nodes: Arc<NodeCache>,
    space: Arc<SpaceReservation>,
    recovery: Recovery,
    counters: Arc<Counters>,
    runtime: Runtime,
}

impl WriteBuffer {
    /// `budget`: bytes beyond which writers wait. `delay`: how long a change may stay here.
    pub(crate) fn new(
        (budget, delay): (MemoryShare, Duration),
        nodes: Arc<NodeCache>,
        space: Arc<SpaceReservation>,
        recovery: Recovery,
        counters: Arc<Counters>,
        runtime: Runtime,
    ) -> Self {
        WriteBuffer { files: DirtyFiles::new(budget, delay), nodes, space, recovery, counters, runtime }
    }

    /// Where copies of lost content go.
    pub(crate) fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Waits until writers may go on.
    pub(crate) async fn wait_for_space(&self) -> FsResult<()> {
        self.files.wait_for_space(sleep(&self.runtime, SPACE_LIMIT)).await
    }

    /// Sees to it that a file which has something to flush is in the queue.
    pub(crate) fn requeue(&self, node: &Node) {
        let queue = node.lock().file_mut().is_some_and(|file| !file.is_clean() && file.enlist());
        if queue {
            self.files.enqueue(node);
        }
    }

    /// A flush failed for the time being: it is tried again.
    pub(crate) fn retry_later(&self, node: &Node) {
        let queue = node.lock().file_mut().is_some_and(FileState::enlist);
        if queue {
            self.files.enqueue_in(node.ino, RETRY);
        }
    }

    /// Ends the work on a file: its waiters go on, and what was written meanwhile is due in its turn.
    pub(crate) fn release_claim(&self, place: &mut Option<FlushClaim>) {
        if let Some(claim) = place.take() {
            let node = Arc::clone(&claim.node);
            drop(claim);
            self.requeue(&node);
        }
    }

    /// The changes that make a part's blobs the content of its file. The part fails if it is no longer this session's
    /// to write.
    pub(crate) fn content_ops(&self, part: &mut Part) -> Vec<MetaOp> {
        if part.outcome.is_err() {
            return Vec::new();
        }
        let state = part.node.lock();
        match (state.file(), state.attr()) {
            (Some(file), Some(attr)) if state.lease().epoch() == part.epoch => {
                let (mtime, time) = file.times_over(attr);
                let ino = part.node.ino;
                let size = self.end_of(&part.chunks);
                let write =
                    |extents: &[WrittenExtent]| MetaOp::Write { ino, extents: extents.to_vec(), size, mtime, time };
                part.extents.chunks(OP_EXTENTS).map(write).collect()
            }
            _ => {
                part.outcome = Err(Error::FENCED);
                Vec::new()
            }
        }
    }

    /// File offset behind the last byte of these chunks.
    fn end_of(&self, chunks: &[FrozenChunk]) -> u64 {
        chunks
            .iter()
            .filter_map(|chunk| {
                let last = chunk.segments.last()?;
                let start = u64::from(chunk.chunk) * u64::from(self.nodes.chunk_size());
                Some(start + u64::from(last.offset) + last.data.len() as u64)
            })
            .max()
            .unwrap_or(0)
    }

    /// The server has made `part` its own.
    pub(crate) fn applied(&self, part: &Part, replies: &[OpReply]) {
        let mut state = part.node.lock();
        if state.lease().epoch() != part.epoch {
            return;
        }
        let charged_before = self.space.charged(state.attr());
        let said = replies.iter().flat_map(|reply| &reply.attrs).filter(|attr| attr.ino == part.node.ino);
        let chunk_size = self.nodes.chunk_size();
        let chunks = part.chunks.iter().map(|chunk| chunk.chunk);
        let Some((before, after)) = state.content_applied(said, &part.extents, chunks, chunk_size) else { return };
        self.files.adjust(before, after);
        let consumed = self.space.charged(state.attr()).saturating_sub(charged_before);
        self.space.return_unneeded(&mut state, consumed);
    }

    /// Whether a flush that failed so is tried again.
    pub(crate) fn is_passing(node: &Node, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::TryAgain
            | ErrorKind::TimedOut
            | ErrorKind::Unreachable
            | ErrorKind::OutcomeUnknown
            | ErrorKind::Closed => true,
            ErrorKind::Failed | ErrorKind::Damaged => {
                let mut state = node.lock();
                state.file_mut().is_some_and(|file| file.note_flush_failure() < FAILURES_MAX)
            }
            ErrorKind::NotFound | ErrorKind::Refused | ErrorKind::NoSpace | ErrorKind::Fenced => false,
        }
    }

    pub(crate) fn flush_failed(&self, node: &Arc<Node>, error: Error) -> FsResult<()> {
        add(&self.counters.flush_failures, 1);
        if Self::is_passing(node, &error) {
            self.retry_later(node);
            return Err(error);
        }
        let lost = self.take_lost(node);
        if let Some(lost) = lost {
            tracing::error!(ino = %node.ino, ?error, "buffered data could not be written to the volume");
            let errno = lost_write_errno(error.errno());
            node.lock().fail_writes(errno);
            self.recovery.save_in_background(vec![lost]);
            return Err(errno.into());
        }
        Ok(())
    }

    /// Takes out what is buffered of a file; `None` if there is nothing, or nobody could miss it.
    pub(crate) fn take_lost(&self, node: &Node) -> Option<Lost> {
        let mut state = node.lock();
        let unreachable = state.life() == Life::Gone;
        let name = state.place().map(|place| place.name.clone());
        let file = state.file_mut()?;
        let before = file.overlay().bytes();
        let pieces = file.take_buffered();
        file.extents_mut().clear();
        self.files.adjust(before, 0);
        self.space.return_unneeded(&mut state, 0);
        if pieces.is_empty() || unreachable { None } else { Some(Lost { ino: node.ino, name, pieces }) }
    }

    /// Saves everything that is still buffered. Number of files.
    pub(crate) async fn save_unwritten(&self) -> usize {
        let mut lost = Vec::new();
        for node in self.nodes.table.all() {
            lost.extend(self.take_lost(&node));
        }
        let count = lost.len();
        self.recovery.save(lost).await;
        count
    }
}

/// The errno for a program whose buffered writes were lost because of `errno`.
fn lost_write_errno(errno: Errno) -> Errno {
    if matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG) { errno } else { Errno::EIO }
}
