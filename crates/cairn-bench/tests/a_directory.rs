//! The whole instrument on real directories.

use std::fs;
use std::path::Path;

use cairn_bench::plan::{Plan, Row};
use cairn_bench::progress::Progress;
use cairn_bench::report::Report;
use cairn_bench::target::Target;
use cairn_bench::{BenchError, page, run, table};

/// In memory where that is possible: a test must not wait for the machine's disk.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

fn small_plan() -> Plan {
    Plan {
        rounds: 2,
        // Others use this machine, too.
        drop_caches: false,
        large_bytes: (12 << 20) + 123,
        random_reads: 64,
        small_count: 60,
        small_bytes: 700,
        fsync_count: 5,
        archive_bytes: vec![512, 8192],
        archive_count: 30,
        archive_total: 1 << 20,
        ..Plan::default()
    }
}

/// A target that counts how often it was taken away and brought back.
fn counted(folder: &Path, directory: &str) -> Target {
    let mut target = Target::new(folder.join(directory));
    fs::create_dir(&target.directory).expect("a directory");
    directory.clone_into(&mut target.name);
    target.store = Some(target.directory.clone());
    target.unmount = Some("echo unmount >> \"$DIR.log\"".into());
    target.mount = Some("echo mount >> \"$DIR.log\"".into());
    target
}

#[test]
fn every_row_is_measured_on_every_target_and_nothing_is_left() {
    let folder = folder();
    let targets = [counted(folder.path(), "one"), counted(folder.path(), "two")];
    let report = run::run(&targets, &small_plan(), &Progress::default()).expect("measured");
    for target in &report.targets {
        for row in Row::ALL.into_iter().filter(|row| *row != Row::Archive) {
            let found = target.rows.iter().find(|measured| measured.name == row.name());
            let found = found.unwrap_or_else(|| panic!("{} lacks {}", target.name, row.name()));
            assert!(found.value > 0.0 && found.rounds.len() == 2, "{found:?}");
        }
        assert_eq!(target.archive.len(), 2);
        assert!(target.archive.iter().all(|point| point.files_write > 0.0 && point.extract > 0.0));
        let storage = target.storage.expect("storage was looked at");
        assert_eq!((storage.files, storage.logical), (60, 42_000));
        assert!(storage.stored.expect("the store is known") >= 42_000);
    }
    for target in &targets {
        assert_eq!(fs::read_dir(&target.directory).expect("there").count(), 0, "nothing is left");
        let log = fs::read_to_string(target.directory.with_extension("log")).expect("a log");
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines.chunks(2).all(|pair| pair == ["unmount", "mount"]), "always in turn: {lines:?}");
    }

    let text = serde_json::to_string(&report).expect("JSON");
    let again: Report = serde_json::from_str(&text).expect("read back");
    let page = page::html(&again);
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("<svg") && !page.contains("http-equiv"));
    assert!(!page.replace("http://www.w3.org/2000/svg", "").contains("http"), "nothing is fetched from elsewhere");
    let plots = page::plots(&again);
    for wanted in ["bars.svg", "curve-seq-read.svg", "latency-create.svg", "archive-read.svg"] {
        assert!(plots.iter().any(|plot| plot.file == wanted), "{wanted}");
    }
    let (headings, lines) = table::table(&again);
    assert_eq!(headings, ["workload", "unit", "one", "two", "against two"]);
    assert_eq!(lines.len(), Row::ALL.len() - 1);
    assert!(table::notes(&again).iter().any(|note| note.contains("archive")));
}

#[test]
fn only_what_was_asked_for_is_measured() {
    let folder = folder();
    let plan = Plan { rows: vec![Row::Walk], ..small_plan() };
    let target = Target::new(folder.path().to_owned());
    let report = run::run(&[target], &plan, &Progress::default()).expect("measured");
    let names: Vec<&str> = report.targets[0].rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["walk"]);
}

#[test]
fn an_interrupted_run_cleans_up() {
    let folder = folder();
    let progress = Progress::default();
    progress.stop();
    let outcome = run::run(&[Target::new(folder.path().to_owned())], &small_plan(), &progress);
    assert!(matches!(outcome, Err(BenchError::Interrupted)));
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
}

#[test]
fn a_mount_that_does_not_come_back_is_told() {
    let folder = folder();
    let mut target = counted(folder.path(), "lost");
    target.mount = Some("exit 9".into());
    let error = run::run(&[target], &small_plan(), &Progress::default()).expect_err("fails").to_string();
    assert!(error.contains("`exit 9` failed"), "{error}");
}
