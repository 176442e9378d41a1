//! What the parts of a process share, whatever they are: starting work without a hop between threads ([`spawn_inline`]) and
//! one budget of memory ([`MemoryBudget`]).
//!
//! Nothing here knows of files, volumes or messages.

mod budget;
mod inline;
mod limit;
mod lock_order;

pub use budget::{MemoryBudget, MemoryShare, MemoryUse};
pub use inline::spawn_inline;
