//! What a session may assume about a node without asking the server.

use serde::{Deserialize, Serialize};

/// A session's right to cache one node. Ordered by strength.
///
/// The lease of a file covers its attributes, extended attributes, extents and data; that of a directory its
/// attributes, extended attributes and entries (names that are absent too), but not its children's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseMode {
    /// Nothing may be kept.
    #[default]
    None,
    /// What was read may be kept and used again; any number of sessions at once.
    Shared,
    /// Changes may be buffered as well; no other session holds any lease on the node.
    Exclusive,
}

impl LeaseMode {
    /// Whether two sessions may hold these modes on one node at the same time.
    pub fn compatible(self, other: LeaseMode) -> bool {
        self == LeaseMode::None || other == LeaseMode::None || (self == LeaseMode::Shared && other == LeaseMode::Shared)
    }

    /// The strongest mode that another session can keep while somebody holds `self`.
    pub fn leaves_to_others(self) -> LeaseMode {
        match self {
            LeaseMode::None => LeaseMode::Exclusive,
            LeaseMode::Shared => LeaseMode::Shared,
            LeaseMode::Exclusive => LeaseMode::None,
        }
    }
}
