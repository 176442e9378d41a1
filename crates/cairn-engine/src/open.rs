//! Making a volume, and opening one: whatever a crash has left is put in order here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_chunks::Recovery;
use cairn_locks::{Mutex, RwLock};
use cairn_meta::{ApplyContext, Durability, Snapshot, VolumeConfig, VolumeStore};
use cairn_types::{AttrChange, BlobPlace, Ino, MetaOp, PackId, SessionId, Timestamp};
use cairn_wire::admin::VolumeInfo;
use rustix::process::{getegid, geteuid};

use crate::committer::{self, Committer, Kind, Worker};
use crate::counters::Counters;
use crate::disk::Disk;
use crate::lock_requests::Locks;
use crate::maintenance::Maintenance;
use crate::open_files::OpenFiles;
use crate::pending::PendingBlobs;
use crate::recall::Leases;
use crate::reservations::Reservations;
use crate::restart::Restart;
use crate::sessions::Sessions;
use crate::usage::StoredBytes;
use crate::{Inner, Storage, Volume, VolumeError, VolumeOptions};

pub(crate) fn create(storage: &Storage, info: VolumeInfo) -> Result<(), VolumeError> {
    let config = VolumeConfig {
        id: info.id,
        name: info.name,
        data_center: info.data_center,
        chunk_size: info.chunk_size,
        bytes_limit: info.bytes_limit,
        inodes_limit: info.inodes_limit,
        created: info.created,
        profile: info.profile,
        allocation: info.allocation,
    };
    let store = VolumeStore::create(storage.metadata.create()?, config)?;
    give_root_directory_to(&store, geteuid().as_raw(), getegid().as_raw())?;
    storage.blobs.open(&[])?;
    Ok(())
}

/// A volume's first directory belongs to whom the server belongs to: an ordinary user can use what he makes for himself.
fn give_root_directory_to(store: &VolumeStore, uid: u32, gid: u32) -> Result<(), VolumeError> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    let change = AttrChange { uid: Some(uid), gid: Some(gid), ..AttrChange::default() };
    let mut batch = store.begin()?;
    let context = ApplyContext {
        session: SessionId(0),
        headroom_bytes: u64::MAX,
        headroom_inodes: u64::MAX,
        pending_blobs: &|_| None,
        open_elsewhere: &|_| Vec::new(),
    };
    batch
        .apply(&context, &MetaOp::SetAttr { ino: Ino::ROOT, change, time: Timestamp::now() })
        .map_err(|error| VolumeError::Refused(error.to_string()))?;
    batch.commit(Durability::Durable)?;
    Ok(())
}

pub(crate) async fn open(storage: &Storage, options: &VolumeOptions) -> Result<Volume, VolumeError> {
    let (storage, options) = (storage.clone(), options.clone());
    let opening = tokio::task::spawn_blocking(move || open_stores(&storage, options));
    let (inner, lost) = opening.await.map_err(|_| VolumeError::Refused("opening failed".to_owned()))??;
    let shared = Arc::clone(&inner);
    std::thread::Builder::new()
        .name("cairn-commit".to_owned())
        .spawn(move || committer::run(shared))
        .map_err(VolumeError::Thread)?;
    let volume = Volume { inner };
    let inner = &volume.inner;
    inner.start_maintenance().map_err(VolumeError::Thread)?;
    // Sessions of which nothing is left but their rows.
    inner
        .committer
        .submit(Kind::Durable, move |round| {
            for session in lost {
                let removed = round.batch.remove_session(session);
                // Trouble ends the round, and so the opening.
                let _ = round.answer(removed);
            }
        })
        .await?;
    let grace = Arc::clone(inner).end_grace(inner.options.grace());
    if inner.sessions.is_empty() {
        grace.await;
    } else {
        tracing::info!(volume = %inner.id, sessions = inner.sessions.all().len(), "waiting for sessions to come back");
        tokio::spawn(grace);
    }
    Ok(volume)
}

/// Opens what is stored. Also answers sessions that cannot come back.
pub(crate) fn open_stores(
    storage: &Storage,
    options: VolumeOptions,
) -> Result<(Arc<Inner>, Vec<SessionId>), VolumeError> {
    let mut restore = |tails: &[u8]| storage.blobs.restore_tails(tails);
    let store = VolumeStore::open(storage.metadata.open(&mut restore)?)?;
    let salvage = store.salvage()?;
    let snapshot = store.snapshot();
    let records = snapshot.pack_records()?;
    let known: Vec<(PackId, u64)> = records.iter().map(|(pack, record)| (*pack, record.durable_length)).collect();
    let (blob_store, recovery) = storage.blobs.open(&known)?;
    let blobs = PendingBlobs::default();
    blobs.set_recorded(known.into_iter());
    let useless = adopt(&snapshot, &blobs, &recovery)?;
    let live = |pack: PackId| records.iter().any(|(known, record)| *known == pack && record.live_blobs > 0);
    let damaged = recovery.problems.iter().filter(|problem| live(problem.pack)).count();
    let damage = match damaged {
        0 if salvage.is_empty() => String::new(),
        0 => salvage.to_string(),
        _ => {
            format!("{damaged} damaged places were found in packs when the volume was opened: run `cairn fsck --data`")
        }
    };

    let sessions = Sessions::new(options.lease_ttl);
    let leases = Leases::new(first_stamp());
    let mut lost = Vec::new();
    for (id, record) in snapshot.sessions()? {
        match sessions.recall_from_record(id, &record.info) {
            Some(_) => leases.with(|table| table.add_session(id)),
            None => lost.push(id),
        }
    }
    let restart = Restart::new(sessions.all().iter().map(|session| session.id));
    let id = snapshot.config().id.clone();
    let order = snapshot.last_order();
    drop(snapshot);
    tracing::info!(volume = %id, order, pending = recovery.blobs.len(), sessions = sessions.all().len(), "volume opened");
    let inner = Arc::new_cyclic(|weak| Inner {
        weak: weak.clone(),
        id,
        store: RwLock::new(Some(store)),
        disk: Disk::new(Arc::clone(&blob_store)),
        blob_store,
        committer: Committer::default(),
        worker: Mutex::new(Worker::default()),
        leases,
        sessions,
        open_files: OpenFiles::default(),
        locks: Locks::default(),
        blobs,
        reservations: Reservations::default(),
        restart,
        maintenance: Maintenance::default(),
        counters: Counters::default(),
        stored: StoredBytes::default(),
        order_at_start: order,
        durable_order: AtomicU64::new(order),
        dead_when_durable: Mutex::new(useless),
        readers: AtomicUsize::new(0),
        unflushed: AtomicU64::new(0),
        deleted: AtomicBool::new(true),
        damage,
        closing: AtomicBool::new(false),
        options,
    });
    Ok((inner, lost))
}

/// Sorts what recovery has found: blobs that may yet be referred to, and copies that nobody will ask for.
fn adopt(snapshot: &Snapshot, blobs: &PendingBlobs, recovery: &Recovery) -> Result<Vec<BlobPlace>, VolumeError> {
    let mut useless = Vec::new();
    for found in &recovery.blobs {
        let needed = match snapshot.blob_record(found.blob)? {
            Some(record) => record.place == found.place,
            None => blobs.found(found.blob, found.place),
        };
        if !needed {
            useless.push(found.place);
        }
    }
    Ok(useless)
}

/// A stamp larger than any that an earlier run has given: it gave fewer than a thousand million a second.
fn first_stamp() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
