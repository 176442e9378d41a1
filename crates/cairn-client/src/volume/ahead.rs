//! What fetching ahead ([`crate::prefetch`]) asks by operations of the mount.

use std::ops::Range;
use std::sync::Arc;

use cairn_types::{Attr, Ino, LeaseMode, Name};

use super::Mount;
use crate::api::Lookup;
use crate::cache::fetch::Want;
use crate::error::FsResult;
use crate::node::Node;
use crate::prefetch::Ask;

impl Ask for Mount {
    async fn blobs_of(self: &Arc<Self>, ino: Ino, range: Range<u64>) -> FsResult<Option<Vec<Want>>> {
        Mount::blobs_of(self, ino, range).await
    }

    async fn list(self: &Arc<Self>, directory: &Arc<Node>) -> FsResult<()> {
        self.list_all(directory).await
    }

    async fn find(self: &Arc<Self>, parent: Ino, name: Name) -> FsResult<Option<Attr>> {
        let Lookup::Found(entry) = self.lookup(parent, name).await? else { return Ok(None) };
        // The kernel was told nothing of it.
        self.forget(entry.attr.ino, 1);
        Ok(Some(entry.attr))
    }

    async fn lease(self: &Arc<Self>, ino: Ino) -> FsResult<()> {
        self.acquire(ino, LeaseMode::Shared).await.map(drop)
    }
}
