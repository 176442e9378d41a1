//! The way from a volume to a session's control connection.
//!
//! The channel is bounded: a peer that takes nothing loses its connection instead of filling the server's memory. What
//! it misses it learns when it comes back (recalls are sent again, and everything else is in the welcome).

use cairn_wire::Push;
use tokio::sync::mpsc;

/// Messages that may wait for one connection. A message takes about 40 bytes; a mount that is recalled everything it
/// may hold by hundreds of other clients at once stays below.
const CAPACITY: usize = 32 * 1024;

/// What the connection's task forwards. Ends when the volume lets go of the connection.
pub type PushReceiver = mpsc::Receiver<Push>;

/// The volume's end.
#[derive(Clone, Debug)]
pub struct PushSender(mpsc::Sender<Push>);

/// Both ends for one connection.
pub fn push_channel() -> (PushSender, PushReceiver) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    (PushSender(sender), receiver)
}

impl PushSender {
    /// Queues a message. `false` if the connection is gone or has fallen too far behind: the caller lets go of it.
    pub(crate) fn send(&self, push: Push) -> bool {
        self.0.try_send(push).is_ok()
    }
}
