//! A client's session: how far its journal was applied, and how its calls ended.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_types::Errno;

use super::codec::{Decode, Encode, header, open_header};

/// What must survive a restart so that every change of a session is applied exactly once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionRecord {
    /// The server's own description of the client; not interpreted here.
    pub info: Bytes,
    /// Number of the last journal entry that was applied; 0 before the first.
    pub journal_sequence: u64,
    /// The client has seen the answers to all calls with smaller tokens.
    pub acked_below: u64,
    /// How each later call ended: 0, or the errno.
    pub(crate) results: BTreeMap<u64, i32>,
}

/// Whether a call was made before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallState {
    New,
    Done(Result<(), Errno>),
    /// Its answer was acknowledged and is forgotten.
    Forgotten,
}

impl SessionRecord {
    /// Most results that are kept: a client that never acknowledges loses the oldest ones.
    const RESULTS_MAX: usize = 16 * 1024;

    pub(crate) fn call(&self, token: u64) -> CallState {
        match self.results.get(&token) {
            Some(0) => CallState::Done(Ok(())),
            Some(errno) => CallState::Done(Err(Errno(*errno))),
            None if token < self.acked_below => CallState::Forgotten,
            None => CallState::New,
        }
    }

    pub(crate) fn record(&mut self, token: u64, errno: i32, acked_below: u64) {
        self.results.insert(token, errno);
        if acked_below > self.acked_below {
            self.acked_below = acked_below;
            self.results = self.results.split_off(&acked_below);
        }
        while self.results.len() > Self::RESULTS_MAX {
            if let Some((oldest, _)) = self.results.pop_first() {
                self.acked_below = self.acked_below.max(oldest.saturating_add(1));
            }
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(16 + self.info.len() + 3 * self.results.len());
        value.push(header(0));
        value.bytes(&self.info);
        value.varint(self.journal_sequence);
        value.varint(self.acked_below);
        value.varint(self.results.len() as u64);
        let mut previous = self.acked_below;
        for (&token, &errno) in &self.results {
            value.signed(token.wrapping_sub(previous) as i64);
            value.signed(i64::from(errno));
            previous = token;
        }
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut decode = Decode(value);
        open_header(decode.byte()?)?;
        let mut record = SessionRecord {
            info: Bytes::copy_from_slice(decode.bytes()?),
            journal_sequence: decode.varint()?,
            acked_below: decode.varint()?,
            results: BTreeMap::new(),
        };
        let mut previous = record.acked_below;
        for _ in 0..decode.varint()? {
            previous = previous.wrapping_add(decode.signed()? as u64);
            record.results.insert(previous, i32::try_from(decode.signed()?).ok()?);
        }
        decode.finish(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back(info: Vec<u8>, journal_sequence: u64, acked_below: u64, results: BTreeMap<u64, i32>) {
            let record = SessionRecord { info: info.into(), journal_sequence, acked_below, results };
            prop_assert_eq!(SessionRecord::decode(&record.encode()), Some(record));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
            let _ = SessionRecord::decode(&bytes);
        }
    }

    #[test]
    fn acknowledged_results_are_forgotten() {
        let mut record = SessionRecord::default();
        record.record(1, 0, 0);
        record.record(2, libc_eexist(), 0);
        record.record(3, 0, 2);
        assert_eq!(record.call(1), CallState::Forgotten);
        assert_eq!(record.call(2), CallState::Done(Err(Errno::EEXIST)));
        assert_eq!(record.call(3), CallState::Done(Ok(())));
        assert_eq!(record.call(4), CallState::New);
    }

    #[test]
    fn a_client_that_never_acknowledges_costs_bounded_room() {
        let mut record = SessionRecord::default();
        for token in 0..SessionRecord::RESULTS_MAX as u64 + 10 {
            record.record(token, 0, 0);
        }
        assert_eq!(record.results.len(), SessionRecord::RESULTS_MAX);
        assert_eq!(record.call(9), CallState::Forgotten);
    }

    fn libc_eexist() -> i32 {
        Errno::EEXIST.0
    }
}
