//! Whole volumes: real mounts on a real server in this process, with a stand-in for the kernel in front.

mod behaviour;
mod buffered;
mod coherence;
mod support;
mod warm;
