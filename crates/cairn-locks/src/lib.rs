//! Locks that know their place in one order, so that no two threads can wait for each other.
//!
//! Each lock has a *rank*, a type from its crate's table ([`ranks!`]); the table lists the crate's locks outermost first, with
//! the reason. In builds with debug assertions every thread remembers which ranks it holds, and taking a lock whose rank
//! is not inside all of them panics, naming both, whether or not another thread is in the way at that moment. In other builds a
//! rank costs nothing: neither space nor an instruction.
//!
//! Several locks of one rank (two nodes of one table) may be held together if they are taken by [`Mutex::lock_in_order`],
//! with keys that grow.
//!
//! Who only tries to take a lock cannot wait, so [`Mutex::try_lock`] is not held to the order; what is taken after it is.
//!
//! These locks are for what is done in memory. None may be held across an await or a call that waits for another process:
//! [`assert_none_held`] is where such work begins.
//!
//! With the feature `shuttle` a scheduler decides who runs at each step, and tests try many interleavings of the same code
//! (`schedules`); `scripts/interleavings` runs them all.

#![allow(clippy::disallowed_types, reason = "what it makes the ranked locks of")]

mod held;
mod mutex;
#[cfg(not(feature = "shuttle"))]
use parking_lot as raw;
#[cfg(feature = "shuttle")]
mod raw;
mod rwlock;
#[cfg(feature = "shuttle")]
pub mod schedules;

pub use held::assert_none_held;
pub use mutex::{Condvar, Mutex, MutexGuard};
pub use rwlock::{ReadGuard, RwLock, WriteGuard};

/// The crates that have locks, outermost first: code of one may call the next ones while it holds a lock of its own.
/// They stand as their arrows do (`docs/architecture.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Band {
    Program,
    Control,
    Containers,
    Transfer,
    Server,
    Fuse,
    Emulation,
    Client,
    Engine,
    Meta,
    Chunks,
    Runtime,
    /// No crate: what a crate is told of a work of its own from inside it, whatever is held there.
    Reports,
}

/// A place in the order of locks. Made by [`ranks!`] only.
pub trait Rank: 'static {
    /// Of two locks the one with the lower number is taken first.
    const ORDER: u32;
    /// Crate and name, for the panic's message.
    const NAME: &'static str;
}

/// The number of the `index`-th lock of a crate's table.
#[doc(hidden)]
pub const fn order(band: Band, index: u16) -> u32 {
    (band as u32) << 16 | index as u32
}

/// The table of a crate's locks: a rank for each, outermost first.
///
/// ```
/// cairn_locks::ranks! { Band::Program;
///     /// Held while a line is written to the queue.
///     Log,
///     /// Taken for a moment by whoever adds a line.
///     Queue,
/// }
/// let (log, queue) = (cairn_locks::Mutex::<_, Log>::new(()), cairn_locks::Mutex::<_, Queue>::new(1));
/// let _log = log.lock();
/// assert_eq!(*queue.lock(), 1);
/// ```
#[macro_export]
macro_rules! ranks {
    (Band::$band:ident; $($(#[$doc:meta])+ $name:ident),+ $(,)?) => {
        #[allow(dead_code, clippy::enum_variant_names, reason = "its variants only count the ranks")]
        #[repr(u16)]
        enum PlaceInTable { $($name),+ }
        $(
            $(#[$doc])+
            #[derive(Debug)]
            pub(crate) enum $name {}
            impl $crate::Rank for $name {
                const ORDER: u32 = $crate::order($crate::Band::$band, PlaceInTable::$name as u16);
                const NAME: &'static str = concat!(stringify!($band), "::", stringify!($name));
            }
        )+
    };
}
