//! Directories, entry by entry, and whole trees.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_client::FsResult;
use cairn_client::api::{DirEntry, FileSystem, Handle};
use cairn_types::{Errno, FileKind};

use crate::access::Access;
use crate::error::{Outcome, during};
use crate::{Follow, Node, View};

/// Bytes of names and attributes that are asked for at once.
const PAGE: u32 = 256 << 10;

/// An entry of a directory.
pub struct Listed<F: FileSystem> {
    pub name: Bytes,
    pub kind: FileKind,
    /// `None` in a directory that may be read but not searched.
    pub node: Option<Node<F>>,
}

/// A directory that is being listed, in no order. What is made or removed meanwhile may be in it or not.
pub struct Listing<F: FileSystem> {
    view: View<F>,
    directory: Node<F>,
    path: PathBuf,
    handle: Handle,
    cursor: u64,
    page: VecDeque<Listed<F>>,
    ended: bool,
    /// Whether the user may look at what is in it.
    searchable: bool,
}

impl<F: FileSystem> Drop for Listing<F> {
    fn drop(&mut self) {
        self.view.fs.release_dir(self.handle);
    }
}

impl<F: FileSystem> View<F> {
    /// Begins to list a directory.
    ///
    /// # Errors
    /// `ENOTDIR`; `EACCES` if it must not be read.
    pub async fn list(&self, path: impl AsRef<Path>) -> Outcome<Listing<F>> {
        let path = path.as_ref();
        let directory = self.node(path, Follow::Yes).await?;
        during(self.list_node(directory, path).await, "list", path)
    }

    async fn list_node(&self, directory: Node<F>, path: &Path) -> FsResult<Listing<F>> {
        if !directory.attr().is_dir() {
            return Err(Errno::ENOTDIR.into());
        }
        self.check(&directory, Access::READ).await?;
        let searchable = match self.check(&directory, Access::SEARCH).await {
            Ok(()) => true,
            Err(error) if error == Errno::EACCES => false,
            Err(error) => return Err(error),
        };
        let handle = self.fs.open_dir(directory.ino()).await?;
        Ok(Listing {
            view: self.clone(),
            directory,
            path: path.to_owned(),
            handle,
            cursor: 0,
            page: VecDeque::new(),
            ended: false,
            searchable,
        })
    }

    /// Begins a walk through the tree at `path`. Symbolic links in it are not followed.
    ///
    /// # Errors
    /// See [`View::node`].
    pub async fn walk(&self, path: impl AsRef<Path>) -> Outcome<Walk<F>> {
        let path = path.as_ref();
        let root = self.node(path, Follow::No).await?;
        let first = Walked { path: PathBuf::new(), node: root };
        Ok(Walk { view: self.clone(), base: path.to_owned(), next: Some(first), enter: None, levels: Vec::new() })
    }
}

impl<F: FileSystem> Listing<F> {
    /// The next entry, `.` and `..` left out. `None` at the end.
    ///
    /// # Errors
    /// What reading the directory gives.
    pub async fn next(&mut self) -> Outcome<Option<Listed<F>>> {
        while self.page.is_empty() && !self.ended {
            let page = self.read_page().await;
            during(page, "list", &self.path)?;
        }
        Ok(self.page.pop_front())
    }

    async fn read_page(&mut self) -> FsResult<()> {
        let (fs, directory) = (&self.view.fs, self.directory.ino());
        let entries = fs.read_dir(directory, self.handle, self.cursor, PAGE, self.searchable).await?;
        self.ended = entries.is_empty();
        self.cursor = entries.last().map_or(self.cursor, |entry| entry.cursor);
        // All are taken over before anything else is asked, so that none is counted for ever if that fails.
        let entries: Vec<(DirEntry, Option<Node<F>>)> = entries
            .into_iter()
            .filter(|entry| !matches!(&*entry.name, b"." | b".."))
            .map(|entry| {
                let node = entry.entry.as_ref().map(|entry| Node::counted(fs, entry));
                (entry, node)
            })
            .collect();
        for (DirEntry { name, kind, .. }, mut node) in entries {
            if node.is_none() && self.searchable {
                // A listing leaves out the attributes of what another client holds.
                match fs.lookup(directory, cairn_types::Name::new(&name)?).await? {
                    cairn_client::api::Lookup::Found(entry) => node = Some(Node::counted(fs, &entry)),
                    // Removed since it was listed.
                    cairn_client::api::Lookup::Absent { .. } => continue,
                }
            }
            self.page.push_back(Listed { name, kind, node });
        }
        Ok(())
    }

    /// All that is left.
    ///
    /// # Errors
    /// What reading the directory gives.
    pub async fn collect(mut self) -> Outcome<Vec<Listed<F>>> {
        let mut all = Vec::new();
        while let Some(entry) = self.next().await? {
            all.push(entry);
        }
        Ok(all)
    }
}

/// A node of a tree.
pub struct Walked<F: FileSystem> {
    /// Below the root of the walk; empty for the root itself.
    pub path: PathBuf,
    pub node: Node<F>,
}

/// A walk: directories before what is in them, and each directory in the order of its names.
pub struct Walk<F: FileSystem> {
    view: View<F>,
    base: PathBuf,
    next: Option<Walked<F>>,
    /// The directory that was told last, which is looked into unless it is skipped.
    enter: Option<(PathBuf, Node<F>)>,
    /// What is left of each directory on the way, last first.
    levels: Vec<Vec<Walked<F>>>,
}

impl<F: FileSystem> Walk<F> {
    /// The next node. `None` at the end. After an error the walk goes on behind the directory that could not be listed.
    ///
    /// # Errors
    /// A directory that must not be listed or searched, or what reading it gives.
    pub async fn next(&mut self) -> Outcome<Option<Walked<F>>> {
        if let Some((path, node)) = self.enter.take() {
            let level = self.level(&path, node).await?;
            self.levels.push(level);
        }
        while self.next.is_none() {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.next = level.pop();
            if self.next.is_none() {
                self.levels.pop();
            }
        }
        let Some(found) = self.next.take() else { return Ok(None) };
        if found.node.attr().is_dir() {
            self.enter = Some((found.path.clone(), found.node.clone()));
        }
        Ok(Some(found))
    }

    /// Does not look into the directory that was told last.
    pub fn skip(&mut self) {
        self.enter = None;
    }

    async fn level(&self, path: &Path, directory: Node<F>) -> Outcome<Vec<Walked<F>>> {
        let whole = self.base.join(path);
        let listing = during(self.view.list_node(directory, &whole).await, "list", &whole)?;
        if !listing.searchable {
            return during(Err(Errno::EACCES.into()), "list", &whole);
        }
        let mut level: Vec<Walked<F>> = listing
            .collect()
            .await?
            .into_iter()
            .filter_map(|entry| Some(Walked { path: path.join(OsStr::from_bytes(&entry.name)), node: entry.node? }))
            .collect();
        level.sort_unstable_by(|a, b| b.path.cmp(&a.path));
        Ok(level)
    }
}
