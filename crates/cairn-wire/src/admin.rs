//! Requests of an operator: volumes, keys, status, checks.

use cairn_types::{Allocation, SessionId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::handshake::ClientInfo;
use crate::message::Usage;

/// A volume as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    pub id: VolumeId,
    pub name: String,
    /// Most logical bytes.
    pub bytes_limit: u64,
    /// Most nodes (files, directories, links).
    pub inodes_limit: u64,
    /// Data centre, as the emulated clouds call it (`US-TX-2`); a label.
    pub data_center: String,
    /// Bytes, a power of two.
    pub chunk_size: u32,
    /// Seconds since 1970.
    pub created: i64,
    /// Emulation profile, as the text of a [`cairn_types::Profile`].
    pub profile: String,
    /// How content counts against `bytes_limit`.
    pub allocation: Allocation,
}

/// What a key opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyScope {
    /// Everything.
    Admin,
    /// Mounting these volumes.
    Volumes(Vec<VolumeId>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Short public id, with which it is revoked.
    pub id: String,
    pub label: String,
    pub scope: KeyScope,
    /// Seconds since 1970.
    pub created: i64,
}

/// A mount as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    pub session: SessionId,
    pub volume: VolumeId,
    pub info: ClientInfo,
    pub peer: String,
    pub connected: bool,
    /// Milliseconds since it was last heard from.
    pub silent_ms: u64,
    pub leases: u64,
    pub open_files: u64,
    pub locks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    pub info: VolumeInfo,
    pub usage: Usage,
    /// Empty if all is well; otherwise a sentence (for example: writes stopped after a failed fsync).
    pub trouble: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    pub software: String,
    pub uptime_ms: u64,
    pub listening: Vec<String>,
    pub data_directory: String,
    pub memory_bytes: u64,
    pub volumes: Vec<VolumeStatus>,
    pub sessions: Vec<SessionStatus>,
    /// Name and value of each counter.
    pub counters: Vec<(String, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOptions {
    /// Repair what can be repaired.
    pub repair: bool,
    /// Read and verify every live blob.
    pub data: bool,
}

/// Where a running check stands; ask again until `finished`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProgress {
    /// What is being checked, in a few words.
    pub stage: String,
    pub done: u64,
    pub total: u64,
    pub finished: bool,
    /// One sentence each, all that were found so far (at most 10,000).
    pub problems: Vec<String>,
    pub repaired: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminRequest {
    VolumeCreate {
        name: String,
        bytes_limit: u64,
        inodes_limit: Option<u64>,
        data_center: String,
        chunk_size: u32,
        /// As [`VolumeInfo::profile`].
        profile: String,
    },
    VolumeList,
    /// `volume` is a name or an id, here and below.
    VolumeShow {
        volume: String,
    },
    VolumeResize {
        volume: String,
        bytes_limit: Option<u64>,
        inodes_limit: Option<u64>,
    },
    /// `EBUSY` while mounted, if content would count otherwise.
    VolumeProfile {
        volume: String,
        profile: String,
    },
    VolumeRename {
        volume: String,
        name: String,
    },
    /// `EBUSY` while mounted.
    VolumeDelete {
        volume: String,
    },
    Status,
    KeyCreate {
        label: String,
        scope: KeyScopeRequest,
    },
    KeyList,
    KeyRevoke {
        id: String,
    },
    CheckStart {
        volume: String,
        options: CheckOptions,
    },
    CheckProgress {
        check: u64,
    },
}

/// As [`KeyScope`], with volumes by name or id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyScopeRequest {
    Admin,
    Volumes(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdminReply {
    Done,
    Volume(VolumeStatus),
    Volumes(Vec<VolumeStatus>),
    Status(Box<ServerStatus>),
    /// The key's text is shown this once and kept only as a hash.
    KeyCreated {
        key: String,
        info: KeyInfo,
    },
    Keys(Vec<KeyInfo>),
    CheckStarted {
        check: u64,
    },
    CheckProgress(CheckProgress),
}
