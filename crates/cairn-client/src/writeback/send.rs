//! One message of the journal: what its entries bring along is sent first, or with it, and each entry gets its answer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cairn_types::OpReply;
use cairn_wire::BLOBS_IN_ORDER_MAX;
use cairn_wire::message::BlobHeader;

use super::buffer::WriteBuffer;
use super::entry::{Entry, Queued};
use super::journal::Journal;
use super::upload::Part;
use crate::error::{Error, FsResult};
use crate::session::{JournalAnswer, JournalMessage};
use crate::stats::add;
use crate::timer::sleep;

/// How long content that a renamed file brings along waits after its bytes could not be sent.
const RETRY: Duration = Duration::from_millis(500);

impl Journal {
    pub(super) async fn send_batch(&self, batch: Vec<Queued>) {
        add(&self.counters.journal_batches, 1);
        self.counters.journal_entries.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let (headers, bytes, few) = self.bring_few(&batch).await;
        let mut brought = self.bring_content(&batch).await;
        for (index, part) in few {
            if let Some(place) = brought.get_mut(index) {
                *place = Some(part);
            }
        }
        let sync = batch.iter().any(|entry| entry.entry.is_sync());
        // One message belongs to one session: entries of another one are refused below without being sent.
        let generation = batch.first().map_or(0, |entry| entry.generation);
        let mut ops = Vec::with_capacity(batch.len());
        // Where the answer to each entry is, and to the content that it brings along.
        let mut places: Vec<Option<(std::ops::Range<usize>, usize)>> = Vec::with_capacity(batch.len());
        for (entry, part) in batch.iter().zip(&mut brought) {
            let refused = part.as_ref().is_some_and(|part| part.outcome.is_err());
            if refused || entry.generation != generation {
                places.push(None);
                continue;
            }
            let first = ops.len();
            if let Some(part) = part {
                ops.extend(self.buffer.content_ops(part));
            }
            places.push(Some((first..ops.len(), ops.len())));
            ops.extend(entry.entry.op().cloned());
        }
        let message = JournalMessage { headers, bytes, ops, generation, sync };
        let JournalAnswer { blobs, results, grants, durable } = self.session.journal_with(message).await;
        let mut results: Vec<Option<FsResult<OpReply>>> = results.into_iter().map(Some).collect();
        self.nodes.absorb(&grants, &[]);
        let mut waiting = Vec::new();
        for ((Queued { entry, .. }, part), place) in batch.into_iter().zip(brought).zip(places) {
            let mut answer = |index: usize| results.get_mut(index).and_then(Option::take).unwrap_or(Err(Error::FENCED));
            let mut outcome = Err(Error::FENCED);
            let mut content = Ok(());
            if let Some((changes, own)) = place {
                if let Some(mut part) = part {
                    match changes.map(&mut answer).collect::<FsResult<Vec<_>>>() {
                        Ok(replies) => self.buffer.applied(&part, &replies),
                        Err(error) if !entry.is_sync() => part.outcome = Err(error),
                        // If its bytes did not arrive, that is the reason.
                        Err(error) => part.outcome = Err(blobs.clone().err().unwrap_or(error)),
                    }
                    content = self.end_part(&part);
                }
                outcome = if entry.is_sync() { Ok(OpReply::default()) } else { answer(own) };
            } else if let Some(part) = part {
                outcome = part.outcome.clone().map_or_else(Err, |()| Err(Error::FENCED));
                content = self.end_part(&part);
            }
            match entry {
                Entry::Change { op, nodes, content } => {
                    self.change_answered(&op, &nodes, &outcome);
                    self.buffer.release_claim(&mut { content });
                }
                // Who no longer waits has given up.
                Entry::Awaited { reply, .. } => drop(reply.send(outcome)),
                Entry::Sync { content: claim, durable } => {
                    self.buffer.release_claim(&mut { claim });
                    match content {
                        Ok(()) => waiting.push(durable),
                        // Who no longer waits has given up.
                        Err(error) => drop(durable.send(Err(error))),
                    }
                }
            }
        }
        if let Some(durable) = durable {
            // The next message need not wait for the disk.
            self.runtime.spawn(async move {
                let outcome = durable.wait().await;
                for waiter in waiting {
                    // Who no longer waits has given up.
                    let _ = waiter.send(outcome.clone());
                }
            });
        }
    }

    /// Makes blobs of what entries without a change bring, if it is little enough to be sent with the message.
    async fn bring_few(&self, batch: &[Queued]) -> (Vec<BlobHeader>, Vec<Bytes>, Vec<(usize, Part)>) {
        let mut owners = Vec::new();
        let mut parts = Vec::new();
        let mut total = 0;
        for (index, entry) in batch.iter().enumerate().filter(|(_, queued)| queued.entry.is_sync()) {
            let Some(claim) = entry.entry.content() else { continue };
            let bytes = claim.buffered();
            if total + bytes <= BLOBS_IN_ORDER_MAX as u64
                && let Some(part) = claim.part(parts.len())
            {
                total += bytes;
                owners.push(index);
                parts.push(part);
            }
        }
        let (headers, bytes) = self.uploads.seal_few(&mut parts).await;
        (headers, bytes, owners.into_iter().zip(parts).collect())
    }

    /// Sends the bytes that renamed and linked files bring along; tried again until the server is there.
    async fn bring_content(&self, batch: &[Queued]) -> Vec<Option<Part>> {
        let mut round = Vec::new();
        let mut owners = Vec::new();
        for (index, entry) in batch.iter().enumerate() {
            if let Some(claim) = entry.entry.content()
                && let Some(part) = claim.part(round.len())
            {
                round.push(part);
                owners.push(index);
            }
        }
        let mut brought: Vec<Option<Part>> = batch.iter().map(|_| None).collect();
        if round.is_empty() {
            return brought;
        }
        loop {
            round = self.uploads.upload(round).await;
            let again = round.iter().any(|part| {
                part.outcome.as_ref().is_err_and(|error| WriteBuffer::is_passing(&part.node, error))
                    && !self.buffer.files.is_stopped()
            });
            if !again {
                break;
            }
            sleep(&self.runtime, RETRY).await;
            for part in &mut round {
                part.begin_again();
            }
        }
        for (part, index) in round.into_iter().zip(owners) {
            if let Some(place) = brought.get_mut(index) {
                *place = Some(part);
            }
        }
        brought
    }

    fn end_part(&self, part: &Part) -> FsResult<()> {
        // Told to whoever has the file open, and saved.
        part.outcome.clone().or_else(|error| self.buffer.flush_failed(&part.node, error))
    }
}
