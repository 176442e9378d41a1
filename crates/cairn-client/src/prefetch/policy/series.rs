//! Numbered series of large files (`model-00001-of-00030.safetensors`): which file may come after one.
//!
//! Names are remembered for large files with a number in them alone. Which number counts is found out by asking which
//! next name exists.

use std::num::NonZeroUsize;

use cairn_types::{Ino, Name};
use lru::LruCache;

/// Smaller files are read before it would pay, in bytes.
const SIZE_MIN: u64 = 16 * 1024 * 1024;
/// Files that are remembered.
const FILES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Digits of a number: beyond that it is a hash or a date.
const DIGITS_MAX: usize = 9;

/// Where large numbered files are.
#[derive(Debug)]
pub(crate) struct Series(LruCache<Ino, (Ino, Name)>);

impl Default for Series {
    fn default() -> Self {
        Series(LruCache::new(FILES))
    }
}

impl Series {
    /// A name of a file of `size` bytes was looked up.
    pub(crate) fn looked_up(&mut self, parent: Ino, name: &Name, ino: Ino, size: u64) {
        if size >= SIZE_MIN && name.as_bytes().iter().any(u8::is_ascii_digit) {
            self.0.put(ino, (parent, name.clone()));
        }
    }

    /// A file was read to its end: the directory it is in, and the names of those that may come after it.
    pub(crate) fn after(&mut self, ino: Ino) -> Option<(Ino, Vec<Name>)> {
        let (parent, name) = self.0.get(&ino)?;
        let names = next_names(name.as_bytes());
        Some((*parent, names.into_iter().filter_map(|name| Name::new(&name).ok()).collect()))
    }
}

/// Names with one of the numbers raised by one, the width kept.
fn next_names(name: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let mut start = 0;
    while start < name.len() {
        let run = name.iter().skip(start).take_while(|byte| byte.is_ascii_digit()).count();
        if run > 0 && run <= DIGITS_MAX {
            let digits = name.iter().skip(start).take(run);
            let number = digits.fold(0u64, |number, digit| number * 10 + u64::from(digit - b'0'));
            let (before, after) = (name.iter().take(start), name.iter().skip(start + run));
            let raised = format!("{:0run$}", number + 1);
            names.push(before.copied().chain(raised.into_bytes()).chain(after.copied()).collect());
        }
        start += run.max(1);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_may_be_the_one_that_counts() {
        let names = |name: &str| -> Vec<String> {
            let next = next_names(name.as_bytes()).into_iter();
            next.map(|name| String::from_utf8(name).expect("text")).collect()
        };
        assert_eq!(
            names("model-00009-of-00030.safetensors"),
            ["model-00010-of-00030.safetensors", "model-00009-of-00031.safetensors"]
        );
        assert_eq!(names("shard_99"), ["shard_100"]);
        assert_eq!(names("data.bin"), [""; 0]);
        assert_eq!(names("0123456789abcdef"), [""; 0]);
    }

    #[test]
    fn large_files_with_a_number_are_remembered() {
        let mut series = Series::default();
        let name = |name: &str| Name::new(name.as_bytes()).expect("valid");
        series.looked_up(Ino(1), &name("part-1"), Ino(2), SIZE_MIN);
        series.looked_up(Ino(1), &name("small-1"), Ino(3), SIZE_MIN - 1);
        series.looked_up(Ino(1), &name("model"), Ino(4), SIZE_MIN);
        assert_eq!(series.after(Ino(2)), Some((Ino(1), vec![name("part-2")])));
        assert_eq!(series.after(Ino(3)), None);
        assert_eq!(series.after(Ino(4)), None);
    }
}
