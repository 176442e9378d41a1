//! Small files of a directory that are read one after the other: which to fetch along.

use cairn_types::Name;

/// Files whose contents are fetched along with the one that is read: at first, and at most.
const FILES_MIN: u32 = 8;
const FILES_MAX: u32 = 256;
/// Files that may have been fetched for nothing before that counts against fetching more: a whole directory that is read
/// in random order looks like waste until most of it was fetched.
const FILES_ALLOWANCE: u64 = 8192;

/// A directory whose files were fetched for nothing is tried again after so many reads that had to wait.
const RETRY_AFTER: u32 = 128;

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
    use proptest::prelude::*;

    use super::*;

    fn name(number: u32) -> Name {
        Name::new(format!("{number:08}").as_bytes()).expect("valid")
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

    proptest! {
        /// In whatever order files are read: what is fetched and not used stays within the allowance, or within a few times
        /// of what was used.
        #[test]
        fn waste_is_bounded(reads in prop::collection::vec((0u32..2000, any::<bool>()), 1..3000)) {
            let mut walk = ContentWalk::default();
            for (number, hit) in reads {
                if let Some((_, count)) = walk.read(&name(number), hit) {
                    prop_assert!((1..=FILES_MAX).contains(&count));
                    let earned = walk.fetched.saturating_sub(walk.used) <= FILES_ALLOWANCE || walk.used >= walk.fetched / 4;
                    prop_assert!(earned || count <= FILES_MAX / 2);
                    walk.fetched(&(number + 1..=number + count).map(name).collect::<Vec<_>>());
                }
            }
        }
    }
}
