//! What everybody must know of a change before it is applied, asked of the change itself.
//!
//! Every match here names every operation, so that the compiler leads whoever adds one through all of these questions.
//! What an operation does to the tree is not here (the store applies it), nor which nodes its names lead to now.

use super::{AllocateMode, MetaOp, NewNode};
use crate::extent::Source;
use crate::id::{BlobId, Ino};
use crate::name::Name;

/// Bytes that a message needs for any change and the answer to it, beside what varies in length: the attributes of up
/// to four nodes.
const MESSAGE_BASE: usize = 512;
/// The same for a write, which is answered with the attributes of one file.
const MESSAGE_WRITE: usize = 256;
/// For one written extent.
const MESSAGE_EXTENT: usize = 40;

impl MetaOp {
    /// The names that it makes, removes or moves, each with its directory.
    pub fn names(&self) -> [Option<(Ino, &Name)>; 2] {
        match self {
            MetaOp::Create { parent, name, .. }
            | MetaOp::Link { parent, name, .. }
            | MetaOp::Unlink { parent, name, .. }
            | MetaOp::Rmdir { parent, name, .. } => [Some((*parent, name)), None],
            MetaOp::Rename { parent, name, new_parent, new_name, .. } => {
                [Some((*parent, name)), Some((*new_parent, new_name))]
            }
            MetaOp::CreateUnnamed { .. }
            | MetaOp::SetAttr { .. }
            | MetaOp::SetXattr { .. }
            | MetaOp::RemoveXattr { .. }
            | MetaOp::Write { .. }
            | MetaOp::Allocate { .. }
            | MetaOp::CopyRange { .. }
            | MetaOp::ReleaseOrphan { .. } => [None, None],
        }
    }

    /// The node that it makes.
    pub fn made_node(&self) -> Option<Ino> {
        match self {
            MetaOp::Create { ino, .. } | MetaOp::CreateUnnamed { ino, .. } => Some(*ino),
            MetaOp::Link { .. }
            | MetaOp::Unlink { .. }
            | MetaOp::Rmdir { .. }
            | MetaOp::Rename { .. }
            | MetaOp::SetAttr { .. }
            | MetaOp::SetXattr { .. }
            | MetaOp::RemoveXattr { .. }
            | MetaOp::Write { .. }
            | MetaOp::Allocate { .. }
            | MetaOp::CopyRange { .. }
            | MetaOp::ReleaseOrphan { .. } => None,
        }
    }

    /// The node that it changes by number. Whoever buffers the change needs that node's lease even if the node does not
    /// exist any more.
    pub fn changed_node(&self) -> Option<Ino> {
        match self {
            MetaOp::SetAttr { ino, .. }
            | MetaOp::SetXattr { ino, .. }
            | MetaOp::RemoveXattr { ino, .. }
            | MetaOp::Write { ino, .. }
            | MetaOp::Allocate { ino, .. } => Some(*ino),
            MetaOp::CopyRange { target, .. } => Some(*target),
            // What these need follows from the names; a link's file is looked at with them.
            MetaOp::Create { .. }
            | MetaOp::CreateUnnamed { .. }
            | MetaOp::Link { .. }
            | MetaOp::Unlink { .. }
            | MetaOp::Rmdir { .. }
            | MetaOp::Rename { .. } => None,
            // Needs no lease: who has the file open has it to itself to let go.
            MetaOp::ReleaseOrphan { .. } => None,
        }
    }

    /// Blobs whose bytes become part of a file by it.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> + '_ {
        let extents = match self {
            MetaOp::Write { extents, .. } => extents.as_slice(),
            // A copied range's blobs are part of a file already.
            MetaOp::CopyRange { .. }
            | MetaOp::Create { .. }
            | MetaOp::CreateUnnamed { .. }
            | MetaOp::Link { .. }
            | MetaOp::Unlink { .. }
            | MetaOp::Rmdir { .. }
            | MetaOp::Rename { .. }
            | MetaOp::SetAttr { .. }
            | MetaOp::SetXattr { .. }
            | MetaOp::RemoveXattr { .. }
            | MetaOp::Allocate { .. }
            | MetaOp::ReleaseOrphan { .. } => &[],
        };
        extents.iter().filter_map(|written| match written.extent.source {
            Source::Blob { blob, .. } => Some(blob),
            Source::Zeros => None,
        })
    }

    /// About how many bytes it and the answer to it take in their messages.
    pub fn message_bytes(&self) -> usize {
        match self {
            MetaOp::Write { extents, .. } => MESSAGE_WRITE + MESSAGE_EXTENT * extents.len(),
            MetaOp::SetXattr { name, value, .. } => MESSAGE_BASE + name.len() + value.len(),
            MetaOp::RemoveXattr { name, .. } => MESSAGE_BASE + name.len(),
            MetaOp::Create { name, node: NewNode::Symlink(target), .. } => {
                MESSAGE_BASE + name.as_bytes().len() + target.len()
            }
            MetaOp::Create { .. }
            | MetaOp::Link { .. }
            | MetaOp::Unlink { .. }
            | MetaOp::Rmdir { .. }
            | MetaOp::Rename { .. } => {
                MESSAGE_BASE + self.names().into_iter().flatten().map(|(_, name)| name.as_bytes().len()).sum::<usize>()
            }
            MetaOp::CreateUnnamed { .. }
            | MetaOp::SetAttr { .. }
            | MetaOp::Allocate { .. }
            | MetaOp::CopyRange { .. }
            | MetaOp::ReleaseOrphan { .. } => MESSAGE_BASE,
        }
    }

    /// Whether it may need more of the server's disk. Whatever gives space back stays possible on a full one.
    pub fn grows(&self) -> bool {
        match self {
            MetaOp::Create { .. }
            | MetaOp::CreateUnnamed { .. }
            | MetaOp::Link { .. }
            | MetaOp::SetXattr { .. }
            | MetaOp::Write { .. }
            | MetaOp::CopyRange { .. } => true,
            MetaOp::Allocate { mode, .. } => *mode != AllocateMode::Punch,
            MetaOp::Unlink { .. }
            | MetaOp::Rmdir { .. }
            | MetaOp::Rename { .. }
            | MetaOp::SetAttr { .. }
            | MetaOp::RemoveXattr { .. }
            | MetaOp::ReleaseOrphan { .. } => false,
        }
    }

    /// Whether a file may have lost its last name and opener by it, so that its content is to be dropped.
    pub fn may_end_a_file(&self) -> bool {
        match self {
            MetaOp::Unlink { .. } | MetaOp::Rename { .. } | MetaOp::ReleaseOrphan { .. } => true,
            MetaOp::Create { .. }
            | MetaOp::CreateUnnamed { .. }
            | MetaOp::Link { .. }
            | MetaOp::Rmdir { .. }
            | MetaOp::SetAttr { .. }
            | MetaOp::SetXattr { .. }
            | MetaOp::RemoveXattr { .. }
            | MetaOp::Write { .. }
            | MetaOp::Allocate { .. }
            | MetaOp::CopyRange { .. } => false,
        }
    }
}
