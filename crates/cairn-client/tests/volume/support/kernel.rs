//! What the kernel does in front of a mount: caches entries, attributes and pages for as long as it was told it may, and
//! empties those caches when told. Whatever is stale here would be stale in a real mount.

#![allow(clippy::disallowed_types, reason = "what a test notes is nested in nothing")]

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cairn_client::FsResult;
use cairn_client::Volume;
use cairn_client::api::{Caller, Entry, FileSystem, Handle, KernelCache, Lookup, WriteFlags};
use cairn_types::{Attr, AttrChange, Errno, Ino, LockOwner, Name, NewNode, RenameMode};
use parking_lot::Mutex;

const PAGE: u64 = 4096;

#[derive(Default)]
struct Caches {
    entries: HashMap<(Ino, Name), (Option<Ino>, Instant)>,
    attrs: HashMap<Ino, (Attr, Instant)>,
    pages: HashMap<Ino, BTreeMap<u64, Vec<u8>>>,
}

/// The part that the mount may empty.
#[derive(Clone, Default)]
pub(crate) struct Cache(Arc<Mutex<Caches>>);

impl KernelCache for Cache {
    fn invalidate_range(&self, ino: Ino, range: Range<u64>) {
        let mut caches = self.0.lock();
        if let Some(pages) = caches.pages.get_mut(&ino) {
            pages.retain(|page, _| !range.contains(&(page * PAGE)));
        }
        caches.attrs.remove(&ino);
    }

    fn invalidate_attr(&self, ino: Ino) -> bool {
        self.0.lock().attrs.remove(&ino);
        true
    }

    fn expire_entries(&self) {
        self.0.lock().entries.clear();
    }

    fn can_expire_entries(&self) -> bool {
        true
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("name")
}

/// A mount as programs see it. All files are in the root directory.
#[derive(Clone)]
pub(crate) struct Kernel {
    pub(crate) volume: Volume,
    cache: Cache,
}

impl Kernel {
    pub(crate) fn new(volume: Volume) -> Self {
        Kernel { volume, cache: Cache::default() }
    }

    pub(crate) fn cache(&self) -> Cache {
        self.cache.clone()
    }

    fn keep(&self, entry: &Entry, parent: Ino, of: &Name) {
        let now = Instant::now();
        let mut caches = self.cache.0.lock();
        caches.entries.insert((parent, of.clone()), (Some(entry.attr.ino), now + entry.entry_ttl));
        caches.attrs.insert(entry.attr.ino, (entry.attr, now + entry.attr_ttl));
    }

    fn forget_attr(&self, ino: Ino) {
        self.cache.0.lock().attrs.remove(&ino);
    }

    fn forget_entry(&self, parent: Ino, of: &Name) {
        self.cache.0.lock().entries.remove(&(parent, of.clone()));
    }

    pub(crate) async fn find(&self, of: &str) -> FsResult<Ino> {
        self.find_in(Ino::ROOT, of).await
    }

    pub(crate) async fn find_in(&self, parent: Ino, of: &str) -> FsResult<Ino> {
        let of = name(of);
        let cached = self.cache.0.lock().entries.get(&(parent, of.clone())).copied();
        if let Some((found, until)) = cached
            && until > Instant::now()
        {
            return found.ok_or(Errno::ENOENT.into());
        }
        match self.volume.lookup(parent, of.clone()).await? {
            Lookup::Found(entry) => {
                self.keep(&entry, parent, &of);
                Ok(entry.attr.ino)
            }
            Lookup::Absent { entry_ttl } => {
                self.cache.0.lock().entries.insert((parent, of), (None, Instant::now() + entry_ttl));
                Err(Errno::ENOENT.into())
            }
        }
    }

    pub(crate) async fn attr(&self, ino: Ino) -> FsResult<Attr> {
        let cached = self.cache.0.lock().attrs.get(&ino).copied();
        if let Some((attr, until)) = cached
            && until > Instant::now()
        {
            return Ok(attr);
        }
        let reply = self.volume.getattr(ino).await?;
        self.cache.0.lock().attrs.insert(ino, (reply.attr, Instant::now() + reply.ttl));
        Ok(reply.attr)
    }

    pub(crate) async fn stat(&self, of: &str) -> FsResult<Attr> {
        self.attr(self.find(of).await?).await
    }

    pub(crate) async fn open(&self, ino: Ino, flags: i32) -> FsResult<Handle> {
        let opened = self.volume.open(ino, flags).await?;
        if !opened.keep_cache {
            self.cache.0.lock().pages.remove(&ino);
        }
        Ok(opened.handle)
    }

    pub(crate) async fn close(&self, ino: Ino, handle: Handle) -> FsResult<()> {
        let outcome = self.volume.flush(ino, handle, LockOwner(1)).await;
        self.volume.release(ino, handle, None).await;
        outcome
    }

    pub(crate) async fn create(&self, of: &str) -> FsResult<()> {
        let of = name(of);
        let caller = Caller { umask: 0o022, ..Caller::default() };
        let flags = libc::O_RDWR | libc::O_EXCL;
        let (entry, opened) = self.volume.create(caller, Ino::ROOT, of.clone(), 0o644, flags).await?;
        self.forget_attr(Ino::ROOT);
        self.keep(&entry, Ino::ROOT, &of);
        self.close(entry.attr.ino, opened.handle).await
    }

    pub(crate) async fn make_directory(&self, of: &str) -> FsResult<Ino> {
        let of = name(of);
        let caller = Caller { umask: 0o022, ..Caller::default() };
        let entry = self.volume.make_node(caller, Ino::ROOT, of.clone(), NewNode::Directory, 0o755).await?;
        self.forget_attr(Ino::ROOT);
        self.keep(&entry, Ino::ROOT, &of);
        Ok(entry.attr.ino)
    }

    /// Reads from an open file through the page cache.
    pub(crate) async fn read_at(&self, ino: Ino, handle: Handle, offset: u64, length: u64) -> FsResult<Vec<u8>> {
        let size = self.attr(ino).await?.size;
        let end = size.min(offset + length);
        let mut data = Vec::new();
        let mut cursor = offset;
        while cursor < end {
            let page = cursor / PAGE;
            let cached = self.cache.0.lock().pages.get(&ino).and_then(|pages| pages.get(&page)).cloned();
            let content = if let Some(content) = cached {
                content
            } else {
                let pieces = self.volume.read(ino, handle, page * PAGE, PAGE as u32).await?;
                let mut content: Vec<u8> = pieces.concat();
                content.resize(PAGE as usize, 0);
                self.cache.0.lock().pages.entry(ino).or_default().insert(page, content.clone());
                content
            };
            let from = (cursor - page * PAGE) as usize;
            let to = ((end - page * PAGE) as usize).min(PAGE as usize);
            data.extend_from_slice(&content[from..to]);
            cursor = (page + 1) * PAGE;
        }
        Ok(data)
    }

    pub(crate) async fn read(&self, of: &str) -> FsResult<Vec<u8>> {
        let ino = self.find(of).await?;
        let handle = self.open(ino, libc::O_RDONLY).await?;
        let data = self.read_at(ino, handle, 0, u64::MAX / 2).await;
        self.close(ino, handle).await?;
        data
    }

    pub(crate) async fn write_at(
        &self,
        ino: Ino,
        handle: Handle,
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> FsResult<()> {
        let flags = WriteFlags { append, ..WriteFlags::default() };
        let written = self.volume.write(ino, Some(handle), offset, Bytes::copy_from_slice(data), flags).await?;
        assert_eq!(written as usize, data.len());
        let mut caches = self.cache.0.lock();
        caches.attrs.remove(&ino);
        if append {
            return Ok(());
        }
        if let Some(pages) = caches.pages.get_mut(&ino) {
            for (index, byte) in data.iter().enumerate() {
                let place = offset + index as u64;
                if let Some(page) = pages.get_mut(&(place / PAGE)) {
                    page[(place % PAGE) as usize] = *byte;
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn write(&self, of: &str, offset: u64, data: &[u8]) -> FsResult<()> {
        let ino = self.find(of).await?;
        let handle = self.open(ino, libc::O_WRONLY).await?;
        let outcome = self.write_at(ino, handle, offset, data, false).await;
        self.close(ino, handle).await.and(outcome)
    }

    pub(crate) async fn append(&self, of: &str, data: &[u8]) -> FsResult<()> {
        let ino = self.find(of).await?;
        let handle = self.open(ino, libc::O_WRONLY | libc::O_APPEND).await?;
        let outcome = self.write_at(ino, handle, 0, data, true).await;
        self.cache.0.lock().pages.remove(&ino);
        self.close(ino, handle).await.and(outcome)
    }

    pub(crate) async fn change(&self, of: &str, change: AttrChange) -> FsResult<()> {
        let ino = self.find(of).await?;
        let reply = self.volume.setattr(ino, change, None).await?;
        let mut caches = self.cache.0.lock();
        caches.attrs.insert(ino, (reply.attr, Instant::now() + reply.ttl));
        if change.size.is_some() {
            caches.pages.remove(&ino);
        }
        Ok(())
    }

    pub(crate) async fn truncate(&self, of: &str, size: u64) -> FsResult<()> {
        self.change(of, AttrChange { size: Some(size), ..AttrChange::default() }).await
    }

    pub(crate) async fn unlink(&self, of: &str) -> FsResult<()> {
        let ino = self.find(of).await?;
        self.volume.unlink(Ino::ROOT, name(of)).await?;
        self.forget_entry(Ino::ROOT, &name(of));
        self.forget_attr(Ino::ROOT);
        self.forget_attr(ino);
        Ok(())
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) -> FsResult<()> {
        let source = self.find(from).await?;
        if let Ok(target) = self.find(to).await {
            // The kernel itself does nothing when both names lead to one file.
            if target == source {
                return Ok(());
            }
            self.forget_attr(target);
        }
        self.volume.rename(Ino::ROOT, name(from), Ino::ROOT, name(to), RenameMode::Replace).await?;
        self.forget_entry(Ino::ROOT, &name(from));
        self.forget_entry(Ino::ROOT, &name(to));
        self.forget_attr(Ino::ROOT);
        self.forget_attr(source);
        Ok(())
    }

    pub(crate) async fn link(&self, from: &str, to: &str) -> FsResult<()> {
        let source = self.find(from).await?;
        let entry = self.volume.link(source, Ino::ROOT, name(to)).await?;
        self.keep(&entry, Ino::ROOT, &name(to));
        self.forget_attr(Ino::ROOT);
        Ok(())
    }

    /// All names in a directory, read in pieces of `max_bytes`.
    pub(crate) async fn list(&self, directory: Ino, max_bytes: u32, with_attributes: bool) -> FsResult<Vec<String>> {
        let handle = self.volume.open_dir(directory).await?;
        let mut names = Vec::new();
        let mut cursor = 0;
        loop {
            let entries = self.volume.read_dir(directory, handle, cursor, max_bytes, with_attributes).await?;
            let Some(last) = entries.last() else { break };
            cursor = last.cursor;
            for entry in entries {
                if let Some(known) = entry.entry {
                    assert_eq!(known.attr.ino, entry.ino);
                    self.keep(&known, directory, &Name::new(&entry.name).expect("name"));
                }
                names.push(String::from_utf8(entry.name.to_vec()).expect("text"));
            }
        }
        self.volume.release_dir(handle);
        Ok(names)
    }
}
