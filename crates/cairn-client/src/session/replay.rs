//! Changes that the server has applied but not yet made durable, kept to be sent again after it restarts.
//!
//! Ordered as the server ordered them. Everything at or below the durable watermark is gone from here.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_types::MetaOp;
use cairn_wire::Request;
use cairn_wire::message::{OpNumber, Replay};

/// The request that carried a change; shared with nothing once it is answered, so keeping it costs no copy.
struct Kept {
    request: Arc<Request>,
    index: usize,
    number: OpNumber,
}

impl Kept {
    fn op(&self) -> Option<&MetaOp> {
        match &*self.request {
            Request::Call { op, .. } => Some(op),
            Request::Journal { ops, .. } => ops.get(self.index),
            _ => None,
        }
    }
}

#[derive(Default)]
pub(super) struct ReplayLog {
    changes: BTreeMap<u64, Kept>,
    durable: u64,
}

impl ReplayLog {
    /// Change `index` of `request` was applied as `order`.
    pub(super) fn record(&mut self, order: u64, request: &Arc<Request>, index: usize) {
        if order <= self.durable {
            return;
        }
        let number = match &**request {
            Request::Call { token, .. } => OpNumber::Call(*token),
            Request::Journal { first, .. } => OpNumber::Journal(first + index as u64),
            _ => return,
        };
        self.changes.insert(order, Kept { request: Arc::clone(request), index, number });
    }

    /// Everything up to `order` is on stable storage.
    pub(super) fn durable(&mut self, order: u64) {
        if order > self.durable {
            self.durable = order;
            self.changes = self.changes.split_off(&order.saturating_add(1));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Largest journal number in the log; 0 if there is none.
    pub(super) fn last_journal_number(&self) -> u64 {
        let numbers = self.changes.values().map(|kept| match kept.number {
            OpNumber::Journal(number) => number,
            OpNumber::Call(_) => 0,
        });
        numbers.max().unwrap_or(0)
    }

    /// What has to be replayed at a restarted server, in order.
    pub(super) fn list(&self) -> Vec<Replay> {
        let replay =
            |(&order, kept): (&u64, &Kept)| kept.op().map(|op| Replay { order, number: kept.number, op: op.clone() });
        self.changes.iter().filter_map(replay).collect()
    }

    /// The server has replayed the first changes of [`ReplayLog::list`]: each has a new place, or failed (`None`).
    pub(super) fn replayed(&mut self, places: &[Option<u64>]) {
        let old = std::mem::take(&mut self.changes);
        let mut places = places.iter();
        for (order, kept) in old {
            // Orders added since the list was made are kept as they are.
            let place = places.next().copied().unwrap_or(Some(order));
            if let Some(place) = place.filter(|&place| place > self.durable) {
                self.changes.insert(place, kept);
            }
        }
    }

    /// Forgets everything: the session is over, and a new one starts from `durable`.
    pub(super) fn reset(&mut self) {
        *self = ReplayLog::default();
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::Ino;

    use super::*;

    fn journal(first: u64, count: u64) -> Arc<Request> {
        let ops = (0..count).map(|index| MetaOp::ReleaseOrphan { ino: Ino(first + index) }).collect();
        Arc::new(Request::Journal { first, ops })
    }

    fn orders(log: &ReplayLog) -> Vec<u64> {
        log.list().iter().map(|replay| replay.order).collect()
    }

    #[test]
    fn keeps_what_is_not_durable_in_the_order_of_the_server() {
        let mut log = ReplayLog::default();
        let late = journal(5, 2);
        let call = Arc::new(Request::Call { token: 9, acked_below: 0, op: MetaOp::ReleaseOrphan { ino: Ino(1) } });
        log.record(30, &late, 0);
        log.record(31, &late, 1);
        log.record(20, &call, 0);
        assert_eq!(orders(&log), [20, 30, 31]);
        assert_eq!(log.list()[0].number, OpNumber::Call(9));
        assert_eq!(log.list()[2].op, MetaOp::ReleaseOrphan { ino: Ino(6) });
        assert_eq!(log.last_journal_number(), 6);
        log.durable(30);
        log.durable(10);
        assert_eq!(orders(&log), [31]);
        log.record(25, &call, 0);
        assert_eq!(orders(&log), [31], "durable already when its answer came");
    }

    #[test]
    fn places_after_a_replay_replace_the_old_ones() {
        let mut log = ReplayLog::default();
        let batch = journal(1, 3);
        for index in 0..3 {
            log.record(10 + index, &batch, index as usize);
        }
        log.replayed(&[Some(7), None, Some(8)]);
        assert_eq!(orders(&log), [7, 8]);
        log.durable(7);
        assert_eq!(orders(&log), [8]);
    }
}
