//! What a volume says of itself: settings, fill, sessions.

use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_wire::admin::{SessionStatus, VolumeInfo};
use cairn_wire::message::Usage;

use crate::Inner;
use crate::lock_order;

/// For how long the bytes that packs take are not counted again: it costs a system call for each pack.
const STORED_FRESH: Duration = Duration::from_secs(1);

/// Bytes on disk of all packs, and when they were counted.
#[derive(Debug, Default)]
pub(crate) struct StoredBytes(Mutex<Option<(Instant, u64)>, lock_order::StoredBytes>);

/// Settings as they stand. Once the volume is closed, its id is all that is known.
pub(crate) fn info(inner: &Inner) -> VolumeInfo {
    let snapshot = inner.snapshot().ok();
    let config = snapshot.as_ref().map(cairn_meta::Snapshot::config);
    VolumeInfo {
        id: inner.id.clone(),
        name: config.map(|config| config.name.clone()).unwrap_or_default(),
        bytes_limit: config.map_or(0, |config| config.bytes_limit),
        inodes_limit: config.map_or(0, |config| config.inodes_limit),
        data_center: config.map(|config| config.data_center.clone()).unwrap_or_default(),
        chunk_size: config.map_or(0, |config| config.chunk_size),
        created: config.map_or(0, |config| config.created),
        profile: config.map(|config| config.profile.clone()).unwrap_or_default(),
        allocation: config.map(|config| config.allocation).unwrap_or_default(),
    }
}

impl Inner {
    pub(crate) fn usage(&self) -> Usage {
        let usage = self.snapshot().ok().and_then(|snapshot| snapshot.usage().ok());
        let mut figures = Usage {
            bytes_stored: self.stored_bytes(),
            bytes_metadata: self.store().and_then(|store| store.stored_bytes().ok()).unwrap_or(0),
            disk_free: self.disk.free(),
            ..Usage::default()
        };
        if let Some(usage) = usage {
            figures.bytes_used = usage.bytes_used;
            figures.bytes_limit = usage.bytes_limit;
            figures.inodes_used = usage.inodes_used;
            figures.inodes_limit = usage.inodes_limit;
        }
        figures
    }

    fn stored_bytes(&self) -> u64 {
        if let Some((counted, bytes)) = *self.stored.0.lock()
            && counted.elapsed() < STORED_FRESH
        {
            return bytes;
        }
        let bytes = self.blob_store.stored_bytes().unwrap_or_else(|error| {
            tracing::warn!(volume = %self.id, %error, "the packs' sizes cannot be read");
            0
        });
        *self.stored.0.lock() = Some((Instant::now(), bytes));
        bytes
    }

    pub(crate) fn session_list(&self) -> Vec<SessionStatus> {
        let describe = |session: &crate::sessions::Session| SessionStatus {
            session: session.id,
            volume: self.id.clone(),
            info: session.info(),
            peer: session.peer(),
            connected: session.is_connected(),
            silent_ms: self.sessions.silence(session).as_millis() as u64,
            leases: self.leases.with(|table| table.count(session.id)) as u64,
            open_files: self.open_files.count(session.id) as u64,
            locks: self.locks.count(session.id) as u64,
        };
        self.sessions.all().iter().map(|session| describe(session)).collect()
    }
}
