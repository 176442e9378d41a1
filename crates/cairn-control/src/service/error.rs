//! Why the service does not do something: one vocabulary for every face. A face maps [`ErrorKind`] to its statuses, and takes the
//! sentence as it is, unless its clients wait for another wording.

use cairn_server::CatalogueError;
use cairn_types::VolumeId;

use crate::engine::EngineError;

/// What kind of trouble it is, for a face's statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for makes no sense, or breaks a rule.
    Invalid,
    /// The key may not do this.
    Forbidden,
    /// There is no such thing, or not for this key.
    NotFound,
    /// Not in the state in which things are.
    Conflict,
    /// The balance is used up.
    NoBalance,
    /// More than one account may have.
    TooMany,
    /// Later it may work.
    Unavailable,
    /// The server's own trouble.
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Also for what belongs to another account: whoever asks learns nothing.
    #[error("{what} not found")]
    NotFound { what: &'static str },
    #[error("this key's role ({role}) does not allow it: {needs}")]
    Forbidden { role: &'static str, needs: &'static str },
    #[error("{0}")]
    Invalid(String),
    #[error("Data center \"{given}\" not found or does not support network volumes. Available data centers: {}", .known.join(", "))]
    UnknownDataCenter { given: String, known: Vec<String> },
    #[error(
        "network volume {volume} is in data center {of_volume}, and a pod that uses it must be in the same one: ask for {of_volume}, or omit the data center"
    )]
    OtherDataCenter { volume: VolumeId, of_volume: String },
    #[error("You must remove this network volume from all pods before deleting it.")]
    Attached { volume: VolumeId, pods: Vec<String>, endpoints: Vec<String> },
    #[error("the network volume has {current_gb} GB and can only grow: {wanted_gb} GB is less")]
    Shrink { current_gb: u64, wanted_gb: u64 },
    #[error("the pod is {is}: {action} is not possible in this state")]
    PodState { is: &'static str, action: &'static str },
    #[error("the pod is locked: unlock it first")]
    PodLocked,
    #[error(
        "the account's balance is used up: add credit (`cairn account credit`) before starting pods or creating anything that costs money"
    )]
    NoBalance,
    #[error("an account may have at most {limit} {what}: remove some first")]
    TooMany { what: &'static str, limit: usize },
    #[error("this server runs no containers: the pod is only recorded")]
    NoEngine,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Volume(#[from] CatalogueError),
    #[error("other changes are in progress and take a long time: try again later")]
    Busy,
    #[error("this takes longer than {0} s and continues in the background: check again later")]
    TakesLong(u64),
    #[error("the control plane's records cannot be read or written: {0}")]
    Store(String),
}

impl ServiceError {
    /// What the outside is told of every internal failure.
    pub const INTERNAL: &str = "internal error; see the server's log";

    pub fn kind(&self) -> ErrorKind {
        match self {
            ServiceError::NotFound { .. } => ErrorKind::NotFound,
            ServiceError::Forbidden { .. } => ErrorKind::Forbidden,
            ServiceError::Invalid(_)
            | ServiceError::UnknownDataCenter { .. }
            | ServiceError::OtherDataCenter { .. }
            | ServiceError::Shrink { .. } => ErrorKind::Invalid,
            ServiceError::Attached { .. } | ServiceError::PodState { .. } | ServiceError::PodLocked => {
                ErrorKind::Conflict
            }
            ServiceError::NoBalance => ErrorKind::NoBalance,
            ServiceError::TooMany { .. } => ErrorKind::TooMany,
            ServiceError::NoEngine | ServiceError::Busy | ServiceError::TakesLong(_) => ErrorKind::Unavailable,
            ServiceError::Engine(error) => match error {
                EngineError::Unavailable(_) | EngineError::TimedOut(_) => ErrorKind::Unavailable,
                _ => ErrorKind::Conflict,
            },
            ServiceError::Volume(error) => match error {
                CatalogueError::UnknownVolume(_) => ErrorKind::NotFound,
                CatalogueError::InvalidName(_)
                | CatalogueError::InvalidDataCenter
                | CatalogueError::InvalidProfile(_)
                | CatalogueError::InvalidBytesLimit(_)
                | CatalogueError::InvalidInodesLimit(_)
                | CatalogueError::InvalidChunkSize(_)
                | CatalogueError::AmbiguousName { .. } => ErrorKind::Invalid,
                CatalogueError::BelowUse { .. }
                | CatalogueError::InUse { .. }
                | CatalogueError::Kept { .. }
                | CatalogueError::Busy(_) => ErrorKind::Conflict,
                CatalogueError::Opening(_) => ErrorKind::Unavailable,
                CatalogueError::Broken { .. }
                | CatalogueError::Engine { .. }
                | CatalogueError::Store(_)
                | CatalogueError::Io { .. }
                | CatalogueError::TaskFailed => ErrorKind::Internal,
            },
            ServiceError::Store(_) => ErrorKind::Internal,
        }
    }

    /// The sentence for the client. Of the server's own trouble it learns only that there is some: paths and the like are
    /// for the log.
    pub fn public_message(&self) -> String {
        if self.kind() == ErrorKind::Internal { Self::INTERNAL.to_owned() } else { self.to_string() }
    }

    pub(crate) fn invalid(sentence: impl Into<String>) -> Self {
        ServiceError::Invalid(sentence.into())
    }
}
