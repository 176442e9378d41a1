//! Before a volume is opened: rows that opening needs and that do not decode.
//!
//! One damaged row of a session or a pack must not keep a whole volume shut. Both can be done without: a session whose
//! row says nothing any more is ended like one that does not come back, and a pack's row is counted anew from the
//! rows of its blobs. What was found is told, so that `fsck` is run over the rest.
//!
//! A pack counted anew has no durable length: it is read through at opening like a pack that was never recorded.

use std::collections::BTreeMap;
use std::fmt;

use cairn_types::PackId;

use crate::check::cursor::Cursor;
use crate::error::{ApplyError, StoreError};
use crate::kv::Durability;
use crate::layout;
use crate::record::{BlobRecord, PackRecord, SessionRecord};
use crate::store::VolumeStore;

/// How many rows did not decode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// Sessions that were ended.
    pub sessions: usize,
    /// Packs that were counted anew.
    pub packs: usize,
}

impl Salvage {
    pub fn is_empty(self) -> bool {
        self == Salvage::default()
    }
}

impl fmt::Display for Salvage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "damaged metadata were found when the volume was opened ({} sessions were ended, {} packs counted anew): \
             run `cairn fsck --data`",
            self.sessions, self.packs
        )
    }
}

impl VolumeStore {
    /// Replaces rows of sessions and packs that do not decode, durably. Does nothing to a sound volume.
    pub fn salvage(&self) -> Result<Salvage, StoreError> {
        let snapshot = self.snapshot();
        let mut sessions = Cursor::new(&snapshot, layout::space(layout::SESSIONS), |key, value| {
            layout::parse_session(key).and(SessionRecord::decode(value)).map(drop)
        });
        let mut lost_sessions = Vec::new();
        while let Some(row) = sessions.take()? {
            lost_sessions.extend(row.err());
        }
        let mut packs = Cursor::new(&snapshot, layout::space(layout::PACKS), |key, value| {
            layout::parse_pack(key).and(PackRecord::decode(value)).map(drop)
        });
        let mut lost_packs = Vec::new();
        while let Some(row) = packs.take()? {
            lost_packs.extend(row.err());
        }
        let found = Salvage { sessions: lost_sessions.len(), packs: lost_packs.len() };
        if found.is_empty() {
            return Ok(found);
        }
        let mut counted: BTreeMap<PackId, PackRecord> = BTreeMap::new();
        counted.extend(lost_packs.iter().filter_map(|key| Some((layout::parse_pack(key)?, PackRecord::default()))));
        if !counted.is_empty() {
            let mut blobs = Cursor::new(&snapshot, layout::space(layout::BLOBS), |_, value| BlobRecord::decode(value));
            while let Some(row) = blobs.take()? {
                // Rows of blobs that do not decode are for `fsck`.
                let Ok(BlobRecord { place, .. }) = row else { continue };
                if let Some(pack) = counted.get_mut(&place.pack) {
                    pack.live_bytes += u64::from(place.stored_len);
                    pack.live_blobs += 1;
                }
            }
        }
        let mut batch = self.begin()?;
        for key in &lost_packs {
            let row = layout::parse_pack(key).and_then(|pack| counted.get(&pack)).map(PackRecord::encode);
            tracing::error!(key = %key.escape_ascii(), "the row of a pack does not decode; its blobs are counted anew");
            batch.set_row(key.clone(), row);
        }
        for key in &lost_sessions {
            tracing::error!(key = %key.escape_ascii(), "the row of a session does not decode; the session is ended");
            match layout::parse_session(key).map(|session| batch.remove_session(session)) {
                None => batch.set_row(key.clone(), None),
                Some(Ok(())) => {}
                Some(Err(ApplyError::Store(error))) => return Err(error),
                // What it kept alive is damaged, too; the row is gone all the same, and `fsck` sees to the rest.
                Some(Err(ApplyError::Refused(errno))) => {
                    tracing::error!(?errno, "what a lost session kept alive cannot be let go");
                    batch.set_row(key.clone(), None);
                }
            }
        }
        batch.commit(Durability::Durable)?;
        Ok(found)
    }
}
