//! One attempt to connect: socket, TLS where asked for, and the handshake, all within one time limit.
//!
//! Knows nothing of sessions: whoever calls decides whether and when to try again.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use cairn_locks::Mutex;
use cairn_wire::handshake::HelloReply;
use cairn_wire::{
    FrameKind, FrameLimits, FrameReader, FrameWriter, Hello, PROTOCOL_VERSION, PROTOCOL_VERSION_OLDEST, Purpose,
    Refusal, Welcome,
};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{TcpStream, UnixStream};

use crate::address::{ConnectOptions, ServerAddress, split_host_port};
use crate::lock_order;
use crate::tls;

/// Program and version, as the server logs them.
const SOFTWARE: &str = concat!("cairn/", env!("CARGO_PKG_VERSION"));

pub(crate) type Reader = FrameReader<Box<dyn AsyncRead + Send + Sync + Unpin>>;
pub(crate) type Writer = FrameWriter<Box<dyn AsyncWrite + Send + Sync + Unpin>>;

/// Descriptors that came and were not taken yet, oldest first.
pub(crate) type Descriptors = Arc<Mutex<VecDeque<OwnedFd>, lock_order::Descriptors>>;

/// The reading half of a Unix socket that keeps the descriptors which come with the bytes.
struct DescriptorReader {
    stream: OwnedReadHalf,
    descriptors: Descriptors,
}

impl AsyncRead for DescriptorReader {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream: &UnixStream = self.stream.as_ref();
        loop {
            ready!(stream.poll_read_ready(context))?;
            let received = stream.try_io(Interest::READABLE, || {
                // Room for one: more are closed by the kernel.
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut pieces = [IoSliceMut::new(buffer.initialize_unfilled())];
                let received = recvmsg(stream, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                        self.descriptors.lock().extend(descriptors);
                    }
                }
                Ok(received.bytes)
            });
            match received {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// A connection that the server has welcomed.
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    pub(crate) welcome: Welcome,
}

/// Why there is no connection. Each is a sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "no server answers at {address} ({reason}): start one with `cairn serve`, or name the right one with --server"
    )]
    Unreachable { address: String, reason: String },
    /// The server's own sentence.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Tls(String),
    #[error("the server at {address} does not behave as a Cairn server of this version ({reason})")]
    Protocol { address: String, reason: String },
}

/// Connects and introduces itself, within [`ConnectOptions::connect_timeout`].
pub(crate) async fn connect(options: &ConnectOptions, purpose: Purpose) -> Result<Connection, ConnectError> {
    match tokio::time::timeout(options.connect_timeout, attempt(options, purpose)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::Unreachable {
            address: options.address.to_string(),
            reason: format!("no answer within {:?}", options.connect_timeout),
        }),
    }
}

/// As [`connect`], over the server's Unix socket, with the descriptors that the server sends along with its answers. Whoever
/// has read an answer finds its descriptors.
pub(crate) async fn connect_with_descriptors(
    options: &ConnectOptions,
    purpose: Purpose,
) -> Result<(Connection, Descriptors), ConnectError> {
    let address = options.address.to_string();
    let unreachable = |reason: String| ConnectError::Unreachable { address: address.clone(), reason };
    let ServerAddress::Unix(path) = &options.address else {
        return Err(unreachable("descriptors come by a Unix socket alone".to_owned()));
    };
    let attempt = async {
        let stream = UnixStream::connect(path).await.map_err(|error| unreachable(error.to_string()))?;
        let (read, write) = stream.into_split();
        let descriptors = Descriptors::default();
        let read = DescriptorReader { stream: read, descriptors: Arc::clone(&descriptors) };
        let connection = shake_hands(options, purpose, Box::new(read), Box::new(write)).await?;
        Ok((connection, descriptors))
    };
    match tokio::time::timeout(options.connect_timeout, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unreachable(format!("no answer within {:?}", options.connect_timeout))),
    }
}

async fn attempt(options: &ConnectOptions, purpose: Purpose) -> Result<Connection, ConnectError> {
    let address = &options.address;
    let unreachable =
        |error: io::Error| ConnectError::Unreachable { address: address.to_string(), reason: error.to_string() };
    match address {
        ServerAddress::Unix(path) => {
            let (read, write) = UnixStream::connect(path).await.map_err(unreachable)?.into_split();
            shake_hands(options, purpose, Box::new(read), Box::new(write)).await
        }
        ServerAddress::Tcp { host_port } => {
            let (read, write) = dial(host_port).await.map_err(unreachable)?.into_split();
            shake_hands(options, purpose, Box::new(read), Box::new(write)).await
        }
        ServerAddress::Tls { host_port } => {
            let host = split_host_port(host_port).map_or(host_port.as_str(), |(host, _)| host);
            let stream = dial(host_port).await.map_err(unreachable)?;
            let stream = tls::wrap(stream, host, options.tls_ca.as_deref()).await.map_err(ConnectError::Tls)?;
            let (read, write) = tokio::io::split(stream);
            shake_hands(options, purpose, Box::new(read), Box::new(write)).await
        }
    }
}

async fn dial(host_port: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(host_port).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn shake_hands(
    options: &ConnectOptions,
    purpose: Purpose,
    read: Box<dyn AsyncRead + Send + Sync + Unpin>,
    write: Box<dyn AsyncWrite + Send + Sync + Unpin>,
) -> Result<Connection, ConnectError> {
    let address = || options.address.to_string();
    let protocol = |reason: String| ConnectError::Protocol { address: address(), reason };
    let mut writer = FrameWriter::new(write);
    let mut reader = FrameReader::new(read, FrameLimits::HANDSHAKE);
    let hello = Hello {
        versions: (PROTOCOL_VERSION_OLDEST, PROTOCOL_VERSION),
        software: SOFTWARE.to_owned(),
        key: options.key.clone(),
        purpose,
    };
    let lost = |error: cairn_wire::FrameError| match error {
        cairn_wire::FrameError::Closed | cairn_wire::FrameError::Io(_) => {
            ConnectError::Unreachable { address: address(), reason: error.to_string() }
        }
        other => protocol(other.to_string()),
    };
    writer.write(FrameKind::Hello, 0, &hello, &[]).await.map_err(lost)?;
    let reply: HelloReply = reader.read().await.and_then(|frame| frame.expect(FrameKind::Welcome)).map_err(lost)?;
    let welcome = reply?;
    if !(PROTOCOL_VERSION_OLDEST..=PROTOCOL_VERSION).contains(&welcome.version) {
        return Err(protocol(format!("it speaks protocol version {}", welcome.version)));
    }
    reader.set_limits(FrameLimits::SESSION);
    Ok(Connection { reader, writer, welcome })
}
