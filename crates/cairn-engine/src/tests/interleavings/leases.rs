//! Sessions that ask for leases, are asked to give them back, and change nodes: no two ever believe in leases that exclude
//! each other, a change finds nobody else believing in anything, and whoever waits is woken.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use cairn_locks::Mutex;
use cairn_locks::schedules::{block_on, mpsc, thread, try_many};
use cairn_types::{Ino, LeaseMode, SessionId};
use cairn_wire::message::LeaseReturn;

use crate::leases::{RecallOrder, Table, Ticket, Verdict, Want};
use crate::recall::{Blocked, Leases};

cairn_locks::ranks! { Band::Program;
    /// Held for a round of changes, as by the committer: there is one writer.
    Writer,
    /// What a session knows.
    Known,
    /// What all of them believe in.
    Beliefs,
}

/// What a session knows of a node.
#[derive(Default)]
struct Knowledge {
    /// Stamp of the last recall: grants up to it are void.
    recalled: u64,
    granted: u64,
}

struct World {
    leases: Leases,
    writer: Mutex<(), Writer>,
    known: Vec<Mutex<HashMap<Ino, Knowledge>, Known>>,
    believed: Mutex<HashMap<(usize, Ino), LeaseMode>, Beliefs>,
    inboxes: Vec<mpsc::Sender<Option<RecallOrder>>>,
}

fn id(session: usize) -> SessionId {
    SessionId(session as u64)
}

impl World {
    /// Takes over a grant that may have been overtaken. Whether it stands.
    fn believe(&self, session: usize, ino: Ino, mode: LeaseMode, stamp: u64) -> bool {
        let mut known = self.known[session].lock();
        let known = known.entry(ino).or_default();
        if stamp <= known.recalled {
            return false;
        }
        known.granted = known.granted.max(stamp);
        let mut believed = self.believed.lock();
        for (&(other, _), held) in believed.iter().filter(|((other, node), _)| *other != session && *node == ino) {
            assert!(held.compatible(mode), "{session} was given {mode:?} of {ino} while {other} had {held:?}");
        }
        believed.insert((session, ino), mode);
        true
    }

    fn wait(&self, Blocked { recalls, changed, .. }: Blocked) {
        for recall in recalls {
            self.inboxes[recall.session.0 as usize].send(Some(recall)).expect("answered to the end");
        }
        // Whoever waits looks again in any case.
        let _ = block_on(changed);
    }

    /// A query.
    fn acquire(&self, session: usize, ino: Ino, want: Want) {
        let mut ticket = self.leases.ticket();
        loop {
            let now = Instant::now();
            let verdict =
                self.leases.try_with(|table| match table.acquire(id(session), ino, want, ticket.ticket, now) {
                    Verdict::Granted { grant, .. } => Ok(Some(grant)),
                    Verdict::Momentary => Ok(None),
                    Verdict::Blocked(block) => Err(block),
                });
            match verdict {
                Ok(Some(grant)) if !self.believe(session, ino, grant.mode, grant.stamp) => thread::yield_now(),
                Ok(_) => return,
                Err(blocked) => {
                    ticket.mark_used();
                    self.wait(blocked);
                }
            }
        }
    }

    /// A change that is sent to the server, and its round. Rounds follow one another; what a change waits for, it waits for
    /// between two of them.
    fn change(&self, session: usize, inos: &[Ino]) {
        let mut ticket = self.leases.ticket();
        while let Err(blocked) = self.round(session, inos, ticket.ticket) {
            ticket.mark_used();
            self.wait(blocked);
        }
    }

    fn round(&self, session: usize, inos: &[Ino], ticket: Ticket) -> Result<(), Blocked> {
        let _writer = self.writer.lock();
        let begun = self.leases.try_with(|table| table.begin_change(id(session), inos, ticket, Instant::now()));
        for _ in 0..if begun.is_ok() { 2 } else { 0 } {
            let believed = self.believed.lock();
            let other = believed.keys().find(|(other, ino)| *other != session && inos.contains(ino));
            assert_eq!(other, None, "believed in while {session} changes {inos:?}");
            drop(believed);
            thread::yield_now();
        }
        self.leases.with(Table::unpin_all);
        begun
    }

    /// Answers what the session is asked for.
    fn answer(&self, session: usize, inbox: &mpsc::Receiver<Option<RecallOrder>>) {
        while let Ok(Some(RecallOrder { ino, stamp, .. })) = inbox.recv() {
            let mut known = self.known[session].lock();
            let known_of = known.entry(ino).or_default();
            known_of.recalled = known_of.recalled.max(stamp).max(known_of.granted);
            let returned = LeaseReturn { ino, stamp: known_of.recalled, keep: LeaseMode::None, open: false };
            self.believed.lock().remove(&(session, ino));
            drop(known);
            self.leases.with(|table| table.give_back(id(session), &returned));
        }
    }
}

/// Runs one thread for each session's requests, and one for its recalls.
fn play(sessions: &[fn(&World, usize)]) {
    let (inboxes, receivers): (Vec<_>, Vec<_>) = sessions.iter().map(|_| mpsc::channel()).unzip();
    let world = Arc::new(World {
        leases: Leases::new(0),
        writer: Mutex::default(),
        known: sessions.iter().map(|_| Mutex::default()).collect(),
        believed: Mutex::default(),
        inboxes,
    });
    world.leases.with(|table| (0..sessions.len()).for_each(|session| table.add_session(id(session))));
    let answers = receivers.into_iter().enumerate().map(|(session, inbox)| {
        let world = Arc::clone(&world);
        thread::spawn(move || world.answer(session, &inbox))
    });
    let answers: Vec<_> = answers.collect();
    let requests = sessions.iter().enumerate().map(|(session, &requests)| {
        let world = Arc::clone(&world);
        thread::spawn(move || requests(&world, session))
    });
    for thread in requests.collect::<Vec<_>>() {
        thread.join().expect("done");
    }
    for inbox in &world.inboxes {
        inbox.send(None).expect("answered to the end");
    }
    for thread in answers {
        thread.join().expect("answered");
    }
}

const FIRST: Ino = Ino(11);
const SECOND: Ino = Ino(12);
const EXCLUSIVE: Want = Want::AtLeast(LeaseMode::Exclusive);

#[test]
fn leases_that_exclude_each_other_are_never_believed_in_at_once() {
    try_many(|| {
        play(&[
            |world, session| {
                world.acquire(session, FIRST, EXCLUSIVE);
                world.acquire(session, SECOND, Want::Read);
            },
            |world, session| {
                world.acquire(session, SECOND, EXCLUSIVE);
                world.acquire(session, FIRST, EXCLUSIVE);
            },
            |world, session| {
                world.acquire(session, FIRST, Want::Read);
                world.acquire(session, FIRST, EXCLUSIVE);
            },
        ]);
    });
}

#[test]
fn nobody_believes_in_what_is_being_changed() {
    try_many(|| {
        play(&[
            |world, session| {
                world.acquire(session, FIRST, Want::Read);
                world.change(session, &[FIRST, SECOND]);
            },
            |world, session| {
                world.acquire(session, SECOND, EXCLUSIVE);
                world.acquire(session, FIRST, Want::Read);
            },
            |world, session| world.change(session, &[SECOND, FIRST]),
        ]);
    });
}
