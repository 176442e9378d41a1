//! Blobs in packs on disk: append, ranged read, verify, reclaim.
//!
//! A *blob* is immutable bytes, written once; a *pack* is an append-only file of them ([`mod@format`] has its bytes). A
//! [`PackStore`] is one directory of packs. It knows where bytes are, never what they mean: which blob lies where is
//! kept by the metadata layer, as a [`BlobPlace`](cairn_types::BlobPlace) for each. Whoever uses it knows it as a
//! [`BlobStore`], so that a store of immutable objects can stand in; [`MemoryBlobs`] is one, for tests.
//!
//! What it promises, and to whom:
//!
//! - What [`PackStore::append`] returned can be read at once, and is on stable storage once a [`PackStore::sync`] that
//!   began afterwards has returned. Appends run in parallel, each in a pack of its own; a pack is only ever written at
//!   its end, by one thread at a time.
//! - Nothing that a successful sync covered is ever cut off, whatever is found behind or in it. [`PackStore::open`]
//!   finds again every intact blob behind it, so that a killed server loses no blob whose append had returned.
//! - Damaged bytes are never passed off as good ones: every read carries the checksums that their maker computed,
//!   over the record's verified header.
//! - Space comes back by [`PackStore::free`] (holes, and packs that are wholly dead) and [`PackStore::compact`].
//!
//! All calls block. Locks are held only around memory and, for the one pack that a thread appends to, its own write.

mod append;
mod blob_store;
mod compact;
mod dead;
mod error;
mod files;
pub mod format;
mod local;
mod lock_order;
mod memory;
mod place;
mod read;
mod reclaim;
mod recover;
mod scan;
mod store;
mod sync;
mod sys;
mod tails;
#[cfg(test)]
mod tests;

pub use append::NewBlob;
pub use blob_store::{BlobStore, BlobStoreOpener, Capacity, Compact, ShortCircuit, StoredBlob, StoredBlobs, Wait};
pub use compact::{Compaction, Move};
pub use error::{ChunkError, Poison, Problem, ProblemKind};
pub use local::LocalPacks;
pub use memory::MemoryBlobs;
pub use read::{LocatedBlob, ReadBlob};
pub use reclaim::{Freed, PackStats};
pub use recover::{Cut, Recovery};
pub use scan::{Scan, ScanItem, ScannedRecord};
pub use store::{Options, PackStore};
pub use tails::restore_tails;
