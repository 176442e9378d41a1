//! Where connections come from: TCP, TCP with TLS, and the Unix socket. Accepts, admits, and hands over.
//!
//! An accepting task owns the tasks of its connections: when it ends, they end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_wire::handshake::HelloReply;
use cairn_wire::{FrameKind, FrameWriter, Refusal, RefusalKind};
use rustix::net::sockopt;
use tokio::io::AsyncWrite;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::connection;
use crate::connections::{Overload, Registration};
use crate::error::ServerError;
use crate::greeting::{Peer, Trust};
use crate::server::ServerState;
use crate::stream::{ReadHalf, WriteHalf};

/// Longest path of a Unix socket, in bytes (`sun_path` without its NUL).
const SOCKET_PATH_MAX: usize = 107;
/// Pause after an error of `accept`: mostly too many open files, which only time mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time to tell a peer that there is no room. The message fits into any empty socket, so this is never waited for.
const TURN_AWAY: Duration = Duration::from_millis(100);
/// A peer whose machine is gone is noticed after 60 s + 3 × 20 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_PROBES: u32 = 3;

/// A place where connections arrive.
pub(crate) enum Listener {
    Tcp(TcpListener, Option<TlsAcceptor>),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The Unix socket's file; removed when this is dropped.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it is gone already, nothing is lost.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens on a TCP address.
pub(crate) async fn bind_tcp(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

/// Listens on the Unix socket `path`. A file left by a server that is gone is replaced; a live server's is not.
pub(crate) async fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), ServerError> {
    let failed = |source| ServerError::UnixSocket { path: path.to_path_buf(), source };
    if path.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(ServerError::UnixSocketPath(path.to_path_buf()));
    }
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(ServerError::NotASocket(path.to_path_buf())),
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(failed(error)),
            // It answers, or is too busy to.
            _ => return Err(ServerError::UnixSocketInUse(path.to_path_buf())),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_path_buf());
    // Whoever slips in before this is turned away by its user id.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok((listener, file))
}

/// Accepts connections until the server stops, then waits for those that there are.
pub(crate) async fn accept(shared: Arc<ServerState>, listener: Listener, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    // An error means that the server itself is gone.
    let mut stopped = pin!(async move { stopping.wait_for(|stopping| *stopping).await.is_ok() });
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => log_fault(ended),
            accepted = accept_one(&listener) => match accepted {
                Ok(stream) => admit(&shared, stream, &mut connections).await,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // New connections are refused by the system from here on.
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        log_fault(ended);
    }
}

/// A connection as it was accepted.
enum Accepted {
    Tcp(TcpStream, SocketAddr, Option<TlsAcceptor>),
    Unix(UnixStream),
}

async fn accept_one(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener, tls) => {
            let (stream, address) = listener.accept().await?;
            Ok(Accepted::Tcp(stream, address, tls.clone()))
        }
        Listener::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
    }
}

async fn admit(shared: &Arc<ServerState>, accepted: Accepted, connections: &mut JoinSet<()>) {
    let limits = &shared.config.limits;
    let address = match &accepted {
        Accepted::Tcp(_, address, _) => Some(address.ip()),
        Accepted::Unix(_) => None,
    };
    match shared.connections.admit(address, limits) {
        Ok(registration) => {
            shared.counters.connections_accepted.add(1);
            connections.spawn(start(Arc::clone(shared), accepted, registration));
        }
        Err(overload) => {
            shared.counters.connections_overload.add(1);
            tracing::warn!(peer = ?address, "connection turned away: {overload}");
            match accepted {
                // Saying why would take a whole handshake.
                Accepted::Tcp(_, _, Some(_)) => {}
                Accepted::Tcp(stream, _, None) => turn_away(stream, overload).await,
                Accepted::Unix(stream) => turn_away(stream, overload).await,
            }
        }
    }
}

async fn turn_away(stream: impl AsyncWrite + Unpin, overload: Overload) {
    let reply: HelloReply = Err(Refusal { kind: RefusalKind::Busy, message: overload.to_string() });
    let mut writer = FrameWriter::new(stream);
    // The peer finds the connection closed if this does not reach it.
    let _ = timeout(TURN_AWAY, writer.write(FrameKind::Welcome, 0, &reply, &[])).await;
}

/// Makes a connection ready, with TLS if need be, and serves it.
async fn start(shared: Arc<ServerState>, accepted: Accepted, registration: Registration) {
    let deadline = Instant::now() + shared.config.limits.handshake;
    let (halves, peer): ((ReadHalf, WriteHalf), Peer) = match accepted {
        Accepted::Unix(stream) => {
            let peer = unix_peer(&stream);
            let (read, write) = stream.into_split();
            ((Box::new(read), Box::new(write)), peer)
        }
        Accepted::Tcp(stream, address, tls) => {
            let peer = Peer { name: format!("tcp {address}"), trust: Trust::Network, socket: None };
            if let Err(error) = prepare_tcp(&stream) {
                tracing::debug!(peer = peer.name, %error, "options of the connection cannot be set");
            }
            match tls {
                None => {
                    let (read, write) = stream.into_split();
                    ((Box::new(read), Box::new(write)), peer)
                }
                Some(acceptor) => match timeout_at(deadline, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let (read, write) = tokio::io::split(stream);
                        ((Box::new(read), Box::new(write)), peer)
                    }
                    outcome => {
                        let reason = match outcome {
                            Ok(Err(error)) => error.to_string(),
                            _ => "it was not complete in time".to_owned(),
                        };
                        shared.counters.tls_failures.add(1);
                        tracing::warn!(peer = peer.name, reason, "TLS handshake failed");
                        return;
                    }
                },
            }
        }
    };
    connection::run(shared, halves, registration, peer, deadline).await;
}

/// Answers leave at once, and a peer whose machine is gone is noticed some day.
fn prepare_tcp(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

fn unix_peer(stream: &UnixStream) -> Peer {
    match stream.peer_cred() {
        Ok(credentials) => {
            let user = credentials.uid();
            let own = user == 0 || user == rustix::process::geteuid().as_raw();
            let process = credentials.pid().map_or_else(|| "?".to_owned(), |process| process.to_string());
            let trust = if own { Trust::Owner } else { Trust::OtherUser };
            let socket = own.then(|| stream.as_fd().try_clone_to_owned().ok().map(Arc::new)).flatten();
            Peer { name: format!("unix user {user} process {process}"), trust, socket }
        }
        Err(error) => Peer { name: format!("unix (unknown: {error})"), trust: Trust::OtherUser, socket: None },
    }
}

fn log_fault(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task failed; only that connection is concerned");
    }
}
