//! Advisory locks: who holds which bytes of which file, and who waits, without messages or time.
//!
//! The two families never meet. Within one, an owner's ranges neither overlap nor touch with the same kind; ranges of
//! different owners overlap only if both are shared. Those who wait are served in the order in which they came, and
//! nobody passes one that came before and that it would conflict with. A wait of the POSIX family that would close a
//! ring is refused (`flock` has no such check on Linux).

use std::collections::{BTreeMap, HashMap, HashSet};

use cairn_types::{ByteRange, FileLock, Ino, LockFamily, LockKind, LockOwner, SessionId};

/// Whoever can hold a lock: a lock owner of one mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Owner {
    pub(crate) session: SessionId,
    pub(crate) owner: LockOwner,
}

/// A waiting request: by its session and the number of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaitId {
    pub(crate) session: SessionId,
    pub(crate) correlation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    owner: Owner,
    family: LockFamily,
    exclusive: bool,
    range: ByteRange,
    pid: u32,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: WaitId,
    lock: Held,
}

#[derive(Debug, Default)]
struct FileLocks {
    held: Vec<Held>,
    waiting: Vec<Waiting>,
}

/// Answer to [`LockTable::set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetOutcome {
    Done,
    /// In the way of a request that does not wait, or of one that now waits.
    Conflict(SessionId),
    Deadlock,
}

#[derive(Debug, Default)]
pub(crate) struct LockTable {
    files: BTreeMap<Ino, FileLocks>,
    /// Requests that were granted while they waited; the caller takes them out.
    granted: Vec<WaitId>,
}

impl Held {
    fn conflicts(&self, other: &Held) -> bool {
        self.family == other.family
            && self.owner != other.owner
            && (self.exclusive || other.exclusive)
            && self.range.overlaps(other.range)
    }

    fn to_lock(self, ino: Ino) -> FileLock {
        let kind = if self.exclusive { LockKind::Exclusive } else { LockKind::Shared };
        FileLock { ino, family: self.family, kind, range: self.range, owner: self.owner.owner, pid: self.pid }
    }
}

impl FileLocks {
    /// Takes `range` from an owner's locks of a family.
    fn cut(&mut self, owner: Owner, family: LockFamily, range: ByteRange) {
        let mut kept = Vec::with_capacity(self.held.len() + 1);
        for held in self.held.drain(..) {
            if held.owner != owner || held.family != family || !held.range.overlaps(range) {
                kept.push(held);
                continue;
            }
            if held.range.start < range.start {
                kept.push(Held { range: ByteRange { start: held.range.start, end: range.start - 1 }, ..held });
            }
            if held.range.end > range.end {
                kept.push(Held { range: ByteRange { start: range.end + 1, end: held.range.end }, ..held });
            }
        }
        self.held = kept;
    }

    /// Gives a lock that nothing stands in the way of.
    fn give(&mut self, mut lock: Held) {
        self.cut(lock.owner, lock.family, lock.range);
        let touches = |other: &Held| {
            other.owner == lock.owner
                && other.family == lock.family
                && other.exclusive == lock.exclusive
                && (other.range.end.checked_add(1) == Some(lock.range.start)
                    || lock.range.end.checked_add(1) == Some(other.range.start))
        };
        let (neighbours, others): (Vec<Held>, Vec<Held>) = self.held.drain(..).partition(touches);
        self.held = others;
        for neighbour in neighbours {
            lock.range.start = lock.range.start.min(neighbour.range.start);
            lock.range.end = lock.range.end.max(neighbour.range.end);
        }
        self.held.push(lock);
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }
}

impl LockTable {
    /// The first lock in the way of `lock`.
    pub(crate) fn test(&self, session: SessionId, lock: &FileLock) -> Option<FileLock> {
        let wanted = held(session, lock);
        let file = self.files.get(&lock.ino)?;
        let found = file.held.iter().filter(|held| held.conflicts(&wanted)).min_by_key(|held| held.range.start)?;
        // A process number means something on its own host only.
        let pid = if found.owner.session == session { found.pid } else { 0 };
        Some(FileLock { pid, ..found.to_lock(lock.ino) })
    }

    /// Takes, converts or gives back a lock. With `wait`, a request that is in conflict is queued under that name, in the
    /// place of an earlier one of the same name.
    pub(crate) fn set(&mut self, session: SessionId, lock: &FileLock, wait: Option<WaitId>) -> SetOutcome {
        let wanted = held(session, lock);
        if lock.kind == LockKind::Unlock {
            self.unlock(wanted.owner, lock.ino, wanted.family, wanted.range);
            return SetOutcome::Done;
        }
        if lock.family == LockFamily::Flock {
            // As on Linux, a conversion gives up the old lock first, even if the new one is not to be had.
            let file = self.files.entry(lock.ino).or_default();
            let same = |held: &Held| {
                held.owner == wanted.owner && held.family == wanted.family && held.exclusive == wanted.exclusive
            };
            if !file.held.iter().any(same) {
                file.cut(wanted.owner, wanted.family, wanted.range);
                self.promote(lock.ino);
            }
        }
        let file = self.files.entry(lock.ino).or_default();
        let place = wait.and_then(|id| file.waiting.iter().position(|waiting| waiting.id == id));
        let before = file.waiting.iter().take(place.unwrap_or(usize::MAX));
        let blocker = file.held.iter().find(|held| held.conflicts(&wanted)).map(|held| held.owner.session);
        // Not past somebody who came first, except for what one holds in part already.
        let has_some = file.held.iter().any(|held| {
            held.owner == wanted.owner && held.family == wanted.family && held.range.overlaps(wanted.range)
        });
        let passed = before.map(|waiting| &waiting.lock).find(|waiting| !has_some && waiting.conflicts(&wanted));
        let Some(in_the_way) = blocker.or(passed.map(|waiting| waiting.owner.session)) else {
            file.give(wanted);
            if let Some(place) = place {
                file.waiting.remove(place);
            }
            self.promote(lock.ino);
            return SetOutcome::Done;
        };
        if let Some(id) = wait {
            if lock.family == LockFamily::Posix && self.would_deadlock(lock.ino, &wanted) {
                return SetOutcome::Deadlock;
            }
            let file = self.files.entry(lock.ino).or_default();
            match place.and_then(|place| file.waiting.get_mut(place)) {
                Some(waiting) => waiting.lock = wanted,
                None => file.waiting.push(Waiting { id, lock: wanted }),
            }
        }
        self.tidy(lock.ino);
        SetOutcome::Conflict(in_the_way)
    }

    /// Whether a wait of this owner would end in a ring of owners that wait for each other.
    fn would_deadlock(&self, ino: Ino, wanted: &Held) -> bool {
        let mut waits: HashMap<Owner, Vec<(Ino, Held)>> = HashMap::new();
        for (ino, file) in &self.files {
            for waiting in file.waiting.iter().filter(|waiting| waiting.lock.family == LockFamily::Posix) {
                waits.entry(waiting.lock.owner).or_default().push((*ino, waiting.lock));
            }
        }
        let mut seen = HashSet::new();
        let mut next = vec![(ino, *wanted)];
        while let Some((ino, lock)) = next.pop() {
            for held in self.files.get(&ino).into_iter().flat_map(|file| &file.held) {
                if !held.conflicts(&lock) {
                    continue;
                }
                if held.owner == wanted.owner {
                    return true;
                }
                if seen.insert(held.owner) {
                    next.extend(waits.get(&held.owner).into_iter().flatten().copied());
                }
            }
        }
        false
    }

    /// Takes a range from an owner's locks.
    pub(crate) fn unlock(&mut self, owner: Owner, ino: Ino, family: LockFamily, range: ByteRange) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.cut(owner, family, range);
            self.promote(ino);
            self.tidy(ino);
        }
    }

    /// Gives up a wait. `false` if there is none of that name.
    pub(crate) fn cancel(&mut self, id: WaitId) -> bool {
        let Some(ino) = self
            .files
            .iter()
            .find_map(|(ino, file)| file.waiting.iter().any(|waiting| waiting.id == id).then_some(*ino))
        else {
            return false;
        };
        if let Some(file) = self.files.get_mut(&ino) {
            file.waiting.retain(|waiting| waiting.id != id);
        }
        self.promote(ino);
        self.tidy(ino);
        true
    }

    /// Drops all that a session holds and waits for.
    pub(crate) fn remove_session(&mut self, session: SessionId) {
        let inos: Vec<Ino> = self.files.keys().copied().collect();
        for ino in inos {
            let Some(file) = self.files.get_mut(&ino) else { continue };
            let before = file.held.len() + file.waiting.len();
            file.held.retain(|held| held.owner.session != session);
            file.waiting.retain(|waiting| waiting.id.session != session);
            if file.held.len() + file.waiting.len() < before {
                self.promote(ino);
                self.tidy(ino);
            }
        }
    }

    /// Locks that a session holds.
    pub(crate) fn count(&self, session: SessionId) -> usize {
        let held = self.files.values().flat_map(|file| &file.held);
        held.filter(|held| held.owner.session == session).count()
    }

    /// Sessions whose locks stand in the way of a waiting request.
    pub(crate) fn blockers(&self, id: WaitId) -> Vec<SessionId> {
        for file in self.files.values() {
            if let Some(waiting) = file.waiting.iter().find(|waiting| waiting.id == id) {
                let in_the_way = file.held.iter().filter(|held| held.conflicts(&waiting.lock));
                return in_the_way.map(|held| held.owner.session).collect();
            }
        }
        Vec::new()
    }

    /// Requests that were granted since the last call.
    pub(crate) fn take_granted(&mut self) -> Vec<WaitId> {
        std::mem::take(&mut self.granted)
    }

    /// Gives those who wait what they can have now.
    fn promote(&mut self, ino: Ino) {
        let Some(file) = self.files.get_mut(&ino) else { return };
        let mut still: Vec<Waiting> = Vec::with_capacity(file.waiting.len());
        for waiting in std::mem::take(&mut file.waiting) {
            let taken = file.held.iter().any(|held| held.conflicts(&waiting.lock));
            let passes = still.iter().any(|first| first.lock.conflicts(&waiting.lock));
            if taken || passes {
                still.push(waiting);
            } else {
                file.give(waiting.lock);
                self.granted.push(waiting.id);
            }
        }
        file.waiting = still;
    }

    fn tidy(&mut self, ino: Ino) {
        if self.files.get(&ino).is_some_and(FileLocks::is_empty) {
            self.files.remove(&ino);
        }
    }
}

fn held(session: SessionId, lock: &FileLock) -> Held {
    let range = match lock.family {
        LockFamily::Flock => ByteRange { start: 0, end: u64::MAX },
        LockFamily::Posix => lock.range,
    };
    Held {
        owner: Owner { session, owner: lock.owner },
        family: lock.family,
        exclusive: lock.kind == LockKind::Exclusive,
        range,
        pid: lock.pid,
    }
}

#[cfg(test)]
mod tests;
