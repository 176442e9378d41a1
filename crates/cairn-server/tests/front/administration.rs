//! Volumes, status, checks and metrics through the wire, and the end of a server.

use std::net::SocketAddr;

use crate::support::{Client, PATIENCE, TestServer, config, errno_of, hello, mount_of, new_volume};
use cairn_server::Server;
use cairn_types::Errno;
use cairn_wire::admin::{AdminReply, AdminRequest, CheckOptions};
use cairn_wire::handshake::WelcomeDetail;
use cairn_wire::{FrameKind, Purpose, Push, RefusalKind, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn volumes_outlive_a_restart() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let kept = admin.make_volume("kept").await;
    admin.make_volume("gone").await;
    let rename = AdminRequest::VolumeRename { volume: "kept".to_owned(), name: "still here".to_owned() };
    admin.admin(rename).await.expect("renamed");
    admin.admin(AdminRequest::VolumeDelete { volume: "gone".to_owned() }).await.expect("deleted");
    let directory = server.stop().await;

    let server = Server::start(config(&directory)).await.expect("started again");
    let server = TestServer { server, directory };
    assert_eq!(server.admin().await.list().await, vec![(kept.info.id, "still here".to_owned())]);
    server.stop().await;
}

#[tokio::test]
async fn a_mounted_volume_is_not_deleted_and_is_after_its_session_ends() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    admin.make_volume("v").await;
    let (mut mount, _) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    let delete = AdminRequest::VolumeDelete { volume: "v".to_owned() };
    let failure = admin.admin(delete.clone()).await.expect_err("refused");
    assert_eq!(failure.errno, Errno::EBUSY);
    assert!(failure.message.contains("/workspace on box"), "{failure}");
    match admin.admin(AdminRequest::Status).await {
        Ok(AdminReply::Status(status)) => {
            assert_eq!(status.sessions.len(), 1);
            assert_eq!(status.sessions[0].info.kind.directory(), Some("/workspace"));
            assert_eq!(status.listening.len(), 2);
        }
        other => panic!("{other:?}"),
    }
    mount.ask(Request::Goodbye, &[]).await.expect("ended");
    drop(mount);
    admin.admin(delete.clone()).await.expect("deleted");
    assert_eq!(errno_of(admin.admin(delete).await), Errno::ENOENT);
    let refusal = Client::greet(server.unix().await, hello(mount_of("v"))).await.err().expect("refused");
    assert_eq!(refusal.kind, RefusalKind::UnknownVolume);
    server.stop().await;
}

#[tokio::test]
async fn input_errors_are_sentences() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    admin.make_volume("twin").await;
    admin.make_volume("twin").await;
    let refusal = Client::greet(server.unix().await, hello(mount_of("twin"))).await.err().expect("refused");
    assert_eq!(refusal.kind, RefusalKind::UnknownVolume);
    assert!(refusal.message.contains("use one of their ids"), "{refusal}");
    assert_eq!(errno_of(admin.admin(new_volume("a/b")).await), Errno::EINVAL);
    let resize = AdminRequest::VolumeResize { volume: "nobody".to_owned(), bytes_limit: Some(1), inodes_limit: None };
    assert_eq!(errno_of(admin.admin(resize).await), Errno::ENOENT);
    assert_eq!(errno_of(admin.admin(AdminRequest::CheckProgress { check: 77 }).await), Errno::ENOENT);
    server.stop().await;
}

#[tokio::test]
async fn a_check_runs_in_the_background_and_can_be_asked_after() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    admin.make_volume("v").await;
    let options = CheckOptions { repair: false, data: true };
    let start = AdminRequest::CheckStart { volume: "v".to_owned(), options };
    let check = match admin.admin(start).await {
        Ok(AdminReply::CheckStarted { check }) => check,
        other => panic!("{other:?}"),
    };
    let begin = std::time::Instant::now();
    loop {
        match admin.admin(AdminRequest::CheckProgress { check }).await {
            Ok(AdminReply::CheckProgress(progress)) if progress.finished => {
                assert_eq!(progress.problems, Vec::<String>::new());
                break;
            }
            Ok(AdminReply::CheckProgress(_)) => assert!(begin.elapsed() < PATIENCE, "it finishes"),
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // A finished check is in nobody's way.
    admin.admin(AdminRequest::VolumeDelete { volume: "v".to_owned() }).await.expect("deleted");
    server.stop().await;
}

#[tokio::test]
async fn metrics_are_served_over_http() {
    let server = TestServer::start_with(|config| config.metrics = Some(SocketAddr::from(([127, 0, 0, 1], 0)))).await;
    server.admin().await.make_volume("my \"volume\"").await;
    let fetch = async |request: &str| {
        let mut stream =
            TcpStream::connect(server.server.metrics_address().expect("address")).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        answer
    };
    let page = fetch("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("cairn_requests_total{kind=\"admin\"} 1\n"), "{page}");
    assert!(page.contains("name=\"my \\\"volume\\\"\"} 1073741824\n"), "{page}");
    assert!(fetch("GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
    assert!(fetch("POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
    server.stop().await;
}

#[tokio::test]
async fn mounts_are_told_when_the_server_stops() {
    let server = TestServer::start().await;
    server.admin().await.make_volume("v").await;
    let (mut mount, welcome) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    assert!(matches!(welcome.detail, WelcomeDetail::Session(_)));
    let idle = Client::greet(server.unix().await, hello(Purpose::Admin)).await.expect("let in");
    let begin = std::time::Instant::now();
    let stopping = tokio::spawn(server.stop());
    loop {
        let frame = mount.frame().await.expect("a last word");
        if frame.expect::<Push>(FrameKind::Push).expect("a push") == Push::ShuttingDown {
            break;
        }
    }
    mount.expect_end().await;
    stopping.await.expect("stopped");
    assert!(begin.elapsed() < PATIENCE);
    drop(idle);
}
