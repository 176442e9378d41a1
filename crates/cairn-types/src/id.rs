//! Identifiers. Each is its own type, so that one can never stand where another is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of a file, directory or other node, unique in its volume and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory of every volume; also what the kernel's FUSE interface calls its root.
    pub const ROOT: Ino = Ino(1);
}

/// Number of a blob (immutable bytes in a pack), unique in its volume and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobId(pub u64);

/// A client's session with a volume; survives reconnects and server restarts. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

macro_rules! display_as_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}", self.0)
            }
        }
    )*};
}
display_as_number!(Ino, BlobId, SessionId);

/// Id of a volume: ten lower-case letters and digits, as the emulated clouds make them (`agv6w2qcg7`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId(String);

impl VolumeId {
    /// Length of every id, in characters.
    pub const LENGTH: usize = 10;

    /// Builds an id from `entropy`, which the caller draws at random.
    pub fn from_entropy(mut entropy: u64) -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let text = (0..Self::LENGTH)
            .map(|_| {
                let letter = ALPHABET[(entropy % 36) as usize];
                entropy /= 36;
                char::from(letter)
            })
            .collect();
        VolumeId(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Why a text is not a [`VolumeId`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a volume id: it takes ten lower-case letters and digits")]
pub struct InvalidVolumeId(pub String);

impl FromStr for VolumeId {
    type Err = InvalidVolumeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits =
            text.len() == Self::LENGTH && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if fits { Ok(VolumeId(text.to_owned())) } else { Err(InvalidVolumeId(text.to_owned())) }
    }
}

impl TryFrom<String> for VolumeId {
    type Error = InvalidVolumeId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<VolumeId> for String {
    fn from(id: VolumeId) -> Self {
        id.0
    }
}
