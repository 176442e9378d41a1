//! On a real volume with a server in this process: what hangs on the volume itself, namely ACLs and replacement.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::{ConnectOptions, ServerAddress, SessionOptions, Volume, VolumeOptions};
use cairn_path::{Create, Credentials, Durability, Follow, Holes, OpenOptions, View};
use cairn_runtime::MemoryBudget;
use cairn_server::{NewVolume, Server, ServerConfig};
use cairn_types::{Errno, NewNode, Profile, XattrMode};
use cairn_wire::handshake::{ClientInfo, ClientKind};

/// Nothing in these tests takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

struct World {
    directory: tempfile::TempDir,
    config: ServerConfig,
    _server: Server,
}

impl World {
    async fn new() -> World {
        let directory = tempfile::tempdir().expect("directory");
        let config = ServerConfig::new(directory.path().join("data"));
        let server = Server::start(config.clone()).await.expect("server");
        let wanted = NewVolume {
            name: "tests".into(),
            bytes_limit: 1 << 30,
            inodes_limit: None,
            data_center: String::new(),
            chunk_size: 1 << 20,
            profile: Profile::default(),
        };
        server.state().catalogue().create(wanted).await.expect("volume");
        World { directory, config, _server: server }
    }

    async fn open(&self) -> (Volume, View<Volume>) {
        let socket = self.config.unix_socket.clone().expect("socket");
        let connect = ConnectOptions::new(ServerAddress::Unix(socket));
        let kind = ClientKind::Gateway { name: "tests".into() };
        let session = SessionOptions::new(connect, "tests", ClientInfo { kind, ..ClientInfo::default() });
        let recovery_dir = self.directory.path().join("recovery");
        let options = VolumeOptions { recovery_dir, ..VolumeOptions::new(MemoryBudget::of_process()) };
        let runtime = tokio::runtime::Handle::current();
        let volume = Volume::open(session, options, runtime.clone()).await.expect("opened");
        let view = View::new(volume.clone(), Credentials::superuser(), runtime).await.expect("a view");
        (volume, view)
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("in time") });
    runtime.shutdown_timeout(Duration::from_secs(1));
}

async fn read(view: &View<Volume>, path: &str) -> Result<Bytes, Errno> {
    let file = view.open(path, OpenOptions::default()).await.map_err(|error| error.errno())?;
    let bytes = file.read(0, 100).await.expect("read");
    file.close().await.expect("closed");
    Ok(bytes)
}

#[test]
fn a_file_is_replaced_for_everybody_at_once() {
    run(async {
        let world = World::new().await;
        let (volume, view) = world.open().await;
        let (other_volume, other) = world.open().await;
        view.make_directories("bucket", 0o755).await.expect("made");
        for content in ["first", "second", "third"] {
            let before = read(&other, "bucket/key").await;
            let replacement = view.replace("bucket/key", 0o640).await.expect("begun");
            replacement.file().write(0, Bytes::from_static(content.as_bytes())).await.expect("written");
            assert_eq!(read(&other, "bucket/key").await, before, "not yet");
            let attr = replacement.commit(Durability::Now).await.expect("in place");
            assert_eq!((attr.nlink, attr.size), (1, content.len() as u64));
            assert_eq!(read(&other, "bucket/key").await.as_deref(), Ok(content.as_bytes()));
        }
        let dropped = view.replace("bucket/key", 0o640).await.expect("begun");
        drop(dropped);
        let names: Vec<Bytes> = {
            let listed = other.list("bucket").await.expect("list").collect().await.expect("listed");
            listed.into_iter().map(|entry| entry.name).collect()
        };
        assert_eq!(names, ["key"]);
        drop((view, other));
        volume.close(LIMIT).await.expect("closed");
        other_volume.close(LIMIT).await.expect("closed");
    });
}

#[test]
fn only_data_is_streamed_unless_zeros_are_wanted() {
    run(async {
        let world = World::new().await;
        let (volume, view) = world.open().await;
        let options = OpenOptions { read: true, create: Create::New, ..OpenOptions::writing() };
        let file = view.open("sparse", options).await.expect("made");
        let far = 5 << 20;
        file.write(far, Bytes::from_static(b"data")).await.expect("written");
        file.set_size(far + 100).await.expect("grown");
        file.sync().await.expect("synced");
        let mut skipping = file.stream(0..u64::MAX, Holes::Skip);
        let mut data = 0;
        while let Some((offset, bytes)) = skipping.next().await.expect("read") {
            assert!(offset + bytes.len() as u64 > far, "{offset}");
            data += bytes.len();
        }
        assert!((4..1 << 20).contains(&data), "{data}");
        let mut filling = file.stream(1..u64::MAX, Holes::Fill);
        let mut at = 1;
        while let Some((offset, bytes)) = filling.next().await.expect("read") {
            assert_eq!(offset, at);
            at += bytes.len() as u64;
        }
        assert_eq!(at, far + 100);
        file.close().await.expect("closed");
        drop(view);
        volume.close(LIMIT).await.expect("closed");
    });
}

#[test]
fn an_acl_lets_in_whom_it_names_and_nobody_else() {
    run(async {
        let world = World::new().await;
        let (volume, view) = world.open().await;
        let node = view.make("f", NewNode::Regular, 0o600).await.expect("made");
        // Owner rw, user 1000 r, group none, mask r, others none.
        let entries: [(u16, u16, u32); 5] =
            [(1, 6, u32::MAX), (2, 4, 1000), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            acl.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat());
        }
        let name = Bytes::from_static(cairn_types::acl::ACCESS);
        view.set_xattr(&node, name, acl.into(), XattrMode::CreateOrReplace).await.expect("set");
        assert_eq!(view.stat("f", Follow::No).await.expect("there").mode, 0o640);
        let user = |uid| view.for_user(Credentials { uid, gid: uid, ..Credentials::default() });
        assert!(read(&user(1000), "f").await.is_ok());
        assert_eq!(read(&user(1001), "f").await, Err(Errno::EACCES));
        let write = user(1000).open("f", OpenOptions::writing()).await;
        assert_eq!(write.err().expect("refused").errno(), Errno::EACCES);
        drop(view);
        volume.close(LIMIT).await.expect("closed");
    });
}
