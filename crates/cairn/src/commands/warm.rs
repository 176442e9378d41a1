//! `cairn warm PATH...`: brings files into the caches of the mount that they are in.
//!
//! The mount does it, when the extended attribute [`cairn_client::WARM_ATTRIBUTE`] of a file is read, and says how far it is
//! when the attribute is read again: the content goes from the server to the disk cache and never through the kernel. When this
//! command ends, the mount stops. A mount without a disk cache says so; then the content is read, so that it is in the
//! kernel's cache.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cairn_locks::Mutex;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Warm;
use crate::commands::stats::get_attribute;
use crate::lock_order;
use crate::size::Size;

/// Bytes that one request asks for: the progress bar moves, and no request takes long.
const RANGE: u64 = 16 * 1024 * 1024;
/// Bytes of one read into the kernel's cache.
const READ: usize = 1024 * 1024;
/// Time between two questions about the same range, at first and at most.
const ASK_AGAIN: Duration = Duration::from_micros(200);
const ASK_AGAIN_MAX: Duration = Duration::from_millis(20);
/// How long a range may take, in case the mount does not say so itself.
const RANGE_LIMIT: Duration = Duration::from_secs(900);

/// A part of a file to be warmed.
struct Piece {
    path: PathBuf,
    offset: u64,
    length: u64,
}

/// What has been done so far, by all threads.
#[derive(Default)]
struct Outcome {
    /// Bytes that are cached now.
    cached: AtomicU64,
    /// Bytes that the disk cache had no room for.
    left_out: AtomicU64,
    first_error: Mutex<Option<anyhow::Error>, lock_order::FirstError>,
}

pub(crate) fn run(options: &Warm) -> Result<ExitCode> {
    let mut pieces = Vec::new();
    for path in &options.paths {
        let about = path.symlink_metadata().with_context(|| format!("cannot warm {}", path.display()))?;
        collect(path, &about, about.dev(), &mut pieces)?;
    }
    let total = pieces.iter().map(|piece| piece.length).sum();
    if let Some(first) = pieces.first()
        && let Told::Answer(Answer { limit, .. }) = ask(&first.path, 0, 0)?
        && total > limit
    {
        let (total, limit) = (Size(total), Size(limit));
        bail!("{total} does not fit in the disk cache of {limit}: mount with a larger --disk-cache-size");
    }
    let bar = ProgressBar::new(total);
    let style = "{bar:40} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let outcome = Outcome::default();
    // The order in which they lie in the tree, which is often that in which they were written.
    let queue = Mutex::<_, lock_order::PiecesToWarm>::new(pieces.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| work(&queue, &bar, &outcome));
        }
    });
    bar.finish_and_clear();
    if let Some(error) = outcome.first_error.into_inner() {
        return Err(error);
    }
    let left_out = outcome.left_out.into_inner();
    println!("{} cached", Size(outcome.cached.into_inner()));
    if left_out > 0 {
        bail!("the disk cache had no space for {}: mount with a larger --disk-cache-size", Size(left_out));
    }
    Ok(ExitCode::SUCCESS)
}

/// Appends the files at and below `path`; other file systems and symbolic links are left alone.
fn collect(path: &Path, about: &Metadata, device: u64, pieces: &mut Vec<Piece>) -> Result<()> {
    if about.dev() != device {
        return Ok(());
    }
    if about.is_file() {
        let ranges = (0..about.len()).step_by(RANGE as usize);
        pieces.extend(ranges.map(|offset| Piece {
            path: path.to_owned(),
            offset,
            length: RANGE.min(about.len() - offset),
        }));
    } else if about.is_dir() {
        let failed = || format!("cannot list {}", path.display());
        for entry in std::fs::read_dir(path).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            // A file may go while this looks.
            if let Ok(about) = entry.metadata() {
                collect(&entry.path(), &about, device, pieces)?;
            }
        }
    }
    Ok(())
}

fn work(queue: &Mutex<std::vec::IntoIter<Piece>, lock_order::PiecesToWarm>, bar: &ProgressBar, outcome: &Outcome) {
    loop {
        let Some(piece) = queue.lock().next() else { return };
        match warm(&piece) {
            Ok(cached) => {
                outcome.cached.fetch_add(cached, Ordering::Relaxed);
                outcome.left_out.fetch_add(piece.length.saturating_sub(cached), Ordering::Relaxed);
            }
            Err(error) => {
                outcome.first_error.lock().get_or_insert(error);
            }
        }
        bar.inc(piece.length);
    }
}

/// Bytes of the piece that are cached now (holes count as cached).
fn warm(piece: &Piece) -> Result<u64> {
    match wait(piece)? {
        Some(answer) => Ok(piece.length.saturating_sub(answer.all.saturating_sub(answer.there))),
        None => read_through(piece).with_context(|| format!("cannot warm {}", piece.path.display())),
    }
}

/// Has the mount warm the piece and waits until it has. `None`: it has no disk cache.
fn wait(piece: &Piece) -> Result<Option<Answer>> {
    let began = Instant::now();
    let mut pause = ASK_AGAIN;
    loop {
        match ask(&piece.path, piece.offset, piece.length)? {
            Told::Answer(answer) => return Ok(Some(answer)),
            Told::NoDiskCache => return Ok(None),
            Told::Later if began.elapsed() > RANGE_LIMIT => {
                bail!("cannot warm {}: the mount took too long", piece.path.display())
            }
            Told::Later => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(ASK_AGAIN_MAX);
    }
}

/// What a mount says about a range of a file.
enum Told {
    NoDiskCache,
    /// It is at work.
    Later,
    Answer(Answer),
}

/// A mount with a disk cache on a range of a file.
struct Answer {
    /// Bytes of the range that are in the disk cache now.
    there: u64,
    /// Bytes of the range that are stored.
    all: u64,
    /// Bytes that the disk cache may hold.
    limit: u64,
}

/// Has the mount begin to warm a range, or asks how far it is.
fn ask(path: &Path, offset: u64, length: u64) -> Result<Told> {
    let failed = || format!("cannot warm {}", path.display());
    let name = format!("{}:{offset}:{length}", cairn_client::WARM_ATTRIBUTE);
    let answer = match get_attribute(path, OsStr::new(&name)) {
        Ok(answer) => answer,
        Err(error) => {
            return match error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
                Some(libc::EAGAIN) => Ok(Told::Later),
                Some(libc::EOPNOTSUPP | libc::ENODATA) => bail!("{} is not in a Cairn mount", path.display()),
                _ => Err(error.context(failed())),
            };
        }
    };
    match answer.as_slice() {
        b"none" => return Ok(Told::NoDiskCache),
        b"running" => return Ok(Told::Later),
        _ => {}
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let numbers: Result<Vec<u64>, _> = answer.split('/').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[there, all, limit]) => Ok(Told::Answer(Answer { there, all, limit })),
        _ => bail!("unexpected answer from the mount: {answer:?}; is it a different version of cairn?"),
    }
}

/// Reads the piece, which leaves it in the kernel's cache.
fn read_through(piece: &Piece) -> io::Result<u64> {
    let file = File::open(&piece.path)?;
    let mut buffer = vec![0; READ];
    let mut done = 0;
    while done < piece.length {
        let wanted = READ.min((piece.length - done) as usize);
        let read = file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), piece.offset + done)?;
        if read == 0 {
            break;
        }
        done += read as u64;
    }
    Ok(piece.length)
}
