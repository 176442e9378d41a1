//! What was measured, as it is stored (`--json`), printed and drawn.
//!
//! Rows describe themselves, so that another program may add rows and targets of its own before a page is made of it.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::plan::{Plan, Row};
use crate::trace::Trace;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Of this format.
    pub version: u32,
    pub machine: Machine,
    pub plan: Plan,
    /// The first one is compared with each of the others.
    pub targets: Vec<TargetReport>,
    /// Further sentences of whoever made the report.
    #[serde(default)]
    pub remarks: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub processors: usize,
    pub model: String,
    pub memory_bytes: u64,
    pub kernel: String,
}

/// One directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetReport {
    pub name: String,
    #[serde(default)]
    pub file_system: String,
    /// What the figures cannot say, in a sentence.
    #[serde(default)]
    pub caveat: Option<String>,
    pub rows: Vec<Measured>,
    #[serde(default)]
    pub archive: Vec<ArchivePoint>,
    #[serde(default)]
    pub storage: Option<Storage>,
}

/// The median of a row, with the curve and the latencies of the round that gave it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub name: String,
    pub label: String,
    /// `…/s`: a rate, larger is better; `s`: a time, smaller is better.
    pub unit: String,
    pub value: f64,
    /// Of every round.
    pub rounds: Vec<f64>,
    #[serde(default)]
    pub latency: Option<Latency>,
    /// Seconds since the start, and the rate then.
    #[serde(default)]
    pub curve: Vec<(f64, f64)>,
}

/// Times of single steps (a file, a random read, a MiB of a large file), in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub longest: f64,
}

/// The same files as single files and as an archive; seconds until all of it was written (and synced) or read (cold).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArchivePoint {
    /// Bytes of one file.
    pub size: u64,
    pub count: u64,
    pub files_write: f64,
    pub files_read: f64,
    pub archive_write: f64,
    pub archive_read: f64,
    /// From an archive on the target to single files on the target.
    pub extract: f64,
}

/// What the small files took, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    pub files: u64,
    /// Sum of their sizes.
    pub logical: u64,
    /// Sum of their blocks (`st_blocks`).
    pub allocated: u64,
    /// By how much the used space of the file system grew (`statvfs`).
    pub reported: Option<u64>,
    /// By how much the folder grew in which the target stores them.
    pub stored: Option<u64>,
}

impl Measured {
    pub(crate) fn of(row: Row, trace: &Trace) -> Measured {
        let counts = row.counts();
        let divisor = counts.divisor();
        let value = trace.rate() / divisor;
        Measured {
            name: row.name().to_owned(),
            label: row.label().to_owned(),
            unit: counts.unit().to_owned(),
            value,
            rounds: vec![value],
            latency: trace.latency(),
            curve: trace.curve().into_iter().map(|(at, rate)| (at, rate / divisor)).collect(),
        }
    }

    pub fn larger_is_better(&self) -> bool {
        self.unit.ends_with("/s")
    }

    /// How many times as good as `other`; above 1 is better.
    pub fn times_as_good_as(&self, other: &Measured) -> Option<f64> {
        let (good, bad) = if self.larger_is_better() { (self.value, other.value) } else { (other.value, self.value) };
        (bad > 0.0).then(|| good / bad)
    }

    /// Several rounds of one row as one. With an even number of them the slower of the two in the middle.
    fn median(mut rounds: Vec<Measured>) -> Option<Measured> {
        let values: Vec<f64> = rounds.iter().flat_map(|round| round.rounds.iter().copied()).collect();
        rounds.sort_by(|a, b| a.value.total_cmp(&b.value));
        let middle = rounds.len().checked_sub(1)? / 2;
        let mut median = rounds.swap_remove(middle);
        median.rounds = values;
        Some(median)
    }
}

impl ArchivePoint {
    fn median(rounds: &[ArchivePoint]) -> Option<ArchivePoint> {
        let of = |field: fn(&ArchivePoint) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(field).collect();
            values.sort_by(f64::total_cmp);
            values[(values.len() - 1) / 2]
        };
        let first = rounds.first()?;
        Some(ArchivePoint {
            size: first.size,
            count: first.count,
            files_write: of(|point| point.files_write),
            files_read: of(|point| point.files_read),
            archive_write: of(|point| point.archive_write),
            archive_read: of(|point| point.archive_read),
            extract: of(|point| point.extract),
        })
    }
}

impl Machine {
    /// The one this runs on.
    pub(crate) fn this() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let kibibytes = field(&read("/proc/meminfo"), "MemTotal").and_then(|text| text.split(' ').next()?.parse().ok());
        Machine {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            model: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned()),
            memory_bytes: kibibytes.unwrap_or(0u64) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let memory = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(formatter, "{} × {}, {memory:.0} GiB, Linux {}", self.processors, self.model, self.kernel)
    }
}

impl Report {
    /// Several reports as one: those of a target of the same name are its rounds, of which the medians are kept; others
    /// stand side by side. `None` of nothing.
    pub fn merged(reports: Vec<Report>) -> Option<Report> {
        let first = reports.first()?.clone();
        let mut targets: Vec<Vec<TargetReport>> = Vec::new();
        for target in reports.into_iter().flat_map(|report| report.targets) {
            match targets.iter_mut().find(|known| known[0].name == target.name) {
                Some(known) => known.push(target),
                None => targets.push(vec![target]),
            }
        }
        let mut plan = first.plan;
        plan.rounds *= targets.iter().map(Vec::len).max().unwrap_or(1) as u32;
        Some(Report { plan, targets: targets.iter().map(|rounds| TargetReport::median(rounds)).collect(), ..first })
    }

    /// Every row that any target has, in the order of the first that has it: name, label, unit.
    pub(crate) fn rows(&self) -> Vec<&Measured> {
        let mut rows: Vec<&Measured> = Vec::new();
        for target in &self.targets {
            for row in &target.rows {
                if rows.iter().all(|known| known.name != row.name) {
                    rows.push(row);
                }
            }
        }
        rows
    }
}

impl TargetReport {
    /// `rounds`: at least one.
    fn median(rounds: &[TargetReport]) -> TargetReport {
        let first = &rounds[0];
        let of_row = |name: &str| rounds.iter().filter_map(|round| round.row(name).cloned()).collect();
        let of_point = |index: usize| {
            let points: Vec<ArchivePoint> =
                rounds.iter().filter_map(|round| round.archive.get(index).copied()).collect();
            ArchivePoint::median(&points)
        };
        TargetReport {
            rows: first.rows.iter().filter_map(|row| Measured::median(of_row(&row.name))).collect(),
            archive: (0..first.archive.len()).filter_map(of_point).collect(),
            ..first.clone()
        }
    }

    pub(crate) fn row(&self, name: &str) -> Option<&Measured> {
        self.rows.iter().find(|row| row.name == name)
    }
}

/// A figure as people read it: three digits that mean something, thousands apart.
pub fn figure(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value.abs() < 100.0 {
        let digits = if value.abs() >= 10.0 {
            1
        } else if value.abs() >= 1.0 {
            2
        } else {
            3
        };
        return format!("{value:.digits$}");
    }
    count(value.round() as u64)
}

/// A number of things, thousands apart.
pub fn count(value: u64) -> String {
    let whole = value.to_string();
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit.
pub fn bytes(value: u64) -> String {
    let mut value = value as f64;
    for unit in ["bytes", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 || unit == "TiB" {
            return if value.fract() < 0.05 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    unreachable!("the loop returns at its last unit")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(value: f64, unit: &str) -> Measured {
        Measured {
            name: "read".into(),
            label: "read".into(),
            unit: unit.into(),
            value,
            rounds: vec![value],
            latency: None,
            curve: Vec::new(),
        }
    }

    #[test]
    fn the_median_keeps_every_round() {
        let median = Measured::median([3.0, 9.0, 5.0].map(|value| measured(value, "MB/s")).to_vec()).expect("rounds");
        assert!((median.value - 5.0).abs() < 1e-9);
        assert_eq!(median.rounds, [3.0, 9.0, 5.0]);
        assert!(Measured::median(Vec::new()).is_none());
    }

    #[test]
    fn rates_and_times_are_compared_the_right_way_round() {
        let ratio = |unit| measured(6.0, unit).times_as_good_as(&measured(3.0, unit)).expect("not zero");
        assert!((ratio("files/s") - 2.0).abs() < 1e-9);
        assert!((ratio("s") - 0.5).abs() < 1e-9);
    }

    #[test]
    fn figures_are_readable() {
        let figures =
            [(0.1234, "0.123"), (7.891, "7.89"), (45.67, "45.7"), (1234.4, "1,234"), (9_876_543.0, "9,876,543")];
        for (value, text) in figures {
            assert_eq!(figure(value), text);
        }
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(4096), "4 KiB");
    }
}
