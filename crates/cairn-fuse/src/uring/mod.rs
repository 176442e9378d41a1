//! FUSE over io_uring (Linux 6.14): requests come and answers go through rings, on the CPU of whoever asks.
//!
//! The kernel has one queue for each possible CPU, and asks nothing until each has a slot. A thread for each CPU that this
//! process may use serves that CPU's queue; the queues of other CPUs are spread over these threads. Answers from
//! elsewhere go back through `returns`, because only the thread that gave a slot to the kernel may do so again.
//!
//! Everything that may be refused is taken before the kernel is promised anything ([`Rings::prepare`]); what it refuses
//! afterwards makes it fall back to the classic queue by itself. Forgets and interrupts always come through the latter.
//!
//! Memory: a slot takes 1 MiB and a page of address space. Those that were used last, as many as every queue has from the start,
//! keep what they touched: at most [`KEPT_BYTES`], or 1 MiB a CPU where that is more. Others give it back.

mod cpus;
mod returns;
mod ring;
mod slot;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use cairn_client::api::FileSystem;

pub(crate) use self::returns::Returns;
use self::ring::{Plan, Ring};
use self::slot::CAPACITY;
pub(crate) use self::slot::Slot;
use crate::answer::MountContext;
use crate::device::Device;
use crate::service::Service;

/// Memory of slots that a mount may keep, in bytes: two streams of read-ahead on each of four CPUs.
const KEPT_BYTES: usize = 64 * 1024 * 1024;

/// Most slots of a queue at the start, of 1 MiB each: what 4 MiB of read-ahead has under way, twice.
const SLOTS: usize = 8;

/// How long a thread may take to be ready, or to give its slots to the kernel. Neither waits for anything but this machine.
const START_LIMIT: Duration = Duration::from_secs(10);

/// What a prepared thread needs to begin.
struct Start<F> {
    service: Arc<Service<F>>,
    device: Device,
    /// Dropped at the end of the thread.
    end: Arc<dyn Send + Sync>,
    registered: Sender<io::Result<()>>,
}

/// Threads with their rings and slots, which wait for the mount to begin. Dropping them ends them.
pub(crate) struct Rings<F> {
    threads: Vec<Sender<Start<F>>>,
    kept_bytes: usize,
}

impl<F: FileSystem> Rings<F> {
    /// # Errors
    /// Whatever the system refuses: rings (often in containers), threads or memory.
    pub(crate) fn prepare(shared: &Arc<MountContext>) -> io::Result<Self> {
        let plans = plan(cpus::possible()?, &cpus::allowed());
        let kept = plans.iter().filter(|plan| plan.cpu.is_some()).flat_map(|plan| &plan.queues);
        let kept_bytes = kept.map(|queue| queue.1).sum::<usize>() * CAPACITY;
        let (ready, readiness) = mpsc::channel();
        let mut threads = Vec::new();
        for (number, plan) in plans.into_iter().enumerate() {
            let (start, started) = mpsc::channel();
            let (ready, shared) = (ready.clone(), Arc::clone(shared));
            let thread = std::thread::Builder::new().name(format!("fuse-ring-{number}"));
            thread.spawn(move || run(&plan, shared, &ready, &started))?;
            threads.push(start);
        }
        for _ in &threads {
            wait_for(&readiness)?;
        }
        Ok(Rings { threads, kept_bytes })
    }

    /// Begins to serve a mount for which `FUSE_OVER_IO_URING` was agreed on. `end` is dropped as each thread ends.
    ///
    /// # Errors
    /// The kernel has refused a ring, and serves the mount through the classic queue from now on.
    pub(crate) fn start(
        self,
        service: &Arc<Service<F>>,
        end: &Arc<impl Send + Sync + 'static>,
        mut device: impl FnMut() -> io::Result<Device>,
    ) -> io::Result<()> {
        let (registered, registrations) = mpsc::channel();
        for thread in &self.threads {
            let end: Arc<dyn Send + Sync> = Arc::clone(end) as _;
            let start = Start { service: Arc::clone(service), device: device()?, end, registered: registered.clone() };
            thread.send(start).map_err(|_| io::Error::other("a thread has ended"))?;
        }
        self.threads.iter().try_for_each(|_| wait_for(&registrations))
    }

    /// What a user may want to know of the rings.
    pub(crate) fn describe(&self) -> String {
        let mib = self.kept_bytes / (1024 * 1024);
        format!("{} threads, up to {mib} MiB of buffers kept", self.threads.len())
    }
}

fn wait_for(outcomes: &Receiver<io::Result<()>>) -> io::Result<()> {
    outcomes.recv_timeout(START_LIMIT).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Spreads `possible` queues over threads for the CPUs that are `allowed`.
fn plan(possible: u16, allowed: &[u16]) -> Vec<Plan> {
    let own: Vec<u16> = allowed.iter().copied().filter(|&cpu| cpu < possible).collect();
    let slots = (KEPT_BYTES / CAPACITY / own.len().max(1)).clamp(1, SLOTS);
    let mut plans: Vec<Plan> = own.iter().map(|&cpu| Plan { cpu: Some(cpu), queues: vec![(cpu, slots)] }).collect();
    if plans.is_empty() {
        plans.push(Plan { cpu: None, queues: Vec::new() });
    }
    let count = plans.len();
    let others = (0..possible).filter(|cpu| !own.contains(cpu));
    for (position, cpu) in others.enumerate() {
        if let Some(plan) = plans.get_mut(position % count) {
            plan.queues.push((cpu, 1));
        }
    }
    plans
}

/// A thread's life: get ready, wait for the mount, serve it.
fn run<F: FileSystem>(
    plan: &Plan,
    shared: Arc<MountContext>,
    ready: &Sender<io::Result<()>>,
    started: &Receiver<Start<F>>,
) {
    if let Some(cpu) = plan.cpu {
        cpus::pin(cpu);
    }
    let runtime = shared.runtime.clone();
    let ring = Returns::new(shared).and_then(|returns| Ring::new(plan, Arc::new(returns)));
    // Nobody listens if another thread has failed; then no start comes either.
    let mut ring = match ring {
        Ok(ring) => {
            let _ = ready.send(Ok(()));
            ring
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    let Ok(Start { service, device, end, registered }) = started.recv() else { return };
    let outcome = ring.register(&device);
    let usable = outcome.is_ok();
    let _ = registered.send(outcome);
    if usable {
        let _context = runtime.enter();
        ring.serve(&service, &device);
    }
    drop(ring);
    drop(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_is_served_once_whatever_cpus_may_be_used() {
        for (possible, allowed) in [(2, vec![0, 1]), (8, vec![3]), (128, vec![0, 5, 127]), (4, vec![]), (2, vec![7])] {
            let plans = plan(possible, &allowed);
            let mut queues: Vec<u16> = plans.iter().flat_map(|plan| &plan.queues).map(|queue| queue.0).collect();
            queues.sort_unstable();
            assert_eq!(queues, (0..possible).collect::<Vec<_>>());
            assert!(plans.iter().flat_map(|plan| &plan.queues).all(|queue| queue.1 >= 1));
        }
    }

    #[test]
    fn kept_memory_has_a_limit() {
        for cpus in [1, 2, 8, 9, 64, 300] {
            let allowed: Vec<u16> = (0..cpus).collect();
            let slots: usize = plan(cpus, &allowed).iter().flat_map(|plan| &plan.queues).map(|queue| queue.1).sum();
            assert!(slots * CAPACITY <= KEPT_BYTES.max(usize::from(cpus) * CAPACITY));
        }
    }
}
