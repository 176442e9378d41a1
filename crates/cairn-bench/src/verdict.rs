//! In words: whether an archive still pays on a target, at which size and from which number of files on.

use crate::report::{ArchivePoint, TargetReport, bytes, count as number, figure};

/// An archive pays if single files take at least so many times as long; below it nobody would take the trouble.
const WORTH_IT: f64 = 1.25;

/// Until which size of files an archive pays.
#[derive(Clone, Copy, Debug, PartialEq)]
enum BreakEven {
    /// Not even at the smallest size measured.
    Never,
    /// Up to about this size, in bytes.
    UpTo(f64),
    /// At every size measured.
    Always,
}

/// One of the times of a point.
type Seconds = fn(&ArchivePoint) -> f64;

/// Sentences about one target; none if archives were not measured on it.
pub fn sentences(target: &TargetReport) -> Vec<String> {
    let points = &target.archive;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let mut said = Vec::new();
    let ways: [(&str, Seconds, Seconds); 2] = [
        ("Writing", |point| point.files_write, |point| point.archive_write),
        ("Reading", |point| point.files_read, |point| point.archive_read),
    ];
    for (what, single, packed) in ways {
        let ratio = |point: &ArchivePoint| single(point) / packed(point).max(1e-9);
        let verdict = match break_even(points, &ratio) {
            BreakEven::Never => "an archive does not pay off".to_owned(),
            BreakEven::UpTo(size) => format!("an archive pays off for files of up to about {}", bytes(rounded(size))),
            BreakEven::Always => format!("an archive pays off at every measured size, up to {}", bytes(last.size)),
        };
        let mut sentence = format!(
            "{what} {} files of {} one by one takes {} times as long as one archive of them; {verdict}",
            number(first.count),
            bytes(first.size),
            figure(ratio(first)),
        );
        if ratio(first) >= WORTH_IT {
            let saved = (single(first) - packed(first)) / first.count as f64;
            let count = (1.0 / saved).ceil() as u64;
            let text =
                format!(", and saves more than a second with {} or more files of {}", number(count), bytes(first.size));
            sentence.push_str(&text);
        }
        sentence.push('.');
        said.push(sentence);
    }
    let detour = first.archive_write + first.extract;
    said.push(format!(
        "Copying an archive of them in and extracting it there takes {} times as long as copying the files.",
        figure(detour / first.files_write.max(1e-9))
    ));
    said
}

/// Where the ratio first falls below [`WORTH_IT`]: between two sizes measured, on a line through the logarithms.
fn break_even(points: &[ArchivePoint], ratio: &dyn Fn(&ArchivePoint) -> f64) -> BreakEven {
    let Some(next) = points.iter().position(|point| ratio(point) < WORTH_IT) else { return BreakEven::Always };
    let Some(here) = next.checked_sub(1).map(|last_paying| &points[last_paying]) else { return BreakEven::Never };
    let next = &points[next];
    let (above, below) = (ratio(here).ln(), ratio(next).ln());
    let share = ((above - WORTH_IT.ln()) / (above - below)).clamp(0.0, 1.0);
    let (small, large) = ((here.size as f64).ln(), (next.size as f64).ln());
    BreakEven::UpTo((small + share * (large - small)).exp())
}

/// Two digits are all that such an estimate is worth.
fn rounded(size: f64) -> u64 {
    let unit = 10f64.powf(size.max(1.0).log10().floor() - 1.0).max(1.0);
    if size < 1024.0 {
        return ((size / unit).round() * unit) as u64;
    }
    let power = 1024f64.powf((size.ln() / 1024f64.ln()).floor());
    let in_unit = size / power;
    let step = if in_unit >= 100.0 { 10.0 } else { 1.0 };
    ((in_unit / step).round().max(1.0) * step * power) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(size: u64, files: f64, archive: f64) -> ArchivePoint {
        ArchivePoint {
            size,
            count: 1000,
            files_write: files,
            files_read: archive,
            archive_write: archive,
            archive_read: archive,
            extract: files,
        }
    }

    fn write_ratio(point: &ArchivePoint) -> f64 {
        point.files_write / point.archive_write
    }

    #[test]
    fn the_break_even_lies_between_the_sizes_where_the_advantage_ends() {
        let points = [point(1 << 10, 8.0, 1.0), point(1 << 14, 4.0, 1.0), point(1 << 20, 1.0, 1.0)];
        let BreakEven::UpTo(size) = break_even(&points, &write_ratio) else { panic!("no break-even") };
        assert!((f64::from(1 << 14)..f64::from(1 << 20)).contains(&size), "{size}");
        assert_eq!(break_even(&points[..2], &write_ratio), BreakEven::Always);
        assert_eq!(break_even(&points[2..], &write_ratio), BreakEven::Never);
    }

    #[test]
    fn the_words_name_size_and_count() {
        let target = TargetReport {
            name: "here".into(),
            file_system: String::new(),
            caveat: None,
            rows: Vec::new(),
            archive: vec![point(1 << 10, 3.0, 1.0), point(1 << 20, 1.0, 1.0)],
            storage: None,
        };
        let said = sentences(&target);
        assert_eq!(said.len(), 3);
        assert!(said[0].contains("1,000 files of 1 KiB one by one takes 3.00 times"), "{}", said[0]);
        assert!(said[0].contains("with 500 or more files of 1 KiB"), "{}", said[0]);
        assert!(said[1].contains("does not pay off"), "{}", said[1]);
        assert!(said[2].contains("takes 1.33 times as long"), "{}", said[2]);
    }

    #[test]
    fn estimates_are_rounded_to_what_they_are_worth() {
        assert_eq!(rounded(537_329.0), 520 << 10);
        assert_eq!(rounded(5_000.0), 5 << 10);
        assert_eq!(rounded(873.0), 870);
    }
}
