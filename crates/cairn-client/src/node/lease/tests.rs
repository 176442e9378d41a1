use cairn_types::Ino;
use proptest::prelude::*;

use super::*;

fn grant(mode: LeaseMode, stamp: u64) -> Grant {
    Grant { ino: Ino(5), mode, stamp }
}

#[test]
fn what_a_downgrade_has_left_still_stands() {
    let mut lease = Lease::new(0);
    assert!(lease.grant(grant(LeaseMode::Exclusive, 7)));
    assert!(lease.recall(LeaseMode::Shared, 9));
    lease.downgrade(LeaseMode::Shared);
    assert_eq!(lease.answer(LeaseMode::Shared), RecallAnswer::Given { stamp: 9, keep: LeaseMode::Shared });
    assert!(lease.grant(grant(LeaseMode::Exclusive, 7)));
    assert_eq!(lease.mode(), LeaseMode::Shared);
    lease.lose();
    assert!(!lease.grant(grant(LeaseMode::Exclusive, 7)));
}

#[test]
fn a_recall_that_became_void_leaves_all_that_was_held_when_it_came() {
    let mut lease = Lease::new(0);
    lease.grant(grant(LeaseMode::Exclusive, 7));
    lease.note_birth();
    lease.recall(LeaseMode::Shared, 9);
    lease.downgrade(LeaseMode::Shared);
    assert!(lease.void_recall());
    assert_eq!(lease.mode(), LeaseMode::Exclusive);
    assert!(!lease.is_since_birth());
    assert!(!lease.seal());
    assert_eq!(lease.answer(LeaseMode::None), RecallAnswer::Void);
}

#[test]
fn a_stricter_recall_that_comes_meanwhile_is_the_one_that_is_answered() {
    let mut lease = Lease::new(0);
    lease.grant(grant(LeaseMode::Exclusive, 7));
    assert!(lease.recall(LeaseMode::Shared, 9));
    assert!(!lease.recall(LeaseMode::None, 10));
    assert_eq!(lease.answer(LeaseMode::Shared), RecallAnswer::LessLeft);
    assert!(lease.seal() && !lease.covers(LeaseMode::Shared));
    assert_eq!(lease.answer(LeaseMode::None), RecallAnswer::Given { stamp: 10, keep: LeaseMode::None });
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Grant(LeaseMode),
    Recall(LeaseMode),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// One of the messages that were sent and have not arrived, wherever it is among them.
    Arrives(usize),
    MakesReady,
    Answers,
    GivesBack,
    Loses,
    Doubts,
}

fn mode() -> impl Strategy<Value = LeaseMode> {
    prop_oneof![Just(LeaseMode::None), Just(LeaseMode::Shared), Just(LeaseMode::Exclusive)]
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let left = prop_oneof![Just(LeaseMode::None), Just(LeaseMode::Shared)];
    prop::collection::vec(prop_oneof![mode().prop_map(Message::Grant), left.prop_map(Message::Recall)], 1..16)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => any::<usize>().prop_map(Step::Arrives),
        1 => Just(Step::MakesReady),
        2 => Just(Step::Answers),
        1 => Just(Step::GivesBack),
        1 => Just(Step::Loses),
        1 => Just(Step::Doubts),
    ];
    prop::collection::vec(step, 1..48)
}

/// What the rules say, computed anew from everything that has happened.
#[derive(Default)]
struct Model {
    /// Grants that were newer than every recall when they arrived, since everything was lost.
    stood: Vec<Grant>,
    /// The least that was left by a downgrade since, with the number of grants that had stood by then.
    caps: Vec<(usize, LeaseMode)>,
    floor: u64,
    newest: u64,
}

impl Model {
    fn mode(&self) -> LeaseMode {
        let left = self
            .caps
            .iter()
            .fold((0, LeaseMode::None), |(from, held), (to, cap)| (*to, self.most(from, *to).max(held).min(*cap)));
        self.most(left.0, self.stood.len()).max(left.1)
    }

    fn most(&self, from: usize, to: usize) -> LeaseMode {
        self.stood[from..to].iter().map(|grant| grant.mode).max().unwrap_or_default()
    }

    fn lost(&mut self) {
        self.stood.clear();
        self.caps.clear();
    }
}

proptest! {
    /// Messages arrive in any order: a grant that a recall has overtaken is void, never more is held than was
    /// granted since the last loss and left by recalls, and who gives everything back gives back the newest grant.
    #[test]
    fn it_is_never_more_than_was_granted_and_left(messages in messages(), steps in steps()) {
        let mut lease = Lease::new(0);
        let mut model = Model::default();
        let mut on_their_way: Vec<(u64, Message)> = (1..).zip(messages).collect();
        for step in steps {
            let epoch = lease.epoch();
            match step {
                Step::Arrives(which) => {
                    if on_their_way.is_empty() {
                        continue;
                    }
                    match on_their_way.remove(which % on_their_way.len()) {
                        (stamp, Message::Grant(mode)) => {
                            let before = lease.mode();
                            let stands = lease.grant(grant(mode, stamp));
                            if stamp > model.floor {
                                model.stood.push(grant(mode, stamp));
                                model.newest = model.newest.max(stamp);
                                prop_assert_eq!(stands, lease.mode() > LeaseMode::None);
                            } else {
                                prop_assert!(!stands, "void");
                                prop_assert_eq!(lease.mode(), before);
                            }
                        }
                        (stamp, Message::Recall(leave)) => {
                            let first = !lease.is_recalled();
                            prop_assert_eq!(lease.recall(leave, stamp), first);
                            model.floor = model.floor.max(stamp);
                        }
                    }
                }
                Step::MakesReady => match lease.pending_recall().map(|pending| pending.leave) {
                    None => prop_assert!(!lease.seal()),
                    Some(LeaseMode::None) => prop_assert!(lease.seal() && !lease.covers(LeaseMode::None)),
                    Some(leave) => {
                        lease.downgrade(leave);
                        model.caps.push((model.stood.len(), leave));
                    }
                },
                Step::Answers => {
                    let Some(pending) = lease.pending_recall() else { continue };
                    let RecallAnswer::Given { stamp, keep } = lease.answer(pending.leave) else {
                        return Err(TestCaseError::fail("not answered"));
                    };
                    prop_assert!(keep == lease.mode() && !lease.is_recalled());
                    if pending.leave == LeaseMode::None {
                        prop_assert!(stamp >= model.newest && keep == LeaseMode::None);
                        model.floor = model.floor.max(stamp);
                        model.lost();
                    }
                }
                Step::GivesBack => {
                    let held = lease.mode() > LeaseMode::None;
                    let given = lease.give_back();
                    prop_assert_eq!(given.is_some(), held);
                    if let Some(stamp) = given {
                        prop_assert!(stamp >= model.newest && lease.epoch() > epoch);
                        model.floor = model.floor.max(stamp);
                        model.lost();
                    }
                }
                Step::Loses => {
                    lease.lose();
                    model.lost();
                    prop_assert!(lease.epoch() > epoch);
                }
                Step::Doubts => {
                    lease.doubt();
                    prop_assert!(lease.epoch() > epoch);
                }
            }
            prop_assert_eq!(lease.mode(), model.mode());
            prop_assert_eq!(lease.is_newer_than_recalls(model.floor), false);
            prop_assert!(lease.is_newer_than_recalls(model.floor + 1));
        }
    }
}
