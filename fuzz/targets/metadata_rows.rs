//! A volume some of whose rows were replaced by any bytes: it opens or says why not, and a check and a repair come to an
//! end.
#![no_main]

use std::ops::ControlFlow;
use std::sync::LazyLock;

use cairn_fuzz::{VOLUME_CONFIG, apply, changes};
use cairn_meta::kv::{KeyValueStore, MemoryStore};
use cairn_meta::{Durability, VolumeStore, check};
use cairn_types::{Ino, Timestamp};
use libfuzzer_sys::fuzz_target;

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

static SOUND: LazyLock<Rows> = LazyLock::new(|| {
    let stored = MemoryStore::default();
    let store = VolumeStore::create(Box::new(stored.clone()), VOLUME_CONFIG.clone()).expect("made");
    apply(&store, &changes());
    let mut rows = Vec::new();
    let reader = stored.reader().expect("memory");
    let visit = &mut |key: &[u8], value: &[u8]| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    reader.scan(&[], &[0xff], visit).expect("memory");
    rows
});

fuzz_target!(|input: Vec<(u8, bool, RowBytes)>| {
    let stored = MemoryStore::default();
    for (key, value) in SOUND.iter() {
        stored.tamper(key, Some(value));
    }
    for (number, whole, RowBytes(bytes)) in input.iter().take(8) {
        let (key, value) = &SOUND[usize::from(*number) % SOUND.len()];
        if *whole {
            stored.tamper(key, Some(bytes));
        } else {
            // A few bytes of a good row are changed, or a row appears beside it.
            let mut value = value.clone();
            for pair in bytes.as_chunks::<2>().0 {
                let at = usize::from(pair[0]) % value.len().max(1);
                value.get_mut(at).into_iter().for_each(|byte| *byte = pair[1]);
            }
            let mut key = key.clone();
            key.extend(bytes.last().filter(|last| **last > 250));
            stored.tamper(&key, Some(&value));
        }
    }
    let Ok(store) = VolumeStore::open(Box::new(stored)) else { return };
    if store.salvage().is_err() {
        return;
    }
    let snapshot = store.snapshot();
    for ino in 1..12 {
        let _ = (snapshot.attr(Ino(ino)), snapshot.entries(Ino(ino), None, 10), snapshot.extents(Ino(ino), 0, 4));
        let _ = (snapshot.list_xattr(Ino(ino)), snapshot.readlink(Ino(ino)));
    }
    let _ = (snapshot.sessions(), snapshot.pack_records());
    for _ in 0..4 {
        let Ok(findings) = check::check(&store.snapshot(), &mut |_| {}) else { return };
        let Ok(mut batch) = store.begin() else { return };
        let Ok(_) = check::repair(&mut batch, findings, Timestamp::default(), &|_| None) else { return };
        if batch.commit(Durability::Durable).is_err() {
            return;
        }
    }
});

#[derive(arbitrary::Arbitrary, Debug)]
struct RowBytes(Vec<u8>);
