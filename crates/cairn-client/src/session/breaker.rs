//! A switch that ends one connection: whoever notices that it is of no use trips it, and everybody who waits on the
//! connection stops waiting.

use tokio::sync::watch;

pub(super) struct Breaker(watch::Sender<bool>);

impl Breaker {
    pub(super) fn new() -> Self {
        Breaker(watch::Sender::new(false))
    }

    pub(super) fn trip(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_tripped(&self) -> bool {
        *self.0.borrow()
    }

    pub(super) async fn tripped(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|tripped| *tripped).await;
    }
}

/// Trips a breaker unless disarmed: a frame that is given up half way has spoilt its connection.
pub(super) struct TripOnDrop<'breaker> {
    breaker: &'breaker Breaker,
    armed: bool,
}

impl<'breaker> TripOnDrop<'breaker> {
    pub(super) fn new(breaker: &'breaker Breaker) -> Self {
        TripOnDrop { breaker, armed: true }
    }

    pub(super) fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for TripOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.breaker.trip();
        }
    }
}
