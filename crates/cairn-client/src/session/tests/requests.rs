//! Exactly once, in order, in time.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use cairn_types::{BlobId, Errno, Ino, LeaseMode};
use cairn_wire::message::{Answer, LeaseReturn, QueryAnswer, Usage};
use cairn_wire::{Push, Query, QueryReply, RefusalKind, Request};

use super::fake::{Event, FakeServer, Script, change, soon, until};
use crate::error::{Error, ErrorKind};
use crate::session::{ConnectError, Session};

fn usage() -> Answer {
    Answer::Query(QueryReply { answer: QueryAnswer::Usage(Usage::default()), grants: vec![] })
}

#[tokio::test]
async fn a_call_is_sent_again_with_its_token() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.call(change(7)).await }
    });
    let (_, first) = peer.request().await;
    assert_eq!(first, Request::Call { token: 1, acked_below: 1, op: change(7) });
    drop(peer);

    let mut peer = server.welcome(Script::default()).await;
    assert_eq!(peer.resumed().map(|session| session.0), Some(1));
    let (number, again) = peer.request().await;
    assert_eq!(again, first);
    peer.applied(number, 1, 1).await;
    soon(caller).await.expect("task").expect("applied");

    let next = tokio::spawn(async move { session.call(change(8)).await });
    let (_, request) = peer.request().await;
    assert_eq!(request, Request::Call { token: 2, acked_below: 2, op: change(8) });
    next.abort();
}

#[tokio::test]
async fn a_call_whose_caller_went_away_is_sent_again_too() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.call(change(7)).await }
    });
    let (_, first) = peer.request().await;
    caller.abort();
    assert!(caller.await.expect_err("aborted").is_cancelled());
    drop(peer);
    let mut peer = server.welcome(Script::default()).await;
    assert_eq!(peer.request().await.1, first);
}

#[tokio::test]
async fn journal_batches_keep_their_order_and_numbers_across_connections() {
    let server = FakeServer::new();
    let (session, mut peer, _) =
        server.open(server.options(), Script { journal_applied: 40, ..Script::default() }).await;
    let mut writers = Vec::new();
    for batch in [vec![change(1), change(2)], vec![change(3)], vec![change(4), change(5), change(6)]] {
        let session = session.clone();
        writers.push(tokio::spawn(async move { session.journal(batch, session.generation()).await.0 }));
        // Let it be polled before the next one: that is the order that counts.
        tokio::task::yield_now().await;
    }
    let expected = [
        Request::Journal { first: 41, ops: vec![change(1), change(2)] },
        Request::Journal { first: 43, ops: vec![change(3)] },
        Request::Journal { first: 44, ops: vec![change(4), change(5), change(6)] },
    ];
    let (number, request) = peer.request().await;
    assert_eq!(request, expected[0]);
    peer.applied(number, 1, 2).await;
    assert_eq!(peer.request().await.1, expected[1]);
    drop(peer);

    let mut peer = server.welcome(Script { journal_applied: 43, ..Script::default() }).await;
    for (request, order) in expected[1..].iter().zip([3, 4]) {
        let (number, sent) = peer.request().await;
        assert_eq!(&sent, request);
        let Request::Journal { ops, .. } = sent else { unreachable!() };
        peer.applied(number, order, ops.len() as u64).await;
    }
    for (writer, count) in writers.into_iter().zip([2, 1, 3]) {
        let results = soon(writer).await.expect("task");
        assert_eq!(results.len(), count);
        assert!(results.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn a_failed_batch_gives_its_error_for_each_change() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let writer = tokio::spawn(async move { session.journal(vec![change(1), change(2)], session.generation()).await.0 });
    let (number, _) = peer.request().await;
    peer.fail(number, Errno::ESTALE).await;
    assert_eq!(soon(writer).await.expect("task"), [Err(Error::FENCED), Err(Error::FENCED)]);
}

#[tokio::test]
async fn errands_leave_before_the_next_request_in_their_order() {
    let server = FakeServer::new();
    let (session, mut peer, recorder) = server.open(server.options(), Script::default()).await;
    peer.push(Push::Recall { ino: Ino(5), leave: LeaseMode::None, stamp: 9 }).await;
    peer.push(Push::GiveBackRoom).await;
    until(|| recorder.events.lock().len() == 2).await;
    assert_eq!(*recorder.events.lock(), [Event::Recalled(Ino(5), LeaseMode::None, 9), Event::GiveBackRoom]);

    let back = LeaseReturn { ino: Ino(5), stamp: 9, keep: LeaseMode::None, open: true };
    session.return_leases(vec![back]);
    session.give_back(4096, 0);
    session.close_files(vec![Ino(5)]);
    let asker = tokio::spawn(async move { session.query(Query::Usage).await });
    assert_eq!(peer.request().await.1, Request::ReturnLeases(vec![back]));
    assert_eq!(peer.request().await.1, Request::GiveBack { bytes: 4096, inodes: 0 });
    assert_eq!(peer.request().await.1, Request::CloseFiles(vec![Ino(5)]));
    let (number, request) = peer.request().await;
    assert_eq!(request, Request::Query(Query::Usage));
    peer.answer(number, usage()).await;
    soon(asker).await.expect("task").expect("answered");
}

#[tokio::test]
async fn room_is_never_given_back_twice() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    session.give_back(4096, 1);
    assert_eq!(peer.request().await.1, Request::GiveBack { bytes: 4096, inodes: 1 });
    drop(peer);
    let mut peer = server.welcome(Script::default()).await;
    session.close_files(vec![Ino(3)]);
    assert_eq!(peer.request().await.1, Request::CloseFiles(vec![Ino(3)]));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for_without_end() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script { ttl_ms: 100, ..Script::default() }).await;
    let caller = tokio::spawn({
        let session = session.clone();
        async move { session.call(change(1)).await.map(|_| ()) }
    });
    let server_task = tokio::spawn(async move {
        let (number, _) = peer.request().await;
        // Renewals are answered here: the connection is alive.
        let next = peer.request().await;
        (peer, number, next)
    });
    let unknown = Error::new(ErrorKind::OutcomeUnknown, Errno::ETIMEDOUT);
    assert_eq!(soon(caller).await.expect("task"), Err(unknown));
    // The change may still happen, so it is not forgotten. (A renewal may be pending beside it for a moment.)
    until(|| session.status().pending == 1).await;
    let asker = tokio::spawn(async move { session.query(Query::Usage).await.map(|_| ()) });
    let (mut peer, late, (number, _)) = soon(server_task).await.expect("task");
    peer.applied(late, 1, 1).await;
    peer.answer(number, usage()).await;
    soon(asker).await.expect("task").expect("answered");
}

#[tokio::test]
async fn numbers_are_unique_and_fetched_ahead() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let granter = tokio::spawn(async move {
        let (mut inos, mut blobs, mut asked) = (1000, 5_000_000, 0);
        while asked < 3 {
            let (number, request) = peer.request().await;
            let Request::Numbers { inos: more_inos, blobs: more_blobs } = request else { panic!("{request:?}") };
            peer.answer(number, Answer::Numbers { first_ino: Ino(inos), first_blob: BlobId(blobs) }).await;
            inos += u64::from(more_inos);
            blobs += u64::from(more_blobs);
            asked += 1;
        }
        peer
    });
    for expected in 1000..1000 + 3000 {
        assert_eq!(session.new_ino().await, Ok(Ino(expected)));
    }
    assert_eq!(session.new_blob_ids(100).await, Ok(BlobId(5_000_000)));
    assert_eq!(session.new_blob_ids(1).await, Ok(BlobId(5_000_100)));
    soon(granter).await.expect("one for nodes, one ahead of need, one for blobs");
}

#[tokio::test]
async fn a_request_may_be_polled_on_a_foreign_thread() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let asker = session.clone();
    let mut future = Box::pin(async move { asker.query(Query::Usage).await });
    let future = std::thread::spawn(move || {
        let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Pending));
        future
    })
    .join()
    .expect("no panic outside of the runtime");
    let asker = tokio::spawn(future);
    let (number, _) = peer.request().await;
    peer.answer(number, usage()).await;
    soon(asker).await.expect("task").expect("answered");
}

#[tokio::test]
async fn closing_says_goodbye_and_fails_what_comes_later() {
    let server = FakeServer::new();
    let (session, mut peer, recorder) = server.open(server.options(), Script::default()).await;
    let closing = tokio::spawn(session.clone().close());
    let (number, request) = peer.request().await;
    assert_eq!(request, Request::Goodbye);
    peer.answer(number, Answer::Done).await;
    soon(closing).await.expect("task");
    assert!(soon(peer.reader.read()).await.is_err(), "the connection is closed");
    assert_eq!(soon(session.query(Query::Usage)).await, Err(Error::CLOSED));
    assert!(!session.leases_valid());
    until(|| Arc::strong_count(&recorder) == 1).await;
}

#[tokio::test]
async fn a_server_that_hangs_up_at_goodbye_is_not_connected_to_again() {
    let server = FakeServer::new();
    let (session, mut peer, recorder) = server.open(server.options(), Script::default()).await;
    let closing = tokio::spawn(session.close());
    assert_eq!(peer.request().await.1, Request::Goodbye);
    drop(peer);
    soon(closing).await.expect("task");
    let again = tokio::time::timeout(Duration::from_millis(200), server.accept()).await;
    assert!(again.is_err());
    assert!(recorder.events.lock().is_empty());
}

#[tokio::test]
async fn what_is_wrong_when_opening_is_said_in_a_sentence() {
    let mut server = FakeServer::new();
    let options = server.options();
    let open = || Session::open(options.clone(), |_| Arc::new(super::fake::Recorder::default()));
    let (outcome, ()) = tokio::join!(open(), async {
        // A server that starts up is waited for.
        server.accept().await.refuse(RefusalKind::Busy, "starting").await;
        server.accept().await.refuse(RefusalKind::UnknownVolume, "there is no volume \"models\"").await;
    });
    assert!(matches!(&outcome, Err(ConnectError::Refused(_))));
    assert_eq!(outcome.err().expect("refused").to_string(), "there is no volume \"models\"");
    server.vanish();
    let error = open().await.err().expect("nobody there");
    assert!(matches!(error, ConnectError::Unreachable { .. }));
    assert!(error.to_string().contains("cairn serve"), "{error}");
}

#[tokio::test]
async fn what_the_server_says_of_a_failure_reaches_the_caller() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    for (errno, kind) in [
        (Errno::EACCES, ErrorKind::Refused),
        (Errno::ENOENT, ErrorKind::NotFound),
        (Errno::EDQUOT, ErrorKind::NoSpace),
        (Errno::EAGAIN, ErrorKind::TryAgain),
        (Errno::ESTALE, ErrorKind::Fenced),
        (Errno::EIO, ErrorKind::Failed),
    ] {
        let caller = tokio::spawn({
            let session = session.clone();
            async move { session.call(change(1)).await.map(|_| ()) }
        });
        let (number, _) = peer.request().await;
        peer.fail_because(number, errno, "the disk of the server is on fire").await;
        let error = soon(caller).await.expect("task").expect_err("failed");
        assert_eq!(error, Error::new(kind, errno));
        assert_eq!(error.to_string(), "the disk of the server is on fire");
    }
}

#[tokio::test]
async fn an_answer_of_another_kind_is_an_error() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let asker = tokio::spawn(async move { session.query(Query::Usage).await.map(|_| ()) });
    let (number, _) = peer.request().await;
    peer.answer(number, Answer::Done).await;
    let error = soon(asker).await.expect("task").expect_err("unexpected");
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.sentence().is_some());
}
