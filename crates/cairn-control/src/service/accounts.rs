//! Accounts and the keys that open them: `cak_<id>_<secret>`.
//!
//! The secret is 256 random bits and only a hash of the whole text is kept, as with the server's own keys; it is compared in
//! constant time. The first account is made at the first start; its operator's key is put in a file that the server's own user
//! alone can read. Removing that file and starting again makes a new key and revokes the old one.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::access::{Permission, Principal, Role};
use super::clock::Moment;
use super::error::ServiceError;
use super::money::{MONTH_MS, Money};
use super::records::{Account, ApiKey, Settings};
use super::state::State;
use super::store::{Change, Record, Table};
use super::{Service, ids, in_background, validate};

const PREFIX: &str = "cak_";
/// Separates these hashes from any other use of blake3; part of the format.
const HASH_CONTEXT: &str = "cairn control plane key, version 1";
/// Label of the key in the file.
const FILE_KEY_LABEL: &str = "control-key file";
const KEYS_MAX: usize = 1000;
const ACCOUNTS_MAX: usize = 10_000;
/// SSH keys of an account, in bytes.
const PUBLIC_KEYS_MAX: usize = 32 * 1024;
/// The clock can be advanced by ten years at once.
const ADVANCE_MAX_MS: i64 = 10 * 366 * 24 * 3600 * 1000;
/// An account is warned so long before its balance ends.
const WARN_BEFORE_MS: i64 = 7 * 24 * 3600 * 1000;
const HOURS_A_MONTH: f64 = 720.0;

/// An account that shall be made.
#[derive(Clone, Debug)]
pub struct NewAccount {
    pub name: String,
    pub email: String,
    pub credit: Money,
    pub prepaid: bool,
}

/// An account and how it stands.
#[derive(Clone, Debug)]
pub struct AccountView {
    pub account: Account,
    pub balance: Money,
    /// At present, in dollars.
    pub spend_per_hour: f64,
    /// When the balance will end if nothing changes; of prepaid accounts only.
    pub ends: Option<Moment>,
    /// When the volumes will be terminated if nothing changes.
    pub termination: Option<Moment>,
    /// Sentences about what will happen.
    pub warnings: Vec<String>,
}

impl Service {
    /// Who a key belongs to; `None` if it is unknown, revoked or wrong.
    pub fn authenticate(&self, text: &str) -> Option<Principal> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        if id.is_empty() || secret.is_empty() {
            return None;
        }
        let state = self.state.read();
        let key = state.keys.get(id)?;
        let expected = blake3::Hash::from_hex(&key.hash).ok()?;
        // The comparison of `blake3::Hash` takes the same time wherever they differ.
        (hash(text) == expected).then(|| Principal {
            account: key.account.clone(),
            key_id: key.id.clone(),
            role: key.role,
            pod: key.pod.clone(),
        })
    }

    /// Makes the first account and the operator's key, whichever is missing.
    pub(super) async fn ensure_first_account(self: &Arc<Self>) -> Result<(), ServiceError> {
        self.change(|service| async move {
            let mut changes = Vec::new();
            let home = service.state.read().home_account().map(|account| account.id.clone());
            let account = home.unwrap_or_else(|| {
                let wanted = NewAccount {
                    name: "default".to_owned(),
                    email: "owner@localhost".to_owned(),
                    credit: Money::ZERO,
                    prepaid: false,
                };
                let account = new_account(&service.state.read(), wanted, service.now());
                let id = account.id.clone();
                changes.push(Change::Put(Record::Account(account)));
                id
            });
            let path = service.key_file();
            let text = fs::read_to_string(&path).unwrap_or_default();
            let good = service.authenticate(text.trim()).is_some_and(|principal| principal.role == Role::Operator);
            if !good {
                let old = service
                    .state
                    .read()
                    .keys
                    .values()
                    .filter(|key| key.label == FILE_KEY_LABEL)
                    .map(|key| key.id.clone())
                    .collect::<Vec<_>>();
                changes.extend(old.into_iter().map(|id| Change::Remove(Table::Keys, id)));
                let (text, key) =
                    new_key(&service.state.read(), account, FILE_KEY_LABEL.to_owned(), Role::Operator, service.now());
                changes.push(Change::Put(Record::Key(key)));
                let file = path.clone();
                in_background(move || {
                    write_key_file(&file, &text)
                        .map_err(|error| ServiceError::Store(format!("{}: {error}", file.display())))
                })
                .await?;
                tracing::info!(file = %path.display(), "created the control plane's operator key");
            }
            service.commit(changes).await
        })
        .await
    }

    /// The account of whoever asks.
    pub fn me(&self, who: &Principal) -> Result<AccountView, ServiceError> {
        self.account_view(&who.account)
    }

    fn account_view(&self, id: &str) -> Result<AccountView, ServiceError> {
        let state = self.state.read();
        let account = state.accounts.get(id).ok_or(ServiceError::NotFound { what: "account" })?;
        Ok(self.view_of(&state, account))
    }

    fn view_of(&self, state: &State, account: &Account) -> AccountView {
        let now = self.now();
        let balance = state.balance(account, now);
        let monthly = state.monthly_price(&account.id);
        let grace = i64::try_from(self.options.grace.as_millis()).unwrap_or(i64::MAX);
        let ends = match account.exhausted {
            _ if !account.prepaid => None,
            Some(moment) => Some(moment),
            None if monthly == 0 => None,
            None => {
                let left = i128::from(balance.0.max(0)) * i128::from(MONTH_MS) / monthly;
                Some(now.plus_ms(i64::try_from(left).unwrap_or(i64::MAX)))
            }
        };
        let termination = ends.filter(|_| monthly > 0).map(|moment| moment.plus_ms(grace));
        let mut warnings = Vec::new();
        if let (Some(ends), Some(termination)) = (ends, termination) {
            if account.exhausted.is_some() {
                warnings.push(format!(
                    "The balance has been used up since {ends}: pods with a network volume are stopped, charges go on, and every \
                     network volume will be terminated for good at {termination} unless credit is added."
                ));
            } else if ends.0 - now.0 <= WARN_BEFORE_MS {
                warnings.push(format!(
                    "The balance will be used up at {ends}: pods with a network volume are stopped then, and every network volume \
                     is terminated for good at {termination} unless credit is added."
                ));
            }
        }
        AccountView {
            account: account.clone(),
            balance,
            spend_per_hour: monthly as f64 / 1e9 / HOURS_A_MONTH,
            ends,
            termination,
            warnings,
        }
    }

    /// What the account should be told with every answer.
    pub fn warnings(&self, who: &Principal) -> Vec<String> {
        self.me(who).map(|view| view.warnings).unwrap_or_default()
    }

    /// Sets the SSH keys that pods are given, one a line.
    pub async fn set_public_keys(self: &Arc<Self>, who: &Principal, keys: String) -> Result<AccountView, ServiceError> {
        who.require(Permission::ManageAccount)?;
        if keys.len() > PUBLIC_KEYS_MAX || keys.contains('\0') {
            return Err(ServiceError::Invalid(format!("public keys take at most {PUBLIC_KEYS_MAX} bytes")));
        }
        let id = who.account.clone();
        self.change(|service| async move {
            let mut account = service.account(&id)?;
            account.public_keys = keys;
            service.commit(vec![Change::Put(Record::Account(account))]).await?;
            service.account_view(&id)
        })
        .await
    }

    pub(super) fn account(&self, id: &str) -> Result<Account, ServiceError> {
        self.state.read().accounts.get(id).cloned().ok_or(ServiceError::NotFound { what: "account" })
    }

    /// Makes an account and its owner's key, whose text is returned this once.
    pub async fn create_account(
        self: &Arc<Self>,
        who: &Principal,
        wanted: NewAccount,
    ) -> Result<(AccountView, String), ServiceError> {
        who.require(Permission::OperateServer)?;
        validate::name(&wanted.name, "account")?;
        if wanted.credit < Money::ZERO {
            return Err(ServiceError::invalid("an account's credit cannot be negative"));
        }
        self.change(|service| async move {
            let (changes, text, id) = {
                let state = service.state.read();
                if state.accounts.len() >= ACCOUNTS_MAX {
                    return Err(ServiceError::TooMany { what: "accounts", limit: ACCOUNTS_MAX });
                }
                let account = new_account(&state, wanted, service.now());
                let (text, key) = new_key(&state, account.id.clone(), "owner".to_owned(), Role::Owner, service.now());
                let id = account.id.clone();
                (vec![Change::Put(Record::Account(account)), Change::Put(Record::Key(key))], text, id)
            };
            service.commit(changes).await?;
            Ok((service.account_view(&id)?, text))
        })
        .await
    }

    pub fn list_accounts(&self, who: &Principal) -> Result<Vec<AccountView>, ServiceError> {
        who.require(Permission::OperateServer)?;
        let state = self.state.read();
        Ok(state.accounts.values().map(|account| self.view_of(&state, account)).collect())
    }

    /// Gives an account credit. A balance above 0 ends the grace time; pods stay stopped until somebody starts them.
    pub async fn add_credit(
        self: &Arc<Self>,
        who: &Principal,
        account: String,
        amount: Money,
    ) -> Result<AccountView, ServiceError> {
        who.require(Permission::OperateServer)?;
        if amount <= Money::ZERO {
            return Err(ServiceError::invalid("credit must be a positive amount of dollars"));
        }
        self.change(|service| async move {
            // What was due before counts as it was.
            service.settle_alone().await?;
            let mut record = service.account(&account)?;
            record.credit = record.credit + amount;
            if service.state.read().balance(&record, service.now()) > Money::ZERO {
                record.exhausted = None;
            }
            service.commit(vec![Change::Put(Record::Account(record))]).await?;
            service.account_view(&account)
        })
        .await
    }

    /// Makes a key. Its text is returned this once. Only an operator makes keys for other accounts, or operators' keys.
    pub async fn create_key(
        self: &Arc<Self>,
        who: &Principal,
        account: Option<String>,
        label: String,
        role: Role,
    ) -> Result<(String, ApiKey), ServiceError> {
        who.require(Permission::ManageAccount)?;
        let account = account.unwrap_or_else(|| who.account.clone());
        if role == Role::Pod {
            return Err(ServiceError::invalid("keys of pods are created with their pods"));
        }
        if role == Role::Operator {
            who.require(Permission::OperateServer)?;
        }
        if account != who.account && !who.may(Permission::OperateServer) {
            return Err(ServiceError::NotFound { what: "account" });
        }
        if label.chars().count() > 191 || label.chars().any(char::is_control) {
            return Err(ServiceError::invalid(
                "a label takes at most 191 characters, none of them a control character",
            ));
        }
        self.change(|service| async move {
            let (text, key) = {
                let state = service.state.read();
                if !state.accounts.contains_key(&account) {
                    return Err(ServiceError::NotFound { what: "account" });
                }
                if state.keys.values().filter(|key| key.account == account).count() >= KEYS_MAX {
                    return Err(ServiceError::TooMany { what: "keys", limit: KEYS_MAX });
                }
                new_key(&state, account, label, role, service.now())
            };
            service.commit(vec![Change::Put(Record::Key(key.clone()))]).await?;
            Ok((text, key))
        })
        .await
    }

    /// Keys of the own account; an operator sees all.
    pub fn list_keys(&self, who: &Principal) -> Result<Vec<ApiKey>, ServiceError> {
        who.require(Permission::ManageAccount)?;
        let all = who.may(Permission::OperateServer);
        let state = self.state.read();
        Ok(state.keys.values().filter(|key| all || key.account == who.account).cloned().collect())
    }

    /// Takes a key out of use, at once and for good.
    pub async fn revoke_key(self: &Arc<Self>, who: &Principal, id: String) -> Result<(), ServiceError> {
        who.require(Permission::ManageAccount)?;
        let who = who.clone();
        self.change(|service| async move {
            let known = service.list_keys(&who)?.iter().any(|key| key.id == id);
            if !known {
                return Err(ServiceError::NotFound { what: "key" });
            }
            service.commit(vec![Change::Remove(Table::Keys, id)]).await
        })
        .await
    }

    /// Lets time pass: charges and what follows from them become due at once.
    pub async fn advance_clock(self: &Arc<Self>, who: &Principal, milliseconds: i64) -> Result<Moment, ServiceError> {
        who.require(Permission::OperateServer)?;
        if !(0..=ADVANCE_MAX_MS).contains(&milliseconds) {
            return Err(ServiceError::invalid(
                "the clock can be advanced by at most ten years at once, and never goes back",
            ));
        }
        self.change(|service| async move {
            service.settle_alone().await?;
            let skipped_ms = service.clock.skipped_ms().saturating_add(milliseconds);
            service.commit(vec![Change::Put(Record::Settings(Settings { skipped_ms }))]).await?;
            service.clock.set_skipped_ms(skipped_ms);
            tracing::info!(now = %service.now(), "the clock was advanced");
            service.settle_alone().await?;
            Ok(service.now())
        })
        .await
    }

    /// A key for a pod's own use, not yet recorded.
    pub(super) fn new_pod_key(&self, account: String, pod: &str) -> (String, ApiKey) {
        let (text, mut key) = new_key(&self.state.read(), account, format!("pod {pod}"), Role::Pod, self.now());
        key.pod = Some(pod.to_owned());
        (text, key)
    }
}

fn new_account(state: &State, wanted: NewAccount, now: Moment) -> Account {
    let id = format!("user_{}", ids::long(|id| state.accounts.contains_key(&format!("user_{id}"))));
    let NewAccount { name, email, credit, prepaid } = wanted;
    Account { id, name, email, public_keys: String::new(), created: now, credit, prepaid, exhausted: None }
}

fn new_key(state: &State, account: String, label: String, role: Role, now: Moment) -> (String, ApiKey) {
    let id = ids::short(|id| state.keys.contains_key(id));
    let secret = blake3::Hash::from_bytes(rand::random()).to_hex();
    let text = format!("{PREFIX}{id}_{secret}");
    let hash = hash(&text).to_hex().to_string();
    (text, ApiKey { id, account, label, role, pod: None, created: now, hash })
}

fn hash(text: &str) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key(HASH_CONTEXT, text.as_bytes()))
}

/// Written under another name first: a crash leaves the old file or the new one.
fn write_key_file(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(temporary, path)
}
