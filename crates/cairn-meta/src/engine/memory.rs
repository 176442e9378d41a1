//! An engine in memory, for tests: no disk, and a crash that can be asked for.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Changes, Engine, Reader, Visitor};
use crate::error::StoreError;

type Rows = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Default)]
struct State {
    applied: Arc<Rows>,
    durable: Arc<Rows>,
}

/// Rows in a map. Clones share the rows, so that a volume can be opened again after a [`MemoryEngine::crash`].
#[derive(Clone, Default)]
pub struct MemoryEngine(Arc<Mutex<State>>);

impl MemoryEngine {
    /// Goes back to the last durable commit, as a machine does that loses power.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        state.applied = Arc::clone(&state.durable);
    }

    /// Replaces (or with `None` deletes) a row behind the volume's back.
    pub fn tamper(&self, key: &[u8], value: Option<&[u8]>) {
        let changes = Changes::from([(key.to_vec(), value.map(<[u8]>::to_vec))]);
        self.apply(&changes, true);
    }

    fn apply(&self, changes: &Changes, durable: bool) {
        let mut state = self.0.lock();
        let rows = Arc::make_mut(&mut state.applied);
        for (key, value) in changes {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        if durable {
            state.durable = Arc::clone(&state.applied);
        }
    }
}

impl Engine for MemoryEngine {
    fn reader(&self) -> Result<Arc<dyn Reader>, StoreError> {
        Ok(Arc::new(MemoryReader(Arc::clone(&self.0.lock().applied))))
    }

    fn commit(&self, changes: &Changes, durable: bool) -> Result<(), StoreError> {
        self.apply(changes, durable);
        Ok(())
    }

    fn commit_logged(&self, changes: &Changes, _attachment: &[u8]) -> Result<bool, StoreError> {
        self.apply(changes, true);
        Ok(true)
    }

    fn stored_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.0.lock().applied.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum())
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
