//! A file system in memory: enough of one to drive every request of the transport, and nothing more.
//!
//! Names with a meaning: a lookup of `panic` panics, of `slow` waits 50 ms before it says that there is none, of `hang`
//! waits for ever.

#![allow(clippy::disallowed_types, reason = "what a test notes is nested in nothing")]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::FsResult;
use cairn_client::api::*;
use cairn_types::*;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub const TOTAL_BYTES: u64 = 1 << 30;

#[derive(Clone)]
pub struct MemoryFs {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    locks_changed: Notify,
    next: AtomicU64,
    ttl: Duration,
}

#[derive(Default)]
struct State {
    nodes: HashMap<Ino, Node>,
    locks: Vec<FileLock>,
    references: HashMap<Ino, u64>,
    appended: u64,
}

struct Node {
    attr: Attr,
    content: Content,
    xattrs: BTreeMap<Bytes, Bytes>,
}

enum Content {
    File(Vec<u8>),
    Directory(Directory),
    Symlink(Bytes),
    Special,
}

#[derive(Default)]
struct Directory {
    by_name: HashMap<Bytes, u64>,
    by_cursor: BTreeMap<u64, (Bytes, Ino)>,
}

impl Directory {
    fn get(&self, name: &[u8]) -> Option<Ino> {
        self.by_cursor.get(self.by_name.get(name)?).map(|(_, ino)| *ino)
    }

    fn insert(&mut self, cursor: u64, name: &Name, ino: Ino) {
        self.remove(name.as_bytes());
        let name = Bytes::from(name.clone());
        self.by_name.insert(name.clone(), cursor);
        self.by_cursor.insert(cursor, (name, ino));
    }

    fn remove(&mut self, name: &[u8]) -> Option<Ino> {
        let cursor = self.by_name.remove(name)?;
        self.by_cursor.remove(&cursor).map(|(_, ino)| ino)
    }
}

impl MemoryFs {
    /// `ttl` is given with every name and attribute.
    pub fn new(ttl: Duration) -> Self {
        let mut state = State::default();
        let content = Content::Directory(Directory::default());
        state.nodes.insert(Ino::ROOT, node(Ino::ROOT, FileKind::Directory, 0o755, Caller::default(), content));
        let shared = Shared { state: Mutex::new(state), locks_changed: Notify::new(), next: AtomicU64::new(1000), ttl };
        MemoryFs { shared: Arc::new(shared) }
    }

    /// Changes a name behind the kernel's back.
    pub fn rename_secretly(&self, from: &str, to: &str) {
        let mut state = self.shared.state.lock();
        let root = state.directory(Ino::ROOT).unwrap();
        let ino = root.remove(from.as_bytes()).unwrap();
        root.insert(self.number(), &Name::new(to.as_bytes()).unwrap(), ino);
    }

    /// Changes a file's content behind the kernel's back.
    pub fn overwrite_secretly(&self, name: &str, content: &[u8]) -> Ino {
        let mut state = self.shared.state.lock();
        let ino = state.directory(Ino::ROOT).unwrap().get(name.as_bytes()).unwrap();
        state.nodes.get_mut(&ino).unwrap().write(0, content);
        ino
    }

    /// References that the kernel holds to nodes other than the root.
    pub fn references(&self) -> u64 {
        self.shared.state.lock().references.values().sum()
    }

    /// Writes that came with the append flag.
    pub fn appended(&self) -> u64 {
        self.shared.state.lock().appended
    }

    fn number(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    fn entry(&self, state: &mut State, ino: Ino) -> FsResult<Entry> {
        let attr = state.node(ino)?.attr;
        *state.references.entry(ino).or_default() += 1;
        Ok(Entry { attr, attr_ttl: self.shared.ttl, entry_ttl: self.shared.ttl })
    }

    fn opened(&self, flags: i32) -> Opened {
        let direct_io = flags & libc::O_APPEND != 0;
        Opened { handle: Handle(self.number()), keep_cache: true, direct_io }
    }

    fn add(&self, caller: Caller, place: Option<(Ino, &Name)>, new: NewNode, mode: u32) -> FsResult<Entry> {
        let mut state = self.shared.state.lock();
        let ino = Ino(self.number());
        let (kind, content, rdev) = match new {
            NewNode::Regular => (FileKind::Regular, Content::File(Vec::new()), 0),
            NewNode::Directory => (FileKind::Directory, Content::Directory(Directory::default()), 0),
            NewNode::Symlink(target) => (FileKind::Symlink, Content::Symlink(target), 0),
            NewNode::Fifo => (FileKind::Fifo, Content::Special, 0),
            NewNode::Socket => (FileKind::Socket, Content::Special, 0),
            NewNode::CharDevice(rdev) => (FileKind::CharDevice, Content::Special, rdev),
            NewNode::BlockDevice(rdev) => (FileKind::BlockDevice, Content::Special, rdev),
        };
        let mut node = node(ino, kind, mode & !caller.umask, caller, content);
        node.attr.rdev = rdev;
        match place {
            Some((parent, name)) => {
                let directory = state.directory(parent)?;
                if directory.get(name.as_bytes()).is_some() {
                    return Err(Errno::EEXIST.into());
                }
                directory.insert(ino.0, name, ino);
            }
            None => node.attr.nlink = 0,
        }
        state.nodes.insert(ino, node);
        self.entry(&mut state, ino)
    }
}

impl State {
    fn node(&mut self, ino: Ino) -> FsResult<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Errno::ESTALE.into())
    }

    fn directory(&mut self, ino: Ino) -> FsResult<&mut Directory> {
        match &mut self.node(ino)?.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    fn file(&mut self, ino: Ino) -> FsResult<&mut Vec<u8>> {
        match &mut self.node(ino)?.content {
            Content::File(bytes) => Ok(bytes),
            _ => Err(Errno::EISDIR.into()),
        }
    }

    fn child(&mut self, parent: Ino, name: &Name) -> FsResult<Ino> {
        self.directory(parent)?.get(name.as_bytes()).ok_or(Errno::ENOENT.into())
    }

    fn conflict(&self, lock: &FileLock) -> Option<FileLock> {
        let stands_in_the_way = |held: &&FileLock| {
            held.ino == lock.ino
                && held.family == lock.family
                && held.owner != lock.owner
                && held.range.overlaps(lock.range)
                && (held.kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
        };
        self.locks.iter().find(stands_in_the_way).copied()
    }

    fn drop_locks(&mut self, ino: Ino, family: LockFamily, owner: LockOwner) {
        self.locks.retain(|held| !(held.ino == ino && held.family == family && held.owner == owner));
    }
}

impl Node {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let Content::File(bytes) = &mut self.content else { return };
        if bytes.len() < offset + data.len() {
            bytes.resize(offset + data.len(), 0);
        }
        bytes[offset..offset + data.len()].copy_from_slice(data);
        self.resized();
    }

    fn resized(&mut self) {
        if let Content::File(bytes) = &self.content {
            self.attr.size = bytes.len() as u64;
            self.attr.allocated = self.attr.size;
            self.attr.mtime = Timestamp::now();
        }
    }
}

fn node(ino: Ino, kind: FileKind, mode: u32, caller: Caller, content: Content) -> Node {
    let now = Timestamp::now();
    let attr = Attr {
        ino,
        kind,
        mode,
        nlink: 1,
        uid: caller.uid,
        gid: caller.gid,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        version: 0,
        flags: AttrFlags::default(),
    };
    Node { attr, content, xattrs: BTreeMap::new() }
}

impl FileSystem for MemoryFs {
    async fn lookup(&self, parent: Ino, name: Name) -> FsResult<Lookup> {
        match name.as_bytes() {
            b"panic" => panic!("asked for"),
            b"slow" => tokio::time::sleep(Duration::from_millis(50)).await,
            b"hang" => std::future::pending().await,
            _ => {}
        }
        let mut state = self.shared.state.lock();
        match state.child(parent, &name) {
            Ok(ino) => Ok(Lookup::Found(self.entry(&mut state, ino)?)),
            Err(error) if error == Errno::ENOENT => Ok(Lookup::Absent { entry_ttl: self.shared.ttl }),
            Err(errno) => Err(errno),
        }
    }

    fn forget(&self, ino: Ino, references: u64) {
        let mut state = self.shared.state.lock();
        if let Some(count) = state.references.get_mut(&ino) {
            *count = count.checked_sub(references).expect("more forgotten than given");
        }
    }

    async fn getattr(&self, ino: Ino) -> FsResult<AttrReply> {
        Ok(AttrReply { attr: self.shared.state.lock().node(ino)?.attr, ttl: self.shared.ttl })
    }

    async fn setattr(&self, ino: Ino, change: AttrChange, _handle: Option<Handle>) -> FsResult<AttrReply> {
        let mut state = self.shared.state.lock();
        let node = state.node(ino)?;
        if let Some(size) = change.size {
            let Content::File(bytes) = &mut node.content else { return Err(Errno::EISDIR.into()) };
            bytes.resize(size as usize, 0);
            node.resized();
        }
        let attr = &mut node.attr;
        attr.mode = change.mode.unwrap_or(attr.mode);
        if change.kill_privileges {
            attr.mode &= !0o6000;
        }
        attr.uid = change.uid.unwrap_or(attr.uid);
        attr.gid = change.gid.unwrap_or(attr.gid);
        attr.atime = change.atime.unwrap_or(attr.atime);
        attr.mtime = change.mtime.unwrap_or(attr.mtime);
        attr.ctime = Timestamp::now();
        Ok(AttrReply { attr: *attr, ttl: self.shared.ttl })
    }

    async fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        match &self.shared.state.lock().node(ino)?.content {
            Content::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    async fn make_node(&self, caller: Caller, parent: Ino, name: Name, node: NewNode, mode: u32) -> FsResult<Entry> {
        self.add(caller, Some((parent, &name)), node, mode)
    }

    async fn create(
        &self,
        caller: Caller,
        parent: Ino,
        name: Name,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        Ok((self.add(caller, Some((parent, &name)), NewNode::Regular, mode)?, self.opened(open_flags)))
    }

    async fn make_unnamed(
        &self,
        caller: Caller,
        _parent: Ino,
        mode: u32,
        open_flags: i32,
    ) -> FsResult<(Entry, Opened)> {
        Ok((self.add(caller, None, NewNode::Regular, mode)?, self.opened(open_flags)))
    }

    async fn link(&self, ino: Ino, new_parent: Ino, new_name: Name) -> FsResult<Entry> {
        let mut state = self.shared.state.lock();
        let cursor = self.number();
        state.directory(new_parent)?.insert(cursor, &new_name, ino);
        state.node(ino)?.attr.nlink += 1;
        self.entry(&mut state, ino)
    }

    async fn unlink(&self, parent: Ino, name: Name) -> FsResult<()> {
        let mut state = self.shared.state.lock();
        let ino = state.directory(parent)?.remove(name.as_bytes()).ok_or(Errno::ENOENT)?;
        state.node(ino)?.attr.nlink -= 1;
        Ok(())
    }

    async fn rmdir(&self, parent: Ino, name: Name) -> FsResult<()> {
        let mut state = self.shared.state.lock();
        let ino = state.child(parent, &name)?;
        if !state.directory(ino)?.by_name.is_empty() {
            return Err(Errno::ENOTEMPTY.into());
        }
        state.directory(parent)?.remove(name.as_bytes());
        Ok(())
    }

    async fn rename(&self, parent: Ino, name: Name, new_parent: Ino, new_name: Name, mode: RenameMode) -> FsResult<()> {
        let mut state = self.shared.state.lock();
        let ino = state.child(parent, &name)?;
        let other = state.directory(new_parent)?.get(new_name.as_bytes());
        let (from, to) = (self.number(), self.number());
        match (mode, other) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EEXIST.into()),
            (RenameMode::Exchange, None) => return Err(Errno::ENOENT.into()),
            (RenameMode::Exchange, Some(other)) => state.directory(parent)?.insert(from, &name, other),
            _ => drop(state.directory(parent)?.remove(name.as_bytes())),
        }
        state.directory(new_parent)?.insert(to, &new_name, ino);
        Ok(())
    }

    async fn open(&self, _ino: Ino, open_flags: i32) -> FsResult<Opened> {
        assert_eq!(open_flags & libc::O_TRUNC, 0);
        Ok(self.opened(open_flags))
    }

    async fn read(&self, ino: Ino, _handle: Handle, offset: u64, length: u32) -> FsResult<Vec<Bytes>> {
        let mut state = self.shared.state.lock();
        let bytes = state.file(ino)?;
        let start = (offset as usize).min(bytes.len());
        let end = (start + length as usize).min(bytes.len());
        Ok(bytes[start..end].chunks(64 * 1024).map(Bytes::copy_from_slice).collect())
    }

    async fn write(
        &self,
        ino: Ino,
        _handle: Option<Handle>,
        offset: u64,
        data: Bytes,
        flags: WriteFlags,
    ) -> FsResult<u32> {
        let mut state = self.shared.state.lock();
        let end = state.file(ino)?.len() as u64;
        state.appended += u64::from(flags.append);
        state.node(ino)?.write(if flags.append { end } else { offset } as usize, &data);
        if flags.kill_privileges {
            state.node(ino)?.attr.mode &= !0o6000;
        }
        Ok(data.len() as u32)
    }

    async fn flush(&self, ino: Ino, _handle: Handle, owner: LockOwner) -> FsResult<()> {
        self.shared.state.lock().drop_locks(ino, LockFamily::Posix, owner);
        self.shared.locks_changed.notify_waiters();
        Ok(())
    }

    async fn release(&self, ino: Ino, _handle: Handle, flock_owner: Option<LockOwner>) {
        if let Some(owner) = flock_owner {
            self.shared.state.lock().drop_locks(ino, LockFamily::Flock, owner);
            self.shared.locks_changed.notify_waiters();
        }
    }

    async fn fsync(&self, _ino: Ino, _data_only: bool) -> FsResult<()> {
        Ok(())
    }

    async fn sync_all(&self) -> FsResult<()> {
        Ok(())
    }

    async fn open_dir(&self, _ino: Ino) -> FsResult<Handle> {
        Ok(Handle(self.number()))
    }

    async fn read_dir(
        &self,
        ino: Ino,
        _handle: Handle,
        cursor: u64,
        max_bytes: u32,
        with_attributes: bool,
    ) -> FsResult<Vec<DirEntry>> {
        let mut state = self.shared.state.lock();
        let mut list: Vec<DirEntry> = [(1, &b"."[..]), (2, &b".."[..])]
            .into_iter()
            .filter(|(dot, _)| *dot > cursor)
            .map(|(dot, name)| DirEntry {
                name: Bytes::from_static(name),
                ino,
                kind: FileKind::Directory,
                cursor: dot,
                entry: None,
            })
            .collect();
        let after = (Bound::Excluded(cursor.max(2)), Bound::Unbounded);
        let most = max_bytes as usize / 32;
        let children: Vec<_> = state
            .directory(ino)?
            .by_cursor
            .range(after)
            .take(most)
            .map(|(at, (name, ino))| (*at, name.clone(), *ino))
            .collect();
        for (cursor, name, ino) in children {
            let kind = state.node(ino)?.attr.kind;
            let entry = if with_attributes { Some(self.entry(&mut state, ino)?) } else { None };
            list.push(DirEntry { name, ino, kind, cursor, entry });
        }
        Ok(list)
    }

    fn release_dir(&self, _handle: Handle) {}

    async fn get_xattr(&self, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        self.shared.state.lock().node(ino)?.xattrs.get(&name).cloned().ok_or(Errno::ENODATA.into())
    }

    async fn list_xattr(&self, ino: Ino) -> FsResult<Vec<Bytes>> {
        Ok(self.shared.state.lock().node(ino)?.xattrs.keys().cloned().collect())
    }

    async fn set_xattr(
        &self,
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
        _clear_set_gid: bool,
    ) -> FsResult<()> {
        let mut state = self.shared.state.lock();
        let xattrs = &mut state.node(ino)?.xattrs;
        match (mode, xattrs.contains_key(&name)) {
            (XattrMode::Create, true) => Err(Errno::EEXIST.into()),
            (XattrMode::Replace, false) => Err(Errno::ENODATA.into()),
            _ => {
                xattrs.insert(name, value);
                Ok(())
            }
        }
    }

    async fn remove_xattr(&self, ino: Ino, name: Bytes) -> FsResult<()> {
        self.shared.state.lock().node(ino)?.xattrs.remove(&name).map(drop).ok_or(Errno::ENODATA.into())
    }

    async fn allocate(
        &self,
        ino: Ino,
        _handle: Option<Handle>,
        mode: AllocateMode,
        offset: u64,
        length: u64,
        _kill_privileges: bool,
    ) -> FsResult<()> {
        let mut state = self.shared.state.lock();
        let (start, end) = (offset as usize, (offset + length) as usize);
        let bytes = state.file(ino)?;
        match mode {
            AllocateMode::Reserve { keep_size: false } | AllocateMode::Zero { keep_size: false }
                if bytes.len() < end =>
            {
                bytes.resize(end, 0);
            }
            _ => {}
        }
        let end = end.min(bytes.len());
        if !matches!(mode, AllocateMode::Reserve { .. }) && start < end {
            bytes[start..end].fill(0);
        }
        state.node(ino)?.resized();
        Ok(())
    }

    async fn copy_range(
        &self,
        source: Ino,
        source_offset: u64,
        target: CopyTarget,
        length: u64,
        _kill_privileges: bool,
    ) -> FsResult<u64> {
        let CopyTarget { ino: target, offset: target_offset, .. } = target;
        let mut state = self.shared.state.lock();
        let bytes = state.file(source)?;
        let start = (source_offset as usize).min(bytes.len());
        let end = (source_offset.saturating_add(length) as usize).min(bytes.len());
        let copied = bytes[start..end].to_vec();
        state.node(target)?.write(target_offset as usize, &copied);
        Ok(copied.len() as u64)
    }

    async fn seek(&self, ino: Ino, offset: u64, target: SeekTarget) -> FsResult<u64> {
        let size = self.shared.state.lock().file(ino)?.len() as u64;
        match target {
            _ if offset >= size => Err(Errno::ENXIO.into()),
            SeekTarget::Data => Ok(offset),
            SeekTarget::Hole => Ok(size),
        }
    }

    async fn stat_fs(&self) -> FsResult<VolumeUsage> {
        let mut state = self.shared.state.lock();
        let used: u64 = state.nodes.values_mut().map(|node| node.attr.charged(cairn_types::Allocation::NATIVE)).sum();
        Ok(VolumeUsage {
            bytes_total: TOTAL_BYTES,
            bytes_free: TOTAL_BYTES - used,
            inodes_total: 1000,
            inodes_free: 1000 - state.nodes.len().min(1000) as u64,
        })
    }

    async fn test_lock(&self, lock: FileLock) -> FsResult<Option<FileLock>> {
        Ok(self.shared.state.lock().conflict(&lock))
    }

    async fn set_lock(&self, lock: FileLock, wait: bool) -> FsResult<()> {
        loop {
            let changed = self.shared.locks_changed.notified();
            {
                let mut state = self.shared.state.lock();
                if lock.kind == LockKind::Unlock || state.conflict(&lock).is_none() {
                    state.drop_locks(lock.ino, lock.family, lock.owner);
                    if lock.kind == LockKind::Unlock {
                        self.shared.locks_changed.notify_waiters();
                    } else {
                        state.locks.push(lock);
                    }
                    return Ok(());
                }
            }
            if !wait {
                return Err(Errno::EAGAIN.into());
            }
            changed.await;
        }
    }
}
