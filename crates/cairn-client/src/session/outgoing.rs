//! The sending side of the control connection.
//!
//! One asynchronous lock guards numbering and writing together, so frames leave in the order of their numbers, and the
//! caller writes its own frame: an uncontended request costs one system call and no hand-over. A request is registered
//! as pending before it is written; without a connection it is only registered and leaves with the next one.
//!
//! Errands (returned leases and the like, for which nobody waits) are queued without waiting and leave before whatever
//! request comes next, in the order they were queued.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_types::{Errno, MetaOp};
use cairn_wire::message::{Answer, BlobHeader};
use cairn_wire::{FrameError, FrameKind, Request};
use tokio::sync::oneshot;

use super::Inner;
use super::breaker::{Breaker, TripOnDrop};
use super::clock::Moment;
use super::pending::Pending;
use crate::connect::Writer;
use crate::error::{Error, ErrorKind, FsResult};

/// The writing half of a connection, with the switch that ends it.
pub(super) struct ControlLink {
    pub(super) writer: Writer,
    pub(super) breaker: Arc<Breaker>,
}

/// The link, if there is one, and the next number of each kind.
pub(super) struct Outgoing {
    pub(super) link: Option<ControlLink>,
    pub(super) next_correlation: u64,
    pub(super) next_token: u64,
    pub(super) next_journal: u64,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Outgoing { link: None, next_correlation: 1, next_token: 1, next_journal: 1 }
    }
}

/// A request before it has its numbers.
pub(super) enum Draft {
    Plain(Request),
    Call(MetaOp),
    /// Few bytes, ahead of the changes that refer to them.
    Blobs {
        headers: Vec<BlobHeader>,
        bytes: Vec<Bytes>,
        generation: u64,
    },
    /// `generation` is that of the session for which the changes were made.
    Journal {
        ops: Vec<MetaOp>,
        generation: u64,
    },
}

/// A request on its way.
pub(super) struct Ticket {
    pub(super) correlation: u64,
    pub(super) answer: oneshot::Receiver<FsResult<Answer>>,
}

impl Ticket {
    pub(super) async fn wait(self) -> FsResult<Answer> {
        // Whatever removes a pending request answers it; a dropped sender means the runtime is going down.
        self.answer.await.unwrap_or(Err(Error::new(ErrorKind::OutcomeUnknown, Errno::EIO)))
    }
}

impl Inner {
    /// Sends a request and waits for its answer.
    pub(super) async fn request(&self, draft: Draft) -> FsResult<Answer> {
        let ticket = {
            let mut outgoing = self.outgoing.lock().await;
            self.send_errands(&mut outgoing).await;
            let ticket = self.register(&mut outgoing, draft)?;
            self.write(&mut outgoing, ticket.correlation).await;
            ticket
        };
        ticket.wait().await
    }

    /// As [`Inner::request`] for several that are sent without a pause, in this order, none of them waited for.
    pub(super) async fn request_pipelined<const COUNT: usize>(
        &self,
        drafts: [Option<Draft>; COUNT],
    ) -> [Option<FsResult<Ticket>>; COUNT] {
        let mut outgoing = self.outgoing.lock().await;
        self.send_errands(&mut outgoing).await;
        // All are registered before the first is written: none is lost if this future is dropped half way.
        let tickets = drafts.map(|draft| draft.map(|draft| self.register(&mut outgoing, draft)));
        for ticket in tickets.iter().flatten().flatten() {
            self.write(&mut outgoing, ticket.correlation).await;
        }
        tickets
    }

    /// Numbers a request and enters it as pending.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] once the server stayed away too long, [`ErrorKind::Closed`] after closing,
    /// [`ErrorKind::Fenced`] for a journal of a session that is over.
    pub(super) fn register(&self, outgoing: &mut Outgoing, draft: Draft) -> FsResult<Ticket> {
        let mut state = self.state.lock();
        // Buffered changes wait for the server however long it takes, but only for the session that they belong to.
        let buffered_under = match &draft {
            Draft::Journal { generation, .. } | Draft::Blobs { generation, .. } => Some(*generation),
            Draft::Plain(_) | Draft::Call(_) => None,
        };
        if let Some(error) = state.refuses()
            && (buffered_under.is_none() || error.kind() != ErrorKind::Unreachable)
        {
            return Err(error);
        }
        if buffered_under.is_some_and(|generation| generation != self.generation()) {
            return Err(Error::FENCED);
        }
        let mut bulk = Vec::new();
        let request = match draft {
            Draft::Plain(request) => request,
            Draft::Call(op) => {
                let token = outgoing.next_token;
                outgoing.next_token += 1;
                let acked_below = state.tokens.first().copied().unwrap_or(token);
                Request::Call { token, acked_below, op }
            }
            Draft::Blobs { headers, bytes, .. } => {
                bulk = bytes;
                Request::PutBlobs(headers)
            }
            Draft::Journal { ops, .. } => {
                let first = outgoing.next_journal;
                outgoing.next_journal += ops.len() as u64;
                Request::Journal { first, ops }
            }
        };
        let (reply, answer) = oneshot::channel();
        let correlation = outgoing.next_correlation;
        outgoing.next_correlation += 1;
        let pending = Pending { request: Arc::new(request), bulk, reply: Some(reply), sent: None, ever_sent: false };
        state.insert(correlation, pending);
        Ok(Ticket { correlation, answer })
    }

    /// Writes a pending request to the connection, if there is one. Problems are not the caller's: the request stays
    /// pending and is sent again, or is answered with an error.
    pub(super) async fn write(&self, outgoing: &mut Outgoing, correlation: u64) {
        let Some(link) = &mut outgoing.link else { return };
        let (request, bulk) = {
            let mut state = self.state.lock();
            let Some(pending) = state.pending.get_mut(&correlation) else { return };
            pending.sent = Some(Moment::now());
            pending.ever_sent = true;
            (Arc::clone(&pending.request), pending.bulk.clone())
        };
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        self.writing_since.store(Moment::now().0, Ordering::Relaxed);
        let guard = TripOnDrop::new(&link.breaker);
        let written = tokio::select! {
            biased;
            written = link.writer.write(FrameKind::Request, correlation, &*request, &bulk) => written,
            () = link.breaker.tripped() => Err(FrameError::Closed),
        };
        self.writing_since.store(0, Ordering::Relaxed);
        match written {
            Ok(()) => guard.disarm(),
            Err(error @ (FrameError::Codec(_) | FrameError::TooLarge { .. })) => {
                guard.disarm();
                tracing::error!(%error, "a request cannot be sent");
                self.withdraw(outgoing, correlation, error);
            }
            Err(error) => {
                tracing::debug!(%error, "writing to the server failed");
                drop(guard);
                outgoing.link = None;
            }
        }
    }

    /// Takes back a request that was registered last and cannot be encoded.
    fn withdraw(&self, outgoing: &mut Outgoing, correlation: u64, error: FrameError) {
        let Some(pending) = self.state.lock().remove(correlation) else { return };
        if let Request::Journal { first, ops } = &*pending.request
            && outgoing.next_journal == first + ops.len() as u64
        {
            outgoing.next_journal = *first;
        }
        pending
            .answer(Err(Error::from(Errno::EIO).because("the request cannot be sent to the server").caused_by(error)));
    }

    /// Queues a request for which nobody waits.
    pub(super) fn run_errand(&self, request: Request) {
        self.errands.lock().push_back(request);
        self.errand_queued.notify_one();
    }

    /// Sends what [`Inner::run_errand`] has queued.
    pub(super) async fn send_errands(&self, outgoing: &mut Outgoing) {
        let correlations: Vec<u64> = {
            let mut errands = self.errands.lock();
            if errands.is_empty() {
                return;
            }
            // All are registered before the first is written: none is lost if this future is dropped half way.
            let mut state = self.state.lock();
            errands
                .drain(..)
                .map(|request| {
                    let correlation = outgoing.next_correlation;
                    outgoing.next_correlation += 1;
                    let request = Arc::new(request);
                    let pending = Pending { request, bulk: Vec::new(), reply: None, sent: None, ever_sent: false };
                    state.insert(correlation, pending);
                    correlation
                })
                .collect()
        };
        for correlation in correlations {
            self.write(outgoing, correlation).await;
        }
    }

    /// Task: sends errands when no request comes along to take them.
    pub(super) async fn deliver_errands(self: Arc<Self>) {
        while !self.is_closed() {
            self.errand_queued.notified().await;
            let mut outgoing = self.outgoing.lock().await;
            self.send_errands(&mut outgoing).await;
        }
    }
}
