//! The service against a simple model, on a real server: who owns what, what is refused, what is attached, what is charged and what
//! follows from it, through any order of changes, passing time and restarts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cairn_server::{Server, ServerConfig};
use proptest::prelude::*;

use super::records::{Cloud, Desired, Hardware, VolumeTier};
use super::*;

const HOUR_MS: i64 = 3_600_000;
const GRACE_HOURS: i64 = 48;
const CENTERS: [&str; 2] = ["EU-RO-1", "US-TX-2"];
const START: Moment = Moment(1_800_000_000_000);
const ACCOUNTS: usize = 2;

fn options() -> ServiceOptions {
    ServiceOptions {
        clock: ClockSource::Still(START),
        grace: Duration::from_secs(GRACE_HOURS as u64 * 3600),
        v1_shrink: false,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create { account: usize, size_gb: u64, center: usize },
    Resize { account: usize, which: usize, size_gb: u64 },
    Delete { account: usize, which: usize },
    Deploy { account: usize, which: usize, center: Option<usize> },
    Stop { account: usize, which: usize },
    Start { account: usize, which: usize },
    Terminate { account: usize, which: usize },
    Credit { cents: i64 },
    Advance { hours: i64 },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let account = || 0..ACCOUNTS;
    let which = || 0..6_usize;
    let step = prop_oneof![
        4 => (account(), 1..5000_u64, 0..2_usize)
            .prop_map(|(account, size_gb, center)| Step::Create { account, size_gb, center }),
        2 => (account(), which(), 1..5000_u64)
            .prop_map(|(account, which, size_gb)| Step::Resize { account, which, size_gb }),
        2 => (account(), which()).prop_map(|(account, which)| Step::Delete { account, which }),
        3 => (account(), which(), proptest::option::of(0..2_usize))
            .prop_map(|(account, which, center)| Step::Deploy { account, which, center }),
        1 => (account(), which()).prop_map(|(account, which)| Step::Stop { account, which }),
        1 => (account(), which()).prop_map(|(account, which)| Step::Start { account, which }),
        2 => (account(), which()).prop_map(|(account, which)| Step::Terminate { account, which }),
        1 => (1..2000_i64).prop_map(|cents| Step::Credit { cents }),
        3 => (1..60_i64).prop_map(|hours| Step::Advance { hours }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..30)
}

#[derive(Clone, Debug)]
struct ModelVolume {
    account: usize,
    size_gb: u64,
    center: usize,
}

#[derive(Clone, Debug)]
struct ModelPod {
    account: usize,
    volume: String,
    running: bool,
}

/// Volumes and pods that ever were, in the order in which they were made; gone ones are `None`.
struct Model {
    volumes: Vec<(String, Option<ModelVolume>)>,
    pods: Vec<(String, Option<ModelPod>)>,
    /// Dollars that are left, of each account.
    balance: [f64; ACCOUNTS],
    /// Hours since the balance of the second account, which is prepaid, was used up.
    exhausted: Option<f64>,
}

const PREPAID: usize = 1;
const PREPAID_CREDIT: f64 = 10.0;

fn dollars_per_hour(size_gb: u64) -> f64 {
    let size = size_gb as f64;
    (size.min(1000.0) * 0.07 + (size - 1000.0).max(0.0) * 0.05) / 720.0
}

impl Model {
    fn rate(&self, account: usize) -> f64 {
        let own =
            self.volumes.iter().filter_map(|(_, volume)| volume.as_ref()).filter(|volume| volume.account == account);
        own.map(|volume| dollars_per_hour(volume.size_gb)).sum()
    }

    fn attached(&self, volume: &str) -> bool {
        self.pods.iter().any(|(_, pod)| pod.as_ref().is_some_and(|pod| pod.volume == volume))
    }

    fn blocked(&self, account: usize) -> bool {
        account == PREPAID && self.exhausted.is_some()
    }

    fn advance(&mut self, hours: f64) {
        self.balance[0] -= self.rate(0) * hours;
        let mut left = hours;
        if self.exhausted.is_none() {
            let rate = self.rate(PREPAID);
            let until = if rate > 0.0 { self.balance[PREPAID] / rate } else { f64::INFINITY };
            if until > left {
                self.balance[PREPAID] -= rate * left;
                return;
            }
            self.balance[PREPAID] = 0.0;
            left -= until;
            self.exhausted = Some(0.0);
            for (_, pod) in &mut self.pods {
                if let Some(pod) = pod.as_mut().filter(|pod| pod.account == PREPAID) {
                    pod.running = false;
                }
            }
        }
        let since = self.exhausted.unwrap_or(0.0);
        let charged = left.min(GRACE_HOURS as f64 - since).max(0.0);
        self.balance[PREPAID] -= self.rate(PREPAID) * charged;
        self.exhausted = Some(since + left);
        if since + left >= GRACE_HOURS as f64 {
            for (_, volume) in &mut self.volumes {
                if volume.as_ref().is_some_and(|volume| volume.account == PREPAID) {
                    *volume = None;
                }
            }
        }
    }
}

struct World {
    directory: tempfile::TempDir,
    server: Option<Server>,
    service: Option<Arc<Service>>,
    who: Vec<Principal>,
    model: Model,
}

async fn open(directory: &tempfile::TempDir) -> (Server, Arc<Service>) {
    let server = Server::start(ServerConfig::new(directory.path())).await.expect("server");
    let service = Service::open(Arc::clone(server.state()), options(), None).await.expect("service");
    (server, service)
}

fn operator(service: &Service) -> Principal {
    let key = std::fs::read_to_string(service.key_file()).expect("key file");
    service.authenticate(key.trim()).expect("operator")
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let (server, service) = open(&directory).await;
        let who = operator(&service);
        let wanted = NewAccount {
            name: "prepaid".to_owned(),
            email: String::new(),
            credit: Money::from_dollars(PREPAID_CREDIT).expect("money"),
            prepaid: true,
        };
        let (_, key) = service.create_account(&who, wanted).await.expect("account");
        let other = service.authenticate(&key).expect("owner");
        let model = Model { volumes: Vec::new(), pods: Vec::new(), balance: [0.0, PREPAID_CREDIT], exhausted: None };
        World { directory, server: Some(server), service: Some(service), who: vec![who, other], model }
    }

    fn service(&self) -> &Arc<Service> {
        self.service.as_ref().expect("open")
    }

    /// The id that a number means, and what the model has there for the account.
    fn volume(&self, account: usize, which: usize) -> (String, Option<ModelVolume>) {
        let Some((id, volume)) = self.model.volumes.get(which) else { return ("zzzzzzzzzz".to_owned(), None) };
        (id.clone(), volume.clone().filter(|volume| volume.account == account))
    }

    fn pod(&self, account: usize, which: usize) -> (String, Option<ModelPod>) {
        let Some((id, pod)) = self.model.pods.get(which) else { return ("nowhere".to_owned(), None) };
        (id.clone(), pod.clone().filter(|pod| pod.account == account))
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each step of the model")]
    async fn step(&mut self, step: Step) {
        let service = Arc::clone(self.service());
        match step {
            Step::Create { account, size_gb, center } => {
                let wanted = NewNetworkVolume {
                    name: "v".to_owned(),
                    size_gb,
                    data_center: CENTERS[center].to_owned(),
                    tier: VolumeTier::Standard,
                };
                let outcome = service.create_volume(&self.who[account], wanted).await;
                let expected = if size_gb > 4096 {
                    Err(ErrorKind::Invalid)
                } else if self.model.blocked(account) {
                    Err(ErrorKind::NoBalance)
                } else {
                    Ok(())
                };
                assert_eq!(outcome.as_ref().map(|_| ()).map_err(ServiceError::kind), expected);
                if let Ok(view) = outcome {
                    let volume = ModelVolume { account, size_gb, center };
                    self.model.volumes.push((view.id.to_string(), Some(volume)));
                }
            }
            Step::Resize { account, which, size_gb } => {
                let (id, known) = self.volume(account, which);
                let change = VolumeChange { name: None, size_gb: Some(size_gb), shrink: Shrink::Refused };
                let outcome = service.update_volume(&self.who[account], &id, change).await.map(|_| ());
                let expected = match &known {
                    _ if size_gb > 4096 => Err(ErrorKind::Invalid),
                    None => Err(ErrorKind::NotFound),
                    Some(volume) if size_gb < volume.size_gb => Err(ErrorKind::Invalid),
                    Some(volume) if size_gb > volume.size_gb && self.model.blocked(account) => {
                        Err(ErrorKind::NoBalance)
                    }
                    Some(_) => Ok(()),
                };
                assert_eq!(outcome.map_err(|error| error.kind()), expected);
                if expected.is_ok() {
                    self.model.volumes[which].1 = known.map(|volume| ModelVolume { size_gb, ..volume });
                }
            }
            Step::Delete { account, which } => {
                let (id, known) = self.volume(account, which);
                let outcome = service.delete_volume(&self.who[account], &id).await;
                let expected = match known {
                    None => Err(ErrorKind::NotFound),
                    Some(_) if self.model.attached(&id) => Err(ErrorKind::Conflict),
                    Some(_) => Ok(()),
                };
                assert_eq!(outcome.map_err(|error| error.kind()), expected);
                if expected.is_ok() {
                    self.model.volumes[which].1 = None;
                }
            }
            Step::Deploy { account, which, center } => {
                let (id, known) = self.volume(account, which);
                let wanted = NewPod {
                    name: "p".to_owned(),
                    template: None,
                    image: Some("busybox".to_owned()),
                    args: None,
                    entrypoint: None,
                    start_command: None,
                    env: BTreeMap::new(),
                    ports: None,
                    disk_gb: None,
                    volume_gb: None,
                    volume: Some(id.clone()),
                    mount_path: None,
                    data_centers: center.map(|center| CENTERS[center].to_owned()).into_iter().collect(),
                    hardware: Hardware::Cpu { flavor: "cpu3c".to_owned(), vcpu: 2 },
                    cloud: Cloud::Secure,
                    interruptible: false,
                    locked: false,
                };
                let outcome = service.create_pod(&self.who[account], wanted).await;
                let expected = match &known {
                    _ if self.model.blocked(account) => Err(ErrorKind::NoBalance),
                    None => Err(ErrorKind::NotFound),
                    Some(volume) if center.is_some_and(|center| center != volume.center) => Err(ErrorKind::Invalid),
                    Some(_) => Ok(()),
                };
                assert_eq!(outcome.as_ref().map(|_| ()).map_err(ServiceError::kind), expected);
                if let Ok(view) = outcome {
                    self.model.pods.push((view.pod.id, Some(ModelPod { account, volume: id, running: true })));
                }
            }
            Step::Stop { account, which } => {
                let (id, known) = self.pod(account, which);
                let outcome = service.stop_pod(&self.who[account], &id).await.map(|_| ());
                let expected = match known {
                    None => Err(ErrorKind::NotFound),
                    Some(pod) if !pod.running => Err(ErrorKind::Conflict),
                    Some(_) => Ok(()),
                };
                assert_eq!(outcome.map_err(|error| error.kind()), expected);
                if expected.is_ok() {
                    self.set_running(which, false);
                }
            }
            Step::Start { account, which } => {
                let (id, known) = self.pod(account, which);
                let outcome = service.start_pod(&self.who[account], &id).await.map(|_| ());
                let volume_there = |pod: &ModelPod| {
                    self.model.volumes.iter().any(|(id, volume)| *id == pod.volume && volume.is_some())
                };
                let expected = match known {
                    None => Err(ErrorKind::NotFound),
                    Some(pod) if pod.running => Err(ErrorKind::Conflict),
                    Some(_) if self.model.blocked(account) => Err(ErrorKind::NoBalance),
                    Some(pod) if !volume_there(&pod) => Err(ErrorKind::NotFound),
                    Some(_) => Ok(()),
                };
                assert_eq!(outcome.map_err(|error| error.kind()), expected);
                if expected.is_ok() {
                    self.set_running(which, true);
                }
            }
            Step::Terminate { account, which } => {
                let (id, known) = self.pod(account, which);
                let outcome = service.terminate_pod(&self.who[account], &id).await;
                assert_eq!(outcome.is_ok(), known.is_some());
                if known.is_some() {
                    self.model.pods[which].1 = None;
                }
            }
            Step::Credit { cents } => {
                let amount = Money(cents * 10_000_000);
                let account = self.who[PREPAID].account.clone();
                service.add_credit(&self.who[0], account, amount).await.expect("credit");
                self.model.balance[PREPAID] += amount.dollars();
                if self.model.balance[PREPAID] > 0.0 {
                    self.model.exhausted = None;
                }
            }
            Step::Advance { hours } => {
                service.advance_clock(&self.who[0], hours * HOUR_MS).await.expect("advanced");
                self.model.advance(hours as f64);
            }
            Step::Restart => {
                drop(service);
                self.restart().await;
            }
        }
        self.compare();
    }

    fn set_running(&mut self, which: usize, running: bool) {
        if let Some((_, Some(pod))) = self.model.pods.get_mut(which) {
            pod.running = running;
        }
    }

    async fn restart(&mut self) {
        self.service().close();
        let server = self.server.take().expect("running");
        // Whoever holds the service holds the server's parts, and with them the data directory.
        self.service = None;
        server.shutdown().await.expect("stopped");
        let (server, service) = open(&self.directory).await;
        (self.server, self.service) = (Some(server), Some(service));
    }

    fn compare(&self) {
        for (account, who) in self.who.iter().enumerate() {
            let volumes: BTreeMap<String, u64> = self
                .service()
                .volumes(who)
                .expect("listed")
                .into_iter()
                .map(|view| (view.id.to_string(), view.size_gb))
                .collect();
            let own = |volume: &Option<ModelVolume>| volume.clone().filter(|volume| volume.account == account);
            let expected: BTreeMap<String, u64> =
                self.model.volumes.iter().filter_map(|(id, volume)| Some((id.clone(), own(volume)?.size_gb))).collect();
            assert_eq!(volumes, expected);
            let pods: BTreeMap<String, bool> = self
                .service()
                .pods(who)
                .expect("listed")
                .into_iter()
                .map(|view| (view.pod.id, view.pod.desired == Desired::Running))
                .collect();
            let expected: BTreeMap<String, bool> = self
                .model
                .pods
                .iter()
                .filter_map(|(id, pod)| {
                    pod.as_ref().filter(|pod| pod.account == account).map(|pod| (id.clone(), pod.running))
                })
                .collect();
            assert_eq!(pods, expected);
            let view = self.service().me(who).expect("account");
            let (is, expected) = (view.balance.dollars(), self.model.balance[account]);
            assert!((is - expected).abs() < 1e-4, "balance of account {account}: {is}, expected {expected}");
            assert_eq!(view.account.exhausted.is_some(), self.model.blocked(account));
            let query = ChargeQuery {
                start: Some(START),
                end: Some(self.service().now().plus_ms(1)),
                bucket: BucketSize::Day,
                last: None,
                volume: None,
                aligned: true,
            };
            let charged: Money = self
                .service()
                .charges(who, &query)
                .expect("charges")
                .records
                .iter()
                .map(|record| record.standard + record.high_performance)
                .sum();
            assert_eq!(view.account.credit - charged, view.balance, "bills and balance disagree");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_service_does_as_the_model(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        runtime.block_on(async move {
            let mut world = World::new().await;
            for step in steps {
                world.step(step).await;
            }
            world.service().close();
        });
    }
}
