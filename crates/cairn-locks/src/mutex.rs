//! A mutex with a rank, and the condition variable that goes with it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use crate::held::Held;
use crate::{Rank, raw};

/// A mutex of `parking_lot` whose place in the order of locks is `R`.
pub struct Mutex<T: ?Sized, R> {
    rank: PhantomData<fn() -> R>,
    inner: raw::Mutex<T>,
}

/// The right to use what the mutex guards, until it is dropped.
#[must_use = "the lock is let go of at once if its guard is dropped"]
pub struct MutexGuard<'a, T: ?Sized> {
    inner: raw::MutexGuard<'a, T>,
    /// After the lock: it is held until it is given back.
    _held: Held,
}

impl<T, R: Rank> Mutex<T, R> {
    pub const fn new(value: T) -> Self {
        Mutex { rank: PhantomData, inner: raw::Mutex::new(value) }
    }

    pub fn into_inner(self) -> T {
        self.inner.into_inner()
    }
}

impl<T: ?Sized, R: Rank> Mutex<T, R> {
    /// Waits for the lock.
    ///
    /// # Panics
    /// In builds with debug assertions, if this thread holds a lock that must not be outside this one.
    #[inline]
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        Held::check::<R>(None);
        self.take(None)
    }

    /// As [`Mutex::lock`], for locks of which several are held together: `key` must be above those of the others.
    ///
    /// # Panics
    /// As [`Mutex::lock`], or if it is not.
    #[inline]
    #[track_caller]
    pub fn lock_in_order(&self, key: u64) -> MutexGuard<'_, T> {
        Held::check::<R>(Some(key));
        self.take(Some(key))
    }

    fn take(&self, key: Option<u64>) -> MutexGuard<'_, T> {
        let inner = self.inner.lock();
        MutexGuard { inner, _held: Held::note::<R>(key) }
    }

    /// The lock, if nobody has it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let inner = self.inner.try_lock()?;
        Some(MutexGuard { inner, _held: Held::note::<R>(None) })
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut()
    }
}

impl<T: Default, R: Rank> Default for Mutex<T, R> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized + fmt::Debug, R> fmt::Debug for Mutex<T, R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(formatter)
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

/// Waits for a change of what a mutex guards. The mutex counts as held meanwhile: who waits takes nothing else.
#[derive(Debug, Default)]
pub struct Condvar(raw::Condvar);

impl Condvar {
    pub const fn new() -> Self {
        Condvar(raw::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.0.wait(&mut guard.inner);
    }

    /// Whether `limit` passed without a notification.
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, limit: Duration) -> bool {
        self.0.wait_for(&mut guard.inner, limit).timed_out()
    }

    /// Waits for as long as `condition` holds. Whether it still does after `limit`.
    pub fn wait_while_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        mut condition: impl FnMut(&mut T) -> bool,
        limit: Duration,
    ) -> bool {
        let deadline = Instant::now() + limit;
        while condition(guard) {
            if self.wait_until(guard, deadline) {
                return condition(guard);
            }
        }
        false
    }

    /// Whether `deadline` came without a notification.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, deadline: Instant) -> bool {
        self.0.wait_until(&mut guard.inner, deadline).timed_out()
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    crate::ranks! { Band::Program;
        /// Outside.
        Outer,
        /// Of which several are held together.
        Peer,
        /// Inside.
        Inner,
    }

    #[cfg(debug_assertions)]
    fn refused(step: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(step)).expect_err("out of order");
        panic.downcast_ref::<String>().cloned().unwrap_or_default()
    }

    #[test]
    #[cfg(debug_assertions)]
    fn out_of_order_panics_and_leaves_no_trace() {
        let (outer, inner) = (Mutex::<_, Outer>::new(1), Mutex::<_, Inner>::new(2));
        let message = refused(|| {
            let _inner = inner.lock();
            let _outer = outer.lock();
        });
        assert!(message.contains("Outer must not be taken while Program::Inner is held"), "{message}");
        let message = refused(|| drop((inner.lock(), inner.lock())));
        assert!(message.contains("Inner must not be taken while Program::Inner"), "{message}");
        let (_outer, _inner) = (outer.lock(), inner.lock());
    }

    #[test]
    #[cfg(debug_assertions)]
    fn locks_of_one_rank_go_by_their_keys() {
        let peers: [Mutex<(), Peer>; 3] = std::array::from_fn(|_| Mutex::default());
        {
            let _first = peers[0].lock_in_order(1);
            let _second = peers[1].lock_in_order(2);
            let message = refused(|| drop(peers[2].lock_in_order(2)));
            assert!(message.contains("(keys 2, then 2)"), "{message}");
            refused(|| drop(peers[2].lock()));
        }
        let _second = peers[1].lock_in_order(2);
        refused(|| drop(peers[0].lock_in_order(1)));
    }

    #[test]
    #[cfg(debug_assertions)]
    fn what_is_tried_and_what_is_let_go_of_early_count() {
        let (outer, inner) = (Mutex::<_, Outer>::new(()), Mutex::<_, Inner>::new(()));
        let held = inner.lock();
        let tried = outer.try_lock().expect("free");
        refused(crate::assert_none_held);
        drop(held);
        let again = inner.lock();
        drop(tried);
        drop(again);
        crate::assert_none_held();
        assert!(outer.try_lock().is_some());
    }

    #[test]
    fn a_wait_gives_the_lock_away_and_gets_it_back() {
        let (value, changed) = (Mutex::<_, Outer>::new(false), Condvar::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                *value.lock() = true;
                changed.notify_all();
            });
            let mut guard = value.lock();
            while !*guard {
                changed.wait(&mut guard);
            }
            assert!(changed.wait_for(&mut guard, Duration::from_millis(1)));
            assert!(changed.wait_while_for(&mut guard, |set| *set, Duration::from_millis(1)));
            assert!(!changed.wait_while_for(&mut guard, |set| !*set, Duration::ZERO));
        });
        assert!(value.into_inner());
    }

    #[test]
    #[cfg(not(debug_assertions))]
    fn a_rank_takes_no_space() {
        assert_eq!(size_of::<Mutex<u64, Outer>>(), size_of::<parking_lot::Mutex<u64>>());
        assert_eq!(size_of::<MutexGuard<'_, u64>>(), size_of::<parking_lot::MutexGuard<'_, u64>>());
        let _ = (catch_unwind(AssertUnwindSafe(|| ())), PhantomData::<(Peer, Inner)>);
    }
}
