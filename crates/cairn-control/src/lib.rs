//! The control plane: what the clients of a cloud manage over HTTP, on the volumes of one `cairn_server`.
//!
//! ```text
//! faces (one for each API: shapes, statuses, error forms) ─► service (accounts, rules, money, records) ─► cairn_server's volumes
//!                                                               └─► engine (containers, if there is an engine)
//! ```
//!
//! A face translates and decides nothing; every rule is enforced in [`service`] and nowhere else. The engine runs what it is told
//! and knows no rule. Nothing below this crate knows that it exists: the data path works the same without it.

mod admin;
pub mod engine;
pub mod http;
mod lock_order;
mod runpod;
pub mod service;
