//! Goes through targets and workloads in turn, round after round, and puts the medians together.

use std::fs;
use std::path::{Path, PathBuf};

use crate::plan::{Plan, Row};
use crate::progress::Progress;
use crate::report::{ArchivePoint, Machine, Measured, Report, Storage, TargetReport};
use crate::target::{Cold, Target, file_system_of};
use crate::trace::Trace;
use crate::{BenchError, During, archive, large, small};

/// Measures every target; the rounds go through the targets in turn, so that what the machine does besides hits all.
///
/// # Errors
/// The first thing that went wrong, in a sentence; what was made in the directories is removed.
pub fn run(targets: &[Target], plan: &Plan, progress: &Progress) -> Result<Report, BenchError> {
    let mut rounds = Vec::new();
    for number in 1..=plan.rounds.max(1) {
        for target in targets {
            let measured = one_round(target, plan, progress, number)?;
            let plan = Plan { rounds: 1, ..plan.clone() };
            rounds.push(Report {
                version: 1,
                machine: Machine::this(),
                plan,
                targets: vec![measured],
                remarks: Vec::new(),
            });
        }
    }
    let nothing =
        Report { version: 1, machine: Machine::this(), plan: plan.clone(), targets: Vec::new(), remarks: Vec::new() };
    Ok(Report::merged(rounds).unwrap_or(nothing))
}

fn one_round(target: &Target, plan: &Plan, progress: &Progress, number: u32) -> Result<TargetReport, BenchError> {
    let work = target.directory.join(format!("cairn-bench-{}-{number}", std::process::id()));
    fs::create_dir(&work).during("make", &work)?;
    let mut bench = Bench {
        target,
        plan,
        progress,
        work,
        measured: Vec::new(),
        archive: Vec::new(),
        storage: Storage::default(),
        cold: None,
        settled: false,
    };
    let outcome = large::run(&mut bench).and_then(|()| small::run(&mut bench)).and_then(|()| archive::run(&mut bench));
    let cleaned = bench.clean();
    outcome?;
    cleaned?;
    Ok(TargetReport {
        name: target.name.clone(),
        file_system: file_system_of(&target.directory),
        caveat: bench.cold.and_then(caveat),
        rows: bench.measured,
        archive: bench.archive,
        storage: (bench.storage.files > 0).then_some(bench.storage),
    })
}

fn caveat(cold: Cold) -> Option<String> {
    let text = match cold {
        Cold::Everything => return None,
        Cold::Kernel => {
            "Only the kernel's caches could be dropped: the mount's own process may have answered from its memory. \
             Name commands with --unmount and --mount to measure it cold."
        }
        Cold::Pages => {
            "The kernel's caches were not dropped (--keep-caches, or not root): figures of cold reads may be too good."
        }
    };
    Some(text.to_owned())
}

/// One round on one target.
pub(crate) struct Bench<'a> {
    pub(crate) target: &'a Target,
    pub(crate) plan: &'a Plan,
    pub(crate) progress: &'a Progress,
    /// Everything is made in here.
    pub(crate) work: PathBuf,
    pub(crate) archive: Vec<ArchivePoint>,
    pub(crate) storage: Storage,
    measured: Vec<Measured>,
    cold: Option<Cold>,
    /// Settled and not mounted again.
    settled: bool,
}

impl Bench<'_> {
    /// Runs a workload of `total` steps and keeps its figures if they are wanted.
    pub(crate) fn measure(
        &mut self,
        row: Row,
        total: u64,
        work: impl FnOnce(&Self) -> Result<Trace, BenchError>,
    ) -> Result<Trace, BenchError> {
        self.progress.begin(format!("{}: {}", self.target.name, row.label()), total);
        let trace = work(self)?;
        self.report(row, &trace);
        Ok(trace)
    }

    pub(crate) fn report(&mut self, row: Row, trace: &Trace) {
        if self.plan.wants(row) {
            self.measured.push(Measured::of(row, trace));
        }
    }

    pub(crate) fn trace(&self, steps: u64) -> Trace {
        Trace::begin(self.progress, steps as usize)
    }

    /// See [`Target::settle`]. Whatever comes next must begin with [`Bench::chill`] or [`Bench::forget_client`].
    pub(crate) fn settle(&mut self) -> Result<(), BenchError> {
        if !self.settled {
            self.target.settle(&self.work)?;
            self.settled = self.target.can_remount();
        }
        Ok(())
    }

    /// The client forgets; the servers' and the kernel's caches of other file systems stay.
    pub(crate) fn forget_client(&mut self) -> Result<(), BenchError> {
        self.settle()?;
        self.target.remount()?;
        self.settled = false;
        Ok(())
    }

    /// Nothing is cached anywhere, as far as that can be done.
    pub(crate) fn chill(&mut self) -> Result<(), BenchError> {
        self.progress.begin(format!("{}: emptying caches", self.target.name), 0);
        self.forget_client()?;
        self.cold = Some(self.target.drop_kernel_caches(&self.work, self.plan.drop_caches)?);
        Ok(())
    }

    fn clean(&mut self) -> Result<(), BenchError> {
        if self.settled {
            self.target.remount()?;
            self.settled = false;
        }
        fs::remove_dir_all(&self.work).during("delete", &self.work)
    }
}

/// Shares the items out among threads that begin together, each with a trace of its own.
pub(crate) fn in_threads<T: Sync>(
    bench: &Bench<'_>,
    items: &[T],
    threads: usize,
    work: impl Fn(&mut Trace, &[T]) -> Result<(), BenchError> + Sync,
) -> Result<Trace, BenchError> {
    let share = items.len().div_ceil(threads).max(1);
    let traces: Result<Vec<Trace>, BenchError> = std::thread::scope(|scope| {
        let running: Vec<_> = items
            .chunks(share)
            .map(|mine| {
                let mut trace = bench.trace(mine.len() as u64);
                let work = &work;
                scope.spawn(move || work(&mut trace, mine).map(|()| trace.end()))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap_or(Err(BenchError::Interrupted))).collect()
    });
    Ok(Trace::join(traces?).unwrap_or_else(|| bench.trace(0).end()))
}

/// Whether a directory can be measured in; a sentence if not.
///
/// # Errors
/// What stands in the way.
pub fn check(directory: &Path) -> Result<(), BenchError> {
    let probe = directory.join(format!("cairn-bench-{}-probe", std::process::id()));
    fs::create_dir(&probe).during("make", &probe)?;
    fs::remove_dir(&probe).during("delete", &probe)
}
