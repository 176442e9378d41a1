//! The end of a session: in good order, by fencing, or because nobody came back.
//!
//! From the moment a session counts as ended, nothing more of it is accepted. Its leases, locks and open files go at once,
//! what the store keeps for it (nameless files, its row) with the next round; others go on without waiting for that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cairn_types::SessionId;
use cairn_wire::Push;

use crate::Inner;
use crate::committer::Kind;
use crate::sessions::Stage;

impl Inner {
    /// Stops honouring a session that keeps others waiting. What it has buffered can no longer be written.
    pub(crate) fn fence(&self, session: SessionId, reason: &str) {
        let Some(found) = self.sessions.get(session) else { return };
        if found.set_stage(Stage::Ended) {
            tracing::warn!(volume = %self.id, %session, mount = found.name(), reason, "session fenced");
            self.counters.sessions_fenced.add(1);
            found.push(Push::Fenced);
            found.cut();
            self.end(session);
        }
    }

    /// Ends a session that is over for all concerned. `false` if it had ended before.
    pub(crate) fn finish(&self, session: SessionId, reason: &str) -> bool {
        let Some(found) = self.sessions.get(session) else { return false };
        if !found.set_stage(Stage::Ended) {
            return false;
        }
        tracing::info!(volume = %self.id, %session, mount = found.name(), reason, "session ended");
        self.counters.sessions_ended.add(1);
        self.end(session);
        true
    }

    /// Takes from an ended session all that it had.
    fn end(&self, session: SessionId) {
        self.sessions.remove(session);
        self.locks.remove_session(session);
        self.open_files.remove_session(session);
        self.leases.with(|table| table.remove_session(session));
        self.restart.session_ended(session);
        let Some(inner) = self.weak.upgrade() else { return };
        let ending = Arc::clone(&inner);
        // Nobody waits for this: if it fails, the volume takes no more changes anyway, and the next start does it.
        drop(inner.committer.queue(Kind::Early, move |round| {
            round.ledger.quota.remove(session);
            round.ledger.recent.remove(&session);
            ending.reservations.freed();
            let removed = round.batch.remove_session(session);
            if round.answer(removed).is_ok() {
                ending.deleted.store(true, Ordering::Release);
                ending.maintenance.free(ending.blobs.take_owned(session));
            }
        }));
    }

    /// The control connection of a session is gone. If that is because its process on this machine was killed, the session
    /// ends as soon as the process has: nobody has to wait for its leases to expire.
    pub(crate) fn watch_for_end(self: &Arc<Self>, session: SessionId) {
        /// The kernel closes the connections of a process a little before the process counts as ended.
        const LOOK_AGAIN: Duration = Duration::from_millis(10);
        let Some(process) = self.sessions.get(session).and_then(|found| found.process()) else { return };
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let deadline = Instant::now() + inner.options.lease_ttl;
            while Instant::now() < deadline && !inner.closing.load(Ordering::Acquire) {
                let Some(found) = inner.sessions.get(session) else { return };
                if found.is_connected() {
                    return;
                }
                // After a restart of the server, what it has sent again is still to be applied.
                if process.is_gone() && (found.is_live() || !inner.restart.has_told_all(session)) {
                    inner.finish(session, "its process has ended");
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        });
    }

    /// Ends sessions that were silent for so long that nobody expects them back.
    pub(crate) fn sweep_sessions(&self) {
        for session in self.sessions.all() {
            if session.is_live() && self.sessions.silence(&session) > self.options.abandoned_after() {
                self.fence(session.id, "it was silent for so long that it is not expected back");
            }
        }
    }
}
