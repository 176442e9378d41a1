//! What is known here of one node.
//!
//! What was learnt from the server counts only while a lease covers it: losing the lease drops it
//! ([`NodeState::lose_lease`]). Fields are private: what may happen to a node are the verbs here, each of which leaves
//! it in a state that makes sense.

use std::time::{Duration, Instant};

use cairn_types::{Attr, Errno, ExtentList, FileKind, Ino, LeaseMode, Name, Timestamp, WrittenExtent};
use cairn_wire::message::Grant;

use super::attributes::{Attributes, Learnt};
use super::directory::DirectoryCache;
use super::errors::WriteErrors;
use super::file::FileState;
use super::lease::{Lease, PendingRecall, RecallAnswer};
use super::life::Life;
use super::transfers::Transfers;

/// For how long after a look-up an open is expected. Without this, a file that another mount replaces between the two
/// would be gone when it is opened, and the kernel looks a name up again only once.
const OPENING_TIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Content {
    /// Not known yet, or neither file nor directory.
    None,
    File(Box<FileState>),
    Directory(Box<DirectoryCache>),
}

/// What the kernel and its programs have of a node.
#[derive(Debug, Default)]
struct Uses {
    /// References that the kernel holds.
    references: u64,
    /// Open handles.
    opens: u32,
    /// Those for reading and writing: only such can a program map to change it.
    mappable: u32,
    /// The server was told (with a returned lease) that this file is open here.
    declared_open: bool,
    /// When the kernel was last told of this node by name: it may be about to open it.
    named_at: Option<Instant>,
    /// The kernel may hold pages of this file, all of them read or written under the present lease.
    pages: bool,
}

/// A name that a node had: for messages and recovery copies, and to find its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub parent: Ino,
    pub name: Name,
}

#[derive(Debug)]
pub(crate) struct NodeState {
    lease: Lease,
    life: Life,
    attributes: Attributes,
    /// Attributes when they were last known, of a node that the kernel refers to: what is answered when the server no
    /// longer has it (see [`NodeState::gone`]).
    last_attr: Option<Box<Attr>>,
    uses: Uses,
    transfers: Transfers,
    place: Option<Place>,
    /// Access time that the server has not been told yet.
    access_time: Option<Timestamp>,
    errors: WriteErrors,
    content: Content,
}

/// The lease.
impl NodeState {
    /// Nothing is known but that grants up to `floor` are void.
    pub(super) fn new(floor: u64) -> Self {
        NodeState {
            lease: Lease::new(floor),
            life: Life::default(),
            attributes: Attributes::default(),
            last_attr: None,
            uses: Uses::default(),
            transfers: Transfers::default(),
            place: None,
            access_time: None,
            errors: WriteErrors::default(),
            content: Content::None,
        }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The lease stands and is not about to be given back.
    pub(crate) fn covers(&self, mode: LeaseMode) -> bool {
        self.lease.covers(mode)
    }

    /// Attributes and content here may be used for answers, as far as this node's own state says.
    pub(crate) fn holds(&self, mode: LeaseMode) -> bool {
        self.covers(mode) && self.attr().is_some()
    }

    /// Takes over a lease, unless it is void. Whether it stands.
    pub(crate) fn grant(&mut self, grant: Grant) -> bool {
        self.lease.grant(grant)
    }

    /// The server asks for the lease back. Whether no other recall is being answered.
    pub(crate) fn begin_recall(&mut self, leave: LeaseMode, stamp: u64) -> bool {
        self.lease.recall(leave, stamp)
    }

    /// The recall that is being answered.
    pub(crate) fn pending_recall(&self) -> Option<PendingRecall> {
        self.lease.pending_recall()
    }

    pub(crate) fn is_recalled(&self) -> bool {
        self.lease.is_recalled()
    }

    /// Nothing is answered from here any more, until the recall is answered; if there still is one.
    pub(crate) fn seal(&mut self) {
        self.lease.seal();
    }

    /// Keeps no more than `leave`. Whoever wants more asks for it again, after the recall.
    pub(crate) fn downgrade(&mut self, leave: LeaseMode) {
        self.lease.downgrade(leave);
    }

    /// Answers the recall, with everything made ready for `leave`; what is not kept is dropped.
    pub(crate) fn answer_recall(&mut self, leave: LeaseMode) -> RecallAnswer {
        let answer = self.lease.answer(leave);
        if let RecallAnswer::Given { keep, .. } = answer {
            if keep == LeaseMode::None {
                self.drop_covered();
            }
            self.transfers.let_go();
        }
        answer
    }

    /// The server that sent the recall is gone and was not answered: all of the lease is still held.
    pub(crate) fn void_recall(&mut self) {
        if self.lease.void_recall() {
            self.transfers.let_go();
        }
    }

    /// A server that was restarted has taken the session back: `grant` is what stands of the lease, less what was
    /// recalled since. Whether nothing does, although something was held; it is the caller's to lose then.
    pub(crate) fn reclaim(&mut self, grant: Option<Grant>) -> bool {
        if let Some(grant) = grant {
            self.lease.reclaim(grant);
        }
        self.lease.mode() > LeaseMode::None && grant.is_none_or(|grant| grant.mode == LeaseMode::None)
    }

    /// Gives the lease back without having been asked. The stamp to give back, if anything was held.
    pub(crate) fn give_back_lease(&mut self) -> Option<u64> {
        let stamp = self.lease.give_back()?;
        self.drop_covered();
        Some(stamp)
    }

    /// The lease is gone, and with it everything that it covered. Buffered writes stay: they are the caller's to send or
    /// to save.
    pub(crate) fn lose_lease(&mut self) {
        self.lease.lose();
        self.drop_covered();
    }

    /// The session is over: the lease is gone, a recall is void, and the server keeps nothing for this mount any more.
    pub(crate) fn end_session(&mut self) {
        self.lose_lease();
        self.lease.end_recall();
        self.transfers.let_go();
        self.access_time = None;
        self.uses.declared_open = false;
        self.life.let_go();
    }

    /// The server's counter of stamps has begun again: nothing that was noted means anything.
    pub(super) fn reset_stamps(&mut self) {
        self.lease.reset_stamps();
    }

    fn drop_covered(&mut self) {
        if self.uses.references > 0 && self.gone().is_none() {
            self.remember_attr();
        }
        self.attributes.forget();
        self.note_emptied();
        match &mut self.content {
            Content::File(file) => file.extents_mut().clear(),
            Content::Directory(directory) => directory.clear(),
            Content::None => {}
        }
    }

    /// Nothing here waits to be sent or is being answered for.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_clean() && !self.attributes.is_ahead()
    }

    /// No content or access time here waits to be sent.
    pub(crate) fn is_clean(&self) -> bool {
        self.access_time.is_none() && self.file().is_none_or(FileState::is_flushed)
    }

    /// Whether this node may leave the table (after its lease was given back).
    pub(crate) fn is_idle(&self) -> bool {
        self.uses.opens == 0
            && self.life != Life::Orphaned
            && !self.uses.declared_open
            && !self.is_recalled()
            && self.is_sent()
            && (self.uses.references == 0 || self.gone().is_none())
    }
}

/// Attributes and names.
impl NodeState {
    /// As the server said last, with what buffered changes of the node (not its content) do to it.
    pub(crate) fn attr(&self) -> Option<&Attr> {
        self.attributes.known()
    }

    /// Attributes as a program must see them: the server's, and what is buffered here on top.
    pub(crate) fn view(&self) -> Option<Attr> {
        let mut attr = *self.attr()?;
        if let Some(file) = self.file() {
            file.show_in(&mut attr);
        }
        if let Some(atime) = self.access_time {
            attr.atime = atime;
        }
        Some(attr)
    }

    /// Changes of this node, content aside, are buffered or on their way: what is said of it here is ahead of what the
    /// server says.
    pub(crate) fn is_ahead(&self) -> bool {
        self.attributes.is_ahead()
    }

    /// Counts a change that is made here first, until [`NodeState::end_change`].
    pub(crate) fn begin_change(&mut self) {
        self.attributes.begin_change();
    }

    /// What a change that is made here first does to the attributes.
    pub(crate) fn alter_attr(&mut self, change: impl FnOnce(&mut Attr)) {
        self.attributes.alter(change);
    }

    /// The server has answered for one of the changes that were made here first.
    pub(crate) fn end_change(&mut self, chunk_size: u32) {
        if let Some(attr) = self.attributes.end_change() {
            self.learn_attr(&attr, false, chunk_size);
        }
    }

    /// Becomes a node that this session makes here first, under the lease of its directory. The server's first word is
    /// newer than `attr`.
    pub(crate) fn create_local(&mut self, attr: Attr, place: Place, chunk_size: u32) {
        self.lease.begin_at_birth();
        self.place = Some(place);
        self.learn_attr(&Attr { version: 0, ..attr }, true, chunk_size);
        self.begin_change();
        if let Some(directory) = self.directory_mut() {
            directory.set_empty();
        }
    }

    /// The server has just made this node for this session. Only an exclusive lease from birth on covers all that may have
    /// happened to it.
    pub(crate) fn note_created(&mut self) {
        self.lease.note_birth();
        if self.lease.is_since_birth()
            && let Some(directory) = self.directory_mut()
        {
            directory.set_empty();
        }
    }

    /// Takes over attributes from an answer. `granted`: the answer came with a lease on this node that stands.
    pub(crate) fn learn_attr(&mut self, attr: &Attr, granted: bool, chunk_size: u32) {
        let learnt = self.attributes.learn(attr, granted);
        if learnt == Learnt::Later {
            return;
        }
        if matches!(self.content, Content::None) {
            self.content = match attr.kind {
                FileKind::Regular => Content::File(Box::new(FileState::new(chunk_size))),
                FileKind::Directory => Content::Directory(Box::default()),
                _ => Content::None,
            };
        }
        if learnt == Learnt::Taken
            && attr.allocated == 0
            && let Some(file) = self.file_mut()
            && !file.is_flushing()
        {
            file.extents_mut().set_empty();
        }
    }

    /// Where the node was last seen.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    pub(crate) fn set_place(&mut self, parent: Ino, name: Name) {
        self.place = Some(Place { parent, name });
    }

    /// As [`NodeState::set_place`], if nothing is known.
    pub(crate) fn set_first_place(&mut self, parent: Ino, name: &Name) {
        if self.place.is_none() {
            self.set_place(parent, name.clone());
        }
    }

    /// Access time that the server has not been told yet.
    pub(crate) fn access_time(&self) -> Option<Timestamp> {
        self.access_time
    }

    /// A program has read the node.
    pub(crate) fn set_access_time(&mut self, time: Timestamp) {
        self.access_time = Some(time);
    }

    /// The server need not be told of the access time: it knows, or it was set otherwise.
    pub(crate) fn clear_access_time(&mut self) {
        self.access_time = None;
    }
}

/// Its end.
impl NodeState {
    pub(crate) fn life(&self) -> Life {
        self.life
    }

    /// The last name is gone by a change of this session; `keep`: the server keeps the content for it.
    pub(crate) fn lose_last_name(&mut self, keep: bool) {
        self.life.lose_last_name(keep);
        if let Some(directory) = self.directory_mut() {
            directory.clear();
        }
    }

    /// A link was made to it, or what took its last name did not happen.
    pub(crate) fn regain_name(&mut self) {
        self.life.regain_name();
    }

    /// Nobody here can reach it any more. Whether the server is to be told that the content may go.
    pub(crate) fn let_go(&mut self) -> bool {
        self.remember_attr();
        self.access_time = None;
        self.life.let_go()
    }

    /// The server has let the node go, and this is what a program is told that still refers to it: it has a directory
    /// open or as its working directory, or a special file or an `O_PATH` descriptor, none of which the server knows of.
    pub(crate) fn gone(&self) -> Option<Attr> {
        if self.life == Life::Gone { self.without_name() } else { None }
    }

    /// The attributes that were known last, as those of a node that has no name any more.
    pub(crate) fn without_name(&self) -> Option<Attr> {
        self.last_attr.as_deref().map(|attr| Attr { nlink: 0, ..*attr })
    }

    /// Keeps the attributes for what is told of the node once the server no longer has it.
    fn remember_attr(&mut self) {
        if let Some(attr) = self.view() {
            self.set_last_attr(attr);
        }
    }

    /// `attr` is what is told of the node once the server no longer has it.
    pub(crate) fn set_last_attr(&mut self, attr: Attr) {
        self.last_attr = Some(Box::new(attr));
    }

    /// A change that was made here ahead of the server did not happen there. `made`: it was to make this node, which is
    /// lost; what else it concerned may still be held, and is asked anew.
    pub(crate) fn undo_change(&mut self, made: bool) {
        if made {
            self.lose_lease();
            self.errors.note(Errno::EIO);
            self.life.lose_last_name(false);
        } else {
            self.lease.doubt();
            self.drop_covered();
            self.life.regain_name();
        }
    }
}

/// What the kernel and programs have of it.
impl NodeState {
    /// The kernel is told of the node by name: it refers to it from now on, and may be about to open it.
    pub(crate) fn add_reference(&mut self) {
        self.uses.references += 1;
    }

    pub(crate) fn drop_references(&mut self, count: u64) {
        self.uses.references = self.uses.references.saturating_sub(count);
        if self.uses.references == 0 {
            self.last_attr = None;
        }
    }

    pub(crate) fn is_referred_to(&self) -> bool {
        self.uses.references > 0
    }

    /// The kernel may be about to open it.
    pub(crate) fn expect_open(&mut self) {
        self.uses.named_at = Some(Instant::now());
    }

    pub(crate) fn is_open(&self) -> bool {
        self.uses.opens > 0
    }

    /// Whether a program can still come to this file without a name: it has it open, or is on the way from a name to an
    /// open file, for which the kernel may have no need to look the name up again.
    pub(crate) fn is_reachable(&self) -> bool {
        self.is_open() || self.is_referred_to()
    }

    /// The server keeps it for this session alone to no use: nobody can come to it any more.
    pub(crate) fn is_kept_for_nobody(&self) -> bool {
        self.life == Life::Orphaned && !self.is_reachable()
    }

    /// A program opens it. Whether the kernel may keep the pages that it has.
    pub(crate) fn open(&mut self, read_write: bool) -> bool {
        self.uses.opens += 1;
        self.uses.mappable += u32::from(read_write);
        std::mem::replace(&mut self.uses.pages, true)
    }

    /// A program has closed it. Whether it was the last.
    pub(crate) fn close(&mut self, read_write: bool) -> bool {
        self.uses.opens = self.uses.opens.saturating_sub(1);
        self.uses.mappable = self.uses.mappable.saturating_sub(u32::from(read_write));
        let last = self.uses.opens == 0;
        // Another mount may have removed the last name: then it goes with the last handle, too.
        if last && self.attr().is_some_and(|attr| attr.nlink == 0) {
            self.life.note_nameless();
        }
        last
    }

    /// Whether a program has this file open, or is between looking it (or a symbolic link) up and opening it: then its
    /// content must outlive its last name.
    pub(crate) fn is_wanted(&self) -> bool {
        let expected = || self.uses.named_at.is_some_and(|named| named.elapsed() < OPENING_TIME);
        self.directory().is_none() && (self.is_open() || expected())
    }

    /// The server is being told that this file is open here.
    pub(crate) fn declare_open(&mut self) {
        self.uses.declared_open = true;
    }

    pub(crate) fn is_declared_open(&self) -> bool {
        self.uses.declared_open
    }

    /// It is not open (any more). Whether the server is to be told.
    pub(crate) fn take_declared_open(&mut self) -> bool {
        std::mem::take(&mut self.uses.declared_open)
    }

    /// The kernel may hold pages of this file.
    pub(crate) fn has_pages(&self) -> bool {
        self.uses.pages
    }

    pub(super) fn note_pages(&mut self) {
        self.uses.pages = true;
    }

    /// A program may have mapped it to change it. The kernel keeps a handle open for as long as a mapping lasts.
    pub(crate) fn may_be_mapped(&self) -> bool {
        self.uses.mappable > 0
    }

    /// The kernel's pages are gone, and none comes until the transfers that are held are let go.
    pub(crate) fn note_emptied(&mut self) {
        self.uses.pages = false;
        self.transfers.note_emptied();
    }

    /// The kernel's pages are gone, and nothing is answered from here any more; if the recall is not void by now.
    pub(crate) fn seal_emptied(&mut self) {
        if self.lease.seal() {
            self.note_emptied();
        }
    }

    /// Reads and writes that the kernel waits for.
    pub(crate) fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    pub(crate) fn transfers_mut(&mut self) -> &mut Transfers {
        &mut self.transfers
    }

    /// Notes that buffered writes were lost.
    pub(crate) fn fail_writes(&mut self, errno: Errno) {
        self.errors.note(errno);
    }

    pub(crate) fn write_errors(&self) -> WriteErrors {
        self.errors
    }

    /// The error of lost writes that `fsync` has not told of.
    pub(crate) fn take_error_for_fsync(&mut self) -> Option<Errno> {
        self.errors.take_for_fsync()
    }
}

/// Its content.
impl NodeState {
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.content, Content::File(_))
    }

    pub(crate) fn file(&self) -> Option<&FileState> {
        match &self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }

    pub(crate) fn file_mut(&mut self) -> Option<&mut FileState> {
        match &mut self.content {
            Content::File(file) => Some(file),
            _ => None,
        }
    }

    pub(crate) fn directory(&self) -> Option<&DirectoryCache> {
        match &self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn directory_mut(&mut self) -> Option<&mut DirectoryCache> {
        match &mut self.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// It is a directory: one of which only names were asked has no attributes here.
    pub(crate) fn note_directory(&mut self) {
        if matches!(self.content, Content::None) {
            self.content = Content::Directory(Box::default());
        }
    }

    /// Takes over extents that came along with attributes.
    pub(crate) fn learn_small_content(&mut self, attr: &Attr, content: ExtentList) {
        let current = !self.is_ahead()
            && self.lease.mode() > LeaseMode::None
            && self.attr().is_some_and(|known| known.version == attr.version);
        if let Some(file) = self.file_mut().filter(|file| current && !file.is_flushing()) {
            file.extents_mut().fill_whole(content);
        }
    }

    /// The server has made `extents` of the flushed `chunks`, and said `attr` of the file after each of its changes.
    /// Bytes that were buffered of the file before and after; `None` if this is no file.
    pub(crate) fn content_applied<'attr>(
        &mut self,
        said: impl IntoIterator<Item = &'attr Attr>,
        extents: &[WrittenExtent],
        chunks: impl IntoIterator<Item = u32>,
        chunk_size: u32,
    ) -> Option<(u64, u64)> {
        for attr in said {
            if self.is_ahead() {
                // Size and space are the server's to say although changes of other attributes are still on their way.
                self.attributes.alter(|known| {
                    known.size = attr.size;
                    known.allocated = attr.allocated;
                });
            }
            self.learn_attr(attr, false, chunk_size);
        }
        let Content::File(file) = &mut self.content else { return None };
        for written in extents {
            file.extents_mut().write(written.chunk, written.extent);
        }
        let before = file.overlay().bytes();
        file.release(chunks, self.attributes.ahead_mut());
        Some((before, file.overlay().bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{attr, grant};
    use super::*;

    fn place() -> Place {
        Place { parent: Ino::ROOT, name: Name::new(b"a").expect("valid") }
    }

    #[test]
    fn attributes_without_a_lease_are_not_kept_and_older_ones_do_not_win() {
        let mut state = NodeState::new(0);
        state.learn_attr(&attr(1, 10), false, 64);
        assert_eq!(state.attr(), None);
        assert!(state.grant(grant(3)));
        state.learn_attr(&attr(2, 20), true, 64);
        state.learn_attr(&attr(1, 10), true, 64);
        assert_eq!(state.view().map(|attr| attr.size), Some(20));
        state.lose_lease();
        state.learn_attr(&attr(3, 30), false, 64);
        assert_eq!(state.view(), None);
    }

    #[test]
    fn buffered_writes_show_in_the_attributes() {
        let mut state = NodeState::new(0);
        state.grant(grant(3));
        state.learn_attr(&attr(2, 20), true, 64);
        let file = state.file_mut().expect("a file");
        file.overlay_mut().write(1, 6, &[1; 10], 10);
        file.note_written(Timestamp { secs: 9, nanos: 0 });
        let view = state.view().expect("attributes");
        assert_eq!((view.size, view.allocated, view.mtime.secs), (80, 30, 9));
    }

    #[test]
    fn what_was_made_here_is_held_from_birth_and_the_server_has_the_first_word() {
        let mut state = NodeState::new(0);
        state.create_local(attr(7, 0), place(), 64);
        assert!(state.lease().is_since_birth() && state.holds(LeaseMode::Exclusive) && !state.is_sent());
        state.learn_attr(&attr(1, 5), false, 64);
        assert_eq!(state.attr().map(|attr| attr.size), Some(0), "not while the change is on its way");
        state.end_change(64);
        assert_eq!(state.attr().map(|attr| attr.size), Some(5));
        state.begin_recall(LeaseMode::Shared, 4);
        state.downgrade(LeaseMode::Shared);
        assert!(!state.lease().is_since_birth());
    }

    #[test]
    fn a_removed_node_that_the_kernel_refers_to_is_told_of_as_it_was() {
        let mut state = NodeState::new(0);
        state.grant(grant(3));
        state.learn_attr(&attr(2, 20), true, 64);
        state.add_reference();
        state.lose_last_name(true);
        assert_eq!(state.gone(), None, "the server still has it");
        assert!(state.let_go());
        state.lose_lease();
        assert_eq!(state.gone().map(|attr| (attr.nlink, attr.size)), Some((0, 20)));
        assert!(!state.is_idle());
        state.drop_references(1);
        assert!(state.gone().is_none() && state.is_idle());
    }

    #[test]
    fn a_refused_change_leaves_nothing_of_what_it_made_and_asks_anew_for_the_rest() {
        let mut made = NodeState::new(0);
        made.create_local(attr(7, 0), place(), 64);
        made.undo_change(true);
        assert_eq!((made.life(), made.lease().mode(), made.attr()), (Life::Gone, LeaseMode::None, None));
        assert_eq!(made.take_error_for_fsync(), Some(Errno::EIO));
        let mut changed = NodeState::new(0);
        changed.create_local(attr(7, 0), place(), 64);
        changed.lose_last_name(true);
        let epoch = changed.lease().epoch();
        changed.undo_change(false);
        assert_eq!((changed.life(), changed.lease().mode()), (Life::Named, LeaseMode::Exclusive));
        assert!(!changed.lease().is_since_birth() && changed.attr().is_none() && changed.lease().epoch() > epoch);
    }
}
