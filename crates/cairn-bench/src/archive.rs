//! The same files as single files and as one archive: copied in, extracted, read.
//!
//! Everybody is told to pack small files before bringing them to a network volume. This measures, for files of
//! several sizes, whether the advice holds for the target; [`crate::report::ArchivePoint`] says it in numbers.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::Instant;

use crate::plan::Row;
use crate::report::ArchivePoint;
use crate::run::Bench;
use crate::small::Files;
use crate::{BenchError, During};

/// Bytes that are read and written at once.
const BUFFER: usize = 1 << 20;

pub(crate) fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    if !bench.plan.wants(Row::Archive) {
        return Ok(());
    }
    for size in bench.plan.archive_bytes.clone() {
        let count = (bench.plan.archive_total / size.max(1)).clamp(1, bench.plan.archive_count);
        let point = compare(bench, size, count)?;
        bench.archive.push(point);
    }
    Ok(())
}

fn compare(bench: &mut Bench<'_>, size: u64, count: u64) -> Result<ArchivePoint, BenchError> {
    let (top, packed, unpacked) =
        (bench.work.join("single"), bench.work.join("packed.tar"), bench.work.join("unpacked"));
    let files = Files::new(&top, count, size as usize);
    let note = |bench: &Bench<'_>, what: &str| {
        bench.progress.begin(format!("{}: {what} ({count} files of {size} bytes)", bench.target.name), count);
    };

    note(bench, "writing single files");
    bench.chill()?;
    let started = Instant::now();
    files.make_folders()?;
    files.create(bench, false)?;
    bench.settle()?;
    let files_write = started.elapsed().as_secs_f64();

    note(bench, "reading single files");
    bench.chill()?;
    let files_read = files.read(bench, &files.names, 1)?.elapsed().as_secs_f64();

    note(bench, "writing an archive");
    bench.chill()?;
    let started = Instant::now();
    write_archive(bench, &files, &packed)?;
    bench.settle()?;
    let archive_write = started.elapsed().as_secs_f64();

    note(bench, "reading an archive");
    bench.chill()?;
    let started = Instant::now();
    each_entry(bench, &packed, |_, _| Ok(()))?;
    let archive_read = started.elapsed().as_secs_f64();

    note(bench, "extracting an archive");
    bench.chill()?;
    let started = Instant::now();
    let mut folder = None;
    each_entry(bench, &packed, |path, bytes| {
        let path = unpacked.join(path);
        if path.parent() != folder.as_deref() {
            folder = path.parent().map(Path::to_owned);
            fs::create_dir_all(folder.as_deref().unwrap_or(&unpacked)).during("make", &unpacked)?;
        }
        File::create(&path).and_then(|mut file| file.write_all(bytes)).during("write", &path)
    })?;
    bench.settle()?;
    let extract = started.elapsed().as_secs_f64();
    bench.forget_client()?;

    fs::remove_dir_all(&top).during("delete", &top)?;
    fs::remove_dir_all(&unpacked).during("delete", &unpacked)?;
    fs::remove_file(&packed).during("delete", &packed)?;
    Ok(ArchivePoint { size, count, files_write, files_read, archive_write, archive_read, extract })
}

fn write_archive(bench: &Bench<'_>, files: &Files, path: &Path) -> Result<(), BenchError> {
    let file = File::create(path).during("create", path)?;
    let mut builder = tar::Builder::new(BufWriter::with_capacity(BUFFER, file));
    for (number, name) in files.names.iter().enumerate() {
        let content = files.content(number);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Folder and file: unique, and the same shape as the single files.
        let relative: std::path::PathBuf =
            name.components().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
        builder.append_data(&mut header, relative, content).during("write", path)?;
        bench.progress.step(1)?;
    }
    builder.into_inner().and_then(|mut inner| inner.flush()).during("write", path)
}

fn each_entry(
    bench: &Bench<'_>,
    path: &Path,
    mut act: impl FnMut(&Path, &[u8]) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let file = File::open(path).during("open", path)?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER, file));
    let mut bytes = Vec::new();
    for entry in archive.entries().during("read", path)? {
        let mut entry = entry.during("read", path)?;
        bytes.clear();
        entry.read_to_end(&mut bytes).during("read", path)?;
        act(&entry.path().during("read", path)?, &bytes)?;
        bench.progress.step(1)?;
    }
    Ok(())
}
