//! Open files: opened by path with the user's rights, read and written from then on without asking again, as through a
//! descriptor.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_client::FsResult;
use cairn_client::api::{FileSystem, Handle, SeekTarget, WriteFlags};
use cairn_runtime::spawn_inline;
use cairn_types::{Attr, AttrChange, Errno, FileKind, LockOwner};
use tokio::runtime::Handle as Runtime;

use crate::access::{self, Access};
use crate::error::{Outcome, during};
use crate::resolve::Resolved;
use crate::{Follow, Node, View};

/// Most bytes that are read or written by one request.
pub const PIECE: u32 = 1 << 20;
/// Times that opening begins again because a file came or went in between.
const ATTEMPTS: u32 = 10;

/// How a file is opened. The default is for reading.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    pub read: bool,
    pub write: bool,
    /// Every write goes to the end of the file.
    pub append: bool,
    /// What was in it is dropped.
    pub truncate: bool,
    pub create: Create,
    /// Permissions of a file that is made, less the user's `umask`.
    pub mode: u32,
    /// Without following, a symbolic link at the end of the path is `ELOOP`.
    pub follow: Follow,
}

/// Whether a file is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    Never,
    /// `O_CREAT`: if there is none.
    IfAbsent,
    /// `O_CREAT | O_EXCL`: there must be none.
    New,
}

impl Default for OpenOptions {
    fn default() -> Self {
        OpenOptions {
            read: true,
            write: false,
            append: false,
            truncate: false,
            create: Create::Never,
            mode: 0o666,
            follow: Follow::Yes,
        }
    }
}

impl OpenOptions {
    /// For writing alone, without making a file.
    pub fn writing() -> Self {
        OpenOptions { read: false, write: true, ..OpenOptions::default() }
    }

    fn flags(&self) -> i32 {
        let access = match (self.read, self.write) {
            (_, false) => libc::O_RDONLY,
            (false, true) => libc::O_WRONLY,
            (true, true) => libc::O_RDWR,
        };
        access | if self.append { libc::O_APPEND } else { 0 }
    }

    /// What an existing file must allow.
    fn wanted(&self) -> Access {
        match (self.read, self.write || self.truncate) {
            (true, true) => Access::READ_WRITE,
            (false, true) => Access::WRITE,
            (_, false) => Access::READ,
        }
    }
}

impl<F: FileSystem> View<F> {
    /// Opens a regular file, or makes it.
    ///
    /// # Errors
    /// As `open(2)`; `EISDIR` for every directory and `EOPNOTSUPP` for what is neither.
    pub async fn open(&self, path: impl AsRef<Path>, options: OpenOptions) -> Outcome<File<F>> {
        let path = path.as_ref();
        during(self.open_or_create(path, options).await, "open", path)
    }

    /// Opens a node that was found before; nothing is made.
    ///
    /// # Errors
    /// As [`View::open`].
    pub async fn open_node(&self, node: &Node<F>, options: OpenOptions) -> Outcome<File<F>> {
        let path = Path::new("");
        during(self.open_existing(path, node.clone(), options).await, "open", path)
    }

    async fn open_or_create(&self, path: &Path, options: OpenOptions) -> FsResult<File<F>> {
        let follow = if options.create == Create::New { Follow::No } else { options.follow };
        for _ in 0..ATTEMPTS {
            let resolved = self.resolve(path, follow).await?;
            if let Some(node) = resolved.node {
                if options.create == Create::New {
                    return Err(Errno::EEXIST.into());
                }
                return self.open_existing(path, node, options).await;
            }
            if options.create == Create::Never {
                return Err(Errno::ENOENT.into());
            }
            match self.create(path, &resolved, options).await {
                Err(error) if error == Errno::EEXIST && options.create == Create::IfAbsent => {}
                outcome => return outcome,
            }
        }
        Err(Errno::EAGAIN.into())
    }

    async fn create(&self, path: &Path, place: &Resolved<F>, options: OpenOptions) -> FsResult<File<F>> {
        let Some(name) = place.name.clone().filter(|_| !place.means_directory) else {
            return Err(Errno::EISDIR.into());
        };
        self.check(&place.directory, Access::CHANGE_NAMES).await?;
        let mode = access::mode_of_new(&self.who, &place.directory.attr(), options.mode);
        let flags = options.flags() | libc::O_CREAT | libc::O_EXCL;
        let (entry, opened) = self.fs.create(self.caller(), place.directory.ino(), name, mode, flags).await?;
        Ok(self.file(path, Node::counted(&self.fs, &entry), opened.handle, options))
    }

    async fn open_existing(&self, path: &Path, node: Node<F>, options: OpenOptions) -> FsResult<File<F>> {
        match node.attr().kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(Errno::EISDIR.into()),
            FileKind::Symlink => return Err(Errno::ELOOP.into()),
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
        self.check(&node, options.wanted()).await?;
        let opened = self.fs.open(node.ino(), options.flags()).await?;
        let file = self.file(path, node, opened.handle, options);
        if options.truncate {
            file.change_size(0).await?;
        }
        Ok(file)
    }

    pub(crate) fn file(&self, path: &Path, node: Node<F>, handle: Handle, options: OpenOptions) -> File<F> {
        File {
            fs: self.fs.clone(),
            runtime: self.runtime.clone(),
            path: path.to_owned(),
            node,
            handle: Some(handle),
            options,
            superuser: self.who.is_superuser(),
        }
    }
}

/// An open file. [`File::close`] tells what could not be written; one that is dropped is closed without a word.
pub struct File<F: FileSystem> {
    fs: F,
    runtime: Runtime,
    /// As it was opened, for messages.
    path: PathBuf,
    node: Node<F>,
    /// `None` when it was closed.
    handle: Option<Handle>,
    options: OpenOptions,
    /// Whoever is not takes set-id bits away by writing.
    superuser: bool,
}

impl<F: FileSystem> File<F> {
    pub fn node(&self) -> &Node<F> {
        &self.node
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The attributes as they are now.
    ///
    /// # Errors
    /// What looking at the file gives.
    pub async fn stat(&self) -> Outcome<Attr> {
        let outcome = self.fs.getattr(self.node.ino()).await.map(|reply| reply.attr);
        during(outcome, "look at", &self.path)
    }

    fn handle(&self, allowed: bool) -> FsResult<Handle> {
        self.handle.filter(|_| allowed).ok_or(Errno::EBADF.into())
    }

    /// The bytes at `offset`, at most `length`; fewer at the end of the file and where `length` exceeds [`PIECE`].
    ///
    /// # Errors
    /// `EBADF` if it is not open for reading; `EIO` for damage.
    pub async fn read(&self, offset: u64, length: u32) -> Outcome<Bytes> {
        let read = async {
            let handle = self.handle(self.options.read)?;
            let parts = self.fs.read(self.node.ino(), handle, offset, length.min(PIECE)).await?;
            Ok(if let [single] = parts.as_slice() { single.clone() } else { parts.concat().into() })
        };
        during(read.await, "read", &self.path)
    }

    /// The bytes of `range`, piece by piece, up to the end of the file.
    pub fn stream(&self, range: Range<u64>, holes: Holes) -> Stream<'_, F> {
        Stream { file: self, at: range.start, end: range.end, data_end: range.start, holes }
    }

    /// Writes all of `data` at `offset` (at the end of the file if it was opened to append). It is durable after
    /// [`File::sync`].
    ///
    /// # Errors
    /// `EBADF` if it is not open for writing; `ENOSPC`, `EDQUOT`.
    pub async fn write(&self, offset: u64, data: Bytes) -> Outcome<()> {
        let flags =
            WriteFlags { append: self.options.append, kill_privileges: !self.superuser, ..WriteFlags::default() };
        let write = async {
            let handle = self.handle(self.options.write)?;
            let mut left = data;
            let mut offset = offset;
            while !left.is_empty() {
                let piece = left.split_to(left.len().min(PIECE as usize));
                let length = piece.len() as u64;
                self.fs.write(self.node.ino(), Some(handle), offset, piece, flags).await?;
                offset += length;
            }
            Ok(())
        };
        during(write.await, "write", &self.path)
    }

    /// `ftruncate(2)`.
    ///
    /// # Errors
    /// `EBADF` if it is not open for writing.
    pub async fn set_size(&self, size: u64) -> Outcome<()> {
        let change = async {
            self.handle(self.options.write)?;
            self.change_size(size).await
        };
        during(change.await, "set the size of", &self.path)
    }

    async fn change_size(&self, size: u64) -> FsResult<()> {
        let change = AttrChange { size: Some(size), kill_privileges: !self.superuser, ..AttrChange::default() };
        self.fs.setattr(self.node.ino(), change, self.handle).await.map(drop)
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Also of writes before.
    pub async fn sync(&self) -> Outcome<()> {
        during(self.fs.fsync(self.node.ino(), false).await, "sync", &self.path)
    }

    /// Tells whether the writes so far could be taken, as `close(2)` does.
    ///
    /// # Errors
    /// Of writes that were lost.
    pub async fn flush(&self) -> Outcome<()> {
        let Some(handle) = self.handle else { return Ok(()) };
        during(self.fs.flush(self.node.ino(), handle, LockOwner(0)).await, "write", &self.path)
    }

    /// Closes the file.
    ///
    /// # Errors
    /// See [`File::flush`].
    pub async fn close(mut self) -> Outcome<()> {
        let flushed = self.flush().await;
        if let Some(handle) = self.handle.take() {
            self.fs.release(self.node.ino(), handle, None).await;
        }
        flushed
    }
}

impl<F: FileSystem> Drop for File<F> {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let (fs, node) = (self.fs.clone(), self.node.clone());
        spawn_inline(&self.runtime, async move { fs.release(node.ino(), handle, None).await });
    }
}

/// What a stream says of ranges that were never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holes {
    /// They are left out: pieces have gaps between them.
    Skip,
    /// They are zeros.
    Fill,
}

/// A range of a file, piece by piece.
pub struct Stream<'a, F: FileSystem> {
    file: &'a File<F>,
    at: u64,
    end: u64,
    /// Where the data that `at` lies in ends, as far as that is known.
    data_end: u64,
    holes: Holes,
}

impl<F: FileSystem> Stream<'_, F> {
    /// The next piece with its offset, never empty. `None` at the end.
    ///
    /// # Errors
    /// See [`File::read`].
    pub async fn next(&mut self) -> Outcome<Option<(u64, Bytes)>> {
        if self.holes == Holes::Skip && self.at >= self.data_end {
            let found = self.find_data().await;
            if !during(found, "read", &self.file.path)? {
                return Ok(None);
            }
        }
        let end = if self.holes == Holes::Skip { self.end.min(self.data_end) } else { self.end };
        let length = end.saturating_sub(self.at).min(u64::from(PIECE)) as u32;
        if length == 0 {
            return Ok(None);
        }
        let bytes = self.file.read(self.at, length).await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let offset = self.at;
        self.at += bytes.len() as u64;
        Ok(Some((offset, bytes)))
    }

    /// Goes to the next data. Whether there is any.
    async fn find_data(&mut self) -> FsResult<bool> {
        let (fs, ino) = (&self.file.fs, self.file.node.ino());
        if self.at >= self.end {
            return Ok(false);
        }
        self.at = match fs.seek(ino, self.at, SeekTarget::Data).await {
            Ok(start) => start,
            Err(error) if error == Errno::ENXIO => return Ok(false),
            Err(error) => return Err(error),
        };
        self.data_end = fs.seek(ino, self.at, SeekTarget::Hole).await?;
        Ok(self.at < self.end)
    }
}
