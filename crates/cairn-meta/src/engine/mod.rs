//! What the file tree asks of an ordered key-value engine, and nothing more.
//!
//! One keyspace of byte strings in bytewise order. One writer: a set of changes is applied whole or not at all.
//! Readers see the state of one commit for as long as they live. Concurrency control, caching of meaning and counters
//! are the tree's own, so that an engine over an object store can take the place of the embedded one.

mod log;
mod memory;
mod redb;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

pub use self::memory::MemoryEngine;
pub use self::redb::{RedbEngine, Restore};
use crate::error::StoreError;

/// Changes of one commit, in the order of keys; `None` deletes.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Called for each row of a scan with key and value; `Break` ends the scan.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// The state of one commit.
pub trait Reader: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits the rows with `from <= key < until` in order.
    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError>;
}

/// An ordered store with atomic commits.
pub trait Engine: Send + Sync {
    /// The state of the last commit, durable or not.
    fn reader(&self) -> Result<std::sync::Arc<dyn Reader>, StoreError>;
    /// Applies `changes` atomically. With `durable`, this and every earlier commit is on stable storage on return;
    /// without, a crash returns to the last durable commit.
    fn commit(&self, changes: &Changes, durable: bool) -> Result<(), StoreError>;
    /// Applies `changes` atomically and puts this and every earlier commit on stable storage the short way, in a log, together with
    /// `attachment`: whoever opens the engine after a crash gets the changes back, and is handed the attachments, in their
    /// order. `false` if that is not possible now: then the changes are applied, and a durable commit is needed.
    fn commit_logged(&self, changes: &Changes, attachment: &[u8]) -> Result<bool, StoreError>;
    /// Bytes on disk.
    fn stored_bytes(&self) -> Result<u64, StoreError>;
}
