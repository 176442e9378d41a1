//! A store in memory, for tests: no disk, a crash that can be asked for, and as many openers as one likes.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use cairn_locks::Mutex;

use super::{Changes, Condition, Durability, KeyValueStore, Opener, Reached, Reader, Restore, Visitor};
use crate::error::StoreError;
use crate::lock_order;

/// Most bytes of attachments that are kept at a time.
const ATTACHMENTS_MAX: usize = 4 * 1024 * 1024;

type Rows = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct State {
    applied: Arc<Rows>,
    durable: Arc<Rows>,
    /// Of commits after the last durable one.
    attachments: Vec<Vec<u8>>,
}

/// Rows in a map. Clones share the rows, so that a volume can be opened again, after a [`MemoryStore::crash`] or beside
/// the first.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<State, lock_order::MemoryRows>>);

impl MemoryStore {
    /// Forgets what was only buffered, as a machine does that loses power.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        state.applied = Arc::clone(&state.durable);
    }

    /// Replaces (or with `None` deletes) a row behind the volume's back.
    pub fn tamper(&self, key: &[u8], value: Option<&[u8]>) {
        let changes = Changes::from([(key.to_vec(), value.map(<[u8]>::to_vec))]);
        let mut state = self.0.lock();
        state.apply(&changes);
        state.durable = Arc::clone(&state.applied);
    }
}

impl State {
    fn apply(&mut self, changes: &Changes) {
        let rows = Arc::make_mut(&mut self.applied);
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
    }
}

impl KeyValueStore for MemoryStore {
    fn reader(&self) -> Result<Arc<dyn Reader>, StoreError> {
        Ok(Arc::new(MemoryReader(Arc::clone(&self.0.lock().applied))))
    }

    fn commit(
        &self,
        condition: Condition<'_>,
        changes: &Changes,
        durability: Durability<'_>,
    ) -> Result<Reached, StoreError> {
        let mut state = self.0.lock();
        if state.applied.get(condition.key).map(Vec::as_slice) != condition.value {
            return Err(StoreError::Superseded);
        }
        state.apply(changes);
        match durability {
            Durability::Buffered => Ok(Reached::Buffered),
            Durability::DurableWith(attachment) => {
                let kept: usize = state.attachments.iter().map(Vec::len).sum();
                if kept + attachment.len() > ATTACHMENTS_MAX {
                    return Ok(Reached::Buffered);
                }
                state.attachments.push(attachment.to_vec());
                state.durable = Arc::clone(&state.applied);
                Ok(Reached::Attached)
            }
            Durability::Durable => {
                state.attachments.clear();
                state.durable = Arc::clone(&state.applied);
                Ok(Reached::Durable)
            }
        }
    }

    fn stored_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.0.lock().applied.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
    }
}

impl Opener for MemoryStore {
    fn create(&self) -> Result<Box<dyn KeyValueStore>, StoreError> {
        if !self.0.lock().applied.is_empty() {
            return Err(StoreError::Exists { path: "memory".into() });
        }
        Ok(Box::new(self.clone()))
    }

    fn open(&self, restore: &mut Restore<'_>) -> Result<Box<dyn KeyValueStore>, StoreError> {
        let attachments = std::mem::take(&mut self.0.lock().attachments);
        for attachment in attachments {
            restore(&attachment)?;
        }
        Ok(Box::new(self.clone()))
    }
}

struct MemoryReader(Arc<Rows>);

impl Reader for MemoryReader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        if from >= until {
            return Ok(());
        }
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until))) {
            if let ControlFlow::Break(()) = visit(key, value) {
                break;
            }
        }
        Ok(())
    }
}
