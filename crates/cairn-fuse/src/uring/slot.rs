//! The memory in which one request at a time comes and its answer goes.
//!
//! ```text
//! 0            288        4096 - n        4096                    4096 + CAPACITY
//! | the kernel's header | … | header, arguments | payload (names, data) |
//! ```
//!
//! The kernel lays header, fixed arguments and payload into three places. The first two are copied to right before the
//! payload, so that decoding sees the same bytes as on the classic queue. Not here: who holds a slot when (`queue`).

use std::io::{self, IoSlice};
use std::ptr::NonNull;

use io_uring::squeue::Entry128;
use io_uring::{opcode, types};
use zerocopy::{FromBytes, IntoBytes};

use crate::abi::{self, uring};
use crate::device::Device;
use crate::handshake::MAX_WRITE;
use crate::service::HEADER_ROOM;

/// Longest payload, in bytes: the longest write and read, and far more than any listing or attribute.
pub(crate) const CAPACITY: usize = MAX_WRITE as usize;

/// Whole memory of a slot, in bytes.
const LENGTH: usize = HEADER_ROOM + CAPACITY;

/// Payload up to this many bytes is not worth giving back to the kernel.
const SMALL: usize = 64 * 1024;

/// `sqe->len` in a submission queue entry, in bytes from its start (`struct io_uring_sqe`).
const SQE_LEN_OFFSET: usize = 24;

const _: () = assert!(HEADER_ROOM >= uring::REQ_HEADER_SIZE + size_of::<abi::InHeader>() + uring::OP_IN_SIZE);
const _: () = assert!(size_of::<Entry128>() == 128);

/// One place for a request, of the queue of one CPU.
#[derive(Debug)]
pub(crate) struct Slot {
    memory: NonNull<u8>,
    pub(crate) index: usize,
    /// The kernel's queue: the number of a CPU.
    pub(crate) queue: u16,
    /// Number of the ring's commit that gave it to the kernel last.
    pub(crate) last_commit: u64,
    /// How the request that is in it must be referred to.
    commit_id: u64,
    /// Bytes of payload that the request or its answer took, the longer of the two.
    touched: usize,
    /// The ring lets it keep the memory behind long payloads.
    pub(crate) keeps: bool,
}

// SAFETY: the memory belongs to the slot alone. The kernel touches it only inside system calls of the queue's thread
// that name the slot, and that thread keeps it meanwhile.
unsafe impl Send for Slot {}
// SAFETY: a shared slot can only be looked at.
unsafe impl Sync for Slot {}

impl Slot {
    pub(crate) fn new(index: usize, queue: u16) -> io::Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a fresh anonymous mapping touches no other memory.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, protection, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Slot { memory, index, queue, last_commit: 0, commit_id: 0, touched: 0, keeps: false })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has this length, is zero or written, and nobody writes while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), LENGTH) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), LENGTH) }
    }

    /// The request that has come, as it would have come on the classic queue; `None` if its lengths contradict each
    /// other.
    pub(crate) fn take_request(&mut self) -> Option<&[u8]> {
        let header = self.header();
        let bytes = self.bytes();
        let (entry, _) = abi::UringEntInOut::read_from_prefix(bytes.get(uring::ENT_IN_OUT..)?).ok()?;
        let payload = entry.payload_sz as usize;
        self.commit_id = entry.commit_id;
        let arguments = (header.len as usize).checked_sub(size_of::<abi::InHeader>())?.checked_sub(payload)?;
        if payload > CAPACITY || arguments > uring::OP_IN_SIZE {
            return None;
        }
        let start = HEADER_ROOM - arguments - size_of::<abi::InHeader>();
        let bytes = self.bytes_mut();
        bytes.copy_within(uring::OP_IN..uring::OP_IN + arguments, HEADER_ROOM - arguments);
        bytes.get_mut(start..start + size_of::<abi::InHeader>())?.copy_from_slice(header.as_bytes());
        self.touched = payload;
        self.bytes().get(start..HEADER_ROOM + payload)
    }

    /// The header of the request that has come, for one whose other parts make no sense.
    pub(crate) fn header(&self) -> abi::InHeader {
        abi::InHeader::read_from_prefix(self.bytes()).map(|(header, _)| header).unwrap_or_default()
    }

    /// Lays an answer ready: the first slice is its header, the others follow each other.
    ///
    /// # Errors
    /// `EMSGSIZE` if it is longer than any request can want.
    pub(crate) fn put_answer(&mut self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        let Some((header, parts)) = slices.split_first() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let too_long = || io::Error::from_raw_os_error(libc::EMSGSIZE);
        let bytes = self.bytes_mut();
        let mut end = HEADER_ROOM;
        for part in parts {
            bytes.get_mut(end..end + part.len()).ok_or_else(too_long)?.copy_from_slice(part);
            end += part.len();
        }
        bytes.get_mut(..header.len()).ok_or_else(too_long)?.copy_from_slice(header);
        let payload = end - HEADER_ROOM;
        let entry = abi::UringEntInOut { payload_sz: payload as u32, ..Default::default() };
        let room = uring::ENT_IN_OUT..uring::REQ_HEADER_SIZE;
        bytes.get_mut(room).ok_or_else(too_long)?.copy_from_slice(entry.as_bytes());
        self.touched = self.touched.max(payload);
        Ok(())
    }

    /// Whether request or answer were so long that it is worth letting other work go on before more of them.
    pub(crate) fn is_large(&self) -> bool {
        self.touched > SMALL
    }

    /// Gives the memory behind long payloads back to the kernel; its content is lost.
    pub(crate) fn discard(&mut self) {
        if self.keeps || self.is_large() {
            // SAFETY: both pages and length are inside the mapping, of which nothing is borrowed.
            unsafe {
                let payload = self.memory.as_ptr().add(HEADER_ROOM);
                libc::madvise(payload.cast(), CAPACITY, libc::MADV_DONTNEED);
            }
            self.touched = 0;
            self.keeps = false;
        }
    }

    /// The two buffers that the kernel is to use, for [`Slot::register`].
    pub(crate) fn buffers(&self) -> [libc::iovec; uring::IOV_SEGS as usize] {
        let start: *mut u8 = self.memory.as_ptr();
        // SAFETY: inside the mapping.
        let payload = unsafe { start.add(HEADER_ROOM) };
        [
            libc::iovec { iov_base: start.cast(), iov_len: uring::REQ_HEADER_SIZE },
            libc::iovec { iov_base: payload.cast(), iov_len: CAPACITY },
        ]
    }

    /// The command that gives the slot to the kernel for the first time. `buffers` must live until it is submitted.
    pub(crate) fn register(&self, device: &Device, buffers: &[libc::iovec; 2]) -> Entry128 {
        let mut entry = self.command(device, uring::REGISTER, Some(buffers.as_ptr() as u64));
        // SAFETY: the entry is 128 bytes laid out as the kernel's structure (`repr(C)`), in which a u32 lies at
        // this place; the crate has no setter for it.
        unsafe {
            (&raw mut entry).cast::<u8>().add(SQE_LEN_OFFSET).cast::<[u8; 4]>().write(uring::IOV_SEGS.to_ne_bytes());
        };
        entry
    }

    /// The command that gives the answer to the kernel, and with it the slot for another request.
    pub(crate) fn commit(&self, device: &Device) -> Entry128 {
        self.command(device, uring::COMMIT_AND_FETCH, None)
    }

    fn command(&self, device: &Device, command: u32, address: Option<u64>) -> Entry128 {
        let arguments =
            abi::UringCmdReq { flags: 0, commit_id: self.commit_id, qid: self.queue, padding: Default::default() };
        let mut bytes = [0; 80];
        bytes[..size_of::<abi::UringCmdReq>()].copy_from_slice(arguments.as_bytes());
        let entry = opcode::UringCmd80::new(types::Fd(device.number()), command).cmd(bytes).addr(address);
        entry.build().user_data(self.index as u64)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the mapping is the slot's own and nothing borrows it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Does what the kernel does when it lays a request into a slot.
    fn lay(slot: &mut Slot, header: &abi::InHeader, arguments: &[u8], payload: &[u8]) {
        let entry = abi::UringEntInOut { commit_id: 7, payload_sz: payload.len() as u32, ..Default::default() };
        let bytes = slot.bytes_mut();
        bytes[..40].copy_from_slice(header.as_bytes());
        bytes[uring::OP_IN..][..arguments.len()].copy_from_slice(arguments);
        bytes[uring::ENT_IN_OUT..][..size_of_val(&entry)].copy_from_slice(entry.as_bytes());
        bytes[HEADER_ROOM..][..payload.len()].copy_from_slice(payload);
    }

    proptest! {
        #[test]
        fn a_request_looks_as_on_the_classic_queue(
            arguments in proptest::collection::vec(any::<u8>(), 0..=uring::OP_IN_SIZE),
            payload in proptest::collection::vec(any::<u8>(), 0..5000),
        ) {
            let mut slot = Slot::new(3, 1).unwrap();
            let len = (40 + arguments.len() + payload.len()) as u32;
            let header = abi::InHeader { len, opcode: 16, unique: 9, ..Default::default() };
            lay(&mut slot, &header, &arguments, &payload);
            let whole = [header.as_bytes(), &arguments, &payload].concat();
            prop_assert_eq!(slot.take_request().unwrap(), whole.as_slice());
            prop_assert_eq!(slot.commit_id, 7);
        }

        #[test]
        fn lengths_that_contradict_each_other_are_refused_whatever_they_are(len in any::<u32>(), payload in any::<u32>()) {
            let mut slot = Slot::new(0, 0).unwrap();
            lay(&mut slot, &abi::InHeader { len, ..Default::default() }, &[], &[]);
            let entry = abi::UringEntInOut { payload_sz: payload, ..Default::default() };
            slot.bytes_mut()[uring::ENT_IN_OUT..][..size_of_val(&entry)].copy_from_slice(entry.as_bytes());
            let fits = payload as usize <= CAPACITY
                && (40..=40 + uring::OP_IN_SIZE as i64).contains(&(i64::from(len) - i64::from(payload)));
            prop_assert_eq!(slot.take_request().is_some(), fits);
        }
    }

    #[test]
    fn an_answer_lies_where_the_kernel_looks_for_it() {
        let mut slot = Slot::new(0, 0).unwrap();
        let header = abi::OutHeader { len: 21, error: 0, unique: 5 };
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(b"abc"), IoSlice::new(b"de")];
        slot.put_answer(&parts).unwrap();
        assert_eq!(&slot.bytes()[..16], header.as_bytes());
        assert_eq!(&slot.bytes()[HEADER_ROOM..HEADER_ROOM + 5], b"abcde");
        let (entry, _) = abi::UringEntInOut::read_from_prefix(&slot.bytes()[uring::ENT_IN_OUT..]).unwrap();
        assert_eq!(entry.payload_sz, 5);
        let long = vec![1; CAPACITY + 1];
        let refused = slot.put_answer(&[IoSlice::new(header.as_bytes()), IoSlice::new(&long)]);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
        let longest = &long[..CAPACITY];
        slot.put_answer(&[IoSlice::new(header.as_bytes()), IoSlice::new(longest)]).unwrap();
        assert!(slot.is_large() && slot.bytes()[LENGTH - 1] == 1);
        slot.discard();
        assert!(!slot.is_large() && slot.bytes()[LENGTH - 1] == 0);
    }
}
