//! What was charged, cut into the times that a client asks for.

use std::collections::BTreeMap;

use cairn_types::VolumeId;
use time::{Date, Duration, Month, OffsetDateTime};

use super::Service;
use super::access::{Permission, Principal};
use super::clock::Moment;
use super::error::ServiceError;
use super::money::{self, Money};
use super::records::{ChargedSpan, VolumeTier};

/// Most buckets of one answer.
const BUCKETS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketSize {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

impl BucketSize {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "hour" => BucketSize::Hour,
            "day" => BucketSize::Day,
            "week" => BucketSize::Week,
            "month" => BucketSize::Month,
            "year" => BucketSize::Year,
            _ => return None,
        })
    }

    pub fn name(self) -> &'static str {
        match self {
            BucketSize::Hour => "hour",
            BucketSize::Day => "day",
            BucketSize::Week => "week",
            BucketSize::Month => "month",
            BucketSize::Year => "year",
        }
    }

    /// The beginning of the bucket that holds `moment`, in UTC; weeks begin on Monday.
    fn floor(self, moment: Moment) -> Moment {
        let time = moment.date_time();
        let day = time.date();
        let start = match self {
            BucketSize::Hour => return Moment(moment.0 - moment.0.rem_euclid(3_600_000)),
            BucketSize::Day => day,
            BucketSize::Week => day - Duration::days(i64::from(day.weekday().number_days_from_monday())),
            BucketSize::Month => day.replace_day(1).unwrap_or(day),
            BucketSize::Year => Date::from_calendar_date(day.year(), Month::January, 1).unwrap_or(day),
        };
        Moment(OffsetDateTime::new_utc(start, time::Time::MIDNIGHT).unix_timestamp() * 1000)
    }

    /// The beginning of the bucket after the one that begins at `start`.
    fn next(self, start: Moment) -> Moment {
        let days = match self {
            BucketSize::Hour => return start.plus_ms(3_600_000),
            BucketSize::Day => 1,
            BucketSize::Week => 7,
            BucketSize::Month => 32,
            BucketSize::Year => 367,
        };
        self.floor(start.plus_ms(days * 24 * 3_600_000))
    }
}

/// Which charges.
#[derive(Clone, Debug)]
pub struct ChargeQuery {
    /// By default 30 buckets before the end.
    pub start: Option<Moment>,
    /// By default now.
    pub end: Option<Moment>,
    pub bucket: BucketSize,
    /// The last so many buckets, instead of a start.
    pub last: Option<u32>,
    /// Of one volume only.
    pub volume: Option<String>,
    /// Widen the time to whole buckets.
    pub aligned: bool,
}

/// What one volume was charged in one bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    pub start: Moment,
    pub end: Moment,
    pub volume: VolumeId,
    pub standard: Money,
    pub high_performance: Money,
    /// Largest size in that time.
    pub standard_gb: u64,
    pub high_performance_gb: u64,
}

/// Charges, with the times that the query came to mean.
#[derive(Clone, Debug)]
pub struct Charges {
    pub start: Moment,
    pub end: Moment,
    pub bucket: BucketSize,
    pub records: Vec<Bucket>,
}

impl Service {
    /// What the account's volumes were charged, volumes that are gone included. Buckets without a charge are left out.
    pub fn charges(&self, who: &Principal, query: &ChargeQuery) -> Result<Charges, ServiceError> {
        who.require(Permission::Look)?;
        let now = self.now();
        let end = query.end.unwrap_or(now);
        let end = match query.bucket.floor(end) {
            floor if query.aligned && floor != end => query.bucket.next(floor),
            _ => end,
        };
        let first = match (query.start, query.last) {
            (Some(start), None) if query.aligned => query.bucket.floor(start),
            (Some(start), None) => start,
            (None, last) => {
                let mut start = query.bucket.floor(end.plus_ms(-1));
                for _ in 1..last.unwrap_or(30).clamp(1, 1000) {
                    start = query.bucket.floor(start.plus_ms(-1));
                }
                start
            }
            (Some(_), Some(_)) => {
                return Err(ServiceError::invalid("ask either for a start time or for the last buckets, not both"));
            }
        };
        if first >= end {
            return Err(ServiceError::invalid("the start time is not before the end time"));
        }
        let spans: Vec<ChargedSpan> = {
            let state = self.state.read();
            let spans = state.spans_of(&who.account, now.min(end));
            let of_volume = |span: &ChargedSpan| query.volume.as_ref().is_none_or(|id| span.volume.as_str() == id);
            spans.into_iter().filter(|span| of_volume(span) && span.end > first).collect()
        };
        // Nothing was charged before the first of them, so no bucket begins earlier.
        let mut start = first.max(spans.iter().map(|span| span.start).min().unwrap_or(end));
        let mut records = Vec::new();
        let mut buckets = 0;
        while start < end.min(now) {
            buckets += 1;
            let bucket_end = query.bucket.next(query.bucket.floor(start)).min(end);
            let bucket_start = query.bucket.floor(start).max(first);
            records.extend(bucket_of(&spans, bucket_start, bucket_end));
            if buckets.max(records.len()) > BUCKETS_MAX {
                return Err(ServiceError::Invalid(format!(
                    "that would be more than {BUCKETS_MAX} records: ask for a shorter period or larger buckets"
                )));
            }
            start = bucket_end;
        }
        Ok(Charges { start: first, end, bucket: query.bucket, records })
    }
}

fn bucket_of(spans: &[ChargedSpan], start: Moment, end: Moment) -> Vec<Bucket> {
    let mut volumes: BTreeMap<VolumeId, Bucket> = BTreeMap::new();
    for span in spans.iter().filter(|span| span.start < end && span.end > start) {
        // Differences of what was charged since the span began: parts add up to the whole.
        let until = |moment: Moment| money::charge(span.size_gb, span.start, moment.clamp(span.start, span.end));
        let amount = until(end) - until(start);
        let bucket = volumes.entry(span.volume.clone()).or_insert_with(|| Bucket {
            start,
            end,
            volume: span.volume.clone(),
            standard: Money::ZERO,
            high_performance: Money::ZERO,
            standard_gb: 0,
            high_performance_gb: 0,
        });
        let (sum, size_gb) = match span.tier {
            VolumeTier::Standard => (&mut bucket.standard, &mut bucket.standard_gb),
            VolumeTier::HighPerformance => (&mut bucket.high_performance, &mut bucket.high_performance_gb),
        };
        *sum = *sum + amount;
        *size_gb = (*size_gb).max(span.size_gb);
    }
    volumes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Moment {
        Moment::parse(text).expect("a moment")
    }

    #[test]
    fn buckets_follow_the_calendar() {
        let at = moment("2026-03-18T13:45:10Z");
        for (bucket, start, next) in [
            (BucketSize::Hour, "2026-03-18T13:00:00Z", "2026-03-18T14:00:00Z"),
            (BucketSize::Day, "2026-03-18T00:00:00Z", "2026-03-19T00:00:00Z"),
            (BucketSize::Week, "2026-03-16T00:00:00Z", "2026-03-23T00:00:00Z"),
            (BucketSize::Month, "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
            (BucketSize::Year, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            assert_eq!(bucket.floor(at), moment(start), "{bucket:?}");
            assert_eq!(bucket.next(moment(start)), moment(next), "{bucket:?}");
        }
    }

    #[test]
    fn a_time_cut_in_two_is_charged_as_one() {
        let span = ChargedSpan {
            volume: VolumeId::from_entropy(1),
            account: "a".to_owned(),
            tier: VolumeTier::Standard,
            size_gb: 77,
            start: moment("2026-03-01T00:00:11Z"),
            end: moment("2026-03-03T05:00:00Z"),
        };
        let spans = [span.clone()];
        let cuts = ["2026-02-01T00:00:00Z", "2026-03-02T00:00:00Z", "2026-03-03T00:00:00Z", "2026-04-01T00:00:00Z"];
        let total: Money = cuts
            .windows(2)
            .flat_map(|pair| bucket_of(&spans, moment(pair[0]), moment(pair[1])))
            .map(|bucket| bucket.standard)
            .sum();
        assert_eq!(total, money::charge(77, span.start, span.end));
    }
}
