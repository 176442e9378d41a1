//! The client of a Cairn volume: a session with a server, leases and caches, write-back and read-ahead.
//!
//! [`Volume`] is the file system as a front end sees it (the trait [`api::FileSystem`]); [`session::Session`] is the
//! connection underneath; [`admin`] is for operators. Nothing here knows of FUSE or any other kernel interface.

pub mod address;
pub mod admin;
pub mod api;
#[doc(hidden)]
pub mod benchmarks;
mod cache;
mod connect;
mod emptying;
mod error;
mod extents;
mod held_locks;
mod lock_order;
mod node;
mod node_cache;
mod overlay;
mod prefetch;
mod private;
mod read_plan;
mod recall;
mod reservation;
pub mod session;
mod stats;
mod timer;
mod tls;
mod volume;
mod writeback;

pub use address::{ConnectOptions, ServerAddress};
pub use admin::{AdminClient, AdminError};
pub use cache::disk::{CacheReport, CachedVolume, DiskCacheError, DiskCacheOptions, evict, inspect};
pub use error::{Error, ErrorKind, FsResult};
pub use session::{ConnectError, Session, SessionOptions};
pub use stats::VolumeStats;
pub use volume::{
    CloseError, OpenVolumeError, Report, STATS_ATTRIBUTE, Volume, VolumeOptions, WARM_ATTRIBUTE, WeakVolume,
};
