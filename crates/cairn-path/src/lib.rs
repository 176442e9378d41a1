//! A volume by path, as one user sees it: what a front end needs that has no kernel in front of it (a gateway, an
//! importer).
//!
//! The kernel resolves paths and checks rights before a FUSE front end is asked anything. Here both are done over any
//! [`FileSystem`]: a [`View`] has a root and [`Credentials`], and every method of it does what the system call of the same
//! purpose would do for a process with these credentials whose root directory that is.
//!
//! Invariants:
//!
//! - Nothing is read or changed that the kernel's rules forbid: mode bits, ACLs, sticky directories, set-id bits, who may
//!   give away or link what. They are all in `access`.
//! - No path, `..` or symbolic link leads out of the view's root, and at most 40 links are followed.
//! - References that the volume counts are given back when a [`Node`] or [`File`] is dropped.
//!
//! Locks, devices and everything else that needs a process are not here.

mod access;
mod change;
mod credentials;
mod error;
mod file;
mod listing;
mod replace;
mod resolve;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cairn_client::api::{Caller, FileSystem};
use cairn_types::{Attr, Errno};
use tokio::runtime::Handle as Runtime;

pub use credentials::Credentials;
pub use error::PathError;
pub use file::{Create, File, Holes, OpenOptions, PIECE, Stream};
pub use listing::{Listed, Listing, Walk, Walked};
pub use replace::{Durability, Replacement};
pub use resolve::Node;

use access::Access;
use error::{Outcome, during};

/// Whether a symbolic link at the end of a path stands for what it points to. Links on the way always do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    Yes,
    No,
}

/// A volume, or a directory of it, as one user sees it. Cheap to clone.
///
/// Paths are relative to the view's root, with or without a leading slash; the empty path is the root itself.
#[derive(Clone)]
pub struct View<F: FileSystem> {
    fs: F,
    runtime: Runtime,
    who: Arc<Credentials>,
    root: Node<F>,
    /// Whether symbolic links are followed at all.
    follows_links: bool,
    /// To whom belongs what is made, if not to the user.
    owner: Option<(u32, u32)>,
}

impl<F: FileSystem> View<F> {
    /// All of a volume. `runtime` closes files that are dropped.
    ///
    /// # Errors
    /// What looking at the root gives.
    pub async fn new(fs: F, who: Credentials, runtime: Runtime) -> Outcome<Self> {
        let root = during(Node::root(&fs).await, "look at", Path::new(""))?;
        Ok(View { fs, runtime, who: Arc::new(who), root, follows_links: true, owner: None })
    }

    /// The same for another user.
    #[must_use]
    pub fn for_user(&self, who: Credentials) -> Self {
        View { who: Arc::new(who), owner: None, ..self.clone() }
    }

    /// The same, but a symbolic link is never followed: on the way it is no directory (`ENOTDIR`).
    #[must_use]
    pub fn without_links(&self) -> Self {
        View { follows_links: false, ..self.clone() }
    }

    /// The same, but what is made belongs to somebody else, if the user is the superuser; otherwise there is no difference.
    #[must_use]
    pub fn making_for(&self, uid: u32, gid: u32) -> Self {
        let owner = self.who.is_superuser().then_some((uid, gid));
        View { owner, ..self.clone() }
    }

    /// The directory at `path` as a view of its own, which nothing leads out of. As with `openat(2)`, the way there was
    /// checked now and is not checked again.
    ///
    /// # Errors
    /// `ENOTDIR` for anything but a directory.
    pub async fn at(&self, path: impl AsRef<Path>) -> Outcome<Self> {
        let node = self.node(&path, Follow::Yes).await?;
        if !node.attr().is_dir() {
            return during(Err(Errno::ENOTDIR.into()), "enter", path.as_ref());
        }
        Ok(View { root: node, ..self.clone() })
    }

    pub fn credentials(&self) -> &Credentials {
        &self.who
    }

    /// The node at the view's root.
    pub fn root(&self) -> &Node<F> {
        &self.root
    }

    /// The file system underneath, which checks nothing.
    pub fn file_system(&self) -> &F {
        &self.fs
    }

    /// The node at `path`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES` for a directory on the way that must not be searched, `ELOOP`, `ENAMETOOLONG`.
    pub async fn node(&self, path: impl AsRef<Path>, follow: Follow) -> Outcome<Node<F>> {
        let path = path.as_ref();
        let found = async { self.resolve(path, follow).await?.existing() };
        during(found.await, "find", path)
    }

    /// Attributes: `stat(2)`, or `lstat(2)` without following.
    ///
    /// # Errors
    /// See [`View::node`].
    pub async fn stat(&self, path: impl AsRef<Path>, follow: Follow) -> Outcome<Attr> {
        Ok(self.node(path, follow).await?.attr())
    }

    /// Where a symbolic link points to.
    ///
    /// # Errors
    /// `EINVAL` for anything but a symbolic link.
    pub async fn read_link(&self, path: impl AsRef<Path>) -> Outcome<Bytes> {
        let node = self.node(&path, Follow::No).await?;
        during(self.target_of(&node).await, "read the link", path.as_ref())
    }

    /// The same of a node.
    ///
    /// # Errors
    /// `EINVAL` for anything but a symbolic link.
    pub async fn link_target(&self, node: &Node<F>) -> Outcome<Bytes> {
        during(self.target_of(node).await, "read the link", Path::new(""))
    }

    async fn target_of(&self, node: &Node<F>) -> cairn_client::FsResult<Bytes> {
        if node.attr().kind != cairn_types::FileKind::Symlink {
            return Err(Errno::EINVAL.into());
        }
        self.fs.readlink(node.ino()).await
    }

    /// Whether the user may do this with the node: `access(2)`, with the set of `Access` bits.
    async fn check(&self, node: &Node<F>, wanted: Access) -> cairn_client::FsResult<()> {
        access::check(&self.fs, &self.who, &node.attr(), wanted).await
    }

    /// As whom new nodes are made.
    fn caller(&self) -> Caller {
        let (uid, gid) = self.owner.unwrap_or((self.who.uid, self.who.gid));
        Caller { uid, gid, pid: std::process::id(), umask: self.who.umask }
    }
}
