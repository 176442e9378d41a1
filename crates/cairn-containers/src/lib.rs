//! Volumes for containers: mounts on this host that are counted and survive a restart of whoever counts, and the
//! volume plug-in by which Docker and Podman ask for them.
//!
//! A mount is made by this program started again (`cairn mount`), so it is a process of its own and goes on
//! when the process that asked for it ends. Not here: what a pod is, and how a container is started (`cairn-control`).

pub mod durable;
mod lock_order;
pub mod mounts;
pub mod program;
pub mod volume_plugin;

pub use mounts::{CairnProgram, HoldError, HostMounts};
