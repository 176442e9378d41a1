//! After a restart of the server: reclaiming what this session holds, and replaying the changes that were not yet durable.
//!
//! Happens before anything else is said on the new connection, and again from the start if the connection breaks before
//! the server has confirmed all of it.

use std::time::Duration;

use cairn_types::{Errno, FileLock, Ino, LeaseMode};
use cairn_wire::message::{Answer, Replay};
use cairn_wire::{FrameKind, Request, Response};

use super::clock::Moment;
use super::incoming::Heard;
use super::supervisor::AdmitError;
use super::{Held, Inner, JOURNAL_WEIGHT_MAX};
use crate::connect::Connection;

/// Most leases, files or locks in one message: at most some 60 bytes each, far below the codec's limit.
const ITEMS_MAX: usize = 20_000;
/// Shortest time that a server gets to finish its period of grace.
const GRACE_MIN: Duration = Duration::from_secs(60);

impl Inner {
    /// Reclaims the session on `connection`, which carries nothing else yet.
    pub(super) async fn reclaim(&self, connection: &mut Connection) -> Result<(), AdmitError> {
        let mark = self.outgoing.lock().await.next_correlation;
        let (held, replay) = {
            let held = self.events().map(|events| events.reclaiming()).unwrap_or_default();
            let mut state = self.state.lock();
            state.drop_returns_below(mark);
            (held, state.replay.list())
        };
        tracing::info!(
            leases = held.leases.len(),
            open = held.open.len(),
            locks = held.locks.len(),
            changes = replay.len(),
            "the server has restarted; reclaiming the session",
        );
        for piece in pieces(held, replay) {
            let last = matches!(piece, Request::Reclaim { complete: true, .. });
            let sent = Moment::now();
            match self.exchange(connection, &piece).await? {
                Ok(Answer::Reclaimed { replayed, grants }) if last => {
                    let places: Vec<Option<u64>> = replayed
                        .iter()
                        .map(|applied| match &applied.result {
                            Ok(_) => Some(applied.order),
                            Err(errno) => {
                                tracing::error!(?errno, "a change was lost when the server restarted");
                                None
                            }
                        })
                        .collect();
                    self.state.lock().replay.replayed(&places);
                    if let Some(events) = self.events() {
                        events.reclaimed(&grants);
                    }
                    self.clock.renew(sent);
                }
                Ok(Answer::Done) if !last => {}
                Ok(_) => return Err(AdmitError::NotReclaimed("it sent an unexpected answer".into())),
                Err(failure) if failure.errno == Errno::ESTALE => return Err(AdmitError::SessionGone),
                Err(failure) => return Err(AdmitError::NotReclaimed(failure.message)),
            }
        }
        Ok(())
    }

    /// Sends one request and waits for its answer, showing signs of life meanwhile: the server answers the last piece
    /// only when all its sessions are back or its period of grace is over.
    async fn exchange(&self, connection: &mut Connection, request: &Request) -> Result<Response, AdmitError> {
        let number = {
            let mut outgoing = self.outgoing.lock().await;
            // Two numbers: the second is for renewals.
            outgoing.next_correlation += 2;
            outgoing.next_correlation - 2
        };
        let patience = self.answer_limit().max(GRACE_MIN);
        let beat = self.clock.time_to_live() / 3;
        let Connection { reader, writer, .. } = connection;
        let conversation = async {
            writer.write(FrameKind::Request, number, request, &[]).await?;
            loop {
                let Ok(frame) = tokio::time::timeout(beat, reader.read()).await else {
                    writer.write(FrameKind::Request, number + 1, &Request::Renew, &[]).await?;
                    continue;
                };
                let frame = frame?;
                if frame.kind == FrameKind::Response && frame.correlation == number {
                    return Ok(frame.decode()?);
                }
                if self.hear(&frame)? == Heard::Fenced {
                    return Err(AdmitError::SessionGone);
                }
            }
        };
        tokio::time::timeout(patience, conversation).await.unwrap_or(Err(AdmitError::Silent))
    }
}

/// Cuts what has to be reclaimed into messages that fit; the last one says that it is complete.
fn pieces(held: Held, replay: Vec<Replay>) -> Vec<Request> {
    let mut pieces = Vec::new();
    for leases in held.leases.chunks(ITEMS_MAX) {
        pieces.push(piece(leases.to_vec(), vec![], vec![], vec![]));
    }
    for open in held.open.chunks(ITEMS_MAX) {
        pieces.push(piece(vec![], open.to_vec(), vec![], vec![]));
    }
    for locks in held.locks.chunks(ITEMS_MAX) {
        pieces.push(piece(vec![], vec![], locks.to_vec(), vec![]));
    }
    let mut batch = Vec::new();
    let mut size = 0;
    for change in replay {
        let next = change.op.message_bytes();
        if !batch.is_empty() && size + next > JOURNAL_WEIGHT_MAX {
            pieces.push(piece(vec![], vec![], vec![], std::mem::take(&mut batch)));
            size = 0;
        }
        size += next;
        batch.push(change);
    }
    if !batch.is_empty() || pieces.is_empty() {
        pieces.push(piece(vec![], vec![], vec![], batch));
    }
    if let Some(Request::Reclaim { complete, .. }) = pieces.last_mut() {
        *complete = true;
    }
    pieces
}

fn piece(leases: Vec<(Ino, LeaseMode)>, open: Vec<Ino>, locks: Vec<FileLock>, replay: Vec<Replay>) -> Request {
    Request::Reclaim { leases, open, locks, replay, complete: false }
}
