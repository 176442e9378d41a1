//! One large file: written, read from end to end, read at random.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::plan::Row;
use crate::run::{Bench, in_threads};
use crate::trace::Trace;
use crate::{BenchError, During};

/// Bytes of one `read` or `write`.
const PIECE: usize = 1 << 20;
const RANDOM_READ: usize = 4096;

pub(crate) fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let reads = [Row::SeqReadClient, Row::SeqRead, Row::SeqReadWarm, Row::MmapRead, Row::Random1, Row::Random16];
    if !bench.plan.wants(Row::SeqWrite) && !bench.plan.wants_any(&reads) {
        return Ok(());
    }
    let size = bench.plan.large_bytes;
    let path = bench.work.join("large");
    bench.chill()?;
    bench.measure(Row::SeqWrite, size, |bench| write(bench, &path, size))?;
    if bench.plan.wants(Row::SeqReadClient) && bench.target.can_remount() {
        bench.forget_client()?;
        bench.measure(Row::SeqReadClient, size, |bench| read(bench, &path, size))?;
    }
    if bench.plan.wants_any(&[Row::SeqRead, Row::SeqReadWarm]) {
        bench.chill()?;
        bench.measure(Row::SeqRead, size, |bench| read(bench, &path, size))?;
    }
    if bench.plan.wants(Row::SeqReadWarm) {
        bench.measure(Row::SeqReadWarm, size, |bench| read(bench, &path, size))?;
    }
    if bench.plan.wants(Row::MmapRead) {
        bench.chill()?;
        bench.measure(Row::MmapRead, size, |bench| read_mapped(bench, &path, size))?;
    }
    for (row, threads) in [(Row::Random1, 1), (Row::Random16, 16)] {
        if bench.plan.wants(row) {
            let offsets = random_offsets(size, bench.plan.random_reads, threads as u64);
            bench.chill()?;
            bench.measure(row, offsets.len() as u64, |bench| read_random(bench, &path, &offsets, threads))?;
        }
    }
    fs::remove_file(&path).during("delete", &path)
}

/// Writes bytes of which no piece repeats another, so that no file system can leave any out, and syncs them.
fn write(bench: &Bench<'_>, path: &Path, size: u64) -> Result<Trace, BenchError> {
    let mut noise = vec![0; 4 * PIECE];
    StdRng::seed_from_u64(0).fill_bytes(&mut noise);
    let mut trace = bench.trace(size.div_ceil(PIECE as u64) + 1);
    let mut file = File::create(path).during("create", path)?;
    let mut written = 0;
    while written < size {
        let start = (written / PIECE as u64 * 4096 * 7) as usize % (3 * PIECE);
        let length = (size - written).min(PIECE as u64) as usize;
        let piece = &mut noise[start..start + length];
        if let Some(mark) = piece.first_chunk_mut::<8>() {
            *mark = written.to_le_bytes();
        }
        file.write_all(piece).during("write", path)?;
        written += length as u64;
        trace.step(length as u64)?;
    }
    file.sync_all().during("sync", path)?;
    trace.step(0)?;
    Ok(trace.end())
}

fn read(bench: &Bench<'_>, path: &Path, size: u64) -> Result<Trace, BenchError> {
    let mut buffer = vec![0; PIECE];
    let mut trace = bench.trace(size.div_ceil(PIECE as u64));
    let mut file = File::open(path).during("open", path)?;
    let mut found = 0;
    loop {
        let length = file.read(&mut buffer).during("read", path)? as u64;
        if length == 0 {
            break;
        }
        found += length;
        trace.step(length)?;
    }
    whole(path, found, size)?;
    Ok(trace.end())
}

fn whole(path: &Path, found: u64, wanted: u64) -> Result<(), BenchError> {
    if found == wanted { Ok(()) } else { Err(BenchError::Short { path: path.to_owned(), found, wanted }) }
}

/// Copies every byte out of a mapping, as loaders of model weights do.
fn read_mapped(bench: &Bench<'_>, path: &Path, size: u64) -> Result<Trace, BenchError> {
    let mut buffer = vec![0; PIECE];
    let mut trace = bench.trace(size.div_ceil(PIECE as u64));
    let file = File::open(path).during("open", path)?;
    whole(path, file.metadata().during("look at", path)?.len(), size)?;
    let mapping = Mapping::of(&file, size as usize).during("map", path)?;
    let mut at = 0;
    while at < mapping.length {
        let length = (mapping.length - at).min(PIECE);
        mapping.copy(at, &mut buffer[..length]);
        at += length;
        trace.step(length as u64)?;
    }
    Ok(trace.end())
}

/// A file's bytes in memory, read only.
struct Mapping {
    start: *mut std::ffi::c_void,
    length: usize,
}

impl Mapping {
    fn of(file: &File, length: usize) -> std::io::Result<Mapping> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        // SAFETY: the kernel chooses a free range of addresses; nothing else refers to it.
        let start = unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file, 0) }?;
        Ok(Mapping { start, length })
    }

    fn copy(&self, at: usize, into: &mut [u8]) {
        assert!(at + into.len() <= self.length);
        // SAFETY: the range lies in the mapping, which lives as long as `self`; no Rust reference to its bytes is made,
        // so that the file may change. If the file shrank the kernel ends the process, as it does for any mapping.
        unsafe { std::ptr::copy_nonoverlapping(self.start.cast::<u8>().add(at), into.as_mut_ptr(), into.len()) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `of` mapped, and nobody has a pointer into it any more.
        let _ = unsafe { rustix::mm::munmap(self.start, self.length) };
    }
}

fn random_offsets(size: u64, count: u64, seed: u64) -> Vec<u64> {
    let mut random = StdRng::seed_from_u64(seed);
    let places = (size / RANDOM_READ as u64).max(1);
    (0..count).map(|_| random.random_range(0..places) * RANDOM_READ as u64).collect()
}

fn read_random(bench: &Bench<'_>, path: &Path, offsets: &[u64], threads: usize) -> Result<Trace, BenchError> {
    let file = File::open(path).during("open", path)?;
    in_threads(bench, offsets, threads, |trace, mine| {
        let mut buffer = [0; RANDOM_READ];
        for offset in mine {
            file.read_exact_at(&mut buffer, *offset).during("read", path)?;
            trace.step(1)?;
        }
        Ok(())
    })
}
