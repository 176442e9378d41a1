//! The nodes that are known here, and whether what is known of them may be used now.
//!
//! Under the operations and everything that runs in the background: it takes over what the server says and tells what may be
//! said of a node. It asks the server nothing and changes nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cairn_types::{Attr, Ino, LeaseMode};
use cairn_wire::message::{Grant, ListEntry};

use crate::api::{AttrReply, Entry, KernelCache};
use crate::node::table::Table;
use crate::node::{Node, NodeState};
use crate::session::Session;

/// The front end's caches, once it is there.
pub(crate) type Kernel = Arc<OnceLock<Arc<dyn KernelCache>>>;

/// The table of nodes, and the session whose leases they are under.
pub(crate) struct NodeCache {
    pub table: Table,
    session: Session,
    kernel: Kernel,
    chunk_size: u32,
}

impl NodeCache {
    pub(crate) fn new(session: Session, kernel: Kernel) -> Self {
        let chunk_size = session.volume().chunk_size;
        NodeCache { table: Table::new(), session, kernel, chunk_size }
    }

    /// The front end's caches, once it is there.
    pub(crate) fn kernel(&self) -> Option<&Arc<dyn KernelCache>> {
        self.kernel.get()
    }

    /// Bytes.
    pub(crate) fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Whether what `state` holds under `mode` may be answered from here now.
    pub(crate) fn usable(&self, state: &NodeState, mode: LeaseMode) -> bool {
        state.holds(mode) && self.session.leases_valid()
    }

    /// For how long the kernel may keep what is said of a node.
    pub(crate) fn time_to_live(&self, state: &NodeState) -> Duration {
        if state.covers(LeaseMode::Shared) && !state.is_recalled() {
            self.session.lease_time_left().unwrap_or_default()
        } else {
            Duration::ZERO
        }
    }

    /// As [`NodeCache::time_to_live`], for the names in a directory.
    pub(crate) fn entry_time_to_live(&self, directory: &NodeState) -> Duration {
        match self.kernel.get() {
            Some(kernel) if kernel.can_expire_entries() => self.time_to_live(directory),
            _ => Duration::ZERO,
        }
    }

    /// Takes over leases and attributes that came with one answer.
    pub(crate) fn absorb(&self, grants: &[Grant], attrs: &[Attr]) {
        // Listings bring a thousand of each.
        let told: HashMap<Ino, &Attr> = attrs.iter().map(|attr| (attr.ino, attr)).collect();
        let mut granted = HashSet::with_capacity(grants.len());
        for grant in grants {
            let node = self.table.get_or_insert(grant.ino);
            let mut state = node.lock();
            let stands = state.grant(*grant);
            if let Some(attr) = told.get(&grant.ino) {
                state.learn_attr(attr, stands, self.chunk_size);
            }
            granted.insert(grant.ino);
        }
        for attr in attrs.iter().filter(|attr| !granted.contains(&attr.ino)) {
            if let Some(node) = self.table.get(attr.ino) {
                node.lock().learn_attr(attr, false, self.chunk_size);
            }
        }
    }

    /// Takes over the nodes of a listing.
    pub(crate) fn absorb_listed(&self, directory: Ino, grants: &[Grant], entries: &mut [ListEntry]) {
        let attrs: Vec<Attr> = entries.iter().filter_map(|entry| entry.attr).collect();
        self.absorb(grants, &attrs);
        for entry in entries {
            if let (Some(attr), Some(node)) = (&entry.attr, self.table.get(entry.ino)) {
                let mut state = node.lock();
                if let Some(content) = entry.content.take() {
                    state.learn_small_content(attr, content);
                }
                state.set_first_place(directory, &entry.name);
            }
        }
    }

    /// What to say of a node of which the server has just said `attr`: with what is buffered here, if a lease covers it.
    pub(crate) fn told(&self, node: &Node, attr: &Attr) -> AttrReply {
        self.told_of(&node.lock(), attr)
    }

    fn told_of(&self, state: &NodeState, attr: &Attr) -> AttrReply {
        match state.view() {
            Some(view) if self.usable(state, LeaseMode::Shared) => {
                AttrReply { attr: view, ttl: self.time_to_live(state) }
            }
            _ => AttrReply { attr: *attr, ttl: Duration::ZERO },
        }
    }

    /// An entry for the kernel, which counts a reference to the node. It must be answered without any more waiting: a recall
    /// waits until the kernel has taken it in.
    pub(crate) fn entry(&self, attr: &Attr, entry_ttl: Duration) -> Entry {
        let node = self.table.get_or_insert(attr.ino);
        let mut state = node.lock();
        // With the lock kept: a recall either comes before, and nothing may be relied on, or finds the reference.
        let reply = self.told_of(&state, attr);
        state.add_reference();
        state.expect_open();
        drop(state);
        Entry { attr: reply.attr, attr_ttl: reply.ttl, entry_ttl }
    }
}
