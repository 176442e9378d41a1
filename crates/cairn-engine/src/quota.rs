//! Room under the volume's limits: what is used, what is set aside for buffered writes, what is free.
//!
//! Used plus reserved never exceeds the limit (unless the limit was lowered). A buffered change draws from its session's
//! reservation first and from free room then; a change that is made at once draws from free room alone, so that a client
//! always knows what is left of its reservation. Owned by the committer: no lock.

use std::collections::HashMap;

use cairn_types::SessionId;

/// An amount of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Space {
    fn plus(self, other: Space) -> Space {
        Space { bytes: self.bytes.saturating_add(other.bytes), inodes: self.inodes.saturating_add(other.inodes) }
    }

    fn minus(self, other: Space) -> Space {
        Space { bytes: self.bytes.saturating_sub(other.bytes), inodes: self.inodes.saturating_sub(other.inodes) }
    }

    fn least(self, other: Space) -> Space {
        Space { bytes: self.bytes.min(other.bytes), inodes: self.inodes.min(other.inodes) }
    }

    fn holds(self, other: Space) -> bool {
        self.bytes >= other.bytes && self.inodes >= other.inodes
    }

    fn half(self) -> Space {
        Space { bytes: self.bytes / 2, inodes: self.inodes / 2 }
    }

    pub(crate) fn is_none(self) -> bool {
        self == Space::default()
    }
}

/// How full the volume is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) limit: Space,
    pub(crate) used: Space,
}

#[derive(Debug, Default)]
pub(crate) struct Quota {
    reserved: HashMap<SessionId, Space>,
    total: Space,
}

impl Quota {
    pub(crate) fn free(&self, fill: Fill) -> Space {
        fill.limit.minus(fill.used).minus(self.total)
    }

    /// Whether so much could be set aside if the disk had it.
    pub(crate) fn fits(&self, needed: Space, fill: Fill) -> bool {
        self.free(fill).holds(needed)
    }

    pub(crate) fn of(&self, session: SessionId) -> Space {
        self.reserved.get(&session).copied().unwrap_or_default()
    }

    /// What a buffered change of `session` may add.
    pub(crate) fn headroom(&self, session: SessionId, fill: Fill) -> Space {
        self.free(fill).plus(self.of(session))
    }

    pub(crate) fn anything_reserved(&self) -> bool {
        !self.total.is_none()
    }

    /// Sets room aside: `None` if there is less than `needed`; otherwise that and, of what is free beyond it, up to
    /// half of what is `wanted`, so that others find some too.
    pub(crate) fn reserve(&mut self, session: SessionId, needed: Space, wanted: Space, fill: Fill) -> Option<Space> {
        let free = self.free(fill);
        if !free.holds(needed) {
            return None;
        }
        let more = wanted.minus(needed).least(free.minus(needed).half());
        let granted = needed.plus(more);
        self.set(session, self.of(session).plus(granted));
        Some(granted)
    }

    /// Room that `session` does not need.
    pub(crate) fn give_back(&mut self, session: SessionId, amount: Space) {
        self.set(session, self.of(session).minus(amount));
    }

    /// A buffered change of `session` has added this much.
    pub(crate) fn draw(&mut self, session: SessionId, added: Space) {
        self.give_back(session, added);
    }

    pub(crate) fn remove(&mut self, session: SessionId) {
        self.set(session, Space::default());
    }

    fn set(&mut self, session: SessionId, amount: Space) {
        let before = self.of(session);
        self.total = self.total.minus(before).plus(amount);
        if amount.is_none() {
            self.reserved.remove(&session);
        } else {
            self.reserved.insert(session, amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(bytes: u64) -> Space {
        Space { bytes, inodes: 0 }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Reserve(u64, u64, u64),
        GiveBack(u64, u64),
        Write(u64, u64),
        Call(u64),
        End(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3u64, 0..60u64, 0..60u64).prop_map(|(session, needed, wanted)| Step::Reserve(session, needed, wanted)),
            (0..3u64, 0..60u64).prop_map(|(session, room)| Step::GiveBack(session, room)),
            (0..3u64, 0..60u64).prop_map(|(session, added)| Step::Write(session, added)),
            (0..60u64).prop_map(Step::Call),
            (0..3u64).prop_map(Step::End),
        ]
    }

    proptest! {
        /// Used and reserved room never exceed the limit, and who has reserved can write.
        #[test]
        fn never_overshoots(steps in prop::collection::vec(step(), 0..60)) {
            let mut quota = Quota::default();
            let mut fill = Fill { limit: bytes(200), used: bytes(0) };
            for step in steps {
                match step {
                    Step::Reserve(session, needed, wanted) => {
                        let free = quota.free(fill).bytes;
                        match quota.reserve(SessionId(session), bytes(needed), bytes(wanted), fill) {
                            Some(room) => prop_assert!(room.bytes >= needed && room.bytes <= needed.max(wanted)),
                            None => prop_assert!(needed > free),
                        }
                    }
                    Step::GiveBack(session, room) => quota.give_back(SessionId(session), bytes(room)),
                    Step::Write(session, added) => {
                        let session = SessionId(session);
                        let own = quota.of(session).bytes;
                        let fits = added <= quota.headroom(session, fill).bytes;
                        prop_assert!(fits || added > own);
                        if fits {
                            fill.used.bytes += added;
                            quota.draw(session, bytes(added));
                        }
                    }
                    Step::Call(added) => {
                        if added <= quota.free(fill).bytes {
                            fill.used.bytes += added;
                        }
                    }
                    Step::End(session) => quota.remove(SessionId(session)),
                }
                let reserved: u64 = quota.reserved.values().map(|room| room.bytes).sum();
                prop_assert_eq!(reserved, quota.total.bytes);
                prop_assert!(fill.used.bytes + reserved <= 200);
            }
        }
    }

    #[test]
    fn a_lowered_limit_leaves_nothing_free() {
        let mut quota = Quota::default();
        let fill = Fill { limit: bytes(10), used: bytes(20) };
        assert_eq!(quota.free(fill), bytes(0));
        assert_eq!(quota.reserve(SessionId(1), bytes(1), bytes(1), fill), None);
    }
}
