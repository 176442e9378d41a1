//! From a path to a node.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use cairn_client::FsResult;
use cairn_client::api::{Entry, FileSystem, Lookup};
use cairn_types::{Attr, Errno, FileKind, Ino, Name};

use crate::access::{self, Access};
use crate::{Follow, View};

/// Most symbolic links that one path may lead through, as in the kernel.
const LINKS_MAX: u32 = 40;
/// Most bytes of a path, with the NUL byte that it has elsewhere.
const PATH_MAX: usize = 4096;

/// A node of a volume, with its attributes as they were when it was found. It stays usable while this lives, whatever
/// becomes of its names. Cheap to clone.
#[derive(Clone)]
pub struct Node<F: FileSystem>(Arc<Held<F>>);

struct Held<F: FileSystem> {
    fs: F,
    attr: Attr,
    keeps: Keeps<F>,
}

/// What keeps a node in the volume's mind.
enum Keeps<F: FileSystem> {
    /// Nothing: it is the root.
    Nothing,
    /// A reference that the volume counts.
    Reference,
    /// Another holder of the same node.
    Other(#[expect(dead_code, reason = "held until this is dropped")] Node<F>),
}

impl<F: FileSystem> Drop for Held<F> {
    fn drop(&mut self) {
        if matches!(self.keeps, Keeps::Reference) {
            self.fs.forget(self.attr.ino, 1);
        }
    }
}

impl<F: FileSystem> Node<F> {
    pub(crate) async fn root(fs: &F) -> FsResult<Self> {
        let attr = fs.getattr(Ino::ROOT).await?.attr;
        Ok(Node(Arc::new(Held { fs: fs.clone(), attr, keeps: Keeps::Nothing })))
    }

    /// Takes over the reference that `entry` counts.
    pub(crate) fn counted(fs: &F, entry: &Entry) -> Self {
        Node(Arc::new(Held { fs: fs.clone(), attr: entry.attr, keeps: Keeps::Reference }))
    }

    /// The same node with newer attributes.
    pub(crate) fn with_attr(&self, attr: Attr) -> Self {
        Node(Arc::new(Held { fs: self.0.fs.clone(), attr, keeps: Keeps::Other(self.clone()) }))
    }

    /// As they were when the node was found.
    pub fn attr(&self) -> Attr {
        self.0.attr
    }

    pub fn ino(&self) -> Ino {
        self.0.attr.ino
    }
}

/// Where a path leads.
pub(crate) struct Resolved<F: FileSystem> {
    /// The directory that the last name is in.
    pub(crate) directory: Node<F>,
    /// The last name. `None` where a path has none: at the root, and after `.` or `..`.
    pub(crate) name: Option<Name>,
    /// What is there.
    pub(crate) node: Option<Node<F>>,
    /// The path ends in a slash: it means a directory.
    pub(crate) means_directory: bool,
}

impl<F: FileSystem> Resolved<F> {
    pub(crate) fn existing(self) -> FsResult<Node<F>> {
        self.node.ok_or(Errno::ENOENT.into())
    }
}

/// The names of a path, last first, and whether it ends in a slash.
fn split(path: &[u8]) -> (Vec<&[u8]>, bool) {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).rev().collect();
    (names, path.ends_with(b"/"))
}

impl<F: FileSystem> View<F> {
    /// Walks along `path`, searching every directory on the way with the user's rights.
    pub(crate) async fn resolve(&self, path: &Path, follow: Follow) -> FsResult<Resolved<F>> {
        let bytes = path.as_os_str().as_bytes();
        if bytes.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let (names, mut means_directory) = split(bytes);
        let mut left: Vec<Vec<u8>> = names.into_iter().map(<[u8]>::to_vec).collect();
        // From the view's root to where the walk is: `..` goes back along it and no further.
        let mut way = Vec::new();
        let mut here = self.fresh_root().await?;
        let mut links = 0;
        while let Some(name) = left.pop() {
            self.check(&here, Access::SEARCH).await?;
            match name.as_slice() {
                b"." => continue,
                b".." => {
                    here = way.pop().unwrap_or(here);
                    continue;
                }
                _ => {}
            }
            let name = Name::new(&name)?;
            let last = left.is_empty();
            let node = match self.fs.lookup(here.ino(), name.clone()).await? {
                Lookup::Found(entry) => Node::counted(&self.fs, &entry),
                Lookup::Absent { .. } if last => {
                    return Ok(Resolved { directory: here, name: Some(name), node: None, means_directory });
                }
                Lookup::Absent { .. } => return Err(Errno::ENOENT.into()),
            };
            let attr = node.attr();
            let follows = self.follows_links && (!last || means_directory || follow == Follow::Yes);
            if attr.kind == FileKind::Symlink && follows {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::ELOOP.into());
                }
                if last {
                    access::check_following(&self.who, &here.attr(), &attr)?;
                }
                let target = self.fs.readlink(attr.ino).await?;
                if target.is_empty() {
                    return Err(Errno::ENOENT.into());
                }
                if target.starts_with(b"/") {
                    here = way.into_iter().next().unwrap_or(here);
                    way = Vec::new();
                }
                let (names, ends_in_slash) = split(&target);
                means_directory |= last && ends_in_slash;
                left.extend(names.into_iter().map(<[u8]>::to_vec));
                continue;
            }
            if !attr.is_dir() && (!last || means_directory) {
                return Err(Errno::ENOTDIR.into());
            }
            if last {
                return Ok(Resolved { directory: here, name: Some(name), node: Some(node), means_directory });
            }
            way.push(std::mem::replace(&mut here, node));
        }
        Ok(Resolved { directory: here.clone(), name: None, node: Some(here), means_directory: true })
    }

    /// The root with its attributes as they are now: the rights there may have changed since the view was made.
    async fn fresh_root(&self) -> FsResult<Node<F>> {
        let attr = self.fs.getattr(self.root.ino()).await?.attr;
        Ok(self.root.with_attr(attr))
    }
}

/// A name as part of a path.
pub(crate) fn as_path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}
