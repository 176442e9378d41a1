//! Why a server does not start, or did not stop as it should. What goes wrong while it serves is told to the client
//! concerned ([`cairn_wire::Refusal`], [`cairn_wire::message::Failure`]) or logged, never raised here.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::catalogue::CatalogueError;
use crate::data_directory::DataDirectoryError;

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    DataDirectory(#[from] DataDirectoryError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("cannot listen on {address}: {source}{}", address_hint(.source))]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot listen on the Unix socket {path}: {source}", path = .path.display())]
    UnixSocket { path: PathBuf, source: io::Error },
    #[error("the path of the Unix socket, {path}, is too long (107 bytes at most): choose a shorter one", path = .0.display())]
    UnixSocketPath(PathBuf),
    #[error("a server already answers on the Unix socket {path}: stop it, or choose another path", path = .0.display())]
    UnixSocketInUse(PathBuf),
    #[error("{path} is in the place of the Unix socket and is not a socket: remove it, or choose another path", path = .0.display())]
    NotASocket(PathBuf),
    #[error("cannot use the TLS file {path}: {reason}", path = .path.display())]
    Tls { path: PathBuf, reason: String },
    #[error("nothing to listen on: give a TCP address or a Unix socket")]
    NothingToListenOn,
    #[error("not everything was written to stable storage before the time was up: {0}")]
    UncleanClose(String),
}

fn address_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege: choose a higher one",
        _ => "",
    }
}
