//! What time alone brings about: renewals, deadlines, expiry, and the end of patience.
//!
//! One task looks around several times in each lease's life; requests need no timers of their own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_types::Errno;
use cairn_wire::Request;

use super::Inner;
use super::clock::Moment;
use super::pending::Phase;
use crate::error::{Error, ErrorKind};

/// The interval of looking around is a twelfth of a lease's life, within these bounds.
const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_millis(500);
/// With more changes than this not durable, the server is asked to make them so.
const REPLAY_MAX: usize = 20_000;

impl Inner {
    /// Task: looks around until the session is closed.
    pub(super) async fn keep_up(self: Arc<Self>) {
        loop {
            let tick = (self.clock.time_to_live() / 12).clamp(TICK_MIN, TICK_MAX);
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                () = self.closed() => return,
            }
            self.look_around();
        }
    }

    fn look_around(&self) {
        let now = Moment::now();
        self.notice_expiry();
        let (phase, lost_at) = {
            let state = self.state.lock();
            (state.phase, state.lost_at)
        };
        match phase {
            Phase::Connected => {
                self.renew_in_time(now);
                self.notice_dead_connection(now);
                self.end_overdue_waits(now);
            }
            Phase::Reconnecting if lost_at.elapsed() > self.options.give_up_after => {
                self.give_up(&format!("the server could not be reached for {:?}", self.options.give_up_after));
            }
            Phase::Reconnecting | Phase::GaveUp | Phase::Closed => {}
        }
    }

    fn notice_expiry(&self) {
        if self.clock.left().is_some() {
            self.expiry_reported.store(false, Ordering::Release);
        } else if !self.expiry_reported.swap(true, Ordering::AcqRel) {
            tracing::warn!("no contact with the server within the lease time; nothing is answered from cache");
            if let Some(events) = self.events() {
                events.expired();
            }
        }
    }

    fn renew_in_time(&self, now: Moment) {
        let (renewing, syncing, not_durable) = {
            let state = self.state.lock();
            let pending = |wanted: fn(&Request) -> bool| state.pending.values().any(|entry| wanted(&entry.request));
            (
                pending(|request| matches!(request, Request::Renew)),
                pending(|request| matches!(request, Request::Sync)),
                state.replay.len(),
            )
        };
        let due = now.since(self.clock.renewed_at()) >= self.clock.time_to_live() / 3;
        if due && !renewing && !self.errands.lock().iter().any(|errand| matches!(errand, Request::Renew)) {
            self.run_errand(Request::Renew);
        }
        if not_durable > REPLAY_MAX && !syncing {
            self.run_errand(Request::Sync);
        }
    }

    /// A renewal is answered at once by a server that lives, so half a lease without a word means that nobody is there.
    fn notice_dead_connection(&self, now: Moment) {
        let limit = self.clock.time_to_live() / 2;
        let heard = Moment(self.heard_at.load(Ordering::Relaxed));
        let unanswered = self.state.lock().pending.values().any(|pending| {
            matches!(&*pending.request, Request::Renew)
                && pending.sent.is_some_and(|sent| now.since(sent) > limit && heard < sent)
        });
        let writing = self.writing_since.load(Ordering::Relaxed);
        let stuck = writing != 0 && now.since(Moment(writing)) > self.clock.time_to_live();
        if unanswered || stuck {
            tracing::debug!(unanswered, stuck, "the connection to the server is dead");
            self.breaker.lock().trip();
        }
    }

    /// The request stays pending, because the server may still act on it; its caller does not wait any longer.
    fn end_overdue_waits(&self, now: Moment) {
        let limit = self.answer_limit();
        let late = Error::new(ErrorKind::TimedOut, Errno::ETIMEDOUT);
        let mut overdue = Vec::new();
        {
            let mut state = self.state.lock();
            for pending in state.pending.values_mut() {
                // Who waits for a journal has a limit of his own; the one who sends it must know how it ends.
                let waits_for_ever =
                    matches!(&*pending.request, Request::SetLock { wait: true, .. } | Request::Journal { .. });
                if !waits_for_ever && pending.sent.is_some_and(|sent| now.since(sent) > limit) {
                    let error = pending.unanswered(&late);
                    overdue.extend(pending.reply.take().map(|reply| (reply, error)));
                }
            }
        }
        if !overdue.is_empty() {
            tracing::error!(requests = overdue.len(), "the server did not answer within {limit:?}");
        }
        for (reply, error) in overdue {
            // A caller that no longer waits is no error.
            let _ = reply.send(Err(error));
        }
    }
}
