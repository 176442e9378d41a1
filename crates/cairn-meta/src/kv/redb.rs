//! The embedded store: one redb file with one table of byte strings, and a [`Log`] beside it.
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

use cairn_locks::Mutex;
use redb::{Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::log::{Log, Unlogged};
use super::{Changes, Condition, Durability, KeyValueStore, Reached, Reader, Restore, Visitor};
use crate::error::StoreError;
use crate::lock_order;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cairn");
/// One row without a name: run of the log, and number of the last commit.
const LOG_TABLE: TableDefinition<'static, (), (u64, u64)> = TableDefinition::new("log");

/// A redb file. The process that has it open excludes every other.
pub(super) struct RedbStore {
    database: Database,
    path: PathBuf,
    logging: Mutex<Logging, lock_order::LocalLog>,
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

impl RedbStore {
    /// Makes a new file, with its log at `log`. [`StoreError::Exists`] if there is one.
    pub(super) fn create(path: &Path, log: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        if path.try_exists()? {
            return Err(StoreError::Exists { path: path.to_owned() });
        }
        fenced(|| {
            let database = Database::builder()
                .set_cache_size(cache_bytes)
                .create(path)
                .map_err(|error| database_error(error, path))?;
            let transaction = database.begin_write().map_err(store_error)?;
            transaction.open_table(TABLE).map_err(store_error)?;
            transaction.commit().map_err(store_error)?;
            let store = RedbStore { database, path: path.to_owned(), logging: Mutex::default() };
            store.begin_log(log, &mut |_| Ok(()))?;
            Ok(store)
        })
    }

    /// Opens a file, repairing it first if it was not closed in order. What was logged and is not in it is brought back, and
    /// the attachments handed to `restore` before that.
    pub(super) fn open(
        path: &Path,
        log: &Path,
        cache_bytes: usize,
        restore: &mut Restore<'_>,
    ) -> Result<Self, StoreError> {
        if !path.try_exists()? {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        fenced(|| {
            let database = Database::builder()
                .set_cache_size(cache_bytes)
                .set_repair_callback(|session| tracing::info!(progress = session.progress(), "repairing metadata"))
                .open(path)
                .map_err(|error| database_error(error, path))?;
            let store = RedbStore { database, path: path.to_owned(), logging: Mutex::default() };
            store.begin_log(log, restore)?;
            Ok(store)
        })
    }

    /// Brings back what was logged, and begins a new run of the log.
    fn begin_log(&self, log: &Path, restore: &mut Restore<'_>) -> Result<(), StoreError> {
        let mut logging = self.logging.lock();
        let (run, last) = self.log_state()?;
        let log = Log::open(log);
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
        let commit = (logging.run, logging.last + 1);
        self.write(None, &missing, true, commit)?;
        logging.committed(&missing, true);
        Ok(())
    }

    /// Run of the log and number of the last commit, as the file has them.
    fn log_state(&self) -> Result<(u64, u64), StoreError> {
        let transaction = self.database.begin_read().map_err(store_error)?;
        match transaction.open_table(LOG_TABLE) {
            Ok(table) => Ok(table.get(()).map_err(store_error)?.map_or((0, 0), |row| row.value())),
            Err(TableError::TableDoesNotExist(_)) => Ok((0, 0)),
            Err(error) => Err(store_error(error)),
        }
    }

    /// One transaction of the file; none if the condition does not hold.
    fn write(
        &self,
        condition: Option<Condition<'_>>,
        changes: &Changes,
        durable: bool,
        log_state: (u64, u64),
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(store_error)?;
        if durable {
            // Recovery after a kill is then immediate instead of a walk over the whole file.
            transaction.set_quick_repair(true);
        } else {
            transaction.set_durability(redb::Durability::None).map_err(store_error)?;
        }
        {
            let mut table = transaction.open_table(TABLE).map_err(store_error)?;
            if let Some(condition) = condition {
                check(condition, &table)?;
            }
            for (key, value) in changes {
                match value {
                    Some(value) => drop(table.insert(key.as_slice(), value.as_slice()).map_err(store_error)?),
                    None => drop(table.remove(key.as_slice()).map_err(store_error)?),
                }
            }
            let mut table = transaction.open_table(LOG_TABLE).map_err(store_error)?;
            table.insert((), log_state).map_err(store_error)?;
        }
        transaction.commit().map_err(store_error)
    }

    /// Puts what is neither durable nor logged into the log, together with `attachment`.
    fn log(&self, logging: &mut Logging, attachment: &[u8]) -> Reached {
        let (Some(log), Some(unlogged)) = (&mut logging.log, &mut logging.unlogged) else { return Reached::Buffered };
        if unlogged.is_empty() && attachment.is_empty() {
            return Reached::Attached;
        }
        let first = logging.last + 1 - u64::from(unlogged.count());
        match log.append(unlogged, logging.run, first, attachment) {
            Ok(true) => {
                unlogged.clear();
                Reached::Attached
            }
            Ok(false) => Reached::Buffered,
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the synchronous log failed; syncing will take longer");
                logging.log = None;
                logging.unlogged = None;
                Reached::Buffered
            }
        }
    }
}

impl KeyValueStore for RedbStore {
    fn reader(&self) -> Result<Arc<dyn Reader>, StoreError> {
        fenced(|| {
            let transaction = self.database.begin_read().map_err(store_error)?;
            let table = transaction.open_table(TABLE).map_err(store_error)?;
            Ok(Arc::new(RedbReader { table }) as Arc<dyn Reader>)
        })
    }

    fn commit(
        &self,
        condition: Condition<'_>,
        changes: &Changes,
        durability: Durability<'_>,
    ) -> Result<Reached, StoreError> {
        fenced(|| {
            let logging = &mut *self.logging.lock();
            let durable = durability == Durability::Durable;
            // What is only to be logged need not pass through the file.
            let logged_alone = changes.is_empty() && matches!(durability, Durability::DurableWith(_));
            if logged_alone {
                let transaction = self.database.begin_read().map_err(store_error)?;
                check(condition, &transaction.open_table(TABLE).map_err(store_error)?)?;
            } else {
                self.write(Some(condition), changes, durable, (logging.run, logging.last + 1))?;
                logging.committed(changes, durable);
            }
            Ok(match durability {
                Durability::Buffered => Reached::Buffered,
                Durability::Durable => Reached::Durable,
                Durability::DurableWith(attachment) => self.log(logging, attachment),
            })
        })
    }

    fn stored_bytes(&self) -> Result<u64, StoreError> {
        Ok(std::fs::metadata(&self.path)?.len())
    }
}

fn check(condition: Condition<'_>, table: &impl ReadableTable<&'static [u8], &'static [u8]>) -> Result<(), StoreError> {
    let row = table.get(condition.key).map_err(store_error)?;
    if row.as_ref().map(redb::AccessGuard::value) == condition.value { Ok(()) } else { Err(StoreError::Superseded) }
}

/// The table keeps its read transaction alive.
struct RedbReader {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl Reader for RedbReader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        fenced(|| Ok(self.table.get(key).map_err(store_error)?.map(|value| value.value().to_vec())))
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        if from >= until {
            return Ok(());
        }
        fenced(|| {
            for row in self.table.range(from..until).map_err(store_error)? {
                let (key, value) = row.map_err(store_error)?;
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
        Err(StoreError::Damaged(format!("the key-value store gave up: {message}")))
    })
}

fn database_error(error: DatabaseError, path: &Path) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Locked { path: path.to_owned() },
        other => store_error(other),
    }
}

fn store_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged(format!("not a metadata file: {error}"))
        }
        redb::Error::Io(error) => StoreError::Io(error),
        redb::Error::Corrupted(message) => StoreError::Damaged(message),
        other => StoreError::Io(io::Error::other(other.to_string())),
    }
}
