//! A scripted server on a Unix socket, and a listener that records what the session tells it.

#![allow(clippy::disallowed_types, reason = "what a test notes is nested in nothing")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::{Allocation, Errno, Ino, LeaseMode, MetaOp, OpReply, SessionId, VolumeId};
use cairn_wire::admin::VolumeInfo;
use cairn_wire::handshake::{ClientInfo, HelloReply, Resume, SessionSecret, SessionWelcome, WelcomeDetail};
use cairn_wire::message::{Answer, Applied, Failure, Grant};
use cairn_wire::{
    FrameKind, FrameLimits, FrameReader, FrameWriter, Hello, Purpose, Push, Refusal, RefusalKind, Request, Response,
    Welcome,
};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::address::{ConnectOptions, ServerAddress};
use crate::session::{Held, Session, SessionEvents, SessionOptions};

/// Nothing in these tests takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

/// Waits until `holds`.
pub(super) async fn until(holds: impl Fn() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Recalled(Ino, LeaseMode, u64),
    GiveBackRoom,
    Reclaimed(Vec<Grant>),
    Fenced,
    Expired,
}

#[derive(Default)]
pub(super) struct Recorder {
    pub(super) events: Mutex<Vec<Event>>,
    pub(super) held: Mutex<Held>,
}

impl Recorder {
    pub(super) fn has(&self, event: &Event) -> bool {
        self.events.lock().contains(event)
    }
}

impl SessionEvents for Recorder {
    fn recalled(&self, ino: Ino, leave: LeaseMode, stamp: u64) {
        self.events.lock().push(Event::Recalled(ino, leave, stamp));
    }

    fn give_back_room(&self) {
        self.events.lock().push(Event::GiveBackRoom);
    }

    fn reclaiming(&self) -> Held {
        self.held.lock().clone()
    }

    fn reclaimed(&self, grants: &[Grant]) {
        self.events.lock().push(Event::Reclaimed(grants.to_vec()));
    }

    fn fenced(&self) {
        self.events.lock().push(Event::Fenced);
    }

    fn expired(&self) {
        self.events.lock().push(Event::Expired);
    }
}

/// What a scripted server says of a session.
#[derive(Clone, Copy)]
pub(super) struct Script {
    pub(super) session: u64,
    pub(super) boot: u64,
    pub(super) state_kept: bool,
    pub(super) journal_applied: u64,
    pub(super) durable_order: u64,
    pub(super) ttl_ms: u64,
}

impl Default for Script {
    fn default() -> Self {
        Script { session: 1, boot: 1, state_kept: true, journal_applied: 0, durable_order: 0, ttl_ms: 5_000 }
    }
}

pub(super) struct FakeServer {
    listener: Option<UnixListener>,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl FakeServer {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("socket");
        let listener = Some(UnixListener::bind(&path).expect("bound"));
        FakeServer { listener, path, _directory: directory }
    }

    pub(super) fn options(&self) -> SessionOptions {
        let mut connect = ConnectOptions::new(ServerAddress::Unix(self.path.clone()));
        connect.connect_timeout = Duration::from_secs(2);
        // It plays the server that sends everything.
        SessionOptions { short_circuit: false, ..SessionOptions::new(connect, "models", ClientInfo::default()) }
    }

    /// Stops listening: nobody can connect.
    pub(super) fn vanish(&mut self) {
        self.listener = None;
        std::fs::remove_file(&self.path).expect("removed");
    }

    pub(super) fn reappear(&mut self) {
        self.listener = Some(UnixListener::bind(&self.path).expect("bound again"));
    }

    /// The next connection, its introduction read.
    pub(super) async fn accept(&self) -> Peer {
        soon(async {
            let listener = self.listener.as_ref().expect("listening");
            let (read, write) = listener.accept().await.expect("accepted").0.into_split();
            let mut reader = FrameReader::new(read, FrameLimits::SESSION);
            let hello: Hello = reader.read().await.expect("hello").expect(FrameKind::Hello).expect("decoded");
            Peer { reader, writer: FrameWriter::new(write), purpose: hello.purpose }
        })
        .await
    }

    /// Accepts a session's control connection and welcomes it.
    pub(super) async fn welcome(&self, script: Script) -> Peer {
        let mut peer = self.accept().await;
        assert!(matches!(peer.purpose, Purpose::Session { .. }), "{:?}", peer.purpose);
        peer.welcome(script).await;
        peer
    }

    /// Accepts a data connection and welcomes it.
    pub(super) async fn welcome_data(&self) -> Peer {
        let mut peer = self.accept().await;
        assert!(matches!(peer.purpose, Purpose::Data { .. }), "{:?}", peer.purpose);
        peer.reply(Ok(welcome(1, WelcomeDetail::Data))).await;
        peer
    }

    /// Opens a session with the default script.
    pub(super) async fn open(&self, options: SessionOptions, script: Script) -> (Session, Peer, Arc<Recorder>) {
        let recorder = Arc::new(Recorder::default());
        let events = Arc::clone(&recorder);
        let opening = tokio::spawn(Session::open(options, move |_| events));
        let peer = self.welcome(script).await;
        let session = soon(opening).await.expect("task").expect("opened");
        (session, peer, recorder)
    }
}

fn welcome(boot_id: u64, detail: WelcomeDetail) -> Welcome {
    Welcome { version: cairn_wire::PROTOCOL_VERSION, software: "fake".into(), boot_id, detail }
}

/// The server's end of one connection. Dropping it hangs up.
pub(super) struct Peer {
    pub(super) reader: FrameReader<OwnedReadHalf>,
    writer: FrameWriter<OwnedWriteHalf>,
    pub(super) purpose: Purpose,
}

impl Peer {
    /// The session that the client wants to go on with.
    pub(super) fn resumed(&self) -> Option<SessionId> {
        match &self.purpose {
            Purpose::Session { resume, .. } => resume.map(|Resume { session, .. }| session),
            Purpose::Data { session, .. } => Some(*session),
            Purpose::Packs { .. } | Purpose::Admin => None,
        }
    }

    pub(super) async fn reply(&mut self, reply: HelloReply) {
        self.writer.write(FrameKind::Welcome, 0, &reply, &[]).await.expect("replied");
    }

    pub(super) async fn refuse(&mut self, kind: RefusalKind, message: &str) {
        self.reply(Err(Refusal { kind, message: message.into() })).await;
    }

    pub(super) async fn welcome(&mut self, script: Script) {
        let volume = VolumeInfo {
            id: VolumeId::from_entropy(7),
            name: "models".into(),
            bytes_limit: 1 << 40,
            inodes_limit: 1 << 20,
            data_center: "EU-1".into(),
            chunk_size: 1 << 22,
            created: 0,
            profile: "native".into(),
            allocation: Allocation::NATIVE,
        };
        let session = SessionWelcome {
            session: SessionId(script.session),
            secret: SessionSecret([script.session as u8; 16]),
            volume,
            lease_ttl_ms: script.ttl_ms,
            state_kept: script.state_kept,
            journal_applied: script.journal_applied,
            durable_order: script.durable_order,
        };
        self.reply(Ok(welcome(script.boot, WelcomeDetail::Session(Box::new(session))))).await;
    }

    /// The next request other than a renewal (those are answered here), with its bulk.
    pub(super) async fn request_with_bulk(&mut self) -> (u64, Request, Bytes) {
        loop {
            let frame = soon(self.reader.read()).await.expect("frame");
            match frame.expect::<Request>(FrameKind::Request).expect("request") {
                Request::Renew => self.answer(frame.correlation, Answer::Renewed { durable_order: 0 }).await,
                request => return (frame.correlation, request, frame.bulk),
            }
        }
    }

    pub(super) async fn request(&mut self) -> (u64, Request) {
        let (correlation, request, _) = self.request_with_bulk().await;
        (correlation, request)
    }

    pub(super) async fn respond(&mut self, correlation: u64, response: Response, bulk: &[Bytes]) {
        // The client may have hung up.
        let _ = self.writer.write(FrameKind::Response, correlation, &response, bulk).await;
    }

    pub(super) async fn answer(&mut self, correlation: u64, answer: Answer) {
        self.respond(correlation, Ok(answer), &[]).await;
    }

    pub(super) async fn fail(&mut self, correlation: u64, errno: Errno) {
        self.respond(correlation, Err(Failure::from(errno)), &[]).await;
    }

    pub(super) async fn fail_because(&mut self, correlation: u64, errno: Errno, message: &str) {
        self.respond(correlation, Err(Failure { errno, message: message.into() }), &[]).await;
    }

    /// Answers a call or a journal batch whose first change got `order`.
    pub(super) async fn applied(&mut self, correlation: u64, order: u64, count: u64) {
        let applied =
            (0..count).map(|index| Applied { result: Ok(OpReply::default()), order: order + index }).collect();
        self.answer(correlation, Answer::Applied { applied, grants: vec![] }).await;
    }

    pub(super) async fn push(&mut self, push: Push) {
        self.writer.write(FrameKind::Push, 0, &push, &[]).await.expect("pushed");
    }
}

/// A change that can be told from others.
pub(super) fn change(number: u64) -> MetaOp {
    MetaOp::ReleaseOrphan { ino: Ino(number) }
}
