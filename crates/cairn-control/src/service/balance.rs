//! What follows from an account's balance: at 0 its pods with a volume stop, charges go on, and after the grace time its volumes
//! are terminated for good. Each step is taken as of the moment at which it was due, however late it is noticed.

use std::sync::Arc;

use cairn_server::CatalogueError;

use super::Service;
use super::clock::Moment;
use super::error::ServiceError;
use super::money::Money;
use super::records::{Account, Desired};
use super::state::State;
use super::store::{Change, Record};
use super::volumes::end_of_charges;

impl Service {
    /// Brings records in line with the server's volumes and with the time.
    pub(super) async fn settle(self: &Arc<Self>) -> Result<(), ServiceError> {
        self.change(|service| async move { service.settle_alone().await }).await
    }

    /// The same for whoever changes alone already.
    pub(super) async fn settle_alone(self: &Arc<Self>) -> Result<(), ServiceError> {
        self.take_in_volumes().await?;
        let prepaid: Vec<Account> =
            self.state.read().accounts.values().filter(|account| account.prepaid).cloned().collect();
        for account in prepaid {
            self.settle_account(account).await?;
        }
        self.delete_doomed().await
    }

    async fn settle_account(self: &Arc<Self>, mut account: Account) -> Result<(), ServiceError> {
        let now = self.now();
        if account.exhausted.is_none() {
            let Some(moment) = moment_of_exhaustion(&self.state.read(), &account, now) else { return Ok(()) };
            account.exhausted = Some(moment);
            let mut changes = vec![Change::Put(Record::Account(account.clone()))];
            let mut stopped = Vec::new();
            for pod in self.state.read().pods.values() {
                if pod.account == account.id && pod.volume.is_some() && pod.desired == Desired::Running {
                    let mut pod = pod.clone();
                    pod.desired = Desired::Exited;
                    pod.changed = moment;
                    pod.note = format!("Stopped because the account's balance was used up at {moment}");
                    stopped.push(pod.id.clone());
                    changes.push(Change::Put(Record::Pod(Box::new(pod))));
                }
            }
            tracing::warn!(account = account.id, at = %moment, pods = ?stopped,
                "balance used up: pods with a network volume are stopped");
            self.commit(changes).await?;
            for pod in stopped {
                self.stop_container_soon(pod);
            }
        }
        let Some(exhausted) = account.exhausted else { return Ok(()) };
        let grace = i64::try_from(self.options.grace.as_millis()).unwrap_or(i64::MAX);
        let end = exhausted.plus_ms(grace);
        if now < end {
            return Ok(());
        }
        let mut changes = Vec::new();
        for volume in self.state.read().volumes.values() {
            if volume.account == account.id && !volume.doomed && !volume.unfinished {
                tracing::warn!(account = account.id, volume = %volume.id, at = %end,
                    "grace period over: the network volume is terminated for good");
                changes.extend(end_of_charges(volume, end));
                let mut doomed = volume.clone();
                doomed.doomed = true;
                doomed.charged_gb = 0;
                doomed.charged_since = end;
                changes.push(Change::Put(Record::Volume(doomed)));
            }
        }
        self.commit(changes).await
    }

    /// Deletes volumes whose time is over; one that is still mounted goes as soon as it is not.
    async fn delete_doomed(&self) -> Result<(), ServiceError> {
        let doomed: Vec<_> =
            self.state.read().volumes.values().filter(|volume| volume.doomed).map(|volume| volume.id.clone()).collect();
        for id in doomed {
            match self.server.delete_unguarded_volume(&id).await {
                Ok(()) | Err(CatalogueError::UnknownVolume(_)) => self.forget_volume(&id).await?,
                Err(error) => tracing::debug!(volume = %id, %error, "a terminated volume cannot be deleted yet"),
            }
        }
        Ok(())
    }
}

/// The first moment, not after `now`, at which the account had nothing left.
fn moment_of_exhaustion(state: &State, account: &Account, now: Moment) -> Option<Moment> {
    let used_up = |moment: i64| state.balance(account, Moment(moment)) <= Money::ZERO;
    if !used_up(now.0) {
        return None;
    }
    // The balance only falls as time goes on: charges never end before they begin, and credit is counted from the beginning.
    let (mut before, mut at) = (account.created.0 - 1, now.0);
    while at - before > 1 {
        let middle = before + (at - before) / 2;
        if used_up(middle) { at = middle } else { before = middle }
    }
    Some(Moment(at))
}
