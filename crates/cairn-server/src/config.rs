//! What a server is started with. Values only: where they come from (flags, environment, a file) is the program's concern.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Certificate chain and private key, both as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificates: PathBuf,
    pub private_key: PathBuf,
}

/// How much a peer may take of the server. Each limit guards everybody else: whoever runs into one is cut off alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at once, whoever they are from.
    pub connections: usize,
    /// Most connections at once from one address that have not shown a key yet.
    pub greeting_per_peer: usize,
    /// Time for the TLS handshake and the greeting together.
    pub handshake: Duration,
    /// Time for a frame to arrive once it has begun, plus what [`Limits::slowest_bytes_per_second`] allows its size.
    pub frame: Duration,
    /// A large frame may take longer than [`Limits::frame`], but not be slower than this.
    pub slowest_bytes_per_second: u64,
    /// Longest time in which a peer takes nothing of what is sent to it.
    pub write_stall: Duration,
    /// Most requests of one connection that are served at once; beyond it, nothing more is read from it. Far more than programs
    /// that wait for something on one mount: what they wait for (a lock, another session's lease) may hang on a request of
    /// that same connection that is not read yet.
    pub requests_in_flight: usize,
    /// Most bytes, of messages and of bulk sent and asked for, of one connection's requests that are served at once. The
    /// largest request always fits.
    pub bytes_in_flight: usize,
    /// Time that requests get to finish when their connection is told to end by the server.
    pub drain: Duration,
    /// Time that a volume gets to write everything to stable storage when the server stops.
    pub close: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 4096,
            greeting_per_peer: 64,
            handshake: Duration::from_secs(10),
            frame: Duration::from_secs(30),
            slowest_bytes_per_second: 64 * 1024,
            write_stall: Duration::from_secs(30),
            requests_in_flight: 16 * 1024,
            bytes_in_flight: 64 * 1024 * 1024,
            drain: Duration::from_secs(3),
            close: Duration::from_secs(30),
        }
    }
}

/// Everything that a [`crate::Server`] needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The data directory; made if it does not exist.
    pub data: PathBuf,
    /// TCP addresses to listen on; port 0 lets the system choose. May be empty.
    pub listen: Vec<SocketAddr>,
    /// The Unix socket, open to the server's own user only. `None` for none.
    pub unix_socket: Option<PathBuf>,
    /// With it, every TCP address speaks TLS and nothing else.
    pub tls: Option<TlsFiles>,
    /// Address of the plain HTTP page with the metrics, for Prometheus. It asks for no key.
    pub metrics: Option<SocketAddr>,
    /// A session that is silent for longer may be fenced.
    pub lease_ttl: Duration,
    pub limits: Limits,
}

impl ServerConfig {
    /// Serves `data` on its Unix socket alone, with the default limits.
    pub fn new(data: impl AsRef<Path>) -> Self {
        let data = data.as_ref().to_path_buf();
        let unix_socket = Some(data.join("cairn.sock"));
        ServerConfig {
            data,
            listen: Vec::new(),
            unix_socket,
            tls: None,
            metrics: None,
            lease_ttl: Duration::from_secs(15),
            limits: Limits::default(),
        }
    }
}
