//! What the file tree asks of an ordered key-value store, and nothing more.
//!
//! One keyspace of byte strings in bytewise order. A set of changes is applied whole or not at all, and only while one row
//! has the value that the writer expects ([`Condition`]): who no longer owns a volume cannot change it. Readers see the
//! state of one commit for as long as they live.
//!
//! Nothing here assumes a file, a disk or a log: where a store keeps its rows is known to its [`Opener`] alone. Caching
//! of meaning and counters are the tree's own.

mod local;
mod log;
mod memory;
mod redb;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

pub use self::local::LocalOpener;
pub use self::memory::MemoryStore;
use crate::error::StoreError;

/// Changes of one commit, in the order of keys; `None` deletes.
pub type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Called for each row of a scan with key and value; `Break` ends the scan.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Takes what was attached to commits ([`Durability::DurableWith`]), while they are being brought back. It must be on stable
/// storage on return.
pub type Restore<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// What must hold for a commit to be applied: row `key` has this value, or is absent (`None`).
#[derive(Clone, Copy, Debug)]
pub struct Condition<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// How safe a commit is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability<'a> {
    /// Readers see it; a crash may undo it, back to the last commit that is not only buffered.
    Buffered,
    /// It and every earlier commit are on stable storage.
    Durable,
    /// As `Durable`, together with these bytes, the sooner the better: whoever opens the store after a crash is handed the
    /// attachments of all commits since the last `Durable` one, in their order. A store that cannot do that now answers
    /// [`Reached::Buffered`].
    DurableWith(&'a [u8]),
}

/// How safe a commit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reached {
    /// A crash may undo it.
    #[default]
    Buffered,
    /// It is on stable storage together with its attachment, which is needed until a [`Durability::Durable`] commit.
    Attached,
    /// It is on stable storage, and so must have been by then whatever was attached.
    Durable,
}

/// The state of one commit.
pub trait Reader: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
    /// Visits the rows with `from <= key < until` in order.
    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError>;
}

/// An ordered store with atomic, conditional commits.
pub trait KeyValueStore: Send + Sync {
    /// The state of the last commit, durable or not.
    fn reader(&self) -> Result<Arc<dyn Reader>, StoreError>;

    /// Applies `changes` atomically if `condition` holds, and says how safe they are then: at least what was asked for, or
    /// `Buffered` where an attachment cannot be stored now; then everything is applied, and a `Durable` commit is needed.
    ///
    /// # Errors
    /// [`StoreError::Superseded`] if the condition does not hold: nothing is applied then.
    fn commit(
        &self,
        condition: Condition<'_>,
        changes: &Changes,
        durability: Durability<'_>,
    ) -> Result<Reached, StoreError>;

    /// Bytes of storage that it takes.
    fn stored_bytes(&self) -> Result<u64, StoreError>;
}

/// Where a store is, before it is open.
pub trait Opener: Send + Sync {
    /// Makes an empty store. [`StoreError::Exists`] if there is one.
    fn create(&self) -> Result<Box<dyn KeyValueStore>, StoreError>;

    /// Opens the store at its last commit that was not only buffered, and hands to `restore` what was attached since the
    /// last `Durable` one.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Locked`], and what reading it fails with.
    fn open(&self, restore: &mut Restore<'_>) -> Result<Box<dyn KeyValueStore>, StoreError>;
}
