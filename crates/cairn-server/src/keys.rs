//! Keys that open the server over TCP: `cairn_<id>_<secret>`.
//!
//! The secret is 256 random bits, so what is stored needs no slow password hash: nobody can try them all, and a fast hash costs
//! a connection nothing. Only that hash is kept; the text is shown once, when the key is made. Hashes are compared in constant
//! time. A key that was revoked is refused from that moment on; cutting its live connections is `connections`' part.

use std::collections::HashMap;
use std::sync::Arc;

use cairn_locks::RwLock;
use cairn_types::{Timestamp, VolumeId};
use cairn_wire::admin::{KeyInfo, KeyScope};

use crate::lock_order;
use crate::store::{KeyRecord, Store, StoreError};

const PREFIX: &str = "cairn_";
/// Separates these hashes from any other use of blake3; part of the format.
const HASH_CONTEXT: &str = "cairn server key, version 1";
const LABEL_MAX: usize = 255;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("there is no key with the id {0:?}")]
    Unknown(String),
    #[error("a label takes at most {LABEL_MAX} bytes and no control characters")]
    InvalidLabel,
    #[error("a key needs at least one volume that it opens")]
    NoVolumes,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a connection may do: the scope of its key, or everything for the server's own user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access(KeyScope);

impl Access {
    /// Of somebody who needs no key (the server's own user on the Unix socket).
    pub fn everything() -> Self {
        Access(KeyScope::Admin)
    }

    pub fn is_admin(&self) -> bool {
        self.0 == KeyScope::Admin
    }

    pub fn opens(&self, volume: &VolumeId) -> bool {
        match &self.0 {
            KeyScope::Admin => true,
            KeyScope::Volumes(volumes) => volumes.contains(volume),
        }
    }
}

/// All keys, in memory and in the catalogue's database.
pub struct Keys {
    store: Arc<Store>,
    known: RwLock<HashMap<String, KeyRecord>, lock_order::Keys>,
}

impl Keys {
    pub(crate) fn open(store: Arc<Store>) -> Result<Self, StoreError> {
        let known = store.keys()?.into_iter().map(|record| (record.id.clone(), record)).collect();
        Ok(Keys { store, known: RwLock::new(known) })
    }

    /// The id in a key's text, whether or not there is such a key.
    pub fn id_of(text: &str) -> Option<&str> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        (!id.is_empty() && !secret.is_empty()).then_some(id)
    }

    /// What a key opens; `None` if it is unknown, revoked or wrong.
    pub fn check(&self, text: &str) -> Option<Access> {
        let known = self.known.read();
        let record = known.get(Self::id_of(text)?)?;
        let expected = blake3::Hash::from_hex(&record.hash).ok()?;
        // The comparison of `blake3::Hash` takes the same time wherever they differ.
        (hash(text) == expected).then(|| Access(record.scope()))
    }

    /// Makes a key. The text is returned this once. Waits for the disk.
    pub fn create(&self, label: String, scope: KeyScope) -> Result<(String, KeyInfo), KeyError> {
        if label.len() > LABEL_MAX || label.chars().any(char::is_control) {
            return Err(KeyError::InvalidLabel);
        }
        let volumes = match scope {
            KeyScope::Admin => None,
            KeyScope::Volumes(volumes) if volumes.is_empty() => return Err(KeyError::NoVolumes),
            KeyScope::Volumes(volumes) => Some(volumes),
        };
        let id = loop {
            let id = VolumeId::from_entropy(rand::random()).to_string();
            if !self.known.read().contains_key(&id) {
                break id;
            }
        };
        let secret = blake3::Hash::from_bytes(rand::random()).to_hex();
        let text = format!("{PREFIX}{id}_{secret}");
        let hash = hash(&text).to_hex().to_string();
        let record = KeyRecord { id: id.clone(), label, volumes, created: Timestamp::now().secs, hash };
        let info = record.info();
        self.store.put_key(&record)?;
        self.known.write().insert(id, record);
        Ok((text, info))
    }

    /// In the order in which they were made.
    pub fn list(&self) -> Vec<KeyInfo> {
        let mut keys: Vec<KeyInfo> = self.known.read().values().map(KeyRecord::info).collect();
        keys.sort_by(|left, right| (left.created, &left.id).cmp(&(right.created, &right.id)));
        keys
    }

    /// Takes a key out of use, at once and for good. Waits for the disk. If the disk fails, the key stays out of use until the
    /// server starts again.
    pub fn revoke(&self, id: &str) -> Result<(), KeyError> {
        if self.known.write().remove(id).is_none() {
            return Err(KeyError::Unknown(id.to_owned()));
        }
        Ok(self.store.remove_key(id)?)
    }
}

fn hash(text: &str) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key(HASH_CONTEXT, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(directory: &tempfile::TempDir) -> Keys {
        let store = Store::open(&directory.path().join("server.redb")).expect("store");
        Keys::open(Arc::new(store)).expect("keys")
    }

    #[test]
    fn a_key_outlives_a_restart_and_opens_what_it_was_made_for() {
        let directory = tempfile::tempdir().expect("directory");
        let volume = VolumeId::from_entropy(7);
        let (text, info) =
            keys(&directory).create("laptop".to_owned(), KeyScope::Volumes(vec![volume.clone()])).expect("made");
        let again = keys(&directory);
        let access = again.check(&text).expect("accepted");
        assert!(access.opens(&volume) && !access.opens(&VolumeId::from_entropy(8)) && !access.is_admin());
        assert_eq!(again.list(), vec![info.clone()]);
        again.revoke(&info.id).expect("revoked");
        assert_eq!(again.check(&text), None);
        drop(again);
        assert_eq!(keys(&directory).check(&text), None);
    }

    #[test]
    fn the_secret_is_not_on_disk() {
        let directory = tempfile::tempdir().expect("directory");
        let (text, info) = keys(&directory).create(String::new(), KeyScope::Admin).expect("made");
        let file = std::fs::read(directory.path().join("server.redb")).expect("read");
        let holds = |wanted: &str| file.windows(wanted.len()).any(|window| window == wanted.as_bytes());
        assert!(holds(&info.id));
        assert!(!holds(text.rsplit('_').next().expect("secret")));
    }

    #[test]
    fn texts_that_are_no_key_are_refused() {
        let directory = tempfile::tempdir().expect("directory");
        let keys = keys(&directory);
        let (text, info) = keys.create(String::new(), KeyScope::Admin).expect("made");
        let wrong_secret = format!("cairn_{}_{}", info.id, "0".repeat(64));
        let longer = format!("{text}0");
        for wrong in ["", "cairn_", "cairn__", "cairn_x_", "nonsense", wrong_secret.as_str(), longer.as_str()] {
            assert_eq!(keys.check(wrong), None, "{wrong}");
        }
        assert!(keys.check(&text).is_some_and(|access| access.is_admin()));
    }

    #[test]
    fn keys_without_a_volume_or_with_odd_labels_are_not_made() {
        let directory = tempfile::tempdir().expect("directory");
        let keys = keys(&directory);
        assert!(matches!(keys.create(String::new(), KeyScope::Volumes(Vec::new())), Err(KeyError::NoVolumes)));
        assert!(matches!(keys.create("a\nb".to_owned(), KeyScope::Admin), Err(KeyError::InvalidLabel)));
        assert!(matches!(keys.create("a".repeat(256), KeyScope::Admin), Err(KeyError::InvalidLabel)));
        assert!(matches!(keys.revoke("nobody"), Err(KeyError::Unknown(_))));
    }
}
