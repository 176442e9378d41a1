//! The protocol between a client and the server: messages, their encoding, and frames on a byte stream.
//!
//! This is the only place that knows the codec. File content travels beside a message (`bulk`), never through it.
//! Nothing here keeps state about a session: what a message means is in the server and the client.

pub mod admin;
pub mod codec;
pub mod frame;
pub mod handshake;
pub mod message;

pub use codec::{CodecError, decode, encode};
pub use frame::{Frame, FrameError, FrameKind, FrameLimits, FrameReader, FrameWriter};
pub use handshake::{Hello, Purpose, Refusal, RefusalKind, Welcome};
pub use message::{Push, Query, QueryReply, Request, Response};

/// Version of the protocol that this program speaks.
///
/// Version 3 added [`Request::LocateBlobs`], [`Request::OpenPack`] and [`Purpose::Packs`]; who speaks version 2 is never
/// sent them.
pub const PROTOCOL_VERSION: u32 = 3;
/// Oldest version that this program still understands.
pub const PROTOCOL_VERSION_OLDEST: u32 = 2;
/// Most bytes of a blob, and so of one piece of a chunk that is written at once.
pub const BLOB_MAX: u32 = 4 * 1024 * 1024;
/// A [`Request::PutBlobs`] with at most this many bytes is done before the server looks at the request that follows it on the
/// same connection, so that a change which refers to the blobs may be sent right behind it.
pub const BLOBS_IN_ORDER_MAX: usize = 64 * 1024;
