//! Decoding requests of the kernel.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

const LOOKUP: u32 = 1;
const READ: u32 = 15;
const WRITE: u32 = 16;

/// A request as the kernel lays it out: a header of 40 bytes and what belongs to the operation.
fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(40 + body.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&opcode.to_ne_bytes());
    bytes.extend_from_slice(&77u64.to_ne_bytes());
    bytes.extend_from_slice(&1u64.to_ne_bytes());
    bytes.resize(40, 0);
    bytes.extend_from_slice(body);
    bytes
}

/// Handle, offset, size, and fields that are zero: `fuse_read_in` and `fuse_write_in` begin alike.
fn transfer(size: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&3u64.to_ne_bytes());
    body.extend_from_slice(&4096u64.to_ne_bytes());
    body.extend_from_slice(&size.to_ne_bytes());
    body.resize(40, 0);
    body
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode in both dialects");
    let write = [transfer(4096), vec![9; 4096]].concat();
    for (name, bytes) in [
        ("a look-up", request(LOOKUP, b"model-00001-of-00004.safetensors\0")),
        ("a read", request(READ, &transfer(131_072))),
        ("a write of 4 KiB", request(WRITE, &write)),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| cairn_fuse::fuzzing::decode_request(black_box(&bytes))));
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
