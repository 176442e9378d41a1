//! Frames on a byte stream: a fixed header, an encoded message, and bulk bytes.
//!
//! ```text
//! offset  bytes  field (little-endian)
//!      0      4  magic "CRN1"
//!      4      1  kind (1 hello, 2 welcome or refusal, 3 request, 4 response, 5 push)
//!      5      3  zero
//!      8      8  correlation: the request's number, repeated in its response; 0 otherwise
//!     16      4  message length
//!     20      4  bulk length
//!     24      4  crc32c of bytes 0..24 and the message (bulk carries checksums of its own)
//!     28      …  message, then bulk
//! ```

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::codec::{self, CodecError};

const MAGIC: [u8; 4] = *b"CRN1";
/// Bytes of a frame before its message.
pub const HEADER: usize = 28;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    Hello = 1,
    Welcome = 2,
    Request = 3,
    Response = 4,
    Push = 5,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => FrameKind::Hello,
            2 => FrameKind::Welcome,
            3 => FrameKind::Request,
            4 => FrameKind::Response,
            5 => FrameKind::Push,
            _ => return None,
        })
    }
}

/// What a peer may send; anything larger ends the connection before memory is taken for it.
#[derive(Clone, Copy, Debug)]
pub struct FrameLimits {
    pub message: u32,
    pub bulk: u32,
}

impl FrameLimits {
    /// Before the peer has shown a key.
    pub const HANDSHAKE: FrameLimits = FrameLimits { message: 64 * 1024, bulk: 0 };
    /// In a session: one message, and two blobs of the largest size.
    pub const SESSION: FrameLimits =
        FrameLimits { message: codec::MESSAGE_MAX as u32, bulk: 2 * crate::BLOB_MAX + 64 * 1024 };
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("connection closed by the peer")]
    Closed,
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("peer does not speak Cairn's protocol")]
    NotCairn,
    #[error("frame of {message} + {bulk} bytes is over the limit")]
    TooLarge { message: u32, bulk: u32 },
    #[error("frame was damaged on the way")]
    Damaged,
    #[error("unexpected kind of frame")]
    UnexpectedKind,
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// One frame as it was received; the message is not decoded yet.
#[derive(Debug)]
pub struct Frame {
    pub kind: FrameKind,
    pub correlation: u64,
    pub message: Bytes,
    pub bulk: Bytes,
}

impl Frame {
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        Ok(codec::decode(&self.message)?)
    }

    /// Decodes a frame that must be of `kind`.
    pub fn expect<T: DeserializeOwned>(&self, kind: FrameKind) -> Result<T, FrameError> {
        if self.kind == kind { self.decode() } else { Err(FrameError::UnexpectedKind) }
    }
}

/// Reads frames from one direction of a connection.
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    limits: FrameLimits,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(stream: R, limits: FrameLimits) -> Self {
        FrameReader { stream, buffer: BytesMut::with_capacity(64 * 1024), limits }
    }

    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }

    async fn fill(&mut self, wanted: usize) -> Result<(), FrameError> {
        if self.buffer.len() < wanted {
            // Small messages are read ahead in blocks; a large frame gets exactly the room it needs.
            let room = (wanted - self.buffer.len()).max(32 * 1024);
            self.buffer.reserve(room);
        }
        while self.buffer.len() < wanted {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                let clean = self.buffer.is_empty();
                let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(if clean { FrameError::Closed } else { FrameError::Io(cut) });
            }
        }
        Ok(())
    }

    /// Waits for the next frame. Safe to drop while waiting: what was read so far is kept for the next call.
    pub async fn read(&mut self) -> Result<Frame, FrameError> {
        self.fill(HEADER).await?;
        let mut header = [0u8; HEADER];
        header.copy_from_slice(&self.buffer[..HEADER]);
        let field = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..4] != MAGIC {
            return Err(FrameError::NotCairn);
        }
        let kind = FrameKind::from_byte(header[4]).ok_or(FrameError::NotCairn)?;
        let correlation = u64::from(field(8)) | (u64::from(field(12)) << 32);
        let (message, bulk, sum) = (field(16), field(20), field(24));
        if message > self.limits.message || bulk > self.limits.bulk {
            return Err(FrameError::TooLarge { message, bulk });
        }
        self.fill(HEADER + message as usize + bulk as usize).await?;
        self.buffer.advance(HEADER);
        let message = self.buffer.split_to(message as usize).freeze();
        let bulk = self.buffer.split_to(bulk as usize).freeze();
        if crc32c::crc32c_append(crc32c::crc32c(&header[..24]), &message) != sum {
            return Err(FrameError::Damaged);
        }
        Ok(Frame { kind, correlation, message, bulk })
    }
}

/// Writes frames to one direction of a connection. Share it behind an asynchronous lock.
pub struct FrameWriter<W> {
    stream: W,
    /// Set while a frame is half written: a writer that was cancelled there has spoilt the stream.
    torn: bool,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub fn new(stream: W) -> Self {
        FrameWriter { stream, torn: false }
    }

    /// Sends one frame and flushes it. If the future is dropped half way, later calls fail and the connection must be given up.
    pub async fn write<T: Serialize>(
        &mut self,
        kind: FrameKind,
        correlation: u64,
        message: &T,
        bulk: &[Bytes],
    ) -> Result<(), FrameError> {
        let encoded = codec::encode(message)?;
        let bulk_length: usize = bulk.iter().map(Bytes::len).sum();
        let too_large = || FrameError::TooLarge { message: u32::MAX, bulk: u32::MAX };
        let message_length = u32::try_from(encoded.len()).map_err(|_| too_large())?;
        let bulk_length = u32::try_from(bulk_length).map_err(|_| too_large())?;
        let mut head = Vec::with_capacity(HEADER + encoded.len());
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&[kind as u8, 0, 0, 0]);
        head.extend_from_slice(&correlation.to_le_bytes());
        head.extend_from_slice(&message_length.to_le_bytes());
        head.extend_from_slice(&bulk_length.to_le_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head), &encoded);
        head.extend_from_slice(&sum.to_le_bytes());
        head.extend_from_slice(&encoded);
        if self.torn {
            return Err(FrameError::Io(io::Error::from(io::ErrorKind::BrokenPipe)));
        }
        self.torn = true;
        self.write_all_vectored(&head, bulk).await?;
        self.stream.flush().await?;
        self.torn = false;
        Ok(())
    }

    async fn write_all_vectored(&mut self, head: &[u8], bulk: &[Bytes]) -> io::Result<()> {
        if bulk.is_empty() {
            return self.stream.write_all(head).await;
        }
        let mut pieces: Vec<&[u8]> = Vec::with_capacity(1 + bulk.len());
        pieces.push(head);
        pieces.extend(bulk.iter().map(Bytes::as_ref).filter(|piece| !piece.is_empty()));
        let mut first = 0;
        while first < pieces.len() {
            // The kernel takes at most 1024 pieces a call (IOV_MAX).
            let slices: Vec<IoSlice<'_>> = pieces[first..].iter().take(1024).map(|piece| IoSlice::new(piece)).collect();
            let mut written = self.stream.write_vectored(&slices).await?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero));
            }
            while first < pieces.len() && written >= pieces[first].len() {
                written -= pieces[first].len();
                first += 1;
            }
            if written > 0 {
                pieces[first] = &pieces[first][written..];
            }
        }
        Ok(())
    }

    /// Tells the peer that nothing more will come.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(text in ".{0,200}", sizes in prop::collection::vec(0usize..5000, 0..6), number: u64) {
            let bulk: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![*size as u8; *size])).collect();
            run(async {
                let (near, far) = tokio::io::duplex(700);
                let mut writer = FrameWriter::new(near);
                let mut reader = FrameReader::new(far, FrameLimits::SESSION);
                let send = writer.write(FrameKind::Request, number, &text, &bulk);
                let (sent, frame) = tokio::join!(send, reader.read());
                sent.expect("written");
                let frame = frame.expect("read");
                assert_eq!(frame.correlation, number);
                assert_eq!(frame.expect::<String>(FrameKind::Request).expect("decoded"), text);
                assert_eq!(frame.bulk, Bytes::from(bulk.concat()));
            });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), magic: bool) {
            let mut input = if magic { b"CRN1\x03\0\0\0".to_vec() } else { Vec::new() };
            input.extend(bytes);
            run(async {
                let mut reader = FrameReader::new(input.as_slice(), FrameLimits::HANDSHAKE);
                while let Ok(frame) = reader.read().await {
                    let _ = frame.decode::<crate::Request>();
                }
            });
        }
    }

    #[test]
    fn a_flipped_bit_in_the_message_is_noticed() {
        run(async {
            let mut bytes = Vec::new();
            FrameWriter::new(&mut bytes).write(FrameKind::Push, 0, &"hello".to_owned(), &[]).await.expect("written");
            let last = bytes.len() - 1;
            bytes[last] ^= 4;
            let outcome = FrameReader::new(bytes.as_slice(), FrameLimits::SESSION).read().await;
            assert!(matches!(outcome, Err(FrameError::Damaged)));
        });
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        run(async {
            let mut bytes = Vec::new();
            let bulk = [Bytes::from_static(b"bulk")];
            FrameWriter::new(&mut bytes).write(FrameKind::Hello, 0, &0u8, &bulk).await.expect("written");
            let outcome = FrameReader::new(bytes.as_slice(), FrameLimits::HANDSHAKE).read().await;
            assert!(matches!(outcome, Err(FrameError::TooLarge { .. })));
        });
    }
}
