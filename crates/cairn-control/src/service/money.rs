//! Money and what storage costs, in whole numbers, so that every sum can be checked to the last digit.
//!
//! A volume is charged for its size, not for what is in it, by the second. The rate is that of a month of 30 days: $0.07 for
//! each GB up to the first 1,000, $0.05 for each beyond (the emulated cloud's published prices). Both tiers of storage cost
//! the same here, because no source names another price.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

use super::clock::Moment;

/// An amount in billionths of a US dollar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Money(pub i64);

const NANOS: i64 = 1_000_000_000;

impl Money {
    pub const ZERO: Money = Money(0);

    /// Of a number of dollars as people write it; `None` if it is no sum of money.
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let nanos = (dollars * NANOS as f64).round();
        (nanos.abs() < i64::MAX as f64 / 4.0).then_some(Money(nanos as i64))
    }

    /// For faces, which speak of dollars in floating point.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / NANOS as f64
    }
}

impl Add for Money {
    type Output = Money;

    fn add(self, other: Money) -> Money {
        Money(self.0.saturating_add(other.0))
    }
}

impl Sub for Money {
    type Output = Money;

    fn sub(self, other: Money) -> Money {
        Money(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Money {
    fn sum<I: Iterator<Item = Money>>(amounts: I) -> Money {
        amounts.fold(Money::ZERO, Add::add)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "${:.2}", self.dollars())
    }
}

/// Price of one GB for a month, in billionths of a dollar: up to [`FIRST_GB`], and beyond.
const PRICE_FIRST: i128 = 70_000_000;
const PRICE_BEYOND: i128 = 50_000_000;
const FIRST_GB: i128 = 1000;
/// The month of the prices, in milliseconds.
pub(super) const MONTH_MS: i64 = 30 * 24 * 3600 * 1000;

/// What a volume of `size_gb` costs for a month, in billionths of a dollar.
pub(super) fn monthly_price(size_gb: u64) -> i128 {
    let size = i128::from(size_gb);
    size.min(FIRST_GB) * PRICE_FIRST + (size - FIRST_GB).max(0) * PRICE_BEYOND
}

/// What it costs from `start` to `end`, rounded down. Charges of parts of a time are differences of this from one `start`, so
/// that parts always add up to the whole.
pub(super) fn charge(size_gb: u64, start: Moment, end: Moment) -> Money {
    let lasted = i128::from((end.0 - start.0).max(0));
    let nanos = monthly_price(size_gb) * lasted / i128::from(MONTH_MS);
    Money(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dollars_a_month(size_gb: u64) -> f64 {
        charge(size_gb, Moment(0), Moment(MONTH_MS)).dollars()
    }

    #[test]
    fn the_published_prices() {
        for (size_gb, dollars) in [(1, 0.07), (500, 35.0), (1000, 70.0), (1001, 70.05), (4000, 220.0)] {
            assert!((dollars_a_month(size_gb) - dollars).abs() < 1e-9, "{size_gb} GB: {}", dollars_a_month(size_gb));
        }
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let cut = |at: i64| charge(333, Moment(7), Moment(7 + at));
        let parts: Money = (0..100).map(|part| cut((part + 1) * 12_345) - cut(part * 12_345)).sum();
        assert_eq!(parts, cut(1_234_500));
    }

    #[test]
    fn sums_that_are_none() {
        for wrong in [f64::NAN, f64::INFINITY, 1e30] {
            assert_eq!(Money::from_dollars(wrong), None);
        }
        assert_eq!(Money::from_dollars(12.5), Some(Money(12_500_000_000)));
    }
}
