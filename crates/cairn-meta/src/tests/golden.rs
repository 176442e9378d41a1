//! Rows as they lie on disks already, in hexadecimal. They were written down from `docs/on-disk.md`, not printed by the
//! encoders. A test that fails here means that existing volumes would be misread: a change needs a new format version, and
//! these bytes must still be read.

use std::ops::ControlFlow;

use bytes::Bytes;
use cairn_types::{
    Allocation, Attr, AttrFlags, BlobId, BlobPlace, Extent, ExtentList, FileKind, Ino, PackId, SessionId, Source,
    Timestamp, VolumeId, limits::CHUNK_SIZE_MAX,
};
use redb::{Database, ReadableDatabase, TableDefinition, TableHandle};

use crate::kv::{Condition, Durability, KeyValueStore, LocalOpener, MemoryStore, Opener};
use crate::record::{
    BlobRecord, EntryRecord, InodeRecord, PackRecord, SessionRecord, VolumeConfig, VolumeRecord, decode_extents,
    encode_extents,
};
use crate::{VolumeStore, layout};

const NEW_VOLUME: &str = "030a6167763677327163673704776f726b0445552d318080800280808080288080a00180ee89ab0d\
                          00010201010100066e617469766580040080808020";
/// As programs wrote it that knew no log.
const FIRST_VOLUME: &str = "010a6167763677327163673704776f726b0445552d318080800280808080288080a00180ee89ab0d\
                            00010201010100";
const USED_VOLUME: &str = "030a6167763677327163673704776f726b0445552d318080800280808080288080a00180ee89ab0d\
                           80200282801081801083801080801003066e617469766580040080808020";
const NEW_ROOT: &str = "1100ed030200000100000080aaea550001";

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn config() -> VolumeConfig {
    VolumeConfig {
        id: "agv6w2qcg7".parse::<VolumeId>().expect("an id"),
        name: "work".to_owned(),
        data_center: "EU-1".to_owned(),
        chunk_size: 4 << 20,
        bytes_limit: 10 << 30,
        inodes_limit: 2_621_440,
        created: 1_790_000_000,
        profile: "native".to_owned(),
        allocation: Allocation::NATIVE,
    }
}

fn at(secs: i64, nanos: u32) -> Timestamp {
    Timestamp { secs, nanos }
}

fn node(kind: FileKind, mode: u32) -> InodeRecord {
    let time = at(1_790_000_000, 123_456_789);
    InodeRecord::new(Attr {
        ino: Ino(258),
        kind,
        mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated: 0,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        version: 1,
        flags: AttrFlags(0),
    })
}

fn extents(extents: Vec<Extent>) -> ExtentList {
    ExtentList::from_extents(extents, CHUNK_SIZE_MAX).expect("sorted")
}

fn of_blob(offset: u32, length: u32, blob: u64, blob_offset: u32) -> Extent {
    Extent { offset, length, source: Source::Blob { blob: BlobId(blob), offset: blob_offset } }
}

fn is_inode(record: &InodeRecord, row: &str) {
    assert_eq!(hex(&record.encode()), row);
    assert_eq!(InodeRecord::decode(Ino(258), &bytes(row)).as_ref(), Some(record));
}

#[test]
fn golden_keys() {
    let keys = [
        (layout::VOLUME.to_vec(), "01"),
        (layout::session(SessionId(3)), "020103"),
        (layout::OWNER.to_vec(), "03"),
        (layout::inode(Ino(258)), "10020102"),
        (layout::inode(Ino(u64::MAX)), "1008ffffffffffffffff"),
        (layout::entry(Ino::ROOT, b"readme"), "110101726561646d65"),
        (layout::extent(Ino(258), 0), "1202010200"),
        (layout::extent(Ino(258), 1), "120201020101"),
        (layout::xattr(Ino(258), b"user.color"), "13020102757365722e636f6c6f72"),
        (layout::orphan(Ino(258), SessionId(3)), "140201020103"),
        (layout::trash(Ino(259)), "15020103"),
        (layout::blob(BlobId(513)), "20020201"),
        (layout::pack(PackId(1)), "210101"),
    ];
    for (key, row) in keys {
        assert_eq!(hex(&key), row);
    }
}

#[test]
fn golden_volume() {
    let record = VolumeRecord {
        config: config(),
        bytes_used: 4096,
        inodes_used: 2,
        ino_ceiling: 262_146,
        blob_ceiling: 262_145,
        session_ceiling: 262_147,
        order_ceiling: 262_144,
        last_order: 3,
    };
    assert_eq!(hex(&record.encode()), USED_VOLUME);
    assert_eq!(VolumeRecord::decode(&bytes(USED_VOLUME)).ok(), Some(record));
}

#[test]
fn golden_volume_with_a_profile() {
    let row = "030a6167763677327163673704776f726b0445552d318080800280808080288080a00180ee89ab0d\
               00020201010103076d6f6f73656673808004804080808020";
    let config = VolumeConfig { profile: "moosefs".to_owned(), allocation: Allocation::MOOSEFS, ..config() };
    let record = VolumeRecord {
        config,
        bytes_used: 0,
        inodes_used: 2,
        ino_ceiling: 2,
        blob_ceiling: 1,
        session_ceiling: 1,
        order_ceiling: 1,
        last_order: 3,
    };
    assert_eq!(hex(&record.encode()), row);
    assert_eq!(VolumeRecord::decode(&bytes(row)).as_ref().ok(), Some(&record));
    // Version 2 has the same fields.
    assert_eq!(VolumeRecord::decode(&bytes(&row.replacen("03", "02", 1))).ok(), Some(record));
}

#[test]
fn golden_session() {
    let row = "10097b22706964223a377dac020a0204000222";
    let record = SessionRecord {
        info: Bytes::from_static(br#"{"pid":7}"#),
        journal_sequence: 300,
        acked_below: 10,
        results: [(12, 0), (13, 17)].into(),
        refused: [].into(),
    };
    assert_eq!(hex(&record.encode()), row);
    assert_eq!(SessionRecord::decode(&bytes(row)).as_ref(), Some(&record));
    let row = "11097b22706964223a377dac020a02040002220207f40104f401";
    let record = SessionRecord { refused: [(296, 122), (298, 122)].into(), ..record };
    assert_eq!(hex(&record.encode()), row);
    assert_eq!(SessionRecord::decode(&bytes(row)), Some(record));
}

#[test]
fn golden_file() {
    let mut record = node(FileKind::Regular, 0o644);
    (record.attr.uid, record.attr.gid, record.attr.version) = (1000, 1000, 3);
    (record.attr.size, record.attr.allocated) = (1024, 1024);
    (record.attr.mtime, record.attr.ctime) = (at(1_790_000_000, 123_457_789), at(1_790_000_000, 123_457_789));
    record.first_chunk = extents(vec![of_blob(0, 1024, 513, 0)]);
    is_inode(&record, "1000a40301e807e807038008000180aaea55959aef3ad00f01008110810400");
}

#[test]
fn golden_directory_with_distant_times() {
    let mut record = node(FileKind::Directory, 0o2755);
    (record.attr.nlink, record.attr.version, record.attr.size, record.attr.flags) = (3, 7, 2, AttrFlags(5));
    record.attr.btime = at(1_700_000_000, 0);
    (record.attr.mtime, record.attr.ctime) = (at(1_800_000_000, 5), at(1_800_000_000, 4));
    record.attr.atime = at(-1, 999_999_999);
    record.parent = Some(Ino::ROOT);
    is_inode(&record, "1105ed0b0300000702032600008084af5f050181c49fd50cff93ebdc0301");
}

#[test]
fn golden_other_kinds() {
    let mut link = node(FileKind::Symlink, 0o777);
    (link.attr.uid, link.attr.gid, link.attr.size) = (1000, 1000, 6);
    link.target = Bytes::from_static(b"target");
    is_inode(&link, "1200ff0301e807e80701060b0080aaea55959aef3a06746172676574");
    is_inode(&node(FileKind::Fifo, 0o600), "130080030100000100000080aaea55959aef3a");
    is_inode(&node(FileKind::Socket, 0o600), "140080030100000100000080aaea55959aef3a");
    let mut device = node(FileKind::CharDevice, 0o666);
    device.attr.rdev = 0x103;
    is_inode(&device, "1500b6030100000100000080aaea55959aef3a8302");
    let mut device = node(FileKind::BlockDevice, 0o660);
    (device.attr.rdev, device.attr.gid) = (0x10300, 6);
    is_inode(&device, "1600b0030100060100000080aaea55959aef3a808604");
    let mut unnamed = node(FileKind::Regular, 0o600);
    (unnamed.linkable, unnamed.attr.nlink) = (true, 0);
    is_inode(&unnamed, "180080030000000100000080aaea55959aef3a00");
}

#[test]
fn golden_entry() {
    let record = EntryRecord { ino: Ino(258), kind: FileKind::Regular };
    assert_eq!(hex(&record.encode()), "108202");
    assert_eq!(EntryRecord::decode(&bytes("108202")), Some(record));
    let record = EntryRecord { ino: Ino(70_000), kind: FileKind::Directory };
    assert_eq!(hex(&record.encode()), "11f0a204");
    assert_eq!(EntryRecord::decode(&bytes("11f0a204")), Some(record));
}

#[test]
fn golden_extents() {
    let row = "030081408104804000800880dc0303f0a20400";
    let list = extents(vec![
        of_blob(0, 4096, 513, 8192),
        Extent { offset: 4096, length: 512, source: Source::Zeros },
        of_blob(65_536, 1, 70_000, 0),
    ]);
    assert_eq!(hex(&encode_extents(&list)), row);
    assert_eq!(decode_extents(&bytes(row)), Some(list));
}

#[test]
fn golden_blob_and_pack() {
    let place = BlobPlace { pack: PackId(1), offset: 4096, payload_len: 1024, stored_len: 1104 };
    let blob = BlobRecord { place, references: 2 };
    assert_eq!(hex(&blob.encode()), "100180208008a00102");
    assert_eq!(BlobRecord::decode(&bytes("100180208008a00102")), Some(blob));
    let pack = PackRecord { live_bytes: 2208, live_blobs: 2, durable_length: 256 << 20 };
    assert_eq!(hex(&pack.encode()), "10a011028080808001");
    assert_eq!(PackRecord::decode(&bytes("10a011028080808001")), Some(pack));
}

#[test]
fn golden_new_volume() {
    let store = MemoryStore::default();
    VolumeStore::create(Box::new(store.clone()), config()).expect("made");
    let mut rows = Vec::new();
    let reader = store.reader().expect("memory");
    let mut visit = |key: &[u8], value: &[u8]| {
        rows.push((hex(key), hex(value)));
        ControlFlow::Continue(())
    };
    reader.scan(&[], &[0xff], &mut visit).expect("memory");
    let expected = [("01", NEW_VOLUME), ("100101", NEW_ROOT)];
    assert_eq!(rows, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
}

#[test]
fn golden_owner() {
    let store = MemoryStore::default();
    drop(VolumeStore::create(Box::new(store.clone()), config()).expect("made"));
    for (epoch, row) in [(1, "01"), (2, "02")] {
        let volume = VolumeStore::open(Box::new(store.clone())).expect("opened");
        assert_eq!(volume.ownership().epoch(), epoch);
        let stored = store.reader().expect("memory").get(layout::OWNER).expect("memory").expect("a row");
        assert_eq!(hex(&stored), row);
    }
    store.tamper(layout::OWNER, Some(&bytes("ac02")));
    assert_eq!(VolumeStore::open(Box::new(store)).expect("opened").ownership().epoch(), 301);
}

#[test]
fn golden_first_volume_is_raised() {
    let store = MemoryStore::default();
    let root = bytes(NEW_ROOT);
    let rows = [(vec![0x01], Some(bytes(FIRST_VOLUME))), (vec![0x10, 0x01, 0x01], Some(root))];
    store.commit(Condition { key: layout::OWNER, value: None }, &rows.into(), Durability::Durable).expect("memory");
    let volume = VolumeStore::open(Box::new(store.clone())).expect("readable");
    assert_eq!(volume.snapshot().config(), &config());
    store.crash();
    let row = store.reader().expect("memory").get(&[0x01]).expect("memory").expect("a row");
    assert_eq!(hex(&row), NEW_VOLUME);
}

#[test]
fn golden_database() {
    let directory = tempfile::tempdir().expect("directory");
    let rows = LocalOpener::new(directory.path()).create().expect("made");
    drop(VolumeStore::create(rows, config()).expect("made"));
    let database = Database::open(directory.path().join("meta.redb")).expect("a redb file");
    let transaction = database.begin_read().expect("read");
    let tables = transaction.list_tables().expect("tables").map(|table| table.name().to_owned());
    assert_eq!(tables.collect::<Vec<_>>(), ["cairn", "log"]);
    let table = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new("cairn")).expect("of byte strings");
    let row = table.get([0x01].as_slice()).expect("read").expect("a row");
    assert_eq!(hex(row.value()), NEW_VOLUME);
}
