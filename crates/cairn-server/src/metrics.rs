//! Everything that is counted, with its name: the one place where metrics are named.
//!
//! Counters only grow and are read without stopping anybody. They are told in two ways: by name in the server's status, and as
//! Prometheus' text for the metrics page. Names end in `_total` (counters) or in a unit (gauges), as Prometheus advises.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_wire::Request;
use cairn_wire::admin::VolumeStatus;

/// One number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($field:ident: $name:literal, $help:literal;)*) => {
        /// The server's own counters. Those of a volume's engine are the volume's.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $field: Counter,)*
            requests: [RequestCounters; RequestKind::ALL.len()],
        }

        impl Counters {
            /// Name, help and value of each plain counter.
            fn plain(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($name, $help, self.$field.value()),)*].into_iter()
            }
        }
    };
}

counters! {
    connections_accepted: "cairn_connections_accepted_total", "Connections that were accepted.";
    connections_overload: "cairn_connections_overload_total", "Connections that were turned away because there were too many.";
    connections_refused: "cairn_connections_refused_total", "Connections whose greeting was answered with a refusal.";
    connections_nonsense: "cairn_connections_nonsense_total", "Connections cut off because the peer did not keep to the protocol.";
    connections_too_slow: "cairn_connections_too_slow_total", "Connections cut off because a frame did not arrive in time.";
    connections_lost: "cairn_connections_lost_total", "Connections that broke, or whose peer took nothing for too long.";
    connections_revoked: "cairn_connections_revoked_total", "Connections cut off because their key was revoked.";
    tls_failures: "cairn_tls_failures_total", "TLS handshakes that failed.";
    pushes: "cairn_pushes_total", "Messages that were sent to sessions unasked.";
}

#[derive(Debug, Default)]
struct RequestCounters {
    served: Counter,
    failed: Counter,
    nanoseconds: Counter,
}

macro_rules! request_kinds {
    ($($kind:ident: $pattern:pat, $name:literal;)*) => {
        /// Kinds of requests, as they are told apart in the metrics.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum RequestKind { $($kind,)* }

        impl RequestKind {
            const ALL: [(RequestKind, &'static str); [$($name),*].len()] = [$((RequestKind::$kind, $name)),*];

            pub fn of(request: &Request) -> Self {
                match request { $($pattern => RequestKind::$kind,)* }
            }
        }
    };
}

request_kinds! {
    Renew: Request::Renew, "renew";
    Room: Request::Reserve { .. } | Request::GiveBack { .. } | Request::Numbers { .. }, "room";
    Leases: Request::ReturnLeases(_) | Request::CloseFiles(_), "leases";
    Reclaim: Request::Reclaim { .. }, "reclaim";
    Query: Request::Query(_), "query";
    Call: Request::Call { .. }, "call";
    Journal: Request::Journal { .. }, "journal";
    Sync: Request::Sync, "sync";
    Locks: Request::TestLock(_) | Request::SetLock { .. } | Request::CancelLock { .. } | Request::Unlock { .. }, "locks";
    PutBlobs: Request::PutBlobs(_), "put_blobs";
    ReadBlobs: Request::ReadBlobs(_), "read_blobs";
    ReportDamage: Request::ReportDamage { .. }, "report_damage";
    LocateBlobs: Request::LocateBlobs(_) | Request::OpenPack { .. }, "locate_blobs";
    Admin: Request::Admin(_), "admin";
    Goodbye: Request::Goodbye, "goodbye";
}

impl Counters {
    /// Notes a request that was answered after `duration`, waiting included.
    pub fn count_request(&self, kind: RequestKind, duration: Duration, failed: bool) {
        if let Some(counters) = self.requests.get(kind as usize) {
            counters.served.add(1);
            counters.failed.add(u64::from(failed));
            counters.nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn requests(&self) -> impl Iterator<Item = (&'static str, &RequestCounters)> {
        RequestKind::ALL.iter().zip(&self.requests).map(|((_, name), counters)| (*name, counters))
    }

    /// Name and value of each, for the server's status.
    pub fn snapshot(&self) -> Vec<(String, u64)> {
        let plain = self.plain().map(|(name, _, value)| (name.to_owned(), value));
        let requests =
            self.requests().filter(|(_, counters)| counters.served.value() > 0).flat_map(|(kind, counters)| {
                [
                    (format!("cairn_requests_total{{kind=\"{kind}\"}}"), counters.served.value()),
                    (format!("cairn_requests_failed_total{{kind=\"{kind}\"}}"), counters.failed.value()),
                    (
                        format!("cairn_request_microseconds_total{{kind=\"{kind}\"}}"),
                        counters.nanoseconds.value() / 1000,
                    ),
                ]
            });
        plain.chain(requests).collect()
    }
}

/// What the metrics page tells besides the counters: how things are at this moment.
#[derive(Debug, Default)]
pub struct Gauges {
    pub uptime: Duration,
    pub memory_bytes: u64,
    pub connections: usize,
    pub volumes: Vec<VolumeGauges>,
}

/// One volume's part of [`Gauges`].
#[derive(Debug)]
pub struct VolumeGauges {
    pub status: VolumeStatus,
    pub sessions: usize,
    /// Name and value of each counter of the volume's engine.
    pub counters: Vec<(String, u64)>,
}

/// Everything in Prometheus' text format, version 0.0.4.
pub fn prometheus_text(counters: &Counters, gauges: &Gauges) -> String {
    let mut page = Page::default();
    for (name, help, value) in counters.plain() {
        page.family(name, help, "counter", [(String::new(), value.to_string())]);
    }
    let of_requests = |value: fn(&RequestCounters) -> String| -> Vec<(String, String)> {
        counters.requests().map(|(kind, counters)| (format!("{{kind=\"{kind}\"}}"), value(counters))).collect()
    };
    let served = of_requests(|counters| counters.served.value().to_string());
    page.family("cairn_requests_total", "Requests that were answered.", "counter", served);
    let failed = of_requests(|counters| counters.failed.value().to_string());
    page.family("cairn_requests_failed_total", "Requests that were answered with an error.", "counter", failed);
    let seconds = of_requests(|counters| (counters.nanoseconds.value() as f64 / 1e9).to_string());
    page.family("cairn_request_seconds_total", "Time until requests were answered.", "counter", seconds);
    let mut gauge = |name: &str, help: &str, value: String| page.family(name, help, "gauge", [(String::new(), value)]);
    gauge("cairn_uptime_seconds", "Time since the server started.", gauges.uptime.as_secs_f64().to_string());
    gauge("cairn_memory_bytes", "Memory that the server's process takes.", gauges.memory_bytes.to_string());
    gauge("cairn_connections", "Connections that are open.", gauges.connections.to_string());
    volume_families(&mut page, &gauges.volumes);
    page.0
}

fn volume_families(page: &mut Page, volumes: &[VolumeGauges]) {
    type Value = fn(&VolumeGauges) -> u64;
    let labels = |volume: &VolumeGauges| {
        let info = &volume.status.info;
        format!("{{volume=\"{}\",name=\"{}\"}}", info.id, escaped(&info.name))
    };
    let families: [(&str, &str, Value); 10] = [
        ("cairn_volume_bytes_used", "Logical bytes in use.", |volume| volume.status.usage.bytes_used),
        ("cairn_volume_bytes_limit", "Most logical bytes.", |volume| volume.status.usage.bytes_limit),
        ("cairn_volume_inodes_used", "Nodes in use.", |volume| volume.status.usage.inodes_used),
        ("cairn_volume_inodes_limit", "Most nodes.", |volume| volume.status.usage.inodes_limit),
        ("cairn_volume_stored_bytes", "Bytes that the packs take on disk.", |volume| volume.status.usage.bytes_stored),
        ("cairn_volume_metadata_bytes", "Bytes that the metadata take on disk.", |volume| {
            volume.status.usage.bytes_metadata
        }),
        ("cairn_volume_disk_free_bytes", "Bytes that are free on the disk.", |volume| volume.status.usage.disk_free),
        ("cairn_volume_sessions", "Sessions of mounts, connected or not.", |volume| volume.sessions as u64),
        ("cairn_volume_trouble", "1 if something is wrong with the volume.", |volume| {
            u64::from(!volume.status.trouble.is_empty())
        }),
        ("cairn_volume_created_seconds", "When the volume was made, in seconds since 1970.", |volume| {
            u64::try_from(volume.status.info.created).unwrap_or(0)
        }),
    ];
    for (name, help, value) in families {
        page.family(name, help, "gauge", volumes.iter().map(|volume| (labels(volume), value(volume).to_string())));
    }
    let profiles = volumes.iter().map(|volume| {
        let info = &volume.status.info;
        let profile = escaped(&info.profile);
        (format!("{{volume=\"{}\",name=\"{}\",profile=\"{profile}\"}}", info.id, escaped(&info.name)), "1".to_owned())
    });
    page.family("cairn_volume_profile", "Always 1; the label says what the volume emulates.", "gauge", profiles);
    let mut names: Vec<&str> =
        volumes.iter().flat_map(|volume| volume.counters.iter().map(|(name, _)| name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let samples = volumes.iter().filter_map(|volume| {
            let (_, value) = volume.counters.iter().find(|(other, _)| other == name)?;
            Some((labels(volume), value.to_string()))
        });
        page.family(&format!("cairn_engine_{name}_total"), "Counted by the volume's engine.", "counter", samples);
    }
}

/// A page being written.
#[derive(Default)]
struct Page(String);

impl Page {
    /// One metric with all its samples: labels in braces (or nothing) and value of each.
    fn family(&mut self, name: &str, help: &str, kind: &str, samples: impl IntoIterator<Item = (String, String)>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(self.0, "{name}{labels} {value}");
        }
    }
}

/// A label's value as it must stand between quotes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_request_has_its_own_place() {
        for (index, (kind, _)) in RequestKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
        let counters = Counters::default();
        counters.count_request(RequestKind::Sync, Duration::from_millis(1500), true);
        let text = prometheus_text(&counters, &Gauges::default());
        assert!(text.contains("cairn_requests_total{kind=\"sync\"} 1\n"), "{text}");
        assert!(text.contains("cairn_request_seconds_total{kind=\"sync\"} 1.5\n"), "{text}");
        assert!(text.contains("cairn_requests_failed_total{kind=\"query\"} 0\n"), "{text}");
    }

    #[test]
    fn names_of_volumes_cannot_break_the_page() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
