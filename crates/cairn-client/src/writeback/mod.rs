//! Sending buffered content to the server: when (here), how ([`flush`]), as blobs ([`pack`], [`upload`]), in one order with all
//! other buffered changes ([`journal`]); and what happens to content that can no longer be sent ([`recovery`]).
//!
//! A file is flushed about [`VolumeOptions::flush_delay`](crate::volume::VolumeOptions) after a change, sooner when much
//! of it is buffered, when memory runs short, and when somebody waits for it (`fsync`, a recall). When one file is due, those
//! that would be due soon go with it: files made one after the other share requests.

mod buffer;
mod claim;
mod dirty;
mod entry;
mod flush;
mod journal;
mod pack;
mod recovery;
mod send;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use cairn_locks::Mutex;
use cairn_types::Ino;
use tokio::runtime::Handle as Runtime;

pub(crate) use buffer::WriteBuffer;
pub(crate) use claim::FlushClaim;
pub(crate) use journal::{Bringing, Journal, JournalParts};
pub(crate) use recovery::Recovery;
pub(crate) use upload::Uploads;

use crate::lock_order;
use crate::node::Node;
use crate::node_cache::NodeCache;
use crate::overlay::Freeze;
use crate::session::Session;
use crate::stats::Counters;
use crate::timer::sleep;

/// Dirty bytes of one file beyond which it is flushed without delay.
pub(crate) const FLUSH_SOON: u64 = 4 * 1024 * 1024;
/// Most bytes, about, that are flushed together.
const GROUP_BYTES: u64 = 64 * 1024 * 1024;

/// Sends buffered content. Above the journal and the buffers; it knows neither operations nor recalls.
pub(crate) struct WriteBack {
    buffer: Arc<WriteBuffer>,
    journal: Arc<Journal>,
    uploads: Arc<Uploads>,
    nodes: Arc<NodeCache>,
    session: Session,
    counters: Arc<Counters>,
    runtime: Runtime,
    /// Nodes with an access time to send.
    access_times: Mutex<Vec<Ino>, lock_order::AccessTimes>,
    /// Held while access times are on their way.
    access_times_under_way: tokio::sync::Mutex<()>,
}

impl WriteBack {
    pub(crate) fn new(
        buffer: Arc<WriteBuffer>,
        journal: Arc<Journal>,
        uploads: Arc<Uploads>,
        nodes: Arc<NodeCache>,
        session: Session,
        counters: Arc<Counters>,
        runtime: Runtime,
    ) -> Self {
        let access_times = Mutex::default();
        let access_times_under_way = tokio::sync::Mutex::new(());
        WriteBack { buffer, journal, uploads, nodes, session, counters, runtime, access_times, access_times_under_way }
    }

    /// A node has an access time to send with the next round.
    pub(crate) fn note_access(&self, ino: Ino) {
        self.access_times.lock().push(ino);
    }

    /// Waits until no access time is on its way.
    pub(crate) async fn await_access_times(&self) {
        drop(self.access_times_under_way.lock().await);
    }

    /// Flushes what is due, for as long as the mount lives.
    pub(crate) async fn run(self: Arc<Self>) {
        while !self.buffer.files.is_stopped() {
            let wake = self.buffer.files.wake.notified();
            match self.buffer.files.take_due() {
                Ok(due) => self.flush_due(due),
                Err(wait) => {
                    let wait = wait.unwrap_or(Duration::from_secs(60));
                    tokio::select! {
                        () = wake => {}
                        () = sleep(&self.runtime, wait) => {}
                    }
                }
            }
        }
    }

    fn flush_due(self: &Arc<Self>, due: Vec<Ino>) {
        let mut group = Vec::new();
        let mut bytes = 0;
        for ino in due {
            let Some(node) = self.nodes.table.get(ino) else { continue };
            let size = {
                let mut state = node.lock();
                let Some(file) = state.file_mut() else { continue };
                file.unlist();
                if file.is_clean() {
                    continue;
                }
                if !file.is_quiet() {
                    file.enlist();
                    drop(state);
                    self.buffer.files.enqueue_in(ino, Duration::from_millis(100));
                    continue;
                }
                file.overlay().bytes()
            };
            bytes += size;
            group.push(node);
            if bytes >= GROUP_BYTES {
                self.spawn_flush(std::mem::take(&mut group), Freeze::All);
                bytes = 0;
            }
        }
        if !group.is_empty() {
            self.spawn_flush(group, Freeze::All);
        }
    }

    fn spawn_flush(self: &Arc<Self>, nodes: Vec<Arc<Node>>, which: Freeze) {
        let mut claimed = Vec::with_capacity(nodes.len());
        for node in nodes {
            match FlushClaim::new(&node, which) {
                Some(claim) => claimed.push(claim.following()),
                None => self.buffer.requeue(&node),
            }
        }
        if !claimed.is_empty() {
            let shared = Arc::clone(self);
            self.runtime.spawn(async move { shared.flush_claimed(claimed).await });
        }
    }

    /// Flushes a file without anybody waiting for it.
    pub(crate) fn flush_in_background(self: &Arc<Self>, node: &Arc<Node>, which: Freeze) {
        self.spawn_flush(vec![Arc::clone(node)], which);
    }
}
