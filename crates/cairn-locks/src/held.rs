//! Which locks a thread holds, in builds with debug assertions; nothing in others.

#[cfg(debug_assertions)]
pub(crate) use checked::Held;
#[cfg(not(debug_assertions))]
pub(crate) use unchecked::Held;

/// Panics in builds with debug assertions if this thread holds a lock: for places that may wait for another process.
#[track_caller]
pub fn assert_none_held() {
    #[cfg(debug_assertions)]
    checked::assert_none();
}

#[cfg(debug_assertions)]
mod checked {
    use std::cell::RefCell;

    #[cfg(feature = "shuttle")]
    use shuttle::thread_local;

    use crate::Rank;

    thread_local! {
        /// In the order in which they were taken; they may be let go of in any.
        static HELD: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Entry {
        order: u32,
        name: &'static str,
        /// Tells locks of one rank apart that are taken together.
        key: Option<u64>,
    }

    impl Entry {
        fn may_be_inside(self, outer: Entry) -> bool {
            match (self.key, outer.key) {
                (Some(key), Some(outer_key)) if self.order == outer.order => outer_key < key,
                _ => outer.order < self.order,
            }
        }
    }

    /// A lock that this thread holds, until it is dropped.
    #[derive(Debug)]
    pub(crate) struct Held(Entry);

    impl Held {
        /// Before a lock is waited for.
        #[track_caller]
        pub(crate) fn check<R: Rank>(key: Option<u64>) {
            let entry = Entry { order: R::ORDER, name: R::NAME, key };
            let outer = HELD.with(|held| held.borrow().iter().copied().find(|outer| !entry.may_be_inside(*outer)));
            if let Some(outer) = outer {
                let keys = match (outer.key, entry.key) {
                    (Some(outer), Some(key)) => format!(" (keys {outer}, then {key})"),
                    _ => String::new(),
                };
                panic!(
                    "{} must not be taken while {} is held{keys}: the order is in lock_order.rs of their crates",
                    entry.name, outer.name
                );
            }
        }

        /// When it is taken.
        pub(crate) fn note<R: Rank>(key: Option<u64>) -> Held {
            let entry = Entry { order: R::ORDER, name: R::NAME, key };
            HELD.with(|held| held.borrow_mut().push(entry));
            Held(entry)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            // A thread that ends has let go of its list before.
            let _ = HELD.try_with(|held| {
                let mut held = held.borrow_mut();
                if let Some(index) = held.iter().rposition(|entry| *entry == self.0) {
                    held.remove(index);
                }
            });
        }
    }

    #[track_caller]
    pub(super) fn assert_none() {
        let held = HELD.with(|held| held.borrow().first().map(|entry| entry.name));
        if let Some(name) = held {
            panic!("{name} is held where another process may be waited for");
        }
    }
}

#[cfg(not(debug_assertions))]
mod unchecked {
    use crate::Rank;

    #[derive(Debug)]
    pub(crate) struct Held;

    impl Held {
        #[inline(always)]
        pub(crate) fn check<R: Rank>(_key: Option<u64>) {}

        #[inline(always)]
        pub(crate) fn note<R: Rank>(_key: Option<u64>) -> Held {
            Held
        }
    }
}
