//! What a read that is answered from memory passes through: buffered writes, known extents, cached blocks.

use std::hint::black_box;

use cairn_client::benchmarks::{CachedBlocks, KnownExtents, Written};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const KIB: u32 = 1024;

fn read_path(criterion: &mut Criterion) {
    let cache = CachedBlocks::new(1024);
    let mut next = 0u64;
    let mut group = criterion.benchmark_group("read from memory");
    for length in [4 * KIB, 128 * KIB] {
        group.throughput(Throughput::Bytes(length.into()));
        group.bench_function(format!("{length} bytes of a cached block"), |bencher| {
            bencher.iter(|| {
                next = (next + 7) % 1024;
                cache.get(black_box(next), 0, length).expect("cached")
            });
        });
    }
    group.finish();

    let extents = KnownExtents::new(1024, 16);
    criterion.bench_function("extents of a chunk with 16 of them", |bencher| {
        bencher.iter(|| extents.within(black_box(500), 64 * KIB, 192 * KIB));
    });

    let mut overlay = Written::new(4096 * KIB);
    for segment in 0..256 {
        overlay.write(segment * 16 * KIB, &[1; 4096]);
    }
    criterion.bench_function("lay buffered writes over 128 KiB", |bencher| {
        bencher.iter(|| overlay.pieces(black_box(1024 * KIB), 1152 * KIB));
    });
    criterion.bench_function("buffer a write of 4 KiB in place", |bencher| {
        bencher.iter(|| overlay.write(black_box(1024 * KIB), &[2; 4096]));
    });
}

criterion_group!(benches, read_path);
criterion_main!(benches);
