//! A model of a server that applies changes in memory, makes a prefix of them durable now and then, and hangs up or
//! restarts (losing what was not durable) at random. Whatever it does, each change must happen once, and those of the
//! journal in order.

use std::collections::BTreeMap;

use cairn_types::{MetaOp, OpReply};
use cairn_wire::message::{Answer, Applied, OpNumber, Replay};
use cairn_wire::{Push, Request};

use super::fake::{FakeServer, Peer, Script, change, soon};

const CALLS: u64 = 60;
const BATCHES: u64 = 60;
/// Names of the journal's changes start here.
const JOURNAL: u64 = 1_000_000;

/// A small generator of pseudo-random numbers (xorshift), so that a failing seed can be repeated.
struct Chance(u64);

impl Chance {
    fn one_in(&mut self, count: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.is_multiple_of(count)
    }
}

#[derive(Clone)]
struct Happened {
    number: OpNumber,
    op: MetaOp,
}

#[derive(Default)]
struct Model {
    applied: BTreeMap<u64, Happened>,
    durable: u64,
    boot: u64,
    knows_session: bool,
}

impl Model {
    fn find(&self, number: OpNumber) -> Option<u64> {
        self.applied.iter().find(|(_, happened)| happened.number == number).map(|(order, _)| *order)
    }

    /// Applies a change unless it was already; its place.
    fn apply(&mut self, number: OpNumber, op: &MetaOp, order: Option<u64>) -> Applied {
        let order = self.find(number).unwrap_or_else(|| {
            let next = self.applied.last_key_value().map_or(0, |(last, _)| *last) + 1;
            let order = order.unwrap_or(next);
            assert!(self.applied.insert(order, Happened { number, op: op.clone() }).is_none(), "one place, one change");
            order
        });
        Applied { result: Ok(OpReply::default()), order }
    }

    fn journal_applied(&self) -> u64 {
        let numbers = self.applied.values().map(|happened| match happened.number {
            OpNumber::Journal(number) => number,
            OpNumber::Call(_) => 0,
        });
        numbers.max().unwrap_or(0)
    }

    fn restart(&mut self) {
        self.applied.retain(|order, _| *order <= self.durable);
        self.boot += 1;
        self.knows_session = false;
    }

    fn answer(&mut self, request: &Request) -> Answer {
        match request {
            Request::Reclaim { replay, complete, .. } => {
                let replayed = replay
                    .iter()
                    .map(|Replay { order, number, op }| {
                        assert!(*order > self.durable, "durable changes are not replayed");
                        self.apply(*number, op, Some(*order))
                    })
                    .collect();
                self.knows_session |= complete;
                if *complete { Answer::Reclaimed { replayed, grants: vec![] } } else { Answer::Done }
            }
            _ if !self.knows_session => panic!("{request:?} before the session was reclaimed"),
            Request::Call { token, op, .. } => {
                let applied = vec![self.apply(OpNumber::Call(*token), op, None)];
                Answer::Applied { applied, grants: vec![] }
            }
            Request::Journal { first, ops } => {
                assert!(*first <= self.journal_applied() + 1, "no gap in the journal");
                let number = |index: usize| OpNumber::Journal(first + index as u64);
                let applied = ops.iter().enumerate().map(|(index, op)| self.apply(number(index), op, None)).collect();
                Answer::Applied { applied, grants: vec![] }
            }
            Request::Sync => {
                self.durable = self.applied.last_key_value().map_or(0, |(last, _)| *last);
                Answer::Durable { order: self.durable }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Serves until a `Sync` was answered.
async fn serve(server: &FakeServer, mut peer: Peer, chance: &mut Chance) -> Model {
    let mut model = Model { knows_session: true, boot: 1, ..Model::default() };
    loop {
        let (number, request) = peer.request().await;
        let hang_up = chance.one_in(12);
        let restart = chance.one_in(25);
        if !(hang_up || restart) || chance.one_in(2) {
            let answer = model.answer(&request);
            if !(hang_up || restart) || chance.one_in(2) {
                peer.answer(number, answer).await;
                if request == Request::Sync {
                    return model;
                }
            }
        }
        if chance.one_in(10) && model.knows_session {
            model.durable = model.applied.last_key_value().map_or(0, |(last, _)| *last);
            peer.push(Push::Durable { order: model.durable }).await;
        }
        if hang_up || restart {
            if restart {
                model.restart();
            }
            drop(peer);
            peer = server
                .welcome(Script {
                    boot: model.boot,
                    state_kept: model.knows_session,
                    journal_applied: model.journal_applied(),
                    durable_order: model.durable,
                    ..Script::default()
                })
                .await;
        }
    }
}

async fn run(seed: u64) {
    let server = FakeServer::new();
    let (session, peer, _) = server.open(server.options(), Script::default()).await;
    let client = tokio::spawn(async move {
        let caller = tokio::spawn({
            let session = session.clone();
            async move {
                for number in 1..=CALLS {
                    session.call(change(number)).await.expect("applied");
                }
            }
        });
        for batch in 0..BATCHES {
            let ops = (0..=batch % 3).map(|index| change(JOURNAL + 3 * batch + index)).collect();
            assert!(session.journal(ops, session.generation()).await.0.iter().all(Result::is_ok));
        }
        caller.await.expect("task");
        session.sync().await.expect("durable");
        assert_eq!(session.status().not_durable, 0);
    });
    let model = serve(&server, peer, &mut Chance(seed)).await;
    soon(client).await.expect("task");
    let happened: Vec<u64> = model
        .applied
        .values()
        .map(|happened| match happened.op {
            MetaOp::ReleaseOrphan { ino } => ino.0,
            ref other => panic!("{other:?}"),
        })
        .collect();
    let (journal, calls): (Vec<u64>, Vec<u64>) = happened.into_iter().partition(|number| *number >= JOURNAL);
    assert_eq!(calls, (1..=CALLS).collect::<Vec<_>>(), "seed {seed}");
    let expected: Vec<u64> =
        (0..BATCHES).flat_map(|batch| (0..=batch % 3).map(move |index| JOURNAL + 3 * batch + index)).collect();
    assert_eq!(journal, expected, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_change_happens_once_and_in_order() {
    let runs: Vec<_> = (1..=8).map(|seed| tokio::spawn(run(seed * 0x9E37_79B9))).collect();
    for outcome in runs {
        outcome.await.expect("run");
    }
}
