//! Listing directories. An open directory keeps one page of the listing and the names at which earlier pages began,
//! so that a directory of any size takes bounded memory and a cursor can be gone back to.
//!
//! Cursors count entries from 1: `.`, `..`, and from 3 on the names in their order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_locks::Mutex;
use cairn_types::{Attr, Errno, FileKind, Ino, LeaseMode, Name};
use cairn_wire::Query;
use cairn_wire::message::{Grant, QueryAnswer};

use super::Names;
use crate::api::{DirEntry, Entry, Handle};
use crate::error::FsResult;
use crate::lock_order;
use crate::node::directory::{Cached, DirectoryCache, Link};
use crate::node::{Life, Node, Place};
use crate::volume::remote::unfitting;

/// Names in one page: with and without attributes, about as many as fill the kernel's requests and a message.
const PAGE_WITH_ATTRIBUTES: u32 = 1000;
const PAGE_OF_NAMES: u32 = 4000;
/// Longest listing that is collected for the directory's cache.
const COLLECT_MAX: usize = 50_000;
/// Cursor of the first name.
const FIRST: u64 = 3;
/// What an entry takes beside its name in the kernel's buffer, in bytes: `fuse_dirent` or `fuse_direntplus`.
const ENTRY_BYTES: usize = 32;
const ENTRY_PLUS_BYTES: usize = 160;

/// Where an open directory is being read.
#[derive(Debug, Default)]
struct Listing {
    page: Vec<(Name, Link)>,
    /// Cursor of the first entry of the page.
    first: u64,
    /// Nothing comes after the page.
    complete: bool,
    /// Cursor at which each page began, and the name before it.
    marks: Vec<(u64, Option<Name>)>,
    /// Everything since the start, and the directory's epoch then; `None` once it is known to be of no use.
    collected: Option<(u64, Vec<(Name, Link)>)>,
}

impl Listing {
    fn restart(&mut self) {
        *self = Listing { marks: vec![(FIRST, None)], ..Listing::default() };
    }

    fn get(&self, cursor: u64) -> Option<&(Name, Link)> {
        if self.first == 0 {
            return None;
        }
        self.page.get(usize::try_from(cursor.checked_sub(self.first)?).ok()?)
    }

    fn end(&self) -> u64 {
        self.first + self.page.len() as u64
    }

    /// Whether names are missing that will be handed to the directory's cache.
    fn is_collecting(&self) -> bool {
        self.collected.is_some()
    }

    /// The latest page that begins at `cursor` or before.
    fn mark(&self, cursor: u64) -> (u64, Option<Name>) {
        let index = self.marks.partition_point(|(start, _)| *start <= cursor);
        index.checked_sub(1).and_then(|index| self.marks.get(index)).cloned().unwrap_or((FIRST, None))
    }
}

/// An open directory. The listing is behind an asynchronous lock because reading it may ask the server.
#[derive(Debug)]
struct DirectoryHandle {
    ino: Ino,
    listing: tokio::sync::Mutex<Listing>,
}

#[derive(Debug, Default)]
pub(super) struct OpenDirectories {
    directories: Mutex<HashMap<u64, Arc<DirectoryHandle>>, lock_order::OpenDirectories>,
}

impl OpenDirectories {
    fn open(&self, number: u64, ino: Ino) -> Handle {
        let listing = tokio::sync::Mutex::default();
        self.directories.lock().insert(number, Arc::new(DirectoryHandle { ino, listing }));
        Handle(number)
    }

    fn get(&self, handle: Handle) -> Option<Arc<DirectoryHandle>> {
        self.directories.lock().get(&handle.0).cloned()
    }

    fn close(&self, handle: Handle) {
        self.directories.lock().remove(&handle.0);
    }
}

/// A page as it came from the cache or the server.
struct Page {
    entries: Vec<(Name, Link)>,
    complete: bool,
    /// The directory's epoch that the page belongs to, if its lease covered it from question to answer.
    epoch: Option<u64>,
}

impl Page {
    /// The name after which the next page begins; `None` if there is none.
    fn last_name(&self) -> Option<Name> {
        self.entries.last().filter(|_| !self.complete).map(|(name, _)| name.clone())
    }
}

impl Names {
    pub(crate) async fn open_dir(&self, ino: Ino) -> FsResult<Handle> {
        let known = self.remote.nodes.table.get(ino).is_some_and(|node| {
            let state = node.lock();
            state.life() == Life::Named
                && state.attr().is_some_and(Attr::is_dir)
                && self.remote.nodes.usable(&state, LeaseMode::Shared)
        });
        if !known {
            let reply = self.remote.current_attr(ino).await?;
            if !reply.attr.is_dir() {
                return Err(Errno::ENOTDIR.into());
            }
        }
        Ok(self.directories.open(self.content.handle_number(), ino))
    }

    pub(crate) fn release_dir(&self, handle: Handle) {
        self.directories.close(handle);
    }

    /// `on_start` is called with the directory if its listing begins.
    pub(crate) async fn read_dir(
        &self,
        ino: Ino,
        handle: Handle,
        cursor: u64,
        max_bytes: u32,
        with_attributes: bool,
        on_start: impl FnOnce(&Arc<Node>) + Send,
    ) -> FsResult<Vec<DirEntry>> {
        let handle = self.directories.get(handle).ok_or(Errno::EBADF)?;
        if handle.ino != ino {
            return Err(Errno::EBADF.into());
        }
        let node = self.remote.nodes.table.get_or_insert(ino);
        if node.lock().gone().is_some() {
            return Ok(Vec::new());
        }
        let mut listing = handle.listing.lock().await;
        if cursor == 0 {
            listing.restart();
            self.content.note_access(&node);
            on_start(&node);
        }
        let overhead = if with_attributes { ENTRY_PLUS_BYTES } else { ENTRY_BYTES };
        let mut left = max_bytes as usize;
        let mut entries = Vec::new();
        let mut next = cursor + 1;
        while next < FIRST {
            let (name, of) = if next == 1 { (".", ino) } else { ("..", self.parent_of(ino).await?) };
            left = left.saturating_sub(overhead + name.len());
            entries.push(DirEntry {
                name: Bytes::from_static(name.as_bytes()),
                ino: of,
                kind: FileKind::Directory,
                cursor: next,
                entry: None,
            });
            next += 1;
        }
        loop {
            if listing.get(next).is_none() {
                // One page for each answer is enough: the kernel asks again. Nor may what is told of nodes wait for more.
                if next > FIRST.max(cursor + 1) || !self.turn_page(&node, &mut listing, next, with_attributes).await? {
                    break;
                }
                continue;
            }
            let Some((name, link)) = listing.get(next).cloned() else { break };
            let size = overhead + name.as_bytes().len();
            if size > left && !entries.is_empty() {
                break;
            }
            left = left.saturating_sub(size);
            let entry = if with_attributes { self.listed_entry(&node, &name, link) } else { None };
            let name: Bytes = name.into();
            entries.push(DirEntry { name, ino: link.ino, kind: link.kind, cursor: next, entry });
            next += 1;
        }
        Ok(entries)
    }

    /// The directory that holds this one; the root is its own.
    async fn parent_of(&self, ino: Ino) -> FsResult<Ino> {
        if ino == Ino::ROOT {
            return Ok(ino);
        }
        let node = self.remote.nodes.table.get_or_insert(ino);
        if let Some(parent) = self.known_parent(&node) {
            return Ok(parent);
        }
        let reply = match self.remote.query(Query::Parent { directory: ino }, &[&node]).await {
            Ok(reply) => reply,
            // A removed directory that is still open has nothing above it.
            Err(error) if error == Errno::ENOENT || error == Errno::ESTALE => return Ok(ino),
            Err(errno) => return Err(errno),
        };
        self.remote.nodes.absorb(&reply.grants, &[]);
        match reply.answer {
            QueryAnswer::Parent(parent) => Ok(parent),
            other => unfitting(&other),
        }
    }

    /// The directory in which this one is known to be, under that one's lease.
    fn known_parent(&self, node: &Node) -> Option<Ino> {
        let Place { parent, name } = node.lock().place().cloned()?;
        let parent = self.remote.nodes.table.get(parent)?;
        let state = parent.lock();
        let leads_here = matches!(state.directory()?.get(&name), Cached::Present(link) if link.ino == node.ino);
        (leads_here && self.remote.nodes.usable(&state, LeaseMode::Shared)).then_some(parent.ino)
    }

    /// Moves the page so that it holds `cursor`. `false` if the listing ends before it.
    async fn turn_page(
        &self,
        node: &Arc<Node>,
        listing: &mut Listing,
        cursor: u64,
        with_attributes: bool,
    ) -> FsResult<bool> {
        loop {
            let follows = listing.first > 0 && cursor >= listing.end();
            if follows && listing.complete {
                return Ok(false);
            }
            let (first, after) = if follows && let Some((last, _)) = listing.page.last() {
                (listing.end(), Some(last.clone()))
            } else {
                listing.mark(cursor)
            };
            let page = self.page(node, after.clone(), with_attributes).await?;
            if listing.marks.last().is_none_or(|(start, _)| *start < first) {
                listing.marks.push((first, after.clone()));
            }
            collect_page(node, listing, after.is_none(), &page);
            listing.first = first;
            listing.page = page.entries;
            listing.complete = page.complete;
            if listing.get(cursor).is_some() {
                return Ok(true);
            }
            if listing.page.is_empty() {
                return Ok(false);
            }
        }
    }

    /// One page of names after `after`.
    async fn page(&self, node: &Arc<Node>, after: Option<Name>, with_attributes: bool) -> FsResult<Page> {
        let limit = if with_attributes { PAGE_WITH_ATTRIBUTES } else { PAGE_OF_NAMES };
        if let Some(page) = self.cached_page(node, after.as_ref(), limit, with_attributes) {
            return Ok(page);
        }
        self.remote.await_recall(node).await?;
        let (asked, was_covered) = {
            let state = node.lock();
            let epoch = state.directory().map_or(0, DirectoryCache::epoch);
            (epoch, state.covers(LeaseMode::Shared))
        };
        let query = Query::List { directory: node.ino, after, limit, attributes: with_attributes };
        let reply = self.remote.query(query, &[node]).await?;
        let QueryAnswer::List { mut entries, complete } = reply.answer else { return unfitting(&reply.answer) };
        self.remote.nodes.absorb_listed(node.ino, &reply.grants, &mut entries);
        let entries: Vec<(Name, Link)> =
            entries.into_iter().map(|entry| (entry.name, Link { ino: entry.ino, kind: entry.kind })).collect();
        let mut state = node.lock();
        state.note_directory();
        let newer = |grant: &Grant| state.lease().is_newer_than_recalls(grant.stamp);
        let stands = reply.grants.iter().any(|grant| grant.ino == node.ino && newer(grant));
        let covered = state.covers(LeaseMode::Shared) && (was_covered || stands);
        let Some(cache) = state.directory_mut() else { return Err(Errno::ENOTDIR.into()) };
        let epoch = Some(cache.epoch()).filter(|epoch| covered && *epoch == asked);
        if let Some(epoch) = epoch {
            for (name, link) in &entries {
                cache.learn(epoch, name.clone(), Some(*link));
            }
        }
        Ok(Page { entries, complete, epoch })
    }

    /// Fetches all names of a directory that is small, once names in it are asked for that are not known: from then on it
    /// is known, too, which names are free.
    pub(super) async fn learn_small_directory(&self, node: &Arc<Node>, name: &Name) -> FsResult<()> {
        let worthwhile = {
            let mut state = node.lock();
            let entries =
                state.attr().filter(|_| self.remote.nodes.usable(&state, LeaseMode::Shared)).map(|attr| attr.size);
            let at_server = !state.is_ahead();
            match (entries, state.directory_mut()) {
                (Some(entries), Some(cache)) => {
                    at_server && cache.get(name) == Cached::Unknown && cache.is_worth_learning(entries)
                }
                _ => false,
            }
        };
        if !worthwhile {
            return Ok(());
        }
        self.list_all(node).await
    }

    /// Asks for all names of a directory, with attributes, and so learns which names are free in it.
    pub(crate) async fn list_all(&self, node: &Arc<Node>) -> FsResult<()> {
        let mut listing = Listing::default();
        let mut after = None;
        loop {
            let page = self.page(node, after.clone(), true).await?;
            collect_page(node, &mut listing, after.is_none(), &page);
            match page.last_name() {
                Some(last) if listing.is_collecting() => after = Some(last),
                _ => return Ok(()),
            }
        }
    }

    /// A page from the directory's cache, if all names are known, and with attributes all nodes, too.
    fn cached_page(&self, node: &Node, after: Option<&Name>, limit: u32, with_attributes: bool) -> Option<Page> {
        let (entries, complete, epoch) = {
            let state = node.lock();
            if !state.covers(LeaseMode::Shared) || !self.remote.session.leases_valid() {
                return None;
            }
            let cache = state.directory()?;
            let mut rest = cache.listing(after)?;
            let entries: Vec<(Name, Link)> =
                rest.by_ref().take(limit as usize).map(|(name, link)| (name.clone(), link)).collect();
            let complete = rest.next().is_none();
            drop(rest);
            (entries, complete, cache.epoch())
        };
        let known = |link: &Link| {
            self.remote
                .nodes
                .table
                .get(link.ino)
                .is_some_and(|child| self.remote.nodes.usable(&child.lock(), LeaseMode::Shared))
        };
        if with_attributes && !entries.iter().all(|(_, link)| known(link)) {
            return None;
        }
        Some(Page { entries, complete, epoch: Some(epoch) })
    }

    /// The entry of a listed name, if it still leads to that node as far as is known, and the node's attributes are known.
    fn listed_entry(&self, directory: &Node, name: &Name, link: Link) -> Option<Entry> {
        let entry_ttl = {
            let state = directory.lock();
            if !state.covers(LeaseMode::Shared) || !self.remote.session.leases_valid() {
                return None;
            }
            match state.directory().map(|cache| cache.get(name)) {
                Some(Cached::Present(known)) if known.ino == link.ino => self.remote.nodes.entry_time_to_live(&state),
                // Not in the cache although the lease stands: the page was read before it, or too many came after.
                Some(Cached::Unknown) => Duration::ZERO,
                _ => return None,
            }
        };
        let node = self.remote.nodes.table.get(link.ino)?;
        let mut state = node.lock();
        if !self.remote.nodes.usable(&state, LeaseMode::Shared) || state.life() != Life::Named {
            return None;
        }
        let attr = state.view()?;
        state.add_reference();
        state.set_first_place(directory.ino, name);
        Some(Entry { attr, attr_ttl: self.remote.nodes.time_to_live(&state), entry_ttl })
    }
}

/// Adds a page to what is collected for the directory's cache, and hands that over when it is whole.
fn collect_page(node: &Node, listing: &mut Listing, from_start: bool, page: &Page) {
    let Some(epoch) = page.epoch else {
        listing.collected = None;
        return;
    };
    if from_start {
        listing.collected = Some((epoch, Vec::new()));
    }
    let Some((begun, collected)) = &mut listing.collected else { return };
    if *begun != epoch || collected.len() + page.entries.len() > COLLECT_MAX {
        listing.collected = None;
        return;
    }
    collected.extend(page.entries.iter().cloned());
    if page.complete
        && let Some((epoch, collected)) = listing.collected.take()
    {
        let mut state = node.lock();
        if state.covers(LeaseMode::Shared)
            && let Some(cache) = state.directory_mut()
        {
            cache.learn_all(epoch, collected);
        }
    }
}
