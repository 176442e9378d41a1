//! Waiting for leases: sends recalls, waits for their answers, and gives up on holders whose time is over.
//!
//! The table decides (`leases`); here is everything about it that takes time. No lock is held while anything waits. Each
//! wait for a holder ends at that holder's deadline: then its session is fenced and the request looks again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::{Errno, Ino, SessionId};
use cairn_wire::Push;
use cairn_wire::message::{Failure, Grant, LeaseReturn};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Inner;
use crate::leases::{Block, RecallOrder, Table, Ticket, Verdict, Want};
use crate::lock_order;

/// Most leases of one session. Beyond it the oldest are recalled. A lease takes some 200 bytes here.
const LEASES_MAX: usize = 200_000;
/// A request that waits for another request looks again after this time, whatever happens.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The table, and who waits for which of its nodes.
#[derive(Debug)]
pub(crate) struct Leases {
    guarded: Mutex<Guarded, lock_order::Leases>,
    next_ticket: AtomicU64,
}

#[derive(Debug)]
struct Guarded {
    table: Table,
    waiting: HashMap<Ino, Vec<oneshot::Sender<()>>>,
}

/// A wait that has not begun.
#[derive(Debug)]
pub(crate) struct Blocked {
    pub(crate) recalls: Vec<RecallOrder>,
    pub(crate) holders: Vec<(SessionId, Instant)>,
    pub(crate) changed: oneshot::Receiver<()>,
}

/// A request's place in the queue; given up when dropped.
#[derive(Debug)]
pub(crate) struct TicketGuard<'a> {
    leases: &'a Leases,
    pub(crate) ticket: Ticket,
    /// The table knows of it.
    used: bool,
}

impl TicketGuard<'_> {
    pub(crate) fn mark_used(&mut self) {
        self.used = true;
    }
}

impl Drop for TicketGuard<'_> {
    fn drop(&mut self) {
        if self.used {
            let ticket = self.ticket;
            self.leases.with(|table| table.release_ticket(ticket));
        }
    }
}

impl Leases {
    /// `stamp`: larger than every stamp that an earlier run of the server has given.
    pub(crate) fn new(stamp: u64) -> Self {
        let guarded = Guarded { table: Table::new(stamp), waiting: HashMap::new() };
        Leases { guarded: Mutex::new(guarded), next_ticket: AtomicU64::new(1) }
    }

    pub(crate) fn ticket(&self) -> TicketGuard<'_> {
        let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        TicketGuard { leases: self, ticket, used: false }
    }

    /// Does something with the table and wakes those for whom it matters.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        let mut guarded = self.guarded.lock();
        let outcome = act(&mut guarded.table);
        guarded.wake();
        outcome
    }

    /// As [`Leases::with`]; if the outcome is a block, whoever waits for it misses no change.
    pub(crate) fn try_with<T>(&self, act: impl FnOnce(&mut Table) -> Result<T, Block>) -> Result<T, Blocked> {
        let mut guarded = self.guarded.lock();
        let outcome = act(&mut guarded.table);
        guarded.wake();
        outcome.map_err(|Block { ino, recalls, holders }| {
            let (wake, changed) = oneshot::channel();
            let waiting = guarded.waiting.entry(ino).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push(wake);
            Blocked { recalls, holders, changed }
        })
    }
}

impl Guarded {
    fn wake(&mut self) {
        for ino in self.table.take_changed() {
            for waiter in self.waiting.remove(&ino).unwrap_or_default() {
                // Whoever went away meanwhile needs no waking.
                let _ = waiter.send(());
            }
        }
    }
}

impl Inner {
    /// Gets a lease for `session`, recalling those of others. `None` if what is read holds for this moment only; else
    /// the grant, and whether it is new.
    pub(crate) async fn acquire(
        &self,
        session: SessionId,
        ino: Ino,
        want: Want,
    ) -> Result<Option<(Grant, bool)>, Failure> {
        let mut ticket = self.leases.ticket();
        loop {
            let verdict =
                self.leases.try_with(|table| match table.acquire(session, ino, want, ticket.ticket, Instant::now()) {
                    Verdict::Granted { grant, fresh } => Ok(Some((grant, fresh))),
                    Verdict::Momentary => Ok(None),
                    Verdict::Blocked(block) => Err(block),
                });
            match verdict {
                Ok(granted) => return Ok(granted),
                Err(blocked) => {
                    ticket.mark_used();
                    self.wait_for(blocked).await;
                    if !self.sessions.is_live(session) {
                        return Err(Errno::ESTALE.into());
                    }
                }
            }
        }
    }

    /// Sends the recalls of a block and waits until it is worth looking again.
    pub(crate) async fn wait_for(&self, blocked: Blocked) {
        let Blocked { recalls, holders, mut changed } = blocked;
        self.send_recalls(&recalls);
        loop {
            let deadline = holders.iter().map(|(session, since)| self.sessions.recall_deadline(*session, *since)).min();
            let time = deadline.map_or(LOOK_AGAIN, |deadline| deadline.saturating_duration_since(Instant::now()));
            if timeout(time, &mut changed).await.is_ok() || holders.is_empty() {
                return;
            }
            let mut fenced = false;
            for (session, since) in &holders {
                if self.sessions.recall_deadline(*session, *since) <= Instant::now() {
                    self.counters.recalls_timed_out.add(1);
                    self.fence(*session, "it did not answer a recall in time");
                    fenced = true;
                }
            }
            if fenced {
                return;
            }
        }
    }

    pub(crate) fn send_recalls(&self, recalls: &[RecallOrder]) {
        for &RecallOrder { session, ino, leave, stamp } in recalls {
            self.counters.recalls_sent.add(1);
            if let Some(session) = self.sessions.get(session) {
                tracing::debug!(session = %session.id, %ino, ?leave, stamp, "recalling a lease");
                session.push(Push::Recall { ino, leave, stamp });
            }
        }
    }

    /// A session gives leases back.
    pub(crate) fn take_back(&self, session: SessionId, returns: &[LeaseReturn]) {
        for returned in returns {
            // First: whoever is woken by the return must know that the file is open.
            if returned.open {
                self.open_files.declare(session, returned.ino);
            }
            if self.leases.with(|table| table.give_back(session, returned)) {
                self.counters.recalls_answered.add(1);
            }
        }
    }

    /// Keeps the number of a session's leases bounded.
    pub(crate) fn trim_leases(&self, session: SessionId) {
        let recalls = self.leases.with(|table| table.trim(session, LEASES_MAX, Instant::now()));
        self.counters.leases_trimmed.add(recalls.len() as u64);
        self.send_recalls(&recalls);
    }
}
