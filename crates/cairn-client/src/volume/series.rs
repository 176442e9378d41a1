//! The next file of a numbered series (`model-00001-of-00030.safetensors`) is begun before the last one ends.
//!
//! Names are remembered for large files with a number in them alone. Which number counts is found out by asking which
//! next name exists.

use std::num::NonZeroUsize;
use std::sync::Arc;

use cairn_types::{Attr, FileKind, Ino, LeaseMode, Name};
use lru::LruCache;
use parking_lot::Mutex;

use super::Mount;
use crate::api::Lookup;

/// Smaller files are read before it would pay, in bytes.
const SIZE_MIN: u64 = 16 * 1024 * 1024;
/// What is fetched of the next file, in bytes, unless the memory cache is small.
const BEGINNING: u64 = 16 * 1024 * 1024;
/// Files that are remembered.
const FILES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Digits of a number: beyond that it is a hash or a date.
const DIGITS_MAX: usize = 9;

/// Where large numbered files are.
#[derive(Debug)]
pub(crate) struct Series(Mutex<LruCache<Ino, (Ino, Name)>>);

impl Default for Series {
    fn default() -> Self {
        Series(Mutex::new(LruCache::new(FILES)))
    }
}

impl Series {
    /// A name was looked up.
    pub(super) fn note(&self, parent: Ino, name: &Name, attr: &Attr) {
        if attr.kind == FileKind::Regular && attr.size >= SIZE_MIN && name.as_bytes().iter().any(u8::is_ascii_digit) {
            self.0.lock().put(attr.ino, (parent, name.clone()));
        }
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

impl Mount {
    /// A stream is about to end at the end of `ino`: fetches the beginning of the file that comes after it, if there is one.
    pub(super) async fn begin_next_of_series(self: &Arc<Self>, ino: Ino) {
        let Some((parent, name)) = self.series.0.lock().get(&ino).cloned() else { return };
        for next in next_names(name.as_bytes()) {
            let Ok(next) = Name::new(&next) else { continue };
            let Ok(Lookup::Found(entry)) = self.lookup(parent, next.clone()).await else { continue };
            let attr = entry.attr;
            // The kernel was told nothing of it.
            self.forget(attr.ino, 1);
            self.series.note(parent, &next, &attr);
            if attr.kind == FileKind::Regular && attr.ino != ino {
                let end = BEGINNING.min(self.blocks.budget() / 8).min(attr.size);
                let begun = match self.acquire(attr.ino, LeaseMode::Shared).await {
                    Ok(_) => self.prefetch(attr.ino, 0..end).await,
                    Err(errno) => Err(errno),
                };
                tracing::debug!(%ino, next = %attr.ino, ?begun, "the next file of a series is begun");
                return;
            }
        }
    }
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
}
