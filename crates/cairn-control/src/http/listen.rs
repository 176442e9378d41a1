//! Connections: accepted, bounded in number and time, closed when others need the room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use cairn_locks::Mutex;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::HttpLimits;
use crate::lock_order;

/// Time for connections to finish when the server stops, or when their time is over.
const DRAIN: Duration = Duration::from_secs(3);
/// A pause when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection as others see it.
#[derive(Default)]
struct Seat {
    /// A request is being worked on.
    busy: AtomicBool,
    leave: Notify,
}

/// Who is connected, in the order of arrival.
#[derive(Default)]
struct Seats {
    next: Mutex<u64, lock_order::NextSeat>,
    taken: Mutex<BTreeMap<u64, Arc<Seat>>, lock_order::Seats>,
}

impl Seats {
    /// Makes room if there is none, by sending away the oldest that does nothing. `None` if all are busy.
    fn take(&self, most: usize) -> Option<(u64, Arc<Seat>)> {
        let mut taken = self.taken.lock();
        if taken.len() >= most {
            let idle = taken.iter().find(|(_, seat)| !seat.busy.load(Ordering::Relaxed)).map(|(number, _)| *number)?;
            if let Some(seat) = taken.remove(&idle) {
                seat.leave.notify_one();
            }
        }
        let mut next = self.next.lock();
        *next += 1;
        let seat = Arc::new(Seat::default());
        taken.insert(*next, Arc::clone(&seat));
        Some((*next, seat))
    }

    fn give_back(&self, number: u64) {
        self.taken.lock().remove(&number);
    }
}

pub(super) async fn accept(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    mut stopped: watch::Receiver<bool>,
) {
    let seats = Arc::new(Seats::default());
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control plane cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some((number, seat)) = seats.take(limits.connections) else {
            tracing::warn!("a connection was refused: the limit is reached, and all others are busy");
            continue;
        };
        let (router, limits, seats, stopped) = (router.clone(), limits.clone(), Arc::clone(&seats), stopped.clone());
        connections.spawn(async move {
            serve(stream, router, &limits, &seat, stopped).await;
            seats.give_back(number);
        });
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN * 2, ended).await.is_err() {
        connections.shutdown().await;
    }
}

async fn serve(
    stream: TcpStream,
    router: Router,
    limits: &HttpLimits,
    seat: &Seat,
    mut stopped: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let inner = TowerToHyperService::new(router);
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let answering = inner.call(request.map(axum::body::Body::new) as Request);
        async move {
            seat.busy.store(true, Ordering::Relaxed);
            let response = answering.await;
            seat.busy.store(false, Ordering::Relaxed);
            response
        }
    });
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service)
    );
    // A client that breaks off, is too slow or sends no HTTP has its connection closed, and nobody else is concerned.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = seat.leave.notified() => return,
        () = sleep(limits.connection) => {}
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(DRAIN, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        let seats = Seats::default();
        let (first, busy) = seats.take(2).expect("room");
        busy.busy.store(true, Ordering::Relaxed);
        let (second, _) = seats.take(2).expect("room");
        let (third, idle) = seats.take(2).expect("room is made");
        let numbers: Vec<u64> = seats.taken.lock().keys().copied().collect();
        assert_eq!(numbers, vec![first, third]);
        assert!(second < third);
        idle.busy.store(true, Ordering::Relaxed);
        assert!(seats.take(2).is_none());
        seats.give_back(first);
        assert!(seats.take(2).is_some());
    }
}
