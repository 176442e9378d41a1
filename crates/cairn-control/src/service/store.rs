//! The control plane's records on disk: `control.redb` in the server's data directory, one table for each kind, JSON values.
//! A batch of changes is one durable transaction. The format has a version of its own: a newer one is refused.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ServiceError;
use super::records::{Account, ApiKey, ChargedSpan, Endpoint, Pod, Settings, Template, VolumeRecord};
use super::state::State;

/// Of everything in this file.
const VERSION: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// A kind of record, which has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Accounts,
    Keys,
    Volumes,
    Spans,
    Pods,
    Templates,
    Endpoints,
    Settings,
}

impl Table {
    const ALL: [Table; 8] = [
        Table::Accounts,
        Table::Keys,
        Table::Volumes,
        Table::Spans,
        Table::Pods,
        Table::Templates,
        Table::Endpoints,
        Table::Settings,
    ];

    fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        TableDefinition::new(match self {
            Table::Accounts => "accounts",
            Table::Keys => "keys",
            Table::Volumes => "volumes",
            Table::Spans => "spans",
            Table::Pods => "pods",
            Table::Templates => "templates",
            Table::Endpoints => "endpoints",
            Table::Settings => "settings",
        })
    }
}

/// A record as it shall be.
#[derive(Clone, Debug)]
pub(crate) enum Record {
    Account(Account),
    Key(ApiKey),
    Volume(VolumeRecord),
    Span(ChargedSpan),
    Pod(Box<Pod>),
    Template(Box<Template>),
    Endpoint(Box<Endpoint>),
    Settings(Settings),
}

/// One change of the records.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Record),
    Remove(Table, String),
}

/// Key of a span: its volume, then its start, so that those of a volume lie together in the order of time.
pub(crate) fn span_key(span: &ChargedSpan) -> String {
    format!("{}/{:020}", span.volume, span.start.0)
}

pub(crate) const SETTINGS_KEY: &str = "server";

impl Record {
    fn table(&self) -> Table {
        match self {
            Record::Account(_) => Table::Accounts,
            Record::Key(_) => Table::Keys,
            Record::Volume(_) => Table::Volumes,
            Record::Span(_) => Table::Spans,
            Record::Pod(_) => Table::Pods,
            Record::Template(_) => Table::Templates,
            Record::Endpoint(_) => Table::Endpoints,
            Record::Settings(_) => Table::Settings,
        }
    }

    fn key(&self) -> String {
        match self {
            Record::Account(account) => account.id.clone(),
            Record::Key(key) => key.id.clone(),
            Record::Volume(volume) => volume.id.to_string(),
            Record::Span(span) => span_key(span),
            Record::Pod(pod) => pod.id.clone(),
            Record::Template(template) => template.id.clone(),
            Record::Endpoint(endpoint) => endpoint.id.clone(),
            Record::Settings(_) => SETTINGS_KEY.to_owned(),
        }
    }

    fn json(&self) -> Result<Vec<u8>, ServiceError> {
        match self {
            Record::Account(record) => encode(record),
            Record::Key(record) => encode(record),
            Record::Volume(record) => encode(record),
            Record::Span(record) => encode(record),
            Record::Pod(record) => encode(record),
            Record::Template(record) => encode(record),
            Record::Endpoint(record) => encode(record),
            Record::Settings(record) => encode(record),
        }
    }
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, ServiceError> {
    serde_json::to_vec(record).map_err(|error| ServiceError::Store(error.to_string()))
}

fn failed(error: impl Into<redb::Error>) -> ServiceError {
    ServiceError::Store(error.into().to_string())
}

/// The open file. Calls wait for the disk: keep them off threads that serve connections.
pub(crate) struct Store {
    database: Database,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self, ServiceError> {
        let database = Database::create(path).map_err(failed)?;
        let transaction = database.begin_write().map_err(failed)?;
        {
            let mut meta = transaction.open_table(META).map_err(failed)?;
            let found = meta.get("version").map_err(failed)?.map(|value| value.value());
            match found {
                Some(found) if found > VERSION => {
                    return Err(ServiceError::Store(format!(
                        "{} has format {found}, and this program supports formats up to {VERSION}: use a newer version of cairn",
                        path.display()
                    )));
                }
                Some(_) => {}
                None => drop(meta.insert("version", VERSION).map_err(failed)?),
            }
            for table in Table::ALL {
                transaction.open_table(table.definition()).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)?;
        Ok(Store { database })
    }

    /// Everything there is.
    pub(crate) fn load(&self) -> Result<State, ServiceError> {
        let mut state = State::default();
        for account in self.list::<Account>(Table::Accounts)? {
            state.accounts.insert(account.id.clone(), account);
        }
        for key in self.list::<ApiKey>(Table::Keys)? {
            state.keys.insert(key.id.clone(), key);
        }
        for volume in self.list::<VolumeRecord>(Table::Volumes)? {
            state.volumes.insert(volume.id.clone(), volume);
        }
        for span in self.list::<ChargedSpan>(Table::Spans)? {
            state.spans.insert(span_key(&span), span);
        }
        for pod in self.list::<Pod>(Table::Pods)? {
            state.pods.insert(pod.id.clone(), pod);
        }
        for template in self.list::<Template>(Table::Templates)? {
            state.templates.insert(template.id.clone(), template);
        }
        for endpoint in self.list::<Endpoint>(Table::Endpoints)? {
            state.endpoints.insert(endpoint.id.clone(), endpoint);
        }
        state.settings = self.list::<Settings>(Table::Settings)?.pop().unwrap_or_default();
        Ok(state)
    }

    fn list<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<T>, ServiceError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let rows = transaction.open_table(table.definition()).map_err(failed)?;
        let mut records = Vec::new();
        for row in rows.iter().map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let record = serde_json::from_slice(value.value()).map_err(|error| {
                ServiceError::Store(format!("record {:?} of {table:?} is damaged: {error}", key.value()))
            })?;
            records.push(record);
        }
        Ok(records)
    }

    /// Makes all changes or none, durably.
    pub(crate) fn write(&self, changes: &[Change]) -> Result<(), ServiceError> {
        let transaction = self.database.begin_write().map_err(failed)?;
        for change in changes {
            match change {
                Change::Put(record) => {
                    let mut table = transaction.open_table(record.table().definition()).map_err(failed)?;
                    table.insert(record.key().as_str(), record.json()?.as_slice()).map_err(failed)?;
                }
                Change::Remove(table, key) => {
                    let mut table = transaction.open_table(table.definition()).map_err(failed)?;
                    table.remove(key.as_str()).map_err(failed)?;
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("control.redb");
        drop(Store::open(&path).expect("made"));
        let database = Database::create(&path).expect("opened");
        let transaction = database.begin_write().expect("begun");
        transaction.open_table(META).expect("table").insert("version", VERSION + 1).expect("written");
        transaction.commit().expect("committed");
        drop(database);
        let error = Store::open(&path).map(|_| ()).expect_err("refused").to_string();
        assert!(error.contains("use a newer version"), "{error}");
    }

    #[test]
    fn what_is_written_is_there_after_a_restart() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("control.redb");
        let store = Store::open(&path).expect("made");
        store.write(&[Change::Put(Record::Settings(Settings { skipped_ms: 5 }))]).expect("written");
        drop(store);
        let store = Store::open(&path).expect("opened");
        assert_eq!(store.load().expect("loaded").settings.skipped_ms, 5);
        store.write(&[Change::Remove(Table::Settings, SETTINGS_KEY.to_owned())]).expect("removed");
        assert_eq!(store.load().expect("loaded").settings.skipped_ms, 0);
    }
}
