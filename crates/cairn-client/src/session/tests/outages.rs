//! Restarts, absences, fencing and leases that run out.

use std::time::{Duration, Instant};

use cairn_types::{Errno, Ino, LeaseMode, OpReply};
use cairn_wire::message::{Answer, Applied, Grant, OpNumber, QueryAnswer, Replay, Usage};
use cairn_wire::{Push, Query, QueryReply, RefusalKind, Request};

use super::fake::{Event, FakeServer, Peer, Script, change, soon, until};
use crate::error::{Error, ErrorKind};
use crate::session::{Held, Session};

fn usage() -> Answer {
    Answer::Query(QueryReply { answer: QueryAnswer::Usage(Usage::default()), grants: vec![] })
}

/// One call, answered with `order`.
async fn make_change(session: &Session, peer: &mut Peer, number: u64, order: u64) {
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.call(change(number)).await }
    });
    let (correlation, _) = peer.request().await;
    peer.applied(correlation, order, 1).await;
    soon(caller).await.expect("task").expect("applied");
}

#[tokio::test]
async fn a_restarted_server_is_told_everything_first() {
    let server = FakeServer::new();
    let (session, mut peer, recorder) = server.open(server.options(), Script::default()).await;
    make_change(&session, &mut peer, 1, 10).await;
    make_change(&session, &mut peer, 2, 12).await;
    let writer = tokio::spawn({
        let session = session.clone();
        async move { session.journal(vec![change(3), change(4)], session.generation()).await.0 }
    });
    let (number, _) = peer.request().await;
    peer.applied(number, 13, 2).await;
    soon(writer).await.expect("task");
    peer.push(Push::Durable { order: 10 }).await;
    until(|| session.status().not_durable == 3).await;
    *recorder.held.lock() = Held { leases: vec![(Ino(1), LeaseMode::Exclusive)], open: vec![Ino(4)], locks: vec![] };
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.call(change(5)).await }
    });
    let (_, unanswered) = peer.request().await;
    drop(peer);

    // The connection breaks while reclaiming; whatever the server then believes, all is told again.
    let restarted = Script { boot: 2, state_kept: false, durable_order: 12, ..Script::default() };
    let mut peer = server.welcome(restarted).await;
    assert!(matches!(peer.request().await.1, Request::Reclaim { .. }));
    drop(peer);
    let mut peer = server.welcome(Script { boot: 2, durable_order: 12, ..Script::default() }).await;

    let (mut leases, mut open, mut replay) = (vec![], vec![], vec![]);
    let number = loop {
        let (number, request) = peer.request().await;
        let Request::Reclaim { leases: some, open: files, replay: changes, complete, .. } = request else {
            panic!("{request:?} before the session is reclaimed")
        };
        leases.extend(some);
        open.extend(files);
        replay.extend(changes);
        if complete {
            break number;
        }
        peer.answer(number, Answer::Done).await;
    };
    assert_eq!(leases, [(Ino(1), LeaseMode::Exclusive)]);
    assert_eq!(open, [Ino(4)]);
    let expected = [(13, 1, 3), (14, 2, 4)].map(|(order, number, op)| Replay {
        order,
        number: OpNumber::Journal(number),
        op: change(op),
    });
    assert_eq!(replay, expected);
    assert!(!recorder.events.lock().iter().any(|event| matches!(event, Event::Reclaimed(_))));
    let grants = vec![Grant { ino: Ino(1), mode: LeaseMode::Exclusive, stamp: 77 }];
    let replayed = vec![
        Applied { result: Ok(OpReply::default()), order: 13 },
        Applied { result: Ok(OpReply::default()), order: 14 },
    ];
    peer.answer(number, Answer::Reclaimed { replayed, grants: grants.clone() }).await;
    let (number, request) = peer.request().await;
    assert_eq!(request, unanswered);
    assert!(recorder.has(&Event::Reclaimed(grants)));
    assert_eq!(session.status().not_durable, 2);
    peer.applied(number, 15, 1).await;
    soon(caller).await.expect("task").expect("applied");
    peer.push(Push::Durable { order: 15 }).await;
    until(|| session.status().not_durable == 0).await;
}

#[tokio::test]
async fn an_absent_server_fails_requests_after_a_while_and_is_welcome_back() {
    let mut server = FakeServer::new();
    let mut options = server.options();
    options.give_up_after = Duration::from_millis(200);
    let (session, mut peer, _) = server.open(options, Script { ttl_ms: 600, ..Script::default() }).await;
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.call(change(1)).await.map(|_| ()) }
    });
    let (_, request) = peer.request().await;
    assert!(matches!(request, Request::Call { token: 1, .. }));
    server.vanish();
    drop(peer);
    let started = Instant::now();
    let outcome = soon(caller).await.expect("task");
    let unknown = Error::new(ErrorKind::OutcomeUnknown, Errno::EIO);
    assert_eq!(outcome, Err(unknown), "it was sent, so it may have happened");
    let error = outcome.expect_err("given up");
    assert!(error.to_string().starts_with("the server could not be reached for"), "{error}");
    assert_eq!(soon(session.gave_up()).await, Error::UNREACHABLE);
    assert_eq!(session.call(change(1)).await.map(|_| ()), Err(Error::UNREACHABLE), "it was never sent");
    let writer = tokio::spawn({
        let session = session.clone();
        async move { session.journal(vec![change(2)], session.generation()).await.0 }
    });
    assert!(started.elapsed() >= Duration::from_millis(150), "not before the limit");
    let started = Instant::now();
    assert_eq!(session.query(Query::Usage).await, Err(Error::UNREACHABLE));
    assert_eq!(session.new_ino().await, Err(Error::UNREACHABLE));
    assert_eq!(session.read_blobs(vec![]).await, Ok(vec![]));
    assert!(started.elapsed() < Duration::from_millis(100), "at once from now on");
    assert!(session.status().gave_up);
    // The journal is entered before the errand.
    tokio::task::yield_now().await;
    assert!(!writer.is_finished());
    session.close_files(vec![Ino(9)]);

    server.reappear();
    let mut peer = server.welcome(Script::default()).await;
    assert_eq!(peer.resumed().map(|session| session.0), Some(1));
    let (number, request) = peer.request().await;
    assert_eq!(request, Request::Journal { first: 1, ops: vec![change(2)] }, "buffered changes wait for the server");
    peer.applied(number, 1, 1).await;
    assert_eq!(soon(writer).await.expect("task"), [Ok(OpReply::default())]);
    assert_eq!(peer.request().await.1, Request::CloseFiles(vec![Ino(9)]), "errands, too");
    until(|| session.status().connected).await;
}

#[tokio::test]
async fn a_fenced_session_is_replaced() {
    for pushed in [true, false] {
        let server = FakeServer::new();
        let (session, mut peer, recorder) = server.open(server.options(), Script::default()).await;
        let caller = tokio::spawn({
            let session = session.clone();
            async move { session.call(change(1)).await.map(|_| ()) }
        });
        let (number, _) = peer.request().await;
        let writer = tokio::spawn({
            let session = session.clone();
            async move { session.journal(vec![change(2)], session.generation()).await.0 }
        });
        let _ = peer.request().await;
        let asker = tokio::spawn({
            let session = session.clone();
            async move { session.query(Query::Usage).await.map(|_| ()) }
        });
        let _ = peer.request().await;
        if pushed {
            peer.push(Push::Fenced).await;
            peer.applied(number, 1, 1).await;
        } else {
            drop(peer);
            let mut peer = server.accept().await;
            assert!(peer.resumed().is_some());
            peer.refuse(RefusalKind::SessionGone, "fenced").await;
        }
        assert_eq!(soon(caller).await.expect("task"), Err(Error::FENCED));
        assert_eq!(soon(writer).await.expect("task"), [Err(Error::FENCED)]);
        assert!(recorder.has(&Event::Fenced));
        assert!(!session.leases_valid(), "not even if time is left");
        assert_eq!(session.generation(), 1);

        let mut peer = server.accept().await;
        assert_eq!(peer.resumed(), None, "a new session");
        peer.welcome(Script { session: 2, state_kept: false, ..Script::default() }).await;
        let (number, request) = peer.request().await;
        assert_eq!(
            request,
            Request::Query(Query::Usage),
            "a question may be asked by any session; nothing is reclaimed"
        );
        peer.answer(number, usage()).await;
        soon(asker).await.expect("task").expect("answered");
        assert!(session.leases_valid());
        let writer = tokio::spawn({
            let session = session.clone();
            async move { session.journal(vec![change(3)], session.generation()).await.0 }
        });
        assert_eq!(peer.request().await.1, Request::Journal { first: 1, ops: vec![change(3)] });
        writer.abort();
    }
}

#[tokio::test]
async fn leases_expire_without_contact_and_come_back_with_it() {
    let server = FakeServer::new();
    let script = Script { ttl_ms: 300, ..Script::default() };
    let (session, mut peer, recorder) = server.open(server.options(), script).await;
    let alive = tokio::time::timeout(Duration::from_millis(700), peer.request()).await;
    assert!(alive.is_err(), "only renewals");
    assert!(session.leases_valid(), "kept by renewals");
    assert!(!recorder.has(&Event::Expired));
    let silent = Instant::now();
    until(|| !session.leases_valid()).await;
    assert!(silent.elapsed() <= Duration::from_millis(350));
    until(|| recorder.has(&Event::Expired)).await;
    drop(peer);
    // The silent connection was given up; what was granted may still stand.
    let _peer = server.welcome(script).await;
    until(|| session.leases_valid()).await;
    assert!(!recorder.has(&Event::Fenced));
    assert_eq!(recorder.events.lock().len(), 1, "told once");
}

#[tokio::test]
async fn a_hard_refusal_ends_the_wait_at_once() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.call(change(1)).await.map(|_| ()) }
    });
    let _ = peer.request().await;
    let asker = tokio::spawn({
        let session = session.clone();
        async move { session.query(Query::Usage).await.map(|_| ()) }
    });
    let _ = peer.request().await;
    drop(peer);
    server.accept().await.refuse(RefusalKind::NotAllowed, "the key was revoked").await;
    let changed = soon(caller).await.expect("task").expect_err("given up");
    let asked = soon(asker).await.expect("task").expect_err("given up");
    assert_eq!((changed.kind(), asked.kind()), (ErrorKind::OutcomeUnknown, ErrorKind::Unreachable));
    for error in [changed, asked, session.sync().await.expect_err("refused")] {
        assert_eq!(error, Errno::EIO);
        assert_eq!(error.to_string(), "the key was revoked");
    }
}
