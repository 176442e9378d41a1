//! One budget of memory for everything in a process that may hold much of it.
//!
//! Each [`MemoryUse`] has a fixed part of what the process may use, and whoever holds such memory takes a share of that part for as
//! long as it lives. Shares change while others come and go: who reads [`MemoryShare::bytes`] anew each time keeps within
//! what is its own by then.
//!
//! Invariants: the shares of one use never add up to more than its part; nobody has more than it wanted; and nobody has less
//! than somebody else unless it wanted less.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_locks::Mutex;

use crate::limit;
use crate::lock_order;

/// What memory is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryUse {
    /// Content of files that can be had again from elsewhere: a quarter of the memory.
    ContentCache,
    /// Content of files that was written here and is nowhere else yet: an eighth of the memory.
    WriteBuffer,
}

impl MemoryUse {
    /// The part of the memory: one in so many.
    const fn divisor(self) -> u64 {
        match self {
            MemoryUse::ContentCache => 4,
            MemoryUse::WriteBuffer => 8,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            MemoryUse::ContentCache => "cache",
            MemoryUse::WriteBuffer => "write buffer",
        }
    }
}

/// The memory of one process. Made once and passed on: clones are the same budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    /// Bytes.
    limit: u64,
    content_cache: Arc<Part>,
    write_buffer: Arc<Part>,
}

/// What one use may take, and who has taken it.
#[derive(Debug)]
struct Part {
    /// Bytes.
    limit: u64,
    claims: Mutex<Vec<Arc<Claim>>, lock_order::MemoryShares>,
}

#[derive(Debug)]
struct Claim {
    /// Bytes.
    wanted: u64,
    /// Bytes.
    granted: AtomicU64,
}

impl MemoryBudget {
    /// What this process may use: the machine's memory, or the limit of a control group around it if that is lower.
    pub fn of_process() -> Self {
        Self::with_limit(limit::of_process())
    }

    /// A budget of `limit` bytes.
    pub fn with_limit(limit: u64) -> Self {
        let part = |of: MemoryUse| Arc::new(Part { limit: limit / of.divisor(), claims: Mutex::default() });
        MemoryBudget(Arc::new(Parts {
            limit,
            content_cache: part(MemoryUse::ContentCache),
            write_buffer: part(MemoryUse::WriteBuffer),
        }))
    }

    /// Bytes that the process may use in all.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Takes a share of at most `wanted` bytes until the share is dropped.
    pub fn take(&self, of: MemoryUse, wanted: u64) -> MemoryShare {
        let part = match of {
            MemoryUse::ContentCache => &self.0.content_cache,
            MemoryUse::WriteBuffer => &self.0.write_buffer,
        };
        let claim = Arc::new(Claim { wanted, granted: AtomicU64::new(0) });
        {
            let mut claims = part.claims.lock();
            claims.push(Arc::clone(&claim));
            divide(part.limit, &claims);
        }
        let share = MemoryShare { part: Arc::clone(part), claim };
        if share.bytes() < wanted {
            let (memory, bytes, what) = (self.limit(), share.bytes(), of.name());
            tracing::info!(
                memory,
                "the {what} is limited to {bytes} bytes, because this process may use little memory"
            );
        }
        share
    }
}

/// Gives each claim the same, and what one does not want to the others.
fn divide(limit: u64, claims: &[Arc<Claim>]) {
    let mut modest_first: Vec<&Arc<Claim>> = claims.iter().collect();
    modest_first.sort_by_key(|claim| claim.wanted);
    let mut left = limit;
    let shares: Vec<u64> = modest_first
        .iter()
        .zip((1..=claims.len() as u64).rev())
        .map(|(claim, sharers)| {
            let share = claim.wanted.min(left / sharers);
            left -= share;
            share
        })
        .collect();
    for (claim, share) in modest_first.iter().zip(shares) {
        claim.granted.store(share, Ordering::Relaxed);
    }
}

/// Memory that its holder may use while it has this. It comes back to the others when it is dropped.
#[derive(Debug)]
pub struct MemoryShare {
    part: Arc<Part>,
    claim: Arc<Claim>,
}

impl MemoryShare {
    /// Bytes that may be used now. Less, or more, as others come and go.
    pub fn bytes(&self) -> u64 {
        self.claim.granted.load(Ordering::Relaxed)
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        let mut claims = self.part.claims.lock();
        claims.retain(|claim| !Arc::ptr_eq(claim, &self.claim));
        divide(self.part.limit, &claims);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryUse::{ContentCache, WriteBuffer};

    #[test]
    fn one_share_is_what_is_wanted_within_its_part() {
        let budget = MemoryBudget::with_limit(8000);
        assert_eq!(budget.take(ContentCache, 1500).bytes(), 1500);
        assert_eq!(budget.take(ContentCache, 5000).bytes(), 2000);
        assert_eq!(budget.take(WriteBuffer, 5000).bytes(), 1000);
        assert_eq!(budget.limit(), 8000);
    }

    #[test]
    fn two_stay_within_what_one_would_have_taken() {
        let budget = MemoryBudget::with_limit(8000);
        let first = budget.take(ContentCache, 5000);
        let second = budget.clone().take(ContentCache, 5000);
        assert_eq!((first.bytes(), second.bytes()), (1000, 1000));
        // Another use is not concerned.
        assert_eq!(budget.take(WriteBuffer, 1000).bytes(), 1000);
        drop(first);
        assert_eq!(second.bytes(), 2000);
    }

    #[test]
    fn what_one_does_not_want_the_others_have() {
        let budget = MemoryBudget::with_limit(4000);
        let modest = budget.take(ContentCache, 100);
        let first = budget.take(ContentCache, 9000);
        let second = budget.take(ContentCache, 400);
        assert_eq!((modest.bytes(), first.bytes(), second.bytes()), (100, 500, 400));
    }

    #[test]
    fn many_never_have_more_than_the_part() {
        let budget = MemoryBudget::with_limit(4003);
        let mut shares = Vec::new();
        for number in 0..50 {
            shares.push(budget.take(ContentCache, number * 7));
            if number % 3 == 0 {
                shares.remove(0);
            }
            assert!(shares.iter().map(MemoryShare::bytes).sum::<u64>() <= 1000);
        }
        shares.truncate(1);
        assert_eq!(shares[0].bytes(), shares[0].claim.wanted);
    }
}
