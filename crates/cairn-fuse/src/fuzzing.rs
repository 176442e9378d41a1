//! The decoder of requests, as fuzz targets see it.

use crate::decode::{Dialect, Operation, decode, decode_header};

/// Decodes a request in each dialect.
///
/// # Panics
/// If what a write points at is not inside the request.
pub fn decode_request(message: &[u8]) {
    let Some(header) = decode_header(message) else { return };
    for extended_setxattr in [false, true] {
        if let Ok(Operation::Write { data, .. }) = decode(&header, message, Dialect { extended_setxattr }) {
            assert!(data.start + data.length <= message.len());
        }
    }
}
