//! Figures of a session, for `cairn stats`. Counting never waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_types::SessionId;

use super::Inner;
use super::pending::Phase;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) requests: AtomicU64,
    pub(super) recalls: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) blobs_written: AtomicU64,
    pub(super) blob_bytes_written: AtomicU64,
    pub(super) blob_bytes_read: AtomicU64,
    pub(super) damaged_parts: AtomicU64,
    pub(super) blob_bytes_from_packs: AtomicU64,
    pub(super) packs_left: AtomicU64,
}

/// A session at one moment.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// `None` while a fenced session has no successor yet.
    pub session: Option<SessionId>,
    pub connected: bool,
    /// The server stayed away for so long that requests fail.
    pub gave_up: bool,
    pub lease_time_left: Option<Duration>,
    /// Requests without an answer.
    pub pending: u64,
    /// Changes that are applied but not durable.
    pub not_durable: u64,
    /// Frames sent on the control connection.
    pub requests: u64,
    /// Leases called back.
    pub recalls: u64,
    pub reconnects: u64,
    pub fencings: u64,
    pub blobs_written: u64,
    pub blob_bytes_written: u64,
    pub blob_bytes_read: u64,
    /// Parts of blobs that did not match their checksums.
    pub damaged_parts: u64,
    /// Whether blobs are read from the server's pack files, in words.
    pub short_circuit: String,
    /// Bytes that were read from pack files.
    pub blob_bytes_from_packs: u64,
    /// Times that a pack file had not (any more) what was looked for there, so that the server was asked instead.
    pub packs_left: u64,
}

pub(super) fn status(inner: &Inner) -> SessionStatus {
    let counters = &inner.counters;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let short_circuit = super::data::short_circuit_state(inner);
    let state = inner.state.lock();
    SessionStatus {
        session: state.resume.map(|resume| resume.session),
        connected: state.phase == Phase::Connected,
        gave_up: state.phase == Phase::GaveUp,
        lease_time_left: inner.clock.left(),
        pending: state.pending.len() as u64,
        not_durable: state.replay.len() as u64,
        requests: get(&counters.requests),
        recalls: get(&counters.recalls),
        reconnects: get(&counters.reconnects),
        fencings: inner.generation(),
        blobs_written: get(&counters.blobs_written),
        blob_bytes_written: get(&counters.blob_bytes_written),
        blob_bytes_read: get(&counters.blob_bytes_read),
        damaged_parts: get(&counters.damaged_parts),
        short_circuit,
        blob_bytes_from_packs: get(&counters.blob_bytes_from_packs),
        packs_left: get(&counters.packs_left),
    }
}
