//! Bytes of files on their way, and the hash by which two copies are compared.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use rustix::fs::SeekFrom;

use crate::item::{Content, PIECE};
use crate::{During, TransferError};

/// The whole content in one piece.
pub(crate) struct Whole(Option<Bytes>);

impl Whole {
    pub(crate) fn new(bytes: impl Into<Bytes>) -> Whole {
        Whole(Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()))
    }
}

impl Content for Whole {
    fn next(&mut self) -> Result<Option<(u64, Bytes)>, TransferError> {
        Ok(self.0.take().map(|bytes| (0, bytes)))
    }
}

/// Pieces of one file of an archive, which one thread reads for others. The channel's end is the content's end only
/// if everything came.
pub(crate) struct Piped {
    pieces: Receiver<(u64, Bytes)>,
    end: u64,
    seen: u64,
}

impl Piped {
    /// A few pieces may be under way; the last one must end at `end`.
    pub(crate) fn new(end: u64) -> (SyncSender<(u64, Bytes)>, Piped) {
        let (send, pieces) = sync_channel(8);
        (send, Piped { pieces, end, seen: 0 })
    }
}

impl Content for Piped {
    fn next(&mut self) -> Result<Option<(u64, Bytes)>, TransferError> {
        match self.pieces.recv() {
            Ok((offset, bytes)) => {
                self.seen = offset + bytes.len() as u64;
                Ok(Some((offset, bytes)))
            }
            Err(_) if self.seen >= self.end => Ok(None),
            Err(_) => Err(TransferError::Stopped),
        }
    }
}

/// A file of this machine; opened when its first byte is wanted, holes left out.
pub(crate) struct LocalFile {
    path: PathBuf,
    file: Option<File>,
    at: u64,
    /// End of the data in which `at` lies.
    data_end: u64,
}

impl LocalFile {
    pub(crate) fn new(path: PathBuf) -> LocalFile {
        LocalFile { path, file: None, at: 0, data_end: 0 }
    }
}

impl Content for LocalFile {
    fn next(&mut self) -> Result<Option<(u64, Bytes)>, TransferError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path).during("open", &self.path)?),
        };
        if self.at >= self.data_end {
            match rustix::fs::seek(&*file, SeekFrom::Data(self.at)) {
                Ok(start) => self.at = start,
                Err(rustix::io::Errno::NXIO) => return Ok(None),
                Err(error) => return Err(error).during("read", &self.path),
            }
            self.data_end = rustix::fs::seek(&*file, SeekFrom::Hole(self.at)).during("read", &self.path)?;
        }
        let wanted = (self.data_end - self.at).min(PIECE as u64) as usize;
        let mut buffer = vec![0; wanted];
        let found = file.read_at(&mut buffer, self.at).during("read", &self.path)?;
        if found == 0 {
            // It became shorter meanwhile; what is missing is seen by its size.
            return Ok(None);
        }
        buffer.truncate(found);
        let offset = self.at;
        self.at += found as u64;
        Ok(Some((offset, buffer.into())))
    }
}

/// blake3 of a content: of its blocks that are not all zeros, each with its number, and of its size. So it does not
/// matter where a copy has holes, nor in which pieces it is read.
pub type Digest = [u8; 32];

/// Unit in which zeros are left out of the hash.
const BLOCK: usize = 64 << 10;

/// Computes a [`Digest`] of pieces in ascending order.
pub(crate) struct Hasher {
    inner: blake3::Hasher,
    /// The block that is not complete yet, and how much of it is known.
    block: Box<[u8]>,
    number: u64,
    filled: usize,
}

impl Hasher {
    pub(crate) fn new() -> Hasher {
        Hasher { inner: blake3::Hasher::new(), block: vec![0; BLOCK].into(), number: 0, filled: 0 }
    }

    pub(crate) fn update(&mut self, offset: u64, mut bytes: &[u8]) {
        let number = offset / BLOCK as u64;
        if number != self.number {
            self.end_block();
            self.number = number;
        }
        self.filled = (offset % BLOCK as u64) as usize;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == BLOCK {
                self.end_block();
                self.number += 1;
            }
        }
    }

    fn end_block(&mut self) {
        if self.filled > 0 && self.block.iter().any(|byte| *byte != 0) {
            self.inner.update(&self.number.to_le_bytes());
            self.inner.update(&self.block);
        }
        self.block.fill(0);
        self.filled = 0;
    }

    pub(crate) fn end(mut self, size: u64) -> Digest {
        self.end_block();
        self.inner.update(&size.to_le_bytes());
        *self.inner.finalize().as_bytes()
    }
}

/// Reads a content to its end.
///
/// # Errors
/// What cannot be read.
pub fn hash(content: &mut dyn Content, size: u64) -> Result<Digest, TransferError> {
    let mut hasher = Hasher::new();
    while let Some((offset, bytes)) = content.next()? {
        hasher.update(offset, &bytes);
    }
    Ok(hasher.end(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(pieces: &[(u64, &[u8])], size: u64) -> Digest {
        let mut hasher = Hasher::new();
        for (offset, bytes) in pieces {
            hasher.update(*offset, bytes);
        }
        hasher.end(size)
    }

    #[test]
    fn neither_pieces_nor_holes_change_the_digest() {
        let mut all = vec![0u8; 300_000];
        for (index, byte) in all.iter_mut().enumerate().take(20_000).skip(10_000) {
            *byte = (index % 251) as u8;
        }
        all[299_999] = 7;
        let whole = digest(&[(0, &all)], 300_000);
        assert_eq!(whole, digest(&[(0, &all[..123]), (123, &all[123..])], 300_000));
        assert_eq!(whole, digest(&[(10_000, &all[10_000..20_000]), (262_144, &all[262_144..])], 300_000));
        assert_eq!(
            whole,
            digest(&[(9_990, &all[9_990..15_000]), (15_000, &all[15_000..20_100]), (299_999, &[7])], 300_000)
        );
    }

    #[test]
    fn bytes_places_and_sizes_count() {
        let some = digest(&[(5, b"abc")], 100);
        for other in [digest(&[(6, b"abc")], 100), digest(&[(5, b"abd")], 100), digest(&[(5, b"abc")], 101)] {
            assert_ne!(some, other);
        }
        assert_ne!(digest(&[(0, b"x")], 200_000), digest(&[(65_536, b"x")], 200_000));
    }
}
