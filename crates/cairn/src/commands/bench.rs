//! `cairn bench`: workloads on any directory, and their report as a table, JSON, a page or plots.
//!
//! What is measured and drawn is `cairn_bench`'s; here are flags, progress bars and files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cairn_bench::plan::{Plan, Row};
use cairn_bench::progress::Progress;
use cairn_bench::report::Report;
use cairn_bench::target::Target;
use cairn_bench::{BenchError, page, run as runner, table};
use cairn_types::Profile;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Bench;
use crate::commands::bench_profiles::Volumes;
use crate::exit_code::{Exit, WithExit};
use crate::{output, runtime};

pub(crate) fn run(options: &Bench) -> Result<ExitCode> {
    let earlier: Result<Vec<Report>> = options.from.iter().map(|file| load(file)).collect();
    let report = match Report::merged(earlier?) {
        Some(report) => report,
        None => match options.profile {
            Some(profile) => measure_profiles(profile, options)?,
            None => measure(targets(options)?, options)?,
        },
    };
    if options.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    if let Some(file) = &options.html {
        fs::write(file, page::html(&report)).with_context(|| format!("cannot write the page {}", file.display()))?;
    }
    if let Some(directory) = &options.plots {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        for plot in page::plots(&report) {
            let file = directory.join(&plot.file);
            fs::write(&file, plot.svg).with_context(|| format!("cannot write the plot {}", file.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(file: &Path) -> Result<Report> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read the report {}", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{} is not a report that `cairn bench --json` printed", file.display()))
}

/// Rows that are measured of profiles when none are named: what small files suffer from.
const PROFILE_ROWS: [Row; 4] = [Row::Create, Row::Walk, Row::Read, Row::Archive];

fn measure_profiles(profile: Profile, options: &Bench) -> Result<Report> {
    let mut profiles = vec![profile];
    for other in &options.against {
        let other = other.to_string_lossy().parse::<Profile>();
        profiles.push(other.map_err(|error| WithExit(Exit::Usage, format!("--against: {error}")))?);
    }
    let parent = options.directory.as_deref().map(usable).transpose()?;
    let volumes = Volumes::start(profiles, parent.as_deref())?;
    let mut report = measure(volumes.targets(), options)?;
    report.remarks = volumes.savings(&report);
    Ok(report)
}

fn targets(options: &Bench) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for directory in options.directory.iter().chain(&options.against) {
        let directory = usable(directory)?;
        let mut target = Target::new(directory.clone());
        target.unmount.clone_from(&options.unmount);
        target.mount.clone_from(&options.mount);
        target.store = options.store.as_ref().filter(|_| targets.is_empty()).cloned();
        targets.push(target);
    }
    Ok(targets)
}

fn measure(targets: Vec<Target>, options: &Bench) -> Result<Report> {
    let usual = if options.profile.is_some() { PROFILE_ROWS.to_vec() } else { Row::ALL.to_vec() };
    let plan = Plan {
        rows: if options.rows.is_empty() { usual } else { options.rows.clone() },
        rounds: options.rounds,
        drop_caches: !options.keep_caches,
        large_bytes: options.size.0,
        random_reads: options.random_reads,
        small_count: options.count,
        small_bytes: options.small.0,
        fsync_count: options.fsyncs,
        archive_bytes: options.archive_sizes.iter().map(|size| size.0).collect(),
        archive_count: options.archive_count,
        ..Plan::default()
    };
    let progress = Progress::default();
    let outcome = runtime::new()?.block_on(async {
        let mut working = tokio::task::spawn_blocking({
            let progress = progress.clone();
            move || runner::run(&targets, &plan, &progress)
        });
        let shown = tokio::spawn(show(progress.clone()));
        let outcome = tokio::select! {
            outcome = &mut working => outcome,
            _ = runtime::asked_to_stop(true) => {
                // It ends at its next step and removes what it made.
                progress.stop();
                working.await
            }
        };
        shown.abort();
        outcome
    })?;
    match outcome {
        Ok(report) => Ok(report),
        Err(BenchError::Interrupted) => bail!("interrupted; the files created for the measurement were removed"),
        Err(error) => Err(error.into()),
    }
}

fn usable(directory: &Path) -> Result<PathBuf> {
    let absolute = directory.canonicalize().map_err(|error| {
        WithExit(Exit::Usage, format!("{}: {error}; name an existing directory to measure in", directory.display()))
    })?;
    runner::check(&absolute).context("cannot measure there; name a writable directory")?;
    Ok(absolute)
}

/// Draws the bar, until it is aborted; where standard error is no terminal, one line for each workload.
async fn show(progress: Progress) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:<60} {wide_bar} {percent:>3} % {eta}") {
        bar.set_style(style);
    }
    let mut last = String::new();
    loop {
        let (label, done, total) = progress.now();
        if label != last {
            bar.reset();
            if bar.is_hidden() {
                eprintln!("{label}");
            }
            last.clone_from(&label);
        }
        bar.set_length(total.max(done));
        bar.set_position(done);
        bar.set_message(label);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn print(report: &Report) {
    println!("{}; median of {}\n", report.machine, report.plan.rounds);
    let (headings, lines) = table::table(report);
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    output::table(&headings, &lines);
    for note in table::notes(report) {
        println!("\n{note}");
    }
}
