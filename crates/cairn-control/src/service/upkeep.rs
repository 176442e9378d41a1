//! What happens by itself: time passes, volumes come and go without the control plane, containers end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Service;

const EVERY: Duration = Duration::from_secs(1);
/// Containers are looked at each so many rounds.
const CONTAINERS_EVERY: u64 = 2;

impl Service {
    /// Goes on until it is dropped.
    pub async fn upkeep(self: Arc<Self>) {
        for round in 0_u64.. {
            if let Err(error) = self.settle().await {
                tracing::warn!(%error, "the control plane's records could not be brought up to date");
            }
            if round % CONTAINERS_EVERY == 0 {
                self.reconcile_containers().await;
            }
            self.upkept.store(true, Ordering::Relaxed);
            tokio::time::sleep(EVERY).await;
        }
    }
}
