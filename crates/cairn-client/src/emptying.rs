//! Emptying the kernel's pages of a file around what reads and writes keep locked ([`crate::node::transfers`]).
//!
//! The emptying may also wait for a lock that the kernel holds for another request on the same file (a truncation) which
//! itself waits for the server, perhaps behind the recall that the emptying is for. It is then left to finish by itself.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle as Runtime;

use crate::api::KernelCache;
use crate::node::Node;
use crate::node::transfers::Piece;
use crate::timer::sleep;

/// An emptying that is seen twice at the same place with this time between, where a transfer has its pages, waits for it.
const STUCK: Duration = Duration::from_millis(5);
/// How long the kernel may take to empty its caches.
pub(crate) const INVALIDATION_LIMIT: Duration = Duration::from_secs(5);
/// The same while another request than reads and writes on the file waits for the server.
pub(crate) const INVALIDATION_GRACE: Duration = Duration::from_millis(50);

/// Empties `ranges` (bytes) of the kernel's cache of a file. Each time that an emptying meets a page locked by a transfer
/// which came after it began, that one is left behind and the rest is emptied by another; there are as many at most as
/// programs have requests.
pub(crate) async fn empty(runtime: &Runtime, node: &Arc<Node>, kernel: &Arc<dyn KernelCache>, ranges: Vec<Range<u64>>) {
    let begun = Instant::now();
    let mut left: Vec<Piece> = ranges.into_iter().map(|range| Piece { range, may_be_locked: false }).collect();
    while !left.is_empty() {
        let pieces: Arc<[Piece]> = node.lock().transfers().pieces(&left).into();
        left = empty_pieces(runtime, node, kernel, &pieces, begun).await;
    }
}

/// Empties `pieces`, as far as that is possible without waiting for a transfer. Answers what is left.
async fn empty_pieces(
    runtime: &Runtime,
    node: &Arc<Node>,
    kernel: &Arc<dyn KernelCache>,
    pieces: &Arc<[Piece]>,
    begun: Instant,
) -> Vec<Piece> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut emptying = {
        let (kernel, ino, pieces, done) = (Arc::clone(kernel), node.ino, Arc::clone(pieces), Arc::clone(&done));
        runtime.spawn_blocking(move || {
            for piece in pieces.iter() {
                kernel.invalidate_range(ino, piece.range.clone());
                done.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let mut seen = None;
    let mut others_since: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = &mut emptying => return Vec::new(),
            () = sleep(runtime, STUCK) => {}
        }
        let at = done.load(Ordering::SeqCst);
        let Some(piece) = pieces.get(at) else { continue };
        let (touched, transfers) = {
            let state = node.lock();
            (state.transfers().touch(&piece.range), state.transfers().count())
        };
        others_since = if node.waiting() > transfers { others_since.or_else(|| Some(Instant::now())) } else { None };
        if seen.replace(at) == Some(at) && touched {
            // Two looks, and it is still here: it waits for a page that a transfer keeps.
            let next = if piece.may_be_locked { at + 1 } else { at };
            return pieces.get(next..).unwrap_or_default().to_vec();
        }
        let blocked = others_since.is_some_and(|since| since.elapsed() > INVALIDATION_GRACE);
        if blocked || begun.elapsed() > INVALIDATION_LIMIT {
            tracing::debug!(ino = %node.ino, "the kernel is left to empty its cache of a file by itself");
            return Vec::new();
        }
    }
}
