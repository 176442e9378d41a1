use proptest::prelude::*;

use super::*;

const FILE: Ino = Ino(4);

fn lock(family: LockFamily, kind: LockKind, owner: u64, start: u64, end: u64) -> FileLock {
    FileLock { ino: FILE, family, kind, range: ByteRange { start, end }, owner: LockOwner(owner), pid: owner as u32 }
}

fn posix(kind: LockKind, owner: u64, start: u64, end: u64) -> FileLock {
    lock(LockFamily::Posix, kind, owner, start, end)
}

fn flock(kind: LockKind, owner: u64) -> FileLock {
    lock(LockFamily::Flock, kind, owner, 0, u64::MAX)
}

fn id(session: u64, correlation: u64) -> WaitId {
    WaitId { session: SessionId(session), correlation }
}

fn set(table: &mut LockTable, session: u64, lock: FileLock) -> SetOutcome {
    table.set(SessionId(session), &lock, None)
}

fn conflict(session: u64) -> SetOutcome {
    SetOutcome::Conflict(SessionId(session))
}

#[test]
fn families_do_not_meet_and_sessions_are_told_apart() {
    let mut table = LockTable::default();
    assert_eq!(set(&mut table, 1, posix(LockKind::Exclusive, 7, 0, u64::MAX)), SetOutcome::Done);
    assert_eq!(set(&mut table, 2, flock(LockKind::Exclusive, 7)), SetOutcome::Done);
    assert_eq!(set(&mut table, 2, posix(LockKind::Shared, 7, 5, 5)), conflict(1));
    let found = table.test(SessionId(2), &posix(LockKind::Shared, 7, 5, 5)).expect("in the way");
    assert_eq!((found.range, found.pid), (ByteRange { start: 0, end: u64::MAX }, 0));
    assert_eq!(table.test(SessionId(1), &posix(LockKind::Shared, 8, 5, 5)).map(|found| found.pid), Some(7));
    table.remove_session(SessionId(1));
    assert_eq!(set(&mut table, 2, posix(LockKind::Shared, 7, 5, 5)), SetOutcome::Done);
    assert_eq!(table.count(SessionId(2)), 2);
    table.remove_session(SessionId(2));
    assert!(table.files.is_empty());
}

#[test]
fn who_came_first_is_served_first() {
    let mut table = LockTable::default();
    set(&mut table, 1, flock(LockKind::Shared, 1));
    assert_eq!(table.set(SessionId(2), &flock(LockKind::Exclusive, 1), Some(id(2, 1))), conflict(1));
    // A newcomer that could share with the holder does not pass the one that waits.
    assert_eq!(table.set(SessionId(3), &flock(LockKind::Shared, 1), Some(id(3, 1))), conflict(2));
    assert_eq!(table.blockers(id(2, 1)), [SessionId(1)]);
    set(&mut table, 1, flock(LockKind::Unlock, 1));
    assert_eq!(table.take_granted(), [id(2, 1)]);
    set(&mut table, 2, flock(LockKind::Unlock, 1));
    assert_eq!(table.take_granted(), [id(3, 1)]);
}

#[test]
fn a_cancelled_wait_lets_others_pass() {
    let mut table = LockTable::default();
    set(&mut table, 1, flock(LockKind::Shared, 1));
    table.set(SessionId(2), &flock(LockKind::Exclusive, 1), Some(id(2, 1)));
    table.set(SessionId(3), &flock(LockKind::Shared, 1), Some(id(3, 1)));
    assert!(table.cancel(id(2, 1)));
    assert!(!table.cancel(id(2, 1)));
    assert_eq!(table.take_granted(), [id(3, 1)]);
}

#[test]
fn a_request_sent_again_keeps_its_place() {
    let mut table = LockTable::default();
    set(&mut table, 1, flock(LockKind::Exclusive, 1));
    table.set(SessionId(2), &flock(LockKind::Exclusive, 1), Some(id(2, 1)));
    table.set(SessionId(3), &flock(LockKind::Exclusive, 1), Some(id(3, 1)));
    table.set(SessionId(2), &flock(LockKind::Exclusive, 1), Some(id(2, 1)));
    set(&mut table, 1, flock(LockKind::Unlock, 1));
    assert_eq!(table.take_granted(), [id(2, 1)]);
    // Its answer was lost: it asks for what it has.
    assert_eq!(table.set(SessionId(2), &flock(LockKind::Exclusive, 1), Some(id(2, 1))), SetOutcome::Done);
}

#[test]
fn a_ring_of_waits_is_refused() {
    let mut table = LockTable::default();
    set(&mut table, 1, posix(LockKind::Exclusive, 1, 0, 0));
    set(&mut table, 2, posix(LockKind::Exclusive, 1, 1, 1));
    set(&mut table, 3, posix(LockKind::Exclusive, 1, 2, 2));
    assert_eq!(table.set(SessionId(1), &posix(LockKind::Exclusive, 1, 1, 1), Some(id(1, 1))), conflict(2));
    assert_eq!(table.set(SessionId(2), &posix(LockKind::Shared, 1, 2, 2), Some(id(2, 1))), conflict(3));
    assert_eq!(table.set(SessionId(3), &posix(LockKind::Shared, 1, 0, 0), Some(id(3, 1))), SetOutcome::Deadlock);
    table.remove_session(SessionId(3));
    assert_eq!(table.take_granted(), [id(2, 1)]);
}

#[test]
fn giving_a_flock_back_gives_all_of_it_back_whatever_range_is_named() {
    let mut table = LockTable::default();
    // The kernel names the range that file offsets have.
    let named = |kind, owner| lock(LockFamily::Flock, kind, owner, 0, i64::MAX as u64);
    set(&mut table, 1, named(LockKind::Exclusive, 1));
    assert_eq!(table.set(SessionId(1), &named(LockKind::Shared, 2), Some(id(1, 1))), conflict(1));
    set(&mut table, 1, named(LockKind::Unlock, 1));
    assert_eq!(table.take_granted(), [id(1, 1)]);
    set(&mut table, 1, named(LockKind::Unlock, 2));
    assert!(table.files.is_empty());
}

#[test]
fn converting_a_flock_gives_up_the_old_one() {
    let mut table = LockTable::default();
    set(&mut table, 1, flock(LockKind::Shared, 1));
    set(&mut table, 2, flock(LockKind::Shared, 1));
    assert_eq!(table.set(SessionId(1), &flock(LockKind::Exclusive, 1), Some(id(1, 1))), conflict(2));
    // As the first gave its lock up, the second gets what it wants instead of a deadlock.
    assert_eq!(set(&mut table, 2, flock(LockKind::Shared, 1)), SetOutcome::Done);
    set(&mut table, 2, flock(LockKind::Unlock, 1));
    assert_eq!(table.take_granted(), [id(1, 1)]);
}

const BYTES: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    Set { owner: u64, exclusive: bool, start: u64, end: u64 },
    Unlock { owner: u64, start: u64, end: u64 },
    End { owner: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..BYTES, 0..BYTES).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        4 => (0..3u64, any::<bool>(), range.clone())
            .prop_map(|(owner, exclusive, (start, end))| Step::Set { owner, exclusive, start, end }),
        2 => (0..3u64, range).prop_map(|(owner, (start, end))| Step::Unlock { owner, start, end }),
        1 => (0..3u64).prop_map(|owner| Step::End { owner }),
    ]
}

proptest! {
    /// Byte-range locks behave as an array that says, for each byte and owner, how it is locked.
    #[test]
    fn agrees_with_an_array_of_bytes(steps in prop::collection::vec(step(), 0..60)) {
        let mut table = LockTable::default();
        let mut model: Vec<[Option<bool>; 3]> = vec![[None; 3]; BYTES as usize];
        for step in steps {
            match step {
                Step::Set { owner, exclusive, start, end } => {
                    let kind = if exclusive { LockKind::Exclusive } else { LockKind::Shared };
                    let in_the_way = (start..=end).any(|byte| {
                        (0..3).any(|other| {
                            other != owner && model[byte as usize][other as usize].is_some_and(|held| held || exclusive)
                        })
                    });
                    let wanted = posix(kind, owner, start, end);
                    prop_assert_eq!(table.test(SessionId(owner), &wanted).is_some(), in_the_way);
                    let outcome = set(&mut table, owner, wanted);
                    prop_assert_eq!(outcome == SetOutcome::Done, !in_the_way);
                    if !in_the_way {
                        (start..=end).for_each(|byte| model[byte as usize][owner as usize] = Some(exclusive));
                    }
                }
                Step::Unlock { owner, start, end } => {
                    set(&mut table, owner, posix(LockKind::Unlock, owner, start, end));
                    (start..=end).for_each(|byte| model[byte as usize][owner as usize] = None);
                }
                Step::End { owner } => {
                    table.remove_session(SessionId(owner));
                    for byte in &mut model {
                        byte[owner as usize] = None;
                    }
                }
            }
            let mut seen: Vec<[Option<bool>; 3]> = vec![[None; 3]; BYTES as usize];
            for held in table.files.values().flat_map(|file| &file.held) {
                for byte in held.range.start..=held.range.end {
                    let cell = &mut seen[byte as usize][held.owner.session.0 as usize];
                    prop_assert_eq!(cell.replace(held.exclusive), None, "ranges of one owner overlap");
                }
            }
            prop_assert_eq!(&seen, &model);
        }
    }
}
