//! Applying changes: calls that may wait for other sessions, and journals that never do, each exactly once.
//!
//! A call that is refused leaves no trace and may be tried again; one that is applied is remembered in the same commit,
//! under its token. Entries of a journal are remembered by their number, whether they succeed or not.

use std::collections::HashSet;
use std::sync::Arc;

use cairn_meta::{Applied as MetaApplied, ApplyContext};
use cairn_types::{Errno, FsResult, Ino, MetaOp, OpReply, SessionId};
use cairn_wire::message::{Answer, Applied, Failure, Grant};

use crate::committer::Round;
use crate::leases::Ticket;
use crate::quota::Space;
use crate::recall::Blocked;
use crate::{Inner, Reply};

/// How an attempt at a call ended.
pub(crate) enum Attempt {
    Done {
        applied: Applied,
        grants: Vec<Grant>,
    },
    /// Other sessions hold what it touches.
    Blocked(Blocked),
    /// It would fit if others gave back room that they have set aside.
    ShortOfSpace,
}

/// What a change may draw from when it adds to the volume's usage.
#[derive(Clone, Copy)]
enum Headroom {
    /// Free room.
    Free,
    /// The session's reservation, then free room.
    Reserved,
    /// It had its room before the server was restarted.
    Unlimited,
}

impl Inner {
    pub(crate) async fn call(self: &Arc<Self>, session: SessionId, token: u64, acked_below: u64, op: MetaOp) -> Reply {
        let op = Arc::new(op);
        let mut ticket = self.leases.ticket();
        let mut asked_for_space = false;
        loop {
            let (inner, op, number) = (Arc::clone(self), Arc::clone(&op), ticket.ticket);
            let attempt =
                self.submit_here(move |round| inner.try_call(round, session, token, acked_below, &op, number));
            match attempt.await? {
                Attempt::Done { applied, grants } => {
                    self.trim_leases(session);
                    return Ok((Answer::Applied { applied: vec![applied], grants }, Vec::new()));
                }
                Attempt::Blocked(blocked) => {
                    ticket.mark_used();
                    self.wait_for(blocked).await;
                }
                Attempt::ShortOfSpace if asked_for_space => {
                    let applied = Applied { result: Err(Errno::EDQUOT), order: 0 };
                    return Ok((Answer::Applied { applied: vec![applied], grants: Vec::new() }, Vec::new()));
                }
                Attempt::ShortOfSpace => {
                    self.ask_for_space().await;
                    asked_for_space = true;
                }
            }
        }
    }

    fn try_call(
        &self,
        round: &mut Round<'_>,
        session: SessionId,
        token: u64,
        acked_below: u64,
        op: &MetaOp,
        ticket: Ticket,
    ) -> Attempt {
        let refused = |errno| Attempt::Done { applied: Applied { result: Err(errno), order: 0 }, grants: Vec::new() };
        if !self.sessions.is_live(session) {
            return refused(Errno::ESTALE);
        }
        let earlier = round.batch.call_result(session, token);
        match round.must(earlier) {
            Err(errno) => return refused(errno),
            Ok(Some(result)) => {
                let applied = self.repeated_call(round, session, token, op, result);
                let grants = self.grants_again(session, &applied);
                return Attempt::Done { applied, grants };
            }
            Ok(None) => {}
        }
        let touched = match round.batch.touched(op) {
            Ok(touched) => touched,
            Err(errno) => return refused(errno),
        };
        let now = std::time::Instant::now();
        let begun = self.leases.try_with(|table| match op {
            MetaOp::Write { ino, .. } => table.begin_write(session, *ino, ticket, now),
            _ => table.begin_change(session, &touched, ticket, now),
        });
        if let Err(blocked) = begun {
            return Attempt::Blocked(blocked);
        }
        // What is written was promised room when it was taken in.
        let headroom = if matches!(op, MetaOp::Write { .. }) { Headroom::Reserved } else { Headroom::Free };
        match self.apply(round, session, op, headroom) {
            Ok(applied) => {
                let order = round.batch.allocate_order(1);
                let recorded = round.batch.record_call(session, token, 0, acked_below);
                if let Err(errno) = round.must(recorded) {
                    return refused(errno);
                }
                round.ledger.recent.entry(session).or_default().note_call(token, order, acked_below);
                let grants = self.grant_to_maker(session, &touched, &applied.reply);
                Attempt::Done { applied: Applied { result: Ok(applied.reply), order }, grants }
            }
            Err(Errno::EDQUOT) if round.ledger.quota.anything_reserved() => Attempt::ShortOfSpace,
            Err(errno) => refused(errno),
        }
    }

    pub(crate) async fn journal(self: &Arc<Self>, session: SessionId, first: u64, ops: Vec<MetaOp>) -> Reply {
        let inner = Arc::clone(self);
        let outcome = self.submit_here(move |round| inner.apply_journal(round, session, first, &ops));
        let (applied, grants) = outcome.await??;
        Ok((Answer::Applied { applied, grants }, Vec::new()))
    }

    fn apply_journal(
        &self,
        round: &mut Round<'_>,
        session: SessionId,
        first: u64,
        ops: &[MetaOp],
    ) -> Result<(Vec<Applied>, Vec<Grant>), Failure> {
        let known = round.batch.journal_sequence(session);
        let last = match round.must(known)? {
            Some(last) if self.sessions.is_live(session) => last,
            _ => return Err(Errno::ESTALE.into()),
        };
        if first > last.saturating_add(1) {
            tracing::warn!(%session, first, last, "a journal goes on after a gap");
        }
        let mut applied = Vec::with_capacity(ops.len());
        let mut grants = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            let number = first.saturating_add(index as u64);
            if number <= last && !round.ledger.recent.get_mut(&session).is_some_and(|recent| recent.fill_hole(number)) {
                applied.push(self.repeated_entry(round, session, number, op));
                continue;
            }
            let outcome = self.apply_entry(round, session, op, &mut grants);
            let order = outcome.as_ref().map_or(0, |(_, order)| *order);
            Self::note_entry(round, session, number, outcome.as_ref().map(|_| order).map_err(|errno| *errno))?;
            applied.push(Applied { result: outcome.map(|(reply, _)| reply), order });
        }
        keep_last_of_directories(&mut applied);
        let end = first.saturating_add(ops.len() as u64).saturating_sub(1);
        if end > last {
            let recorded = round.batch.set_journal_sequence(session, end);
            round.must(recorded)?;
        }
        Ok((applied, grants))
    }

    /// Remembers how an entry of a journal ended: its place in memory, a refusal in the session's row.
    pub(crate) fn note_entry(
        round: &mut Round<'_>,
        session: SessionId,
        number: u64,
        outcome: FsResult<u64>,
    ) -> FsResult<()> {
        match outcome {
            Ok(order) => round.ledger.recent.entry(session).or_default().note_journal(number, order),
            Err(errno) => {
                let noted = round.batch.refuse_entry(session, number, errno);
                round.must(noted)?;
            }
        }
        Ok(())
    }

    fn apply_entry(
        &self,
        round: &mut Round<'_>,
        session: SessionId,
        op: &MetaOp,
        grants: &mut Vec<Grant>,
    ) -> FsResult<(OpReply, u64)> {
        let touched = round.batch.touched(op)?;
        let changed = op.changed_node();
        let held = self.leases.with(|table| {
            let held = touched.iter().chain(&changed).all(|ino| table.holds_exclusive(session, *ino));
            if held {
                table.pin(&touched);
            }
            held
        });
        if !held {
            return Err(Errno::ESTALE);
        }
        let applied = self.apply(round, session, op, Headroom::Reserved)?;
        let order = round.batch.allocate_order(1);
        self.leases.with(|table| {
            let remaining = |ino: Ino| applied.reply.attrs.iter().any(|attr| attr.ino == ino);
            for ino in touched.iter().filter(|ino| !remaining(**ino)) {
                table.forget_node(*ino);
            }
            // What was touched is held already; what was made comes to its maker.
            for attr in applied.reply.attrs.iter().filter(|attr| !touched.contains(&attr.ino)) {
                table.pin(&[attr.ino]);
                grants.extend(table.grant_to_maker(session, attr.ino));
            }
        });
        Ok((applied.reply, order))
    }

    /// Applies a change that was applied before the server was restarted, at its old place in the order.
    pub(crate) fn apply_again(&self, round: &mut Round<'_>, session: SessionId, op: &MetaOp, order: u64) -> Applied {
        match self.apply(round, session, op, Headroom::Unlimited) {
            Ok(applied) => {
                round.batch.note_replayed(order);
                self.counters.changes_replayed.add(1);
                Applied { result: Ok(applied.reply), order }
            }
            Err(errno) => Applied { result: Err(errno), order: 0 },
        }
    }

    fn apply(
        &self,
        round: &mut Round<'_>,
        session: SessionId,
        op: &MetaOp,
        headroom: Headroom,
    ) -> FsResult<MetaApplied> {
        // What was buffered or sent again finds its bytes stored already, and was promised; it needs few for metadata.
        if round.disk_full && matches!(headroom, Headroom::Free) && op.grows() {
            return Err(Errno::ENOSPC);
        }
        let fill = round.fill();
        let room = match headroom {
            Headroom::Free => round.ledger.quota.free(fill),
            Headroom::Reserved => round.ledger.quota.headroom(session, fill),
            Headroom::Unlimited => Space { bytes: u64::MAX, inodes: u64::MAX },
        };
        let context = ApplyContext {
            session,
            headroom_bytes: room.bytes,
            headroom_inodes: room.inodes,
            pending_blobs: &|blob| self.blobs.place(blob),
            open_elsewhere: &|ino| self.open_files.holders(ino),
        };
        let outcome = round.batch.apply(&context, op);
        let outcome = round.answer(outcome);
        match &outcome {
            Ok(applied) => {
                self.counters.changes_applied.add(1);
                if op.may_end_a_file() {
                    self.deleted.store(true, std::sync::atomic::Ordering::Release);
                }
                if matches!(headroom, Headroom::Reserved) {
                    let added = Space {
                        bytes: u64::try_from(applied.charged_bytes).unwrap_or(0),
                        inodes: u64::try_from(applied.charged_inodes).unwrap_or(0),
                    };
                    round.ledger.quota.draw(session, added);
                }
                self.blobs.reference(op.blobs());
            }
            Err(_) => self.counters.changes_refused.add(1),
        }
        outcome
    }

    /// The maker of a change gets exclusively what it touched and made; what is no more is forgotten.
    fn grant_to_maker(&self, session: SessionId, touched: &[Ino], reply: &OpReply) -> Vec<Grant> {
        self.leases.with(|table| {
            for ino in touched.iter().filter(|ino| !reply.attrs.iter().any(|attr| attr.ino == **ino)) {
                table.forget_node(*ino);
            }
            let grants = reply.attrs.iter().filter_map(|attr| {
                table.pin(&[attr.ino]);
                table.grant_to_maker(session, attr.ino)
            });
            grants.collect()
        })
    }

    fn repeated_call(
        &self,
        round: &mut Round<'_>,
        session: SessionId,
        token: u64,
        op: &MetaOp,
        result: FsResult<()>,
    ) -> Applied {
        self.counters.changes_repeated.add(1);
        let order = round.ledger.recent.get(&session).map_or(0, |recent| recent.call(token));
        let result = result.and_then(|()| round.batch.rebuild_reply(op));
        Applied { order: if result.is_ok() { order } else { 0 }, result }
    }

    fn repeated_entry(&self, round: &mut Round<'_>, session: SessionId, number: u64, op: &MetaOp) -> Applied {
        self.counters.changes_repeated.add(1);
        let outcome = round.batch.entry_result(session, number);
        match round.must(outcome) {
            Ok(Ok(())) => {
                let order = round.ledger.recent.get(&session).map_or(0, |recent| recent.journal(number));
                Applied { result: Ok(round.batch.rebuild_reply(op).unwrap_or_default()), order }
            }
            Ok(Err(errno)) | Err(errno) => Applied { result: Err(errno), order: 0 },
        }
    }

    /// What the session still holds of the nodes in a repeated answer.
    fn grants_again(&self, session: SessionId, applied: &Applied) -> Vec<Grant> {
        let Ok(reply) = &applied.result else { return Vec::new() };
        self.leases.with(|table| {
            let held = reply.attrs.iter().filter(|attr| table.holds_exclusive(session, attr.ino)).map(|attr| attr.ino);
            let held: Vec<Ino> = held.collect();
            held.into_iter().filter_map(|ino| table.grant_to_maker(session, ino)).collect()
        })
    }
}

/// Leaves only the last attributes of each directory in the answer to a journal: a thousand files made in one directory
/// need not tell of it a thousand times.
fn keep_last_of_directories(applied: &mut [Applied]) {
    let mut seen = HashSet::new();
    for reply in applied.iter_mut().rev().filter_map(|applied| applied.result.as_mut().ok()) {
        reply.attrs.retain(|attr| !attr.is_dir() || seen.insert(attr.ino));
    }
}
