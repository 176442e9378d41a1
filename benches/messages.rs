//! The codec and the frames: what every request and answer passes through on both sides.

use std::hint::black_box;

use bytes::Bytes;
use cairn_types::{Ino, MetaOp, Name, NewNode, Timestamp};
use cairn_wire::message::{Answer, BlobPart};
use cairn_wire::{FrameKind, FrameLimits, FrameReader, FrameWriter, Request, Response, decode, encode};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// A journal as `tar -x` makes it.
fn journal(entries: u64) -> Request {
    let ops = (0..entries).map(|number| MetaOp::Create {
        parent: Ino(7),
        name: Name::new(format!("file-{number:06}.py").as_bytes()).expect("a name"),
        ino: Ino(1000 + number),
        node: NewNode::Regular,
        mode: 0o644,
        umask: 0o022,
        uid: 1000,
        gid: 1000,
        time: Timestamp::now(),
    });
    Request::Journal { first: 1, ops: ops.collect() }
}

fn codec(criterion: &mut Criterion) {
    let request = journal(1000);
    let bytes = encode(&request).expect("encoded");
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("encode a journal of 1,000 creates", |bencher| bencher.iter(|| encode(black_box(&request))));
    group.bench_function("decode it", |bencher| bencher.iter(|| decode::<Request>(black_box(&bytes))));
    group.finish();
}

fn frames(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let mut group = criterion.benchmark_group("frames");
    for (name, length) in [("a small answer", 0usize), ("an answer with 1 MiB", 1 << 20)] {
        let part = BlobPart { offset: 0, length: length as u32, checksums: vec![1; length / 16384] };
        let answer: Response = Ok(Answer::Blobs(vec![part]));
        let bulk = [Bytes::from(vec![7u8; length])];
        let mut stream = Vec::new();
        let write = FrameWriter::new(&mut stream);
        runtime.block_on(async { { write }.write(FrameKind::Response, 1, &answer, &bulk).await }).expect("written");
        group.throughput(Throughput::Bytes(stream.len() as u64));
        group.bench_function(format!("write {name}"), |bencher| {
            bencher.iter(|| {
                let mut sink = tokio::io::sink();
                runtime.block_on(FrameWriter::new(&mut sink).write(FrameKind::Response, 1, &answer, &bulk))
            });
        });
        group.bench_function(format!("read {name}"), |bencher| {
            bencher.iter(|| {
                let mut reader = FrameReader::new(black_box(&stream[..]), FrameLimits::SESSION);
                let frame = runtime.block_on(reader.read()).expect("read");
                frame.expect::<Response>(FrameKind::Response)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, codec, frames);
criterion_main!(benches);
