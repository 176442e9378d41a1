//! What a mount says of itself to `cairn stats`: who it is, what the kernel asked, what the caches did.

use std::sync::Weak;

use cairn_client::WeakVolume;
use cairn_emulation::Paced;
use cairn_fuse::Mount;
use cairn_types::Profile;
use serde_json::{Map, Value};

/// Key of the line that says which way requests come from the kernel, and why.
pub(crate) const TRANSPORT: &str = "transport";

/// Key of the mount's profile.
pub(crate) const PROFILE: &str = "profile";

/// What a mount emulates, and what that held back so far.
pub(crate) struct Emulation {
    pub(crate) profile: Profile,
    /// `None` where requests pass unchanged.
    pub(crate) paced: Option<Box<dyn Fn() -> Paced + Send + Sync>>,
}

/// Key of the line that says whether file content is read from the server's files, and if not, why.
pub(crate) const SHORT_CIRCUIT: &str = "short_circuit";

/// The report as JSON, in the order in which people read it.
pub(crate) fn json(volume: &WeakVolume, mount: &Weak<Mount>, emulation: &Emulation) -> Vec<u8> {
    let mut report = Map::new();
    report.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    report.insert("pid".into(), std::process::id().into());
    if let Some(mount) = mount.upgrade() {
        report.insert(TRANSPORT.into(), mount.transport().to_string().into());
    }
    report.insert(PROFILE.into(), emulation.profile.to_string().into());
    if let Some(paced) = &emulation.paced {
        let Paced { operations, microseconds, quirks } = paced();
        report.insert("profile_delayed_operations".into(), operations.into());
        report.insert("profile_delay_us".into(), microseconds.into());
        report.insert("profile_quirks".into(), quirks.into());
    }
    if let Some(volume) = volume.upgrade() {
        let info = volume.info();
        report.insert("volume".into(), info.id.as_str().into());
        report.insert("name".into(), info.name.clone().into());
        for (name, value) in volume.stats().list() {
            report.insert(name.into(), value.into());
        }
        let session = volume.session().status();
        report.insert("session".into(), session.session.map_or(Value::Null, |session| session.0.into()));
        report.insert("connected".into(), session.connected.into());
        let lease_ms = session.lease_time_left.map_or(Value::Null, |left| (left.as_millis() as u64).into());
        report.insert("lease_time_left_ms".into(), lease_ms);
        report.insert(SHORT_CIRCUIT.into(), session.short_circuit.into());
        for (name, value) in [
            ("requests_sent", session.requests),
            ("requests_pending", session.pending),
            ("changes_not_durable", session.not_durable),
            ("leases_recalled", session.recalls),
            ("reconnects", session.reconnects),
            ("fencings", session.fencings),
            ("damaged_parts", session.damaged_parts),
            ("blob_bytes_from_packs", session.blob_bytes_from_packs),
            ("packs_left", session.packs_left),
        ] {
            report.insert(name.into(), value.into());
        }
    }
    if let Some(mount) = mount.upgrade() {
        for (kind, count) in mount.statistics().errors() {
            report.insert(format!("errors_{}", kind.name()), count.into());
        }
        for operation in mount.statistics().snapshot() {
            let name = operation.name.to_ascii_lowercase();
            let mean = operation.total_time.as_secs_f64() * 1e6 / operation.count.max(1) as f64;
            report.insert(format!("fuse_{name}_count"), operation.count.into());
            report.insert(format!("fuse_{name}_errors"), operation.errors.into());
            report.insert(format!("fuse_{name}_waited"), operation.spawned.into());
            report.insert(format!("fuse_{name}_mean_us"), Value::from((mean * 10.0).round() / 10.0));
        }
    }
    // A map of texts and numbers always has a JSON form.
    serde_json::to_vec(&report).unwrap_or_default()
}
