//! `cairn import` and `cairn export`: trees and archives into a volume and out of it, without a mount.
//!
//! Copying and comparing are `cairn_transfer`'s; here are sessions, the progress bar and sentences.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_client::{SessionOptions, Volume, VolumeOptions};
use cairn_locks::Mutex;
use cairn_runtime::MemoryBudget;
use cairn_transfer::archive::{Archive, ArchiveSink};
use cairn_transfer::local::{LocalSink, LocalTree};
use cairn_transfer::volume::{VolumeSink, VolumeTree};
use cairn_transfer::{Format, Progress, Source, TransferError, pump, verify};
use cairn_wire::handshake::{ClientInfo, ClientKind};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::runtime::{Handle, Runtime};

use crate::cli::{Export, Import, TransferTuning};
use crate::commands::mounted;
use crate::exit_code::{Exit, WithExit};
use crate::lock_order;
use crate::size::Size;
use crate::{connect, output, paths, runtime};

/// How long writing what is buffered may take at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn import(options: &Import) -> Result<ExitCode> {
    let place = Place::parse(&options.target)?;
    let source = local_source(&options.source, options.as_file)?;
    let transfer = Transfer::new(ClientKind::Import, place, &options.tuning)?;
    let copied = transfer.with_volume(false, |volume| {
        let sink = VolumeSink::new(transfer.tree(volume), transfer.verifies);
        transfer.run("copying", source.total_bytes(), |progress| pump(source.as_ref(), &sink, transfer.jobs, progress))
    })?;
    if transfer.verifies {
        // A session of its own: nothing is compared with what the first one still remembers.
        transfer.with_volume(true, |volume| {
            let copy = transfer.tree(volume);
            transfer.run("verifying", None, |progress| verify(&copy, &copied, transfer.jobs, progress))
        })?;
    }
    transfer.tell(&options.target)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn export(options: &Export) -> Result<ExitCode> {
    let place = Place::parse(&options.source)?;
    let target = &options.target;
    let transfer = Transfer::new(ClientKind::Export, place, &options.tuning)?;
    let format = if target.is_dir() { None } else { Format::of(target) };
    let copied = transfer.with_volume(true, |volume| {
        let source = transfer.tree(volume);
        // Nothing is made here unless there is something to copy.
        let root = source.root()?;
        root.with_context(|| WithExit(Exit::Failure, format!("{} does not exist", options.source)))?;
        if let Some(format) = format {
            let sink = ArchiveSink::new(target.clone(), format)?;
            return transfer.run("packing", None, |progress| pump(&source, &sink, transfer.jobs, progress));
        }
        std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
        let sink = LocalSink::new(target.clone(), transfer.verifies);
        transfer.run("copying", None, |progress| pump(&source, &sink, transfer.jobs, progress))
    })?;
    if transfer.verifies {
        let copy: Box<dyn Source + Send + Sync> = match format {
            Some(format) => Box::new(Archive::new(target.clone(), format)),
            None => Box::new(LocalTree::new(target.clone())),
        };
        let total = copy.total_bytes();
        transfer.run("verifying", total, |progress| verify(copy.as_ref(), &copied, transfer.jobs, progress))?;
    }
    transfer.tell(&target.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

fn local_source(path: &Path, as_file: bool) -> Result<Box<dyn Source + Send + Sync>> {
    let told = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(match Format::of(path).filter(|_| told.is_file() && !as_file) {
        Some(format) => Box::new(Archive::new(path.to_owned(), format)),
        None => Box::new(LocalTree::new(path.to_owned())),
    })
}

/// A path in a volume.
struct Place {
    volume: String,
    path: PathBuf,
}

impl Place {
    fn parse(text: &str) -> Result<Place> {
        let explain = |what: &str| {
            let sentence =
                format!("{text:?} {what}: write the volume's name, a colon and a path, such as models:/data");
            WithExit(Exit::Usage, sentence)
        };
        let (volume, path) = text
            .split_once(':')
            .filter(|(volume, _)| !volume.is_empty())
            .ok_or_else(|| explain("does not name a place in a volume"))?;
        let path = cairn_transfer::item::clean(Path::new(path)).ok_or_else(|| explain("leads out of the volume"))?;
        Ok(Place { volume: volume.to_owned(), path })
    }
}

/// One command's work.
struct Transfer {
    runtime: Runtime,
    memory: MemoryBudget,
    kind: ClientKind,
    place: Place,
    tuning: TransferTuning,
    jobs: usize,
    verifies: bool,
    started: Instant,
    /// Of the copying, for the last sentence.
    progress: Progress,
    /// Of its sessions, added up.
    counters: Mutex<BTreeMap<&'static str, u64>, lock_order::TransferCounters>,
}

impl Transfer {
    fn new(kind: ClientKind, place: Place, tuning: &TransferTuning) -> Result<Transfer> {
        Ok(Transfer {
            runtime: runtime::new()?,
            memory: MemoryBudget::of_process(),
            kind,
            place,
            tuning: tuning.clone(),
            jobs: usize::from(tuning.jobs),
            verifies: !tuning.no_verify,
            started: Instant::now(),
            progress: Progress::default(),
            counters: Mutex::default(),
        })
    }

    fn tree(&self, volume: &Volume) -> VolumeTree {
        VolumeTree::new(volume.clone(), self.handle(), self.place.path.clone())
    }

    fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// A session with the volume for as long as `work` lasts. What was written is durable when it ends.
    fn with_volume<T>(&self, read_only: bool, work: impl FnOnce(&Volume) -> Result<T>) -> Result<T> {
        let info =
            ClientInfo { host: mounted::host_name(), pid: std::process::id(), kind: self.kind.clone(), read_only };
        let connect = connect::options(&self.tuning.connection)?;
        let session = SessionOptions::new(connect, self.place.volume.clone(), info);
        let options = VolumeOptions {
            read_only,
            recovery_dir: paths::recovery_directory(),
            ..VolumeOptions::new(self.memory.clone())
        };
        let volume =
            self.runtime.block_on(Volume::open(session, options, self.handle())).map_err(connect::open_volume_error)?;
        let outcome = work(&volume);
        for (name, value) in volume.stats().list() {
            *self.counters.lock().entry(name).or_default() += value;
        }
        let closed = self.runtime.block_on(volume.close(CLOSE_LIMIT));
        let result = outcome?;
        closed.context("the volume could not be closed cleanly")?;
        Ok(result)
    }

    /// Runs a step with a bar; Ctrl-C ends it in good order.
    fn run<T>(
        &self,
        what: &'static str,
        total: Option<u64>,
        work: impl FnOnce(&Progress) -> Result<T, TransferError>,
    ) -> Result<T> {
        let progress = if what == "verifying" { Progress::default() } else { self.progress.clone() };
        let shown = self.runtime.spawn(show(progress.clone(), what, total));
        let stopping = self.runtime.spawn({
            let progress = progress.clone();
            async move {
                if runtime::asked_to_stop(true).await.is_ok() {
                    progress.stop();
                }
            }
        });
        let outcome = work(&progress);
        shown.abort();
        stopping.abort();
        Ok(outcome?)
    }

    fn tell(&self, target: &str) -> Result<()> {
        let seconds = self.started.elapsed().as_secs_f64();
        if self.tuning.json {
            return output::json(&json!({
                "target": target, "files": self.progress.files(), "bytes": self.progress.bytes(),
                "kept": self.progress.kept(), "seconds": seconds, "verified": self.verifies,
                "counters": *self.counters.lock(),
            }));
        }
        let kept = match self.progress.kept() {
            0 => String::new(),
            kept => format!(", {kept} of them there already"),
        };
        let verified = if self.verifies { ", verified" } else { "" };
        let (files, bytes) = (self.progress.files(), Size(self.progress.bytes()));
        println!("{files} files, {bytes}{kept}, in {seconds:.1} s{verified}: {target}");
        Ok(())
    }
}

/// Draws the bar until it is aborted.
async fn show(progress: Progress, what: &'static str, total: Option<u64>) {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let template = match total {
        Some(_) => "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta}",
        None => "{prefix} {spinner} {bytes} {bytes_per_sec} {msg} {elapsed}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    loop {
        bar.set_position(progress.bytes());
        bar.set_message(format!("{} files", progress.files()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let place = Place::parse("models:/data/./sets").expect("a place");
        assert_eq!((place.volume.as_str(), place.path.as_path()), ("models", Path::new("data/sets")));
        assert_eq!(Place::parse("models:").expect("the root").path, PathBuf::new());
        for text in ["models", ":/data", "models:/../etc"] {
            let error = Place::parse(text).map(|_| ()).expect_err(text).to_string();
            assert!(error.contains("models:/data"), "{error}");
        }
    }
}
