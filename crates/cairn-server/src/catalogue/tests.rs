//! The rules of the catalogue, with real volumes in a temporary directory.

use cairn_engine::push_channel;
use cairn_types::limits::CHUNK_SIZE_DEFAULT;
use cairn_wire::handshake::{ClientInfo, ClientKind};

use super::*;

fn wanted(name: &str) -> NewVolume {
    NewVolume {
        name: name.to_owned(),
        bytes_limit: 1 << 30,
        inodes_limit: None,
        data_center: "US-TX-2".to_owned(),
        chunk_size: CHUNK_SIZE_DEFAULT,
        profile: cairn_types::Profile::default(),
    }
}

async fn open(directory: &Path) -> Catalogue {
    let store = Arc::new(Store::open(&directory.join("server.redb")).expect("store"));
    Catalogue::open(store, directory.join("volumes"), VolumeOptions::default()).await.expect("catalogue")
}

async fn close(catalogue: Catalogue) {
    assert_eq!(catalogue.close(Duration::from_secs(10)).await, Vec::<String>::new());
}

/// Names of the volumes and of what is on disk.
async fn seen(catalogue: &Catalogue) -> (Vec<String>, Vec<String>) {
    let names = catalogue.list(|_| true).await.into_iter().map(|status| status.info.name).collect();
    let mut files: Vec<String> = fs::read_dir(&catalogue.directory)
        .expect("directory")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    files.sort();
    (names, files)
}

#[tokio::test]
async fn a_volume_outlives_a_restart_with_its_changes() {
    let directory = tempfile::tempdir().expect("directory");
    let catalogue = open(directory.path()).await;
    let made = catalogue.create(wanted("first")).await.expect("made");
    assert_eq!((made.info.inodes_limit, made.trouble.as_str()), (1 << 20, ""));
    assert_eq!(made.usage.bytes_limit, 1 << 30);
    catalogue.resize(&made.info.id, Some(2 << 30), None).await.expect("resized");
    catalogue.rename(&made.info.id, "renamed".to_owned()).await.expect("renamed");
    close(catalogue).await;

    let catalogue = open(directory.path()).await;
    catalogue.open_at_start().await;
    let id = catalogue.resolve("renamed", |_| true).expect("found by name");
    let shown = catalogue.show(&id).await.expect("shown");
    let expected = VolumeInfo { name: "renamed".to_owned(), bytes_limit: 2 << 30, ..made.info };
    assert_eq!(shown.info, expected);
    close(catalogue).await;
}

#[tokio::test]
async fn what_breaks_a_rule_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let catalogue = open(directory.path()).await;
    let bad = [
        NewVolume { name: String::new(), ..wanted("x") },
        NewVolume { bytes_limit: 0, ..wanted("x") },
        NewVolume { inodes_limit: Some(0), ..wanted("x") },
        NewVolume { chunk_size: 3 << 20, ..wanted("x") },
        NewVolume { data_center: "a\nb".to_owned(), ..wanted("x") },
    ];
    for volume in bad {
        let error = catalogue.create(volume.clone()).await.expect_err("refused");
        assert_eq!(error.errno(), cairn_types::Errno::EINVAL, "{volume:?}: {error}");
    }
    assert_eq!(seen(&catalogue).await, (Vec::new(), Vec::new()));
    close(catalogue).await;
}

#[tokio::test]
async fn a_name_that_several_volumes_share_is_refused_with_their_ids() {
    let directory = tempfile::tempdir().expect("directory");
    let catalogue = open(directory.path()).await;
    let first = catalogue.create(wanted("twin")).await.expect("made").info.id;
    let second = catalogue.create(wanted("twin")).await.expect("made").info.id;
    let message = catalogue.resolve("twin", |_| true).expect_err("ambiguous").to_string();
    assert!(message.contains(first.as_str()) && message.contains(second.as_str()), "{message}");
    assert_eq!(catalogue.resolve(second.as_str(), |_| true).expect("by id"), second);
    // Somebody who may know of one only is told nothing of the other.
    assert_eq!(catalogue.resolve("twin", |id| *id == first).expect("by name"), first);
    assert!(matches!(catalogue.resolve(second.as_str(), |id| *id == first), Err(CatalogueError::UnknownVolume(_))));
    assert!(matches!(catalogue.resolve("nobody", |_| true), Err(CatalogueError::UnknownVolume(_))));
    close(catalogue).await;
}

#[tokio::test]
async fn limits_do_not_go_below_what_is_used() {
    let directory = tempfile::tempdir().expect("directory");
    let catalogue = open(directory.path()).await;
    let id = catalogue.create(wanted("small")).await.expect("made").info.id;
    let used = catalogue.show(&id).await.expect("shown").usage;
    assert!(used.inodes_used >= 1, "the root counts");
    let wanted = used.inodes_used - 1;
    if wanted > 0 {
        let error = catalogue.resize(&id, None, Some(wanted)).await.expect_err("refused");
        assert!(matches!(error, CatalogueError::BelowUse { unit: "inodes", .. }), "{error}");
    }
    assert!(matches!(catalogue.resize(&id, None, Some(0)).await, Err(CatalogueError::InvalidInodesLimit(0))));
    assert!(matches!(catalogue.resize(&id, Some(0), None).await, Err(CatalogueError::InvalidBytesLimit(0))));
    close(catalogue).await;
}

#[tokio::test]
async fn a_mounted_volume_is_not_deleted() {
    let directory = tempfile::tempdir().expect("directory");
    let catalogue = open(directory.path()).await;
    let id = catalogue.create(wanted("busy")).await.expect("made").info.id;
    let info = ClientInfo {
        host: "box".to_owned(),
        pid: 7,
        kind: ClientKind::Mount { directory: "/workspace".to_owned() },
        read_only: false,
    };
    let volume = catalogue.open_volume(&id).await.expect("open").shared();
    let (sender, _pushes) = push_channel();
    let (welcome, _) = volume.attach(info, "test".to_owned(), None, sender).await.expect("attached");
    let error = catalogue.delete(&id).await.expect_err("refused");
    assert_eq!(error.errno(), cairn_types::Errno::EBUSY);
    assert!(error.to_string().contains("/workspace on box"), "{error}");
    assert_eq!(seen(&catalogue).await, (vec!["busy".to_owned()], vec![id.to_string()]));

    let (answer, _) = volume.handle(welcome.session, 1, cairn_wire::Request::Goodbye, bytes::Bytes::new()).await;
    answer.expect("the session ends");
    drop(volume);
    catalogue.delete(&id).await.expect("deleted");
    assert!(matches!(catalogue.show(&id).await, Err(CatalogueError::UnknownVolume(_))));
    assert!(matches!(catalogue.delete(&id).await, Err(CatalogueError::UnknownVolume(_))));
    close(catalogue).await;
    let catalogue = open(directory.path()).await;
    assert_eq!(seen(&catalogue).await, (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn interrupted_creations_and_deletions_are_finished_at_the_next_start() {
    let directory = tempfile::tempdir().expect("directory");
    let volumes = directory.path().join("volumes");
    let catalogue = open(directory.path()).await;
    let kept = catalogue.create(wanted("kept")).await.expect("made").info.id;
    let dying = catalogue.create(wanted("dying")).await.expect("made").info.id;
    let unrecorded = catalogue.create(wanted("unrecorded")).await.expect("made").info.id;
    let broken = catalogue.create(wanted("broken")).await.expect("made").info.id;
    let store = Arc::clone(&catalogue.store);
    close(catalogue).await;
    // As if the server had died between two steps of each.
    fs::rename(volumes.join(dying.as_str()), volumes.join(format!("{dying}.deleted"))).expect("renamed");
    fs::create_dir(volumes.join("aaaaaaaaaa.new")).expect("made");
    store.remove_volume(&unrecorded).expect("removed");
    fs::remove_dir_all(volumes.join(broken.as_str())).expect("removed");
    drop(store);

    let catalogue = open(directory.path()).await;
    let mut expected = [(kept.clone(), "kept"), (unrecorded.clone(), "unrecorded"), (broken.clone(), "broken")];
    expected.sort();
    let (names, files) = seen(&catalogue).await;
    assert_eq!(names, expected.iter().map(|(_, name)| (*name).to_owned()).collect::<Vec<_>>());
    let mut on_disk = vec![kept.to_string(), unrecorded.to_string()];
    on_disk.sort();
    assert_eq!(files, on_disk);
    // A volume whose directory is gone says so, and can still be deleted.
    assert_ne!(catalogue.show(&broken).await.expect("shown").trouble, "");
    assert!(matches!(catalogue.open_volume(&broken).await, Err(CatalogueError::Broken { .. })));
    catalogue.delete(&broken).await.expect("deleted");
    close(catalogue).await;
}
