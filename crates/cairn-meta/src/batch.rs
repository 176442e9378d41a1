//! A set of changes that will be committed together.
//!
//! Changes are collected in memory over the state of the last commit, and written in the order of keys when the batch
//! is committed: a row that a hundred operations touched is written once. Each operation keeps a log of what it
//! replaced, so that one that fails leaves no trace.

use std::collections::btree_map;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use cairn_types::{Allocation, BlobId, BlobPlace, Errno, FsResult, Ino, MetaOp, OpReply, SessionId};

use crate::error::{ApplyError, StoreError, for_program};
use crate::kv::{Changes, Durability, Reached, Visitor};
use crate::layout;
use crate::ops;
use crate::record::{CallState, InodeRecord, SessionRecord, VolumeRecord};
use crate::snapshot::Snapshot;
use crate::store::{Numbering, State};
use crate::view::{Rows, View};

/// What an operation may need to know besides the tree.
pub struct ApplyContext<'a> {
    /// Who makes the change.
    pub session: SessionId,
    /// What this operation may add to the volume's usage; beyond it is `EDQUOT`.
    pub headroom_bytes: u64,
    pub headroom_inodes: u64,
    /// Where a blob lies that was stored but is not referenced yet.
    pub pending_blobs: &'a dyn Fn(BlobId) -> Option<BlobPlace>,
    /// Sessions that hold a file open, the maker's left out or not: they keep it alive when its last name goes.
    pub open_elsewhere: &'a dyn Fn(Ino) -> Vec<SessionId>,
}

/// An operation that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub reply: OpReply,
    /// By how much the volume's usage grew; negative if it shrank.
    pub charged_bytes: i64,
    pub charged_inodes: i64,
}

/// What a commit brought about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Blobs that nothing points at any more. Their space may be reused once a commit that is [`Reached::Durable`] contains this
    /// one.
    pub freed: Vec<(BlobId, BlobPlace)>,
    /// Chunks that this batch cut into more than [`FRAGMENTS_MAX`] extents.
    pub fragmented: Vec<(Ino, u32)>,
    /// Order number of the last change that is contained.
    pub order: u64,
    /// How safe the commit is: at least as asked for, unless an attachment could not be stored.
    pub reached: Reached,
}

/// Extents of one chunk beyond which it is worth putting together again.
pub const FRAGMENTS_MAX: usize = 64;

/// Numbers are set aside durably in steps of this many; a crash skips those of a step that were not used.
const NUMBER_STEP: u64 = 1 << 18;

/// One step back.
enum Undo {
    /// The batch had changed this row before, to this.
    Restore(Vec<u8>, Option<Vec<u8>>),
    /// The batch had not changed this row before.
    Forget(Vec<u8>),
    Unreferenced(BlobId),
}

/// Changes not yet committed; dropping a batch forgets them.
pub struct Batch {
    state: Arc<State>,
    base: Snapshot,
    changes: Changes,
    undo: Vec<Undo>,
    pub(crate) volume: VolumeRecord,
    /// Session rows that changed, written once at commit; `None` for a session that ended.
    sessions: BTreeMap<SessionId, Option<SessionRecord>>,
    /// Blobs whose last reference went in this batch; a later operation may have brought one back.
    pub(crate) unreferenced: BTreeMap<BlobId, BlobPlace>,
    /// Chunks that had too many extents at some point of this batch.
    pub(crate) fragmented: BTreeSet<(Ino, u32)>,
    /// What the operation being applied has added to the usage, and may add.
    pub(crate) charge: Charge,
    poisoned: bool,
}

/// Usage of the operation being applied.
#[derive(Clone, Copy, Default)]
pub(crate) struct Charge {
    pub(crate) bytes: i64,
    pub(crate) inodes: i64,
}

impl View for Batch {
    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.base.row(key),
        }
    }

    fn scan(&self, from: &[u8], until: &[u8], visit: &mut Visitor<'_>) -> Result<(), StoreError> {
        if from >= until {
            return Ok(());
        }
        let mut changed = self.changes.range::<[u8], _>((Bound::Included(from), Bound::Excluded(until))).peekable();
        let mut ended = false;
        self.base.scan(from, until, &mut |key, value| {
            while let Some((new_key, new_value)) = changed.next_if(|(new_key, _)| new_key.as_slice() < key) {
                if let Some(new_value) = new_value
                    && visit(new_key, new_value).is_break()
                {
                    ended = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match changed.next_if(|(new_key, _)| new_key.as_slice() == key) {
                Some((_, Some(new_value))) => visit(key, new_value),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            ended = flow.is_break();
            flow
        })?;
        if !ended {
            for (key, value) in changed {
                if let Some(value) = value
                    && visit(key, value).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl Batch {
    pub(crate) fn new(state: Arc<State>) -> Self {
        let base = state.snapshot();
        Batch {
            volume: VolumeRecord::clone(&base.volume),
            state,
            base,
            changes: Changes::new(),
            undo: Vec::new(),
            sessions: BTreeMap::new(),
            unreferenced: BTreeMap::new(),
            fragmented: BTreeSet::new(),
            charge: Charge::default(),
            poisoned: false,
        }
    }

    /// The existing nodes that `op` reads or changes: leases of other sessions on them must be recalled first.
    /// Names that do not exist are left out; ask again after a recall, because it may have brought changes.
    pub fn touched(&self, op: &MetaOp) -> FsResult<Vec<Ino>> {
        for_program(ops::touched(self, op))
    }

    /// Applies one operation whole, or refuses it and leaves the batch as it was. A row that does not decode is
    /// answered `EIO`; after [`ApplyError::Store`] the batch can only be dropped.
    pub fn apply(&mut self, context: &ApplyContext<'_>, op: &MetaOp) -> Result<Applied, ApplyError> {
        self.attempt(|batch| {
            let reply = ops::apply(batch, context, op)?;
            batch.charge_fits(context)?;
            Ok(Applied { reply, charged_bytes: batch.charge.bytes, charged_inodes: batch.charge.inodes })
        })
    }

    /// A reply for an operation that was applied earlier and whose reply is lost: the present attributes of the
    /// nodes it names.
    pub fn rebuild_reply(&self, op: &MetaOp) -> FsResult<OpReply> {
        for_program(ops::rebuild_reply(self, op))
    }

    /// Runs `step`, undoing what it did if it fails.
    pub(crate) fn attempt<T>(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        if self.poisoned {
            return Err(StoreError::Poisoned.into());
        }
        let (bytes_used, inodes_used) = (self.volume.bytes_used, self.volume.inodes_used);
        self.charge = Charge::default();
        self.undo.clear();
        let outcome = step(self);
        match &outcome {
            Ok(_) => return outcome,
            Err(ApplyError::Refused(_)) => {}
            Err(ApplyError::Store(StoreError::Damaged(message))) => tracing::error!(message, "damaged metadata"),
            Err(ApplyError::Store(_)) => self.poisoned = true,
        }
        while let Some(step) = self.undo.pop() {
            match step {
                Undo::Restore(key, change) => drop(self.changes.insert(key, change)),
                Undo::Forget(key) => drop(self.changes.remove(&key)),
                Undo::Unreferenced(blob) => drop(self.unreferenced.remove(&blob)),
            }
        }
        (self.volume.bytes_used, self.volume.inodes_used) = (bytes_used, inodes_used);
        match outcome {
            Err(ApplyError::Store(StoreError::Damaged(_))) => Err(Errno::EIO.into()),
            outcome => outcome,
        }
    }

    /// Writes or deletes a row.
    pub(crate) fn set_row(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let undo = match self.changes.entry(key) {
            btree_map::Entry::Occupied(mut entry) => Undo::Restore(entry.key().clone(), entry.insert(value)),
            btree_map::Entry::Vacant(entry) => {
                let undo = Undo::Forget(entry.key().clone());
                entry.insert(value);
                undo
            }
        };
        self.undo.push(undo);
    }

    /// Notes that the last reference to a blob went.
    pub(crate) fn set_unreferenced(&mut self, blob: BlobId, place: BlobPlace) {
        if self.unreferenced.insert(blob, place).is_none() {
            self.undo.push(Undo::Unreferenced(blob));
        }
    }

    fn charge_fits(&self, context: &ApplyContext<'_>) -> Result<(), Errno> {
        let fits = |added: i64, headroom: u64| u64::try_from(added).is_ok_and(|added| added <= headroom) || added <= 0;
        if fits(self.charge.bytes, context.headroom_bytes) && fits(self.charge.inodes, context.headroom_inodes) {
            Ok(())
        } else {
            Err(Errno::EDQUOT)
        }
    }

    /// The volume's settings and counters as this batch leaves them.
    pub fn volume(&self) -> &VolumeRecord {
        &self.volume
    }

    /// Gives the volume another name.
    pub fn rename_volume(&mut self, name: String) {
        self.volume.config.name = name;
    }

    /// Gives the volume other limits (bytes, nodes); they may lie below what is used, which then cannot grow.
    pub fn resize_volume(&mut self, bytes_limit: Option<u64>, inodes_limit: Option<u64>) {
        let config = &mut self.volume.config;
        config.bytes_limit = bytes_limit.unwrap_or(config.bytes_limit);
        config.inodes_limit = inodes_limit.unwrap_or(config.inodes_limit);
    }

    /// Gives the volume another profile (its text) and the counting that goes with it: everything is counted anew, which
    /// reads every node. Room that sessions have set aside was measured by the old counting: there must be none.
    ///
    /// # Errors
    /// If a node cannot be read. Nothing is changed then.
    pub fn set_profile(&mut self, profile: String, allocation: Allocation) -> Result<(), StoreError> {
        if allocation != self.volume.config.allocation {
            let (from, until) = layout::space(layout::INODES);
            let (mut bytes, mut damage) = (0u64, None);
            self.scan(&from, &until, &mut |key, value| {
                match layout::parse_inode(key).and_then(|ino| InodeRecord::decode(ino, value)) {
                    Some(inode) => bytes = bytes.saturating_add(inode.attr.charged(allocation)),
                    None => damage = Some(StoreError::row("inode", key)),
                }
                if damage.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if let Some(error) = damage {
                return Err(error);
            }
            self.volume.bytes_used = bytes;
        }
        self.volume.config.profile = profile;
        self.volume.config.allocation = allocation;
        Ok(())
    }

    /// First of `count` node numbers that nobody else will get.
    pub fn allocate_inos(&mut self, count: u64) -> Ino {
        Ino(self.allocate(count, |numbering| &mut numbering.ino))
    }

    /// First of `count` blob numbers that nobody else will get.
    pub fn allocate_blobs(&mut self, count: u64) -> BlobId {
        BlobId(self.allocate(count, |numbering| &mut numbering.blob))
    }

    /// First of `count` order numbers, larger than every one before; the last of them becomes the commit's.
    pub fn allocate_order(&mut self, count: u64) -> u64 {
        let first = self.allocate(count, |numbering| &mut numbering.order);
        self.volume.last_order = self.volume.last_order.max((first + count).saturating_sub(1));
        first
    }

    /// Notes that a change was applied again that had this order number before a crash.
    pub fn note_replayed(&mut self, order: u64) {
        self.volume.last_order = self.volume.last_order.max(order);
    }

    fn allocate(&mut self, count: u64, counter: impl FnOnce(&mut Numbering) -> &mut u64) -> u64 {
        let mut numbering = self.state.numbering.write();
        let next = counter(&mut numbering);
        let first = *next;
        *next = next.saturating_add(count);
        first
    }

    pub(crate) fn next_ino(&self) -> u64 {
        self.state.numbering.read().ino
    }

    /// Starts a session; `info` is the server's own description of the client.
    pub fn create_session(&mut self, info: Bytes) -> SessionId {
        let session = SessionId(self.allocate(1, |numbering| &mut numbering.session));
        self.sessions.insert(session, Some(SessionRecord { info, ..SessionRecord::default() }));
        session
    }

    /// A session as it stands, if it exists.
    pub fn session(&self, session: SessionId) -> Result<Option<SessionRecord>, StoreError> {
        match self.sessions.get(&session) {
            Some(record) => Ok(record.clone()),
            None => self.session_record(session),
        }
    }

    /// Replaces the description of a session that comes back. `false` if there is no such session.
    pub fn resume_session(&mut self, session: SessionId, info: Bytes) -> Result<bool, StoreError> {
        self.change_session(session, |record| record.info = info)
    }

    /// Ends a session and lets go of what it kept alive.
    pub fn remove_session(&mut self, session: SessionId) -> Result<(), ApplyError> {
        self.release_session(session)?;
        self.sessions.insert(session, None);
        Ok(())
    }

    /// Drops a session's hold on nameless files; those that nobody else holds are deleted.
    pub fn release_session(&mut self, session: SessionId) -> Result<(), ApplyError> {
        self.release_session_but(session, |_| false)
    }

    /// As [`Batch::release_session`], but for the files that it still has open.
    pub fn release_session_but(&mut self, session: SessionId, open: impl Fn(Ino) -> bool) -> Result<(), ApplyError> {
        self.attempt(|batch| {
            for (ino, holder) in batch.all_pins()? {
                if holder == session && !open(ino) {
                    ops::release_pin(batch, ino, session)?;
                }
            }
            Ok(())
        })
    }

    /// Drops a session's hold on one nameless file, if it has one; a file that nobody else holds is deleted. Whether the
    /// file is no more.
    pub fn release_file(&mut self, session: SessionId, ino: Ino) -> Result<bool, ApplyError> {
        self.attempt(|batch| {
            ops::release_pin(batch, ino, session)?;
            Ok(batch.inode(ino)?.is_none())
        })
    }

    /// Number of the last applied journal entry; `None` if there is no such session.
    pub fn journal_sequence(&self, session: SessionId) -> Result<Option<u64>, StoreError> {
        if let Some(record) = self.sessions.get(&session) {
            return Ok(record.as_ref().map(|record| record.journal_sequence));
        }
        Ok(self.session_record(session)?.map(|record| record.journal_sequence))
    }

    /// `false` if there is no such session.
    pub fn set_journal_sequence(&mut self, session: SessionId, sequence: u64) -> Result<bool, StoreError> {
        self.change_session(session, |record| record.advance(sequence))
    }

    /// How a journal entry that was seen before ended.
    pub fn entry_result(&mut self, session: SessionId, number: u64) -> Result<FsResult<()>, StoreError> {
        Ok(self.session_mut(session)?.as_ref().map_or(Ok(()), |record| record.entry(number)))
    }

    /// Remembers that a journal entry was refused. `false` if there is no such session.
    pub fn refuse_entry(&mut self, session: SessionId, number: u64, errno: Errno) -> Result<bool, StoreError> {
        self.change_session(session, |record| record.refuse(number, errno.0))
    }

    /// How a call ended that was made before; `None` for a new one. A call whose answer the client had acknowledged
    /// is `ESTALE`.
    pub fn call_result(&mut self, session: SessionId, token: u64) -> Result<Option<FsResult<()>>, StoreError> {
        let state = self.session_mut(session)?.as_ref().map_or(CallState::New, |record| record.call(token));
        Ok(match state {
            CallState::New => None,
            CallState::Done(result) => Some(result),
            CallState::Forgotten => Some(Err(Errno::ESTALE)),
        })
    }

    /// Remembers how a call ended (`errno` 0: well) and forgets those with tokens below `acked_below`.
    /// `false` if there is no such session.
    pub fn record_call(
        &mut self,
        session: SessionId,
        token: u64,
        errno: i32,
        acked_below: u64,
    ) -> Result<bool, StoreError> {
        self.change_session(session, |record| record.record(token, errno, acked_below))
    }

    fn change_session(
        &mut self,
        session: SessionId,
        change: impl FnOnce(&mut SessionRecord),
    ) -> Result<bool, StoreError> {
        let record = self.session_mut(session)?;
        if let Some(record) = record {
            change(record);
            return Ok(true);
        }
        Ok(false)
    }

    /// The session's row in this batch, read on first use.
    fn session_mut(&mut self, session: SessionId) -> Result<&mut Option<SessionRecord>, StoreError> {
        if !self.sessions.contains_key(&session) {
            let record = self.base.session_record(session)?;
            self.sessions.insert(session, record);
        }
        Ok(self.sessions.entry(session).or_default())
    }

    /// Writes everything. Handing out very many numbers makes a buffered commit durable. Where an attachment could not be
    /// stored, everything is applied all the same, and a durable commit must follow.
    ///
    /// # Errors
    /// [`StoreError::Superseded`] if the volume has a newer owner, [`StoreError::Poisoned`], and what writing fails with.
    pub fn commit(mut self, durability: Durability<'_>) -> Result<CommitOutcome, StoreError> {
        let durability = match durability {
            Durability::Buffered if self.must_be_durable() => Durability::Durable,
            asked => asked,
        };
        if durability != Durability::Buffered {
            self.raise_ceilings();
        }
        let outcome = self.finish()?;
        if durability == Durability::Buffered && self.changes.is_empty() {
            return Ok(outcome);
        }
        let reached = self.state.commit(&self.changes, self.volume.clone(), durability)?;
        Ok(CommitOutcome { reached, ..outcome })
    }

    /// Puts the last rows among the changes, and says what they bring about.
    fn finish(&mut self) -> Result<CommitOutcome, StoreError> {
        if self.poisoned {
            return Err(StoreError::Poisoned);
        }
        let mut outcome = CommitOutcome { order: self.volume.last_order, ..CommitOutcome::default() };
        for (&blob, &place) in &self.unreferenced {
            if self.blob(blob)?.is_none() {
                outcome.freed.push((blob, place));
            }
        }
        for &(ino, chunk) in &self.fragmented {
            if let Some(inode) = self.inode(ino)?
                && self.chunk(&inode, chunk)?.as_slice().len() > FRAGMENTS_MAX
            {
                outcome.fragmented.push((ino, chunk));
            }
        }
        for (session, record) in std::mem::take(&mut self.sessions) {
            self.changes.insert(layout::session(session), record.as_ref().map(SessionRecord::encode));
        }
        if self.volume != *self.base.volume {
            self.changes.insert(layout::VOLUME.to_vec(), Some(self.volume.encode()));
        }
        Ok(outcome)
    }

    /// Whether a commit of this batch will be durable, asked for or not, because numbers were handed out beyond what is
    /// set aside. Make durable first what it points at.
    pub fn must_be_durable(&self) -> bool {
        let (numbering, volume) = (*self.state.numbering.read(), &self.volume);
        numbering.ino > volume.ino_ceiling
            || numbering.blob > volume.blob_ceiling
            || numbering.session > volume.session_ceiling
            || numbering.order > volume.order_ceiling
    }

    /// Keeps every number that was handed out below its ceiling. Ceilings are raised along with durable commits, well
    /// before they are reached, so that a commit hardly ever has to be made durable for their sake.
    fn raise_ceilings(&mut self) {
        let numbering = *self.state.numbering.read();
        let volume = &mut self.volume;
        let pairs = [
            (numbering.ino, &mut volume.ino_ceiling),
            (numbering.blob, &mut volume.blob_ceiling),
            (numbering.session, &mut volume.session_ceiling),
            (numbering.order, &mut volume.order_ceiling),
        ];
        for (next, ceiling) in pairs {
            if ceiling.saturating_sub(next) < NUMBER_STEP / 2 {
                *ceiling = next.saturating_add(NUMBER_STEP);
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.state.batch_open.store(false, Ordering::Release);
    }
}
