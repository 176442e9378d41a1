//! The system calls that the standard library does not offer: positional vectored writes, reads into fresh memory,
//! holes. Plain wrappers without policy; the one place in this crate with `unsafe`.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

/// Most buffers of one vectored write (`IOV_MAX` of Linux).
const IOV_MAX: usize = 1024;

/// Reads up to `length` bytes from `offset`: fewer only where the file ends.
pub(crate) fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = offset_of(offset, bytes.len())?;
        let room = length - bytes.len();
        let spare = bytes.spare_capacity_mut();
        // SAFETY: the kernel writes at most `room` bytes; the vector was made with capacity for `length`, of which
        // `length - room` are filled.
        let count = unsafe { libc::pread(file.as_raw_fd(), spare.as_mut_ptr().cast(), room, at) };
        match usize::try_from(count) {
            Ok(0) => break,
            // SAFETY: the kernel has just filled `count` more bytes.
            Ok(count) => unsafe { bytes.set_len(bytes.len() + count) },
            Err(_) => retry_if_interrupted()?,
        }
    }
    Ok(bytes)
}

/// As [`read_at`] from what the kernel has in memory; `None` if that is not all of it, or it cannot tell.
pub(crate) fn read_at_now(file: &File, offset: u64, length: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::<u8>::with_capacity(length);
    let at = offset_of(offset, 0)?;
    let room = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: length };
    // SAFETY: the kernel writes at most `length` bytes to where the vector has room for them.
    let count = unsafe { libc::preadv2(file.as_raw_fd(), &raw const room, 1, at, libc::RWF_NOWAIT) };
    match usize::try_from(count) {
        Ok(count) if count == length => {
            // SAFETY: the kernel has just filled them.
            unsafe { bytes.set_len(length) };
            Ok(Some(bytes))
        }
        Ok(_) => Ok(None),
        Err(_) => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS)) => Ok(None),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            error => Err(error),
        },
    }
}

/// Writes `pieces` one after another from `offset` on, with one system call for every 1024 pieces where the kernel
/// takes them whole. On an error some of them may have been written.
pub(crate) fn write_all_at(file: &File, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> =
        pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| IoSlice::new(piece)).collect();
    let mut rest = slices.as_mut_slice();
    let mut written = 0;
    while !rest.is_empty() {
        #[cfg(test)]
        faults::before_write(file, rest, offset + written as u64)?;
        let count = rest.len().min(IOV_MAX);
        let at = offset_of(offset, written)?;
        // SAFETY: `IoSlice` has the layout of `iovec` by its documentation, and `count` of them lie in `rest`.
        let count = unsafe { libc::pwritev(file.as_raw_fd(), rest.as_ptr().cast(), count as libc::c_int, at) };
        match usize::try_from(count) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                written += count;
                IoSlice::advance_slices(&mut rest, count);
            }
            Err(_) => retry_if_interrupted()?,
        }
    }
    Ok(())
}

/// Gives the blocks of `start..end` back to the file system; they read as zeros from now on.
/// False if the file system cannot do that.
pub(crate) fn punch_hole(file: &File, start: u64, end: u64) -> io::Result<bool> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    let length = end.saturating_sub(start);
    loop {
        // SAFETY: a call with a valid descriptor and plain numbers.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset_of(start, 0)?, offset_of(length, 0)?) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(false),
            _ => return Err(error),
        }
    }
}

/// Start of the first bytes at or after `offset` that are not in a hole; `None` if only a hole or nothing follows.
pub(crate) fn seek_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    // SAFETY: a call with a valid descriptor and plain numbers. It moves the file's cursor, which nobody here uses.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset_of(offset, 0)?, libc::SEEK_DATA) };
    if let Ok(found) = u64::try_from(found) {
        return Ok(Some(found));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENXIO) => Ok(None),
        Some(libc::EINVAL) => Ok(Some(offset)),
        _ => Err(error),
    }
}

/// Has the kernel begin to read bytes that somebody will read in a moment. Only a hint: that it failed shows nowhere.
pub(crate) fn read_soon(file: &File, offset: u64, length: usize) {
    if let (Ok(at), Ok(length)) = (offset_of(offset, 0), offset_of(length as u64, 0)) {
        // SAFETY: a call with a valid descriptor and plain numbers.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), at, length, libc::POSIX_FADV_WILLNEED) };
    }
}

/// Waits until the file's bytes and length are on stable storage.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(test)]
    faults::before_sync()?;
    file.sync_data()
}

fn offset_of(base: u64, more: usize) -> io::Result<libc::off_t> {
    base.checked_add(more as u64)
        .and_then(|offset| libc::off_t::try_from(offset).ok())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn retry_if_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// Failures that a test asks for, in its own thread.
#[cfg(test)]
pub(crate) mod faults {
    use std::cell::Cell;
    use std::fs::File;
    use std::io::{self, IoSlice};
    use std::os::unix::fs::FileExt;

    thread_local! {
        static SPACE_LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        static SYNC_FAILS: Cell<bool> = const { Cell::new(false) };
    }

    /// The disk has room for this many more bytes in one write; `None` for a disk without faults.
    pub(crate) fn set_space_left(bytes: Option<usize>) {
        SPACE_LEFT.set(bytes);
    }

    pub(crate) fn set_sync_fails(fails: bool) {
        SYNC_FAILS.set(fails);
    }

    pub(super) fn before_write(file: &File, pieces: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let Some(space) = SPACE_LEFT.get() else { return Ok(()) };
        let bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<_>>();
        if bytes.len() <= space {
            return Ok(());
        }
        file.write_all_at(&bytes[..space], offset)?;
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    pub(super) fn before_sync() -> io::Result<()> {
        if SYNC_FAILS.get() { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_pieces_than_one_call_takes_arrive_in_order() {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..3 * IOV_MAX).map(|number| number as u8).collect();
        let pieces: Vec<&[u8]> = bytes.chunks(1).collect();
        write_all_at(&file, &pieces, 5).unwrap();
        assert_eq!(read_at(&file, 5, 10 * IOV_MAX).unwrap(), bytes);
        assert_eq!(read_at(&file, 0, 6).unwrap(), [0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_in_memory_is_read_at_once() {
        let file = tempfile::tempfile().unwrap();
        let bytes = vec![7; 10_000];
        write_all_at(&file, &[&bytes], 0).unwrap();
        // Some file systems never tell.
        if let Some(found) = read_at_now(&file, 5, 9000).unwrap() {
            assert_eq!(found, bytes[5..9005]);
        }
        assert_eq!(read_at_now(&file, 5000, 9000).unwrap(), None, "the file has no so many bytes");
    }

    #[test]
    fn a_punched_range_is_skipped_by_seek_data() {
        let file = tempfile::tempfile().unwrap();
        write_all_at(&file, &[&vec![1; 65536]], 0).unwrap();
        assert!(punch_hole(&file, 4096, 61440).unwrap());
        assert_eq!(seek_data(&file, 0).unwrap(), Some(0));
        assert_eq!(seek_data(&file, 5000).unwrap(), Some(61440));
        assert_eq!(seek_data(&file, 65536).unwrap(), None);
    }
}
