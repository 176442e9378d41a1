//! `/v1/billing`: sums of all volumes for each bucket of time.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::{Answer, Parameters, one};
use crate::service::{Bucket, BucketSize, ChargeQuery, Moment, Money, Principal, Service, ServiceError};

fn moment(parameters: &[(String, String)], name: &str) -> Result<Option<Moment>, ServiceError> {
    let Some(text) = one(parameters, name) else { return Ok(None) };
    let read = Moment::parse(text).map(Some);
    read.ok_or_else(|| ServiceError::Invalid(format!("{name} is not a time such as 2026-01-31T23:59:59Z")))
}

fn query(parameters: &[(String, String)]) -> Result<ChargeQuery, ServiceError> {
    let bucket = match one(parameters, "bucketSize") {
        None => BucketSize::Day,
        Some(name) => BucketSize::parse(name)
            .ok_or_else(|| ServiceError::Invalid("bucketSize is hour, day, week, month or year".to_owned()))?,
    };
    let (start, end) = (moment(parameters, "startTime")?, moment(parameters, "endTime")?);
    Ok(ChargeQuery { start, end, bucket, last: None, volume: None, aligned: false })
}

/// Pods cost nothing: they run on the server's own machine.
pub(super) async fn pods(parameters: Parameters) -> Answer {
    query(&parameters)?;
    Ok(Json(json!([])).into_response())
}

pub(super) async fn volumes(
    State(service): State<Arc<Service>>,
    Extension(who): Extension<Principal>,
    parameters: Parameters,
) -> Answer {
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
    Ok(Json(records).into_response())
}
