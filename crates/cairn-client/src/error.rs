//! The one error of this crate: what kind of failure it is, the error number that a program gets, and, where somebody
//! said why, the sentence and what it was caused by.
//!
//! Code decides by [`Error::kind`] or compares with an [`Errno`]; people read the sentence ([`std::fmt::Display`]); only
//! a front end needs [`Error::errno`]. An error that is an error number alone costs no allocation, because a missing name is
//! an everyday answer.

use std::fmt;
use std::sync::Arc;

use cairn_types::Errno;
use cairn_wire::message::Failure;

/// What an operation on a volume gives back.
pub type FsResult<T> = std::result::Result<T, Error>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What callers tell apart. An error number alone does not say it: a server that answers `EIO` has decided, a server
        /// that is out of reach has not.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind, in the order of its number.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$kind,)*];

            /// As counters are named.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ErrorKind::$kind => $name,)*
                }
            }
        }
    };
}

kinds!(
    /// There is no such name, node, attribute or blob (any more).
    NotFound = "not_found",
    /// It was decided that this must not or cannot be done. Doing it again gives the same answer.
    Refused = "refused",
    /// No space or no quota is left.
    NoSpace = "no_space",
    /// Not now: somebody else is in the way, or the caller was interrupted.
    TryAgain = "try_again",
    /// No answer came in time. Of a change that was sent this is said as [`ErrorKind::OutcomeUnknown`].
    TimedOut = "timed_out",
    /// The server is out of reach and no longer waited for, until it is back. Nothing was changed.
    Unreachable = "unreachable",
    /// A change was sent and no answer came: it may have happened, and it may still happen.
    OutcomeUnknown = "outcome_unknown",
    /// The session, or the lease under which a change was made, is over: what was not yet acknowledged is lost.
    Fenced = "fenced",
    /// This mount is closing and takes nothing more.
    Closed = "closed",
    /// Bytes do not match their checksums.
    Damaged = "damaged",
    /// Something failed that should not.
    Failed = "failed",
);

impl From<Errno> for ErrorKind {
    /// The kind of a failure of which nothing is known but its number.
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENODATA | Errno::ESTALE => ErrorKind::NotFound,
            Errno::ENOSPC | Errno::EDQUOT => ErrorKind::NoSpace,
            Errno::EAGAIN | Errno::EINTR => ErrorKind::TryAgain,
            Errno::ETIMEDOUT => ErrorKind::TimedOut,
            Errno::ENOTCONN => ErrorKind::Unreachable,
            Errno::ESHUTDOWN => ErrorKind::Closed,
            Errno::EIO | Errno::EPROTO | Errno::ENOMEM => ErrorKind::Failed,
            _ => ErrorKind::Refused,
        }
    }
}

/// Why an operation failed. Two errors are equal if nobody would treat them differently: by kind and number.
#[derive(Clone, thiserror::Error)]
#[error(transparent)]
pub struct Error(Repr);

#[derive(Clone, Debug, thiserror::Error)]
enum Repr {
    #[error("{errno}")]
    Bare { kind: ErrorKind, errno: Errno },
    #[error(transparent)]
    Explained(Arc<Explained>),
}

#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
struct Explained {
    kind: ErrorKind,
    errno: Errno,
    sentence: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of which the kind is known better than its number says.
    pub const fn new(kind: ErrorKind, errno: Errno) -> Self {
        Error(Repr::Bare { kind, errno })
    }

    /// The server is out of reach.
    pub(crate) const UNREACHABLE: Error = Error::new(ErrorKind::Unreachable, Errno::EIO);
    /// The session or lease that this belonged to is over.
    pub(crate) const FENCED: Error = Error::new(ErrorKind::Fenced, Errno::ESTALE);
    /// The session was closed from this side.
    pub(crate) const CLOSED: Error = Error::new(ErrorKind::Closed, Errno::ESHUTDOWN);

    /// The same error, with a sentence for people: what could not be done, and why.
    #[must_use]
    pub fn because(self, sentence: impl Into<String>) -> Self {
        let (kind, errno) = (self.kind(), self.errno());
        Error(Repr::Explained(Arc::new(Explained { kind, errno, sentence: sentence.into(), source: None })))
    }

    /// The same error, explained by another, which becomes its source.
    #[must_use]
    pub fn caused_by(self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        let (kind, errno, sentence) = (self.kind(), self.errno(), self.to_string());
        Error(Repr::Explained(Arc::new(Explained { kind, errno, sentence, source: Some(Box::new(source)) })))
    }

    /// What the server answers with this number. `ESTALE` is its word for a session or lease that is over; for a node that is
    /// gone it says `ENOENT`.
    pub(crate) fn from_server(errno: Errno) -> Self {
        if errno == Errno::ESTALE { Error::FENCED } else { errno.into() }
    }

    /// Whether a change that failed so may have happened.
    pub(crate) fn may_have_happened(&self) -> bool {
        match self.kind() {
            ErrorKind::OutcomeUnknown
            | ErrorKind::TimedOut
            | ErrorKind::Fenced
            | ErrorKind::Closed
            | ErrorKind::Damaged
            | ErrorKind::Failed => true,
            ErrorKind::NotFound
            | ErrorKind::Refused
            | ErrorKind::NoSpace
            | ErrorKind::TryAgain
            | ErrorKind::Unreachable => false,
        }
    }

    /// The same error, of which more is known than before.
    #[must_use]
    pub(crate) fn of_kind(self, kind: ErrorKind) -> Self {
        let bare = Error::new(kind, self.errno());
        match self.sentence() {
            Some(sentence) => bare.because(sentence),
            None => bare,
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match &self.0 {
            Repr::Bare { kind, .. } => *kind,
            Repr::Explained(explained) => explained.kind,
        }
    }

    /// What a program gets that knows only error numbers.
    pub fn errno(&self) -> Errno {
        match &self.0 {
            Repr::Bare { errno, .. } => *errno,
            Repr::Explained(explained) => explained.errno,
        }
    }

    /// What somebody said about it, beyond the text of the error number.
    pub fn sentence(&self) -> Option<&str> {
        match &self.0 {
            Repr::Bare { .. } => None,
            Repr::Explained(explained) => Some(&explained.sentence),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}({:?}", self.kind(), self.errno())?;
        if let Some(sentence) = self.sentence() {
            write!(formatter, ": {sentence}")?;
        }
        formatter.write_str(")")
    }
}

impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        (self.kind(), self.errno()) == (other.kind(), other.errno())
    }
}

impl Eq for Error {}

impl PartialEq<Errno> for Error {
    fn eq(&self, errno: &Errno) -> bool {
        self.errno() == *errno
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Error::new(errno.into(), errno)
    }
}

impl From<Failure> for Error {
    /// Keeps what the server says, unless that is only the text of the error number.
    fn from(failure: Failure) -> Self {
        let bare = Error::from_server(failure.errno);
        if failure.message == failure.errno.to_string() { bare } else { bare.because(failure.message) }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn it_is_small_enough_for_every_result() {
        assert!(size_of::<Error>() <= 16);
        assert!(size_of::<FsResult<()>>() <= 16);
    }

    #[test]
    fn what_the_server_says_is_kept() {
        let error = Error::from(Failure { errno: Errno::EACCES, message: "the key is for another volume".into() });
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(error, Errno::EACCES);
        assert_eq!(error.sentence(), Some("the key is for another volume"));
        assert_eq!(error.to_string(), "the key is for another volume");
        assert_eq!(format!("{error:?}"), "Refused(EACCES: the key is for another volume)");
        assert_eq!(error, Error::from(Errno::EACCES));
        assert_ne!(error, Error::new(ErrorKind::Fenced, Errno::EACCES));
    }

    #[test]
    fn the_text_of_an_error_number_is_no_sentence() {
        let error = Error::from(Failure::from(Errno::ENOENT));
        assert_eq!(error.sentence(), None);
        assert_eq!(error.to_string(), Errno::ENOENT.to_string());
        assert!(error.source().is_none());
    }

    #[test]
    fn a_cause_is_the_source() {
        let cause = std::io::Error::other("broken pipe");
        let error = Error::from(Errno::EIO).because("cannot read the pack").caused_by(cause);
        assert_eq!(error.to_string(), "cannot read the pack");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("broken pipe"));
    }
}
