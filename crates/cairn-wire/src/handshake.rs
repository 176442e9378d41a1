//! The first frame in each direction: who connects, to what, with which key; and the server's answer.

use std::fmt;

use cairn_types::SessionId;
use serde::{Deserialize, Serialize};

use crate::admin::VolumeInfo;

/// Proof that a connection belongs to a session: drawn at random by the server when the session began.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSecret(pub [u8; 16]);

impl fmt::Debug for SessionSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionSecret(…)")
    }
}

/// A session that a client had before its connection was lost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Resume {
    pub session: SessionId,
    pub secret: SessionSecret,
}

/// Who has a session, for `cairn status`, logs and messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    pub host: String,
    pub pid: u32,
    /// Called as it always was where field names are stored.
    #[serde(rename = "directory")]
    pub kind: ClientKind,
    pub read_only: bool,
}

impl fmt::Display for ClientInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ClientKind::Mount { directory } => write!(formatter, "{}:{directory}", self.host),
            other => write!(formatter, "{}:{}", self.host, other.as_text()),
        }
    }
}

/// What a client does with a volume.
///
/// One text in messages and in stored descriptions of sessions: the directory of a mount, which begins with `/`, and
/// words in parentheses for everything else. So all versions of the program understand one another here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ClientKind {
    /// A file system at a directory of the host.
    Mount { directory: String },
    /// Copies into the volume.
    Import,
    /// Copies out of the volume.
    Export,
    /// Passes the volume on by another protocol.
    Gateway { name: String },
}

impl ClientKind {
    /// Where the host has the volume as a file system.
    pub fn directory(&self) -> Option<&str> {
        match self {
            ClientKind::Mount { directory } => Some(directory),
            ClientKind::Import | ClientKind::Export | ClientKind::Gateway { .. } => None,
        }
    }

    /// A word for it.
    pub fn word(&self) -> &'static str {
        match self {
            ClientKind::Mount { .. } => "mount",
            ClientKind::Import => "import",
            ClientKind::Export => "export",
            ClientKind::Gateway { .. } => "gateway",
        }
    }

    fn as_text(&self) -> String {
        match self {
            ClientKind::Mount { directory } => directory.clone(),
            ClientKind::Gateway { name } => format!("(gateway {name})"),
            ClientKind::Import | ClientKind::Export => format!("({})", self.word()),
        }
    }
}

impl Default for ClientKind {
    fn default() -> Self {
        ClientKind::Mount { directory: String::new() }
    }
}

impl From<ClientKind> for String {
    fn from(kind: ClientKind) -> String {
        kind.as_text()
    }
}

impl From<String> for ClientKind {
    fn from(text: String) -> Self {
        let words = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        match words.map(|words| words.split_once(' ').unwrap_or((words, ""))) {
            Some(("import", "")) => ClientKind::Import,
            Some(("export", "")) => ClientKind::Export,
            Some(("gateway", name)) => ClientKind::Gateway { name: name.to_owned() },
            _ => ClientKind::Mount { directory: text },
        }
    }
}

impl fmt::Display for ClientKind {
    /// As the end of "in use by …".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientKind::Mount { directory } => write!(formatter, "the mount at {directory}"),
            ClientKind::Import => formatter.write_str("an import"),
            ClientKind::Export => formatter.write_str("an export"),
            ClientKind::Gateway { name } => write!(formatter, "the gateway {name}"),
        }
    }
}

/// What a connection is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Purpose {
    /// The control connection of a session: metadata, leases, locks, pushes. `volume` is a name or an id.
    Session { volume: String, info: ClientInfo, resume: Option<Resume> },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    fn kinds() -> [ClientKind; 5] {
        [
            ClientKind::default(),
            ClientKind::Mount { directory: "/workspace".into() },
            ClientKind::Import,
            ClientKind::Export,
            ClientKind::Gateway { name: "s3 (internal)".into() },
        ]
    }

    #[test]
    fn every_kind_comes_back() {
        for kind in kinds() {
            let info = ClientInfo { host: "box".into(), pid: 7, kind, read_only: true };
            assert_eq!(decode::<ClientInfo>(&encode(&info).expect("encoded")).expect("decoded"), info);
        }
    }

    /// As all versions of the program have sent it: two texts around a number, and whether it only reads.
    #[test]
    fn older_programs_are_understood_and_understand() {
        let bytes = b"\x03box\x07\x0a/workspace\x01";
        let info: ClientInfo = decode(bytes).expect("decoded");
        let wanted = ClientKind::Mount { directory: "/workspace".into() };
        assert_eq!(info, ClientInfo { host: "box".into(), pid: 7, kind: wanted, read_only: true });
        assert_eq!(encode(&info).expect("encoded"), bytes);
        let import: ClientInfo = decode(b"\x03box\x07\x08(import)\x00").expect("decoded");
        assert_eq!(import.kind, ClientKind::Import);
    }

    #[test]
    fn what_is_not_known_passes_for_a_directory() {
        for text in ["(sync)", "(import", "import)", "(import now)", "()", ""] {
            assert_eq!(ClientKind::from(text.to_owned()), ClientKind::Mount { directory: text.to_owned() });
        }
    }

    #[test]
    fn people_are_told_who_it_is() {
        let told = kinds().map(|kind| ClientInfo { host: "box".into(), kind, ..ClientInfo::default() }.to_string());
        assert_eq!(told, ["box:", "box:/workspace", "box:(import)", "box:(export)", "box:(gateway s3 (internal))"]);
        assert_eq!(ClientKind::Import.to_string(), "an import");
    }
}
