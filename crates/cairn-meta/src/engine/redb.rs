//! The embedded engine: one redb file with one table of byte strings, and a [`Log`] beside it (`meta.log` of `meta.redb`).
//!
//! Each commit has a number, one more than that before it. The file's second table holds the number of the last commit and the
//! run of the log that goes with it, so that it is known which logged commits the file lacks. Without a log (no room for
//! it, or it failed) everything works, and whoever wants something durable waits longer.
//!
//! redb does not promise an error for every kind of damage (some end in a panic inside it), so each call is fenced: a
//! panic becomes [`StoreError::Damaged`].

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition, TableError};

use super::log::{Log, Unlogged};
use super::{Changes, Engine, Reader, Visitor};
use crate::error::StoreError;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cairn");
/// One row without a name: run of the log, and number of the last commit.
const LOG_TABLE: TableDefinition<'static, (), (u64, u64)> = TableDefinition::new("log");

/// Takes what was logged along with changes, while they are being brought back. It must be on stable storage on return.
pub type Restore<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// A redb file. The process that has it open excludes every other.
pub struct RedbEngine {
    database: Database,
    path: PathBuf,
    logging: Mutex<Logging>,
}

/// What is not in the file durably.
#[derive(Default)]
struct Logging {
    /// `None` if there is none to be used.
    log: Option<Log>,
    run: u64,
    /// Number of the last commit.
    last: u64,
    /// Commits after the last that is durable or logged; `None` if they have become too many for a log.
    unlogged: Option<Unlogged>,
}

impl Logging {
    fn committed(&mut self, changes: &Changes, durable: bool) {
        self.last += 1;
        if durable {
            self.unlogged.get_or_insert_default().clear();
            if let Some(log) = &mut self.log {
                log.reset();
            }
        } else if let Some(unlogged) = &mut self.unlogged {
            unlogged.push(changes);
            if self.log.is_none() || unlogged.is_too_long() {
                self.unlogged = None;
            }
        }
    }
}

impl RedbEngine {
    /// Memory for cached pages unless told otherwise, in bytes.
    pub const CACHE_BYTES_DEFAULT: usize = 128 * 1024 * 1024;

    /// Makes a new file. [`StoreError::Exists`] if there is one.
    pub fn create(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        if path.try_exists()? {
            return Err(StoreError::Exists { path: path.to_owned() });
        }
        fenced(|| {
            let database = Database::builder()
                .set_cache_size(cache_bytes)
                .create(path)
                .map_err(|error| database_error(error, path))?;
            let transaction = database.begin_write().map_err(engine_error)?;
            transaction.open_table(TABLE).map_err(engine_error)?;
            transaction.commit().map_err(engine_error)?;
            let engine = RedbEngine { database, path: path.to_owned(), logging: Mutex::default() };
            engine.begin_log(&mut |_| Ok(()))?;
            Ok(engine)
        })
    }

    /// Opens a file, repairing it first if it was not closed in order. What was logged and is not in it is brought back, and
    /// the attachments handed to `restore` before that.
    pub fn open(path: &Path, cache_bytes: usize, restore: &mut Restore<'_>) -> Result<Self, StoreError> {
        if !path.try_exists()? {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        fenced(|| {
            let database = Database::builder()
                .set_cache_size(cache_bytes)
                .set_repair_callback(|session| tracing::info!(progress = session.progress(), "repairing metadata"))
                .open(path)
                .map_err(|error| database_error(error, path))?;
            let engine = RedbEngine { database, path: path.to_owned(), logging: Mutex::default() };
            engine.begin_log(restore)?;
            Ok(engine)
        })
    }

    /// Brings back what was logged, and begins a new run of the log.
    fn begin_log(&self, restore: &mut Restore<'_>) -> Result<(), StoreError> {
        let mut logging = self.logging.lock();
        let (run, last) = self.log_state()?;
        let log = Log::open(&self.path.with_extension("log"));
        let records = match &log {
            Ok(log) => log.read(run)?,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "no synchronous log: syncing will take longer");
                Vec::new()
            }
        };
        let mut missing = Changes::new();
        logging.last = last;
        for record in records {
            if record.first + record.commits.len() as u64 <= last {
                continue;
            }
            restore(&record.attachment)?;
            for (number, commit) in (record.first..).zip(record.commits) {
                if number > last {
                    missing.extend(commit);
                    logging.last = number;
                }
            }
        }
        let brought_back = logging.last - last;
        if brought_back > 0 {
            tracing::info!(path = %self.path.display(), commits = brought_back, "brought back what was logged");
        }
        // The keys of a new `RandomState` are drawn by the operating system.
        logging.run = RandomState::new().hash_one(logging.last);
        logging.log = log.ok();
        self.write(&missing, true, (logging.run, logging.last + 1))?;
        logging.committed(&missing, true);
        Ok(())
    }

    /// Run of the log and number of the last commit, as the file has them.
    fn log_state(&self) -> Result<(u64, u64), StoreError> {
        let transaction = self.database.begin_read().map_err(engine_error)?;
        match transaction.open_table(LOG_TABLE) {
            Ok(table) => Ok(table.get(()).map_err(engine_error)?.map_or((0, 0), |row| row.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok((0, 0)),
            Err(error) => Err(engine_error(error)),
        }
    }

    fn write(&self, changes: &Changes, durable: bool, log_state: (u64, u64)) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(engine_error)?;
        if durable {
            // Recovery after a kill is then immediate instead of a walk over the whole file.
            transaction.set_quick_repair(true);
        } else {
            transaction.set_durability(Durability::None).map_err(engine_error)?;
        }
        {
            let mut table = transaction.open_table(TABLE).map_err(engine_error)?;
            for (key, value) in changes {
                match value {
                    Some(value) => drop(table.insert(key.as_slice(), value.as_slice()).map_err(engine_error)?),
                    None => drop(table.remove(key.as_slice()).map_err(engine_error)?),
                }
            }
            let mut table = transaction.open_table(LOG_TABLE).map_err(engine_error)?;
            table.insert((), log_state).map_err(engine_error)?;
        }
        transaction.commit().map_err(engine_error)
    }
}

impl Engine for RedbEngine {
    fn reader(&self) -> Result<Arc<dyn Reader>, StoreError> {
        fenced(|| {
            let transaction = self.database.begin_read().map_err(engine_error)?;
            let table = transaction.open_table(TABLE).map_err(engine_error)?;
            Ok(Arc::new(RedbReader { table }) as Arc<dyn Reader>)
        })
    }

    fn commit(&self, changes: &Changes, durable: bool) -> Result<(), StoreError> {
        fenced(|| {
            let mut logging = self.logging.lock();
            self.write(changes, durable, (logging.run, logging.last + 1))?;
            logging.committed(changes, durable);
            Ok(())
        })
    }

    fn commit_logged(&self, changes: &Changes, attachment: &[u8]) -> Result<bool, StoreError> {
        if !changes.is_empty() {
            self.commit(changes, false)?;
        }
        let logging = &mut *self.logging.lock();
        let (Some(log), Some(unlogged)) = (&mut logging.log, &mut logging.unlogged) else { return Ok(false) };
        if unlogged.is_empty() && attachment.is_empty() {
            return Ok(true);
        }
        let first = logging.last + 1 - u64::from(unlogged.count());
        match log.append(unlogged, logging.run, first, attachment) {
            Ok(true) => {
                unlogged.clear();
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the synchronous log failed; syncing will take longer");
                logging.log = None;
                logging.unlogged = None;
                Ok(false)
            }
        }
    }

    fn stored_bytes(&self) -> Result<u64, StoreError> {
        Ok(std::fs::metadata(&self.path)?.len())
    }
}

/// The table keeps its read transaction alive.
struct RedbReader {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Reader for RedbReader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        fenced(|| Ok(self.table.get(key).map_err(engine_error)?.map(|value| value.value().to_vec())))
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        if from >= until {
            return Ok(());
        }
        fenced(|| {
            for row in self.table.range(from..until).map_err(engine_error)? {
                let (key, value) = row.map_err(engine_error)?;
                if let ControlFlow::Break(()) = visit(key.value(), value.value()) {
                    break;
                }
            }
            Ok(())
        })
    }
}

fn fenced<T>(call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(StoreError::Damaged(format!("the engine gave up: {message}")))
    })
}

fn database_error(error: DatabaseError, path: &Path) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked { path: path.to_owned() },
        other => engine_error(other),
    }
}

fn engine_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged(format!("not a metadata file: {error}"))
        }
        redb::Error::Io(error) => StoreError::Io(error),
        redb::Error::Corrupted(message) => StoreError::Damaged(message),
        other => StoreError::Io(io::Error::other(other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Way {
        Plain,
        Durable,
        Logged,
    }

    fn step() -> impl Strategy<Value = (Way, Changes, Vec<u8>)> {
        let way = prop_oneof![Just(Way::Plain), Just(Way::Logged), Just(Way::Logged), Just(Way::Durable)];
        let value = proptest::option::weighted(0.8, proptest::collection::vec(any::<u8>(), 0..50));
        let changes = proptest::collection::btree_map(proptest::collection::vec(0u8..3, 1..3), value, 0..4);
        (way, changes, proptest::collection::vec(any::<u8>(), 0..9))
    }

    fn rows(engine: &RedbEngine) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        engine.reader().unwrap().scan(&[], &[0xff], &mut visit).unwrap();
        rows
    }

    fn open(path: &Path) -> (RedbEngine, Vec<Vec<u8>>) {
        let mut restored = Vec::new();
        let mut restore = |attachment: &[u8]| {
            restored.push(attachment.to_vec());
            Ok(())
        };
        let engine = RedbEngine::open(path, 1 << 20, &mut restore).unwrap();
        (engine, restored)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn a_kill_loses_nothing_that_was_logged(lives in proptest::collection::vec(proptest::collection::vec(step(), 0..8), 1..5)) {
            let folder = tempfile::tempdir().unwrap();
            let path = |life: usize| folder.path().join(format!("{life}.redb"));
            let mut engine = RedbEngine::create(&path(0), 1 << 20).unwrap();
            let mut safe: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            for (life, steps) in lives.into_iter().enumerate() {
                let mut attachments = Vec::new();
                for (way, changes, attachment) in steps {
                    match way {
                        Way::Plain => engine.commit(&changes, false).unwrap(),
                        Way::Durable => {
                            engine.commit(&changes, true).unwrap();
                            attachments.clear();
                        }
                        Way::Logged => {
                            let before = engine.logging.lock().unlogged.as_ref().is_some_and(|unlogged| !unlogged.is_empty());
                            prop_assert!(engine.commit_logged(&changes, &attachment).unwrap());
                            if before || !changes.is_empty() || !attachment.is_empty() {
                                attachments.push(attachment);
                            }
                        }
                    }
                    if !matches!(way, Way::Plain) {
                        safe = rows(&engine);
                    }
                }
                // What a killed process leaves is what is in the files at that moment.
                std::fs::copy(path(life), path(life + 1)).unwrap();
                std::fs::copy(path(life).with_extension("log"), path(life + 1).with_extension("log")).unwrap();
                let (next, restored) = open(&path(life + 1));
                prop_assert_eq!(rows(&next), safe.clone());
                prop_assert_eq!(restored, attachments);
                engine = next;
            }
        }
    }

    #[test]
    fn without_a_log_only_durable_commits_are_safe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meta.redb");
        std::fs::create_dir(path.with_extension("log")).unwrap();
        let engine = RedbEngine::create(&path, 1 << 20).unwrap();
        let changes = Changes::from([(vec![1], Some(vec![2]))]);
        assert!(!engine.commit_logged(&changes, b"tail").unwrap());
        assert_eq!(rows(&engine).len(), 1, "applied all the same");
        engine.commit(&Changes::new(), true).unwrap();
        assert!(!engine.commit_logged(&Changes::new(), b"tail").unwrap());
    }

    #[test]
    fn more_than_a_log_can_hold_takes_a_durable_commit() {
        let folder = tempfile::tempdir().unwrap();
        let engine = RedbEngine::create(&folder.path().join("meta.redb"), 1 << 20).unwrap();
        let large = |key: u8| Changes::from([(vec![key], Some(vec![key; 3 << 20]))]);
        assert!(engine.commit_logged(&large(1), &[]).unwrap());
        assert!(!engine.commit_logged(&large(2), &[]).unwrap(), "the log is full");
        engine.commit(&Changes::new(), true).unwrap();
        assert!(engine.commit_logged(&large(3), &[]).unwrap());
        engine.commit(&large(4), false).unwrap();
        engine.commit(&large(5), false).unwrap();
        assert!(!engine.commit_logged(&Changes::new(), &[]).unwrap(), "too many changes are not logged");
    }
}
