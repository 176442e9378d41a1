//! What is measured, and how much of it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A line of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    SeqWrite,
    SeqReadClient,
    SeqRead,
    SeqReadWarm,
    MmapRead,
    Random1,
    Random16,
    Create,
    CreateSynced,
    Walk,
    Read,
    ReadRandom,
    Read8,
    ReadWarm,
    Rewrite,
    Delete,
    CreateFsync,
    Archive,
}

impl Row {
    /// Every row in the order of the report.
    pub const ALL: [Row; 18] = [
        Row::SeqWrite,
        Row::SeqReadClient,
        Row::SeqRead,
        Row::SeqReadWarm,
        Row::MmapRead,
        Row::Random1,
        Row::Random16,
        Row::Create,
        Row::CreateSynced,
        Row::Walk,
        Row::Read,
        Row::ReadRandom,
        Row::Read8,
        Row::ReadWarm,
        Row::Rewrite,
        Row::Delete,
        Row::CreateFsync,
        Row::Archive,
    ];

    /// Short name, as `--rows` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Row::SeqWrite => "seq-write",
            Row::SeqReadClient => "seq-read-client",
            Row::SeqRead => "seq-read",
            Row::SeqReadWarm => "seq-read-warm",
            Row::MmapRead => "mmap-read",
            Row::Random1 => "random-1",
            Row::Random16 => "random-16",
            Row::Create => "create",
            Row::CreateSynced => "create-synced",
            Row::Walk => "walk",
            Row::Read => "read",
            Row::ReadRandom => "read-random",
            Row::Read8 => "read-8",
            Row::ReadWarm => "read-warm",
            Row::Rewrite => "rewrite",
            Row::Delete => "delete",
            Row::CreateFsync => "create-fsync",
            Row::Archive => "archive",
        }
    }

    /// What people read.
    pub fn label(self) -> &'static str {
        match self {
            Row::SeqWrite => "sequential write with fsync",
            Row::SeqReadClient => "sequential read, client cold",
            Row::SeqRead => "sequential read, cold",
            Row::SeqReadWarm => "sequential read, again",
            Row::MmapRead => "sequential read through mmap, cold",
            Row::Random1 => "random 4 KiB reads, cold, 1 thread",
            Row::Random16 => "random 4 KiB reads, cold, 16 threads",
            Row::Create => "create small files",
            Row::CreateSynced => "create small files, synced",
            Row::Walk => "walk and stat, cold",
            Row::Read => "read in order, cold",
            Row::ReadRandom => "read in random order, cold",
            Row::Read8 => "read with 8 threads, cold",
            Row::ReadWarm => "read again, warm",
            Row::Rewrite => "rewrite in place",
            Row::Delete => "delete",
            Row::CreateFsync => "create and fsync one by one",
            Row::Archive => "single files against an archive",
        }
    }

    /// What its rate counts.
    pub(crate) fn counts(self) -> Counts {
        match self {
            Row::SeqWrite | Row::SeqReadClient | Row::SeqRead | Row::SeqReadWarm | Row::MmapRead => Counts::Bytes,
            Row::Random1 | Row::Random16 => Counts::Reads,
            _ => Counts::Files,
        }
    }
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Row, String> {
        Row::ALL.into_iter().find(|row| row.name() == text).ok_or_else(|| {
            let known: Vec<&str> = Row::ALL.into_iter().map(Row::name).collect();
            format!("{text:?} is not a row: choose from {}", known.join(", "))
        })
    }
}

/// What the steps of a workload are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Bytes,
    Reads,
    Files,
}

impl Counts {
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Counts::Bytes => "MB/s",
            Counts::Reads => "reads/s",
            Counts::Files => "files/s",
        }
    }

    /// Steps to one of the unit (a megabyte is a million bytes).
    pub(crate) fn divisor(self) -> f64 {
        if self == Counts::Bytes { 1e6 } else { 1.0 }
    }
}

/// How much is measured; sizes in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    #[serde(skip)]
    pub rows: Vec<Row>,
    pub rounds: u32,
    /// Whether the kernel's caches, of all file systems, are dropped before what is to be cold.
    pub drop_caches: bool,
    pub large_bytes: u64,
    pub random_reads: u64,
    pub small_count: u64,
    pub small_bytes: u64,
    pub fsync_count: u64,
    /// Sizes of the files that are compared with an archive of them.
    pub archive_bytes: Vec<u64>,
    /// Most files of each of these sizes, and most bytes of them together.
    pub archive_count: u64,
    pub archive_total: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            rows: Row::ALL.to_vec(),
            rounds: 1,
            drop_caches: true,
            large_bytes: 1 << 30,
            random_reads: 4000,
            small_count: 5000,
            small_bytes: 4096,
            fsync_count: 500,
            archive_bytes: vec![1 << 10, 4 << 10, 32 << 10, 256 << 10, 2 << 20],
            archive_count: 2000,
            archive_total: 128 << 20,
        }
    }
}

impl Plan {
    pub(crate) fn wants(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }

    pub(crate) fn wants_any(&self, rows: &[Row]) -> bool {
        rows.iter().any(|row| self.wants(*row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name() {
        for row in Row::ALL {
            assert_eq!(row.name().parse(), Ok(row));
        }
        assert!("reed".parse::<Row>().unwrap_err().contains("read-random"));
    }
}
