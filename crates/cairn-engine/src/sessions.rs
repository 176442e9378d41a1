//! The sessions of a volume: who they are, when they were last heard of, how to reach them.
//!
//! Bookkeeping alone: what a session holds is in the tables of leases, locks, open files and blobs, and ending one is
//! `ending`'s affair. A session is *live* from its beginning (or its return after a restart) until it is ended, connected
//! or not; only requests of live sessions are served.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_locks::{Mutex, RwLock};
use cairn_types::SessionId;
use cairn_wire::Push;
use cairn_wire::handshake::{ClientInfo, SessionSecret};
use serde::{Deserialize, Serialize};

use crate::lock_order;
use crate::peer_process::PeerProcess;
use crate::push::PushSender;

/// One control connection of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachmentId(u64);

/// Where a session is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Known from before the server was started; has not told yet what it holds.
    Returning = 0,
    Live = 1,
    Ended = 2,
}

/// What is stored of a session besides how far its changes went. The secret itself is not.
#[derive(Serialize, Deserialize)]
struct Description {
    secret_hash: [u8; 32],
    #[serde(flatten)]
    info: ClientInfo,
    peer: String,
    /// See [`PeerProcess::started`].
    #[serde(default)]
    process_started: Option<u64>,
}

/// Whose session it is, as its last control connection told.
#[derive(Debug)]
struct About {
    info: ClientInfo,
    peer: String,
    process: Option<PeerProcess>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    secret_hash: [u8; 32],
    about: Mutex<About, lock_order::AboutSession>,
    stage: AtomicU8,
    /// Milliseconds since the registry was made.
    heard: AtomicU64,
    attachment: Mutex<Option<(AttachmentId, PushSender)>, lock_order::Attachment>,
}

pub(crate) fn hash_secret(secret: &SessionSecret) -> [u8; 32] {
    *blake3::hash(&secret.0).as_bytes()
}

impl Session {
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Returning,
            1 => Stage::Live,
            _ => Stage::Ended,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.stage() == Stage::Live
    }

    /// `false` if it had ended before.
    pub(crate) fn set_stage(&self, stage: Stage) -> bool {
        let change = |old: u8| (old != Stage::Ended as u8).then_some(stage as u8);
        self.stage.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok()
    }

    /// Compares in constant time.
    pub(crate) fn knows(&self, secret: &SessionSecret) -> bool {
        blake3::Hash::from_bytes(self.secret_hash) == blake3::Hash::from_bytes(hash_secret(secret))
    }

    pub(crate) fn info(&self) -> ClientInfo {
        self.about.lock().info.clone()
    }

    pub(crate) fn peer(&self) -> String {
        self.about.lock().peer.clone()
    }

    /// The client, as logs call it.
    pub(crate) fn name(&self) -> String {
        self.about.lock().info.to_string()
    }

    /// The mount's process, if it is on this machine.
    pub(crate) fn process(&self) -> Option<PeerProcess> {
        self.about.lock().process
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.attachment.lock().is_some()
    }

    /// Queues a message; a connection that cannot take it is let go.
    pub(crate) fn push(&self, push: Push) {
        let mut attachment = self.attachment.lock();
        if attachment.as_ref().is_some_and(|(_, sender)| !sender.send(push)) {
            tracing::warn!(session = %self.id, "control connection is gone or takes nothing; cutting it off");
            *attachment = None;
        }
    }

    /// Lets go of the control connection.
    pub(crate) fn cut(&self) {
        self.attachment.lock().take();
    }

    fn encode(secret_hash: [u8; 32], info: &ClientInfo, peer: &str) -> Bytes {
        let description = Description {
            secret_hash,
            info: info.clone(),
            peer: peer.to_owned(),
            process_started: PeerProcess::present(peer).and_then(|process| process.started()),
        };
        // A plain structure of strings and numbers is always encoded.
        serde_json::to_vec(&description).unwrap_or_default().into()
    }
}

/// All sessions that have not ended.
#[derive(Debug)]
pub(crate) struct Sessions {
    all: RwLock<BTreeMap<SessionId, Arc<Session>>, lock_order::Sessions>,
    ttl: Duration,
    base: Instant,
    next_attachment: AtomicU64,
}

impl Sessions {
    pub(crate) fn new(ttl: Duration) -> Self {
        Sessions { all: RwLock::default(), ttl, base: Instant::now(), next_attachment: AtomicU64::new(1) }
    }

    /// What is stored of a new session.
    pub(crate) fn describe(secret: &SessionSecret, info: &ClientInfo, peer: &str) -> Bytes {
        Session::encode(hash_secret(secret), info, peer)
    }

    /// Enters a new session.
    pub(crate) fn begin(&self, id: SessionId, secret: &SessionSecret, info: ClientInfo, peer: String) -> Arc<Session> {
        let process = PeerProcess::present(&peer);
        self.enter(id, hash_secret(secret), About { info, peer, process }, Stage::Live)
    }

    /// Enters a session from before the start. `None` if it cannot come back: its process is no more, or its description
    /// makes no sense.
    pub(crate) fn recall_from_record(&self, id: SessionId, stored: &[u8]) -> Option<Arc<Session>> {
        let stored: Description = serde_json::from_slice(stored).ok()?;
        let Description { secret_hash, info, peer, process_started } = stored;
        let process = PeerProcess::noted(&peer, process_started);
        if process.is_some_and(|process| process.is_gone()) {
            return None;
        }
        Some(self.enter(id, secret_hash, About { info, peer, process }, Stage::Returning))
    }

    fn enter(&self, id: SessionId, secret_hash: [u8; 32], about: About, stage: Stage) -> Arc<Session> {
        let session = Arc::new(Session {
            id,
            secret_hash,
            about: Mutex::new(about),
            stage: AtomicU8::new(stage as u8),
            heard: AtomicU64::new(self.now()),
            attachment: Mutex::new(None),
        });
        self.all.write().insert(id, Arc::clone(&session));
        session
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.all.read().get(&id).cloned()
    }

    pub(crate) fn is_live(&self, id: SessionId) -> bool {
        self.all.read().get(&id).is_some_and(|session| session.is_live())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.all.read().values().cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.read().is_empty()
    }

    pub(crate) fn remove(&self, id: SessionId) {
        self.all.write().remove(&id);
    }

    /// Gives a session its control connection; an older one is cut. Answers the connection's number.
    pub(crate) fn attach(&self, session: &Session, info: ClientInfo, peer: String, pushes: PushSender) -> AttachmentId {
        let id = AttachmentId(self.next_attachment.fetch_add(1, Ordering::Relaxed));
        let process = PeerProcess::present(&peer);
        *session.about.lock() = About { info, peer, process };
        *session.attachment.lock() = Some((id, pushes));
        self.heard(session);
        id
    }

    /// The connection `attachment` is gone. Whether it was the session's present one.
    pub(crate) fn detach(&self, session: SessionId, attachment: AttachmentId) -> bool {
        let Some(session) = self.get(session) else { return false };
        session.attachment.lock().take_if(|(present, _)| *present == attachment).is_some()
    }

    /// Milliseconds since the registry was made.
    fn now(&self) -> u64 {
        self.base.elapsed().as_millis() as u64
    }

    /// The session has given a sign of life.
    pub(crate) fn heard(&self, session: &Session) {
        session.heard.fetch_max(self.now(), Ordering::AcqRel);
    }

    /// For how long the session has given no sign of life.
    pub(crate) fn silence(&self, session: &Session) -> Duration {
        Duration::from_millis(self.now().saturating_sub(session.heard.load(Ordering::Acquire)))
    }

    /// The session may believe in its leases no longer.
    pub(crate) fn is_expired(&self, session: &Session) -> bool {
        // A millisecond more than the time to live, because the clock counts whole ones.
        self.silence(session) > self.ttl + Duration::from_millis(1)
    }

    /// Until when a recall that was first sent at `since` may stay without an answer: as long as the session's leases
    /// live; and one that goes on renewing them gets twice that time altogether.
    pub(crate) fn recall_deadline(&self, id: SessionId, since: Instant) -> Instant {
        let Some(session) = self.get(id) else { return Instant::now() };
        let heard = self.base + Duration::from_millis(session.heard.load(Ordering::Acquire) + 2);
        (heard + self.ttl).min(since + 2 * self.ttl)
    }

    pub(crate) fn push_to_all(&self, push: &Push) {
        for session in self.all() {
            session.push(push.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_wire::handshake::ClientKind;

    use super::*;
    use crate::push::push_channel;

    fn secret(byte: u8) -> SessionSecret {
        SessionSecret([byte; 16])
    }

    #[test]
    fn a_description_comes_back_without_the_secret() {
        let sessions = Sessions::new(Duration::from_secs(1));
        let info = ClientInfo {
            host: "host".into(),
            pid: 7,
            kind: ClientKind::Mount { directory: "/mnt".into() },
            read_only: true,
        };
        let stored = Sessions::describe(&secret(5), &info, "peer");
        assert!(!stored.windows(16).any(|window| window == [5; 16]));
        let session = sessions.recall_from_record(SessionId(3), &stored).expect("readable");
        assert_eq!((session.info(), session.peer(), session.stage()), (info, "peer".to_owned(), Stage::Returning));
        assert!(session.knows(&secret(5)) && !session.knows(&secret(6)));
        assert!(sessions.recall_from_record(SessionId(4), b"nonsense").is_none());
    }

    /// Rows as they were written when every client was a mount.
    #[test]
    fn descriptions_of_older_programs_come_back() {
        let sessions = Sessions::new(Duration::from_secs(1));
        let row = |directory: &str| {
            let secret_hash = format!("{:?}", hash_secret(&secret(5)));
            format!(
                "{{\"secret_hash\":{secret_hash},\"host\":\"box\",\"pid\":7,\"directory\":\"{directory}\",\
                 \"read_only\":true,\"peer\":\"peer\",\"process_started\":null}}"
            )
        };
        for (directory, kind) in
            [("/mnt", ClientKind::Mount { directory: "/mnt".into() }), ("(export)", ClientKind::Export)]
        {
            let stored = row(directory).replace(' ', "");
            let session = sessions.recall_from_record(SessionId(3), stored.as_bytes()).expect("readable");
            let info = ClientInfo { host: "box".into(), pid: 7, kind, read_only: true };
            assert!(session.knows(&secret(5)));
            assert_eq!(Sessions::describe(&secret(5), &info, "peer"), stored, "written as ever");
            assert_eq!(session.info(), info);
        }
    }

    #[test]
    fn a_newer_connection_cuts_the_older_and_outlives_its_end() {
        let sessions = Sessions::new(Duration::from_secs(1));
        let session = sessions.begin(SessionId(1), &secret(1), ClientInfo::default(), String::new());
        let (first, mut first_end) = push_channel();
        let (second, mut second_end) = push_channel();
        let old = sessions.attach(&session, ClientInfo::default(), String::new(), first);
        sessions.attach(&session, ClientInfo::default(), String::new(), second);
        assert!(!sessions.detach(SessionId(1), old));
        session.push(Push::GiveBackRoom);
        assert_eq!(first_end.try_recv(), Err(tokio::sync::mpsc::error::TryRecvError::Disconnected));
        assert_eq!(second_end.try_recv(), Ok(Push::GiveBackRoom));
    }

    #[test]
    fn a_peer_that_takes_nothing_is_cut_off() {
        let sessions = Sessions::new(Duration::from_secs(1));
        let session = sessions.begin(SessionId(1), &secret(1), ClientInfo::default(), String::new());
        let (sender, _receiver) = push_channel();
        sessions.attach(&session, ClientInfo::default(), String::new(), sender);
        for _ in 0..40_000 {
            session.push(Push::GiveBackRoom);
        }
        assert!(!session.is_connected());
    }

    #[test]
    fn an_ended_session_stays_ended() {
        let sessions = Sessions::new(Duration::from_secs(1));
        let session = sessions.begin(SessionId(1), &secret(1), ClientInfo::default(), String::new());
        assert!(session.set_stage(Stage::Ended));
        assert!(!session.set_stage(Stage::Live));
        assert!(!session.is_live());
    }
}
