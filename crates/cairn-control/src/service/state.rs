//! The records in memory: what reads are answered from. Changed only by batches that the store has taken.

use std::collections::BTreeMap;

use cairn_types::VolumeId;

use super::clock::Moment;
use super::money::{self, Money};
use super::records::{Account, ApiKey, ChargedSpan, Endpoint, Pod, Settings, Template, VolumeRecord};
use super::store::{Change, Record, Table, span_key};

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) accounts: BTreeMap<String, Account>,
    pub(crate) keys: BTreeMap<String, ApiKey>,
    pub(crate) volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub(crate) spans: BTreeMap<String, ChargedSpan>,
    pub(crate) pods: BTreeMap<String, Pod>,
    pub(crate) templates: BTreeMap<String, Template>,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) settings: Settings,
}

impl State {
    pub(crate) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Put(Record::Account(record)) => drop(self.accounts.insert(record.id.clone(), record)),
                Change::Put(Record::Key(record)) => drop(self.keys.insert(record.id.clone(), record)),
                Change::Put(Record::Volume(record)) => drop(self.volumes.insert(record.id.clone(), record)),
                Change::Put(Record::Span(record)) => drop(self.spans.insert(span_key(&record), record)),
                Change::Put(Record::Pod(record)) => drop(self.pods.insert(record.id.clone(), *record)),
                Change::Put(Record::Template(record)) => drop(self.templates.insert(record.id.clone(), *record)),
                Change::Put(Record::Endpoint(record)) => drop(self.endpoints.insert(record.id.clone(), *record)),
                Change::Put(Record::Settings(record)) => self.settings = record,
                Change::Remove(table, key) => self.remove(table, &key),
            }
        }
    }

    fn remove(&mut self, table: Table, key: &str) {
        match table {
            Table::Accounts => drop(self.accounts.remove(key)),
            Table::Keys => drop(self.keys.remove(key)),
            Table::Volumes => self.volumes.retain(|id, _| id.as_str() != key),
            Table::Spans => drop(self.spans.remove(key)),
            Table::Pods => drop(self.pods.remove(key)),
            Table::Templates => drop(self.templates.remove(key)),
            Table::Endpoints => drop(self.endpoints.remove(key)),
            Table::Settings => self.settings = Settings::default(),
        }
    }

    /// The account that volumes made without any account belong to: the one that was made first.
    pub(crate) fn home_account(&self) -> Option<&Account> {
        self.accounts.values().min_by_key(|account| (account.created, account.id.clone()))
    }

    /// Every time up to `until` in which a volume of the account had one size.
    pub(crate) fn spans_of(&self, account: &str, until: Moment) -> Vec<ChargedSpan> {
        let over = self.spans.values().filter(|span| span.account == account).cloned();
        let volumes = self.volumes.values().filter(|volume| volume.account == account && volume.charged_gb > 0);
        let going_on = volumes.map(|volume| ChargedSpan {
            volume: volume.id.clone(),
            account: volume.account.clone(),
            tier: volume.tier,
            size_gb: volume.charged_gb,
            start: volume.charged_since,
            end: until,
        });
        let spans = over.chain(going_on).filter(|span| span.start < until);
        spans.map(|span| ChargedSpan { end: span.end.min(until), ..span }).collect()
    }

    /// What the account had left at `moment`, counting all credit that it has now.
    pub(crate) fn balance(&self, account: &Account, moment: Moment) -> Money {
        let spans = self.spans_of(&account.id, moment);
        account.credit - spans.iter().map(|span| money::charge(span.size_gb, span.start, span.end)).sum()
    }

    /// What the account's volumes cost a month at present, in billionths of a dollar.
    pub(crate) fn monthly_price(&self, account: &str) -> i128 {
        let volumes = self.volumes.values().filter(|volume| volume.account == account);
        volumes.map(|volume| money::monthly_price(volume.charged_gb)).sum()
    }

    /// Pods and endpoints that hold a volume.
    pub(crate) fn holders(&self, volume: &VolumeId) -> (Vec<String>, Vec<String>) {
        let pods = self.pods.values().filter(|pod| pod.volume.as_ref() == Some(volume));
        let endpoints = self.endpoints.values().filter(|endpoint| endpoint.volumes.contains(volume));
        (pods.map(|pod| pod.id.clone()).collect(), endpoints.map(|endpoint| endpoint.id.clone()).collect())
    }
}
