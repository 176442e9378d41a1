//! The catalogue's database: one record for each volume and each key, written through at once and durably.
//!
//! Records are JSON, so that a field can be added without a new format and a person can read them. Their types are their own,
//! apart from the messages that carry the same facts: a change of the protocol does not change what is on disk.
//! Every call may wait for the disk: keep them off threads that serve connections.

use std::path::Path;

use cairn_types::{Allocation, Profile, VolumeId};
use cairn_wire::admin::{KeyInfo, KeyScope, VolumeInfo};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const VOLUMES: TableDefinition<&str, &[u8]> = TableDefinition::new("volumes");
const KEYS: TableDefinition<&str, &[u8]> = TableDefinition::new("keys");

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the server's catalogue cannot be read or written: {0}")]
    Database(Box<redb::Error>),
    #[error("the record {key:?} of the server's catalogue is damaged: {reason}")]
    Record { key: String, reason: String },
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        StoreError::Database(Box::new(error.into()))
    }
}

/// A volume, as [`VolumeInfo`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeRecord {
    pub id: VolumeId,
    pub name: String,
    pub bytes_limit: u64,
    pub inodes_limit: u64,
    pub data_center: String,
    pub chunk_size: u32,
    pub created: i64,
    /// Records from before profiles have none.
    #[serde(default = "native")]
    pub profile: String,
    #[serde(default)]
    pub allocation: Allocation,
}

fn native() -> String {
    Profile::default().to_string()
}

impl From<VolumeInfo> for VolumeRecord {
    fn from(info: VolumeInfo) -> Self {
        let VolumeInfo { id, name, bytes_limit, inodes_limit, data_center, chunk_size, created, profile, allocation } =
            info;
        VolumeRecord { id, name, bytes_limit, inodes_limit, data_center, chunk_size, created, profile, allocation }
    }
}

impl From<VolumeRecord> for VolumeInfo {
    fn from(record: VolumeRecord) -> Self {
        let VolumeRecord { id, name, bytes_limit, inodes_limit, data_center, chunk_size, created, profile, allocation } =
            record;
        VolumeInfo { id, name, bytes_limit, inodes_limit, data_center, chunk_size, created, profile, allocation }
    }
}

/// A key; its secret is kept as a hash only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub id: String,
    pub label: String,
    /// `None` opens everything.
    pub volumes: Option<Vec<VolumeId>>,
    /// Seconds since 1970.
    pub created: i64,
    /// Of the whole key text, in hexadecimal; see [`crate::keys`].
    pub hash: String,
}

impl KeyRecord {
    pub(crate) fn scope(&self) -> KeyScope {
        match &self.volumes {
            None => KeyScope::Admin,
            Some(volumes) => KeyScope::Volumes(volumes.clone()),
        }
    }

    pub(crate) fn info(&self) -> KeyInfo {
        KeyInfo { id: self.id.clone(), label: self.label.clone(), scope: self.scope(), created: self.created }
    }
}

/// The open database. Transactions are durable when a call returns.
pub(crate) struct Store {
    database: Database,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path)?;
        // Both tables exist from the first start on, so that readers need not care.
        let transaction = database.begin_write()?;
        transaction.open_table(VOLUMES)?;
        transaction.open_table(KEYS)?;
        transaction.commit()?;
        Ok(Store { database })
    }

    pub(crate) fn volumes(&self) -> Result<Vec<VolumeRecord>, StoreError> {
        self.list(VOLUMES)
    }

    pub(crate) fn put_volume(&self, record: &VolumeRecord) -> Result<(), StoreError> {
        self.put(VOLUMES, record.id.as_str(), record)
    }

    pub(crate) fn remove_volume(&self, id: &VolumeId) -> Result<(), StoreError> {
        self.remove(VOLUMES, id.as_str())
    }

    pub(crate) fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.list(KEYS)
    }

    pub(crate) fn put_key(&self, record: &KeyRecord) -> Result<(), StoreError> {
        self.put(KEYS, &record.id, record)
    }

    pub(crate) fn remove_key(&self, id: &str) -> Result<(), StoreError> {
        self.remove(KEYS, id)
    }

    fn list<T: DeserializeOwned>(&self, table: TableDefinition<&str, &[u8]>) -> Result<Vec<T>, StoreError> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(table)?;
        let mut records = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let record = serde_json::from_slice(value.value())
                .map_err(|error| StoreError::Record { key: key.value().to_owned(), reason: error.to_string() })?;
            records.push(record);
        }
        Ok(records)
    }

    fn put<T: Serialize>(&self, table: TableDefinition<&str, &[u8]>, key: &str, record: &T) -> Result<(), StoreError> {
        let value = serde_json::to_vec(record)
            .map_err(|error| StoreError::Record { key: key.to_owned(), reason: error.to_string() })?;
        let transaction = self.database.begin_write()?;
        transaction.open_table(table)?.insert(key, value.as_slice())?;
        transaction.commit()?;
        Ok(())
    }

    fn remove(&self, table: TableDefinition<&str, &[u8]>, key: &str) -> Result<(), StoreError> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(table)?.remove(key)?;
        transaction.commit()?;
        Ok(())
    }
}
