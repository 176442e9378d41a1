//! A server in a temporary directory, and a client just good enough to test it with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use cairn_server::{Limits, Server, ServerConfig};
use cairn_types::limits::CHUNK_SIZE_DEFAULT;
use cairn_types::{Errno, VolumeId};
use cairn_wire::admin::{AdminReply, AdminRequest, KeyInfo, KeyScopeRequest, VolumeStatus};
use cairn_wire::handshake::{ClientInfo, ClientKind, HelloReply};
use cairn_wire::message::{Answer, Failure};
use cairn_wire::{
    Frame, FrameError, FrameKind, FrameLimits, FrameReader, FrameWriter, Hello, PROTOCOL_VERSION, Purpose, Refusal,
    Request, Response, Welcome,
};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// No answer takes longer, unless the server is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct TestServer {
    pub(crate) server: Server,
    pub(crate) directory: TempDir,
}

impl TestServer {
    /// A server on the loopback and a Unix socket, with limits fit for tests.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let mut config = config(&directory);
        adjust(&mut config);
        let server = Server::start(config).await.expect("started");
        TestServer { server, directory }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.local_addrs()[0]
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("data/cairn.sock")
    }

    pub(crate) async fn unix(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.expect("connected")
    }

    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.expect("connected")
    }

    /// An administrator on the Unix socket.
    pub(crate) async fn admin(&self) -> Client {
        Client::greet(self.unix().await, hello(Purpose::Admin)).await.expect("let in").0
    }

    /// A connection over TCP with this key.
    pub(crate) async fn with_key(&self, key: &str, purpose: Purpose) -> Result<(Client, Welcome), Refusal> {
        Client::greet(self.tcp().await, Hello { key: Some(key.to_owned()), ..hello(purpose) }).await
    }

    /// The value of one of the server's own counters.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        match self.admin().await.admin(AdminRequest::Status).await {
            Ok(AdminReply::Status(status)) => {
                status.counters.iter().find(|(other, _)| other == name).expect("known counter").1
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn stop(self) -> TempDir {
        self.server.shutdown().await.expect("stopped in an orderly way");
        self.directory
    }
}

pub(crate) fn config(directory: &TempDir) -> ServerConfig {
    let limits = Limits {
        handshake: Duration::from_millis(600),
        frame: Duration::from_millis(600),
        drain: Duration::from_millis(500),
        ..Limits::default()
    };
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    ServerConfig { listen, limits, ..ServerConfig::new(directory.path().join("data")) }
}

pub(crate) fn hello(purpose: Purpose) -> Hello {
    Hello { versions: (PROTOCOL_VERSION, PROTOCOL_VERSION), software: "test".to_owned(), key: None, purpose }
}

pub(crate) fn mount_of(volume: &str) -> Purpose {
    let info = ClientInfo {
        host: "box".to_owned(),
        pid: 7,
        kind: ClientKind::Mount { directory: "/workspace".to_owned() },
        read_only: false,
    };
    Purpose::Session { volume: volume.to_owned(), info, resume: None }
}

pub(crate) fn new_volume(name: &str) -> AdminRequest {
    AdminRequest::VolumeCreate {
        name: name.to_owned(),
        bytes_limit: 1 << 30,
        inodes_limit: None,
        data_center: String::new(),
        chunk_size: CHUNK_SIZE_DEFAULT,
        profile: "native".to_owned(),
    }
}

pub(crate) struct Client {
    pub(crate) reader: FrameReader<Box<dyn AsyncRead + Send + Unpin>>,
    pub(crate) writer: FrameWriter<Box<dyn AsyncWrite + Send + Unpin>>,
    last: u64,
}

impl Client {
    pub(crate) fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (read, write): (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) =
            (Box::new(read), Box::new(write));
        Client { reader: FrameReader::new(read, FrameLimits::SESSION), writer: FrameWriter::new(write), last: 0 }
    }

    pub(crate) async fn greet(
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
        hello: Hello,
    ) -> Result<(Self, Welcome), Refusal> {
        let mut client = Client::new(stream);
        client.writer.write(FrameKind::Hello, 0, &hello, &[]).await.expect("sent");
        let frame = client.frame().await.expect("an answer to the greeting");
        let reply: HelloReply = frame.expect(FrameKind::Welcome).expect("decoded");
        reply.map(|welcome| (client, welcome))
    }

    pub(crate) async fn frame(&mut self) -> Result<Frame, FrameError> {
        timeout(PATIENCE, self.reader.read()).await.expect("the server answers in time")
    }

    /// Sends a request and waits for its answer; pushes that come before it are passed over.
    pub(crate) async fn ask(&mut self, request: Request, bulk: &[Bytes]) -> Response {
        self.last += 1;
        self.writer.write(FrameKind::Request, self.last, &request, bulk).await.expect("sent");
        loop {
            let frame = self.frame().await.expect("an answer");
            if frame.kind == FrameKind::Response && frame.correlation == self.last {
                return frame.decode().expect("decoded");
            }
            assert_eq!(frame.kind, FrameKind::Push);
        }
    }

    pub(crate) async fn admin(&mut self, request: AdminRequest) -> Result<AdminReply, Failure> {
        match self.ask(Request::Admin(request), &[]).await? {
            Answer::Admin(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn make_volume(&mut self, name: &str) -> VolumeStatus {
        match self.admin(new_volume(name)).await {
            Ok(AdminReply::Volume(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn make_key(&mut self, scope: KeyScopeRequest) -> (String, KeyInfo) {
        match self.admin(AdminRequest::KeyCreate { label: "test".to_owned(), scope }).await {
            Ok(AdminReply::KeyCreated { key, info }) => (key, info),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn list(&mut self) -> Vec<(VolumeId, String)> {
        match self.admin(AdminRequest::VolumeList).await {
            Ok(AdminReply::Volumes(volumes)) => {
                volumes.into_iter().map(|status| (status.info.id, status.info.name)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Fails unless the server ends the connection.
    pub(crate) async fn expect_end(&mut self) {
        while self.frame().await.is_ok() {}
    }
}

pub(crate) fn errno_of<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> Errno {
    outcome.expect_err("refused").errno
}
