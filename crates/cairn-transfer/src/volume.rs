//! A tree in a volume, as source and as sink, through `cairn_path`: with all rights, and no symbolic link is followed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::future::Future;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_client::Volume;
use cairn_client::api::FileSystem;
use cairn_locks::Mutex;
use cairn_path::{Create, Credentials, Follow, Holes, Node, OpenOptions, PathError, View};
use cairn_types::{Attr, AttrChange, AttrFlags, Errno, FileKind, Ino, NewNode, Timestamp, XattrMode};
use tokio::runtime::Handle as Runtime;

use crate::content::{Digest, Hasher, hash};
use crate::item::{Content, Item, Kind, Meta};
use crate::lock_order;
use crate::pump::Progress;
use crate::{Sink, Source, TransferError};

/// A folder or file of a volume. Its methods block; call them on threads that do not belong to the runtime.
pub struct VolumeTree {
    volume: Volume,
    runtime: Runtime,
    root: PathBuf,
}

/// Says of an error of the volume what was being done to which file of the transfer.
fn during<T>(outcome: Result<T, PathError>, action: &'static str, path: &Path) -> Result<T, TransferError> {
    outcome.map_err(|PathError { source, .. }| TransferError::Volume { action, path: path.to_owned(), source })
}

fn name_of(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

impl VolumeTree {
    /// `root`: a path below the root of the volume, of plain names alone.
    pub fn new(volume: Volume, runtime: Runtime, root: PathBuf) -> VolumeTree {
        VolumeTree { volume, runtime, root }
    }

    /// Waits for something that the volume does.
    fn wait<T>(
        &self,
        outcome: impl Future<Output = Result<T, PathError>>,
        action: &'static str,
        path: &Path,
    ) -> Result<T, TransferError> {
        during(self.runtime.block_on(outcome), action, path)
    }

    /// The whole volume.
    fn view(&self) -> Result<View<Volume>, TransferError> {
        let view = View::new(self.volume.clone(), Credentials::superuser(), self.runtime.clone());
        Ok(self.wait(view, "look at", &self.root)?.without_links())
    }

    fn find(&self, folder: &View<Volume>, path: &Path, name: &OsStr) -> Result<Option<Node<Volume>>, TransferError> {
        match self.runtime.block_on(folder.node(name, Follow::No)) {
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            found => during(found, "find", path).map(Some),
        }
    }

    /// The node at the root, if there is one.
    ///
    /// # Errors
    /// `ENOTDIR` if the way there leads through something else than folders.
    pub fn root(&self) -> Result<Option<Attr>, TransferError> {
        let found = self.find(&self.view()?, &self.root, self.root.as_os_str())?;
        Ok(found.map(|node| node.attr()))
    }

    fn item(
        &self,
        view: &View<Volume>,
        node: &Node<Volume>,
        path: &Path,
        seen: &mut HashMap<Ino, PathBuf>,
    ) -> Result<Item, TransferError> {
        let attr = node.attr();
        let meta = self.meta_of(view, node, path)?;
        let kind = match seen.get(&attr.ino) {
            Some(first) => Kind::HardLink(first.clone()),
            None => self.kind_of(view, node, path)?,
        };
        if !attr.is_dir() && attr.nlink > 1 {
            seen.entry(attr.ino).or_insert_with(|| path.to_owned());
        }
        Ok(Item { path: path.to_owned(), meta, kind })
    }

    fn meta_of(&self, view: &View<Volume>, node: &Node<Volume>, path: &Path) -> Result<Meta, TransferError> {
        let attr = node.attr();
        let some = [AttrFlags::HAS_XATTR, AttrFlags::HAS_ACL, AttrFlags::HAS_CAPABILITY];
        let xattrs = if some.iter().any(|flag| attr.flags.contains(*flag)) {
            let read = self.wait(view.xattrs(node), "read the attributes of", path)?;
            read.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
        } else {
            Vec::new()
        };
        Ok(Meta { mode: attr.mode, uid: attr.uid, gid: attr.gid, atime: attr.atime, mtime: attr.mtime, xattrs })
    }

    fn kind_of(&self, view: &View<Volume>, node: &Node<Volume>, path: &Path) -> Result<Kind, TransferError> {
        let attr = node.attr();
        Ok(match attr.kind {
            FileKind::Directory => Kind::Directory,
            FileKind::Symlink => Kind::Symlink(self.wait(view.link_target(node), "read", path)?.to_vec()),
            FileKind::Fifo => Kind::Fifo,
            FileKind::Socket => Kind::Socket,
            FileKind::CharDevice => Kind::CharDevice(attr.rdev),
            FileKind::BlockDevice => Kind::BlockDevice(attr.rdev),
            FileKind::Regular => Kind::Regular { size: attr.size, content: self.content(view, node, path.to_owned()) },
        })
    }

    /// Starts to read at once, ahead of whoever takes the pieces.
    fn content(&self, view: &View<Volume>, node: &Node<Volume>, path: PathBuf) -> Box<dyn Content> {
        /// Pieces read ahead of one file.
        const AHEAD: usize = 2;
        let (send, pieces) = tokio::sync::mpsc::channel(AHEAD);
        let (view, node) = (view.clone(), node.clone());
        self.runtime.spawn(async move {
            if let Err(error) = read_file(&view, &node, &send).await {
                let _ = send.send(during(Err(error), "read", &path)).await;
            }
        });
        Box::new(Streamed { pieces })
    }
}

impl Source for VolumeTree {
    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), TransferError>) -> Result<(), TransferError> {
        let view = self.view()?;
        let mut walk = self.wait(view.walk(&self.root), "find", &self.root)?;
        // A single file keeps its name.
        let mut single = self.root.file_name().map(PathBuf::from);
        let mut seen = HashMap::new();
        loop {
            let next = self.runtime.block_on(walk.next()).map_err(|PathError { action, path, source }| {
                let path = path.strip_prefix(&self.root).map(Path::to_owned).unwrap_or(path);
                TransferError::Volume { action, path, source }
            })?;
            let Some(found) = next else { return Ok(()) };
            let name = single.take().filter(|_| !found.node.attr().is_dir());
            take(self.item(&view, &found.node, &name.unwrap_or(found.path), &mut seen)?)?;
        }
    }
}

type Piece = Result<(u64, Bytes), TransferError>;

/// Sends the data of a file, holes left out, until its end or until nobody wants more.
async fn read_file(
    view: &View<Volume>,
    node: &Node<Volume>,
    send: &tokio::sync::mpsc::Sender<Piece>,
) -> Result<(), PathError> {
    let file = view.open_node(node, OpenOptions::default()).await?;
    let mut data = file.stream(0..node.attr().size, Holes::Skip);
    while let Some(piece) = data.next().await? {
        if send.send(Ok(piece)).await.is_err() {
            break;
        }
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
    folders: Mutex<HashMap<PathBuf, View<Volume>>, lock_order::MadeFolders>,
    /// What the folders shall look like when everything is in them.
    metas: Mutex<Vec<(PathBuf, View<Volume>, Meta)>, lock_order::LateAttributes>,
}

impl VolumeSink {
    pub fn new(tree: VolumeTree, hash_kept: bool) -> VolumeSink {
        VolumeSink { tree, hash_kept, folders: Mutex::default(), metas: Mutex::default() }
    }

    /// The folder at `path`, made with all above it if need be (archives need not name their folders).
    fn folder(&self, path: &Path) -> Result<View<Volume>, TransferError> {
        if let Some(folder) = self.folders.lock().get(path) {
            return Ok(folder.clone());
        }
        let root = &self.tree.root;
        let folder = if let Some(parent) = path.parent() {
            self.make_folder(&self.folder(parent)?, &root.join(path))?
        } else {
            // The root of the transfer: a path in the volume.
            let mut folder = self.tree.view()?;
            let mut here = PathBuf::new();
            for name in root {
                here.push(name);
                folder = self.make_folder(&folder, &here)?;
            }
            folder
        };
        self.folders.lock().insert(path.to_owned(), folder.clone());
        Ok(folder)
    }

    fn make_folder(&self, parent: &View<Volume>, path: &Path) -> Result<View<Volume>, TransferError> {
        let name = name_of(path);
        let made = async {
            match parent.make(name, NewNode::Directory, 0o755).await {
                Err(error) if error.errno() != Errno::EEXIST => Err(error),
                _ => parent.at(name).await,
            }
        };
        self.tree.wait(made, "make the folder", path)
    }

    fn write(
        &self,
        folder: &View<Volume>,
        path: &Path,
        item: (&Meta, u64, Box<dyn Content>),
        progress: &Progress,
    ) -> Result<Digest, TransferError> {
        let (meta, size, mut content) = item;
        let tree = &self.tree;
        let options = OpenOptions { create: Create::New, mode: meta.mode, ..OpenOptions::writing() };
        let made = folder.making_for(meta.uid, meta.gid);
        let file = tree.wait(made.open(name_of(path), options), "create", path)?;
        let node = file.node().clone();
        let mut write_all = || {
            let mut hasher = Hasher::new();
            let mut end = 0;
            while let Some((offset, bytes)) = content.next()? {
                hasher.update(offset, &bytes);
                let length = bytes.len() as u64;
                tree.wait(file.write(offset, bytes), "write", path)?;
                end = offset + length;
                progress.add_bytes(length)?;
            }
            if end < size {
                tree.wait(file.set_size(size), "set the size of", path)?;
            }
            Ok(hasher.end(size))
        };
        let outcome = write_all();
        // What could not be written is told when the file is closed.
        let closed = tree.wait(file.close(), "write", path);
        let outcome = outcome.and_then(|digest| closed.map(|()| digest));
        outcome.and_then(|digest| self.set_meta(folder, &node, path, meta).map(|()| digest))
    }

    /// Attributes first, times last: the time is what says that a file is whole.
    fn set_meta(
        &self,
        view: &View<Volume>,
        node: &Node<Volume>,
        path: &Path,
        meta: &Meta,
    ) -> Result<(), TransferError> {
        let action = "set the attributes of";
        for (name, value) in &meta.xattrs {
            let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
            match self.tree.runtime.block_on(view.set_xattr(node, name, value, XattrMode::CreateOrReplace)) {
                // Attributes of other file systems mean nothing here.
                Err(error) if error.errno() == Errno::EOPNOTSUPP => {}
                set => during(set, action, path)?,
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
        self.tree.wait(view.change(node, change), action, path).map(drop)
    }
}

/// Whether a copy that is there needs not be made again.
fn is_whole(there: &Attr, size: u64, time: Timestamp) -> bool {
    there.kind == FileKind::Regular && there.size == size && there.mtime == time
}

impl Sink for VolumeSink {
    fn directory(&self, item: Item) -> Result<(), TransferError> {
        let folder = self.folder(&item.path)?;
        self.metas.lock().push((item.path, folder, item.meta));
        Ok(())
    }

    fn put(&self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        let tree = &self.tree;
        let folder = self.folder(item.path.parent().unwrap_or(Path::new("")))?;
        let whole = tree.root.join(&item.path);
        let name = name_of(&whole);
        if let Some(there) = tree.find(&folder, &whole, name)? {
            match item.kind {
                Kind::Regular { size, mut content } if is_whole(&there.attr(), size, item.meta.mtime) => {
                    progress.add_kept();
                    progress.add_bytes(size)?;
                    return if self.hash_kept { hash(content.as_mut(), size).map(Some) } else { Ok(None) };
                }
                // What stands in the way is removed, unless it is a folder.
                _ => tree.wait(folder.remove(name), "replace", &whole)?,
            }
        }
        let node = match item.kind {
            Kind::Regular { size, content } => {
                return self.write(&folder, &whole, (&item.meta, size, content), progress).map(Some);
            }
            Kind::HardLink(first) => {
                let holder = self.folder(first.parent().unwrap_or(Path::new("")))?;
                let target = tree.wait(holder.node(name_of(&first), Follow::No), "link", &tree.root.join(&first))?;
                tree.wait(folder.link(&target, name), "link", &whole)?;
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
        let made = folder.making_for(item.meta.uid, item.meta.gid);
        let made = tree.wait(made.make(name, node, item.meta.mode), "make", &whole)?;
        // Links have all permissions, whatever a source says of theirs.
        let meta = if is_link { Meta { mode: 0o777, ..item.meta } } else { item.meta };
        self.set_meta(&folder, &made, &whole, &meta)?;
        Ok(None)
    }

    fn finish(&self) -> Result<(), TransferError> {
        let mut metas = std::mem::take(&mut *self.metas.lock());
        metas.sort_by_key(|(path, ..)| std::cmp::Reverse(path.components().count()));
        let tree = &self.tree;
        for (path, folder, meta) in metas {
            self.set_meta(&folder, folder.root(), &tree.root.join(path), &meta)?;
        }
        let synced = tree.runtime.block_on(tree.volume.sync_all());
        synced.map_err(|source| TransferError::Volume { action: "sync", path: tree.root.clone(), source })
    }
}
