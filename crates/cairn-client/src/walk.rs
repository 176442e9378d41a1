//! Recognising walks: programs that go through a directory, its names or the contents of its files, and so tell what they
//! will want next. Only the counting is here; asking and fetching are done elsewhere.

use std::collections::{HashSet, VecDeque};

use cairn_types::{Ino, Name};

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

/// Directories that were listed last, by which it is seen that another one continues a walk.
const LISTED: usize = 64;
/// Listings in a row that make a walk.
const TREE_STREAK: u32 = 2;
/// Fewest and most directories that are listed ahead of a walk.
const AHEAD_MIN: u32 = 4;
const AHEAD_MAX: u32 = 32;
/// Listings that may have been made for nothing before that counts against making more.
const AHEAD_ALLOWANCE: u64 = 256;
/// Files of listed directories from which on their number says something, and beyond which older ones count half.
const SEEN_MIN: u32 = 4;
const SEEN_MAX: u32 = 256;

/// Recognises a walk through a tree: directories are listed that lie in those listed before. The next ones are then listed ahead of
/// the walk, more each time, and the contents of small files fetched along if those of the directories before were read.
#[derive(Debug, Default)]
pub(crate) struct TreeWalk {
    listed: VecDeque<Ino>,
    streak: u32,
    window: u32,
    /// Listed ahead, and not by the walk yet.
    ahead: HashSet<Ino>,
    fetched: u64,
    used: u64,
    /// Files in directories that were listed, and how many of them were read.
    seen: u32,
    reads: u32,
}

impl TreeWalk {
    /// A directory is being listed, from its start. How many to list ahead.
    pub(crate) fn listed(&mut self, directory: Ino, parent: Option<Ino>) -> u32 {
        self.used += u64::from(self.ahead.remove(&directory));
        let continues = parent.is_some_and(|parent| parent != directory && self.listed.contains(&parent));
        self.streak = if continues { self.streak.saturating_add(1) } else { 0 };
        if !self.listed.contains(&directory) {
            if self.listed.len() == LISTED {
                self.listed.pop_front();
            }
            self.listed.push_back(directory);
        }
        if self.streak < TREE_STREAK {
            self.window = 0;
            self.ahead.clear();
            return 0;
        }
        let wasted = self.fetched.saturating_sub(self.used);
        let useful = wasted <= AHEAD_ALLOWANCE || self.used >= self.fetched / 2;
        self.window = if useful { (self.window * 2).clamp(AHEAD_MIN, AHEAD_MAX) } else { 0 };
        self.window
    }

    /// The directory that was listed last has so many files.
    pub(crate) fn saw_files(&mut self, files: u32) {
        self.seen = self.seen.saturating_add(files);
        while self.seen > SEEN_MAX {
            self.seen /= 2;
            self.reads /= 2;
        }
    }

    /// A small file in this directory is being read from its start.
    pub(crate) fn read(&mut self, directory: Option<Ino>) {
        let of_the_walk = directory.is_some_and(|directory| self.listed.contains(&directory));
        self.reads = (self.reads + u32::from(of_the_walk)).min(SEEN_MAX);
    }

    /// Whether the walk reads the files that it comes by: a good part of them, because some it will come back to.
    pub(crate) fn reads_contents(&self) -> bool {
        self.seen >= SEEN_MIN && self.reads >= self.seen / 3
    }

    /// Notes that a directory will be listed ahead; `false` if that was done already, or enough are.
    pub(crate) fn list_ahead(&mut self, directory: Ino) -> bool {
        if self.ahead.len() >= self.window as usize || self.listed.contains(&directory) {
            return false;
        }
        let new = self.ahead.insert(directory);
        self.fetched += u64::from(new);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_through_a_tree_is_listed_ahead_and_a_look_here_and_there_is_not() {
        let mut walk = TreeWalk::default();
        assert_eq!(walk.listed(Ino(1), None), 0);
        assert_eq!(walk.listed(Ino(2), Some(Ino(1))), 0);
        assert_eq!(walk.listed(Ino(3), Some(Ino(1))), AHEAD_MIN);
        let noted: Vec<bool> = (4..10).map(|ino| walk.list_ahead(Ino(ino))).collect();
        assert_eq!(noted, [true, true, true, true, false, false]);
        assert_eq!(walk.listed(Ino(4), Some(Ino(1))), 2 * AHEAD_MIN);
        assert!(!walk.list_ahead(Ino(4)), "it was listed");
        assert!(walk.list_ahead(Ino(8)));
        assert_eq!(walk.listed(Ino(100), Some(Ino(99))), 0, "somewhere else");
        assert!(!walk.list_ahead(Ino(101)));
        // A program that looks at directories of one parent, and at none of those below, soon makes no more work.
        let mut waste = TreeWalk::default();
        waste.listed(Ino(1), None);
        let mut ahead = 0;
        for directory in 0..5000u64 {
            let window = waste.listed(Ino(10 + directory), Some(Ino(1)));
            ahead +=
                (0..u64::from(window)).filter(|child| waste.list_ahead(Ino(100_000 + directory * 100 + child))).count();
            waste.ahead.clear();
        }
        assert!(ahead as u64 <= AHEAD_ALLOWANCE + u64::from(AHEAD_MAX), "{ahead} listings for nothing");
    }

    #[test]
    fn contents_are_fetched_along_for_a_walk_that_reads_them() {
        let mut walk = TreeWalk::default();
        for directory in 1..20 {
            walk.listed(Ino(directory), Some(Ino(1)));
            walk.saw_files(10);
            assert_eq!(walk.reads_contents(), directory > 1, "{directory}");
            (0..9).for_each(|_| walk.read(Some(Ino(directory))));
        }
        // A program that lists and reads elsewhere: the compiled files beside the modules that it looks for.
        for directory in 100..140 {
            walk.listed(Ino(directory), Some(Ino(1)));
            walk.saw_files(10);
            (0..9).for_each(|_| walk.read(Some(Ino(1000 + directory))));
        }
        assert!(!walk.reads_contents());
    }

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
