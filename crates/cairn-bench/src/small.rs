//! Many small files: created, walked, read in several ways, rewritten, deleted.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngCore, SeedableRng};

use crate::plan::Row;
use crate::report::Storage;
use crate::run::{Bench, in_threads};
use crate::trace::Trace;
use crate::{BenchError, During};

/// Files of one folder.
const IN_A_FOLDER: u64 = 1000;

pub(crate) fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    many(bench)?;
    one_by_one(bench)
}

fn many(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let after = [Row::Walk, Row::Read, Row::ReadRandom, Row::Read8, Row::ReadWarm, Row::Rewrite, Row::Delete];
    if !bench.plan.wants_any(&[Row::Create, Row::CreateSynced]) && !bench.plan.wants_any(&after) {
        return Ok(());
    }
    let (count, size) = (bench.plan.small_count, bench.plan.small_bytes as usize);
    let top = bench.work.join("small");
    let files = Files::new(&top, count, size);
    bench.chill()?;
    let before = bench.target.used();
    files.make_folders()?;
    let created = bench.measure(Row::Create, count, |bench| files.create(bench, false))?;
    let settling = Instant::now();
    bench.settle()?;
    bench.report(Row::CreateSynced, &created.extended(settling.elapsed()));
    bench.chill()?;
    bench.storage = files.storage(bench, before)?;
    if bench.plan.wants(Row::Walk) {
        bench.chill()?;
        bench.measure(Row::Walk, count, |bench| walk(bench, &top, count))?;
    }
    if bench.plan.wants_any(&[Row::Read, Row::ReadWarm]) {
        bench.chill()?;
        bench.measure(Row::Read, count, |bench| files.read(bench, &files.names, 1))?;
    }
    if bench.plan.wants(Row::ReadWarm) {
        bench.measure(Row::ReadWarm, count, |bench| files.read(bench, &files.names, 1))?;
    }
    if bench.plan.wants(Row::ReadRandom) {
        let mut shuffled = files.names.clone();
        shuffled.shuffle(&mut StdRng::seed_from_u64(2));
        bench.chill()?;
        bench.measure(Row::ReadRandom, count, |bench| files.read(bench, &shuffled, 1))?;
    }
    if bench.plan.wants(Row::Read8) {
        bench.chill()?;
        bench.measure(Row::Read8, count, |bench| files.read(bench, &files.names, 8))?;
    }
    if bench.plan.wants(Row::Rewrite) {
        bench.chill()?;
        bench.measure(Row::Rewrite, count, |bench| files.rewrite(bench))?;
    }
    if bench.plan.wants(Row::Delete) {
        bench.chill()?;
        bench.measure(Row::Delete, count, |bench| files.delete(bench))?;
    }
    fs::remove_dir_all(&top).during("delete", &top)
}

/// As a mail server or a database does it: nobody goes on before the file is on stable storage.
fn one_by_one(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    if !bench.plan.wants(Row::CreateFsync) {
        return Ok(());
    }
    let top = bench.work.join("synced");
    let files = Files::new(&top, bench.plan.fsync_count, bench.plan.small_bytes as usize);
    bench.chill()?;
    files.make_folders()?;
    bench.measure(Row::CreateFsync, bench.plan.fsync_count, |bench| files.create(bench, true))?;
    fs::remove_dir_all(&top).during("delete", &top)
}

/// Files of one size in folders, with their names and bytes made ahead. No two of them hold the same bytes.
pub(crate) struct Files {
    top: PathBuf,
    folders: Vec<PathBuf>,
    pub(crate) names: Vec<PathBuf>,
    noise: Vec<u8>,
    size: usize,
}

impl Files {
    pub(crate) fn new(top: &Path, count: u64, size: usize) -> Files {
        let folder_of = |number: u64| top.join(format!("d{:03}", number / IN_A_FOLDER));
        let folders = (0..count.div_ceil(IN_A_FOLDER)).map(|folder| folder_of(folder * IN_A_FOLDER)).collect();
        let names = (0..count).map(|number| folder_of(number).join(format!("f{number:06}"))).collect();
        let mut noise = vec![0; size + count as usize];
        StdRng::seed_from_u64(1).fill_bytes(&mut noise);
        Files { top: top.to_owned(), folders, names, noise, size }
    }

    pub(crate) fn content(&self, number: usize) -> &[u8] {
        &self.noise[number..number + self.size]
    }

    pub(crate) fn make_folders(&self) -> Result<(), BenchError> {
        fs::create_dir_all(&self.top).during("make", &self.top)?;
        self.folders.iter().try_for_each(|folder| fs::create_dir(folder).during("make", folder))
    }

    pub(crate) fn create(&self, bench: &Bench<'_>, sync: bool) -> Result<Trace, BenchError> {
        let mut trace = bench.trace(self.names.len() as u64);
        for (number, name) in self.names.iter().enumerate() {
            let mut file = OpenOptions::new().write(true).create_new(true).open(name).during("create", name)?;
            file.write_all(self.content(number)).during("write", name)?;
            if sync {
                file.sync_all().during("sync", name)?;
            }
            drop(file);
            trace.step(1)?;
        }
        Ok(trace.end())
    }

    pub(crate) fn read(&self, bench: &Bench<'_>, names: &[PathBuf], threads: usize) -> Result<Trace, BenchError> {
        in_threads(bench, names, threads, |trace, mine| {
            // One byte more than there is: a file that is too long is seen as well.
            let mut buffer = vec![0; self.size + 1];
            for name in mine {
                let mut file = File::open(name).during("open", name)?;
                let mut found = 0;
                loop {
                    let length = file.read(&mut buffer[found..]).during("read", name)?;
                    found += length;
                    // The size is known from the bytes that came: small files are read by one call.
                    if length == 0 || found >= self.size {
                        break;
                    }
                }
                drop(file);
                if found != self.size {
                    return Err(BenchError::Short {
                        path: name.clone(),
                        found: found as u64,
                        wanted: self.size as u64,
                    });
                }
                trace.step(1)?;
            }
            Ok(())
        })
    }

    /// Other bytes over those that are there.
    fn rewrite(&self, bench: &Bench<'_>) -> Result<Trace, BenchError> {
        let mut trace = bench.trace(self.names.len() as u64);
        for (number, name) in self.names.iter().enumerate() {
            let mut file = OpenOptions::new().write(true).open(name).during("open", name)?;
            file.write_all(self.content(self.names.len() - 1 - number)).during("write", name)?;
            drop(file);
            trace.step(1)?;
        }
        Ok(trace.end())
    }

    fn delete(&self, bench: &Bench<'_>) -> Result<Trace, BenchError> {
        let mut trace = bench.trace(self.names.len() as u64);
        for name in &self.names {
            fs::remove_file(name).during("delete", name)?;
            trace.step(1)?;
        }
        Ok(trace.end())
    }

    fn storage(&self, bench: &Bench<'_>, before: (Option<u64>, Option<u64>)) -> Result<Storage, BenchError> {
        use std::os::unix::fs::MetadataExt;
        let mut allocated = 0;
        for name in &self.names {
            allocated += name.metadata().during("look at", name)?.blocks() * 512;
        }
        let after = bench.target.used();
        let grown = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        Ok(Storage {
            files: self.names.len() as u64,
            logical: (self.names.len() * self.size) as u64,
            allocated,
            reported: grown(before.0, after.0),
            stored: grown(before.1, after.1),
        })
    }
}

/// What `find -size` and `du` do: lists every folder and asks for the attributes of every entry.
fn walk(bench: &Bench<'_>, top: &Path, count: u64) -> Result<Trace, BenchError> {
    let mut trace = bench.trace(count);
    let (mut found, mut folders) = (0, vec![top.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).during("list", &folder)? {
            let entry = entry.during("list", &folder)?;
            if entry.metadata().during("look at", &entry.path())?.is_dir() {
                folders.push(entry.path());
            } else {
                found += 1;
                trace.step(1)?;
            }
        }
    }
    let trace = trace.end();
    if found == count { Ok(trace) } else { Err(BenchError::Missing { path: top.to_owned(), found, wanted: count }) }
}
