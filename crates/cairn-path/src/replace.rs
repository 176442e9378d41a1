//! Replacing a file as a whole: others see the old content or the new, never a part.

use std::path::Path;

use cairn_client::FsResult;
use cairn_client::api::FileSystem;
use cairn_types::{Attr, Errno, Name, RenameMode};

use crate::access::{self, Access};
use crate::error::{Outcome, during};
use crate::resolve::Resolved;
use crate::{Create, File, Follow, Node, OpenOptions, View};

/// What is on stable storage when a replacement is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// What the volume makes durable by itself within a second or so.
    Soon,
    /// The new content and its name.
    Now,
}

/// A file without a name that is to take the place of a path. Dropped, it leaves no trace.
pub struct Replacement<F: FileSystem> {
    view: View<F>,
    file: File<F>,
}

impl<F: FileSystem> View<F> {
    /// Begins to replace what is at `path`, or to make it.
    ///
    /// # Errors
    /// `EISDIR`; as [`View::remove`] for what is there.
    pub async fn replace(&self, path: impl AsRef<Path>, mode: u32) -> Outcome<Replacement<F>> {
        let path = path.as_ref();
        let begin = async {
            let (directory, ..) = self.replaceable(path).await?;
            let mode = access::mode_of_new(&self.who, &directory.attr(), mode);
            let options = OpenOptions { read: true, write: true, create: Create::New, mode, ..OpenOptions::default() };
            let made = self.fs.make_unnamed(self.caller(), directory.ino(), mode, libc::O_RDWR).await;
            let (entry, opened) = made?;
            let file = self.file(path, Node::counted(&self.fs, &entry), opened.handle, options);
            Ok(Replacement { view: self.clone(), file })
        };
        during(begin.await, "replace", path)
    }

    /// Where a file may take the place of what is there: the directory, the name, and whether something has it.
    async fn replaceable(&self, path: &Path) -> FsResult<(Node<F>, Name, bool)> {
        let resolved = self.resolve(path, Follow::No).await?;
        if resolved.node.as_ref().is_some_and(|node| node.attr().is_dir()) || resolved.means_directory {
            return Err(Errno::EISDIR.into());
        }
        if resolved.node.is_some() {
            let (directory, name, _) = self.removable(resolved).await?;
            return Ok((directory, name, true));
        }
        let Resolved { directory, name, .. } = resolved;
        self.check(&directory, Access::CHANGE_NAMES).await?;
        Ok((directory, name.ok_or(Errno::EISDIR)?, false))
    }
}

impl<F: FileSystem> Replacement<F> {
    /// The new content.
    pub fn file(&self) -> &File<F> {
        &self.file
    }

    /// Puts the new file in its place. The path is resolved again, and its rights are checked again. Answers the
    /// attributes that it has there.
    ///
    /// # Errors
    /// Of writes that were lost; as [`View::replace`].
    pub async fn commit(self, durability: Durability) -> Outcome<Attr> {
        let Replacement { view, file } = self;
        let path = file.path().to_owned();
        file.flush().await?;
        if durability == Durability::Now {
            file.sync().await?;
        }
        let ino = file.node().ino();
        let put = async {
            let (directory, name, exists) = view.replaceable(&path).await?;
            if exists || !view.link_new(&file, &directory, &name).await? {
                view.link_over(&file, &directory, &name).await?;
            }
            if durability == Durability::Now {
                view.fs.fsync(directory.ino(), false).await?;
            }
            Ok(view.fs.getattr(ino).await?.attr)
        };
        let attr = during(put.await, "replace", &path)?;
        file.close().await?;
        Ok(attr)
    }
}

impl<F: FileSystem> View<F> {
    /// Gives the file its name; `false` if something has it.
    async fn link_new(&self, file: &File<F>, directory: &Node<F>, name: &Name) -> FsResult<bool> {
        match self.fs.link(file.node().ino(), directory.ino(), name.clone()).await {
            Ok(entry) => {
                drop(Node::counted(&self.fs, &entry));
                Ok(true)
            }
            Err(error) if error == Errno::EEXIST => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the file a name of its own beside and renames it over `name`: there is no link that replaces.
    async fn link_over(&self, file: &File<F>, directory: &Node<F>, name: &Name) -> FsResult<()> {
        // The number of a node is never used again, and this one has one name.
        let beside = Name::new(format!(".cairn-new-{:x}", file.node().ino().0).as_bytes())?;
        if !self.link_new(file, directory, &beside).await? {
            return Err(Errno::EEXIST.into());
        }
        let renamed =
            self.fs.rename(directory.ino(), beside.clone(), directory.ino(), name.clone(), RenameMode::Replace).await;
        if renamed.is_err() {
            // If this fails as well, a name too many is left, which tells what it is.
            let _ = self.fs.unlink(directory.ino(), beside).await;
        }
        renamed
    }
}
