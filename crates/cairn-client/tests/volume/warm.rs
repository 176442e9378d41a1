//! Bringing files into the disk cache through the attribute: each question is answered at once.

use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_client::api::FileSystem;
use cairn_client::{DiskCacheOptions, VolumeOptions, WARM_ATTRIBUTE};
use cairn_types::{Errno, Ino};

use crate::support::kernel::Kernel;
use crate::support::{World, run};

const CHUNK: u32 = 1 << 20;
const FILE: u64 = 600_000;
/// More than the answer to a question may take, on a busy machine too.
const AT_ONCE: Duration = Duration::from_secs(2);
/// More jobs than a mount has at once.
const MANY: u64 = 100;

fn with_disk_cache(world: &World, name: &str) -> VolumeOptions {
    let directory = world.recovery().with_file_name(name);
    VolumeOptions { disk_cache: Some(DiskCacheOptions { directory, limit: 1 << 30 }), ..world.options() }
}

async fn ask(mount: &Kernel, ino: Ino, offset: u64, length: u64) -> Result<Bytes, Errno> {
    let name = format!("{WARM_ATTRIBUTE}:{offset}:{length}");
    let began = Instant::now();
    let answer = mount.volume.get_xattr(ino, name.into()).await.map_err(|error| error.errno());
    assert!(began.elapsed() < AT_ONCE, "an answer took {:?}", began.elapsed());
    answer
}

async fn wait(mount: &Kernel, ino: Ino, offset: u64, length: u64) -> Result<Bytes, Errno> {
    loop {
        match ask(mount, ino, offset, length).await {
            Ok(answer) if answer == "running" => tokio::time::sleep(Duration::from_millis(2)).await,
            Err(Errno::EAGAIN) => tokio::time::sleep(Duration::from_millis(2)).await,
            answer => return answer,
        }
    }
}

/// A file with content that is at the server.
async fn prepare(world: &World) {
    let mount = world.mount().await;
    mount.create("a").await.expect("created");
    mount.write("a", 0, &vec![7; FILE as usize]).await.expect("written");
    mount.volume.sync_all().await.expect("synced");
}

#[test]
fn ranges_are_brought_into_the_disk_cache_side_by_side() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        prepare(&world).await;
        let mount = world.mount_with(with_disk_cache(&world, "cache")).await;
        let ino = mount.find("a").await.expect("found");
        assert_eq!(ask(&mount, ino, 0, 0).await, Ok(format!("0/0/{}", 1 << 30).into()), "what the cache holds");
        let half = FILE / 2;
        let (first, second) = tokio::join!(wait(&mount, ino, 0, half), wait(&mount, ino, half, half));
        for answer in [first, second] {
            assert_eq!(answer, Ok(format!("{half}/{half}/{}", 1 << 30).into()));
        }
        assert_eq!(mount.volume.stats().bytes_warmed, FILE);
        // The outcome was told: this is a new question.
        assert_eq!(ask(&mount, ino, 0, half).await, Ok("running".into()));
        assert_eq!(wait(&mount, ino, FILE, 10).await, Ok(format!("0/0/{}", 1 << 30).into()), "behind the end");
    });
}

#[test]
fn a_mount_without_a_disk_cache_says_so() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        prepare(&world).await;
        let mount = world.mount().await;
        let ino = mount.find("a").await.expect("found");
        assert_eq!(ask(&mount, ino, 0, FILE).await, Ok("none".into()));
    });
}

#[test]
fn nothing_waits_for_the_server_and_what_nobody_asks_about_is_given_up() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        prepare(&world).await;
        let (mount, gate) = world.mount_through_gate(with_disk_cache(&world, "cache")).await;
        let ino = mount.find("a").await.expect("found");
        gate.set_open(false);
        let mut refused = 0;
        for offset in 0..MANY {
            match ask(&mount, ino, offset, 1).await {
                Ok(answer) => assert_eq!(answer, "running"),
                Err(errno) => {
                    assert_eq!(errno, Errno::EAGAIN);
                    refused += 1;
                }
            }
        }
        assert!(refused > 0 && refused < MANY, "{refused} refused");
        let last = MANY - 1;
        while ask(&mount, ino, last, 1).await == Err(Errno::EAGAIN) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        gate.set_open(true);
        assert_eq!(wait(&mount, ino, last, 1).await, Ok(format!("1/1/{}", 1 << 30).into()));
    });
}

#[test]
fn what_cannot_be_read_is_told() {
    run(async {
        let world = World::new(1 << 30, CHUNK).await;
        prepare(&world).await;
        let mount = world.mount_with(with_disk_cache(&world, "cache")).await;
        assert_eq!(wait(&mount, Ino(4711), 0, 10).await, Err(Errno::ESTALE));
    });
}
