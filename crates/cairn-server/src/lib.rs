//! The server: a host of volumes' engines. It owns the data directory, lets clients in, and gives each its answers.
//!
//! ```text
//! listen ─► connections (admission) ─► greeting (who, what) ─► connection (requests in, answers out)
//!                                                                 │                │
//!                                          cairn_engine::Volume (one volume)     admin ─► catalogue, keys, checks
//! ```
//!
//! It knows connections, keys and which volumes there are; it keeps no state about files. The engine of a volume knows files,
//! sessions and leases; it knows nothing of sockets. Whatever a peer sends can end that peer's connection, and nothing else.

mod admin;
pub mod catalogue;
pub mod checks;
pub mod config;
mod connection;
mod connections;
mod data_directory;
pub mod error;
mod greeting;
mod handover;
pub mod keys;
mod link;
mod listen;
mod lock_order;
pub mod metrics;
mod metrics_page;
mod server;
mod store;
mod stream;
mod tls;

pub use catalogue::{Catalogue, CatalogueError, NewVolume};
pub use config::{Limits, ServerConfig, TlsFiles};
pub use data_directory::DataDirectoryError;
pub use error::ServerError;
pub use keys::{Access, KeyError, Keys};
pub use server::{DeletionGuard, Server, ServerState};
pub use store::StoreError;

/// Name and version of this program, as peers are told.
pub const SOFTWARE: &str = concat!("cairn ", env!("CARGO_PKG_VERSION"));
