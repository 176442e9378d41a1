//! What is known here of one node. The table of all of them is in [`crate::table`].
//!
//! A node's state is behind one lock that is never held across an await. What was learnt from the server counts only
//! while a lease covers it: losing the lease drops it ([`NodeState::lose_lease`]). Grants and recalls may overtake one
//! another, so a grant that is not newer than the last recall (or the last voluntary return) of its node is void.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cairn_types::{Attr, Errno, ExtentList, FileKind, Ino, LeaseMode, Name, Timestamp};
use cairn_wire::message::Grant;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::directory::DirectoryCache;
use crate::extents::ExtentMap;
use crate::overlay::Overlay;
use crate::transfers::Transfers;

/// For how long after a look-up an open is expected. Without this, a file that another mount replaces between the two
/// would be gone when it is opened, and the kernel looks a name up again only once.
const OPENING_TIME: Duration = Duration::from_secs(1);

/// Buffered content of a file and what is known of its content at the server.
#[derive(Debug)]
pub(crate) struct FileState {
    pub overlay: Overlay,
    pub extents: ExtentMap,
    /// Modification time that the next flush must carry; `None` if the server's is right.
    pub pending_mtime: Option<Timestamp>,
    /// Time of the last write that is not applied yet.
    pub pending_ctime: Option<Timestamp>,
    /// Reserved room that the buffered writes use, in bytes as quota counts them.
    pub drawn: u64,
    /// A task is flushing this file.
    pub flushing: bool,
    /// Somebody waits for that flush to end.
    pub flush_awaited: bool,
    /// Listed for the next round of background flushes.
    pub queued: bool,
    /// Changes of the content that are at the server now (truncate, allocate, copy): background flushes wait.
    pub content_calls: u32,
    /// Counts flushes that were started: who compares two readings knows whether one came between.
    pub flushes: u64,
    /// Flushes in a row that failed although the server was there.
    pub failures: u32,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// Not known yet, or neither file nor directory.
    None,
    File(Box<FileState>),
    Directory(Box<DirectoryCache>),
}

/// A recall that is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingRecall {
    pub leave: LeaseMode,
    pub stamp: u64,
    /// The lease when the recall came. The server counts on it until it is answered.
    pub held: LeaseMode,
}

/// The error of buffered writes that were lost; every open handle is told once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteError {
    /// Number of the last error; 0 if there was none.
    pub sequence: u64,
    pub errno: Option<Errno>,
    /// Last one that `fsync` (which comes without a handle) has told of.
    pub told_by_fsync: u64,
}

#[derive(Debug)]
pub(crate) struct NodeState {
    /// As the server said last, with what buffered changes (`pending`) do to it; only valid under a lease.
    pub attr: Option<Attr>,
    /// Changes of this node that are buffered or on their way, content aside. While there are any, what is said of the
    /// node here is ahead of what the server says.
    pub pending: u32,
    /// The newest that the server has said meanwhile.
    behind: Option<Box<Attr>>,
    pub lease: LeaseMode,
    /// Stamp of the newest grant.
    pub stamp: u64,
    /// Stamp of the newest recall; grants up to it are void.
    pub recalled: u64,
    pub recall: Option<PendingRecall>,
    /// The recall has emptied the kernel's caches and is about to be answered: nothing may be answered from here.
    pub sealed: bool,
    /// Counts losses of the lease.
    pub epoch: u64,
    /// References that the kernel holds.
    pub references: u64,
    /// Open handles.
    pub opens: u32,
    /// The server was told (with a returned lease) that this file is open here.
    pub declared_open: bool,
    /// When the kernel was last told of this node by name: it may be about to open it.
    pub named_at: Option<Instant>,
    /// The last name is gone, and this session keeps the content because it has the file open.
    pub orphan: bool,
    /// The last name is gone, by a change of this session.
    pub removed: bool,
    /// Made by this session, which has held it exclusively ever since: nobody else can have it open.
    pub private: bool,
    /// Attributes when they were last known, of a node that the kernel refers to: what is answered when the server no
    /// longer has it (see [`NodeState::gone`]).
    pub last_attr: Option<Box<Attr>>,
    /// The kernel may hold pages of this file, all of them read or written under the present lease.
    pub pages: bool,
    pub transfers: Transfers,
    /// A name that this node had, for messages and recovery copies.
    pub name: Option<Name>,
    /// The directory in which it had that name.
    pub parent: Option<Ino>,
    /// Access time that the server has not been told yet.
    pub pending_atime: Option<Timestamp>,
    pub error: WriteError,
    pub content: Content,
}

impl NodeState {
    fn new(recalled: u64) -> Self {
        NodeState {
            attr: None,
            pending: 0,
            behind: None,
            lease: LeaseMode::None,
            stamp: 0,
            recalled,
            recall: None,
            sealed: false,
            epoch: 0,
            references: 0,
            opens: 0,
            declared_open: false,
            named_at: None,
            orphan: false,
            removed: false,
            private: false,
            last_attr: None,
            pages: false,
            transfers: Transfers::default(),
            name: None,
            parent: None,
            pending_atime: None,
            error: WriteError::default(),
            content: Content::None,
        }
    }

    /// The lease stands and is not about to be given back.
    pub(crate) fn covers(&self, mode: LeaseMode) -> bool {
        self.lease >= mode && !self.sealed
    }

    /// Attributes and content here may be used for answers, as far as this node's own state says.
    pub(crate) fn holds(&self, mode: LeaseMode) -> bool {
        self.covers(mode) && self.attr.is_some()
    }

    pub(crate) fn file(&self) -> Option<&FileState> {
        match &self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }

    pub(crate) fn file_mut(&mut self) -> Option<&mut FileState> {
        match &mut self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }

    pub(crate) fn directory(&self) -> Option<&DirectoryCache> {
        match &self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn directory_mut(&mut self) -> Option<&mut DirectoryCache> {
        match &mut self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Attributes as a program must see them: the server's, and what is buffered here on top.
    pub(crate) fn view(&self) -> Option<Attr> {
        let mut attr = self.attr?;
        if let Some(file) = self.file() {
            attr.size = attr.size.max(file.overlay.end());
            attr.allocated += file.overlay.grown();
            if let Some(mtime) = file.pending_mtime {
                attr.mtime = mtime;
            }
            if let Some(ctime) = file.pending_ctime {
                attr.ctime = attr.ctime.max(ctime);
            }
        }
        if let Some(atime) = self.pending_atime {
            attr.atime = atime;
        }
        Some(attr)
    }

    /// The server has let the node go, and this is what a program is told that still refers to it: it has a directory
    /// open or as its working directory, or a special file or an `O_PATH` descriptor, none of which the server knows of.
    pub(crate) fn gone(&self) -> Option<Attr> {
        if self.removed && !self.orphan { self.without_name() } else { None }
    }

    /// The attributes that were known last, as those of a node that has no name any more.
    pub(crate) fn without_name(&self) -> Option<Attr> {
        self.last_attr.as_deref().map(|attr| Attr { nlink: 0, ..*attr })
    }

    /// No content or access time here waits to be sent.
    pub(crate) fn is_clean(&self) -> bool {
        self.pending_atime.is_none() && self.file().is_none_or(|file| file.overlay.is_clean() && !file.flushing)
    }

    /// Takes over a lease, unless it is void. Whether it stands.
    pub(crate) fn grant(&mut self, grant: Grant) -> bool {
        // After a downgrade the server goes on naming the grant from before it: it stands for what is left.
        if self.lease > LeaseMode::None && grant.stamp == self.stamp {
            if grant.stamp > self.recalled {
                self.lease = self.lease.max(grant.mode);
            }
            return true;
        }
        if grant.stamp <= self.recalled {
            return false;
        }
        self.lease = self.lease.max(grant.mode);
        self.stamp = self.stamp.max(grant.stamp);
        self.lease > LeaseMode::None
    }

    /// Becomes a node that this session has just made, under the lease of its directory. `attr` is of version 0: the
    /// server's first word is newer.
    pub(crate) fn be_born(&mut self, attr: Attr, parent: Ino, name: &Name, chunk_size: u32) {
        self.lease = LeaseMode::Exclusive;
        self.name = Some(name.clone());
        self.parent = Some(parent);
        self.learn_attr(&Attr { version: 0, ..attr }, true, chunk_size);
        // Only a lease from birth on covers all that may have happened to it.
        self.private = true;
        if let Some(directory) = self.directory_mut() {
            directory.set_empty();
        }
    }

    /// The server has answered for one of the `pending` changes.
    pub(crate) fn change_answered(&mut self, chunk_size: u32) {
        self.pending = self.pending.saturating_sub(1);
        if self.pending == 0
            && let Some(attr) = self.behind.take()
        {
            self.learn_attr(&attr, false, chunk_size);
        }
    }

    /// Takes over what the server says of the content, although changes of other attributes are still on their way.
    pub(crate) fn learn_content(&mut self, told: &Attr) {
        if let Some(attr) = &mut self.attr {
            attr.size = told.size;
            attr.allocated = told.allocated;
        }
    }

    /// Takes over attributes from an answer. `granted`: the answer came with a lease on this node that stands.
    pub(crate) fn learn_attr(&mut self, attr: &Attr, granted: bool, chunk_size: u32) {
        if self.pending > 0 && self.attr.is_some() {
            if self.behind.as_ref().is_none_or(|behind| attr.version >= behind.version) {
                self.behind = Some(Box::new(*attr));
            }
            return;
        }
        let newer = match &self.attr {
            Some(known) => attr.version >= known.version,
            None => granted,
        };
        if newer {
            self.attr = Some(*attr);
        }
        if matches!(self.content, Content::None) {
            self.content = match attr.kind {
                FileKind::Regular => Content::File(Box::new(FileState {
                    overlay: Overlay::new(chunk_size),
                    extents: ExtentMap::default(),
                    pending_mtime: None,
                    pending_ctime: None,
                    drawn: 0,
                    flushing: false,
                    flush_awaited: false,
                    queued: false,
                    content_calls: 0,
                    flushes: 0,
                    failures: 0,
                })),
                FileKind::Directory => Content::Directory(Box::default()),
                _ => Content::None,
            };
        }
        if newer
            && attr.allocated == 0
            && let Some(file) = self.file_mut()
            && !file.flushing
        {
            file.extents.set_empty();
        }
    }

    /// Takes over extents that came along with attributes.
    pub(crate) fn learn_small_content(&mut self, attr: &Attr, content: ExtentList) {
        let current = self.pending == 0
            && self.lease > LeaseMode::None
            && self.attr.is_some_and(|known| known.version == attr.version);
        if let Some(file) = self.file_mut().filter(|file| current && !file.flushing) {
            file.extents.fill_whole(content);
        }
    }

    /// The recall is over, answered or void.
    pub(crate) fn end_recall(&mut self) {
        self.recall = None;
        self.sealed = false;
        self.transfers.let_go();
    }

    /// The server that sent the recall is gone and was not answered: all of the lease is still held, and what is buffered
    /// may need it.
    pub(crate) fn void_recall(&mut self) {
        if let Some(recall) = self.recall {
            self.lease = self.lease.max(recall.held);
            self.end_recall();
        }
    }

    /// Drops everything that a lease covered. Buffered writes stay: they are the caller's to send or to save.
    pub(crate) fn lose_lease(&mut self) {
        if self.references > 0
            && self.gone().is_none()
            && let Some(attr) = self.view()
        {
            self.last_attr = Some(Box::new(attr));
        }
        self.lease = LeaseMode::None;
        self.private = false;
        self.epoch += 1;
        self.attr = None;
        self.behind = None;
        self.pages = false;
        match &mut self.content {
            Content::File(file) => file.extents.clear(),
            Content::Directory(directory) => directory.clear(),
            Content::None => {}
        }
    }

    /// Notes that buffered writes were lost.
    pub(crate) fn fail_writes(&mut self, errno: Errno) {
        self.error.sequence += 1;
        self.error.errno = Some(errno);
    }

    /// Whether a program has this file open, or is between looking it up and opening it: then its content must outlive
    /// its last name.
    pub(crate) fn is_wanted(&self) -> bool {
        let file = matches!(self.content, Content::File(_));
        file && (self.opens > 0 || self.named_at.is_some_and(|named| named.elapsed() < OPENING_TIME))
    }

    /// Whether this node may leave the table (after its lease was given back).
    pub(crate) fn is_idle(&self) -> bool {
        self.opens == 0
            && !self.orphan
            && !self.declared_open
            && self.recall.is_none()
            && !self.sealed
            && self.is_clean()
            && self.pending == 0
            && (self.references == 0 || self.gone().is_none())
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub ino: Ino,
    state: Mutex<NodeState>,
    /// Told when a flush ends, a recall is answered, or a request begins to wait for the server.
    pub changed: Notify,
    /// Requests on this node that wait for the server.
    waiting: AtomicU32,
    /// When it was used last, in ticks of the table.
    used: AtomicU32,
}

impl Node {
    /// A node of which nothing is known but that grants up to `floor` are void.
    pub(crate) fn new(ino: Ino, floor: u64, tick: u32) -> Self {
        Node {
            ino,
            state: Mutex::new(NodeState::new(floor)),
            changed: Notify::new(),
            waiting: AtomicU32::new(0),
            used: AtomicU32::new(tick),
        }
    }

    /// Notes that it is used now.
    pub(crate) fn touch(&self, tick: u32) {
        self.used.store(tick, Ordering::Relaxed);
    }

    /// For how many ticks it was not used.
    pub(crate) fn age(&self, tick: u32) -> u32 {
        tick.wrapping_sub(self.used.load(Ordering::Relaxed))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock()
    }

    /// Counts a request that waits for the server until the guard is dropped.
    pub(crate) fn wait_for_server(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        Waiting(Arc::clone(self))
    }

    /// Whether the file is being flushed; if so, the flush ends soon however much is written meanwhile, and
    /// [`Node::changed`] tells of it.
    pub(crate) fn await_flush(&self) -> bool {
        let mut state = self.lock();
        let Some(file) = state.file_mut() else { return false };
        file.flush_awaited = file.flushing;
        file.flushing
    }

    /// How many requests wait for the server.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst) as usize
    }
}

/// See [`Node::wait_for_server`].
pub(crate) struct Waiting(Arc<Node>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(stamp: u64) -> Grant {
        Grant { ino: Ino(5), mode: LeaseMode::Exclusive, stamp }
    }

    fn attr(version: u64, size: u64) -> Attr {
        Attr {
            ino: Ino(5),
            kind: FileKind::Regular,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            allocated: size,
            atime: Timestamp::default(),
            mtime: Timestamp::default(),
            ctime: Timestamp::default(),
            btime: Timestamp::default(),
            version,
            flags: cairn_types::AttrFlags::default(),
        }
    }

    #[test]
    fn what_a_downgrade_has_left_still_stands() {
        let node = Node::new(Ino(5), 0, 0);
        let mut state = node.lock();
        assert!(state.grant(grant(7)));
        state.recalled = 9;
        state.lease = LeaseMode::Shared;
        assert!(state.grant(grant(7)));
        assert_eq!(state.lease, LeaseMode::Shared);
        state.lose_lease();
        assert!(!state.grant(grant(7)));
    }

    #[test]
    fn attributes_without_a_lease_are_not_kept_and_older_ones_do_not_win() {
        let node = Node::new(Ino(5), 0, 0);
        let mut state = node.lock();
        state.learn_attr(&attr(1, 10), false, 64);
        assert_eq!(state.attr, None);
        assert!(state.grant(grant(3)));
        state.learn_attr(&attr(2, 20), true, 64);
        state.learn_attr(&attr(1, 10), true, 64);
        assert_eq!(state.view().map(|attr| attr.size), Some(20));
        state.lose_lease();
        state.learn_attr(&attr(3, 30), false, 64);
        assert_eq!(state.view(), None);
    }

    #[test]
    fn buffered_writes_show_in_the_attributes() {
        let node = Node::new(Ino(5), 0, 0);
        let mut state = node.lock();
        state.grant(grant(3));
        state.learn_attr(&attr(2, 20), true, 64);
        let file = state.file_mut().expect("a file");
        file.overlay.write(1, 6, &[1; 10], 10);
        file.pending_mtime = Some(Timestamp { secs: 9, nanos: 0 });
        let view = state.view().expect("attributes");
        assert_eq!((view.size, view.allocated, view.mtime.secs), (80, 30, 9));
    }
}
