//! Locks that are waited for, given up, and granted all the same.

use std::time::Duration;

use cairn_types::{ByteRange, Errno, FileLock, Ino, LockFamily, LockKind, LockOwner};
use cairn_wire::Request;
use cairn_wire::message::Answer;

use super::fake::{FakeServer, Script, soon};

fn lock(kind: LockKind) -> FileLock {
    let range = ByteRange { start: 0, end: u64::MAX };
    FileLock { ino: Ino(3), family: LockFamily::Posix, kind, range, owner: LockOwner(1), pid: 9 }
}

#[tokio::test]
async fn dropping_the_wait_cancels_it() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let waiter = tokio::spawn({
        let session = session.clone();
        async move { session.set_lock(lock(LockKind::Exclusive), true).await }
    });
    let (number, request) = peer.request().await;
    assert_eq!(request, Request::SetLock { lock: lock(LockKind::Exclusive), wait: true });
    waiter.abort();
    assert_eq!(peer.request().await.1, Request::CancelLock { correlation: number });
    // It was granted before the cancellation arrived: nobody would ever give it back.
    peer.answer(number, Answer::Done).await;
    let (_, request) = peer.request().await;
    assert_eq!(request, Request::SetLock { lock: lock(LockKind::Unlock), wait: false });
}

#[tokio::test]
async fn a_wait_outlives_deadlines_and_connections() {
    let server = FakeServer::new();
    let script = Script { ttl_ms: 60, ..Script::default() };
    let (session, mut peer, _) = server.open(server.options(), script).await;
    let waiter = tokio::spawn({
        let session = session.clone();
        async move { session.set_lock(lock(LockKind::Exclusive), true).await }
    });
    let (number, _) = peer.request().await;
    let silence = tokio::time::timeout(Duration::from_millis(300), peer.request()).await;
    assert!(silence.is_err(), "five lease times pass without anything but renewals");
    drop(peer);
    let mut peer = server.welcome(script).await;
    let (again, request) = peer.request().await;
    assert_eq!((again, request), (number, Request::SetLock { lock: lock(LockKind::Exclusive), wait: true }));
    peer.answer(number, Answer::Done).await;
    soon(waiter).await.expect("task").expect("granted");
}

#[tokio::test]
async fn conflicts_are_told() {
    let server = FakeServer::new();
    let (session, mut peer, _) = server.open(server.options(), Script::default()).await;
    let asker = tokio::spawn(async move {
        let conflict = session.test_lock(lock(LockKind::Exclusive)).await;
        let refused = session.set_lock(lock(LockKind::Exclusive), false).await;
        let unlocked = session.unlock(Ino(3), LockOwner(1), Some(LockFamily::Posix)).await;
        (conflict, refused, unlocked)
    });
    let (number, _) = peer.request().await;
    peer.answer(number, Answer::Lock(Some(lock(LockKind::Shared)))).await;
    let (number, _) = peer.request().await;
    peer.fail(number, Errno::EAGAIN).await;
    let (number, request) = peer.request().await;
    assert!(matches!(request, Request::Unlock { ino: Ino(3), .. }));
    peer.answer(number, Answer::Done).await;
    let outcome = soon(asker).await.expect("task");
    assert_eq!(outcome, (Ok(Some(lock(LockKind::Shared))), Err(Errno::EAGAIN.into()), Ok(())));
}
