//! Requests as they come out of `/dev/fuse`, in both dialects.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// Bytes of a request's header.
const HEADER: usize = 40;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (opcode, honest, body) = input;
    let mut request = vec![0; HEADER];
    request.extend_from_slice(body);
    // A true length, or nothing behind the first check is ever reached; and mostly an opcode that there is.
    let length = if honest { request.len() as u32 } else { body.len() as u32 };
    request[..4].copy_from_slice(&length.to_le_bytes());
    request[4..8].copy_from_slice(&u32::from(opcode % 64).to_le_bytes());
    cairn_fuse::fuzzing::decode_request(&request);
    cairn_fuse::fuzzing::decode_request(body);
});
