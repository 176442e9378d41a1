//! The report as text for a terminal.

use std::fmt::Write;

use crate::report::{Report, bytes, count, figure};
use crate::verdict;

/// Headings, and a line for each row: label, unit, the targets' medians, and how many times as good as each other
/// target the first one is.
pub fn table(report: &Report) -> (Vec<String>, Vec<Vec<String>>) {
    let mut headings = vec!["workload".to_owned(), "unit".to_owned()];
    headings.extend(report.targets.iter().map(|target| target.name.clone()));
    headings.extend(report.targets.iter().skip(1).map(|target| format!("against {}", target.name)));
    let mut lines = Vec::new();
    for row in report.rows() {
        let found: Vec<_> = report.targets.iter().map(|target| target.row(&row.name)).collect();
        let mut line = vec![row.label.clone(), row.unit.clone()];
        line.extend(found.iter().map(|found| found.map_or_else(String::new, |found| figure(found.value))));
        line.extend(found.iter().skip(1).map(|other| {
            let ratio = found[0].zip(*other).and_then(|(first, other)| first.times_as_good_as(other));
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} ×"))
        }));
        lines.push(line);
    }
    (headings, lines)
}

/// Sentences below the table: archives, storage, and what the figures cannot say.
pub fn notes(report: &Report) -> Vec<String> {
    let mut said = report.remarks.clone();
    for target in &report.targets {
        let mut about: Vec<String> = verdict::sentences(target);
        about.extend(storage(target.storage.as_ref()));
        about.extend(target.caveat.clone());
        if !about.is_empty() {
            said.push(format!("{} ({})", target.name, target.file_system));
            said.extend(about.into_iter().map(|sentence| format!("  {sentence}")));
        }
    }
    said
}

/// What small files take, in a sentence.
pub(crate) fn storage(storage: Option<&crate::report::Storage>) -> Option<String> {
    let storage = storage?;
    let times = |taken: u64| format!("{} ({:.2} ×)", bytes(taken), taken as f64 / storage.logical.max(1) as f64);
    let mut text = format!(
        "{} small files of {} together have {} in blocks",
        count(storage.files),
        bytes(storage.logical),
        times(storage.allocated)
    );
    if let Some(reported) = storage.reported {
        let _ = write!(text, ", make the file system's used space grow by {}", times(reported));
    }
    if let Some(stored) = storage.stored {
        let _ = write!(text, ", and the folder that stores them by {}", times(stored));
    }
    Some(text + ".")
}
