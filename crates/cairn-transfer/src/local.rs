//! A tree on this machine, as source and as sink.

use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cairn_locks::Mutex;
use cairn_types::Timestamp;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::content::{Digest, Hasher, LocalFile, hash};
use crate::item::{Attributes, Content, Item, Kind, Meta};
use crate::lock_order;
use crate::pump::Progress;
use crate::{During, Sink, Source, TransferError};

/// A folder with what is in it, or a single file.
pub struct LocalTree {
    root: PathBuf,
}

impl LocalTree {
    pub fn new(root: PathBuf) -> LocalTree {
        LocalTree { root }
    }

    fn walk(
        &self,
        path: &Path,
        seen: &mut HashMap<(u64, u64), PathBuf>,
        take: &mut dyn FnMut(Item) -> Result<(), TransferError>,
    ) -> Result<(), TransferError> {
        let full = self.root.join(path);
        let told = fs::symlink_metadata(&full).during("look at", &full)?;
        let is_dir = told.is_dir();
        let meta = meta_of(&full, &told)?;
        let kind = match seen.get(&(told.dev(), told.ino())) {
            Some(first) => Kind::HardLink(first.clone()),
            None => kind_of(&full, &told)?,
        };
        if !is_dir && told.nlink() > 1 {
            seen.entry((told.dev(), told.ino())).or_insert_with(|| path.to_owned());
        }
        take(Item { path: path.to_owned(), meta, kind })?;
        if !is_dir {
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&full).during("list", &full)? {
            names.push(entry.during("list", &full)?.file_name());
        }
        names.sort_unstable();
        names.into_iter().try_for_each(|name| self.walk(&path.join(name), seen, take))
    }
}

impl Source for LocalTree {
    fn each(&self, take: &mut dyn FnMut(Item) -> Result<(), TransferError>) -> Result<(), TransferError> {
        if self.root.is_dir() {
            return self.walk(Path::new(""), &mut HashMap::new(), take);
        }
        // A single file keeps its name.
        let name = self.root.file_name().map(PathBuf::from).unwrap_or_default();
        let told = fs::metadata(&self.root).during("look at", &self.root)?;
        let (meta, kind) = (meta_of(&self.root, &told)?, kind_of(&self.root, &told)?);
        take(Item { path: name, meta, kind })
    }

    fn total_bytes(&self) -> Option<u64> {
        fn below(path: &Path) -> u64 {
            let Ok(told) = fs::symlink_metadata(path) else { return 0 };
            if !told.is_dir() {
                return if told.is_file() { told.len() } else { 0 };
            }
            fs::read_dir(path).map_or(0, |entries| entries.flatten().map(|entry| below(&entry.path())).sum())
        }
        Some(below(&self.root))
    }
}

fn meta_of(path: &Path, told: &Metadata) -> Result<Meta, TransferError> {
    let time = |secs, nanos: i64| Timestamp { secs, nanos: nanos as u32 };
    Ok(Meta {
        mode: told.mode() & 0o7777,
        uid: told.uid(),
        gid: told.gid(),
        atime: time(told.atime(), told.atime_nsec()),
        mtime: time(told.mtime(), told.mtime_nsec()),
        xattrs: xattrs_of(path)?,
    })
}

fn kind_of(path: &Path, told: &Metadata) -> Result<Kind, TransferError> {
    let kind = told.file_type();
    Ok(if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink(fs::read_link(path).during("read", path)?.into_os_string().into_vec())
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        Kind::CharDevice(told.rdev() as u32)
    } else if kind.is_block_device() {
        Kind::BlockDevice(told.rdev() as u32)
    } else {
        Kind::Regular { size: told.len(), content: Box::new(LocalFile::new(path.to_owned())) }
    })
}

/// Extended attributes; none where the file system has none.
fn xattrs_of(path: &Path) -> Result<Attributes, TransferError> {
    // The kernel's own limits (XATTR_LIST_MAX, XATTR_SIZE_MAX).
    let mut names = vec![0; 65_536];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(0) | Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        found => found.during("list the attributes of", path)?,
    };
    let mut found = Vec::new();
    let mut value = vec![0; 65_536];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::lgetxattr(path, name, &mut value[..]) {
            Ok(length) => found.push((name.to_vec(), value[..length].to_vec())),
            // Gone since it was listed, or not for us.
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error).during("read the attributes of", path),
        }
    }
    Ok(found)
}

/// A folder that receives a tree. What is there already and of the same size and time is left alone.
pub struct LocalSink {
    root: PathBuf,
    /// Verification wants a digest also of what is left alone.
    hash_kept: bool,
    folders: Mutex<Vec<(PathBuf, Meta)>, lock_order::MadeFolders>,
}

impl LocalSink {
    pub fn new(root: PathBuf, hash_kept: bool) -> LocalSink {
        LocalSink { root, hash_kept, folders: Mutex::default() }
    }
}

impl Sink for LocalSink {
    fn directory(&self, item: Item) -> Result<(), TransferError> {
        let path = self.root.join(&item.path);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // A symbolic link to a folder would lead what follows somewhere else.
                if !fs::symlink_metadata(&path).during("look at", &path)?.is_dir() {
                    return Err(error).during("make the folder", &path);
                }
            }
            made => made.during("make the folder", &path)?,
        }
        self.folders.lock().push((item.path, item.meta));
        Ok(())
    }

    fn put(&self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        let path = self.root.join(&item.path);
        let there = fs::symlink_metadata(&path).ok();
        if let Some(told) = &there {
            let time = Timestamp { secs: told.mtime(), nanos: told.mtime_nsec() as u32 };
            if let (Kind::Regular { size, .. }, true) = (&item.kind, told.is_file() && time == item.meta.mtime)
                && *size == told.len()
            {
                progress.add_kept();
                let Kind::Regular { size, mut content } = item.kind else { return Ok(None) };
                progress.add_bytes(size)?;
                return if self.hash_kept { hash(content.as_mut(), size).map(Some) } else { Ok(None) };
            }
            fs::remove_file(&path).during("replace", &path)?;
        }
        let node = |kind, device: u32| {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(CWD, &path, kind, mode, u64::from(device)).during("make", &path)
        };
        let mut digest = None;
        match item.kind {
            Kind::Regular { size, mut content } => {
                digest = Some(write(&path, size, content.as_mut(), progress)?);
            }
            Kind::Symlink(target) => {
                std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(&target), &path).during("make", &path)?;
            }
            Kind::HardLink(first) => {
                fs::hard_link(self.root.join(first), &path).during("link", &path)?;
                return Ok(None);
            }
            Kind::Fifo => node(FileType::Fifo, 0)?,
            Kind::Socket => node(FileType::Socket, 0)?,
            Kind::CharDevice(device) => node(FileType::CharacterDevice, device)?,
            Kind::BlockDevice(device) => node(FileType::BlockDevice, device)?,
            Kind::Directory => {}
        }
        set_meta(&path, &item.meta)?;
        Ok(digest)
    }

    fn finish(&self) -> Result<(), TransferError> {
        let mut folders = std::mem::take(&mut *self.folders.lock());
        // What is inside first: it changes the times of what is around it.
        folders.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, meta) in folders {
            set_meta(&self.root.join(path), &meta)?;
        }
        let opened = File::open(&self.root).during("open", &self.root)?;
        rustix::fs::syncfs(&opened).during("sync", &self.root)
    }
}

/// Writes a new file.
fn write(path: &Path, size: u64, content: &mut dyn Content, progress: &Progress) -> Result<Digest, TransferError> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path).during("create", path)?;
    let mut hasher = Hasher::new();
    while let Some((offset, bytes)) = content.next()? {
        hasher.update(offset, &bytes);
        file.write_all_at(&bytes, offset).during("write", path)?;
        progress.add_bytes(bytes.len() as u64)?;
    }
    file.set_len(size).during("set the size of", path)?;
    Ok(hasher.end(size))
}

/// Owner (where we may), mode, attributes and times, in the order in which none undoes another.
fn set_meta(path: &Path, meta: &Meta) -> Result<(), TransferError> {
    let kind = fs::symlink_metadata(path).during("look at", path)?.file_type();
    match std::os::unix::fs::lchown(path, Some(meta.uid), Some(meta.gid)) {
        // Only root may give files away; everybody else keeps them.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
        changed => changed.during("change the owner of", path)?,
    }
    if !kind.is_symlink() {
        fs::set_permissions(path, fs::Permissions::from_mode(meta.mode)).during("change the mode of", path)?;
    }
    for (name, value) in &meta.xattrs {
        match rustix::fs::lsetxattr(path, name.as_slice(), value, XattrFlags::empty()) {
            // As tar and cp do: a file system without attributes, or ones that only root may set, lose them.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error).during("set the attributes of", path),
        }
    }
    let time = |time: Timestamp| Timespec { tv_sec: time.secs, tv_nsec: i64::from(time.nanos) };
    let times = Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).during("set the times of", path)
}
