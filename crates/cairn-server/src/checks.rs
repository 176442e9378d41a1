//! Checks of volumes as jobs in the background: started once, asked after until they are finished.
//!
//! At most one check of a volume runs at a time. While it runs, the volume cannot be deleted (the job holds the volume
//! open). What a finished check found is kept until many newer ones have finished.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_locks::Mutex;
use cairn_types::VolumeId;
use cairn_wire::admin::{CheckOptions, CheckProgress};
use tokio::task::AbortHandle;

use crate::catalogue::OpenVolume;
use crate::lock_order;

/// Finished checks whose outcome is kept.
const KEPT: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("volume {volume} is being checked already, by check {check}")]
    AlreadyRunning { volume: VolumeId, check: u64 },
    #[error("there is no check {0}: the server may have been started anew since")]
    Unknown(u64),
}

struct Job {
    volume: VolumeId,
    progress: CheckProgress,
    task: Option<AbortHandle>,
}

#[derive(Default)]
struct State {
    last: u64,
    jobs: BTreeMap<u64, Job>,
}

/// All checks since the server started.
#[derive(Default)]
pub struct Checks {
    state: Mutex<State, lock_order::reports::Checks>,
}

impl Checks {
    /// Starts a check and returns its number.
    pub fn start(self: &Arc<Self>, volume: OpenVolume, options: CheckOptions) -> Result<u64, CheckError> {
        let id = volume.info().id;
        let check = {
            let mut state = self.state.lock();
            if let Some(check) = running(&state, &id) {
                return Err(CheckError::AlreadyRunning { volume: id, check });
            }
            state.last += 1;
            let check = state.last;
            let progress = CheckProgress {
                stage: "starting".to_owned(),
                done: 0,
                total: 0,
                finished: false,
                problems: Vec::new(),
                repaired: 0,
            };
            state.jobs.insert(check, Job { volume: id.clone(), progress, task: None });
            check
        };
        let checks = Arc::clone(self);
        let task = tokio::spawn(async move {
            // If the check dies of a fault of its own, it does not look as if it ran for ever.
            let mut running = RunningCheck { checks, check, outcome: None };
            let (table, number) = (Arc::clone(&running.checks), check);
            let outcome = volume.check(options, move |progress| table.note(number, progress)).await;
            running.outcome = Some(outcome.map_err(|error| error.to_string()));
            drop(volume);
        });
        if let Some(job) = self.state.lock().jobs.get_mut(&check) {
            job.task = Some(task.abort_handle());
        }
        Ok(check)
    }

    pub fn progress(&self, check: u64) -> Result<CheckProgress, CheckError> {
        self.state.lock().jobs.get(&check).map(|job| job.progress.clone()).ok_or(CheckError::Unknown(check))
    }

    /// The check of this volume that runs now.
    pub fn running(&self, volume: &VolumeId) -> Option<u64> {
        running(&self.state.lock(), volume)
    }

    /// Gives up all that run, so that their volumes can be closed.
    pub(crate) fn stop(&self) {
        for task in self.state.lock().jobs.values().filter_map(|job| job.task.as_ref()) {
            task.abort();
        }
    }

    /// Takes over how far a check has come. Only [`Checks::finish`] says that it is finished.
    fn note(&self, check: u64, progress: CheckProgress) {
        if let Some(job) = self.state.lock().jobs.get_mut(&check) {
            job.progress = CheckProgress { finished: false, ..progress };
        }
    }

    fn finish(&self, check: u64, outcome: Result<CheckProgress, String>) {
        let mut state = self.state.lock();
        if let Some(job) = state.jobs.get_mut(&check) {
            match outcome {
                Ok(progress) => job.progress = progress,
                Err(reason) => job.progress.problems.push(format!("the check could not be completed: {reason}")),
            }
            job.progress.finished = true;
        }
        let finished: Vec<u64> =
            state.jobs.iter().filter(|(_, job)| job.progress.finished).map(|(number, _)| *number).collect();
        for old in finished.iter().rev().skip(KEPT) {
            state.jobs.remove(old);
        }
    }
}

fn running(state: &State, volume: &VolumeId) -> Option<u64> {
    state.jobs.iter().find(|(_, job)| job.volume == *volume && !job.progress.finished).map(|(number, _)| *number)
}

/// Marks a check as finished when its task ends, however it ends.
struct RunningCheck {
    checks: Arc<Checks>,
    check: u64,
    outcome: Option<Result<CheckProgress, String>>,
}

impl Drop for RunningCheck {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err("the server stopped it".to_owned()));
        self.checks.finish(self.check, outcome);
    }
}
