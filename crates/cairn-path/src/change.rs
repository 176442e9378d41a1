//! Making, removing, renaming, and changing attributes.

use std::path::Path;

use bytes::Bytes;
use cairn_client::FsResult;
use cairn_client::api::FileSystem;
use cairn_types::{Attr, AttrChange, Errno, Name, NewNode, RenameMode, XattrMode};

use crate::access::{self, Access, XattrUse};
use crate::error::{Outcome, during};
use crate::resolve::Resolved;
use crate::{Follow, Node, View};

impl<F: FileSystem> View<F> {
    /// Makes a node that is no regular file (`mkdir(2)`, `symlink(2)`, `mknod(2)`), or an empty regular file. `mode` is
    /// less the user's `umask`.
    ///
    /// # Errors
    /// `EEXIST`; `EACCES` if the directory must not be changed; `EPERM` for a device.
    pub async fn make(&self, path: impl AsRef<Path>, node: NewNode, mode: u32) -> Outcome<Node<F>> {
        let path = path.as_ref();
        during(self.make_at(path, node, mode).await, "make", path)
    }

    async fn make_at(&self, path: &Path, node: NewNode, mode: u32) -> FsResult<Node<F>> {
        let is_directory = matches!(node, NewNode::Directory);
        // `mkdir a/` makes `a`; nothing else may end in a slash.
        let place = self.place_of_new(path, is_directory).await?;
        access::check_kind(&self.who, &node)?;
        let mode = if is_directory { mode & 0o1777 } else { access::mode_of_new(&self.who, &place.0.attr(), mode) };
        let entry = self.fs.make_node(self.caller(), place.0.ino(), place.1, node, mode).await?;
        Ok(Node::counted(&self.fs, &entry))
    }

    /// Where something can be made: a directory that may be changed, and a name that is free in it.
    async fn place_of_new(&self, path: &Path, may_end_in_slash: bool) -> FsResult<(Node<F>, Name)> {
        let resolved = self.resolve(without_slash(path, may_end_in_slash), Follow::No).await?;
        if resolved.node.is_some() {
            return Err(Errno::EEXIST.into());
        }
        let Some(name) = resolved.name.filter(|_| !resolved.means_directory) else {
            return Err(Errno::ENOENT.into());
        };
        self.check(&resolved.directory, Access::CHANGE_NAMES).await?;
        Ok((resolved.directory, name))
    }

    /// Makes a directory and those above it that are missing. Answers the directory, also if it was there.
    ///
    /// # Errors
    /// `ENOTDIR` where something else stands in the way.
    pub async fn make_directories(&self, path: impl AsRef<Path>, mode: u32) -> Outcome<Node<F>> {
        let path = path.as_ref();
        let mut missing = Vec::new();
        for ancestor in path.ancestors() {
            match self.resolve(ancestor, Follow::Yes).await.and_then(Resolved::existing) {
                Ok(node) if node.attr().is_dir() => break,
                Ok(_) => return during(Err(Errno::ENOTDIR.into()), "make", ancestor),
                Err(error) if error == Errno::ENOENT => missing.push(ancestor),
                Err(error) => return during(Err(error), "make", ancestor),
            }
        }
        for ancestor in missing.into_iter().rev() {
            match self.make_at(ancestor, NewNode::Directory, mode).await {
                Ok(_) => {}
                // Somebody else was quicker; or it is a link that leads nowhere, which shows below.
                Err(error) if error == Errno::EEXIST => {}
                Err(error) => return during(Err(error), "make", ancestor),
            }
        }
        match self.resolve(path, Follow::Yes).await.and_then(Resolved::existing) {
            Ok(node) if node.attr().is_dir() => Ok(node),
            Ok(_) => during(Err(Errno::ENOTDIR.into()), "make", path),
            Err(error) => during(Err(error), "make", path),
        }
    }

    /// Gives a node a further name, unless something is there.
    ///
    /// # Errors
    /// `EPERM` for a directory, and for somebody else's file that one may not both read and write.
    pub async fn link(&self, node: &Node<F>, path: impl AsRef<Path>) -> Outcome<()> {
        let path = path.as_ref();
        let link = async {
            let (directory, name) = self.place_of_new(path, false).await?;
            access::check_linking(&self.fs, &self.who, &node.attr()).await?;
            let entry = self.fs.link(node.ino(), directory.ino(), name).await?;
            drop(Node::counted(&self.fs, &entry));
            Ok(())
        };
        during(link.await, "link", path)
    }

    /// Removes a name that is no directory's.
    ///
    /// # Errors
    /// `EISDIR`; `EACCES` if the directory must not be changed; `EPERM` for somebody else's file in a sticky one.
    pub async fn remove(&self, path: impl AsRef<Path>) -> Outcome<()> {
        let path = path.as_ref();
        let remove = async {
            let (directory, name, node) = self.removable(self.resolve(path, Follow::No).await?).await?;
            if node.attr().is_dir() {
                return Err(Errno::EISDIR.into());
            }
            self.fs.unlink(directory.ino(), name).await
        };
        during(remove.await, "remove", path)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOTEMPTY`, `ENOTDIR`; otherwise as [`View::remove`].
    pub async fn remove_directory(&self, path: impl AsRef<Path>) -> Outcome<()> {
        let path = path.as_ref();
        let remove = async {
            // A slash does not lead through a link here: what is removed is what has the name.
            let resolved = self.resolve(without_slash(path, true), Follow::No).await?;
            let (directory, name, node) = self.removable(resolved).await?;
            if !node.attr().is_dir() {
                return Err(Errno::ENOTDIR.into());
            }
            self.fs.rmdir(directory.ino(), name).await
        };
        during(remove.await, "remove", path)
    }

    /// What is there, if its name may be taken away.
    pub(crate) async fn removable(&self, found: Resolved<F>) -> FsResult<(Node<F>, Name, Node<F>)> {
        let Resolved { directory, name, node, .. } = found;
        let node = node.ok_or(Errno::ENOENT)?;
        // The root, or a name such as `..`.
        let name = name.ok_or(Errno::EBUSY)?;
        self.check(&directory, Access::CHANGE_NAMES).await?;
        access::check_sticky(&self.who, &directory.attr(), &node.attr())?;
        Ok((directory, name, node))
    }

    /// Renames, replaces or exchanges (`renameat2(2)`).
    ///
    /// # Errors
    /// As [`View::remove`], for both names; `EACCES` for a directory that changes its parent and must not be written;
    /// `EINVAL` into itself.
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, mode: RenameMode) -> Outcome<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        during(self.rename_between(from, to, mode).await, "rename", from)
    }

    async fn rename_between(&self, from: &Path, to: &Path, mode: RenameMode) -> FsResult<()> {
        let source = self.resolve(without_slash(from, true), Follow::No).await?;
        let target = self.resolve(without_slash(to, true), Follow::No).await?;
        let ends_in_slash = [from, to].iter().any(|path| path.as_os_str().as_encoded_bytes().ends_with(b"/"));
        let (directory, name, node) = self.removable(source).await?;
        let (new_directory, new_name, replaced) = match (target.node.is_some(), mode) {
            (true, RenameMode::NoReplace) => return Err(Errno::EEXIST.into()),
            (false, RenameMode::Exchange) => return Err(Errno::ENOENT.into()),
            (true, _) => {
                let (directory, name, node) = self.removable(target).await?;
                (directory, name, Some(node))
            }
            (false, _) => {
                self.check(&target.directory, Access::CHANGE_NAMES).await?;
                (target.directory, target.name.ok_or(Errno::EBUSY)?, None)
            }
        };
        if ends_in_slash && !node.attr().is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        if directory.ino() != new_directory.ino() {
            // `..` of what moves is changed.
            let also_moves = replaced.as_ref().filter(|_| mode == RenameMode::Exchange);
            for moved in [Some(&node), also_moves].into_iter().flatten().filter(|node| node.attr().is_dir()) {
                self.check(moved, Access::WRITE).await?;
            }
        }
        self.fs.rename(directory.ino(), name, new_directory.ino(), new_name, mode).await
    }

    /// Changes attributes: `chmod(2)`, `chown(2)`, `utimensat(2)` with given times, `truncate(2)`. Answers those of afterwards.
    ///
    /// # Errors
    /// `EPERM` for whoever is not the owner; `EACCES` for a size where writing is not allowed.
    pub async fn change(&self, node: &Node<F>, change: AttrChange) -> Outcome<Attr> {
        let changed = async {
            // Of the superuser nothing is asked that could have changed.
            let superuser = self.who.is_superuser();
            let now = if superuser { node.attr() } else { self.fs.getattr(node.ino()).await?.attr };
            let change = access::check_change(&self.fs, &self.who, &now, change).await?;
            Ok(self.fs.setattr(node.ino(), change, None).await?.attr)
        };
        during(changed.await, "change the attributes of", Path::new(""))
    }

    /// The node's extended attributes that the user may read, with their values.
    ///
    /// # Errors
    /// What reading them gives.
    pub async fn xattrs(&self, node: &Node<F>) -> Outcome<Vec<(Bytes, Bytes)>> {
        let read = async {
            let mut found = Vec::new();
            for name in self.fs.list_xattr(node.ino()).await? {
                if access::check_xattr(&self.fs, &self.who, &node.attr(), &name, XattrUse::Read).await.is_err() {
                    continue;
                }
                let value = self.fs.get_xattr(node.ino(), name.clone()).await?;
                found.push((name, value));
            }
            Ok(found)
        };
        during(read.await, "read the attributes of", Path::new(""))
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `EPERM`, `EACCES`; `EOPNOTSUPP` for a name that volumes do not keep.
    pub async fn set_xattr(&self, node: &Node<F>, name: Bytes, value: Bytes, mode: XattrMode) -> Outcome<()> {
        let set = async {
            access::check_xattr(&self.fs, &self.who, &node.attr(), &name, XattrUse::Write).await?;
            let clear_set_gid = !self.who.is_superuser() && !self.who.is_in(node.attr().gid);
            self.fs.set_xattr(node.ino(), name, value, mode, clear_set_gid).await
        };
        during(set.await, "set the attributes of", Path::new(""))
    }
}

/// The path without slashes at its end, where those do not matter.
fn without_slash(path: &Path, applies: bool) -> &Path {
    let bytes = path.as_os_str().as_encoded_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    if applies { crate::resolve::as_path(&bytes[..end]) } else { path }
}
