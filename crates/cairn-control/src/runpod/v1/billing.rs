//! `/v1/billing`: sums of all volumes for each bucket of time.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Answer;
use crate::http::routes::Caller;
use crate::runpod::rest::{Parameters, ok};
use crate::service::{Bucket, BucketSize, ChargeQuery, Moment, Money, ServiceError};

fn moment(parameters: &Parameters, name: &str) -> Result<Option<Moment>, ServiceError> {
    parameters.read(name, Moment::parse, || {
        ServiceError::Invalid(format!("{name} is not a time such as 2026-01-31T23:59:59Z"))
    })
}

fn query(parameters: &Parameters) -> Result<ChargeQuery, ServiceError> {
    let bucket = parameters.read("bucketSize", BucketSize::parse, || {
        ServiceError::Invalid("bucketSize is hour, day, week, month or year".to_owned())
    })?;
    let bucket = bucket.unwrap_or(BucketSize::Day);
    let (start, end) = (moment(parameters, "startTime")?, moment(parameters, "endTime")?);
    Ok(ChargeQuery { start, end, bucket, last: None, volume: None, aligned: false })
}

/// Pods cost nothing: they run on the server's own machine.
pub(super) async fn pods(parameters: Parameters) -> Answer {
    query(&parameters)?;
    Ok(ok(json!([])))
}

pub(super) async fn volumes(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let charges = service.charges(&who, &query(&parameters)?)?;
    let mut buckets: BTreeMap<Moment, Vec<Bucket>> = BTreeMap::new();
    for record in charges.records {
        buckets.entry(record.start).or_default().push(record);
    }
    let records: Vec<Value> = buckets
        .into_iter()
        .map(|(start, records)| {
            let sum = |amount: fn(&Bucket) -> Money| records.iter().map(amount).sum::<Money>().dollars();
            let size = |size_gb: fn(&Bucket) -> u64| records.iter().map(size_gb).sum::<u64>();
            json!({
                "time": start.to_string(),
                "amount": sum(|record| record.standard + record.high_performance),
                "diskSpaceBilledGb": size(|record| record.standard_gb + record.high_performance_gb),
                "highPerformanceStorageAmount": sum(|record| record.high_performance),
                "highPerformanceStorageDiskSpaceBilledGb": size(|record| record.high_performance_gb),
            })
        })
        .collect();
    Ok(ok(records))
}
