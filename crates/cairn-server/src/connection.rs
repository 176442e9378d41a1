//! One connection from the greeting to its end: reads requests, has each served, writes the answers.
//!
//! A request's future is polled once by the task that reads, and only if it has to wait does it become a task of its own
//! ([`spawn_inline`]): what can be answered at once costs no hop between threads. That first poll comes before the next frame is read, so a volume sees the requests
//! of a connection begin in the order in which they were sent (the order of a journal hangs on it); answers may overtake one
//! another.
//!
//! What is served at once is bounded by number and by bytes; beyond that, nothing more is read. Whatever happens here ends this
//! connection and no other.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_engine::{PushReceiver, Volume};
use cairn_runtime::spawn_inline;
use cairn_types::{Errno, SessionId};
use cairn_wire::message::{BlobRange, Failure};
use cairn_wire::{Frame, FrameError, FrameKind, FrameLimits, Push, Request, Response};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::admin;
use crate::connections::{Ending, Registration};
use crate::greeting::{Attachment, GreetingError, Peer, Role, greet};
use crate::handover::{self, HandoverEnd};
use crate::keys::Access;
use crate::link::{LinkReader, LinkWriter, ReadError};
use crate::metrics::RequestKind;
use crate::server::ServerState;
use crate::stream::{ReadHalf, WriteHalf};

/// Bytes in flight are counted in units of so many, because a semaphore counts in 32 bits.
const BYTES_UNIT: usize = 1024;
/// Most ranges of one `ReadBlobs` or `LocateBlobs`: each is widened to whole check blocks, so a small request could ask for very much.
const RANGES_MAX: usize = 4096;
/// Time for the last bytes of a connection that the server ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves a connection until it ends. `deadline` is when the greeting must be over.
pub(crate) async fn run(
    shared: Arc<ServerState>,
    (read, write): (ReadHalf, WriteHalf),
    mut registration: Registration,
    mut peer: Peer,
    deadline: Instant,
) {
    let mut reader = LinkReader::new(read, &shared.config.limits);
    let writer = LinkWriter::new(write, &shared.config.limits);
    let greeted = greet(&shared, &mut reader, &writer, &mut registration, &peer, deadline).await;
    // Whoever needs it has a share by now; others keep no second descriptor.
    peer.socket = None;
    let end = match greeted {
        Ok(role) => serve(&shared, reader, &writer, registration, role).await,
        Err(error) => End::NotLetIn(error),
    };
    report(&shared, &peer, &end);
    // A half-closed connection lets the peer read the last answer. One that takes nothing does not get to hold anything up.
    let _ = timeout(FAREWELL, writer.shutdown()).await;
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    NotLetIn(GreetingError),
    #[error("{0}")]
    Read(ReadError),
    #[error("answers could not be sent: the peer is gone or takes nothing")]
    Write,
    #[error("its key was revoked")]
    KeyRevoked,
    #[error("the server stops")]
    ServerStops,
    #[error("the volume ended the session")]
    Released,
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::KeyRevoked => End::KeyRevoked,
            Ending::ServerStops | Ending::No => End::ServerStops,
        }
    }
}

/// Logs the end as loudly as it deserves, and counts it.
fn report(shared: &ServerState, peer: &Peer, end: &End) {
    let counters = &shared.counters;
    match end {
        End::Read(ReadError::Frame(FrameError::Closed)) | End::ServerStops | End::Released => {
            tracing::debug!(peer = peer.name, "connection ended: {end}");
        }
        End::NotLetIn(GreetingError::Read(ReadError::Frame(FrameError::Closed | FrameError::Io(_)))) => {
            tracing::debug!(peer = peer.name, "connection ended before its greeting: {end}");
        }
        End::Read(ReadError::Frame(FrameError::Io(_))) | End::NotLetIn(GreetingError::Send(_)) | End::Write => {
            counters.connections_lost.add(1);
            tracing::info!(peer = peer.name, "connection lost: {end}");
        }
        End::NotLetIn(GreetingError::Refused(_)) => {
            counters.connections_refused.add(1);
            tracing::warn!(peer = peer.name, "connection {end}");
        }
        End::Read(ReadError::TooSlow)
        | End::NotLetIn(GreetingError::TooSlow | GreetingError::Read(ReadError::TooSlow)) => {
            counters.connections_too_slow.add(1);
            tracing::warn!(peer = peer.name, "connection cut off: {end}");
        }
        End::Read(ReadError::Frame(_)) | End::NotLetIn(GreetingError::Read(ReadError::Frame(_))) => {
            counters.connections_nonsense.add(1);
            tracing::warn!(peer = peer.name, "connection cut off: {end}");
        }
        End::KeyRevoked => {
            counters.connections_revoked.add(1);
            tracing::warn!(peer = peer.name, "connection cut off: {end}");
        }
    }
}

/// What the tasks that serve a connection's requests share.
struct Service {
    shared: Arc<ServerState>,
    writer: LinkWriter,
    target: Target,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    /// Told when an answer could not be sent.
    broken: Notify,
    /// Told when the volume has nothing more to say to the session.
    released: Notify,
}

/// Where a connection's requests go.
enum Target {
    Control(Arc<Volume>, SessionId),
    Data(Arc<Volume>, SessionId),
    Admin(Access),
}

/// What a request takes of its connection's limits until its answer is sent.
struct Permits {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

async fn serve(
    shared: &Arc<ServerState>,
    mut reader: LinkReader,
    writer: &LinkWriter,
    mut registration: Registration,
    role: Role,
) -> End {
    let limits = &shared.config.limits;
    let (target, control) = match role {
        Role::Control { attachment, pushes } => {
            let target = Target::Control(Arc::clone(&attachment.volume), attachment.session);
            (target, Some((attachment, pushes)))
        }
        Role::Data { volume, session } => (Target::Data(volume, session), None),
        Role::Packs { volume, socket } => {
            return tokio::select! {
                biased;
                ending = registration.ended() => End::from(ending),
                end = handover::serve(&volume, &socket, &mut reader) => match end {
                    HandoverEnd::Read(error) => End::Read(error),
                    HandoverEnd::Send(_) => End::Write,
                },
            };
        }
        Role::Admin(access) => (Target::Admin(access), None),
    };
    let service = Arc::new(Service {
        shared: Arc::clone(shared),
        writer: writer.clone(),
        target,
        requests: Arc::new(Semaphore::new(limits.requests_in_flight)),
        bytes: Arc::new(Semaphore::new(byte_units(shared))),
        broken: Notify::new(),
        released: Notify::new(),
    });
    let control = control.map(|(attachment, pushes)| Control {
        _attachment: attachment,
        pusher: tokio::spawn(forward_pushes(Arc::clone(&service), pushes)).abort_handle(),
    });
    let end = {
        let mut ended = pin!(registration.ended());
        tokio::select! {
            biased;
            ending = &mut ended => End::from(ending),
            () = service.broken.notified() => End::Write,
            () = service.released.notified() => End::Released,
            end = read_requests(&service, &mut reader) => end,
        }
    };
    if matches!(end, End::ServerStops) {
        if control.is_some() {
            // If it cannot be told, it finds out when the connection closes.
            let _ = timeout(FAREWELL, writer.send(FrameKind::Push, 0, &Push::ShuttingDown, &[])).await;
        }
        // All permits are back when nothing is being served any more.
        let all = u32::try_from(limits.requests_in_flight).unwrap_or(u32::MAX);
        let _ = timeout(limits.drain, service.requests.acquire_many(all)).await;
    }
    end
}

/// What a control connection has besides: while it lives, the session is attached and its pushes are forwarded.
struct Control {
    _attachment: Attachment,
    pusher: AbortHandle,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.pusher.abort();
    }
}

/// Sends what the volume has to say. When the volume lets go of the channel, the session is over and so is the connection.
async fn forward_pushes(service: Arc<Service>, mut pushes: PushReceiver) {
    while let Some(push) = pushes.recv().await {
        if service.writer.send(FrameKind::Push, 0, &push, &[]).await.is_err() {
            service.broken.notify_one();
            return;
        }
        service.shared.counters.pushes.add(1);
    }
    service.released.notify_one();
}

async fn read_requests(service: &Arc<Service>, reader: &mut LinkReader) -> End {
    let runtime = Handle::current();
    loop {
        let read = reader.read().await.and_then(|frame| {
            let request = frame.expect::<Request>(FrameKind::Request)?;
            Ok((request, frame))
        });
        let (request, Frame { correlation, message, bulk, .. }) = match read {
            Ok(read) => read,
            Err(error) => return End::Read(error),
        };
        let Some(permits) = acquire_permits(service, &request, message.len() + bulk.len()).await else {
            return End::Released;
        };
        let shared = Arc::clone(&service.shared);
        let serving = serve_one(Arc::clone(service), correlation, request, bulk, permits);
        spawn_inline(&runtime, async move {
            tokio::select! {
                biased;
                () = serving => {}
                () = shared.halted() => {}
            }
        });
    }
}

/// Waits until the request fits beside those that are being served.
async fn acquire_permits(service: &Service, request: &Request, sent: usize) -> Option<Permits> {
    let asked: usize = match request {
        Request::ReadBlobs(ranges) => {
            ranges.iter().fold(0usize, |sum, range| sum.saturating_add(range.length as usize))
        }
        _ => 0,
    };
    let units = sent.saturating_add(asked).div_ceil(BYTES_UNIT).min(byte_units(&service.shared));
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    // The semaphores are never closed.
    Some(Permits {
        _request: Arc::clone(&service.requests).acquire_owned().await.ok()?,
        _bytes: Arc::clone(&service.bytes).acquire_many_owned(units).await.ok()?,
    })
}

/// How many units a connection may have in flight; never less than one request can take.
fn byte_units(shared: &ServerState) -> usize {
    let largest = FrameLimits::SESSION.message as usize + FrameLimits::SESSION.bulk as usize;
    shared.config.limits.bytes_in_flight.max(largest).div_ceil(BYTES_UNIT)
}

async fn serve_one(service: Arc<Service>, correlation: u64, request: Request, bulk: Bytes, permits: Permits) {
    let kind = RequestKind::of(&request);
    let begin = std::time::Instant::now();
    let (mut response, mut bulk) = answer(&service, correlation, request, bulk).await;
    if bulk.iter().map(Bytes::len).sum::<usize>() > FrameLimits::SESSION.bulk as usize {
        response = Err(Failure { errno: Errno::EINVAL, message: "the answer is too large: ask for less".to_owned() });
        bulk.clear();
    }
    let took = begin.elapsed();
    service.shared.counters.count_request(kind, took, response.is_err());
    tracing::debug!(
        request = correlation,
        ?kind,
        microseconds = took.as_micros() as u64,
        failed = response.is_err(),
        "request served"
    );
    let mut sent = service.writer.send(FrameKind::Response, correlation, &response, &bulk).await;
    if let Err(FrameError::Codec(error)) = &sent {
        // Nothing has been written yet: the peer can be told.
        let message = format!("the answer is too large: {error}");
        let response: Response = Err(Failure { errno: Errno::EOVERFLOW, message });
        sent = service.writer.send(FrameKind::Response, correlation, &response, &[]).await;
    }
    if sent.is_err() {
        service.broken.notify_one();
    }
    drop(permits);
}

async fn answer(service: &Service, correlation: u64, request: Request, bulk: Bytes) -> (Response, Vec<Bytes>) {
    let refuse = |errno: Errno, message: &str| (Err(Failure { errno, message: message.to_owned() }), Vec::new());
    match (&service.target, request) {
        (Target::Admin(access), Request::Admin(request)) => {
            (admin::answer(&service.shared, access, request).await, Vec::new())
        }
        (Target::Admin(_), _) => refuse(Errno::EINVAL, "this connection is for administration only"),
        (_, Request::Admin(_)) => refuse(Errno::EPERM, "administration takes a connection of its own"),
        (Target::Data(..) | Target::Control(..), Request::ReadBlobs(ranges) | Request::LocateBlobs(ranges))
            if asks_too_much(&ranges) =>
        {
            refuse(Errno::EINVAL, "more bytes were asked for than one answer can carry")
        }
        (
            Target::Data(volume, session),
            request @ (Request::PutBlobs(_)
            | Request::ReadBlobs(_)
            | Request::LocateBlobs(_)
            | Request::ReportDamage { .. }),
        ) => volume.handle(*session, correlation, request, bulk).await,
        (Target::Data(..), _) => refuse(Errno::EINVAL, "this connection is for file content only"),
        (Target::Control(volume, session), request) => volume.handle(*session, correlation, request, bulk).await,
    }
}

/// Whether an answer would be larger than a client accepts, or is asked for in too many pieces.
fn asks_too_much(ranges: &[BlobRange]) -> bool {
    let bytes: u64 = ranges.iter().map(|range| u64::from(range.length)).sum();
    ranges.len() > RANGES_MAX || bytes > u64::from(FrameLimits::SESSION.bulk)
}
