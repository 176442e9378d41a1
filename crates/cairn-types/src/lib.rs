//! The words every other crate speaks: ids, attributes, extents, operations, errors and limits.
//!
//! Nothing here does I/O, holds a lock or knows how a value is sent or stored. What a type's docstring
//! promises (sorted, non-overlapping, in range) is kept by its constructors and relied on everywhere else.

pub mod acl;
pub mod allocation;
pub mod attr;
pub mod checksum;
pub mod effect;
pub mod errno;
pub mod extent;
pub mod id;
pub mod lease;
pub mod limits;
pub mod lock;
pub mod name;
pub mod op;
pub mod place;
pub mod profile;
pub mod size;
pub mod time;

pub use acl::Acl;
pub use allocation::Allocation;
pub use attr::{Attr, AttrFlags, FileKind};
pub use effect::Maker;
pub use errno::{Errno, FsResult};
pub use extent::{Extent, ExtentList, Source};
pub use id::{BlobId, Ino, SessionId, VolumeId};
pub use lease::LeaseMode;
pub use lock::{ByteRange, FileLock, LockFamily, LockKind, LockOwner};
pub use name::Name;
pub use op::{AllocateMode, AttrChange, MetaOp, NewNode, OpReply, RenameMode, WrittenExtent, XattrMode};
pub use place::{BlobPlace, PackId};
pub use profile::Profile;
pub use size::Size;
pub use time::Timestamp;
