//! `/v2/billing`. Only storage costs anything.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Answer, Refused, unprocessable};
use crate::http::routes::Caller;
use crate::runpod::rest::{Parameters, ok};
use crate::service::{Bucket, BucketSize, ChargeQuery, Charges, Moment, Money, Principal, Service};

fn moment(parameters: &Parameters, name: &str) -> Result<Option<Moment>, Refused> {
    parameters
        .read(name, Moment::parse, || unprocessable(format!("{name} must be a time such as 2026-01-31T23:59:59Z")))
}

fn query(parameters: &Parameters) -> Result<ChargeQuery, Refused> {
    let bucket = parameters
        .read("bucketSize", BucketSize::parse, || unprocessable("bucketSize must be hour, day, week, month or year"))?;
    let bucket = bucket.unwrap_or(BucketSize::Day);
    let above_0 = |text: &str| text.parse::<u32>().ok().filter(|last| *last > 0);
    let last = parameters.read("lastN", above_0, || unprocessable("lastN must be a number above 0"))?;
    let (start, end) = (moment(parameters, "startTime")?, moment(parameters, "endTime")?);
    if last.is_some() && (start.is_some() || end.is_some()) {
        return Err(unprocessable("lastN and startTime or endTime exclude each other"));
    }
    let volume = parameters.one("networkVolumeId").map(str::to_owned);
    Ok(ChargeQuery { start, end, bucket, last, volume, aligned: true })
}

fn sum(records: &[Bucket], amount: fn(&Bucket) -> Money) -> f64 {
    records.iter().map(amount).sum::<Money>().dollars()
}

fn total(bucket: &Bucket) -> Money {
    bucket.standard + bucket.high_performance
}

fn window(charges: &Charges) -> Value {
    json!({
        "startTime": charges.start.to_string(), "endTime": charges.end.to_string(),
        "bucketSize": charges.bucket.name(),
    })
}

fn volume_amounts(records: &[Bucket]) -> Value {
    json!({
        "totalAmount": sum(records, total),
        "standardAmount": sum(records, |record| record.standard),
        "highPerformanceAmount": sum(records, |record| record.high_performance),
    })
}

fn with_times(mut value: Value, start: Moment, end: Moment) -> Value {
    value["startTime"] = json!(start.to_string());
    value["endTime"] = json!(end.to_string());
    value
}

pub(super) async fn volumes(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let asked = query(&parameters)?;
    let charges = service.charges(&who, &asked)?;
    let records: Vec<Value> = charges
        .records
        .iter()
        .map(|record| {
            let mut value = with_times(volume_amounts(std::slice::from_ref(record)), record.start, record.end);
            value["networkVolumeId"] = json!(record.volume);
            value
        })
        .collect();
    let volumes: BTreeSet<_> = charges.records.iter().map(|record| &record.volume).collect();
    let mut meant = window(&charges);
    meant["networkVolumeId"] = json!(asked.volume);
    Ok(ok(json!({
        "metadata": {
            "query": meant, "recordCount": records.len(), "uniqueNetworkVolumeCount": volumes.len(),
            "totals": volume_amounts(&charges.records),
        },
        "records": records,
    })))
}

/// Amounts of everything; only storage is not 0.
fn amounts(records: &[Bucket]) -> Value {
    let mut value = json!({
        "totalAmount": sum(records, total),
        "storageStandardAmount": sum(records, |record| record.standard),
        "storageHighPerformanceAmount": sum(records, |record| record.high_performance),
    });
    for name in [
        "podGpuAmount",
        "podCpuAmount",
        "podDiskAmount",
        "serverlessGpuAmount",
        "serverlessCpuAmount",
        "serverlessDiskAmount",
        "serverlessFeeAmount",
        "endpointAmount",
        "clusterGpuAmount",
        "clusterDiskAmount",
        "clusterNetworkingAmount",
    ] {
        value[name] = json!(0.0);
    }
    value
}

pub(super) async fn everything(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let charges = service.charges(&who, &ChargeQuery { volume: None, ..query(&parameters)? })?;
    let mut buckets: BTreeMap<(Moment, Moment), Vec<Bucket>> = BTreeMap::new();
    for record in &charges.records {
        buckets.entry((record.start, record.end)).or_default().push(record.clone());
    }
    let records: Vec<Value> =
        buckets.iter().map(|((start, end), records)| with_times(amounts(records), *start, *end)).collect();
    Ok(ok(json!({
        "metadata": {
            "query": window(&charges), "recordCount": records.len(), "totals": amounts(&charges.records),
        },
        "records": records,
    })))
}

/// The answer for what costs nothing: no records, and sums of 0.
fn nothing(service: &Service, who: &Principal, parameters: &Parameters, kind: (&str, &str, &[&str])) -> Answer {
    let (id, count, amounts) = kind;
    let charges = service.charges(who, &ChargeQuery { volume: Some(String::new()), ..query(parameters)? })?;
    let mut meant = window(&charges);
    meant[id] = json!(parameters.one(id));
    let totals: Value =
        amounts.iter().map(|name| ((*name).to_owned(), json!(0.0))).collect::<serde_json::Map<_, _>>().into();
    let mut metadata = json!({ "query": meant, "recordCount": 0, "totals": totals });
    metadata[count] = json!(0);
    Ok(ok(json!({ "records": [], "metadata": metadata })))
}

pub(super) async fn pods(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let amounts = ["totalAmount", "gpuAmount", "cpuAmount", "diskAmount"];
    nothing(&service, &who, &parameters, ("podId", "uniquePodCount", &amounts))
}

pub(super) async fn serverless(Caller { service, who }: Caller, parameters: Parameters) -> Answer {
    let amounts = ["totalAmount", "gpuAmount", "cpuAmount", "diskAmount", "feeAmount"];
    nothing(&service, &who, &parameters, ("serverlessId", "uniqueServerlessCount", &amounts))
}
