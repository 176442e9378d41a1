//! How a message becomes bytes: bincode 1 with variable-length integers, behind two functions so that it can be replaced.

use bincode::Options;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most bytes that a message may take once encoded.
pub const MESSAGE_MAX: u64 = 4 * 1024 * 1024;

/// Why bytes are not the message they should be (or a message is too large to send).
#[derive(Debug, thiserror::Error)]
#[error("message cannot be coded: {0}")]
pub struct CodecError(String);

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(MESSAGE_MAX)
}

pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    options().serialize(message).map_err(|error| CodecError(error.to_string()))
}

/// Reads exactly one message; bytes left over are an error.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    options().deserialize(bytes).map_err(|error| CodecError(error.to_string()))
}
