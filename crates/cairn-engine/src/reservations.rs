//! Requests about room under the volume's limits, and asking sessions to give back what they do not use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_locks::Mutex;
use cairn_types::{Errno, SessionId};
use cairn_wire::Push;
use cairn_wire::message::{Answer, Failure};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::committer::Kind;
use crate::lock_order;
use crate::quota::Space;
use crate::{Inner, Reply};

/// Longest time to wait for room to be given back.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who waits for room, and when it was last asked for.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    given_back: Notify,
    /// Counts what was given back, so that nobody waits for what has happened already.
    count: AtomicU64,
    last_asked: Mutex<Option<(Instant, u64)>, lock_order::RoomAsked>,
}

impl Reservations {
    /// Room has become free.
    pub(crate) fn freed(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.given_back.notify_waiters();
    }
}

impl Inner {
    pub(crate) async fn reserve(self: &Arc<Self>, session: SessionId, needed: Space, wanted: Space) -> Reply {
        let mut asked = false;
        loop {
            let inner = Arc::clone(self);
            let reserved = self.committer.submit(Kind::Normal, move |round| {
                if !inner.sessions.is_live(session) {
                    return Err(Errno::ESTALE);
                }
                let mut fill = round.fill();
                let fits_volume = round.ledger.quota.fits(needed, fill);
                // Room that the disk does not have cannot be promised either.
                fill.limit.bytes = fill.limit.bytes.min(fill.used.bytes.saturating_add(inner.disk.available()));
                let no_disk = needed.inodes > 0 && inner.disk.is_full();
                let granted = if no_disk { None } else { round.ledger.quota.reserve(session, needed, wanted, fill) };
                Ok((granted, round.ledger.quota.anything_reserved(), fits_volume))
            });
            match reserved.await?? {
                (Some(Space { bytes, inodes }), ..) => return Ok((Answer::Reserved { bytes, inodes }, Vec::new())),
                (None, true, _) if !asked => {
                    self.ask_for_space().await;
                    asked = true;
                }
                (None, _, true) => {
                    let message = "the server's disk is full".to_owned();
                    return Err(Failure { errno: Errno::ENOSPC, message });
                }
                (None, ..) => {
                    let message = "the volume has too little room left".to_owned();
                    return Err(Failure { errno: Errno::EDQUOT, message });
                }
            }
        }
    }

    pub(crate) async fn give_back(self: &Arc<Self>, session: SessionId, room: Space) -> Reply {
        let inner = Arc::clone(self);
        let outcome = self.committer.submit(Kind::Normal, move |round| {
            round.ledger.quota.give_back(session, room);
            inner.reservations.freed();
        });
        outcome.await?;
        Ok((Answer::Done, Vec::new()))
    }

    /// Asks all sessions for room that they do not need and waits until somebody gave some back, or a moment. Sessions
    /// that are gone for too long lose what they have set aside.
    pub(crate) async fn ask_for_space(&self) {
        let before = self.reservations.count.load(Ordering::Acquire);
        let mut ended = false;
        for session in self.sessions.all() {
            if self.sessions.is_expired(&session) {
                self.fence(session.id, "it was silent for too long and has set room aside that others need");
                ended = true;
            }
        }
        {
            let mut last = self.reservations.last_asked.lock();
            let in_vain = last.is_some_and(|(asked, count)| asked.elapsed() < PATIENCE && count == before);
            // A full volume must not make every write wait.
            if in_vain && !ended {
                return;
            }
            *last = Some((Instant::now(), before));
        }
        self.sessions.push_to_all(&Push::GiveBackRoom);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let given_back = self.reservations.given_back.notified();
            if self.reservations.count.load(Ordering::Acquire) != before {
                return;
            }
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if timeout(left, given_back).await.is_err() {
                return;
            }
        }
    }
}
