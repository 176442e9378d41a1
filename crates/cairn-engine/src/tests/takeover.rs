//! A volume in memory that several servers reach: it comes back after a crash, and only who opened it last changes it.

use std::ops::ControlFlow;

use cairn_chunks::MemoryBlobs;
use cairn_meta::kv::{KeyValueStore, MemoryStore};

use super::*;

/// Storage that is not of this machine, as far as the engine knows.
#[derive(Default)]
struct Remote {
    rows: MemoryStore,
    blobs: MemoryBlobs,
}

impl Remote {
    fn new() -> Self {
        let remote = Remote::default();
        Volume::create(&remote.storage(), info(1 << 30)).expect("made");
        remote
    }

    fn storage(&self) -> Storage {
        Storage { metadata: Arc::new(self.rows.clone()), blobs: Arc::new(self.blobs.clone()) }
    }

    async fn open(&self, options: &VolumeOptions) -> Arc<Volume> {
        Arc::new(Volume::open(&self.storage(), options).await.expect("opened"))
    }

    fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        self.rows.reader().expect("memory").scan(&[], &[0xff], visit).expect("memory");
        rows
    }
}

/// Nothing becomes durable by itself.
fn slow() -> VolumeOptions {
    VolumeOptions { durable_interval: Duration::from_secs(60), ..options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_synced_survives_a_crash_without_files() {
    let remote = Remote::new();
    let volume = remote.open(&slow()).await;
    let mount = Mount::new(Arc::clone(&volume), None).await.expect("attached");
    let ino = mount.create(Ino::ROOT, "kept", NewNode::Regular).await.expect("made");
    let bytes: Vec<u8> = (0..50_000u32).map(|at| at as u8).collect();
    mount.write(ino, &bytes).await.result.expect("written");
    mount.sync().await;
    assert_eq!(mount.content(ino).await, bytes);
    mount.create(Ino::ROOT, "lost", NewNode::Regular).await.expect("made");
    remote.rows.crash();
    remote.blobs.crash();
    drop((mount, volume));

    let volume = remote.open(&options()).await;
    let mount = Mount::new(Arc::clone(&volume), None).await.expect("attached");
    assert_eq!(mount.content(ino).await, bytes);
    assert_eq!(mount.lookup("lost").await.expect("looked up"), None);
    mount.unlink("kept").await.expect("removed");
    eventually("freed", || volume.inner.blob_store.stored_bytes().expect("counted") == 0).await;
    let found = volume.check(CheckOptions { repair: false, data: true }, |_| {}).await.expect("checked");
    assert_eq!(found.problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_superseded_adds_no_row_and_no_blob() {
    let remote = Remote::new();
    let first = remote.open(&slow()).await;
    let mut mount = Mount::new(Arc::clone(&first), None).await.expect("attached");
    let ino = mount.create(Ino::ROOT, "file", NewNode::Regular).await.expect("made");
    mount.write(ino, b"before").await.result.expect("written");
    let pending = mount.put(ino, b"pending").await;
    mount.sync().await;

    let second = remote.open(&options()).await;
    let rows = remote.rows();
    // What the first thinks that nobody needs is the second's to say.
    first.inner.maintenance.discard_blobs(vec![pending]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let late = mount.put(ino, b"after").await;
    let change = Request::Journal { first: 2, ops: vec![write(ino, late, 5)] };
    let refused = mount.ask(change).await.expect_err("superseded");
    assert_eq!(refused.errno, Errno::EIO);
    assert!(refused.message.contains("another server has opened the volume"), "{refused}");
    assert_eq!(remote.rows(), rows);
    // It serves nothing any more, and lets its mounts go.
    let served = mount.ask(Request::Renew).await.map_err(|failure| failure.errno);
    assert_eq!(served, Err(Errno::ESHUTDOWN));
    while mount.pushes.recv().await.is_some() {}
    let attached = Mount::new(Arc::clone(&first), None).await;
    assert!(attached.is_err_and(|refusal| refusal.message.contains("another server")));
    first.close().await.expect_err("superseded");
    assert_eq!(remote.rows(), rows);

    let mount = Mount::new(Arc::clone(&second), Some(mount.resume())).await.expect("resumed");
    let complete = Request::Reclaim { leases: vec![], open: vec![], locks: vec![], replay: vec![], complete: true };
    mount.ask(complete).await.expect("reclaimed");
    assert_eq!(mount.content(ino).await, b"before");
    assert_eq!(mount.read_blob(pending, 7).await.expect("adopted"), b"pending"[..]);
    assert_eq!(mount.read_blob(late, 5).await, Err(Errno::ENOENT));
    mount.create(Ino::ROOT, "mine", NewNode::Regular).await.expect("made");
}
