//! The first frame in each direction: who connects, to what, with which key; and the server's answer.

use cairn_types::SessionId;
use serde::{Deserialize, Serialize};

use crate::admin::VolumeInfo;

/// Proof that a connection belongs to a session: drawn at random by the server when the session began.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSecret(pub [u8; 16]);

impl std::fmt::Debug for SessionSecret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SessionSecret(…)")
    }
}

/// A session that a client had before its connection was lost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Resume {
    pub session: SessionId,
    pub secret: SessionSecret,
}

/// Where a mount is, for `cairn status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountInfo {
    pub host: String,
    pub pid: u32,
    pub directory: String,
    pub read_only: bool,
}

/// What a connection is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Purpose {
    /// The control connection of a session: metadata, leases, locks, pushes. `volume` is a name or an id.
    Mount { volume: String, info: MountInfo, resume: Option<Resume> },
    /// A further connection of a session, for `PutBlobs` and `ReadBlobs` alone.
    Data { session: SessionId, secret: SessionSecret },
    /// Volumes, keys, status and checks.
    Admin,
    /// A further connection of a session, over the Unix socket alone, for `OpenPack`: answers bring a descriptor along
    /// (`SCM_RIGHTS`).
    Packs { session: SessionId, secret: SessionSecret },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest and newest protocol version that the client speaks.
    pub versions: (u32, u32),
    /// Program and version, for logs and messages.
    pub software: String,
    /// Needed on TCP; the Unix socket is guarded by its owner.
    pub key: Option<String>,
    pub purpose: Purpose,
}

/// What a session starts with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionWelcome {
    pub session: SessionId,
    pub secret: SessionSecret,
    pub volume: VolumeInfo,
    /// A session that is silent for longer may be fenced, in milliseconds.
    pub lease_ttl_ms: u64,
    /// Leases, locks and open files of the resumed session still stand (only the connection was lost). If false,
    /// the client sends [`crate::Request::Reclaim`] before anything else.
    pub state_kept: bool,
    /// Last journal number of this session that was applied.
    pub journal_applied: u64,
    /// Everything up to this order is on stable storage.
    pub durable_order: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WelcomeDetail {
    Session(Box<SessionWelcome>),
    Data,
    Admin,
    Packs,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol version that both speak from here on.
    pub version: u32,
    pub software: String,
    /// Differs after each start of the server.
    pub boot_id: u64,
    pub detail: WelcomeDetail,
}

/// Why a server does not want a connection; decides what the client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// Try again later: starting up, shutting down, too many connections.
    Busy,
    VersionMismatch,
    /// No key, or one that is unknown, revoked or not for this volume.
    NotAllowed,
    UnknownVolume,
    /// The session to resume was fenced or has ended: what it had buffered cannot be written any more.
    SessionGone,
}

#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// A sentence for the user, with the remedy.
    pub message: String,
}

/// The server's one answer to a [`Hello`].
pub type HelloReply = Result<Welcome, Refusal>;
