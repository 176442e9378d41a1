//! Frames on a stream: raw bytes, and frames whose lengths lie while their checksum is right.
#![no_main]

use bytes::Bytes;
use cairn_wire::{FrameKind, FrameLimits, FrameReader, FrameWriter, Hello, Request};
use libfuzzer_sys::fuzz_target;

async fn read_all(bytes: &[u8], limits: FrameLimits) {
    let mut reader = FrameReader::new(bytes, limits);
    while let Ok(frame) = reader.read().await {
        assert!(frame.message.len() <= limits.message as usize && frame.bulk.len() <= limits.bulk as usize);
        let _ = frame.expect::<Hello>(FrameKind::Hello);
        let _ = frame.expect::<Request>(FrameKind::Request);
    }
}

fuzz_target!(|input: (&[u8], &[u8], u8)| {
    let (noise, message, damage) = input;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        read_all(noise, FrameLimits::HANDSHAKE).await;
        let mut stream = Vec::new();
        let bulk = [Bytes::copy_from_slice(noise)];
        let written = FrameWriter::new(&mut stream).write(FrameKind::Request, 7, &message, &bulk).await;
        written.expect("written to memory");
        read_all(&stream, FrameLimits::SESSION).await;
        let at = usize::from(damage) % stream.len();
        stream[at] ^= damage | 1;
        stream.extend_from_slice(noise);
        read_all(&stream, FrameLimits::SESSION).await;
    });
});
