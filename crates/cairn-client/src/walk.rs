//! Recognising walks: programs that go through a directory, its names or the contents of its files, and so tell what they
//! will want next. Only the counting is here; asking and fetching are done elsewhere.

use cairn_types::Name;

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

/// Files whose contents are fetched along with the one that is read: at first, and at most.
const FILES_MIN: u32 = 8;
const FILES_MAX: u32 = 256;
/// Files that may have been fetched for nothing before that counts against fetching more: a whole directory that is read
/// in random order looks like waste until most of it was fetched.
const FILES_ALLOWANCE: u64 = 8192;

/// Recognises that small files of a directory are read one after the other, in any order. A read that has to ask the
/// server then brings the files that follow in the order of names, which mostly lie together in a pack; in a walk in that
/// order they are asked for before the reader is there.
#[derive(Debug, Default)]
pub(crate) struct ContentWalk {
    misses: u32,
    window: u32,
    /// Files that were fetched along, and files that were then read.
    fetched: u64,
    used: u64,
    /// When this one is read, what follows `last` is fetched.
    trigger: Option<Name>,
    last: Option<Name>,
}

impl ContentWalk {
    /// A small file was read that was (`hit`) or was not here. Which files to fetch: those after a name, and how many.
    pub(crate) fn read(&mut self, name: &Name, hit: bool) -> Option<(Name, u32)> {
        if hit {
            self.used += 1;
            if self.trigger.as_ref() != Some(name) {
                return None;
            }
            self.trigger = None;
            let after = self.last.take()?;
            self.grow();
            return (self.window > 0).then_some((after, self.window));
        }
        self.misses += 1;
        if self.misses < 2 {
            return None;
        }
        self.grow();
        (self.window > 0).then(|| (name.clone(), self.window))
    }

    fn grow(&mut self) {
        let waste = self.fetched.saturating_sub(self.used);
        let useful = waste <= FILES_ALLOWANCE || self.used >= self.fetched / 4;
        self.window = match self.window {
            window if useful => (window * 2).clamp(FILES_MIN, FILES_MAX),
            window if window > FILES_MIN => window / 2,
            _ if self.misses.is_multiple_of(RETRY_AFTER) => FILES_MIN,
            _ => 0,
        };
    }

    /// These files were asked for, in the order of names.
    pub(crate) fn fetched(&mut self, names: &[Name]) {
        self.fetched += names.len() as u64;
        self.trigger = names.get(names.len() / 2).cloned();
        self.last = names.last().cloned();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> Name {
        Name::new(format!("{number:08}").as_bytes()).expect("valid")
    }

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

    /// Reads files in `order` out of `files`, fetching what the walk says; number of reads that had to wait.
    fn read_all(files: u32, order: impl Iterator<Item = u32>) -> (u32, u64) {
        let mut walk = ContentWalk::default();
        let mut here = vec![false; files as usize];
        let mut waited = 0;
        for number in order {
            let hit = std::mem::replace(&mut here[number as usize], true);
            waited += u32::from(!hit);
            if let Some((after, count)) = walk.read(&name(number), hit) {
                let first = (0..files).find(|number| name(*number) > after).unwrap_or(files);
                let fresh: Vec<u32> = (first..files).filter(|n| !here[*n as usize]).take(count as usize).collect();
                for number in &fresh {
                    here[*number as usize] = true;
                }
                walk.fetched(&fresh.iter().map(|number| name(*number)).collect::<Vec<_>>());
            }
        }
        (waited, walk.fetched)
    }

    #[test]
    fn a_reader_in_order_waits_at_the_beginning_only() {
        let (waited, _) = read_all(2000, 0..2000);
        assert!(waited <= 3, "waited {waited} times");
    }

    #[test]
    fn a_reader_of_everything_in_random_order_seldom_waits() {
        let (waited, _) = read_all(2003, (0..2003).map(|step| step * 1009 % 2003));
        assert!(waited <= 80, "waited {waited} times");
    }

    #[test]
    fn a_reader_of_few_files_of_a_large_directory_does_not_fetch_all_of_it() {
        let mut walk = ContentWalk::default();
        let mut fetched = 0;
        for number in 0..5000 {
            if let Some((_, count)) = walk.read(&name(number), false) {
                let names: Vec<Name> = (0..count).map(name).collect();
                fetched += u64::from(count);
                walk.fetched(&names);
            }
        }
        assert!(fetched <= FILES_ALLOWANCE + 2 * u64::from(FILES_MAX) + 5000, "{fetched} files fetched for nothing");
    }
}
