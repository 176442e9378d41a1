//! A volume on a real disk, with sessions that are played by the tests.

mod crash;
#[cfg(feature = "shuttle")]
mod interleavings;
mod sharing;
mod space;
mod takeover;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_types::checksum::{blob_hash, block_checksums};
use cairn_types::{
    Attr, BlobId, Errno, Extent, Ino, LeaseMode, MetaOp, Name, NewNode, SessionId, Source, Timestamp, VolumeId,
    WrittenExtent,
};
use cairn_wire::admin::VolumeInfo;
use cairn_wire::handshake::{ClientInfo, Resume, SessionWelcome};
use cairn_wire::message::{
    Answer, Applied, BlobHeader, BlobRange, Failure, Grant, LeaseReturn, QueryAnswer, QueryReply,
};
use cairn_wire::{Push, Query, Request};
use tempfile::TempDir;

use super::*;

const CHUNK: u32 = 64 * 1024;

fn options() -> VolumeOptions {
    VolumeOptions {
        lease_ttl: Duration::from_millis(400),
        abandoned_after: Some(Duration::from_secs(20)),
        durable_interval: Duration::from_millis(100),
        ..VolumeOptions::default()
    }
}

fn info(bytes_limit: u64) -> VolumeInfo {
    VolumeInfo {
        id: VolumeId::from_entropy(7),
        name: "test".to_owned(),
        bytes_limit,
        inodes_limit: 1_000_000,
        data_center: "TEST-1".to_owned(),
        chunk_size: CHUNK,
        profile: "native".to_owned(),
        allocation: cairn_types::Allocation::NATIVE,
        created: 1,
    }
}

/// A volume in a directory of its own.
struct Fixture {
    directory: TempDir,
    volume: Arc<Volume>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(1 << 30, options()).await
    }

    async fn with(bytes_limit: u64, options: VolumeOptions) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let storage = Storage::local(directory.path(), &options);
        Volume::create(&storage, info(bytes_limit)).expect("made");
        let volume = Volume::open(&storage, &options).await.expect("opened");
        Fixture { directory, volume: Arc::new(volume) }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn mount(&self) -> Mount {
        Mount::new(Arc::clone(&self.volume), None).await.expect("attached")
    }

    /// No invariant is broken, and every byte is what it was.
    async fn must_be_sound(&self) {
        let found = self.volume.check(CheckOptions { repair: false, data: true }, |_| {}).await.expect("checked");
        assert_eq!(found.problems, Vec::<String>::new());
    }
}

async fn open_at(directory: &Path, options: &VolumeOptions) -> Arc<Volume> {
    let storage = Storage::local(directory, options);
    Arc::new(Volume::open(&storage, options).await.expect("opened"))
}

/// What the disk holds at this moment, as if the machine's processes were killed now.
fn copy_of(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("directory");
    copy_into(directory, copy.path());
    copy
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("entry");
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            std::fs::create_dir(&target).expect("made");
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("copied");
        }
    }
}

/// A session that is played by a test.
struct Mount {
    volume: Arc<Volume>,
    welcome: SessionWelcome,
    attachment: AttachmentId,
    pushes: PushReceiver,
    numbers: AtomicU64,
    blobs: AtomicU64,
    token: AtomicU64,
    journal: AtomicU64,
}

impl Mount {
    async fn new(volume: Arc<Volume>, resume: Option<Resume>) -> Result<Self, Refusal> {
        let (sender, pushes) = push_channel();
        let (welcome, attachment) = volume.attach(ClientInfo::default(), "test".to_owned(), resume, sender).await?;
        let mount = Mount {
            volume,
            welcome,
            attachment,
            pushes,
            numbers: AtomicU64::new(0),
            blobs: AtomicU64::new(0),
            token: AtomicU64::new(1),
            journal: AtomicU64::new(1),
        };
        if resume.is_none() {
            match mount.ask(Request::Numbers { inos: 100_000, blobs: 100_000 }).await.expect("numbers") {
                Answer::Numbers { first_ino, first_blob } => {
                    mount.numbers.store(first_ino.0, Ordering::Relaxed);
                    mount.blobs.store(first_blob.0, Ordering::Relaxed);
                }
                other => panic!("{other:?}"),
            }
        }
        Ok(mount)
    }

    fn id(&self) -> SessionId {
        self.welcome.session
    }

    fn resume(&self) -> Resume {
        Resume { session: self.welcome.session, secret: self.welcome.secret }
    }

    fn new_ino(&self) -> Ino {
        Ino(self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    async fn ask(&self, request: Request) -> Result<Answer, Failure> {
        self.volume.handle(self.id(), 1, request, Bytes::new()).await.0
    }

    async fn query(&self, query: Query) -> Result<QueryReply, Errno> {
        match self.ask(Request::Query(query)).await {
            Ok(Answer::Query(reply)) => Ok(reply),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(failure.errno),
        }
    }

    async fn call_as(&self, token: u64, op: MetaOp) -> (Applied, Vec<Grant>) {
        match self.ask(Request::Call { token, acked_below: 0, op }).await.expect("served") {
            Answer::Applied { mut applied, grants } => (applied.remove(0), grants),
            other => panic!("{other:?}"),
        }
    }

    async fn call(&self, op: MetaOp) -> (Applied, Vec<Grant>) {
        self.call_as(self.token.fetch_add(1, Ordering::Relaxed), op).await
    }

    async fn create(&self, parent: Ino, name: &str, node: NewNode) -> Result<Ino, Errno> {
        let ino = self.new_ino();
        self.call(create(parent, name, ino, node)).await.0.result.map(|_| ino)
    }

    async fn unlink(&self, name: &str) -> Result<(), Errno> {
        let op = MetaOp::Unlink { parent: Ino::ROOT, name: named(name), keep: false, time: Timestamp::now() };
        self.call(op).await.0.result.map(|_| ())
    }

    async fn lookup(&self, name: &str) -> Result<Option<Attr>, Errno> {
        let reply = self.query(Query::Lookup { parent: Ino::ROOT, name: named(name) }).await?;
        match reply.answer {
            QueryAnswer::Entry(found) => Ok(found.map(|(attr, _)| attr)),
            other => panic!("{other:?}"),
        }
    }

    async fn attr(&self, ino: Ino) -> Result<(Attr, Vec<Grant>), Errno> {
        let reply = self.query(Query::Attr { ino }).await?;
        match reply.answer {
            QueryAnswer::Attr(attr) => Ok((attr, reply.grants)),
            other => panic!("{other:?}"),
        }
    }

    /// Stores a blob and gives its number.
    async fn put(&self, ino: Ino, bytes: &[u8]) -> BlobId {
        let blob = BlobId(self.blobs.fetch_add(1, Ordering::Relaxed));
        let header = BlobHeader {
            blob,
            ino,
            chunk: 0,
            length: bytes.len() as u32,
            checksums: block_checksums(bytes),
            hash: blob_hash(bytes),
        };
        let bulk = Bytes::copy_from_slice(bytes);
        let (response, _) = self.volume.handle(self.id(), 1, Request::PutBlobs(vec![header]), bulk).await;
        response.expect("stored");
        blob
    }

    async fn read_blob(&self, blob: BlobId, length: u32) -> Result<Bytes, Errno> {
        let ranges = vec![BlobRange { blob, offset: 0, length }];
        let (response, bulk) = self.volume.handle(self.id(), 1, Request::ReadBlobs(ranges), Bytes::new()).await;
        response.map_err(|failure| failure.errno)?;
        Ok(Bytes::from(bulk.concat()))
    }

    async fn journal_as(&self, first: u64, ops: Vec<MetaOp>) -> Vec<Applied> {
        match self.ask(Request::Journal { first, ops }).await.expect("served") {
            Answer::Applied { applied, .. } => applied,
            other => panic!("{other:?}"),
        }
    }

    /// Stores bytes and writes them to the start of a file, by journal.
    async fn write(&self, ino: Ino, bytes: &[u8]) -> Applied {
        let blob = self.put(ino, bytes).await;
        let first = self.journal.fetch_add(1, Ordering::Relaxed);
        self.journal_as(first, vec![write(ino, blob, bytes.len() as u32)]).await.remove(0)
    }

    async fn content(&self, ino: Ino) -> Vec<u8> {
        let (attr, _) = self.attr(ino).await.expect("attributes");
        let reply = self.query(Query::Extents { ino, first_chunk: 0, count: 1 }).await.expect("extents");
        let QueryAnswer::Extents(chunks) = reply.answer else { panic!("{reply:?}") };
        let mut bytes = vec![0; attr.size as usize];
        for extent in chunks.iter().flat_map(|(_, list)| list.as_slice()) {
            let Source::Blob { blob, offset } = extent.source else { continue };
            let blob = self.read_blob(blob, offset + extent.length).await.expect("read");
            let range = extent.offset as usize..extent.end() as usize;
            bytes[range].copy_from_slice(&blob[offset as usize..(offset + extent.length) as usize]);
        }
        bytes
    }

    async fn sync(&self) -> u64 {
        match self.ask(Request::Sync).await.expect("synced") {
            Answer::Durable { order } => order,
            other => panic!("{other:?}"),
        }
    }

    /// The next recall.
    async fn recalled(&mut self) -> (Ino, LeaseMode, u64) {
        let recall = async {
            loop {
                match self.pushes.recv().await {
                    Some(Push::Recall { ino, leave, stamp }) => return (ino, leave, stamp),
                    Some(_) => {}
                    None => panic!("connection is cut"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), recall).await.expect("a recall")
    }

    async fn give_back(&self, ino: Ino, stamp: u64, keep: LeaseMode, open: bool) {
        self.ask(Request::ReturnLeases(vec![LeaseReturn { ino, stamp, keep, open }])).await.expect("returned");
    }

    /// Answers every recall at once, keeping what is allowed, until the volume lets go. Answers how it ended.
    fn obedient(mut self) -> (Arc<Mount>, tokio::task::JoinHandle<bool>) {
        let (_, empty) = push_channel();
        let mut pushes = std::mem::replace(&mut self.pushes, empty);
        let mount = Arc::new(self);
        let answering = Arc::clone(&mount);
        let task = tokio::spawn(async move {
            let mut fenced = false;
            while let Some(push) = pushes.recv().await {
                match push {
                    Push::Recall { ino, leave, stamp } => {
                        let returned = vec![LeaseReturn { ino, stamp, keep: leave, open: false }];
                        // The session may be over.
                        let _ = answering.ask(Request::ReturnLeases(returned)).await;
                    }
                    Push::Fenced => fenced = true,
                    _ => {}
                }
            }
            fenced
        });
        (mount, task)
    }
}

fn named(name: &str) -> Name {
    Name::new(name.as_bytes()).expect("a name")
}

fn create(parent: Ino, name: &str, ino: Ino, node: NewNode) -> MetaOp {
    MetaOp::Create {
        parent,
        name: named(name),
        ino,
        node,
        mode: 0o755,
        umask: 0,
        uid: 1,
        gid: 1,
        time: Timestamp::now(),
    }
}

fn write(ino: Ino, blob: BlobId, length: u32) -> MetaOp {
    let extent = Extent { offset: 0, length, source: Source::Blob { blob, offset: 0 } };
    MetaOp::Write {
        ino,
        extents: vec![WrittenExtent { chunk: 0, extent }],
        size: u64::from(length),
        mtime: Timestamp::now(),
        time: Timestamp::now(),
    }
}

fn counter(volume: &Volume, name: &str) -> u64 {
    volume.counters().into_iter().find(|(other, _)| other == name).map(|(_, value)| value).expect("counter")
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}
