//! The embedded engine: one redb file with one table of byte strings.
//!
//! redb does not promise an error for every kind of damage (some end in a panic inside it), so each call is fenced: a
//! panic becomes [`StoreError::Damaged`].

use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::{Changes, Engine, Reader, Visitor};
use crate::error::StoreError;

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("cairn");

/// A redb file. The process that has it open excludes every other.
pub struct RedbEngine {
    database: Database,
    path: PathBuf,
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
            Ok(RedbEngine { database, path: path.to_owned() })
        })
    }

    /// Opens a file, repairing it first if it was not closed in order.
    pub fn open(path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        if !path.try_exists()? {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        fenced(|| {
            let database = Database::builder()
                .set_cache_size(cache_bytes)
                .set_repair_callback(|session| tracing::info!(progress = session.progress(), "repairing metadata"))
                .open(path)
                .map_err(|error| database_error(error, path))?;
            Ok(RedbEngine { database, path: path.to_owned() })
        })
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
            }
            transaction.commit().map_err(engine_error)
        })
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
