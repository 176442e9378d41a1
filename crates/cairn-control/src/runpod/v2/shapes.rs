//! Shapes that several parts of this API share.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Refused, unprocessable};
use crate::service::records::ContainerConfig;

/// The smallest volume of a pod's own that this API knows, in GB.
const PERSISTENT_MIN: u32 = 10;

/// `mounts.persistent`: a volume of a pod's own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Persistent {
    /// In GB.
    pub(super) size: u32,
    pub(super) path: String,
}

impl Persistent {
    pub(super) fn check(self) -> Result<Self, Refused> {
        if self.size >= PERSISTENT_MIN {
            return Ok(self);
        }
        Err(unprocessable(format!("mounts.persistent.size must be at least {PERSISTENT_MIN}")))
    }
}

/// `mounts` of what mounts no network volume.
pub(super) fn own_volume_json(config: &ContainerConfig) -> Value {
    // Smaller ones than this API knows come from others, and are recorded only.
    if config.volume_gb < PERSISTENT_MIN {
        return json!({});
    }
    json!({ "persistent": { "size": config.volume_gb, "path": config.mount_path } })
}

/// A CPU that is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Cpu {
    pub(super) id: String,
    pub(super) vcpu_count: u32,
}
