//! Places in packs that are files: their names, and which places a record can have.

use cairn_types::{BlobPlace, PackId};

use crate::format::{PACK_HEADER_LEN, PAYLOAD_MAX, RECORD_ALIGN, record_len};

/// Name of a pack's file: `0000002a.pack`.
pub(crate) fn file_name(pack: PackId) -> String {
    format!("{:08x}.pack", pack.0)
}

/// Reads what [`file_name`] makes, and nothing else.
pub(crate) fn pack_of_file_name(name: &str) -> Option<PackId> {
    let pack = PackId(u32::from_str_radix(name.strip_suffix(".pack")?, 16).ok()?);
    (file_name(pack) == name).then_some(pack)
}

/// The place of a record whose payload is `payload_len` (at most [`PAYLOAD_MAX`]) bytes long.
pub(crate) fn record_place(pack: PackId, offset: u64, payload_len: u32) -> BlobPlace {
    BlobPlace { pack, offset, payload_len, stored_len: record_len(payload_len) }
}

/// Whether a record can lie here at all; a place that was stored elsewhere may have been damaged there.
pub(crate) fn is_possible(place: &BlobPlace) -> bool {
    place.offset >= PACK_HEADER_LEN
        && place.offset.is_multiple_of(RECORD_ALIGN)
        && place.offset.checked_add(u64::from(u32::MAX)).is_some()
        && (1..=PAYLOAD_MAX).contains(&place.payload_len)
        && place.stored_len == record_len(place.payload_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_go_both_ways() {
        assert_eq!(file_name(PackId(0x2a)), "0000002a.pack");
        assert_eq!(pack_of_file_name("0000002a.pack"), Some(PackId(0x2a)));
        for other in ["2a.pack", "0000002A.pack", "0000002a.pack.bak", "+000002a.pack", "1ffffffff.pack", ".pack"] {
            assert_eq!(pack_of_file_name(other), None, "{other}");
        }
    }
}
