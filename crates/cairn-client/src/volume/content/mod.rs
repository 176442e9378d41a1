//! What is in files: opening, reading and writing them, flushing and syncing, changes of content at the server, and letting go
//! of a file that nobody can reach any more.
//!
//! It stands on [`Remote`], and knows neither names nor fetching ahead: what follows from a read, whoever asked for the read
//! is told ([`Planned`]).
//!
//! Invariants:
//!
//! - A byte is answered only if the lease under which its place was found held from the plan of the read to its answer.
//! - A write is taken only with room for it reserved, so that its flush does not fail for want of it.
//! - The errors of lost writes are told to every handle once.

mod changes;
mod files;
mod handles;
mod ranges;
mod read;
mod sync;
mod write;

use std::sync::Arc;

use cairn_types::{LeaseMode, Timestamp};

use self::handles::OpenFiles;
pub(super) use self::read::Planned;
use super::locks::Locks;
use super::remote::Remote;
use super::space::Space;
use crate::cache::fetch::{Blocks, FetchContext};
use crate::node::Node;
use crate::writeback::{WriteBack, WriteBuffer};

/// `relatime`: an access time older than this is renewed in any case.
const ACCESS_TIME_AGE: i64 = 24 * 60 * 60;

/// Which reads leave access times alone, although the mount could change them.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessTimes {
    /// None is changed.
    pub never: bool,
    /// None of a directory is changed.
    pub not_of_directories: bool,
}

/// What files hold, as far as it is known here or still on its way.
pub(super) struct Content {
    remote: Arc<Remote>,
    space: Arc<Space>,
    locks: Arc<Locks>,
    blocks: Arc<Blocks>,
    buffer: Arc<WriteBuffer>,
    writeback: Arc<WriteBack>,
    access_times: AccessTimes,
    fetching: FetchContext,
    files: OpenFiles,
}

impl Content {
    pub(super) fn new(
        remote: Arc<Remote>,
        space: Arc<Space>,
        locks: Arc<Locks>,
        blocks: Arc<Blocks>,
        buffer: Arc<WriteBuffer>,
        writeback: Arc<WriteBack>,
        access_times: AccessTimes,
    ) -> Self {
        let fetching = remote.fetching();
        Content { remote, space, locks, blocks, buffer, writeback, access_times, fetching, files: OpenFiles::default() }
    }

    /// A number for a handle of something else: it is that of no file.
    pub(crate) fn handle_number(&self) -> u64 {
        self.files.number()
    }

    /// A program has read the node: its access time may have to change (`relatime`).
    pub(crate) fn note_access(&self, node: &Node) {
        if self.access_times.never {
            return;
        }
        let mut state = node.lock();
        if self.access_times.not_of_directories && state.directory().is_some() {
            return;
        }
        if state.access_time().is_some() || !state.holds(LeaseMode::Exclusive) {
            return;
        }
        let Some(attr) = state.view() else { return };
        if attr.atime > attr.mtime && attr.atime > attr.ctime {
            let now = Timestamp::now();
            if now.secs - attr.atime.secs < ACCESS_TIME_AGE {
                return;
            }
        }
        state.set_access_time(Timestamp::now());
        drop(state);
        self.writeback.note_access(node.ino);
    }
}
