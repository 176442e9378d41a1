//! The front of the server as peers meet it, over real sockets.

mod access;
mod administration;
mod hostile_peers;
mod ordering;
mod support;
