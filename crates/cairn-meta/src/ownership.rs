//! Whose volume it is: a number that each opening raises, and that every commit shows.
//!
//! A lock on a directory keeps a second process of the same machine out. It says nothing to a store that several machines
//! reach, nor to an owner that was given up for dead and comes back. So the number (the *epoch*) of whoever opened the volume
//! last is a row of the volume, and a commit is applied only while that row has the committer's number: the store compares
//! and commits in one step. Whoever was superseded cannot add a row any more, and so no blob of his becomes visible.
//!
//! A volume that was never opened has no such row: epoch 0. Programs that know no epochs leave the row alone.

use crate::error::StoreError;
use crate::kv::{Condition, Reader};
use crate::layout;
use crate::record::{decode_epoch, encode_epoch};

/// Follows a row that does not decode: larger than any number of openings.
const AFTER_DAMAGE: u64 = 1 << 40;

/// A claim to a volume. It is good until the next one is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    epoch: u64,
    /// The row as the store has it; `None` if there is none.
    row: Option<Vec<u8>>,
}

impl Ownership {
    /// How often the volume has been opened, this time included; 0 for one that was just made.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Of the one who makes the volume.
    pub(crate) fn maker() -> Self {
        Ownership { epoch: 0, row: None }
    }

    /// Whoever owned the volume last.
    pub(crate) fn last(reader: &dyn Reader) -> Result<Self, StoreError> {
        let Some(row) = reader.get(layout::OWNER)? else { return Ok(Self::maker()) };
        let epoch = decode_epoch(&row).unwrap_or_else(|| {
            tracing::error!("the row of the volume's owner does not decode; the volume is taken over all the same");
            AFTER_DAMAGE
        });
        Ok(Ownership { epoch, row: Some(row) })
    }

    /// Whoever comes after this owner.
    pub(crate) fn next(&self) -> Self {
        let epoch = self.epoch.saturating_add(1);
        Ownership { epoch, row: Some(encode_epoch(epoch)) }
    }

    /// The row as it must be for this owner to commit.
    pub(crate) fn condition(&self) -> Condition<'_> {
        Condition { key: layout::OWNER, value: self.row.as_deref() }
    }

    /// The row as this owner leaves it.
    pub(crate) fn row(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        (layout::OWNER.to_vec(), self.row.clone())
    }
}
