//! Peers that speak nonsense, too much or too slowly are cut off, and nobody else notices.

use std::time::{Duration, Instant};

use crate::support::{Client, PATIENCE, TestServer, errno_of, hello, mount_of, new_volume};
use bytes::Bytes;
use cairn_wire::{FrameKind, FrameWriter, Hello, Purpose, RefusalKind, Request};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Waits until the server has closed the connection; how does not matter.
async fn expect_cut(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server cuts it off");
}

#[tokio::test]
async fn nonsense_is_cut_off() {
    let server = TestServer::start().await;
    for nonsense in [b"GET / HTTP/1.1\r\nHost: cairn\r\nAccept: */*\r\n\r\n".as_slice(), &[0; 64], &[0xff; 2000]] {
        let mut stream = server.tcp().await;
        stream.write_all(nonsense).await.expect("sent");
        expect_cut(stream).await;
    }
    assert_eq!(server.counter("cairn_connections_nonsense_total").await, 3);
    server.stop().await;
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_cut_off_before_it_is_read() {
    let server = TestServer::start().await;
    // Before the greeting, 64 KiB is the most, and no bulk.
    let mut stream = server.tcp().await;
    let too_long = Hello { software: "x".repeat(70_000), ..hello(Purpose::Admin) };
    let _ = FrameWriter::new(&mut stream).write(FrameKind::Hello, 0, &too_long, &[]).await;
    expect_cut(stream).await;
    // After it, two of the largest blobs.
    let mut header = b"CRN1\x03\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0".to_vec();
    header.extend((u32::MAX).to_le_bytes());
    header.extend([0; 4]);
    let mut stream = server.unix().await;
    FrameWriter::new(&mut stream).write(FrameKind::Hello, 0, &hello(Purpose::Admin), &[]).await.expect("sent");
    stream.write_all(&header).await.expect("sent");
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the server cuts it off");
    assert_eq!(server.counter("cairn_connections_nonsense_total").await, 2);
    server.stop().await;
}

#[tokio::test]
async fn slow_peers_are_cut_off_and_idle_ones_are_not() {
    let server = TestServer::start().await;
    let mut idle = server.admin().await;
    let begin = Instant::now();
    // Says nothing; says it a byte at a time; stops in the middle of a request.
    let silent = server.tcp().await;
    let mut dripping = server.tcp().await;
    let mut stuck = server.unix().await;
    FrameWriter::new(&mut stuck).write(FrameKind::Hello, 0, &hello(Purpose::Admin), &[]).await.expect("sent");
    stuck.write_all(b"CRN1\x03").await.expect("sent");
    let drip = tokio::spawn(async move {
        for byte in b"CRN1\x01\0\0\0\0\0\0\0\0\0\0\0\xff\0\0\0".iter().cycle() {
            if dripping.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stuck.read_to_end(&mut rest)).await.expect("the server cuts it off");
    expect_cut(silent).await;
    timeout(PATIENCE, drip).await.expect("the server cuts it off").expect("drip");
    assert!(begin.elapsed() >= Duration::from_millis(500));
    idle.list().await;
    assert_eq!(server.counter("cairn_connections_too_slow_total").await, 3);
    server.stop().await;
}

#[tokio::test]
async fn whoever_has_not_identified_himself_gets_few_connections() {
    let server = TestServer::start_with(|config| {
        config.limits.greeting_per_peer = 3;
        config.limits.handshake = Duration::from_secs(60);
    })
    .await;
    let silent = [server.tcp().await, server.tcp().await, server.tcp().await];
    // Accepting is in order, so the three have their places when this one is turned away.
    let mut fourth = Client::new(server.tcp().await);
    let reply: cairn_wire::handshake::HelloReply = fourth.frame().await.expect("told why").decode().expect("decoded");
    assert_eq!(reply.expect_err("refused").kind, RefusalKind::Busy);
    // The Unix socket is not concerned, and places come back.
    let (key, _) = server.admin().await.make_key(cairn_wire::admin::KeyScopeRequest::Admin).await;
    drop(silent);
    let begin = Instant::now();
    while server.with_key(&key, Purpose::Admin).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "places come back");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_takes_no_answers_is_cut_off() {
    let server = TestServer::start_with(|config| config.limits.write_stall = Duration::from_millis(300)).await;
    let mut greedy = server.admin().await;
    let flood = async {
        let request = Request::Admin(cairn_wire::admin::AdminRequest::Status);
        // Never reads an answer: its socket fills up, then the server's, then it is cut off.
        for number in 0.. {
            if greedy.writer.write(FrameKind::Request, number, &request, &[]).await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, flood).await.expect("the server cuts it off");
    assert_eq!(server.counter("cairn_connections_lost_total").await, 1);
    server.stop().await;
}

#[tokio::test]
async fn requests_that_a_connection_is_not_for_are_refused_and_do_not_end_it() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    admin.make_volume("v").await;
    assert!(admin.ask(Request::Sync, &[]).await.is_err());
    let (mut mount, _) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    let outcome = mount.ask(Request::Admin(new_volume("w")), &[]).await;
    assert_eq!(errno_of(outcome), cairn_types::Errno::EPERM);
    let range = cairn_wire::message::BlobRange { blob: cairn_types::BlobId(1), offset: 0, length: 1 };
    let outcome = mount.ask(Request::ReadBlobs(vec![range; 5000]), &[]).await;
    assert_eq!(errno_of(outcome), cairn_types::Errno::EINVAL);
    mount.ask(Request::Renew, &[]).await.expect("still served");
    assert_eq!(admin.list().await.len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_hello_in_place_of_a_request_ends_the_connection() {
    let server = TestServer::start().await;
    let mut client = server.admin().await;
    client.writer.write(FrameKind::Hello, 0, &hello(Purpose::Admin), &[]).await.expect("sent");
    client.expect_end().await;
    server.stop().await;
}

/// What a fuzzing peer does once it is let in.
#[derive(Clone, Debug)]
enum Move {
    /// Raw bytes.
    Bytes(Vec<u8>),
    /// A frame that is well formed, of any kind, whose message is arbitrary.
    Frame(u8, u64, Vec<u8>, Vec<u8>),
}

fn any_move() -> impl Strategy<Value = Move> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    prop_oneof![
        1 => bytes(200).prop_map(Move::Bytes),
        4 => (1u8..=5, any::<u64>(), bytes(120), bytes(60))
            .prop_map(|(kind, number, message, bulk)| Move::Frame(kind, number, message, bulk)),
    ]
}

/// A frame around bytes that are no encoded message of ours.
fn raw_frame(kind: u8, correlation: u64, message: &[u8], bulk: &[u8]) -> Vec<u8> {
    let mut bytes = b"CRN1".to_vec();
    bytes.extend([kind, 0, 0, 0]);
    bytes.extend(correlation.to_le_bytes());
    bytes.extend((message.len() as u32).to_le_bytes());
    bytes.extend((bulk.len() as u32).to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes), message);
    bytes.extend(sum.to_le_bytes());
    bytes.extend(message);
    bytes.extend(bulk);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Whatever arrives on whichever kind of connection, the server goes on serving others.
    #[test]
    fn arbitrary_frames_harm_nobody(peers in prop::collection::vec((0u8..3, prop::collection::vec(any_move(), 1..8)), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let server = TestServer::start().await;
            let mut witness = server.admin().await;
            witness.make_volume("v").await;
            for (kind, moves) in peers {
                let mut stream = server.unix().await;
                let greeting = match kind {
                    0 => None,
                    1 => Some(hello(Purpose::Admin)),
                    _ => Some(hello(mount_of("v"))),
                };
                if let Some(greeting) = greeting {
                    FrameWriter::new(&mut stream).write(FrameKind::Hello, 0, &greeting, &[]).await.expect("sent");
                }
                for step in moves {
                    let bytes = match step {
                        Move::Bytes(bytes) => bytes,
                        Move::Frame(kind, number, message, bulk) => raw_frame(kind, number, &message, &bulk),
                    };
                    if stream.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                let _ = stream.write_all(&Bytes::from_static(b"CRN1")).await;
                drop(stream);
                assert_eq!(witness.list().await.len(), 1);
            }
            server.stop().await;
        });
    }
}
