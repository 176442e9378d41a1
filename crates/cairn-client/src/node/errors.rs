//! The error of buffered writes that were lost. Every open handle is told once, and `fsync` (which comes without a
//! handle) once.

use cairn_types::Errno;

/// The last such error of one node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WriteErrors {
    /// Number of the last error; 0 if there was none.
    sequence: u64,
    errno: Option<Errno>,
    told_by_fsync: u64,
}

impl WriteErrors {
    pub(super) fn note(&mut self, errno: Errno) {
        self.sequence += 1;
        self.errno = Some(errno);
    }

    /// Number of the last error, from which a handle that is opened now counts.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The error that came after number `seen`, which is moved.
    pub(crate) fn since(&self, seen: &mut u64) -> Option<Errno> {
        if *seen >= self.sequence {
            return None;
        }
        *seen = self.sequence;
        self.errno
    }

    /// The error that `fsync` has not told of.
    pub(super) fn take_for_fsync(&mut self) -> Option<Errno> {
        let WriteErrors { sequence, errno, ref mut told_by_fsync } = *self;
        WriteErrors { sequence, errno, told_by_fsync: 0 }.since(told_by_fsync)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_to_handles_that_were_open_and_once_by_fsync() {
        let mut errors = WriteErrors::default();
        let mut before = errors.sequence();
        assert_eq!(errors.take_for_fsync(), None);
        errors.note(Errno::EDQUOT);
        let mut after = errors.sequence();
        assert_eq!((errors.since(&mut before), errors.since(&mut before)), (Some(Errno::EDQUOT), None));
        assert_eq!(errors.since(&mut after), None);
        assert_eq!((errors.take_for_fsync(), errors.take_for_fsync()), (Some(Errno::EDQUOT), None));
        errors.note(Errno::EIO);
        assert_eq!((errors.since(&mut after), errors.take_for_fsync()), (Some(Errno::EIO), Some(Errno::EIO)));
    }
}
