//! Paths and rights: against a plain model of what the kernel does, and one by one on a file system in memory.

#[path = "../../../cairn-fuse/tests/support/memory.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a module of the tests of cairn-fuse, which use more of it")]
mod memory;

mod each;
mod model;

use std::time::Duration;

use cairn_path::{Credentials, View};

use self::memory::MemoryFs;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime").block_on(test)
}

/// An empty volume, seen by the superuser.
async fn superuser() -> View<MemoryFs> {
    let runtime = tokio::runtime::Handle::current();
    View::new(MemoryFs::new(Duration::ZERO), Credentials::superuser(), runtime).await.expect("a view")
}
