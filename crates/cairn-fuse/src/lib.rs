//! The kernel transport: serves a [`cairn_client::api::FileSystem`] as a FUSE mount.
//!
//! `fuser` mounts and shakes hands; from then on this crate reads `/dev/fuse` itself, because the library keeps lock
//! families, interrupts, `O_TMPFILE`, birth times and vectored answers from its users. The way of a request:
//!
//! ```text
//! kernel ┬ device ─ classic ┬ decode ─ dispatch ─ FileSystem ─ reply ─ answer ┬ device ─ kernel
//!        └ slot ─── uring ──┘ (typed)  (one call)             (typed)  (once)  └ slot
//!          (bytes)  (thread)
//! ```
//!
//! Two transports stand side by side: `classic` reads `/dev/fuse`, `uring` takes requests from rings on the CPU of
//! whoever asks (`transport` chooses). What is behind `service` does not know which one it was.
//!
//! A request's future is polled once on the thread that read it; what is not ready becomes a task. Every request is
//! answered exactly once. Nothing here caches, decides permissions (`default_permissions`: the kernel does) or knows
//! what a volume is.

mod abi;
mod answer;
mod buffer;
mod classic;
mod decode;
mod device;
mod dispatch;
mod error;
mod handshake;
mod interrupt;
mod lock_order;
mod mount;
mod notify;
mod options;
mod owners;
mod precheck;
mod reply;
mod service;
mod stats;
mod transport;
mod unmount;
mod uring;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub use error::MountError;
pub use mount::{Mount, Unmounted};
pub use options::MountOptions;
pub use stats::{OperationStatistics, Statistics};
pub use transport::{Transport, TransportInUse};
