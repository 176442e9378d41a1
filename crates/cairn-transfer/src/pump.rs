//! Connects a source with a sink: one thread reads names, several copy files.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use cairn_locks::Mutex;

use crate::content::Digest;
use crate::item::{Item, Kind};
use crate::lock_order;
use crate::{Sink, Source, TransferError};

/// How far a transfer is, and the wish to end it. Clones are the same transfer.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    files: AtomicU64,
    bytes: AtomicU64,
    kept: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Nodes that are done, folders not counted.
    pub fn files(&self) -> u64 {
        self.0.files.load(Ordering::Relaxed)
    }

    /// Bytes of files, holes included.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Files that were there already.
    pub fn kept(&self) -> u64 {
        self.0.kept.load(Ordering::Relaxed)
    }

    /// Lets the transfer end with [`TransferError::Stopped`] soon.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add_bytes(&self, bytes: u64) -> Result<(), TransferError> {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.0.stop.load(Ordering::Relaxed) { Err(TransferError::Stopped) } else { Ok(()) }
    }

    pub(crate) fn add_kept(&self) {
        self.0.kept.fetch_add(1, Ordering::Relaxed);
    }

    fn add_file(&self) -> Result<(), TransferError> {
        self.0.files.fetch_add(1, Ordering::Relaxed);
        self.add_bytes(0)
    }
}

/// What was copied, for [`verify`]: path and digest of every file.
pub type Copied = HashMap<PathBuf, Digest>;

/// Copies everything, `jobs` files at a time.
///
/// # Errors
/// The first thing that went wrong; what was copied until then stays, and is not copied again.
pub fn pump(source: &dyn Source, sink: &dyn Sink, jobs: usize, progress: &Progress) -> Result<Copied, TransferError> {
    let copied = Mutex::<_, lock_order::CopiedItems>::new(Copied::new());
    let ordered = sink.is_ordered();
    let jobs = if ordered { 1 } else { jobs };
    let failure = Mutex::<Option<TransferError>, lock_order::Failure>::new(None);
    let mut links = Vec::new();
    let produced = std::thread::scope(|scope| {
        let (send, receive) = sync_channel::<Item>(jobs * 2);
        let receive = Arc::new(Mutex::new(receive));
        for _ in 0..jobs {
            let (receive, copied, failure) = (Arc::clone(&receive), &copied, &failure);
            scope.spawn(move || {
                if let Err(error) = work(&receive, sink, copied, failure, progress) {
                    failure.lock().get_or_insert(error);
                }
            });
        }
        // The threads alone keep it: when all have failed, sending fails, too.
        drop(receive);
        source.each(&mut |item| match item.kind {
            Kind::Directory if !ordered => sink.directory(item),
            Kind::HardLink(_) if !ordered => {
                links.push(item);
                Ok(())
            }
            _ => send.send(item).map_err(|_| TransferError::Stopped),
        })
    });
    // Whoever was merely stopped by the other's failure has nothing to tell.
    match (failure.into_inner(), produced) {
        (Some(TransferError::Stopped) | None, Err(error)) | (Some(error), _) => return Err(error),
        (None, Ok(())) => {}
    }
    for item in links {
        let path = item.path.clone();
        if let Some(digest) = sink.put(item, progress)? {
            copied.lock().insert(path, digest);
        }
        progress.add_file()?;
    }
    sink.finish()?;
    Ok(copied.into_inner())
}

fn work(
    receive: &Mutex<Receiver<Item>, lock_order::NextItem>,
    sink: &dyn Sink,
    copied: &Mutex<Copied, lock_order::CopiedItems>,
    failure: &Mutex<Option<TransferError>, lock_order::Failure>,
    progress: &Progress,
) -> Result<(), TransferError> {
    loop {
        let next = receive.lock().recv();
        let Ok(item) = next else { return Ok(()) };
        if failure.lock().is_some() {
            return Ok(());
        }
        if matches!(item.kind, Kind::Directory) {
            sink.directory(item)?;
            continue;
        }
        let path = item.path.clone();
        if let Some(digest) = sink.put(item, progress)? {
            copied.lock().insert(path, digest);
        }
        progress.add_file()?;
    }
}

/// Reads the copy again and compares it with what was read when it was made.
///
/// # Errors
/// The first file that differs or is missing, or cannot be read.
pub fn verify(copy: &dyn Source, copied: &Copied, jobs: usize, progress: &Progress) -> Result<(), TransferError> {
    let found = pump(copy, &Compare { copied, others: Mutex::default() }, jobs, progress)?;
    match copied.keys().find(|path| !found.contains_key(*path)) {
        Some(path) => Err(TransferError::Differs { path: path.clone() }),
        None => Ok(()),
    }
}

/// A sink that keeps nothing.
struct Compare<'a> {
    copied: &'a Copied,
    /// Digests of names that are not in `copied`. Of several names of one file, the one that a copy is read by first need not be
    /// the one that it was written by.
    others: Mutex<Copied, lock_order::OtherItems>,
}

impl Sink for Compare<'_> {
    fn directory(&self, _item: Item) -> Result<(), TransferError> {
        Ok(())
    }

    fn put(&self, item: Item, progress: &Progress) -> Result<Option<Digest>, TransferError> {
        let digest = match item.kind {
            Kind::Regular { size, mut content } => {
                let digest = crate::content::hash(content.as_mut(), size)?;
                progress.add_bytes(size)?;
                Some(digest)
            }
            Kind::HardLink(first) => self.copied.get(&first).or(self.others.lock().get(&first)).copied(),
            _ => None,
        };
        let Some(digest) = digest else { return Ok(None) };
        match self.copied.get(&item.path) {
            Some(wanted) if *wanted == digest => Ok(Some(digest)),
            Some(_) => Err(TransferError::Differs { path: item.path }),
            None => {
                self.others.lock().insert(item.path, digest);
                Ok(None)
            }
        }
    }

    fn finish(&self) -> Result<(), TransferError> {
        Ok(())
    }
}
