//! A lock for many readers or one writer, with a rank.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::held::Held;
use crate::{Rank, raw};

/// A lock of `parking_lot` whose place in the order of locks is `R`. A reader counts as a holder, too: one that reads twice would
/// wait for a writer that waits for its first read.
pub struct RwLock<T: ?Sized, R> {
    rank: PhantomData<fn() -> R>,
    inner: raw::RwLock<T>,
}

/// The right to read, until it is dropped.
#[must_use = "the lock is let go of at once if its guard is dropped"]
pub struct ReadGuard<'a, T: ?Sized> {
    inner: raw::RwLockReadGuard<'a, T>,
    _held: Held,
}

/// The right to read and write, until it is dropped.
#[must_use = "the lock is let go of at once if its guard is dropped"]
pub struct WriteGuard<'a, T: ?Sized> {
    inner: raw::RwLockWriteGuard<'a, T>,
    _held: Held,
}

impl<T, R: Rank> RwLock<T, R> {
    pub const fn new(value: T) -> Self {
        RwLock { rank: PhantomData, inner: raw::RwLock::new(value) }
    }
}

impl<T: ?Sized, R: Rank> RwLock<T, R> {
    /// Waits until nobody writes.
    ///
    /// # Panics
    /// In builds with debug assertions, if this thread holds a lock that must not be outside this one.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, T> {
        Held::check::<R>(None);
        let inner = self.inner.read();
        ReadGuard { inner, _held: Held::note::<R>(None) }
    }

    /// Waits until nobody reads or writes.
    ///
    /// # Panics
    /// As [`RwLock::read`].
    #[inline]
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, T> {
        Held::check::<R>(None);
        let inner = self.inner.write();
        WriteGuard { inner, _held: Held::note::<R>(None) }
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: Default, R: Rank> Default for RwLock<T, R> {
    fn default() -> Self {
        RwLock::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug, R> fmt::Debug for RwLock<T, R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(formatter)
    }
}

impl<T: ?Sized> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::ranks! { Band::Program;
        /// The only one.
        Table,
    }

    #[test]
    fn readers_share_and_a_writer_changes() {
        let table = RwLock::<_, Table>::new(1);
        std::thread::scope(|scope| {
            let _here = table.read();
            scope.spawn(|| assert_eq!(*table.read(), 1));
        });
        *table.write() += 1;
        assert_eq!(*table.read(), 2);
    }

    #[test]
    #[cfg(debug_assertions)]
    fn reading_twice_panics() {
        let table = RwLock::<_, Table>::new(1);
        let _once = table.read();
        let twice = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| *table.read()));
        assert!(twice.is_err());
    }
}
