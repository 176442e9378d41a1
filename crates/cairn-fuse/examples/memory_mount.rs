//! Mounts the in-memory file system of the tests: `memory_mount DIR [TTL_SECONDS]`, ended by `umount DIR`.
//!
//! For measuring what the transport itself costs: nothing behind it takes longer than a look into a hash table.

#[path = "../tests/support/memory.rs"]
#[allow(dead_code, unreachable_pub)]
mod memory;

use std::time::Duration;

use cairn_fuse::{Mount, MountOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: memory_mount DIR [TTL_SECONDS]")?;
    let ttl = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let fs = memory::MemoryFs::new(Duration::from_secs(ttl));
    let mount = Mount::new(fs, &MountOptions::new(directory, "memory"), runtime.handle().clone())?;
    runtime.block_on(mount.wait());
    println!("{:<20} {:>10} {:>10} {:>10} {:>12}", "request", "count", "spawned", "errors", "mean time");
    for operation in mount.statistics().snapshot() {
        let mean = operation.total_time / u32::try_from(operation.count).unwrap_or(u32::MAX);
        println!(
            "{:<20} {:>10} {:>10} {:>10} {:>12?}",
            operation.name, operation.count, operation.spawned, operation.errors, mean
        );
    }
    Ok(())
}
