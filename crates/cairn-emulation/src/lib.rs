//! Makes a volume behave like another one: slower, and with that one's quirks.
//!
//! A layer between a front end and a file system, for the parameters of a [`cairn_types::Profile`] that concern requests.
//! It knows nothing of kernels, volumes or servers, and keeps no content. What concerns the quota is the server's
//! ([`cairn_types::Allocation`]). A mount whose profile leaves requests alone has no such layer, and pays nothing.
//!
//! ```text
//! kernel ─► front end ─► Emulated (quirks: what is said) ─► volume
//!                           └── pace (when it is said) ── timer
//! ```

mod layer;
mod lock_order;
mod pace;
mod timer;

pub use layer::Emulated;
pub use pace::Paced;
