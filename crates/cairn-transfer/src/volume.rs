//! A tree in a volume, as source and as sink, through `cairn_client`.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_client::api::{Caller, DirEntry, Entry, FileSystem, Handle, Lookup, SeekTarget, WriteFlags};
use cairn_client::{Error, FsResult, Volume};
use cairn_types::{Attr, AttrChange, AttrFlags, Errno, FileKind, Ino, LockOwner, Name, NewNode, Timestamp, XattrMode};
use parking_lot::Mutex;
use tokio::runtime::Handle as Runtime;

use crate::content::{Digest, Hasher, hash};
use crate::item::{Content, Item, Kind, Meta, PIECE};
use crate::pump::Progress;
use crate::{Sink, Source, TransferError};

/// A folder or file of a volume. Its methods block; call them on threads that do not belong to the runtime.
pub struct VolumeTree {
    volume: Volume,
    runtime: Runtime,
    root: PathBuf,
}

/// Adds to an error of the volume what was being done to which file.
fn during<T>(outcome: Result<T, impl Into<Error>>, action: &'static str, path: &Path) -> Result<T, TransferError> {
    outcome.map_err(|error| TransferError::Volume { action, path: path.to_owned(), source: error.into() })
}

fn name_of(path: &Path) -> Result<Name, TransferError> {
    during(Name::new(path.file_name().unwrap_or_default().as_bytes()), "use the name of", path)
}

impl VolumeTree {
    /// `root`: a path below the root of the volume, of plain names alone.
    pub fn new(volume: Volume, runtime: Runtime, root: PathBuf) -> VolumeTree {
        VolumeTree { volume, runtime, root }
    }

    fn find(&self, parent: Ino, path: &Path) -> Result<Option<Attr>, TransferError> {
        let name = name_of(path)?;
        match during(self.runtime.block_on(self.volume.lookup(parent, name)), "find", path)? {
            Lookup::Found(entry) => {
                self.volume.forget(entry.attr.ino, 1);
                Ok(Some(entry.attr))
            }
            Lookup::Absent { .. } => Ok(None),
        }
    }

    /// The node at the root, if there is one.
    ///
    /// # Errors
    /// `ENOTDIR` if the way there leads through something else than folders.
    pub fn root(&self) -> Result<Option<Attr>, TransferError> {
        let mut attr = during(self.runtime.block_on(self.volume.getattr(Ino::ROOT)), "look at", &self.root)?.attr;
        let mut path = PathBuf::new();
        for name in &self.root {
            path.push(name);
            match self.find(attr.ino, &path)? {
                Some(found) => attr = found,
                None => return Ok(None),
            }
        }
        Ok(Some(attr))
    }

    fn walk(&self, path: &Path, attr: &Attr, walk: &mut Walk<'_>) -> Result<(), TransferError> {
        let meta = self.meta_of(attr, path)?;
        let kind = match walk.seen.get(&attr.ino) {
            Some(first) => Kind::HardLink(first.clone()),
            None => self.kind_of(attr, path)?,
        };
        if !attr.is_dir() && attr.nlink > 1 {
            walk.seen.entry(attr.ino).or_insert_with(|| path.to_owned());
        }
        (walk.take)(Item { path: path.to_owned(), meta, kind })?;
        if !attr.is_dir() {
            return Ok(());
        }
        let mut entries = self.runtime.block_on(list(self.volume.clone(), attr.ino));
        if let Ok(found) = &mut entries {
            found.sort_by(|a, b| a.0.cmp(&b.0));
        }
        for (name, attr) in during(entries, "list", path)? {
            let outcome = self.walk(&path.join(std::ffi::OsStr::from_bytes(&name)), &attr, walk);
            self.volume.forget(attr.ino, 1);
            outcome?;
        }
        Ok(())
    }

    fn meta_of(&self, attr: &Attr, path: &Path) -> Result<Meta, TransferError> {
        let volume = &self.volume;
        let read = async {
            let mut xattrs = Vec::new();
            for name in volume.list_xattr(attr.ino).await? {
                let value = volume.get_xattr(attr.ino, name.clone()).await?;
                xattrs.push((name.to_vec(), value.to_vec()));
            }
            FsResult::Ok(xattrs)
        };
        let some = [AttrFlags::HAS_XATTR, AttrFlags::HAS_ACL, AttrFlags::HAS_CAPABILITY];
        let xattrs = if some.iter().any(|flag| attr.flags.contains(*flag)) {
            during(self.runtime.block_on(read), "read the attributes of", path)?
        } else {
            Vec::new()
        };
        Ok(Meta { mode: attr.mode, uid: attr.uid, gid: attr.gid, atime: attr.atime, mtime: attr.mtime, xattrs })
    }

    fn kind_of(&self, attr: &Attr, path: &Path) -> Result<Kind, TransferError> {
        Ok(match attr.kind {
            FileKind::Directory => Kind::Directory,
            FileKind::Symlink => {
                let target = during(self.runtime.block_on(self.volume.readlink(attr.ino)), "read", path)?;
                Kind::Symlink(target.to_vec())
            }
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => Kind::Socket,
            FileKind::CharDevice => Kind::CharDevice(attr.rdev),
            FileKind::BlockDevice => Kind::BlockDevice(attr.rdev),
            FileKind::Regular => Kind::Regular { size: attr.size, content: self.content(attr, path.to_owned()) },
        })
    }

    /// Starts to read at once, ahead of whoever takes the pieces.
    fn content(&self, attr: &Attr, path: PathBuf) -> Box<dyn Content> {
        /// Pieces read ahead of one file.
        const AHEAD: usize = 2;
        let (send, pieces) = tokio::sync::mpsc::channel(AHEAD);
        let (volume, ino, size) = (self.volume.clone(), attr.ino, attr.size);
        self.runtime.spawn(async move {
            if let Err(source) = read_file(&volume, ino, size, &send).await {
                let _ = send.send(Err(TransferError::Volume { action: "read", path, source })).await;
            }
        });
        Box::new(Streamed { pieces })
    }
}

struct Walk<'a> {
    /// First path of each node with several names.
    seen: HashMap<Ino, PathBuf>,
    take: &'a mut dyn FnMut(Item) -> Result<(), TransferError>,
}

impl Source for VolumeTree {
    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), TransferError>) -> Result<(), TransferError> {
        let Some(attr) = self.root()? else {
            return Err(TransferError::Volume {
                action: "find",
                path: self.root.clone(),
                source: Errno::ENOENT.into(),
            });
        };
        // A single file keeps its name.
        let path =
            if attr.is_dir() { PathBuf::new() } else { self.root.file_name().map(PathBuf::from).unwrap_or_default() };
        self.walk(&path, &attr, &mut Walk { seen: HashMap::new(), take })
    }
}

/// Names and attributes, each counted as one reference.
async fn list(volume: Volume, folder: Ino) -> FsResult<Vec<(Bytes, Attr)>> {
    const AT_ONCE: u32 = 256 << 10;
    let handle = volume.open_dir(folder).await?;
    let mut found = Vec::new();
    let mut cursor = 0;
    let outcome = loop {
        match volume.read_dir(folder, handle, cursor, AT_ONCE, true).await {
            Ok(entries) if entries.is_empty() => break Ok(()),
            Ok(entries) => {
                cursor = entries.last().map_or(cursor, |entry| entry.cursor);
                let named = entries.into_iter().filter(|entry| !matches!(&*entry.name, b"." | b".."));
                if let Err(errno) = take_attributes(&volume, named, &mut found).await {
                    break Err(errno);
                }
            }
            Err(errno) => break Err(errno),
        }
    };
    volume.release_dir(handle);
    outcome.map(|()| found)
}

/// Adds the entries with their attributes, which a listing leaves out where another mount holds the node.
async fn take_attributes(
    volume: &Volume,
    entries: impl Iterator<Item = DirEntry>,
    found: &mut Vec<(Bytes, Attr)>,
) -> FsResult<()> {
    for DirEntry { name, ino, entry, .. } in entries {
        let attr = match entry {
            Some(entry) => entry.attr,
            None => match volume.getattr(ino).await {
                Ok(reply) => reply.attr,
                // Removed since it was listed.
                Err(error) if error == Errno::ENOENT || error == Errno::ESTALE => continue,
                Err(errno) => return Err(errno),
            },
        };
        found.push((name, attr));
    }
    Ok(())
}

type Piece = Result<(u64, Bytes), TransferError>;

/// Sends the data of a file, holes left out, until its end or until nobody wants more.
async fn read_file(volume: &Volume, ino: Ino, size: u64, send: &tokio::sync::mpsc::Sender<Piece>) -> FsResult<()> {
    let opened = volume.open(ino, libc::O_RDONLY).await?;
    let outcome = read_pieces(volume, ino, opened.handle, size, send).await;
    volume.release(ino, opened.handle, None).await;
    outcome
}

async fn read_pieces(
    volume: &Volume,
    ino: Ino,
    handle: Handle,
    size: u64,
    send: &tokio::sync::mpsc::Sender<Piece>,
) -> FsResult<()> {
    let mut at = 0;
    let mut data_end = 0;
    while at < size {
        if at >= data_end {
            at = match volume.seek(ino, at, SeekTarget::Data).await {
                Ok(start) => start,
                Err(error) if error == Errno::ENXIO => return Ok(()),
                Err(errno) => return Err(errno),
            };
            data_end = volume.seek(ino, at, SeekTarget::Hole).await?;
        }
        let wanted = (data_end - at).min(PIECE as u64) as u32;
        let parts = volume.read(ino, handle, at, wanted).await?;
        let bytes = if let [single] = &parts[..] { single.clone() } else { parts.concat().into() };
        if bytes.is_empty() {
            return Ok(());
        }
        let next = at + bytes.len() as u64;
        if send.send(Ok((at, bytes))).await.is_err() {
            return Ok(());
        }
        at = next;
    }
    Ok(())
}

/// Pieces that a task of the runtime reads.
struct Streamed {
    pieces: tokio::sync::mpsc::Receiver<Piece>,
}

impl Content for Streamed {
    fn next(&mut self) -> Result<Option<(u64, Bytes)>, TransferError> {
        self.pieces.blocking_recv().transpose()
    }
}

/// A folder of a volume that receives a tree. What is there already and of the same size and time is left alone.
pub struct VolumeSink {
    tree: VolumeTree,
    /// Verification wants a digest also of what is left alone.
    hash_kept: bool,
    /// Folders that are known to exist, below the root of the transfer.
    folders: Mutex<HashMap<PathBuf, Ino>>,
    /// What the folders shall look like when everything is in them.
    metas: Mutex<Vec<(PathBuf, Ino, Meta)>>,
}

impl VolumeSink {
    pub fn new(tree: VolumeTree, hash_kept: bool) -> VolumeSink {
        VolumeSink { tree, hash_kept, folders: Mutex::default(), metas: Mutex::default() }
    }

    fn caller(meta: &Meta) -> Caller {
        Caller { uid: meta.uid, gid: meta.gid, pid: std::process::id(), umask: 0 }
    }

    /// The folder at `path`, made with all above it if need be (archives need not name their folders).
    fn folder(&self, path: &Path) -> Result<Ino, TransferError> {
        if let Some(ino) = self.folders.lock().get(path) {
            return Ok(*ino);
        }
        let whole = self.tree.root.join(path);
        let ino = match (path.parent(), whole.parent()) {
            (Some(parent), _) => self.make_folder(self.folder(parent)?, &whole)?,
            // The root of the transfer: a path in the volume.
            (None, None) => Ino::ROOT,
            (None, Some(_)) => {
                let mut ino = Ino::ROOT;
                let mut here = PathBuf::new();
                for name in &whole {
                    here.push(name);
                    ino = self.make_folder(ino, &here)?;
                }
                ino
            }
        };
        self.folders.lock().insert(path.to_owned(), ino);
        Ok(ino)
    }

    fn make_folder(&self, parent: Ino, path: &Path) -> Result<Ino, TransferError> {
        let tree = &self.tree;
        let made = tree.volume.make_node(Caller::default(), parent, name_of(path)?, NewNode::Directory, 0o755);
        match tree.runtime.block_on(made) {
            Ok(entry) => Ok(self.given_back(&entry)),
            Err(error) if error == Errno::EEXIST => match tree.find(parent, path)? {
                Some(attr) if attr.is_dir() => Ok(attr.ino),
                _ => Err(TransferError::Volume {
                    action: "make the folder",
                    path: path.to_owned(),
                    source: Errno::ENOTDIR.into(),
                }),
            },
            Err(source) => Err(TransferError::Volume { action: "make the folder", path: path.to_owned(), source }),
        }
    }

    /// The number of a node whose reference is not needed: nothing but its number is used, which stays valid.
    fn given_back(&self, entry: &Entry) -> Ino {
        self.tree.volume.forget(entry.attr.ino, 1);
        entry.attr.ino
    }

    /// Removes what stands in the way of a new node, unless it is a folder.
    fn clear(&self, parent: Ino, path: &Path) -> Result<(), TransferError> {
        during(self.tree.runtime.block_on(self.tree.volume.unlink(parent, name_of(path)?)), "replace", path)
    }

    fn write(
        &self,
        parent: Ino,
        path: &Path,
        item: (&Meta, u64, Box<dyn Content>),
        progress: &Progress,
    ) -> Result<Digest, TransferError> {
        let (meta, size, mut content) = item;
        let (tree, volume) = (&self.tree, &self.tree.volume);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let created = volume.create(Self::caller(meta), parent, name_of(path)?, meta.mode, flags);
        let (entry, opened) = during(tree.runtime.block_on(created), "create", path)?;
        let ino = entry.attr.ino;
        let mut write_all = || {
            let mut hasher = Hasher::new();
            let mut end = 0;
            while let Some((offset, bytes)) = content.next()? {
                hasher.update(offset, &bytes);
                let length = bytes.len() as u64;
                let written = volume.write(ino, Some(opened.handle), offset, bytes, WriteFlags::default());
                during(tree.runtime.block_on(written), "write", path)?;
                end = offset + length;
                progress.add_bytes(length)?;
            }
            if end < size {
                let change = AttrChange { size: Some(size), ..AttrChange::default() };
                let changed = volume.setattr(ino, change, Some(opened.handle));
                during(tree.runtime.block_on(changed), "set the size of", path)?;
            }
            Ok(hasher.end(size))
        };
        let outcome = write_all();
        // What could not be written is told when the file is closed.
        let flushed = tree.runtime.block_on(volume.flush(ino, opened.handle, LockOwner(0)));
        tree.runtime.block_on(volume.release(ino, opened.handle, None));
        let outcome = outcome.and_then(|digest| during(flushed, "write", path).map(|()| digest));
        let outcome = outcome.and_then(|digest| self.set_meta(ino, path, meta).map(|()| digest));
        volume.forget(ino, 1);
        outcome
    }

    /// Attributes first, times last: the time is what says that a file is whole.
    fn set_meta(&self, ino: Ino, path: &Path, meta: &Meta) -> Result<(), TransferError> {
        let (tree, volume) = (&self.tree, &self.tree.volume);
        for (name, value) in &meta.xattrs {
            let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
            let set = volume.set_xattr(ino, name, value, XattrMode::CreateOrReplace, false);
            match tree.runtime.block_on(set) {
                // Attributes of other file systems mean nothing here.
                Ok(()) => {}
                Err(error) if error == Errno::EOPNOTSUPP => {}
                Err(errno) => return during(Err(errno), "set the attributes of", path),
            }
        }
        let change = AttrChange {
            mode: Some(meta.mode),
            uid: Some(meta.uid),
            gid: Some(meta.gid),
            atime: Some(meta.atime),
            mtime: Some(meta.mtime),
            ..AttrChange::default()
        };
        during(tree.runtime.block_on(volume.setattr(ino, change, None)), "set the attributes of", path).map(|_| ())
    }
}

/// Whether a copy that is there needs not be made again.
fn is_whole(there: &Attr, size: u64, time: Timestamp) -> bool {
    there.kind == FileKind::Regular && there.size == size && there.mtime == time
}

impl Sink for VolumeSink {
    fn directory(&self, item: Item) -> Result<(), TransferError> {
        let ino = self.folder(&item.path)?;
        self.metas.lock().push((item.path, ino, item.meta));
        Ok(())
    }

    fn put(&self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        let parent = self.folder(item.path.parent().unwrap_or(Path::new("")))?;
        let whole = self.tree.root.join(&item.path);
        let (tree, volume) = (&self.tree, &self.tree.volume);
        if let Some(there) = tree.find(parent, &whole)? {
            match item.kind {
                Kind::Regular { size, mut content } if is_whole(&there, size, item.meta.mtime) => {
                    progress.add_kept();
                    progress.add_bytes(size)?;
                    return if self.hash_kept { hash(content.as_mut(), size).map(Some) } else { Ok(None) };
                }
                _ => self.clear(parent, &whole)?,
            }
        }
        let node = match item.kind {
            Kind::Regular { size, content } => {
                return self.write(parent, &whole, (&item.meta, size, content), progress).map(Some);
            }
            Kind::HardLink(first) => {
                let folder = self.folder(first.parent().unwrap_or(Path::new("")))?;
                let first = self.tree.root.join(first);
                let Some(target) = tree.find(folder, &first)? else {
                    return during(Err(Errno::ENOENT), "link", &first);
                };
                let linked = tree.runtime.block_on(volume.link(target.ino, parent, name_of(&whole)?));
                self.given_back(&during(linked, "link", &whole)?);
                return Ok(None);
            }
            Kind::Symlink(target) => NewNode::Symlink(target.into()),
            Kind::Fifo => NewNode::Fifo,
            Kind::Socket => NewNode::Socket,
            Kind::CharDevice(device) => NewNode::CharDevice(device),
            Kind::BlockDevice(device) => NewNode::BlockDevice(device),
            Kind::Directory => NewNode::Directory,
        };
        let is_link = matches!(node, NewNode::Symlink(_));
        let made = volume.make_node(Self::caller(&item.meta), parent, name_of(&whole)?, node, item.meta.mode);
        let ino = self.given_back(&during(tree.runtime.block_on(made), "make", &whole)?);
        // Links have all permissions, whatever a source says of theirs.
        let meta = if is_link { Meta { mode: 0o777, ..item.meta } } else { item.meta };
        self.set_meta(ino, &whole, &meta)?;
        Ok(None)
    }

    fn finish(&self) -> Result<(), TransferError> {
        let mut metas = std::mem::take(&mut *self.metas.lock());
        metas.sort_by_key(|(path, ..)| std::cmp::Reverse(path.components().count()));
        for (path, ino, meta) in metas {
            self.set_meta(ino, &self.tree.root.join(path), &meta)?;
        }
        during(self.tree.runtime.block_on(self.tree.volume.sync_all()), "sync", &self.tree.root)
    }
}
