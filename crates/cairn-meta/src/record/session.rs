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
    /// Errno of each recent journal entry that was refused, by number; the others up to `journal_sequence` were applied.
    pub(crate) refused: BTreeMap<u64, i32>,
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
    /// For how many journal entries back refusals are kept: several times what a client has under way.
    const REFUSED_WINDOW: u64 = 16 * 1024;
    /// Lower half of the row's first byte: refused journal entries follow. Rows without any are as they ever were.
    const HAS_REFUSED: u8 = 1;

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

    /// How an entry up to `journal_sequence` ended. One that has left the window was answered long ago.
    pub(crate) fn entry(&self, number: u64) -> Result<(), Errno> {
        self.refused.get(&number).map_or(Ok(()), |errno| Err(Errno(*errno)))
    }

    pub(crate) fn refuse(&mut self, number: u64, errno: i32) {
        self.refused.insert(number, errno);
    }

    pub(crate) fn advance(&mut self, sequence: u64) {
        self.journal_sequence = sequence;
        let oldest = sequence.saturating_sub(Self::REFUSED_WINDOW);
        if self.refused.first_key_value().is_some_and(|(first, _)| *first < oldest) {
            self.refused = self.refused.split_off(&oldest);
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(16 + self.info.len() + 3 * (self.results.len() + self.refused.len()));
        value.push(header(if self.refused.is_empty() { 0 } else { Self::HAS_REFUSED }));
        value.bytes(&self.info);
        value.varint(self.journal_sequence);
        value.varint(self.acked_below);
        put_numbered(&mut value, &self.results, self.acked_below);
        if !self.refused.is_empty() {
            put_numbered(&mut value, &self.refused, self.journal_sequence);
        }
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut decode = Decode(value);
        let flags = open_header(decode.byte()?)?;
        let mut record = SessionRecord {
            info: Bytes::copy_from_slice(decode.bytes()?),
            journal_sequence: decode.varint()?,
            acked_below: decode.varint()?,
            results: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        record.results = numbered(&mut decode, record.acked_below)?;
        match flags {
            0 => {}
            Self::HAS_REFUSED => record.refused = numbered(&mut decode, record.journal_sequence)?,
            _ => return None,
        }
        decode.finish(record)
    }
}

fn put_numbered(value: &mut Vec<u8>, entries: &BTreeMap<u64, i32>, base: u64) {
    value.varint(entries.len() as u64);
    let mut previous = base;
    for (&number, &errno) in entries {
        value.signed(number.wrapping_sub(previous) as i64);
        value.signed(i64::from(errno));
        previous = number;
    }
}

/// Errnos by number; each number is stored as the difference from the one before, the first from `base`.
fn numbered(decode: &mut Decode<'_>, base: u64) -> Option<BTreeMap<u64, i32>> {
    let mut entries = BTreeMap::new();
    let mut previous = base;
    for _ in 0..decode.varint()? {
        previous = previous.wrapping_add(decode.signed()? as u64);
        entries.insert(previous, i32::try_from(decode.signed()?).ok()?);
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back(
            info: Vec<u8>,
            journal_sequence: u64,
            acked_below: u64,
            results: BTreeMap<u64, i32>,
            refused: BTreeMap<u64, i32>,
        ) {
            let record = SessionRecord { info: info.into(), journal_sequence, acked_below, results, refused };
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
    fn refusals_leave_with_the_window() {
        let mut record = SessionRecord::default();
        record.refuse(7, Errno::EDQUOT.0);
        record.advance(9);
        assert_eq!((record.entry(7), record.entry(8)), (Err(Errno::EDQUOT), Ok(())));
        record.advance(7 + SessionRecord::REFUSED_WINDOW);
        assert_eq!(record.entry(7), Err(Errno::EDQUOT));
        record.advance(8 + SessionRecord::REFUSED_WINDOW);
        assert!(record.refused.is_empty());
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
