//! From a request to the part that serves it; letting sessions in.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::{Errno, SessionId};
use cairn_wire::handshake::{ClientInfo, Resume, SessionSecret, SessionWelcome};
use cairn_wire::message::{Answer, Failure};
use cairn_wire::{Push, Refusal, RefusalKind, Request};

use crate::committer::Kind;
use crate::leases::RecallOrder;
use crate::quota::Space;
use crate::restart::Reclaim;
use crate::sessions::{Session, Sessions, Stage};
use crate::{AttachmentId, Inner, PushSender, Reply, usage};

/// A session that has taken leave keeps its connection for so long, so that it gets its answer.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most numbers of one kind in one answer.
const NUMBERS_MAX: u32 = 1 << 20;

fn done() -> Reply {
    Ok((Answer::Done, Vec::new()))
}

fn gone() -> Failure {
    Failure { errno: Errno::ESTALE, message: "this session was ended by the server".to_owned() }
}

fn refusal(kind: RefusalKind, message: impl Into<String>) -> Refusal {
    Refusal { kind, message: message.into() }
}

impl Inner {
    /// Serves one request. Nothing is awaited before work is queued whose order matters.
    pub(crate) async fn dispatch(
        self: &Arc<Self>,
        id: SessionId,
        correlation: u64,
        request: Request,
        bulk: Bytes,
    ) -> Reply {
        let Some(session) = self.sessions.get(id) else { return Err(gone()) };
        if self.closing.load(Ordering::Acquire) {
            return Err(Failure { errno: Errno::ESHUTDOWN, message: self.closing_because() });
        }
        self.sessions.heard(&session);
        match request {
            Request::Renew => Ok((Answer::Renewed { durable_order: self.durable_order() }, Vec::new())),
            Request::Reclaim { leases, open, locks, replay, complete } => {
                self.reclaim(id, Reclaim { leases, open, locks, replay, complete }).await
            }
            Request::PutBlobs(headers) => self.put_blobs(id, headers, bulk).await,
            Request::ReadBlobs(ranges) => self.read_blobs(ranges).await,
            Request::LocateBlobs(ranges) => self.locate_blobs(ranges).await,
            Request::ReportDamage { blob, offset } => self.look_into_damage(id, blob, offset).await,
            Request::Goodbye => self.take_leave(session).await,
            Request::Admin(_) => Err(Errno::EPERM.into()),
            other => self.dispatch_normal(&session, correlation, other).await,
        }
    }

    /// Requests that wait until sessions from before the start had their time to come back. Those that go to the
    /// committer wait there, in order.
    async fn dispatch_normal(self: &Arc<Self>, session: &Arc<Session>, correlation: u64, request: Request) -> Reply {
        let id = session.id;
        match request {
            Request::Call { token, acked_below, op } => return self.call(id, token, acked_below, op).await,
            Request::Journal { first, ops } => return self.journal(id, first, ops).await,
            Request::GiveBack { bytes, inodes } => return self.give_back(id, Space { bytes, inodes }).await,
            Request::Reserve { bytes_needed, bytes_wanted, inodes_needed, inodes_wanted } => {
                let needed = Space { bytes: bytes_needed, inodes: inodes_needed };
                let wanted = Space { bytes: bytes_wanted, inodes: inodes_wanted };
                return self.reserve(id, needed, wanted).await;
            }
            Request::Numbers { inos, blobs } => {
                let (inos, blobs) = (inos.min(NUMBERS_MAX), blobs.min(NUMBERS_MAX));
                let numbers = self.committer.submit(Kind::Normal, move |round| {
                    (round.batch.allocate_inos(u64::from(inos)), round.batch.allocate_blobs(u64::from(blobs)))
                });
                let (first_ino, first_blob) = numbers.await?;
                return Ok((Answer::Numbers { first_ino, first_blob }, Vec::new()));
            }
            Request::Sync => {
                self.committer.submit(Kind::Flush, |_| ()).await?;
                return Ok((Answer::Durable { order: self.durable_order() }, Vec::new()));
            }
            _ => {}
        }
        if !self.restart.is_over() {
            self.restart.wait().await;
        }
        if !session.is_live() {
            return Err(gone());
        }
        match request {
            Request::ReturnLeases(returns) => {
                self.take_back(id, &returns);
                done()
            }
            Request::CloseFiles(files) => {
                self.close_files(id, &files);
                done()
            }
            Request::Query(query) => self.query(id, query).await,
            Request::TestLock(lock) => self.test_lock(id, &lock),
            Request::SetLock { lock, wait } => self.set_lock(id, correlation, lock, wait).await,
            Request::CancelLock { correlation } => self.cancel_lock(id, correlation),
            Request::Unlock { ino, owner, family, range } => self.unlock(id, ino, owner, family, range),
            _ => Err(Errno::EINVAL.into()),
        }
    }

    async fn take_leave(self: &Arc<Self>, session: Arc<Session>) -> Reply {
        if self.finish(session.id, "unmounted") {
            // Waits for the round that forgets it.
            self.committer.submit(Kind::Early, |_| ()).await?;
        }
        tokio::spawn(async move {
            tokio::time::sleep(FAREWELL).await;
            session.cut();
        });
        done()
    }

    pub(crate) async fn attach(
        self: &Arc<Self>,
        info: ClientInfo,
        peer: String,
        resume: Option<Resume>,
        pushes: PushSender,
    ) -> Result<(SessionWelcome, AttachmentId), Refusal> {
        if self.closing.load(Ordering::Acquire) {
            return Err(refusal(RefusalKind::Busy, self.closing_because()));
        }
        match resume {
            Some(resume) => self.resume(info, peer, resume, pushes).await,
            None => self.begin(info, peer, pushes).await,
        }
    }

    async fn begin(
        self: &Arc<Self>,
        info: ClientInfo,
        peer: String,
        pushes: PushSender,
    ) -> Result<(SessionWelcome, AttachmentId), Refusal> {
        let secret = SessionSecret(rand::random());
        let inner = Arc::clone(self);
        let (about, from) = (info.clone(), peer.clone());
        let begun = self.committer.submit(Kind::Durable, move |round| {
            let id = round.batch.create_session(Sessions::describe(&secret, &about, &from));
            inner.leases.with(|table| table.add_session(id));
            inner.sessions.begin(id, &secret, about, from)
        });
        let session = begun.await.map_err(|failure| refusal(RefusalKind::Busy, failure.message))?;
        self.counters.sessions_begun.add(1);
        tracing::info!(volume = %self.id, session = %session.id, client = session.name(), peer, "session begun");
        let attachment = self.sessions.attach(&session, info, peer, pushes);
        Ok((self.welcome(&session, secret, true, 0), attachment))
    }

    async fn resume(
        self: &Arc<Self>,
        info: ClientInfo,
        peer: String,
        resume: Resume,
        pushes: PushSender,
    ) -> Result<(SessionWelcome, AttachmentId), Refusal> {
        let session = self.find_session(resume.session, resume.secret)?;
        let id = session.id;
        let description = Sessions::describe(&resume.secret, &info, &peer);
        let resumed = self.committer.submit(Kind::Early, move |round| {
            let resumed = round.batch.resume_session(id, description);
            round.must(resumed)?;
            let applied = round.batch.journal_sequence(id);
            round.must(applied)
        });
        let applied = resumed.await.map_err(|failure| refusal(RefusalKind::Busy, failure.message))?;
        let Ok(Some(journal_applied)) = applied else { return Err(session_gone()) };
        let stage = session.stage();
        if stage == Stage::Ended {
            return Err(session_gone());
        }
        if stage == Stage::Returning {
            self.restart.begin_again(id);
        }
        let attachment = self.sessions.attach(&session, info, peer, pushes);
        // What was sent over the old connection may not have arrived.
        for RecallOrder { ino, leave, stamp, .. } in self.leases.with(|table| table.outstanding(id)) {
            session.push(Push::Recall { ino, leave, stamp });
        }
        self.counters.sessions_resumed.add(1);
        tracing::info!(volume = %self.id, session = %id, client = session.name(), ?stage, "session is back");
        Ok((self.welcome(&session, resume.secret, stage == Stage::Live, journal_applied), attachment))
    }

    fn welcome(
        &self,
        session: &Session,
        secret: SessionSecret,
        state_kept: bool,
        journal_applied: u64,
    ) -> SessionWelcome {
        SessionWelcome {
            session: session.id,
            secret,
            volume: usage::info(self),
            lease_ttl_ms: self.options.lease_ttl.as_millis() as u64,
            state_kept,
            journal_applied,
            durable_order: self.durable_order(),
        }
    }

    fn find_session(&self, id: SessionId, secret: SessionSecret) -> Result<Arc<Session>, Refusal> {
        let session = self.sessions.get(id).ok_or_else(session_gone)?;
        if session.knows(&secret) {
            Ok(session)
        } else {
            Err(refusal(RefusalKind::NotAllowed, "the session belongs to somebody else"))
        }
    }

    pub(crate) fn check_data_connection(&self, id: SessionId, secret: SessionSecret) -> Result<(), Refusal> {
        let session = self.find_session(id, secret)?;
        self.sessions.heard(&session);
        Ok(())
    }
}

fn session_gone() -> Refusal {
    refusal(
        RefusalKind::SessionGone,
        "the server has ended this session: what it had not written yet is lost to the volume",
    )
}
