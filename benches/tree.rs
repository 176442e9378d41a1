//! The tree in its store (redb): making files in batches, and looking them up.

use std::cell::Cell;
use std::hint::black_box;

use cairn_meta::kv::{LocalOpener, Opener};
use cairn_meta::{ApplyContext, Batch, Durability, VolumeConfig, VolumeStore};
use cairn_types::limits::CHUNK_SIZE_DEFAULT;
use cairn_types::{Ino, MetaOp, Name, NewNode, SessionId, Timestamp, VolumeId};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const FILES: u64 = 100_000;
const BATCH: u64 = 256;

fn config() -> VolumeConfig {
    VolumeConfig {
        id: VolumeId::from_entropy(1),
        name: "bench".to_owned(),
        data_center: String::new(),
        chunk_size: CHUNK_SIZE_DEFAULT,
        bytes_limit: u64::MAX,
        inodes_limit: u64::MAX,
        created: 0,
        profile: "native".to_owned(),
        allocation: cairn_types::Allocation::NATIVE,
    }
}

fn name(number: u64) -> Name {
    Name::new(format!("file-{number:08}").as_bytes()).expect("a name")
}

fn create(batch: &mut Batch, name: Name) {
    let ino = batch.allocate_inos(1);
    let context = ApplyContext {
        session: SessionId(1),
        headroom_bytes: u64::MAX,
        headroom_inodes: u64::MAX,
        pending_blobs: &|_| None,
        open_elsewhere: &|_| Vec::new(),
    };
    let op = MetaOp::Create {
        parent: Ino::ROOT,
        name,
        ino,
        node: NewNode::Regular,
        mode: 0o644,
        umask: 0o022,
        uid: 1000,
        gid: 1000,
        time: Timestamp::now(),
    };
    batch.apply(&context, &op).expect("applied");
}

fn make(store: &VolumeStore, from: u64, count: u64) {
    let mut batch = store.begin().expect("begun");
    (from..from + count).for_each(|number| create(&mut batch, name(number)));
    batch.commit(Durability::Buffered).expect("committed");
}

fn tree(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("directory");
    let store = VolumeStore::create(LocalOpener::new(directory.path()).create().expect("new"), config()).expect("made");
    for start in (0..FILES).step_by(4096) {
        make(&store, start, 4096.min(FILES - start));
    }
    let snapshot = store.snapshot();
    let next = Cell::new(0u64);
    let number = || {
        next.set((next.get() + 7919) % FILES);
        next.get()
    };
    let mut group = criterion.benchmark_group("tree of 100,000 files");
    group.bench_function("look a name up", |bencher| {
        bencher.iter(|| snapshot.lookup(Ino::ROOT, &name(number())).expect("looked up"));
    });
    group.throughput(Throughput::Elements(1000));
    group.bench_function("list 1,000 names", |bencher| {
        bencher.iter(|| snapshot.entries(Ino::ROOT, Some(&name(black_box(5000))), 1000).expect("listed"));
    });
    drop(snapshot);
    let fresh = Cell::new(FILES);
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("make 256 files in one commit that is not durable", |bencher| {
        bencher.iter(|| make(&store, fresh.replace(fresh.get() + BATCH), BATCH));
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("make one file in a commit that is not durable", |bencher| {
        bencher.iter(|| make(&store, fresh.replace(fresh.get() + 1), 1));
    });
    group.finish();
}

criterion_group!(benches, tree);
criterion_main!(benches);
