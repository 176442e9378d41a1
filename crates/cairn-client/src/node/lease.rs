//! The right to one node: what is held, which grants still count, and the recall that is being answered.
//!
//! Grants and recalls carry stamps from one counter of the server and may overtake one another on their way. A grant that
//! is not newer than the newest recall (or the last voluntary return) is void. What is held changes by the verbs here
//! alone, so it is never more than was granted and not taken back since.

use cairn_types::LeaseMode;
use cairn_wire::message::Grant;

/// What is held, from little to much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    #[default]
    Nothing,
    Shared,
    Exclusive,
    /// Exclusive ever since this session made the node: nobody else has ever been able to open it.
    SinceBirth,
}

impl Held {
    fn mode(self) -> LeaseMode {
        match self {
            Held::Nothing => LeaseMode::None,
            Held::Shared => LeaseMode::Shared,
            Held::Exclusive | Held::SinceBirth => LeaseMode::Exclusive,
        }
    }
}

impl From<LeaseMode> for Held {
    fn from(mode: LeaseMode) -> Self {
        match mode {
            LeaseMode::None => Held::Nothing,
            LeaseMode::Shared => Held::Shared,
            LeaseMode::Exclusive => Held::Exclusive,
        }
    }
}

/// A recall that is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingRecall {
    /// What may be kept.
    pub leave: LeaseMode,
    pub stamp: u64,
    /// The lease when the recall came. The server counts on it until it is answered.
    held: LeaseMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Recall {
    #[default]
    None,
    /// What is held may still be used, among others to send what is buffered.
    Asked(PendingRecall),
    /// The kernel's caches are empty and the answer is about to leave: nothing may be answered from here.
    Sealed(PendingRecall),
}

/// What became of an answer to a recall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecallAnswer {
    /// The recall is void: there is nothing to answer.
    Void,
    /// Less may be kept than was made ready for: begin again.
    LessLeft,
    /// It may leave, and what is not kept is given up.
    Given { stamp: u64, keep: LeaseMode },
}

/// The lease on one node.
#[derive(Debug)]
pub(crate) struct Lease {
    held: Held,
    /// Stamp of the newest grant that stood.
    granted: u64,
    /// Stamp of the newest recall or return: grants up to it are void.
    recalled: u64,
    recall: Recall,
    /// Counts losses of what it covers.
    epoch: u64,
}

impl Lease {
    /// Nothing is held, and grants up to `floor` are void.
    pub(super) fn new(floor: u64) -> Self {
        Lease { held: Held::Nothing, granted: 0, recalled: floor, recall: Recall::None, epoch: 0 }
    }

    pub(crate) fn mode(&self) -> LeaseMode {
        self.held.mode()
    }

    /// It stands and is not about to be given back.
    pub(crate) fn covers(&self, mode: LeaseMode) -> bool {
        self.mode() >= mode && !self.is_sealed()
    }

    /// Exclusive ever since this session made the node.
    pub(crate) fn is_since_birth(&self) -> bool {
        self.held == Held::SinceBirth
    }

    /// Stamp of the newest grant that stood.
    pub(crate) fn granted(&self) -> u64 {
        self.granted
    }

    /// Grants up to this stamp are void for whoever comes to hold the node after it was forgotten here.
    pub(crate) fn floor(&self) -> u64 {
        self.granted.max(self.recalled)
    }

    /// Changes whenever what the lease covered may have become void.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether a grant with this stamp is newer than every recall.
    pub(crate) fn is_newer_than_recalls(&self, stamp: u64) -> bool {
        stamp > self.recalled
    }

    /// Takes over a grant, unless it is void. Whether the lease stands.
    pub(super) fn grant(&mut self, grant: Grant) -> bool {
        let newer = self.is_newer_than_recalls(grant.stamp);
        // After a downgrade the server goes on naming the grant from before it: it stands for what is left.
        let same = self.held > Held::Nothing && grant.stamp == self.granted;
        if newer {
            self.held = self.held.max(grant.mode.into());
            self.granted = self.granted.max(grant.stamp);
        }
        same || (newer && self.held > Held::Nothing)
    }

    /// Holds a node that this session has just made under the lease of its directory.
    pub(super) fn begin_at_birth(&mut self) {
        self.held = Held::SinceBirth;
    }

    /// Notes that an exclusive lease was granted with the making of the node.
    pub(super) fn note_birth(&mut self) {
        if self.covers(LeaseMode::Exclusive) {
            self.held = Held::SinceBirth;
        }
    }

    /// The server asks for the lease back. Whether no other recall is being answered.
    pub(super) fn recall(&mut self, leave: LeaseMode, stamp: u64) -> bool {
        self.recalled = self.recalled.max(stamp);
        let held = self.mode();
        match &mut self.recall {
            Recall::None => {
                self.recall = Recall::Asked(PendingRecall { leave, stamp, held });
                true
            }
            Recall::Asked(pending) | Recall::Sealed(pending) => {
                pending.leave = pending.leave.min(leave);
                pending.stamp = pending.stamp.max(stamp);
                false
            }
        }
    }

    /// The recall that is being answered.
    pub(crate) fn pending_recall(&self) -> Option<PendingRecall> {
        match self.recall {
            Recall::None => None,
            Recall::Asked(pending) | Recall::Sealed(pending) => Some(pending),
        }
    }

    pub(crate) fn is_recalled(&self) -> bool {
        self.recall != Recall::None
    }

    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self.recall, Recall::Sealed(_))
    }

    /// Nothing is answered from here any more. `false` if the recall is void by now.
    pub(super) fn seal(&mut self) -> bool {
        if let Recall::Asked(pending) = self.recall {
            self.recall = Recall::Sealed(pending);
        }
        self.is_sealed()
    }

    /// Keeps no more than `leave` for use; the server hears of it with the answer to its recall.
    pub(super) fn downgrade(&mut self, leave: LeaseMode) {
        self.held = self.held.min(leave.into());
    }

    /// Answers the recall, with everything made ready for `leave`.
    pub(super) fn answer(&mut self, leave: LeaseMode) -> RecallAnswer {
        let Some(pending) = self.pending_recall() else { return RecallAnswer::Void };
        if pending.leave < leave {
            return RecallAnswer::LessLeft;
        }
        // Who gives back everything gives back what was granted since the recall was sent, too.
        let stamp = if leave == LeaseMode::None { pending.stamp.max(self.granted) } else { pending.stamp };
        self.recalled = self.recalled.max(stamp);
        if leave == LeaseMode::None {
            self.lose();
        }
        self.end_recall();
        RecallAnswer::Given { stamp, keep: self.mode() }
    }

    /// The recall is over, answered or void.
    pub(super) fn end_recall(&mut self) {
        self.recall = Recall::None;
    }

    /// The server that sent the recall is gone and was not answered: all of the lease is still held, and what is buffered
    /// may need it. Whether there was one.
    pub(super) fn void_recall(&mut self) -> bool {
        let Some(pending) = self.pending_recall() else { return false };
        self.held = self.held.max(pending.held.into());
        self.end_recall();
        true
    }

    /// A server that was restarted names what stands of it, which may be less than before. Ignored if that server has
    /// asked for it already.
    pub(super) fn reclaim(&mut self, grant: Grant) {
        if self.is_newer_than_recalls(grant.stamp) {
            let named = Held::from(grant.mode);
            self.held = if self.held.mode() == named.mode() { self.held } else { named };
            self.granted = grant.stamp;
        }
    }

    /// Nothing is held any more.
    pub(super) fn lose(&mut self) {
        self.held = Held::Nothing;
        self.epoch += 1;
    }

    /// It may still be held, but what it covered is void.
    pub(super) fn doubt(&mut self) {
        self.held = self.held.min(Held::Exclusive);
        self.epoch += 1;
    }

    /// Gives it back without having been asked. The stamp to give back, if anything was held.
    pub(super) fn give_back(&mut self) -> Option<u64> {
        if self.held == Held::Nothing {
            return None;
        }
        self.recalled = self.floor();
        self.lose();
        Some(self.recalled)
    }

    /// The server's counter of stamps has begun again.
    pub(super) fn reset_stamps(&mut self) {
        self.granted = 0;
        self.recalled = 0;
    }
}

#[cfg(test)]
mod tests;
