//! Blobs: verified, sent again when a connection breaks, reported when damaged.

use bytes::Bytes;
use cairn_types::{BlobId, Errno, Ino, checksum};
use cairn_wire::Request;
use cairn_wire::message::{Answer, BlobHeader, BlobPart, BlobRange};

use super::fake::{FakeServer, Peer, Script, soon};
use crate::error::{Error, ErrorKind};

fn content() -> Bytes {
    Bytes::from((0..40_000u32).map(|byte| (byte % 251) as u8).collect::<Vec<_>>())
}

const RANGE: BlobRange = BlobRange { blob: BlobId(8), offset: 100, length: 20_000 };

/// Answers a read of [`RANGE`] with two blocks, of which a byte is wrong if `damaged`.
async fn send_part(peer: &mut Peer, number: u64, damaged: bool) {
    let bytes = content().slice(..32_768);
    let part = BlobPart { offset: 0, length: 32_768, checksums: checksum::block_checksums(&bytes) };
    let mut sent = bytes.to_vec();
    if damaged {
        sent[20_000] ^= 1;
    }
    peer.respond(number, Ok(Answer::Blobs(vec![part])), &[Bytes::from(sent)]).await;
}

#[tokio::test]
async fn damage_on_the_way_is_read_again() {
    let server = FakeServer::new();
    let (session, _control, _) = server.open(server.options(), Script::default()).await;
    let reader = tokio::spawn({
        let session = session.clone();
        async move { session.read_blobs(vec![RANGE]).await }
    });
    let mut data = server.welcome_data().await;
    assert_eq!(data.resumed().map(|session| session.0), Some(1));
    for damaged in [true, false] {
        let (number, request) = data.request().await;
        assert_eq!(request, Request::ReadBlobs(vec![RANGE]));
        send_part(&mut data, number, damaged).await;
    }
    let parts = soon(reader).await.expect("task").expect("read");
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].1, content().slice(..32_768));
    assert_eq!(session.status().damaged_parts, 1);
    assert_eq!(session.status().blob_bytes_read, 32_768);
}

#[tokio::test]
async fn lasting_damage_is_an_error_and_reported() {
    let server = FakeServer::new();
    let (session, mut control, _) = server.open(server.options(), Script::default()).await;
    let reader = tokio::spawn(async move { session.read_blobs(vec![RANGE]).await });
    let mut data = server.welcome_data().await;
    for _ in 0..2 {
        let (number, _) = data.request().await;
        send_part(&mut data, number, true).await;
    }
    let error = soon(reader).await.expect("task").expect_err("damaged");
    assert_eq!(error, Error::new(ErrorKind::Damaged, Errno::EIO));
    assert!(error.to_string().contains("cairn fsck --data models"), "{error}");
    assert_eq!(control.request().await.1, Request::ReportDamage { blob: BlobId(8), offset: 16_384 });
}

#[tokio::test]
async fn an_answer_that_does_not_cover_the_range_is_an_error() {
    let server = FakeServer::new();
    let (session, _control, _) = server.open(server.options(), Script::default()).await;
    let reader = tokio::spawn(async move { session.read_blobs(vec![RANGE]).await });
    let mut data = server.welcome_data().await;
    let (number, _) = data.request().await;
    let bytes = content().slice(..16_384);
    let part = BlobPart { offset: 0, length: 16_384, checksums: checksum::block_checksums(&bytes) };
    data.respond(number, Ok(Answer::Blobs(vec![part])), &[bytes]).await;
    assert_eq!(soon(reader).await.expect("task"), Err(Errno::EIO.into()));
}

#[tokio::test]
async fn a_blob_that_is_gone_is_not_a_fault() {
    let server = FakeServer::new();
    let (session, _control, _) = server.open(server.options(), Script::default()).await;
    let reader = tokio::spawn(async move { session.read_blobs(vec![RANGE]).await });
    let mut data = server.welcome_data().await;
    let (number, _) = data.request().await;
    data.fail(number, Errno::ENOENT).await;
    assert_eq!(soon(reader).await.expect("task"), Err(Errno::ENOENT.into()));
}

#[tokio::test]
async fn a_transfer_is_made_again_on_another_connection() {
    let server = FakeServer::new();
    let (session, _control, _) = server.open(server.options(), Script::default()).await;
    let header = BlobHeader {
        blob: BlobId(8),
        ino: Ino(2),
        chunk: 0,
        length: 40_000,
        checksums: checksum::block_checksums(&content()),
        hash: checksum::blob_hash(&content()),
    };
    let writer = tokio::spawn({
        let (session, header) = (session.clone(), header.clone());
        async move { session.put_blobs(vec![header], vec![content()]).await }
    });
    let mut data = server.welcome_data().await;
    let _ = data.request_with_bulk().await;
    drop(data);
    let mut data = server.welcome_data().await;
    let (number, request, bulk) = data.request_with_bulk().await;
    assert_eq!(request, Request::PutBlobs(vec![header]));
    assert_eq!(bulk, content());
    data.answer(number, Answer::Done).await;
    soon(writer).await.expect("task").expect("stored");
    assert_eq!(session.status().blob_bytes_written, 40_000);
}

#[tokio::test]
async fn headers_must_fit_the_bytes() {
    let server = FakeServer::new();
    let (session, _control, _) = server.open(server.options(), Script::default()).await;
    let header = BlobHeader { blob: BlobId(1), ino: Ino(1), chunk: 0, length: 3, checksums: vec![], hash: [0; 32] };
    let outcome = session.put_blobs(vec![header], vec![Bytes::from_static(b"four")]).await;
    assert_eq!(outcome, Err(Errno::EINVAL.into()));
}
