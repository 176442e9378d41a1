//! Who holds which lease: the table alone, without time limits, messages or waiting.
//!
//! Invariants:
//! - A session holds a node exclusively only if no other session holds anything of it.
//! - A holder that was asked to give back is given nothing more of that node until it has answered or is gone.
//! - Whoever has to wait reserves the nodes it waits for. Reservations are honoured in the order of tickets, over all
//!   nodes: the oldest request waits for holders alone, so that requests neither starve nor wait for each other in a
//!   ring. The reservation of a session never stands in its own way, and a session that holds a node exclusively may
//!   always go on changing it: it may have to, in order to give it back. So may one that holds it for reading and was asked
//!   to give it back, once nobody else holds it but those who wait to do the same.
//! - Stamps only grow. The stamp of a grant is larger than that of every recall that its holder answered before.
//! - A *pinned* node has been changed by a round that is not committed yet. Nobody is granted anything of it until it
//!   is, so that a grant is never paired with an older state.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use cairn_types::{Ino, LeaseMode, SessionId};
use cairn_wire::message::{Grant, LeaseReturn};

/// Place of a request among those that wait; smaller is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// What is needed of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// To read it and to keep what was read: shared, or exclusive where nobody else could want it.
    Read,
    /// At least this.
    AtLeast(LeaseMode),
}

/// A message to a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecallOrder {
    pub(crate) session: SessionId,
    pub(crate) ino: Ino,
    pub(crate) leave: LeaseMode,
    pub(crate) stamp: u64,
}

/// Why a request has to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The node whose next change is worth looking again for.
    pub(crate) ino: Ino,
    /// Recalls that this request caused and that must be sent now.
    pub(crate) recalls: Vec<RecallOrder>,
    /// Holders that `ino` waits for, each with the moment when it was first asked.
    pub(crate) holders: Vec<(SessionId, Instant)>,
}

/// Answer to [`Table::acquire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// `fresh` if the session did not have it before.
    Granted {
        grant: Grant,
        fresh: bool,
    },
    /// The session is being asked to give the node back, but still has it: it may read, and keeps nothing.
    Momentary,
    Blocked(Block),
}

#[derive(Clone, Copy, Debug)]
struct Recall {
    leave: LeaseMode,
    stamp: u64,
    since: Instant,
}

#[derive(Debug)]
struct Holder {
    session: SessionId,
    mode: LeaseMode,
    stamp: u64,
    recall: Option<Recall>,
}

#[derive(Debug)]
struct Reservation {
    ticket: Ticket,
    session: SessionId,
    mode: LeaseMode,
}

#[derive(Debug, Default)]
struct Node {
    holders: Vec<Holder>,
    reservations: Vec<Reservation>,
}

impl Node {
    fn own(&mut self, session: SessionId) -> Option<&mut Holder> {
        self.holders.iter_mut().find(|holder| holder.session == session)
    }

    fn others_than(&self, session: SessionId) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(move |holder| holder.session != session)
    }

    /// Whether `session` waits for a change of it that it asked for after `ticket`.
    fn has_later(&self, session: SessionId, ticket: Ticket) -> bool {
        self.reservations.iter().any(|reservation| {
            reservation.session == session && reservation.ticket > ticket && reservation.mode == LeaseMode::Exclusive
        })
    }

    /// Whether somebody else came first.
    fn is_reserved(&self, session: SessionId, ticket: Ticket, mode: LeaseMode) -> bool {
        self.reservations.iter().any(|reservation| {
            reservation.session != session && reservation.ticket < ticket && !reservation.mode.compatible(mode)
        })
    }
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Table {
    nodes: HashMap<Ino, Node>,
    /// What each session holds, by stamp: the oldest grants first.
    sessions: HashMap<SessionId, BTreeMap<u64, Ino>>,
    tickets: HashMap<Ticket, Vec<Ino>>,
    pinned: HashSet<Ino>,
    last_stamp: u64,
    changed: Vec<Ino>,
}

impl Table {
    /// An empty table whose stamps are larger than `stamp`.
    pub(crate) fn new(stamp: u64) -> Self {
        Table {
            nodes: HashMap::new(),
            sessions: HashMap::new(),
            tickets: HashMap::new(),
            pinned: HashSet::new(),
            last_stamp: stamp,
            changed: Vec::new(),
        }
    }

    fn next_stamp(&mut self) -> u64 {
        self.last_stamp += 1;
        self.last_stamp
    }

    pub(crate) fn add_session(&mut self, session: SessionId) {
        self.sessions.entry(session).or_default();
    }

    /// Leases of a session.
    pub(crate) fn count(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, BTreeMap::len)
    }

    /// Nodes for which waiting requests should look again; each is told once.
    pub(crate) fn take_changed(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.changed)
    }

    fn is_alone(&self, session: SessionId) -> bool {
        self.sessions.len() == 1 && self.sessions.contains_key(&session)
    }

    /// Gives `session` a lease of `ino`, or reserves it and says what it has to wait for.
    pub(crate) fn acquire(
        &mut self,
        session: SessionId,
        ino: Ino,
        want: Want,
        ticket: Ticket,
        now: Instant,
    ) -> Verdict {
        if self.pinned.contains(&ino) {
            return Verdict::Blocked(Block { ino, recalls: Vec::new(), holders: Vec::new() });
        }
        let need = match want {
            Want::Read => LeaseMode::Shared,
            Want::AtLeast(mode) => mode.max(LeaseMode::Shared),
        };
        let alone = self.is_alone(session);
        let node = self.nodes.entry(ino).or_default();
        if let Some(own) = node.own(session) {
            if own.recall.is_some() {
                return if need == LeaseMode::Shared {
                    Verdict::Momentary
                } else {
                    Verdict::Blocked(Block { ino, recalls: Vec::new(), holders: Vec::new() })
                };
            }
            if own.mode >= need && (!alone || own.mode == LeaseMode::Exclusive) {
                let grant = Grant { ino, mode: own.mode, stamp: own.stamp };
                return Verdict::Granted { grant, fresh: false };
            }
        }
        let taken = node.others_than(session).any(|holder| !holder.mode.compatible(need));
        if taken || node.is_reserved(session, ticket, need) {
            return Verdict::Blocked(self.block(session, &[ino], need, ticket, now));
        }
        self.release_ticket(ticket);
        let mode = if alone { LeaseMode::Exclusive } else { need };
        let fresh = self.mode_of(session, ino) == LeaseMode::None;
        Verdict::Granted { grant: self.grant(session, ino, mode), fresh }
    }

    /// A lease for reading if it is to be had at once.
    pub(crate) fn acquire_now(&mut self, session: SessionId, ino: Ino) -> Option<Grant> {
        if self.pinned.contains(&ino) {
            return None;
        }
        let alone = self.is_alone(session);
        if let Some(node) = self.nodes.get_mut(&ino) {
            if let Some(own) = node.own(session) {
                let grant = Grant { ino, mode: own.mode, stamp: own.stamp };
                return own.recall.is_none().then_some(grant);
            }
            let taken = node.others_than(session).any(|holder| !holder.mode.compatible(LeaseMode::Shared));
            if taken || node.is_reserved(session, Ticket(u64::MAX), LeaseMode::Shared) {
                return None;
            }
        }
        Some(self.grant(session, ino, if alone { LeaseMode::Exclusive } else { LeaseMode::Shared }))
    }

    /// Prepares a change of `inos` by `session`: either nobody else holds any of them, and they are pinned until
    /// [`Table::unpin_all`]; or they are reserved, and the change has to wait.
    pub(crate) fn begin_change(
        &mut self,
        session: SessionId,
        inos: &[Ino],
        ticket: Ticket,
        now: Instant,
    ) -> Result<(), Block> {
        let mut open = true;
        for ino in inos {
            let Some(node) = self.nodes.get_mut(ino) else { continue };
            if node.own(session).is_some_and(|own| own.mode == LeaseMode::Exclusive) {
                continue;
            }
            open &=
                node.others_than(session).next().is_none() && !node.is_reserved(session, ticket, LeaseMode::Exclusive);
        }
        if !open {
            return Err(self.block(session, inos, LeaseMode::Exclusive, ticket, now));
        }
        self.release_ticket(ticket);
        self.pinned.extend(inos);
        Ok(())
    }

    /// As [`Table::begin_change`], for content that `session` collected under a lease for reading. If it is asked to give that
    /// back, whoever waits for it waits for this, too; and of several who are, each having something to write, the one that
    /// came first goes first: none of them answers anything from what it knows by then.
    pub(crate) fn begin_write(
        &mut self,
        session: SessionId,
        ino: Ino,
        ticket: Ticket,
        now: Instant,
    ) -> Result<(), Block> {
        let is_last = self.nodes.get_mut(&ino).is_some_and(|node| {
            let may_wait = |other: &Holder| other.recall.is_some() && node.has_later(other.session, ticket);
            node.others_than(session).all(may_wait) && node.own(session).is_some_and(|own| own.recall.is_some())
        });
        if !is_last {
            return self.begin_change(session, &[ino], ticket, now);
        }
        self.release_ticket(ticket);
        self.pinned.insert(ino);
        Ok(())
    }

    /// Reserves `inos` and asks those who are in the way to give back. Who looks again and waits on keeps its place, and
    /// wakes nobody by that: two that wait for one node would wake each other until they have it.
    fn block(&mut self, session: SessionId, inos: &[Ino], need: LeaseMode, ticket: Ticket, now: Instant) -> Block {
        let before = self.tickets.remove(&ticket).unwrap_or_default();
        for ino in &before {
            if let Some(node) = self.nodes.get_mut(ino) {
                node.reservations.retain(|reservation| reservation.ticket != ticket);
            }
        }
        let mut reserved = Vec::with_capacity(inos.len());
        let leave = need.leaves_to_others();
        let mut block = Block { ino: inos.first().copied().unwrap_or(Ino::ROOT), recalls: vec![], holders: vec![] };
        for &ino in inos {
            let node = self.nodes.entry(ino).or_default();
            if node.own(session).is_some_and(|own| own.mode == LeaseMode::Exclusive) {
                continue;
            }
            if node.is_reserved(session, ticket, need) && block.holders.is_empty() {
                block.ino = ino;
            }
            node.reservations.push(Reservation { ticket, session, mode: need });
            reserved.push(ino);
            let mut waits_for = Vec::new();
            for holder in &mut node.holders {
                if holder.session == session || holder.mode <= leave {
                    continue;
                }
                let since = holder.recall.map_or(now, |recall| recall.since);
                if holder.recall.is_none_or(|recall| recall.leave > leave) {
                    self.last_stamp += 1;
                    let stamp = self.last_stamp;
                    holder.recall = Some(Recall { leave, stamp, since });
                    block.recalls.push(RecallOrder { session: holder.session, ino, leave, stamp });
                }
                waits_for.push((holder.session, since));
            }
            if !waits_for.is_empty() && block.holders.is_empty() {
                block.ino = ino;
                block.holders = waits_for;
            }
        }
        for ino in before.into_iter().filter(|ino| !reserved.contains(ino)) {
            self.changed.push(ino);
            self.tidy(ino);
        }
        self.tickets.insert(ticket, reserved);
        block
    }

    /// Whether a change of `ino` by `session` needs to ask nobody.
    pub(crate) fn holds_exclusive(&self, session: SessionId, ino: Ino) -> bool {
        self.mode_of(session, ino) == LeaseMode::Exclusive
    }

    pub(crate) fn mode_of(&self, session: SessionId, ino: Ino) -> LeaseMode {
        let holder = self.nodes.get(&ino).and_then(|node| node.holders.iter().find(|own| own.session == session));
        holder.map_or(LeaseMode::None, |own| own.mode)
    }

    pub(crate) fn pin(&mut self, inos: &[Ino]) {
        self.pinned.extend(inos);
    }

    /// What was changed is committed.
    pub(crate) fn unpin_all(&mut self) {
        self.changed.extend(self.pinned.drain());
    }

    /// The maker of a change gets what it changed exclusively; nothing if it is being asked to give it back.
    pub(crate) fn grant_to_maker(&mut self, session: SessionId, ino: Ino) -> Option<Grant> {
        if !self.sessions.contains_key(&session) {
            return None;
        }
        let node = self.nodes.entry(ino).or_default();
        if node.others_than(session).next().is_some() || node.own(session).is_some_and(|own| own.recall.is_some()) {
            return None;
        }
        Some(self.grant(session, ino, LeaseMode::Exclusive))
    }

    /// A session takes back what it held before the server was restarted. `None` if somebody else was given it.
    pub(crate) fn reclaim(&mut self, session: SessionId, ino: Ino, mode: LeaseMode) -> Option<Grant> {
        if mode == LeaseMode::None {
            return None;
        }
        let node = self.nodes.entry(ino).or_default();
        if node.others_than(session).any(|holder| !holder.mode.compatible(mode)) {
            return None;
        }
        if let Some(own) = node.own(session) {
            // It holds that until it has answered, even if it has been asked to give it back since.
            return Some(Grant { ino, mode: own.mode, stamp: own.stamp });
        }
        Some(self.grant(session, ino, mode))
    }

    fn grant(&mut self, session: SessionId, ino: Ino, mode: LeaseMode) -> Grant {
        let stamp = self.next_stamp();
        let held = self.sessions.entry(session).or_default();
        let node = self.nodes.entry(ino).or_default();
        let mode = if let Some(own) = node.own(session) {
            held.remove(&own.stamp);
            own.stamp = stamp;
            own.mode = own.mode.max(mode);
            own.mode
        } else {
            node.holders.push(Holder { session, mode, stamp, recall: None });
            mode
        };
        held.insert(stamp, ino);
        Grant { ino, mode, stamp }
    }

    /// Takes back a grant that was never told to anybody.
    pub(crate) fn withdraw(&mut self, session: SessionId, grant: Grant) {
        let own = self.nodes.get_mut(&grant.ino).and_then(|node| node.own(session));
        if own.is_some_and(|own| own.stamp == grant.stamp && own.recall.is_none()) {
            self.drop_holder(session, grant.ino);
        }
    }

    /// A session gives back. Whether this answers a recall.
    pub(crate) fn give_back(&mut self, session: SessionId, returned: &LeaseReturn) -> bool {
        let Some(own) = self.nodes.get_mut(&returned.ino).and_then(|node| node.own(session)) else { return false };
        // A newer grant is under way to a client that did not know of it when it sent this.
        if returned.stamp < own.stamp {
            return false;
        }
        own.mode = own.mode.min(returned.keep);
        let mode = own.mode;
        let answered = own.recall.is_some_and(|recall| mode <= recall.leave);
        if answered {
            own.recall = None;
        }
        if mode == LeaseMode::None {
            self.drop_holder(session, returned.ino);
        } else {
            self.changed.push(returned.ino);
        }
        answered
    }

    fn drop_holder(&mut self, session: SessionId, ino: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        if let Some(position) = node.holders.iter().position(|holder| holder.session == session) {
            let holder = node.holders.swap_remove(position);
            if let Some(held) = self.sessions.get_mut(&session) {
                held.remove(&holder.stamp);
            }
        }
        self.changed.push(ino);
        self.tidy(ino);
    }

    fn tidy(&mut self, ino: Ino) {
        if self.nodes.get(&ino).is_some_and(|node| node.holders.is_empty() && node.reservations.is_empty()) {
            self.nodes.remove(&ino);
        }
    }

    /// A node is no more.
    pub(crate) fn forget_node(&mut self, ino: Ino) {
        let holders: Vec<SessionId> = self
            .nodes
            .get(&ino)
            .map(|node| node.holders.iter().map(|holder| holder.session).collect())
            .unwrap_or_default();
        for session in holders {
            self.drop_holder(session, ino);
        }
    }

    /// A session is over: it holds nothing and waits for nothing.
    pub(crate) fn remove_session(&mut self, session: SessionId) {
        let held = self.sessions.get(&session).map(|held| held.values().copied().collect::<Vec<_>>());
        for ino in held.unwrap_or_default() {
            self.drop_holder(session, ino);
        }
        self.sessions.remove(&session);
    }

    /// A request no longer waits.
    pub(crate) fn release_ticket(&mut self, ticket: Ticket) {
        for ino in self.tickets.remove(&ticket).unwrap_or_default() {
            if let Some(node) = self.nodes.get_mut(&ino) {
                node.reservations.retain(|reservation| reservation.ticket != ticket);
            }
            self.changed.push(ino);
            self.tidy(ino);
        }
    }

    /// Recalls that `session` has not answered.
    pub(crate) fn outstanding(&self, session: SessionId) -> Vec<RecallOrder> {
        let inos = self.sessions.get(&session).into_iter().flat_map(BTreeMap::values);
        inos.filter_map(|ino| {
            let own = self.nodes.get(ino)?.holders.iter().find(|own| own.session == session)?;
            let Recall { leave, stamp, .. } = own.recall?;
            Some(RecallOrder { session, ino: *ino, leave, stamp })
        })
        .collect()
    }

    /// Asks a session that holds more than `most` leases to give back its oldest.
    pub(crate) fn trim(&mut self, session: SessionId, most: usize, now: Instant) -> Vec<RecallOrder> {
        let Some(held) = self.sessions.get(&session).filter(|held| held.len() > most) else { return Vec::new() };
        let oldest: Vec<Ino> = held.values().copied().take(held.len() - most + most / 64).collect();
        let mut recalls = Vec::new();
        for ino in oldest {
            let stamp = self.last_stamp + 1;
            let own = self.nodes.get_mut(&ino).and_then(|node| node.own(session));
            if let Some(own) = own.filter(|own| own.recall.is_none()) {
                self.last_stamp = stamp;
                own.recall = Some(Recall { leave: LeaseMode::None, stamp, since: now });
                recalls.push(RecallOrder { session, ino, leave: LeaseMode::None, stamp });
            }
        }
        recalls
    }
}

#[cfg(test)]
mod tests;
