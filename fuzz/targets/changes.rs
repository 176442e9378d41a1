//! Changes as a hostile client could send them: each is applied or refused, and the volume stays sound.
#![no_main]

use cairn_fuzz::{VOLUME_CONFIG, apply, changes};
use cairn_meta::kv::MemoryStore;
use cairn_meta::{VolumeStore, check};
use cairn_types::MetaOp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<(u16, u8)>, &[u8])| {
    let (edits, more) = input;
    let mut encoded = cairn_wire::encode(&changes()).expect("encoded");
    let length = encoded.len();
    for (at, value) in edits {
        encoded[usize::from(at) % length] = value;
    }
    let mut ops = changes();
    ops.extend(cairn_wire::decode::<Vec<MetaOp>>(&encoded).unwrap_or_default());
    ops.extend(cairn_wire::decode::<Vec<MetaOp>>(more).unwrap_or_default());
    let store = VolumeStore::create(Box::new(MemoryStore::default()), VOLUME_CONFIG.clone()).expect("made");
    apply(&store, &ops);
    let found = check::check(&store.snapshot(), &mut |_| {}).expect("readable");
    assert!(found.is_empty(), "{ops:?}\n{found:?}");
});
