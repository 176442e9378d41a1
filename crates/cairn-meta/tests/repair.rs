//! Damage of every kind is found, named, and mended as far as metadata can.

mod common;

use cairn_meta::Durability;
use cairn_meta::check::{Problem, repair};
use cairn_types::{BlobId, Errno, Ino, MetaOp, RenameMode};
use common::{CHUNK, Volume, name, time};

const ROOT: Ino = Ino::ROOT;

/// A tree with a bit of everything.
struct Tree {
    volume: Volume,
    dir: Ino,
    sub: Ino,
    small: Ino,
    large: Ino,
}

fn tree() -> Tree {
    let mut volume = Volume::new();
    let dir = volume.dir(ROOT, "dir");
    let sub = volume.dir(dir, "sub");
    let (small, large) = (volume.file(sub, "small"), volume.file(dir, "large"));
    for (ino, length) in [(small, 1000), (large, 3 * CHUNK)] {
        let op = volume.write_op(ino, 0, length);
        volume.apply(&op);
    }
    let op = volume.link_op(small, ROOT, "link");
    volume.apply(&op);
    let op = volume.set_xattr_op(large, "user.x", b"y", cairn_types::XattrMode::Create);
    volume.apply(&op);
    volume.assert_sound();
    Tree { volume, dir, sub, small, large }
}

/// Keys as `layout` documents them.
fn key(space: u8, number: u64, rest: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|digit| *digit == 0).collect();
    [&[space, digits.len() as u8], digits.as_slice(), rest].concat()
}

impl Tree {
    fn row(&self, key: &[u8]) -> Vec<u8> {
        let found = self.volume.rows().into_iter().find(|(row, _)| row == key);
        found.expect("a row of that key").1
    }

    fn tamper(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.volume.rows.tamper(key, value);
        self.reopen();
    }

    fn reopen(&mut self) {
        self.volume.store = cairn_meta::VolumeStore::open(Box::new(self.volume.rows.clone())).expect("openable");
    }

    /// Repairs until nothing is left to do; answers what could not be mended.
    fn mend(&mut self) -> Vec<Problem> {
        for _ in 0..5 {
            let findings = self.volume.problems();
            let mut batch = self.volume.store.begin().expect("no other");
            let outcome =
                repair(&mut batch, findings, time(1), &|blob| self.volume.pending.borrow().get(&blob).copied());
            let outcome = outcome.expect("memory");
            batch.commit(Durability::Durable).expect("memory");
            if outcome.repaired == 0 {
                return outcome.left.into_iter().map(|finding| finding.problem).collect();
            }
        }
        panic!("no end of repairs: {:?}", self.volume.problems());
    }

    fn problems(&self) -> Vec<Problem> {
        self.volume.problems().into_iter().map(|finding| finding.problem).collect()
    }
}

#[test]
fn every_row_can_be_lost() {
    let keys: Vec<Vec<u8>> = tree().volume.rows().into_iter().map(|(key, _)| key).collect();
    for lost in keys {
        // The volume row, the session row and the root are not among what can be rebuilt from other rows.
        if matches!(lost.first(), Some(1 | 2)) || lost == key(0x10, 1, &[]) {
            continue;
        }
        let mut tree = tree();
        tree.tamper(&lost, None);
        assert_ne!(tree.problems(), [], "{} is missing and nobody minds", lost.escape_ascii());
        assert_eq!(tree.mend(), [], "without {}", lost.escape_ascii());
        tree.volume.assert_sound();
    }
}

#[test]
fn every_row_can_be_garbled() {
    let keys: Vec<Vec<u8>> = tree().volume.rows().into_iter().map(|(key, _)| key).collect();
    for garbled in keys {
        // An attribute's value may be anything; the volume row and the root cannot be rebuilt.
        if matches!(garbled.first(), Some(1 | 0x13)) || garbled == key(0x10, 1, &[]) {
            continue;
        }
        let mut tree = tree();
        tree.tamper(&garbled, Some(b"\xff\xff\xff garbled"));
        assert!(
            tree.problems().iter().any(|problem| matches!(problem, Problem::Unreadable { .. })),
            "{} is garbled and nobody minds",
            garbled.escape_ascii()
        );
        assert_eq!(tree.mend(), [], "with {} garbled", garbled.escape_ascii());
        tree.volume.assert_sound();
    }
}

/// Found by fuzzing: a size that no file can have.
#[test]
fn a_node_with_figures_beyond_all_bounds_is_mended() {
    let tree = tree();
    let row = tree.row(&key(0x10, tree.small.0, &[]));
    for at in 0..row.len() {
        for tail in [&[0xff; 9][..], &[0xff; 4]] {
            // In the place of one number a larger one, whose last byte ends it.
            let garbled = [&row[..at], tail, &[0x01], &row[at + 1..]].concat();
            let mut tree = self::tree();
            tree.tamper(&key(0x10, tree.small.0, &[]), Some(&garbled));
            tree.mend();
        }
    }
}

#[test]
fn a_volume_opens_without_the_rows_of_a_session_and_a_pack() {
    let mut tree = tree();
    let (session, pack) = (key(2, tree.volume.session.0, &[]), key(0x21, 1, &[]));
    assert!(tree.volume.store.salvage().expect("memory").is_empty(), "a sound volume is left alone");
    let orphan = tree.volume.new_ino();
    let time = tree.volume.tick();
    tree.volume.apply(&MetaOp::CreateUnnamed {
        parent: tree.dir,
        ino: orphan,
        mode: 0o600,
        umask: 0,
        uid: 0,
        gid: 0,
        time,
    });
    let counted = tree.row(&pack);
    tree.volume.rows.tamper(&session, Some(b"\xff"));
    tree.volume.rows.tamper(&[2, 9], Some(b"not even its key"));
    tree.tamper(&pack, Some(b"\xff"));
    assert!(tree.volume.snapshot().sessions().is_err() && tree.volume.snapshot().pack_records().is_err());
    let found = tree.volume.store.salvage().expect("memory");
    assert_eq!((found.sessions, found.packs), (2, 1));
    assert_eq!(tree.volume.snapshot().sessions().expect("readable"), []);
    assert_eq!(tree.volume.snapshot().attr(orphan), Err(Errno::ENOENT), "what it alone kept went with it");
    assert_eq!(tree.row(&pack), counted);
    tree.volume.assert_sound();
    assert!(tree.volume.store.salvage().expect("memory").is_empty());
}

#[test]
fn a_garbled_node_answers_eio_and_harms_nothing_else() {
    let mut tree = tree();
    tree.tamper(&key(0x10, tree.large.0, &[]), Some(b"\xff"));
    assert_eq!(tree.volume.snapshot().attr(tree.large), Err(Errno::EIO));
    let op = tree.volume.truncate_op(tree.large, 0);
    tree.volume.refused(&op, Errno::EIO);
    tree.volume.file(tree.dir, "another");
}

#[test]
fn paths_are_told() {
    let mut tree = tree();
    let inode = tree.row(&key(0x10, tree.small.0, &[]));
    // The second byte of a node's row holds its flags.
    let mut flagged = inode.clone();
    flagged[1] |= 2;
    tree.tamper(&key(0x10, tree.small.0, &[]), Some(&flagged));
    let findings = tree.volume.problems();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].problem, Problem::AttributeFlags { ino: tree.small });
    let path = findings[0].path.clone().expect("it has names");
    assert!(["/dir/sub/small", "/link"].iter().any(|known| path.as_os_str() == *known), "{path:?}");
    assert_eq!(tree.mend(), []);
}

#[test]
fn wrong_names_are_mended() {
    let mut tree = tree();
    let sub = tree.row(&key(0x11, tree.dir.0, b"sub"));
    let small = tree.row(&key(0x11, tree.sub.0, b"small"));
    // A second name of a directory, a name in a file, a name of a wrong kind.
    tree.tamper(&key(0x11, 1, b"second"), Some(&sub));
    tree.tamper(&key(0x11, tree.large.0, b"inside"), Some(&small));
    let mut wrong_kind = small.clone();
    wrong_kind[0] = wrong_kind[0] & 0xf0 | 3;
    tree.tamper(&key(0x11, tree.sub.0, b"small"), Some(&wrong_kind));
    let problems = tree.problems();
    let has = |wanted: &dyn Fn(&Problem) -> bool| assert!(problems.iter().any(wanted), "{problems:?}");
    has(&|problem| matches!(problem, Problem::ExtraDirectoryName { parent: ROOT, .. }));
    has(&|problem| matches!(problem, Problem::EntryWithoutDirectory { .. }));
    has(&|problem| matches!(problem, Problem::EntryKind { .. }));
    assert_eq!(tree.mend(), []);
    tree.volume.assert_sound();
    assert_eq!(tree.volume.snapshot().lookup(ROOT, &name("second")), Ok(None));
    assert_eq!(tree.volume.attr(tree.small).nlink, 2);
}

#[test]
fn a_directory_inside_itself_is_brought_back() {
    let mut tree = tree();
    // dir/sub becomes sub/sub: swap what leads to `sub`.
    let sub = tree.row(&key(0x11, tree.dir.0, b"sub"));
    tree.tamper(&key(0x11, tree.dir.0, b"sub"), None);
    tree.tamper(&key(0x11, tree.sub.0, b"sub"), Some(&sub));
    assert!(tree.problems().contains(&Problem::Loop { ino: tree.sub }));
    assert_eq!(tree.mend(), []);
    tree.volume.assert_sound();
    let folder = tree.volume.snapshot().lookup(ROOT, &name("lost+found")).expect("readable").expect("made").ino;
    let found = tree.volume.snapshot().lookup(folder, &name(&format!("#{}", tree.sub))).expect("readable");
    assert_eq!(found.map(|attr| attr.ino), Some(tree.sub));
    let op = tree.volume.rename_op(folder, &format!("#{}", tree.sub), ROOT, "back", RenameMode::NoReplace);
    tree.volume.apply(&op);
    tree.volume.assert_sound();
}

#[test]
fn a_blob_that_is_nowhere_stays_an_error() {
    let mut tree = tree();
    let blob = (1..100).map(BlobId).find(|blob| tree.volume.references(*blob) == 1).expect("that of the small file");
    tree.tamper(&key(0x20, blob.0, &[]), None);
    tree.volume.pending.borrow_mut().clear();
    let lost = Problem::MissingBlob { blob, references: 1, ino: tree.small, chunk: 0 };
    assert!(tree.problems().contains(&lost));
    assert_eq!(tree.mend(), std::slice::from_ref(&lost));
    assert_eq!(tree.problems(), [lost], "its pack is no longer counted for it");
}
