use proptest::prelude::*;

use super::*;

const FILE: Ino = Ino(10);

fn table(sessions: u64) -> Table {
    let mut table = Table::new(0);
    (1..=sessions).for_each(|session| table.add_session(SessionId(session)));
    table
}

fn granted(verdict: Verdict) -> Grant {
    match verdict {
        Verdict::Granted { grant, .. } => grant,
        other => panic!("not granted: {other:?}"),
    }
}

fn blocked(verdict: Verdict) -> Block {
    match verdict {
        Verdict::Blocked(block) => block,
        other => panic!("not blocked: {other:?}"),
    }
}

fn read(table: &mut Table, session: u64, ticket: u64) -> Verdict {
    table.acquire(SessionId(session), FILE, Want::Read, Ticket(ticket), Instant::now())
}

fn give_back(table: &mut Table, session: u64, stamp: u64, keep: LeaseMode) -> bool {
    table.give_back(SessionId(session), &LeaseReturn { ino: FILE, stamp, keep, open: false })
}

#[test]
fn a_lone_session_reads_exclusively_and_two_share() {
    let mut table = table(1);
    assert_eq!(granted(read(&mut table, 1, 1)).mode, LeaseMode::Exclusive);
    table.add_session(SessionId(2));
    let block = blocked(read(&mut table, 2, 2));
    assert_eq!(block.recalls.len(), 1);
    let recall = block.recalls[0];
    assert_eq!((recall.session, recall.leave), (SessionId(1), LeaseMode::Shared));
    assert!(give_back(&mut table, 1, recall.stamp, LeaseMode::Shared));
    assert_eq!(table.take_changed(), [FILE]);
    assert_eq!(granted(read(&mut table, 2, 2)).mode, LeaseMode::Shared);
    assert_eq!(granted(read(&mut table, 1, 3)).mode, LeaseMode::Shared);
}

#[test]
fn a_recalled_holder_reads_on_but_is_granted_nothing() {
    let mut table = table(2);
    granted(read(&mut table, 1, 1));
    let block = table.begin_change(SessionId(2), &[FILE], Ticket(2), Instant::now()).expect_err("held");
    assert_eq!(block.holders.len(), 1);
    assert_eq!(read(&mut table, 1, 3), Verdict::Momentary);
    assert_eq!(table.acquire_now(SessionId(1), FILE), None);
    assert_eq!(table.outstanding(SessionId(1)), block.recalls);
    assert!(give_back(&mut table, 1, block.recalls[0].stamp, LeaseMode::None));
    // The change came first, so the reader waits for it.
    assert!(matches!(read(&mut table, 1, 3), Verdict::Blocked(_)));
    assert!(table.begin_change(SessionId(2), &[FILE], Ticket(2), Instant::now()).is_ok());
    assert_eq!(table.grant_to_maker(SessionId(2), FILE).map(|grant| grant.mode), Some(LeaseMode::Exclusive));
}

#[test]
fn an_exclusive_holder_changes_on_while_it_is_recalled() {
    let mut table = table(2);
    granted(table.acquire(SessionId(1), FILE, Want::AtLeast(LeaseMode::Exclusive), Ticket(1), Instant::now()));
    table.begin_change(SessionId(2), &[FILE], Ticket(2), Instant::now()).expect_err("held");
    assert!(table.begin_change(SessionId(1), &[FILE], Ticket(3), Instant::now()).is_ok());
    assert_eq!(table.grant_to_maker(SessionId(1), FILE), None, "withheld");
    assert!(table.holds_exclusive(SessionId(1), FILE));
}

#[test]
fn a_recalled_reader_writes_what_it_has_ahead_of_who_waits_for_it() {
    let mut table = table(2);
    granted(read(&mut table, 1, 1));
    granted(read(&mut table, 2, 2));
    let want = Want::AtLeast(LeaseMode::Exclusive);
    let block = blocked(table.acquire(SessionId(2), FILE, want, Ticket(3), Instant::now()));
    assert_eq!(block.recalls.len(), 1, "the other reader's");
    // The one that waits reads the file itself: it must lose what it knows before that changes.
    let change = |table: &mut Table| table.begin_write(SessionId(1), FILE, Ticket(4), Instant::now());
    let back = change(&mut table).expect_err("held").recalls;
    assert_eq!(back.iter().map(|recall| recall.session).collect::<Vec<_>>(), [SessionId(2)]);
    assert!(give_back(&mut table, 2, back[0].stamp, LeaseMode::None));
    assert!(change(&mut table).is_ok(), "before the older request, which waits for this holder");
}

#[test]
fn two_recalled_readers_with_something_to_write_do_not_wait_for_each_other() {
    let mut table = table(3);
    granted(read(&mut table, 1, 1));
    granted(read(&mut table, 2, 2));
    blocked(table.acquire(SessionId(3), FILE, Want::AtLeast(LeaseMode::Exclusive), Ticket(3), Instant::now()));
    let change = |table: &mut Table, session, ticket| {
        table.begin_write(SessionId(session), FILE, Ticket(ticket), Instant::now())
    };
    assert!(change(&mut table, 1, 4).is_err(), "the other may still be reading");
    assert!(change(&mut table, 2, 5).is_err(), "the other came first");
    assert!(change(&mut table, 1, 4).is_ok());
}

#[test]
fn a_pinned_node_is_granted_to_nobody_until_the_commit() {
    let mut table = table(2);
    table.begin_change(SessionId(1), &[FILE], Ticket(1), Instant::now()).expect("free");
    let block = blocked(read(&mut table, 2, 2));
    assert!(block.recalls.is_empty());
    assert_eq!(table.acquire_now(SessionId(2), FILE), None);
    table.take_changed();
    table.unpin_all();
    assert_eq!(table.take_changed(), [FILE]);
    assert_eq!(granted(read(&mut table, 2, 2)).mode, LeaseMode::Shared);
}

#[test]
fn a_return_that_a_newer_grant_has_overtaken_changes_nothing() {
    let mut table = table(2);
    let old = granted(read(&mut table, 1, 1));
    let new =
        granted(table.acquire(SessionId(1), FILE, Want::AtLeast(LeaseMode::Exclusive), Ticket(2), Instant::now()));
    assert!(new.stamp > old.stamp);
    assert!(!give_back(&mut table, 1, old.stamp, LeaseMode::None));
    assert!(table.holds_exclusive(SessionId(1), FILE));
    give_back(&mut table, 1, new.stamp, LeaseMode::None);
    assert_eq!(table.mode_of(SessionId(1), FILE), LeaseMode::None);
    assert_eq!(table.count(SessionId(1)), 0);
}

#[test]
fn keeping_more_than_allowed_is_no_answer() {
    let mut table = table(2);
    granted(read(&mut table, 1, 1));
    let block = table.begin_change(SessionId(2), &[FILE], Ticket(2), Instant::now()).expect_err("held");
    assert!(!give_back(&mut table, 1, block.recalls[0].stamp, LeaseMode::Shared));
    assert_eq!(table.outstanding(SessionId(1)).len(), 1);
}

#[test]
fn a_stronger_recall_follows_a_weaker_one() {
    let mut table = table(3);
    granted(table.acquire(SessionId(1), FILE, Want::AtLeast(LeaseMode::Exclusive), Ticket(1), Instant::now()));
    let weak = blocked(read(&mut table, 2, 2)).recalls;
    let strong = table.begin_change(SessionId(3), &[FILE], Ticket(3), Instant::now()).expect_err("held").recalls;
    assert_eq!((weak[0].leave, strong[0].leave), (LeaseMode::Shared, LeaseMode::None));
    assert!(!give_back(&mut table, 1, weak[0].stamp, LeaseMode::Shared), "the stronger one is still to be answered");
    assert_eq!(granted(read(&mut table, 2, 2)).mode, LeaseMode::Shared, "the reader came first");
    assert!(give_back(&mut table, 1, strong[0].stamp, LeaseMode::None));
    let again = table.begin_change(SessionId(3), &[FILE], Ticket(3), Instant::now()).expect_err("the reader has it");
    assert_eq!(again.recalls.len(), 1);
}

#[test]
fn who_looks_again_and_waits_on_wakes_nobody() {
    const OTHER: Ino = Ino(11);
    let mut table = table(3);
    granted(read(&mut table, 1, 1));
    let mut change = |session: u64, inos: &[Ino]| {
        table.begin_change(SessionId(session), inos, Ticket(session), Instant::now()).expect_err("held");
        table.take_changed()
    };
    assert!(change(2, &[FILE, OTHER]).is_empty());
    assert!(change(3, &[OTHER, FILE]).is_empty());
    assert!(change(2, &[FILE, OTHER]).is_empty());
    assert!(change(3, &[OTHER, FILE]).is_empty());
    assert_eq!(change(2, &[FILE]), [OTHER], "no longer waited for");
    assert!(change(2, &[FILE, OTHER]).is_empty());
}

#[test]
fn trimming_recalls_the_oldest() {
    let mut table = table(1);
    for number in 0..300 {
        granted(table.acquire(SessionId(1), Ino(number + 1), Want::Read, Ticket(number), Instant::now()));
    }
    assert!(table.trim(SessionId(1), 300, Instant::now()).is_empty());
    let recalls = table.trim(SessionId(1), 256, Instant::now());
    assert_eq!(recalls.len(), 300 - 256 + 256 / 64);
    assert_eq!(recalls[0].ino, Ino(1));
    assert!(table.trim(SessionId(1), 256, Instant::now()).is_empty(), "asked already");
}

#[test]
fn nothing_is_left_of_what_is_over() {
    let mut table = table(2);
    granted(read(&mut table, 1, 1));
    table.begin_change(SessionId(2), &[FILE, Ino(11)], Ticket(2), Instant::now()).expect_err("held");
    table.release_ticket(Ticket(2));
    table.remove_session(SessionId(1));
    table.remove_session(SessionId(2));
    assert!(table.nodes.is_empty() && table.sessions.is_empty() && table.tickets.is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Read {
        session: u64,
        ino: u64,
    },
    Acquire {
        session: u64,
        ino: u64,
    },
    Change {
        session: u64,
        inos: Vec<u64>,
    },
    Commit,
    /// The n-th recall that is not answered is.
    Answer(prop::sample::Index),
    Return {
        session: u64,
        ino: u64,
    },
    List {
        session: u64,
        ino: u64,
    },
    End {
        session: u64,
    },
    /// The n-th request that waits looks again, or gives up.
    Retry(prop::sample::Index),
    GiveUp(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    let session = 1..4u64;
    let ino = 1..4u64;
    prop_oneof![
        3 => (session.clone(), ino.clone()).prop_map(|(session, ino)| Step::Read { session, ino }),
        2 => (session.clone(), ino.clone()).prop_map(|(session, ino)| Step::Acquire { session, ino }),
        4 => (session.clone(), prop::collection::vec(ino.clone(), 1..3))
            .prop_map(|(session, inos)| Step::Change { session, inos }),
        4 => Just(Step::Commit),
        6 => any::<prop::sample::Index>().prop_map(Step::Answer),
        1 => (session.clone(), ino.clone()).prop_map(|(session, ino)| Step::Return { session, ino }),
        1 => (session.clone(), ino).prop_map(|(session, ino)| Step::List { session, ino }),
        1 => session.prop_map(|session| Step::End { session }),
        6 => any::<prop::sample::Index>().prop_map(Step::Retry),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
    ]
}

#[derive(Clone, Debug)]
enum Request {
    Acquire(Ino, Want),
    Change(Vec<Ino>),
}

/// The table with the requests that wait for it.
struct World {
    table: Table,
    waiting: Vec<(Ticket, SessionId, Request)>,
    next_ticket: u64,
}

impl World {
    fn attempt(&mut self, ticket: Ticket, session: SessionId, request: Request) {
        let now = Instant::now();
        let waits = match &request {
            Request::Acquire(ino, want) => {
                matches!(self.table.acquire(session, *ino, *want, ticket, now), Verdict::Blocked(_))
            }
            Request::Change(inos) => match self.table.begin_change(session, inos, ticket, now) {
                Ok(()) => {
                    for ino in inos {
                        let others =
                            self.table.nodes.get(ino).is_some_and(|node| node.others_than(session).next().is_some());
                        assert!(!others, "a change while others hold the node");
                        self.table.grant_to_maker(session, *ino);
                    }
                    false
                }
                Err(_) => true,
            },
        };
        if waits {
            self.waiting.push((ticket, session, request));
        } else {
            // As the guard of a ticket does.
            self.table.release_ticket(ticket);
        }
    }

    fn begin(&mut self, session: u64, request: Request) {
        self.next_ticket += 1;
        self.table.add_session(SessionId(session));
        self.attempt(Ticket(self.next_ticket), SessionId(session), request);
    }

    fn all_outstanding(&self) -> Vec<RecallOrder> {
        self.table.sessions.keys().flat_map(|session| self.table.outstanding(*session)).collect()
    }

    fn answer(&mut self, recall: RecallOrder) {
        let returned = LeaseReturn { ino: recall.ino, stamp: recall.stamp, keep: recall.leave, open: false };
        assert!(self.table.give_back(recall.session, &returned));
    }

    fn check(&self) {
        for node in self.table.nodes.values() {
            let exclusive = node.holders.iter().filter(|holder| holder.mode == LeaseMode::Exclusive).count();
            assert!(exclusive == 0 || node.holders.len() == 1, "exclusive beside another: {node:?}");
            for holder in &node.holders {
                assert_ne!(holder.mode, LeaseMode::None);
                if let Some(recall) = holder.recall {
                    assert!(holder.stamp < recall.stamp, "granted while it was recalled: {holder:?}");
                    assert!(holder.mode > recall.leave);
                }
            }
        }
        for (session, held) in &self.table.sessions {
            for (stamp, ino) in held {
                let own = self.table.nodes[ino].holders.iter().find(|holder| holder.session == *session);
                assert_eq!(own.map(|own| own.stamp), Some(*stamp));
            }
        }
        let holders: usize = self.table.nodes.values().map(|node| node.holders.len()).sum();
        assert_eq!(holders, self.table.sessions.values().map(BTreeMap::len).sum::<usize>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens, the invariants hold; and once holders answer, everybody who waits is served.
    #[test]
    fn invariants_hold_and_nobody_waits_for_ever(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World { table: table(3), waiting: Vec::new(), next_ticket: 0 };
        for step in steps {
            match step {
                Step::Read { session, ino } => world.begin(session, Request::Acquire(Ino(ino), Want::Read)),
                Step::Acquire { session, ino } => {
                    world.begin(session, Request::Acquire(Ino(ino), Want::AtLeast(LeaseMode::Exclusive)));
                }
                Step::Change { session, inos } => {
                    let mut inos: Vec<Ino> = inos.into_iter().map(Ino).collect();
                    inos.sort_unstable();
                    inos.dedup();
                    world.begin(session, Request::Change(inos));
                }
                Step::Commit => world.table.unpin_all(),
                Step::Answer(index) => {
                    let outstanding = world.all_outstanding();
                    if !outstanding.is_empty() {
                        world.answer(*index.get(&outstanding));
                    }
                }
                Step::Return { session, ino } => {
                    let returned = LeaseReturn { ino: Ino(ino), stamp: u64::MAX, keep: LeaseMode::None, open: false };
                    world.table.give_back(SessionId(session), &returned);
                }
                Step::List { session, ino } => {
                    world.table.add_session(SessionId(session));
                    world.table.acquire_now(SessionId(session), Ino(ino));
                }
                Step::End { session } => {
                    world.table.remove_session(SessionId(session));
                    let (gone, rest): (Vec<_>, Vec<_>) =
                        world.waiting.drain(..).partition(|(_, waiting, _)| *waiting == SessionId(session));
                    world.waiting = rest;
                    for (ticket, ..) in gone {
                        world.table.release_ticket(ticket);
                    }
                }
                Step::Retry(index) => {
                    if !world.waiting.is_empty() {
                        let (ticket, session, request) = world.waiting.remove(index.index(world.waiting.len()));
                        world.attempt(ticket, session, request);
                    }
                }
                Step::GiveUp(index) => {
                    if !world.waiting.is_empty() {
                        let (ticket, ..) = world.waiting.remove(index.index(world.waiting.len()));
                        world.table.release_ticket(ticket);
                    }
                }
            }
            world.check();
        }
        // Holders answer, commits happen: each turn serves at least the oldest request.
        let mut turns = world.waiting.len() * 3 + 3;
        while !world.waiting.is_empty() {
            prop_assert!(turns > 0, "still waiting: {:?}", world.waiting);
            turns -= 1;
            world.table.unpin_all();
            for recall in world.all_outstanding() {
                world.answer(recall);
            }
            for (ticket, session, request) in std::mem::take(&mut world.waiting) {
                world.attempt(ticket, session, request);
            }
            world.check();
        }
        for ticket in world.table.tickets.keys() {
            prop_assert!(false, "a reservation is left over: {ticket:?}");
        }
    }
}
