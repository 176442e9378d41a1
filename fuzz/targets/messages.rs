//! Every message of the protocol, both ways: bytes are refused, or mean a message that is encoded as it was understood.
#![no_main]

use cairn_wire::admin::{AdminReply, AdminRequest};
use cairn_wire::handshake::HelloReply;
use cairn_wire::{Hello, Push, Request, Response, decode, encode};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn there_and_back<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = decode::<T>(bytes) else { return };
    let encoded = encode(&message).expect("what was decoded can be encoded");
    let again = decode::<T>(&encoded).expect("what was encoded can be decoded");
    assert_eq!(encode(&again).expect("encoded"), encoded);
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 6 {
        0 => there_and_back::<Hello>(bytes),
        1 => there_and_back::<HelloReply>(bytes),
        2 => there_and_back::<Request>(bytes),
        3 => there_and_back::<Response>(bytes),
        4 => there_and_back::<Push>(bytes),
        _ => {
            there_and_back::<AdminRequest>(bytes);
            there_and_back::<AdminReply>(bytes);
        }
    }
});
