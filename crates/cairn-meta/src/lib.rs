//! The file tree of one volume: nodes, names, extents, references, sessions and counters, in an ordered key-value
//! store.
//!
//! Blocking and without a lock of its own beyond "one batch at a time": whoever uses it brings the threads. Bytes of
//! files are not here, only where they lie. Permission checks are the kernel's; every other rule of POSIX that a file
//! system must keep is in `ops`.
//!
//! From below: [`kv`] (bytes to bytes), `layout` and `record` (what a row's key and value say), `view` and `edit`
//! (typed rows, counters kept in step), `ops` (one module for each verb), then [`VolumeStore`] with [`Snapshot`] and
//! [`Batch`], [`Ownership`] (who may commit), `salvage` for what keeps a volume from opening, and [`check`], which proves all invariants from scratch.

mod batch;
pub mod check;
mod edit;
mod error;
pub mod kv;
mod layout;
mod lock_order;
mod ops;
mod ownership;
mod record;
mod salvage;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod view;

pub use batch::{Applied, ApplyContext, Batch, CommitOutcome, FRAGMENTS_MAX};
pub use error::{ApplyError, StoreError};
pub use kv::{Durability, Reached};
pub use ownership::Ownership;
pub use record::{BlobRecord, PackRecord, SessionRecord, VolumeConfig, VolumeRecord};
pub use salvage::Salvage;
pub use snapshot::{SeekTarget, Snapshot, VolumeUsage};
pub use store::VolumeStore;
