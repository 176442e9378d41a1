//! What arrives on the control connection, handled in the order of arrival and without waiting.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_types::{FileLock, LockKind};
use cairn_wire::message::{Answer, Applied};
use cairn_wire::{Frame, FrameError, FrameKind, Push, Request, Response};

use super::Inner;
use super::clock::Moment;
use super::pending::{Pending, State};
use crate::error::Error;

/// Whether to go on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    GoOn,
    /// The server has ended the session.
    Fenced,
}

impl Inner {
    /// # Errors
    /// The peer does not keep to the protocol: the connection is of no more use.
    pub(super) fn hear(&self, frame: &Frame) -> Result<Heard, FrameError> {
        self.heard_at.store(Moment::now().0, Ordering::Relaxed);
        match frame.kind {
            FrameKind::Response => {
                self.hear_response(frame.correlation, frame.decode()?);
                Ok(Heard::GoOn)
            }
            FrameKind::Push => Ok(self.hear_push(frame.decode()?)),
            _ => Err(FrameError::UnexpectedKind),
        }
    }

    fn hear_response(&self, correlation: u64, response: Response) {
        let outcome = response.map_err(Error::from);
        let pending = {
            let mut state = self.state.lock();
            // An answer to something that was given up, when its session was fenced for example.
            let Some(pending) = state.remove(correlation) else { return };
            if let Ok(answer) = &outcome {
                learn(&mut state, &pending, answer);
            }
            pending
        };
        if outcome.is_ok()
            && let Some(sent) = pending.sent
        {
            self.clock.renew(sent);
        }
        let request = Arc::clone(&pending.request);
        let granted = outcome.is_ok();
        let delivered = pending.answer(outcome);
        if let Request::SetLock { lock, .. } = &*request
            && granted
            && !delivered
            && lock.kind != LockKind::Unlock
        {
            // Whoever asked has given up, and nobody would ever give the lock back.
            self.run_errand(Request::SetLock { lock: FileLock { kind: LockKind::Unlock, ..*lock }, wait: false });
        }
    }

    pub(super) fn hear_push(&self, push: Push) -> Heard {
        match push {
            Push::Recall { ino, leave, stamp } => {
                self.counters.recalls.fetch_add(1, Ordering::Relaxed);
                if let Some(events) = self.events() {
                    events.recalled(ino, leave, stamp);
                }
            }
            Push::GiveBackRoom => {
                if let Some(events) = self.events() {
                    events.give_back_room();
                }
            }
            Push::Durable { order } => self.state.lock().replay.durable(order),
            Push::ShuttingDown => tracing::info!("the server is going down; waiting for it to come back"),
            Push::Fenced => return Heard::Fenced,
        }
        Heard::GoOn
    }
}

/// Takes note of what an answer says about changes: applied, or durable.
fn learn(state: &mut State, pending: &Pending, answer: &Answer) {
    match answer {
        Answer::Applied { applied, .. } => {
            for (index, Applied { result, order }) in applied.iter().enumerate() {
                if result.is_ok() {
                    state.replay.record(*order, &pending.request, index);
                }
            }
        }
        Answer::Renewed { durable_order } => state.replay.durable(*durable_order),
        Answer::Durable { order } => state.replay.durable(*order),
        _ => {}
    }
}
