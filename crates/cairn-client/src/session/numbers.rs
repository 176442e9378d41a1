//! Numbers for new nodes and blobs, taken from ranges that the server grants ahead of need.
//!
//! A number is handed out once. Ranges end with the session.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_locks::Mutex;
use cairn_types::{BlobId, Ino};
use cairn_wire::Request;
use cairn_wire::message::Answer;

use super::outgoing::Draft;
use super::{Inner, unexpected};
use crate::error::{Error, FsResult};
use crate::lock_order;

/// Numbers asked for at once. Refilled in the background when fewer than half are left.
const INOS: u32 = 4096;
const BLOBS: u32 = 16_384;

/// Ranges of one kind of numbers.
#[derive(Default)]
struct Stock(VecDeque<Range<u64>>);

impl Stock {
    /// `count` consecutive numbers. The rest of a range that is too short for them is given up.
    fn take(&mut self, count: u64) -> Option<u64> {
        while let Some(range) = self.0.front_mut() {
            if range.end - range.start >= count {
                let first = range.start;
                range.start += count;
                return Some(first);
            }
            self.0.pop_front();
        }
        None
    }

    fn left(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    fn add(&mut self, first: u64, count: u32) {
        if let Some(end) = first.checked_add(u64::from(count))
            && count > 0
        {
            self.0.push_back(first..end);
        }
    }
}

#[derive(Default)]
struct Stocks {
    inos: Stock,
    blobs: Stock,
}

#[derive(Default)]
pub(super) struct Numbers {
    stocks: Mutex<Stocks, lock_order::NumberStocks>,
    /// Held while asking the server, so that several who find nothing ask once.
    asking: tokio::sync::Mutex<()>,
    refilling: AtomicBool,
}

impl Numbers {
    pub(super) fn clear(&self) {
        *self.stocks.lock() = Stocks::default();
    }
}

pub(super) async fn take_ino(inner: &Arc<Inner>) -> FsResult<Ino> {
    take(inner, |stocks| stocks.inos.take(1), 1, 0).await.map(Ino)
}

pub(super) async fn take_blobs(inner: &Arc<Inner>, count: u32) -> FsResult<BlobId> {
    take(inner, |stocks| stocks.blobs.take(u64::from(count)), 0, count).await.map(BlobId)
}

/// At least one number of one kind.
async fn take(inner: &Arc<Inner>, pick: impl Fn(&mut Stocks) -> Option<u64>, inos: u32, blobs: u32) -> FsResult<u64> {
    loop {
        let (first, low) = {
            let mut stocks = inner.numbers.stocks.lock();
            let first = pick(&mut stocks);
            let low_inos = inos > 0 && stocks.inos.left() < u64::from(INOS / 2);
            let low_blobs = blobs > 0 && stocks.blobs.left() < u64::from(BLOBS / 2);
            (first, low_inos || low_blobs)
        };
        if let Some(first) = first {
            if low && !inner.numbers.refilling.swap(true, Ordering::AcqRel) {
                let refiller = Arc::clone(inner);
                inner.runtime.spawn(async move {
                    let outcome = ask(&refiller, inos.min(1) * INOS, blobs.min(1) * BLOBS).await;
                    refiller.numbers.refilling.store(false, Ordering::Release);
                    if let Err(error) = outcome {
                        tracing::debug!(%error, "no new numbers yet");
                    }
                });
            }
            return Ok(first);
        }
        let _asking = inner.numbers.asking.lock().await;
        let found = pick(&mut inner.numbers.stocks.lock());
        if let Some(first) = found {
            return Ok(first);
        }
        ask(inner, inos.min(1) * INOS.max(inos), blobs.min(1) * BLOBS.max(blobs)).await?;
    }
}

/// Asks for ranges and adds them to the stocks.
async fn ask(inner: &Arc<Inner>, inos: u32, blobs: u32) -> FsResult<()> {
    let generation = inner.generation();
    match inner.request(Draft::Plain(Request::Numbers { inos, blobs })).await? {
        Answer::Numbers { first_ino, first_blob } => {
            let mut stocks = inner.numbers.stocks.lock();
            // Under the lock that clearing takes after counting a fencing: numbers of an old session cannot slip in.
            if inner.generation() != generation {
                return Err(Error::FENCED);
            }
            stocks.inos.add(first_ino.0, inos);
            stocks.blobs.add(first_blob.0, blobs);
            Ok(())
        }
        other => Err(unexpected(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_consecutive_and_never_handed_out_twice() {
        let mut stock = Stock::default();
        stock.add(10, 4);
        stock.add(100, 8);
        assert_eq!(stock.take(3), Some(10));
        assert_eq!(stock.take(3), Some(100), "one was left of the first range, which is not enough");
        assert_eq!(stock.take(5), Some(103));
        assert_eq!(stock.take(1), None);
        assert_eq!(stock.left(), 0);
    }

    #[test]
    fn a_range_beyond_the_last_number_is_not_believed() {
        let mut stock = Stock::default();
        stock.add(u64::MAX - 1, 4);
        assert_eq!(stock.take(1), None);
    }
}
