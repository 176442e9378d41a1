//! What is kept: one type for each kind of record, stored as JSON. A field that is added later is optional.

use std::collections::BTreeMap;

use cairn_types::VolumeId;
use serde::{Deserialize, Serialize};

use super::access::Role;
use super::clock::Moment;
use super::money::Money;

/// Somebody who owns things and pays for them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub id: String,
    pub name: String,
    pub email: String,
    /// SSH keys, one a line; pods see them as `PUBLIC_KEY`.
    pub public_keys: String,
    pub created: Moment,
    /// All credit that was ever given.
    pub credit: Money,
    /// Whether the end of the balance has consequences. Without it, charges are counted and nothing follows.
    pub prepaid: bool,
    /// Since when the balance has been used up.
    pub exhausted: Option<Moment>,
}

/// A key; its secret is kept as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: String,
    pub account: String,
    pub label: String,
    pub role: Role,
    #[serde(default)]
    pub pod: Option<String>,
    pub created: Moment,
    /// Of the whole key text, in hexadecimal.
    pub hash: String,
}

/// The tier that a volume was asked for in. Both are the same here; profiles tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum VolumeTier {
    Standard,
    HighPerformance,
}

/// What the control plane knows of a volume beyond what the server's catalogue does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub id: VolumeId,
    pub account: String,
    pub tier: VolumeTier,
    /// Noted before the volume is made and cleared after: if it is still set at a start, nobody was told of the volume.
    pub unfinished: bool,
    /// Size that charges are counted for at present, in GB.
    pub charged_gb: u64,
    /// Since when.
    pub charged_since: Moment,
    /// Set when the grace time of an unpaid volume is over: it goes as soon as nobody has it mounted.
    #[serde(default)]
    pub doomed: bool,
}

/// A time in which a volume had one size, and is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargedSpan {
    pub volume: VolumeId,
    pub account: String,
    pub tier: VolumeTier,
    pub size_gb: u64,
    pub start: Moment,
    pub end: Moment,
}

/// What a pod was promised to run on. Only listed, never provided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hardware {
    Gpu { id: String, count: u32 },
    Cpu { flavor: String, vcpu: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Cloud {
    Secure,
    Community,
}

impl Cloud {
    pub fn name(self) -> &'static str {
        match self {
            Cloud::Secure => "SECURE",
            Cloud::Community => "COMMUNITY",
        }
    }
}

/// What the user last asked for. A pod that is terminated has no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Desired {
    Running,
    Exited,
}

impl Desired {
    pub fn name(self) -> &'static str {
        match self {
            Desired::Running => "RUNNING",
            Desired::Exited => "EXITED",
        }
    }
}

/// What runs in a container: shared by pods and templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub image: String,
    /// The command as one line, split as a shell would; used unless `start_command` is given.
    pub args: String,
    pub entrypoint: Vec<String>,
    pub start_command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// `8888/http`.
    pub ports: Vec<String>,
    pub disk_gb: u32,
    /// Size of the pod's own volume, which is not a network volume; recorded only.
    pub volume_gb: u32,
    /// Where the volume is mounted.
    pub mount_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub id: String,
    pub account: String,
    pub name: String,
    pub config: ContainerConfig,
    pub volume: Option<VolumeId>,
    pub data_center: String,
    pub hardware: Hardware,
    pub memory_gb: u32,
    pub vcpu: u32,
    pub cloud: Cloud,
    pub template: Option<String>,
    pub interruptible: bool,
    pub locked: bool,
    pub desired: Desired,
    pub created: Moment,
    pub started: Option<Moment>,
    pub changed: Moment,
    /// A sentence about the last change of its state.
    pub note: String,
    /// The engine's name of its container.
    pub container: Option<String>,
    /// Why it could not be started, if so.
    pub failure: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    pub id: String,
    pub account: String,
    pub name: String,
    pub config: ContainerConfig,
    pub readme: String,
    pub category: String,
    pub serverless: bool,
    pub public: bool,
    pub start_ssh: bool,
    pub start_jupyter: bool,
    pub allowed_cuda_versions: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Scaler {
    QueueDelay,
    RequestCount,
}

impl Scaler {
    pub fn name(self) -> &'static str {
        match self {
            Scaler::QueueDelay => "QUEUE_DELAY",
            Scaler::RequestCount => "REQUEST_COUNT",
        }
    }
}

/// A serverless endpoint. Its workers are not run; it holds its volumes like a pod does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: String,
    pub account: String,
    pub name: String,
    pub template: Option<String>,
    /// Of an endpoint without a template.
    pub config: ContainerConfig,
    pub volumes: Vec<VolumeId>,
    /// Empty for any.
    pub data_centers: Vec<String>,
    pub compute: EndpointCompute,
    pub load_balancer: bool,
    pub workers_min: u32,
    pub workers_max: u32,
    pub idle_timeout_s: u32,
    pub scaler: Scaler,
    /// Seconds of waiting, in thousandths, or number of requests.
    pub scaler_value_milli: u64,
    pub timeout_ms: u64,
    /// `OFF`, `FLASHBOOT` or `PRIORITY_FLASHBOOT`.
    pub flashboot: String,
    pub allowed_cuda_versions: Vec<String>,
    pub min_cuda_version: Option<String>,
    pub created: Moment,
    pub version: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointCompute {
    /// Pools or types, as the client named them.
    Gpu {
        ids: Vec<String>,
        count: u32,
    },
    Cpu {
        flavors: Vec<String>,
        vcpu: u32,
    },
}

/// One row for the whole server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// By how much the clock was advanced in all, in milliseconds.
    pub skipped_ms: i64,
}
