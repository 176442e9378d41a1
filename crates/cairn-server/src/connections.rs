//! Who is connected: admission under the limits, and the means to end connections from outside.
//!
//! Two counts are kept: of all connections, and for each address of those that have not been greeted yet (whoever has shown no
//! key must not be able to keep others from doing so). A [`Registration`] is one connection's place in both; dropping
//! it gives the place back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use cairn_locks::Mutex;
use tokio::sync::watch;

use crate::config::Limits;
use crate::lock_order;

/// Whether a connection should end, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    No,
    /// Its key is no longer valid: end at once.
    KeyRevoked,
    /// The server stops: finish what is being served.
    ServerStops,
}

/// Why a connection is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overload {
    #[error("the server has as many connections as it allows: try again later")]
    Connections,
    #[error("too many connections from this address have not identified themselves yet: try again later")]
    Greeting,
    #[error("the server is shutting down: try again later")]
    Stopping,
}

struct Entry {
    /// Id of the key that the peer has shown.
    key: Option<String>,
    ending: watch::Sender<Ending>,
}

#[derive(Default)]
struct State {
    next: u64,
    entries: HashMap<u64, Entry>,
    greeting: HashMap<IpAddr, usize>,
    stopping: bool,
}

/// The table of all connections.
#[derive(Default)]
pub(crate) struct Connections {
    state: Mutex<State, lock_order::Connections>,
}

impl Connections {
    /// Takes a place for a connection from `address` (`None`: a local one, of which only the total is limited).
    pub(crate) fn admit(self: &Arc<Self>, address: Option<IpAddr>, limits: &Limits) -> Result<Registration, Overload> {
        let mut state = self.state.lock();
        if state.stopping {
            return Err(Overload::Stopping);
        }
        if state.entries.len() >= limits.connections {
            return Err(Overload::Connections);
        }
        if let Some(address) = address {
            let greeting = state.greeting.entry(address).or_default();
            if *greeting >= limits.greeting_per_peer {
                return Err(Overload::Greeting);
            }
            *greeting += 1;
        }
        let (sender, ending) = watch::channel(Ending::No);
        let number = state.next;
        state.next += 1;
        state.entries.insert(number, Entry { key: None, ending: sender });
        Ok(Registration { table: Arc::clone(self), number, greeting: address, ending })
    }

    pub(crate) fn count(&self) -> usize {
        self.state.lock().entries.len()
    }

    /// Ends every connection that has shown this key. Call it after the key has been made invalid. Returns how many.
    pub(crate) fn cut_key(&self, key: &str) -> usize {
        let state = self.state.lock();
        let mut cut = 0;
        for entry in state.entries.values().filter(|entry| entry.key.as_deref() == Some(key)) {
            entry.ending.send_replace(Ending::KeyRevoked);
            cut += 1;
        }
        cut
    }

    /// Admits nobody any more and lets every connection finish.
    pub(crate) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopping = true;
        for entry in state.entries.values() {
            entry.ending.send_if_modified(|ending| {
                let goes_on = *ending == Ending::No;
                if goes_on {
                    *ending = Ending::ServerStops;
                }
                goes_on
            });
        }
    }
}

/// One connection's place in the table.
pub(crate) struct Registration {
    table: Arc<Connections>,
    number: u64,
    greeting: Option<IpAddr>,
    ending: watch::Receiver<Ending>,
}

impl Registration {
    /// Notes the key that the peer claims to have. Must come *before* the key is checked: then a key that is revoked meanwhile
    /// either fails the check or is found here by [`Connections::cut_key`].
    pub(crate) fn claim_key(&self, key: &str) {
        if let Some(entry) = self.table.state.lock().entries.get_mut(&self.number) {
            entry.key = Some(key.to_owned());
        }
    }

    /// The peer has been let in: it no longer counts among those of its address that have not.
    pub(crate) fn greeted(&mut self) {
        if let Some(address) = self.greeting.take() {
            let mut state = self.table.state.lock();
            if let Some(count) = state.greeting.get_mut(&address) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    state.greeting.remove(&address);
                }
            }
        }
    }

    /// Waits until the connection should end.
    pub(crate) async fn ended(&mut self) -> Ending {
        match self.ending.wait_for(|ending| *ending != Ending::No).await {
            Ok(ending) => *ending,
            // The sender lives in the table for as long as this registration does.
            Err(_) => Ending::ServerStops,
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.greeted();
        self.table.state.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, greeting_per_peer: usize) -> Limits {
        Limits { connections, greeting_per_peer, ..Limits::default() }
    }

    #[test]
    fn places_are_limited_and_come_back() {
        let table = Arc::new(Connections::default());
        let limits = limits(3, 2);
        let (one, two) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let mut first = table.admit(Some(one), &limits).expect("room");
        let second = table.admit(Some(one), &limits).expect("room");
        assert_eq!(table.admit(Some(one), &limits).err(), Some(Overload::Greeting));
        first.greeted();
        let third = table.admit(Some(one), &limits).expect("the first is greeted");
        assert_eq!(table.admit(Some(two), &limits).err(), Some(Overload::Connections));
        drop((second, third));
        let _other = table.admit(Some(two), &limits).expect("room again");
        assert_eq!(table.count(), 2);
        assert_eq!(table.state.lock().greeting.len(), 1);
    }

    #[tokio::test]
    async fn only_connections_of_a_revoked_key_end() {
        let table = Arc::new(Connections::default());
        let mut bad = table.admit(None, &Limits::default()).expect("room");
        let mut good = table.admit(None, &Limits::default()).expect("room");
        bad.claim_key("bad");
        good.claim_key("good");
        assert_eq!(table.cut_key("bad"), 1);
        assert_eq!(bad.ended().await, Ending::KeyRevoked);
        table.stop();
        assert_eq!(good.ended().await, Ending::ServerStops);
        assert_eq!(bad.ended().await, Ending::KeyRevoked);
        assert_eq!(table.admit(None, &Limits::default()).err(), Some(Overload::Stopping));
    }
}
