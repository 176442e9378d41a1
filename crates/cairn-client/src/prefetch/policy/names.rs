//! Names that are looked up one after the other in the order of the listing: how many to ask for with one of them.

/// Recognises a walk: names that are looked up one after the other in the order of the listing. A question about one name
/// is then answered with the names that follow it, twice as many each time for as long as they are used.
#[derive(Debug, Default)]
pub(crate) struct NameWalk {
    /// Questions that the cache could not answer.
    misses: u32,
    /// Names that the last such question brought along.
    window: u32,
    /// Answers from the cache since then.
    hits: u32,
}

/// Questions after which all names of a directory of so many entries are fetched: few questions for a small one, which
/// costs one answer, more for a larger one.
const LEARN_AFTER: u32 = 2;
const SMALL: u64 = 1000;
const LEARN_LARGER_AFTER: u32 = 16;
const LARGER: u64 = 10_000;
/// Fewest and most names that are fetched along with the one that is asked for.
const WINDOW_MIN: u32 = 32;
const WINDOW_MAX: u32 = 1000;
/// A directory whose names are looked up in no order is tried again after so many questions.
const RETRY_AFTER: u32 = 128;

impl NameWalk {
    /// A name was found without asking.
    pub(crate) fn found(&mut self) {
        self.hits = self.hits.saturating_add(1);
    }

    /// Whether it is time to ask for all names of a directory of so many entries.
    pub(crate) fn asks_for_all(&self, entries: u64) -> bool {
        let misses = self.misses + 1;
        (misses >= LEARN_AFTER && entries <= SMALL) || (misses >= LEARN_LARGER_AFTER && entries <= LARGER)
    }

    /// A name was not found here: how many names from it on to ask for; 0 for itself alone.
    pub(crate) fn missed(&mut self) -> u32 {
        self.misses += 1;
        self.window = match self.window {
            0 if self.misses == 2 || self.misses.is_multiple_of(RETRY_AFTER) => WINDOW_MIN,
            0 => 0,
            window if self.hits >= window / 4 => (window * 2).min(WINDOW_MAX),
            window if window > WINDOW_MIN / 4 => window / 2,
            _ => 0,
        };
        self.hits = 0;
        self.window
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_walk_fetches_more_and_more_and_random_order_soon_nothing() {
        let mut walk = NameWalk::default();
        assert_eq!(walk.missed(), 0);
        let mut windows = Vec::new();
        for _ in 0..7 {
            let window = walk.missed();
            windows.push(window);
            (0..window).for_each(|_| walk.found());
        }
        assert_eq!(windows, [32, 64, 128, 256, 512, 1000, 1000]);
        let mut random = NameWalk::default();
        let fetched: u32 = (0..100).map(|_| random.missed()).sum();
        assert!(fetched < 100, "{fetched} names fetched for nothing");
    }

    proptest! {
        /// However a program looks up names, no question brings more than the largest window, and a window was earned by
        /// names of the one before that were used.
        #[test]
        fn a_window_is_bounded_and_earned(hits in prop::collection::vec(0u32..2 * WINDOW_MAX, 1..200)) {
            let mut walk = NameWalk::default();
            let mut before = 0;
            for (misses, hits) in hits.into_iter().enumerate() {
                let window = walk.missed();
                prop_assert!(window <= WINDOW_MAX);
                prop_assert!(window <= before * 2 || (before == 0 && window == WINDOW_MIN));
                prop_assert!(misses > 0 || window == 0, "one name alone is no walk");
                before = window;
                (0..hits).for_each(|_| walk.found());
            }
        }
    }
}
