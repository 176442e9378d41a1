//! What fetching ahead ([`crate::prefetch`]) asks, by operations of the parts that know.

use std::ops::Range;
use std::sync::Arc;

use cairn_types::{Attr, Ino, LeaseMode, Name};

use super::mount::Mount;
use crate::api::Lookup;
use crate::cache::fetch::Want;
use crate::error::FsResult;
use crate::node::Node;
use crate::prefetch::Ask;

impl Ask for Mount {
    async fn blobs_of(self: &Arc<Self>, ino: Ino, range: Range<u64>) -> FsResult<Option<Vec<Want>>> {
        self.content.blobs_of(ino, range).await
    }

    async fn list(self: &Arc<Self>, directory: &Arc<Node>) -> FsResult<()> {
        self.names.list_all(directory).await
    }

    async fn find(self: &Arc<Self>, parent: Ino, name: Name) -> FsResult<Option<Attr>> {
        let Lookup::Found(entry) = self.names.lookup(parent, name).await? else { return Ok(None) };
        // The kernel was told nothing of it.
        self.content.forget(entry.attr.ino, 1);
        Ok(Some(entry.attr))
    }

    async fn lease(self: &Arc<Self>, ino: Ino) -> FsResult<()> {
        self.remote.acquire(ino, LeaseMode::Shared).await.map(drop)
    }
}
