//! Requests of one connection begin in the order in which they were sent, and do not wait for one another.

use cairn_types::{AttrChange, Ino, LeaseMode, MetaOp, Timestamp};
use cairn_wire::message::Answer;
use cairn_wire::{FrameKind, Push, Query, Request, Response};

use crate::support::{Client, TestServer, hello, mount_of};

/// Batches of a journal that are sent without waiting for answers. A volume refuses one that comes out of turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_keeps_its_order() {
    const BATCHES: u64 = 300;
    let server = TestServer::start().await;
    server.admin().await.make_volume("v").await;
    let (mut mount, _) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    let acquire = Query::Acquire { ino: Ino::ROOT, mode: LeaseMode::Exclusive };
    mount.ask(Request::Query(acquire), &[]).await.expect("leased");
    for number in 1..=BATCHES {
        let time = Timestamp { secs: 1_700_000_000 + number as i64, nanos: 0 };
        let change = AttrChange { mtime: Some(time), ..AttrChange::default() };
        let request = Request::Journal { first: number, ops: vec![MetaOp::SetAttr { ino: Ino::ROOT, change, time }] };
        mount.writer.write(FrameKind::Request, 1000 + number, &request, &[]).await.expect("sent");
    }
    let mut orders = vec![0; BATCHES as usize];
    for _ in 0..BATCHES {
        let frame = loop {
            let frame = mount.frame().await.expect("an answer");
            if frame.kind == FrameKind::Response {
                break frame;
            }
            frame.expect::<Push>(FrameKind::Push).expect("a push");
        };
        let response: Response = frame.decode().expect("decoded");
        match response {
            Ok(Answer::Applied { applied, .. }) => {
                applied[0].result.as_ref().expect("applied");
                orders[(frame.correlation - 1001) as usize] = applied[0].order;
            }
            other => panic!("batch {}: {other:?}", frame.correlation - 1000),
        }
    }
    assert!(orders.is_sorted_by(|left, right| left < right), "{orders:?}");
    server.stop().await;
}

/// What waits holds up nothing that comes after it on the same connection.
#[tokio::test]
async fn a_request_that_waits_does_not_hold_up_the_next() {
    let server = TestServer::start().await;
    server.admin().await.make_volume("v").await;
    let (mut holder, _) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    let (mut waiter, _) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    let lock = |wait| Request::SetLock {
        lock: cairn_types::FileLock {
            ino: Ino::ROOT,
            family: cairn_types::LockFamily::Flock,
            kind: cairn_types::LockKind::Exclusive,
            range: cairn_types::ByteRange { start: 0, end: u64::MAX },
            owner: cairn_types::LockOwner(1),
            pid: 1,
        },
        wait,
    };
    holder.ask(lock(false), &[]).await.expect("locked");
    waiter.writer.write(FrameKind::Request, 77, &lock(true), &[]).await.expect("sent");
    waiter.ask(Request::Renew, &[]).await.expect("not held up");
    holder.ask(Request::Goodbye, &[]).await.expect("ended");
    let frame = loop {
        let frame = waiter.frame().await.expect("an answer");
        if frame.kind == FrameKind::Response {
            break frame;
        }
    };
    assert_eq!(frame.correlation, 77);
    frame.decode::<Response>().expect("decoded").expect("locked at last");
    // The server stops although somebody might still wait for a lock.
    let (mut last, _) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    last.writer.write(FrameKind::Request, 1, &lock(true), &[]).await.expect("sent");
    last.ask(Request::Renew, &[]).await.expect("not held up");
    server.stop().await;
}
