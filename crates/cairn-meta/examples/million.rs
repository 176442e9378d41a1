//! What a million small files cost: bytes on disk for each, operations per second, and the time to open the file again
//! after a kill.
//!
//! `cargo run --release -p cairn-meta --example million [FILES] [DIRECTORY]`
//!
//! Makes files of 1 KiB in directories of 1,000, as a client does: each by a `Create` and then a `Write` of one blob; in
//! batches of 100 operations, every hundredth batch durable. It then starts itself again, kills that process in the
//! middle of its work, and opens what it left.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cairn_meta::kv::{LocalOpener, Opener};
use cairn_meta::{ApplyContext, Batch, Durability, VolumeConfig, VolumeStore, check};
use cairn_types::limits::CHUNK_SIZE_DEFAULT;
use cairn_types::{
    BlobId, BlobPlace, Extent, Ino, MetaOp, Name, NewNode, PackId, SessionId, Source, Timestamp, VolumeId,
    WrittenExtent,
};

const FILE_BYTES: u32 = 1024;
const FILES_PER_DIRECTORY: u64 = 1000;
const OPS_PER_BATCH: u64 = 100;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let files: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = folder.join("cairn-million");
    if arguments.next().as_deref() == Some("work-until-killed") {
        return work_until_killed(&directory);
    }
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    std::fs::create_dir(&directory)?;
    let store = VolumeStore::create(LocalOpener::new(&directory).create()?, config())?;
    let start = Instant::now();
    make_files(&store, Ino::ROOT, files)?;
    store.begin()?.commit(Durability::Durable)?;
    report("create and write", files, start.elapsed());
    println!("{:.1} bytes on disk for each file", store.stored_bytes()? as f64 / files as f64);

    let start = Instant::now();
    let findings = check::check(&store.snapshot(), &mut |_| {})?;
    report("check", files, start.elapsed());
    assert!(findings.is_empty(), "{findings:?}");

    let start = Instant::now();
    single_commits(&store, 10_000)?;
    report("non-durable commits of one operation", 10_000, start.elapsed());
    let start = Instant::now();
    for _ in 0..100 {
        make_files(&store, Ino::ROOT, 1)?;
        store.begin()?.commit(Durability::Durable)?;
    }
    report("durable commits", 100, start.elapsed());
    drop(store);
    let start = Instant::now();
    drop(open(&directory)?);
    println!("open after an orderly close: {:?}", start.elapsed());

    kill_and_open(&directory, files, &folder)?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn report(what: &str, count: u64, took: Duration) {
    println!("{what}: {took:.2?}, {:.0} a second", count as f64 / took.as_secs_f64());
}

fn config() -> VolumeConfig {
    VolumeConfig {
        id: VolumeId::from_entropy(1),
        name: "million".to_owned(),
        data_center: String::new(),
        chunk_size: CHUNK_SIZE_DEFAULT,
        bytes_limit: u64::MAX,
        inodes_limit: u64::MAX,
        created: 0,
        profile: "native".to_owned(),
        allocation: cairn_types::Allocation::NATIVE,
    }
}

fn place(blob: BlobId) -> BlobPlace {
    let stored_len = FILE_BYTES + 60;
    BlobPlace {
        pack: PackId((blob.0 >> 16) as u32),
        offset: (blob.0 & 0xffff) * u64::from(stored_len),
        payload_len: FILE_BYTES,
        stored_len,
    }
}

fn apply(batch: &mut Batch, op: &MetaOp) -> Outcome<()> {
    let context = ApplyContext {
        session: SessionId(1),
        headroom_bytes: u64::MAX,
        headroom_inodes: u64::MAX,
        pending_blobs: &|blob| Some(place(blob)),
        open_elsewhere: &|_| Vec::new(),
    };
    batch.apply(&context, op)?;
    Ok(())
}

fn create(batch: &mut Batch, parent: Ino, name: &str, node: NewNode) -> Outcome<Ino> {
    let ino = batch.allocate_inos(1);
    let (name, time) = (Name::new(name.as_bytes())?, Timestamp::now());
    apply(batch, &MetaOp::Create { parent, name, ino, node, mode: 0o666, umask: 0o022, uid: 1000, gid: 1000, time })?;
    Ok(ino)
}

fn make_files(store: &VolumeStore, root: Ino, files: u64) -> Outcome<()> {
    let (mut made, mut batches) = (0, 0u64);
    let mut directory = root;
    while made < files {
        let mut batch = store.begin()?;
        for _ in 0..(OPS_PER_BATCH / 2).min(files - made) {
            if made % FILES_PER_DIRECTORY == 0 {
                let number = batch.volume().inodes_used;
                directory = create(&mut batch, root, &format!("directory-{number}"), NewNode::Directory)?;
            }
            let ino = create(&mut batch, directory, &format!("file-{made:08}.txt"), NewNode::Regular)?;
            let source = Source::Blob { blob: batch.allocate_blobs(1), offset: 0 };
            let extent = Extent { offset: 0, length: FILE_BYTES, source };
            let extents = vec![WrittenExtent { chunk: 0, extent }];
            apply(
                &mut batch,
                &MetaOp::Write {
                    ino,
                    extents,
                    size: FILE_BYTES.into(),
                    mtime: Timestamp::now(),
                    time: Timestamp::now(),
                },
            )?;
            made += 1;
        }
        batches += 1;
        batch.commit(if batches.is_multiple_of(100) { Durability::Durable } else { Durability::Buffered })?;
    }
    Ok(())
}

fn single_commits(store: &VolumeStore, count: u64) -> Outcome<()> {
    for index in 0..count {
        let mut batch = store.begin()?;
        create(&mut batch, Ino::ROOT, &format!("single-{index}"), NewNode::Regular)?;
        batch.commit(Durability::Buffered)?;
    }
    Ok(())
}

fn kill_and_open(directory: &Path, files: u64, folder: &Path) -> Outcome<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([files.to_string().as_str(), &folder.to_string_lossy(), "work-until-killed"])
        .spawn()?;
    std::thread::sleep(Duration::from_secs(3));
    child.kill()?;
    child.wait()?;
    let start = Instant::now();
    let store = open(directory)?;
    println!("open after kill -9: {:?}", start.elapsed());
    let findings = check::check(&store.snapshot(), &mut |_| {})?;
    assert!(findings.is_empty(), "{findings:?}");
    Ok(())
}

fn open(directory: &Path) -> Outcome<VolumeStore> {
    Ok(VolumeStore::open(LocalOpener::new(directory).open(&mut |_| Ok(()))?)?)
}

fn work_until_killed(directory: &Path) -> Outcome<()> {
    let store = open(directory)?;
    loop {
        make_files(&store, Ino::ROOT, 1000)?;
    }
}
