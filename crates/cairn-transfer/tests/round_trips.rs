//! Real trees through a real server: into a volume, out of it, as trees and as archives.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_client::{ConnectOptions, ServerAddress, SessionOptions, Volume, VolumeOptions};
use cairn_runtime::MemoryBudget;
use cairn_server::{NewVolume, Server, ServerConfig};
use cairn_transfer::archive::{Archive, ArchiveSink};
use cairn_transfer::local::{LocalSink, LocalTree};
use cairn_transfer::volume::{VolumeSink, VolumeTree};
use cairn_transfer::{Format, Progress, Source, TransferError, pump, verify};
use cairn_wire::handshake::ClientInfo;
use tokio::runtime::Runtime;

const JOBS: usize = 4;
const LIMIT: Duration = Duration::from_secs(30);

/// A server with one volume. Everything here blocks; the runtime's threads do the rest.
struct World {
    runtime: Runtime,
    server: Option<Server>,
    config: ServerConfig,
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
        let folder = tempfile::tempdir().expect("folder");
        let config = ServerConfig::new(folder.path().join("data"));
        let server = runtime.block_on(async {
            let server = Server::start(config.clone()).await.expect("server");
            let wanted = NewVolume {
                name: "vol".into(),
                bytes_limit: 10 << 30,
                inodes_limit: None,
                data_center: String::new(),
                chunk_size: 1 << 20,
                profile: cairn_types::Profile::default(),
            };
            server.state().catalogue().create(wanted).await.expect("volume");
            server
        });
        World { runtime, server: Some(server), config, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A session of its own, so that nothing is answered from another one's cache.
    fn volume(&self) -> Volume {
        let socket = self.config.unix_socket.clone().expect("socket");
        let connect = ConnectOptions::new(ServerAddress::Unix(socket));
        let session = SessionOptions::new(connect, "vol", ClientInfo::default());
        let options =
            VolumeOptions { recovery_dir: self.path("recovery"), ..VolumeOptions::new(MemoryBudget::of_process()) };
        self.runtime.block_on(Volume::open(session, options, self.runtime.handle().clone())).expect("opened")
    }

    fn close(&self, volume: &Volume) {
        self.runtime.block_on(volume.close(LIMIT)).expect("closed");
    }

    fn tree(&self, volume: &Volume, root: &str) -> VolumeTree {
        VolumeTree::new(volume.clone(), self.runtime.handle().clone(), root.into())
    }

    /// Copies into the volume and verifies through another session; gives the progress.
    fn import(&self, source: &dyn Source, root: &str) -> Result<Progress, TransferError> {
        let progress = Progress::default();
        let volume = self.volume();
        let outcome = pump(source, &VolumeSink::new(self.tree(&volume, root), true), JOBS, &progress);
        self.close(&volume);
        let copied = outcome?;
        let volume = self.volume();
        let verified = verify(&self.tree(&volume, root), &copied, JOBS, &Progress::default());
        self.close(&volume);
        verified.map(|()| progress)
    }

    fn export(&self, root: &str, to: &Path) -> Progress {
        let progress = Progress::default();
        let volume = self.volume();
        if let Some(format) = Format::of(to) {
            let sink = ArchiveSink::new(to.to_owned(), format).expect("archive");
            let copied = pump(&self.tree(&volume, root), &sink, JOBS, &progress).expect("exported");
            verify(&Archive::new(to.to_owned(), format), &copied, JOBS, &Progress::default()).expect("the same");
        } else {
            fs::create_dir_all(to).expect("folder");
            let sink = LocalSink::new(to.to_owned(), true);
            let copied = pump(&self.tree(&volume, root), &sink, JOBS, &progress).expect("exported");
            verify(&LocalTree::new(to.to_owned()), &copied, JOBS, &Progress::default()).expect("the same");
        }
        self.close(&volume);
        progress
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown()).expect("stopped");
        }
    }
}

/// Everything about a node that a copy must keep.
type Facts = BTreeMap<PathBuf, (u32, i64, i64, u64, u64, Vec<u8>)>;

/// What is below a folder. Without `exact`, what a zip cannot keep is left out.
fn facts(root: &Path, exact: bool) -> Facts {
    fn walk(root: &Path, path: &Path, exact: bool, into: &mut Facts) {
        for entry in fs::read_dir(root.join(path)).expect("listed") {
            let path = path.join(entry.expect("entry").file_name());
            let full = root.join(&path);
            let told = fs::symlink_metadata(&full).expect("there");
            let content = if told.is_symlink() {
                fs::read_link(&full).expect("link").into_os_string().into_encoded_bytes()
            } else if told.is_file() {
                fs::read(&full).expect("read")
            } else {
                Vec::new()
            };
            let links = if told.is_dir() || !exact { 0 } else { told.nlink() };
            let (secs, nanos) = if exact { (told.mtime(), told.mtime_nsec()) } else { (told.mtime() / 2, 0) };
            let size = if told.is_dir() { 0 } else { told.len() };
            let times = if told.is_symlink() && !exact { (0, 0) } else { (secs, nanos) };
            let mode = if exact { told.mode() } else { told.mode() & !0o7000 };
            into.insert(path.clone(), (mode, times.0, times.1, size, links, content));
            if told.is_dir() {
                walk(root, &path, exact, into);
            }
        }
    }
    let mut found = Facts::new();
    walk(root, Path::new(""), exact, &mut found);
    found
}

/// Both are the same; if not, says where without printing whole files.
fn assert_same(one: &Facts, other: &Facts, what: &str) {
    let short = |facts: &Facts, path: &Path| facts.get(path).map(|fact| (fact.0, fact.1, fact.2, fact.3, fact.4));
    for path in one.keys().chain(other.keys()) {
        assert_eq!(short(one, path), short(other, path), "{what}: {}", path.display());
        assert!(one[path].5 == other[path].5, "{what}: the bytes of {} differ", path.display());
    }
}

/// A tree with all that trees hold; `plain` leaves out what a zip cannot keep.
fn make_tree(root: &Path, plain: bool) {
    fs::create_dir_all(root.join("a/b/empty")).expect("folders");
    fs::write(root.join("a/one"), b"one").expect("file");
    fs::write(root.join("a/nothing"), b"").expect("file");
    let large: Vec<u8> = (0..2_000_123u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(root.join("a/b/large"), &large).expect("file");
    for number in 0..60u32 {
        fs::write(root.join(format!("a/b/small{number}")), number.to_string().repeat(50)).expect("file");
    }
    symlink("../one", root.join("a/b/link")).expect("link");
    symlink("/nowhere/at/all", root.join("dangling")).expect("link");
    fs::set_permissions(root.join("a/one"), fs::Permissions::from_mode(0o4751)).expect("mode");
    fs::set_permissions(root.join("a/b/empty"), fs::Permissions::from_mode(0o1700)).expect("mode");
    let name = "long-".repeat(40);
    fs::create_dir(root.join(&name)).expect("folder");
    fs::write(root.join(&name).join(format!("{name}x")), "deep").expect("file");
    if !plain {
        fs::hard_link(root.join("a/one"), root.join("another name")).expect("link");
        let sparse = fs::File::create(root.join("sparse")).expect("file");
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 10 << 20).expect("written");
        sparse.set_len(16 << 20).expect("size");
        // Not every file system that tests run on has attributes; then nothing is compared either.
        let _ =
            rustix::fs::lsetxattr(root.join("a/one"), "user.colour", b"blue\0green", rustix::fs::XattrFlags::empty());
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, mode, 0).expect("fifo");
    }
    for (path, time) in [("a/one", 1_234_567_890), ("a/b", 1_300_000_001), ("a", 1_400_000_000)] {
        let opened = fs::File::open(root.join(path)).expect("opened");
        let time = std::time::UNIX_EPOCH + Duration::new(time, if plain { 0 } else { 123_456_789 });
        opened.set_modified(time).expect("time");
    }
}

fn attribute(path: &Path) -> Option<Vec<u8>> {
    let mut value = vec![0; 100];
    let length = rustix::fs::lgetxattr(path, "user.colour", &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let world = World::new();
    let tree = world.path("tree");
    make_tree(&tree, false);
    let progress = world.import(&LocalTree::new(tree.clone()), "deep/in/the volume").expect("imported");
    assert_eq!(progress.kept(), 0);
    let back = world.path("back");
    world.export("deep/in/the volume", &back);
    assert_same(&facts(&tree, true), &facts(&back, true), "tree");
    assert_eq!(attribute(&tree.join("a/one")), attribute(&back.join("a/one")));
    let blocks = |root: &Path| fs::metadata(root.join("sparse")).expect("there").blocks() * 512;
    assert!(blocks(&back) < 4 << 20, "holes stay holes: {}", blocks(&back));
}

#[test]
fn every_archive_holds_the_tree() {
    let world = World::new();
    for (name, plain) in [("x.tar", false), ("x.tar.gz", true), ("x.tar.zst", false), ("x.zip", true)] {
        let tree = world.path(&format!("tree of {}", name.replace('.', " ")));
        make_tree(&tree, plain);
        let root = format!("from tree {name}");
        world.import(&LocalTree::new(tree.clone()), &root).expect("imported");
        let archive = world.path(name);
        world.export(&root, &archive);
        let again = format!("from archive {name}");
        let format = Format::of(&archive).expect("an archive");
        world.import(&Archive::new(archive, format), &again).expect("unpacked");
        let back = world.path(&format!("back from {}", name.replace('.', " ")));
        world.export(&again, &back);
        let exact = name != "x.zip";
        assert_same(&facts(&tree, exact), &facts(&back, exact), name);
        if exact {
            assert_eq!(attribute(&tree.join("a/one")), attribute(&back.join("a/one")), "{name}");
        }
    }
}

#[test]
fn archives_of_others_are_read_and_ours_are_read_by_others() {
    let world = World::new();
    let tree = world.path("tree");
    make_tree(&tree, false);
    let theirs = world.path("theirs.tar.gz");
    let made = std::process::Command::new("tar").arg("-C").arg(&tree).args(["-czf"]).arg(&theirs).arg(".").status();
    assert!(made.expect("tar runs").success());
    world.import(&Archive::new(theirs, Format::TarGz), "theirs").expect("unpacked");
    let ours = world.path("ours.tar");
    world.export("theirs", &ours);
    let back = world.path("back");
    fs::create_dir(&back).expect("folder");
    let read = std::process::Command::new("tar").arg("-C").arg(&back).args(["-xpf"]).arg(&ours).status();
    assert!(read.expect("tar runs").success());
    // Their format keeps whole seconds unless asked for more.
    let whole = |mut facts: Facts| {
        for fact in facts.values_mut() {
            fact.2 = 0;
        }
        facts
    };
    assert_same(&whole(facts(&tree, true)), &whole(facts(&back, true)), "tar");
}

#[test]
fn what_is_there_already_is_kept_and_what_is_half_is_made_anew() {
    let world = World::new();
    let tree = world.path("tree");
    make_tree(&tree, true);
    world.import(&LocalTree::new(tree.clone()), "copy").expect("imported");
    // The time is that of the interrupted write, not of the source.
    let half = world.path("half");
    fs::create_dir_all(half.join("a/b")).expect("folder");
    fs::write(half.join("a/b/large"), vec![0u8; 2_000_123]).expect("file");
    world.import(&LocalTree::new(half), "copy").expect("imported");
    let again = world.import(&LocalTree::new(tree.clone()), "copy").expect("imported");
    let files = facts(&tree, true).values().filter(|fact| fact.0 & 0o170_000 == 0o100_000).count() as u64;
    assert_eq!(again.kept(), files - 1);
    let back = world.path("back");
    world.export("copy", &back);
    assert_same(&facts(&tree, true), &facts(&back, true), "tree");
    assert_eq!(world.export("copy", &back).kept(), files, "nothing is written twice");
}

#[test]
fn a_copy_that_was_changed_behind_our_back_is_found() {
    let world = World::new();
    let tree = world.path("tree");
    make_tree(&tree, true);
    let volume = world.volume();
    let sink = VolumeSink::new(world.tree(&volume, "copy"), true);
    let copied = pump(&LocalTree::new(tree.clone()), &sink, JOBS, &Progress::default()).expect("copied");
    fs::write(tree.join("a/b/small7"), "other bytes").expect("changed");
    verify(&world.tree(&volume, "copy"), &copied, JOBS, &Progress::default()).expect("the copy is right");
    let error = verify(&LocalTree::new(tree.clone()), &copied, JOBS, &Progress::default()).expect_err("differs");
    assert!(matches!(error, TransferError::Differs { path } if path == Path::new("a/b/small7")));
    fs::remove_file(tree.join("a/b/small7")).expect("removed");
    let error = verify(&LocalTree::new(tree), &copied, JOBS, &Progress::default()).expect_err("is missing");
    assert!(matches!(error, TransferError::Differs { path } if path == Path::new("a/b/small7")));
    world.close(&volume);
}

#[test]
fn damaged_and_hostile_archives_are_refused() {
    let world = World::new();
    let tree = world.path("tree");
    make_tree(&tree, true);
    world.import(&LocalTree::new(tree), "copy").expect("imported");
    for name in ["x.tar", "x.tar.gz", "x.tar.zst", "x.zip"] {
        let archive = world.path(name);
        world.export("copy", &archive);
        let whole = fs::metadata(&archive).expect("there").len();
        fs::OpenOptions::new().write(true).open(&archive).expect("opened").set_len(whole / 2).expect("cut");
        let format = Format::of(&archive).expect("an archive");
        let error = world.import(&Archive::new(archive, format), &format!("cut {name}")).map(|_| ()).expect_err(name);
        assert!(matches!(error, TransferError::Archive { .. }), "{name}: {error}");
    }
    let hostile = world.path("hostile.tar");
    let mut builder = tar::Builder::new(fs::File::create(&hostile).expect("file"));
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..9].copy_from_slice(b"../escape");
    header.set_size(0);
    header.set_cksum();
    builder.append(&header, std::io::empty()).expect("appended");
    builder.into_inner().expect("written");
    let error = world.import(&Archive::new(hostile, Format::Tar), "hostile").map(|_| ()).expect_err("refused");
    assert!(error.to_string().contains("leads out"), "{error}");
}

#[test]
fn a_single_file_keeps_its_name_and_a_missing_one_is_told() {
    let world = World::new();
    let file = world.path("model.bin");
    fs::write(&file, b"weights").expect("file");
    world.import(&LocalTree::new(file), "models").expect("imported");
    let back = world.path("back");
    world.export("models/model.bin", &back);
    assert_eq!(fs::read(back.join("model.bin")).expect("there"), b"weights");
    let volume = world.volume();
    let nowhere = world.tree(&volume, "models/absent");
    let sink = LocalSink::new(back, false);
    let error = pump(&nowhere, &sink, JOBS, &Progress::default()).expect_err("absent").to_string();
    assert!(error.contains("models/absent"), "{error}");
    world.close(&volume);
}

#[test]
fn a_transfer_can_be_stopped() {
    let world = World::new();
    let tree = world.path("tree");
    make_tree(&tree, true);
    let progress = Progress::default();
    progress.stop();
    let volume = world.volume();
    let sink = VolumeSink::new(world.tree(&volume, "stopped"), false);
    let outcome = pump(&LocalTree::new(tree), &sink, JOBS, &progress);
    assert!(matches!(outcome, Err(TransferError::Stopped)));
    world.close(&volume);
}
