//! What a mount computes for every change it makes first, and for every byte it sends or receives.

use std::hint::black_box;

use cairn_types::checksum::{blob_hash, block_checksums, verify_blocks};
use cairn_types::effect::Maker;
use cairn_types::{Attr, AttrChange, AttrFlags, FileKind, Ino, NewNode, Timestamp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn directory(time: Timestamp) -> Attr {
    Attr {
        ino: Ino::ROOT,
        kind: FileKind::Directory,
        mode: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        version: 1,
        flags: AttrFlags::default(),
    }
}

fn prediction(criterion: &mut Criterion) {
    let time = Timestamp::now();
    let parent = directory(time);
    let maker = Maker { mode: 0o666, umask: 0o022, uid: 1000, gid: 1000, time };
    criterion.bench_function("effect of a create", |bencher| {
        bencher.iter(|| {
            let mut parent = black_box(parent);
            let child = parent.born_here(Ino(2), &NewNode::Regular, black_box(&maker), false);
            parent.add_entry(FileKind::Regular, time);
            (parent, child)
        });
    });
    let change = AttrChange { mode: Some(0o600), mtime: Some(time), ..AttrChange::default() };
    criterion.bench_function("effect of a chmod", |bencher| {
        bencher.iter(|| {
            let mut attr = black_box(parent);
            attr.change(black_box(&change), time);
            attr
        });
    });
}

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksums");
    for length in [4096usize, 1 << 20] {
        let data = vec![0x5a; length];
        let sums = block_checksums(&data);
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(format!("verify {length} bytes"), |bencher| {
            bencher.iter(|| verify_blocks(black_box(&data), &sums));
        });
        group.bench_function(format!("hash {length} bytes"), |bencher| bencher.iter(|| blob_hash(black_box(&data))));
    }
    group.finish();
}

criterion_group!(benches, prediction, checksums);
criterion_main!(benches);
