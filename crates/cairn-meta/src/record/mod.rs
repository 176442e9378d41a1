//! What each row says: compact encodings of values, written by hand so that a small file costs few bytes.
//!
//! Every value that may grow begins with a version (the upper four bits of its first byte). Integers are LEB128;
//! signed ones are zigzagged first. A decoder answers `None` for anything that the encoder would not have written in
//! that shape; it never panics, whatever the bytes.

mod blob;
mod codec;
mod extents;
mod inode;
mod owner;
mod session;
mod volume;

pub use blob::{BlobRecord, PackRecord};
pub(crate) use extents::{decode_extents, encode_extents};
pub(crate) use inode::{EntryRecord, InodeRecord};
pub(crate) use owner::{decode_epoch, encode_epoch};
pub(crate) use session::CallState;
pub use session::SessionRecord;
pub use volume::{VolumeConfig, VolumeRecord};
