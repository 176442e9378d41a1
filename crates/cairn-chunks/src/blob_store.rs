//! What the engine of a volume asks of whatever keeps its blobs.
//!
//! A store keeps blobs in packs and knows where they are, never what they mean. It need not have files: a pack may be an
//! object that never changes once it is written. What only some stores can do is a capability that they offer.
//!
//! - What [`BlobStore::append`] returned can be read at once, and is on stable storage once a [`BlobStore::sync`] that began
//!   afterwards has returned.
//! - Nothing that a sync covered is ever lost, and opening a store finds again what it can of the rest ([`Recovery`]).
//! - Damaged bytes are never passed off as good ones: a read carries the checksums that the blob's maker computed.
//! - Space comes back by [`BlobStore::free`] and, where the store offers it, by [`Compact`].
//!
//! All calls block, and may come from any thread.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use cairn_types::{BlobId, BlobPlace, Ino, PackId};

use crate::append::NewBlob;
use crate::compact::Compaction;
use crate::error::{ChunkError, Problem};
use crate::read::{LocatedBlob, ReadBlob};
use crate::reclaim::{Freed, PackStats};
use crate::recover::Recovery;

/// What a read may have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Whatever the store keeps its blobs on.
    Storage,
    /// Nothing: bytes that are in memory, or [`ChunkError::NotInMemory`].
    Never,
}

/// A blob that a store has; it need not be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    pub blob: BlobId,
    /// File and chunk that it was first written for.
    pub ino: Ino,
    pub chunk: u32,
    pub place: BlobPlace,
}

/// Room where a store keeps its blobs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    pub free: u64,
    pub total: u64,
}

/// The blobs of a pack, in no order that is promised; ends after an error.
pub type StoredBlobs = Box<dyn Iterator<Item = Result<StoredBlob, ChunkError>> + Send>;

/// Keeps blobs.
pub trait BlobStore: Debug + Send + Sync {
    /// Appends blobs, together. All or nothing: after an error none of them is stored.
    ///
    /// # Errors
    /// [`ChunkError::DamagedOnArrival`] or [`ChunkError::BadLength`] for a blob that is refused, [`ChunkError::Full`],
    /// [`ChunkError::Poisoned`] after a failed sync, [`ChunkError::Io`].
    fn append(&self, blobs: &[NewBlob]) -> Result<Vec<BlobPlace>, ChunkError>;

    /// Reads bytes `range` of a blob without verifying them; see [`ReadBlob`].
    ///
    /// # Errors
    /// [`ChunkError::Gone`] if the place was freed, also while this read was under way: look the blob up again.
    /// [`ChunkError::NotInMemory`] where it would have to wait and must not. [`ChunkError::Damaged`] if the blob is not
    /// there. [`ChunkError::OutOfRange`], [`ChunkError::ImpossiblePlace`] for a caller's mistake.
    fn read(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>, wait: Wait) -> Result<ReadBlob, ChunkError>;

    /// Checks everything about a blob.
    ///
    /// # Errors
    /// [`ChunkError::Damaged`] says what is wrong; else as for [`BlobStore::read`].
    fn verify(&self, blob: BlobId, place: &BlobPlace) -> Result<(), ChunkError>;

    /// Checks a pack and, as [`BlobStore::verify`] does, every blob that the caller knows to be live in it. Blobs that are
    /// freed meanwhile are passed over.
    ///
    /// # Errors
    /// Damage is not an error here. [`ChunkError::NoSuchPack`], [`ChunkError::Io`] as they come.
    fn verify_pack(&self, pack: PackId, live: &[(BlobId, BlobPlace)]) -> Result<Vec<Problem>, ChunkError>;

    /// Makes everything durable whose append returned before this call. Returns up to where every pack that this covered
    /// is durable, in bytes: what [`BlobStoreOpener::open`] wants to be told.
    ///
    /// # Errors
    /// [`ChunkError::Poisoned`] if this or an earlier sync failed.
    fn sync(&self) -> Result<Vec<(PackId, u64)>, ChunkError>;

    /// What was appended since the last sync and the last call of this, encoded for [`BlobStoreOpener::restore_tails`], if that
    /// is at most `most` bytes: the caller now has to store it durably along with its metadata, or to sync. `None` if it is
    /// more, or if the store offers no such thing: then only a sync will do.
    fn take_tails(&self, most: u64) -> Option<Vec<u8>> {
        let _ = most;
        None
    }

    /// Gives back the space of dead blobs. Call it only when no durable metadata refers to them any more. Whoever reads one
    /// of them from now on gets [`ChunkError::Gone`]. Freeing a place twice does no harm, nor does freeing one in a pack
    /// that is gone. Meant for many places at a time.
    ///
    /// # Errors
    /// [`ChunkError::ImpossiblePlace`], before anything was freed. [`ChunkError::Io`]; the places count as freed even then.
    fn free(&self, places: &[BlobPlace]) -> Result<Freed, ChunkError>;

    /// All packs, in the order of their numbers.
    fn packs(&self) -> Vec<PackId>;

    /// Every blob that can be recognised in a pack.
    ///
    /// # Errors
    /// [`ChunkError::NoSuchPack`], [`ChunkError::NewerVersion`], [`ChunkError::Io`].
    fn blobs(&self, pack: PackId) -> Result<StoredBlobs, ChunkError>;

    /// Bytes of storage that all packs take.
    fn stored_bytes(&self) -> Result<u64, ChunkError>;

    /// Room that is left; `None` if there is no limit, or it cannot be found out.
    fn capacity(&self) -> Option<Capacity>;

    /// For clients on this host that read by themselves, if the store has files.
    fn short_circuit(&self) -> Option<&dyn ShortCircuit> {
        None
    }

    /// For packs of which little is alive, if rewriting them gains anything.
    fn compaction(&self) -> Option<&dyn Compact> {
        None
    }
}

/// Blobs that lie in files, which somebody else may read.
pub trait ShortCircuit {
    /// Says where bytes `range` of a blob lie, reading at most what tells of it.
    ///
    /// # Errors
    /// As for [`BlobStore::read`].
    fn locate(&self, blob: BlobId, place: &BlobPlace, range: Range<u32>) -> Result<LocatedBlob, ChunkError>;

    /// The pack's file, opened anew and for reading only.
    ///
    /// # Errors
    /// [`ChunkError::NoSuchPack`], [`ChunkError::Io`].
    fn open_pack_file(&self, pack: PackId) -> Result<File, ChunkError>;
}

/// Packs that can be rewritten without their dead blobs: sealed, their live blobs copied, then deleted.
pub trait Compact {
    /// What every pack takes, in the order of their numbers.
    ///
    /// # Errors
    /// [`ChunkError::Io`].
    fn pack_stats(&self) -> Result<Vec<PackStats>, ChunkError>;

    /// Lets a pack take no more blobs. If nothing in it is alive it is deleted at once.
    ///
    /// # Errors
    /// [`ChunkError::NoSuchPack`], [`ChunkError::Io`].
    fn seal(&self, pack: PackId) -> Result<(), ChunkError>;

    /// Copies the live blobs of a sealed pack to others. `is_live` is asked once for each. The caller then lets its metadata
    /// point to the new places, and when that is durable, frees the old ones.
    ///
    /// # Errors
    /// Before anything was copied: [`ChunkError::NotSealed`], [`ChunkError::NoSuchPack`], [`ChunkError::Io`]. Later ones are
    /// in [`Compaction::stopped_by`].
    fn compact(
        &self,
        pack: PackId,
        is_live: &mut dyn FnMut(BlobId, &BlobPlace) -> bool,
    ) -> Result<Compaction, ChunkError>;

    /// Deletes a sealed pack with everything in it. Nothing may refer to it, nor be about to.
    ///
    /// # Errors
    /// [`ChunkError::NotSealed`], [`ChunkError::NoSuchPack`], [`ChunkError::Io`].
    fn delete(&self, pack: PackId) -> Result<(), ChunkError>;
}

/// Where a store is, before it is open.
pub trait BlobStoreOpener: Send + Sync {
    /// Puts back what [`BlobStore::take_tails`] gave, durably, before the store is opened. Packs that are no more need
    /// none.
    ///
    /// # Errors
    /// What the storage says; `InvalidData` for what [`BlobStore::take_tails`] did not make.
    fn restore_tails(&self, tails: &[u8]) -> io::Result<()>;

    /// Opens the store, or makes an empty one, and looks for blobs that were appended after the last durable commit of the
    /// metadata. `known` is what the metadata know of each pack: up to where [`BlobStore::sync`] had made it durable.
    ///
    /// # Errors
    /// [`ChunkError::NewerVersion`], [`ChunkError::Io`]. Damage is a [`Problem`] of the [`Recovery`].
    fn open(&self, known: &[(PackId, u64)]) -> Result<(Arc<dyn BlobStore>, Recovery), ChunkError>;
}
