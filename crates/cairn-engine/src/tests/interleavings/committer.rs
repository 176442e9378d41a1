//! Who submits while the writer changes hands: every job is run once and in its submitter's order, and each caller is
//! answered once, however the work goes to and fro between the thread and those who bring it.

use std::sync::Arc;
use std::time::Duration;

use cairn_chunks::MemoryBlobs;
use cairn_locks::Mutex;
use cairn_locks::schedules::{block_on, thread, try_many};
use cairn_meta::kv::MemoryStore;
use cairn_types::Errno;

use super::super::info;
use crate::committer::{self, Kind};
use crate::{Inner, Storage, VolumeOptions, open};

/// Inside everything: jobs note what they do.
enum Innermost {}

impl cairn_locks::Rank for Innermost {
    const ORDER: u32 = u32::MAX;
    const NAME: &'static str = "what was run";
}

type Log = Arc<Mutex<Vec<(usize, usize)>, Innermost>>;
/// What one submitter was answered.
type Answers = Vec<Result<(), Errno>>;

fn engine() -> Arc<Inner> {
    let options = VolumeOptions { durable_interval: Duration::from_secs(3600), ..VolumeOptions::default() };
    let storage = Storage { metadata: Arc::new(MemoryStore::default()), blobs: Arc::new(MemoryBlobs::default()) };
    open::create(&storage, info(1 << 30)).expect("made");
    let (inner, _) = open::open_stores(&storage, options).expect("opened");
    inner
}

/// Two jobs are queued at once, and one brings itself.
fn submit(inner: &Inner, log: &Log, submitter: usize) -> Answers {
    let job = |number: usize| {
        let log = Arc::clone(log);
        move |_: &mut committer::Round<'_>| log.lock().push((submitter, number))
    };
    let first = inner.committer.queue(Kind::Normal, job(0));
    let second = if submitter == 0 { Kind::Flush } else { Kind::Normal };
    let second = inner.committer.queue(second, job(1));
    let third = block_on(inner.submit_here(job(2)));
    let closed = || Err(Errno::ESHUTDOWN);
    let outcome = |answer: Result<Result<(), _>, _>| {
        answer.map_or_else(
            |_| closed(),
            |answer: Result<(), cairn_wire::message::Failure>| answer.map_err(|failure| failure.errno),
        )
    };
    vec![outcome(block_on(first)), outcome(block_on(second)), third.map_err(|failure| failure.errno)]
}

/// Runs submitters beside the committer's thread, with something else done meanwhile.
fn play(meanwhile: fn(&Inner)) -> (Vec<Answers>, Vec<(usize, usize)>) {
    let (inner, log) = (engine(), Log::default());
    let writer = {
        let inner = Arc::clone(&inner);
        thread::spawn(move || committer::run(inner))
    };
    let submitters = [0, 1].map(|submitter| {
        let (inner, log) = (Arc::clone(&inner), Arc::clone(&log));
        thread::spawn(move || submit(&inner, &log, submitter))
    });
    meanwhile(&inner);
    let answers = submitters.map(|submitter| submitter.join().expect("answered"));
    inner.begin_closing();
    writer.join().expect("ended");
    assert!(inner.committer.is_stopped());
    let late = block_on(inner.committer.submit(Kind::Early, |_| ()));
    assert_eq!(late.map_err(|failure| failure.errno), Err(Errno::ESHUTDOWN));
    *inner.store.write() = None;
    let log = log.lock().clone();
    (answers.into(), log)
}

/// What one submitter's jobs have noted.
fn run_by(log: &[(usize, usize)], submitter: usize) -> Vec<usize> {
    log.iter().filter(|(by, _)| *by == submitter).map(|(_, number)| *number).collect()
}

#[test]
fn every_job_runs_once_in_order_and_is_answered() {
    try_many(|| {
        let (answers, log) = play(|inner| inner.committer.open_gate());
        for (submitter, answers) in answers.iter().enumerate() {
            assert_eq!(answers, &[Ok(()); 3]);
            assert_eq!(run_by(&log, submitter), [0, 1, 2]);
        }
    });
}

#[test]
fn who_submits_while_the_volume_is_closed_is_answered_with_what_was_done() {
    try_many(|| {
        let (answers, log) = play(|inner| {
            inner.committer.open_gate();
            thread::yield_now();
            inner.begin_closing();
        });
        for (submitter, answers) in answers.iter().enumerate() {
            let done: Vec<usize> = (0..3).filter(|number| answers[*number].is_ok()).collect();
            assert_eq!(run_by(&log, submitter), done);
        }
    });
}
