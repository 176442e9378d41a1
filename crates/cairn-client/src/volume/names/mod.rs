//! Names: looking them up, listing them, and making, linking, moving and removing the nodes that they lead to.
//!
//! It stands on [`Remote`], and on [`Content`] for files that are opened as they are made and for what becomes of those whose
//! last name goes; content knows nothing of names. Nor does this know of fetching ahead: what follows from a look-up or a
//! listing, whoever asked for it sees to.
//!
//! Invariants:
//!
//! - What a name leads to is answered from here, and that it is free, only under the lease of its directory.
//! - A change is made here first only where its outcome cannot differ at the server ([`buffered`]).

mod buffered;
mod changes;
mod directory;
mod lookup;

use std::sync::Arc;

use self::directory::OpenDirectories;
use super::content::Content;
use super::remote::Remote;
use super::space::Space;
use crate::writeback::WriteBack;

/// Operations on names, and what directories are open.
pub(super) struct Names {
    remote: Arc<Remote>,
    content: Arc<Content>,
    space: Arc<Space>,
    writeback: Arc<WriteBack>,
    directories: OpenDirectories,
}

impl Names {
    pub(super) fn new(
        remote: Arc<Remote>,
        content: Arc<Content>,
        space: Arc<Space>,
        writeback: Arc<WriteBack>,
    ) -> Self {
        Names { remote, content, space, writeback, directories: OpenDirectories::default() }
    }
}
