//! Who gets in, and what each may do: keys, scopes, the Unix socket's owner, versions, TLS.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Client, TestServer, config, errno_of, hello, mount_of, new_volume};
use cairn_server::{Server, ServerError, TlsFiles};
use cairn_types::Errno;
use cairn_wire::admin::{AdminReply, AdminRequest, KeyScopeRequest};
use cairn_wire::handshake::{SessionSecret, WelcomeDetail};
use cairn_wire::{Hello, PROTOCOL_VERSION, Purpose, RefusalKind, Request};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

#[tokio::test]
async fn tcp_takes_a_key_and_the_right_one() {
    let server = TestServer::start().await;
    let (key, info) = server.admin().await.make_key(KeyScopeRequest::Admin).await;
    assert!(key.starts_with(&format!("cairn_{}_", info.id)));
    let none = Client::greet(server.tcp().await, hello(Purpose::Admin)).await.err().expect("refused");
    assert_eq!(none.kind, RefusalKind::NotAllowed);
    assert!(none.message.contains("cairn key create"), "{none}");
    let wrong = key.replace(['a', 'b', 'c', '1'], "0");
    assert_eq!(server.with_key(&wrong, Purpose::Admin).await.err().expect("refused").kind, RefusalKind::NotAllowed);
    let (mut client, _) = server.with_key(&key, Purpose::Admin).await.expect("let in");
    client.list().await;
    server.stop().await;
}

#[tokio::test]
async fn revoking_a_key_ends_its_connections_and_no_others() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    admin.make_volume("v").await;
    let scope = KeyScopeRequest::Volumes(vec!["v".to_owned()]);
    let (key, info) = admin.make_key(scope.clone()).await;
    let (other_key, _) = admin.make_key(scope).await;
    let (mut mount, _) = server.with_key(&key, mount_of("v")).await.expect("mounted");
    let (mut other, _) = server.with_key(&other_key, mount_of("v")).await.expect("mounted");
    admin.admin(AdminRequest::KeyRevoke { id: info.id.clone() }).await.expect("revoked");
    mount.expect_end().await;
    other.ask(Request::Renew, &[]).await.expect("still served");
    assert_eq!(server.with_key(&key, mount_of("v")).await.err().expect("refused").kind, RefusalKind::NotAllowed);
    assert_eq!(errno_of(admin.admin(AdminRequest::KeyRevoke { id: info.id }).await), Errno::ENOENT);
    assert!(matches!(admin.admin(AdminRequest::KeyList).await, Ok(AdminReply::Keys(keys)) if keys.len() == 1));
    server.stop().await;
}

#[tokio::test]
async fn a_key_for_volumes_opens_these_and_looks_at_these() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    let mine = admin.make_volume("mine").await.info.id;
    let other = admin.make_volume("other").await.info.id;
    let (key, _) = admin.make_key(KeyScopeRequest::Volumes(vec!["mine".to_owned()])).await;
    server.with_key(&key, mount_of("mine")).await.expect("mounted");
    for wanted in ["other", other.as_str(), "nobody"] {
        let refusal = server.with_key(&key, mount_of(wanted)).await.err().expect("refused");
        assert_eq!(refusal.kind, RefusalKind::NotAllowed, "{wanted}: {refusal}");
    }
    let (mut client, _) = server.with_key(&key, Purpose::Admin).await.expect("let in");
    assert_eq!(client.list().await, vec![(mine, "mine".to_owned())]);
    let show = |volume: &str| AdminRequest::VolumeShow { volume: volume.to_owned() };
    client.admin(show("mine")).await.expect("shown");
    assert_eq!(errno_of(client.admin(show(other.as_str())).await), Errno::ENOENT);
    for forbidden in [
        new_volume("x"),
        AdminRequest::Status,
        AdminRequest::KeyList,
        AdminRequest::VolumeDelete { volume: "mine".to_owned() },
        AdminRequest::KeyCreate { label: String::new(), scope: KeyScopeRequest::Admin },
    ] {
        assert_eq!(errno_of(client.admin(forbidden).await), Errno::EPERM);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_data_connection_takes_the_secret_of_a_session() {
    let server = TestServer::start().await;
    server.admin().await.make_volume("v").await;
    let (_mount, welcome) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    let WelcomeDetail::Session(session) = welcome.detail else { panic!("{welcome:?}") };
    let right = Purpose::Data { session: session.session, secret: session.secret };
    let (mut data, _) = Client::greet(server.unix().await, hello(right)).await.expect("let in");
    assert_eq!(errno_of(data.ask(Request::Sync, &[]).await), Errno::EINVAL);
    let wrong = Purpose::Data { session: session.session, secret: SessionSecret([0; 16]) };
    assert!(Client::greet(server.unix().await, hello(wrong)).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn versions_without_overlap_are_refused_with_the_remedy() {
    let server = TestServer::start().await;
    let newer = Hello { versions: (PROTOCOL_VERSION + 1, PROTOCOL_VERSION + 2), ..hello(Purpose::Admin) };
    let refusal = Client::greet(server.unix().await, newer).await.err().expect("refused");
    assert_eq!(refusal.kind, RefusalKind::VersionMismatch);
    assert!(
        refusal.message.contains(&format!(
            "the client {} to {}: upgrade the server",
            PROTOCOL_VERSION + 1,
            PROTOCOL_VERSION + 2
        )),
        "{refusal}"
    );
    let both = Hello { versions: (0, PROTOCOL_VERSION + 9), ..hello(Purpose::Admin) };
    let (_, welcome) = Client::greet(server.unix().await, both).await.expect("let in");
    assert_eq!(welcome.version, PROTOCOL_VERSION);
    server.stop().await;
}

#[tokio::test]
async fn the_unix_socket_is_its_owners_and_a_stale_one_is_replaced() {
    let server = TestServer::start().await;
    let mode = std::fs::metadata(server.socket()).expect("socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another server cannot take the socket of one that lives …
    let elsewhere = tempfile::tempdir().expect("directory");
    let mut second = config(&elsewhere);
    second.unix_socket = Some(server.socket());
    assert!(matches!(Server::start(second.clone()).await.err(), Some(ServerError::UnixSocketInUse(_))));
    let socket = server.socket();
    let _directory = server.stop().await;
    assert!(!socket.exists(), "removed at the end");
    // … but that of one that died, and nothing that is no socket.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    assert!(socket.exists());
    let replaced = Server::start(second.clone()).await.expect("started");
    Client::greet(tokio::net::UnixStream::connect(&socket).await.expect("connected"), hello(Purpose::Admin))
        .await
        .expect("let in");
    replaced.shutdown().await.expect("stopped");
    std::fs::write(&socket, "precious").expect("written");
    assert!(matches!(Server::start(second).await.err(), Some(ServerError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&socket).expect("read"), "precious");
}

#[tokio::test]
async fn tls_serves_those_who_speak_it_alone() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("certificate");
    let files = tempfile::tempdir().expect("directory");
    let tls =
        TlsFiles { certificates: files.path().join("certificate.pem"), private_key: files.path().join("key.pem") };
    std::fs::write(&tls.certificates, made.cert.pem()).expect("written");
    std::fs::write(&tls.private_key, made.signing_key.serialize_pem()).expect("written");
    let server = TestServer::start_with(|config| config.tls = Some(tls.clone())).await;
    let (key, _) = server.admin().await.make_key(KeyScopeRequest::Admin).await;

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("root");
    let client_config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client_config));
    let name = ServerName::try_from("localhost").expect("name");
    let stream = connector.connect(name, server.tcp().await).await.expect("TLS handshake");
    let greeting = Hello { key: Some(key), ..hello(Purpose::Admin) };
    let (mut client, _) = Client::greet(stream, greeting.clone()).await.expect("let in");
    client.make_volume("v").await;

    let mut plain = Client::new(server.tcp().await);
    plain.writer.write(cairn_wire::FrameKind::Hello, 0, &greeting, &[]).await.expect("sent");
    plain.expect_end().await;
    assert_eq!(server.counter("cairn_tls_failures_total").await, 1);
    server.stop().await;

    let directory = tempfile::tempdir().expect("directory");
    let mut broken = config(&directory);
    broken.tls = Some(TlsFiles { private_key: tls.certificates.clone(), ..tls });
    assert!(matches!(Server::start(broken).await.err(), Some(ServerError::Tls { .. })));
}

#[tokio::test]
async fn only_one_server_uses_a_data_directory() {
    let server = TestServer::start().await;
    let mut second = config(&server.directory);
    second.unix_socket = None;
    let error = Server::start(second).await.err().expect("refused");
    assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn greetings_are_not_waited_for_without_end() {
    let server = TestServer::start_with(|config| config.limits.handshake = Duration::from_millis(100)).await;
    let mut silent = Client::new(server.unix().await);
    silent.expect_end().await;
    server.stop().await;
}

#[tokio::test]
async fn descriptors_of_packs_go_over_the_unix_socket_to_the_owner_of_the_session_alone() {
    let server = TestServer::start().await;
    let mut admin = server.admin().await;
    admin.make_volume("v").await;
    let (key, _) = admin.make_key(KeyScopeRequest::Admin).await;
    let (_mount, welcome) = Client::greet(server.unix().await, hello(mount_of("v"))).await.expect("mounted");
    let WelcomeDetail::Session(session) = welcome.detail else { panic!("{welcome:?}") };
    let purpose = Purpose::Packs { session: session.session, secret: session.secret };
    let refusal = server.with_key(&key, purpose.clone()).await.err().expect("refused");
    assert_eq!(refusal.kind, RefusalKind::NotAllowed);
    assert!(refusal.message.contains("Unix socket"), "{refusal}");
    let guess = Purpose::Packs { session: session.session, secret: SessionSecret([0; 16]) };
    assert!(Client::greet(server.unix().await, hello(guess)).await.is_err(), "a wrong secret");
    let (mut packs, welcome) = Client::greet(server.unix().await, hello(purpose)).await.expect("let in");
    assert!(matches!(welcome.detail, WelcomeDetail::Packs));
    assert_eq!(errno_of(packs.ask(Request::OpenPack { pack: 77 }, &[]).await), Errno::ENOENT);
    assert_eq!(errno_of(packs.ask(Request::Renew, &[]).await), Errno::EINVAL);
    let (mut data, _) = {
        let purpose = Purpose::Data { session: session.session, secret: session.secret };
        Client::greet(server.unix().await, hello(purpose)).await.expect("let in")
    };
    assert_eq!(errno_of(data.ask(Request::OpenPack { pack: 0 }, &[]).await), Errno::EINVAL);
    server.stop().await;
}
