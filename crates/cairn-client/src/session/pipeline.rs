//! Content, the changes that refer to it, and a sync, sent back to back: one round trip instead of three.

use bytes::Bytes;
use cairn_types::{MetaOp, OpReply};
use cairn_wire::Request;
use cairn_wire::message::{Answer, BlobHeader, Grant};

use super::outgoing::{Draft, Ticket};
use super::{Session, unexpected};
use crate::error::{Error, FsResult};

impl Session {
    /// As [`Session::journal`], with the few bytes of content (at most [`cairn_wire::BLOBS_IN_ORDER_MAX`]) that the changes
    /// refer to sent right before them, and with `sync` a [`Session::sync`] right behind them.
    pub async fn journal_with(&self, message: JournalMessage) -> JournalAnswer {
        let JournalMessage { headers, bytes, ops, generation, sync } = message;
        let count = ops.len();
        let blobs = (!headers.is_empty()).then_some(Draft::Blobs { headers, bytes, generation });
        let changes = (count > 0).then_some(Draft::Journal { ops, generation });
        let sync = sync.then_some(Draft::Plain(Request::Sync));
        let [blobs, changes, sync] = self.inner.request_pipelined([blobs, changes, sync]).await;
        let mut answer = JournalAnswer { blobs: Ok(()), results: Vec::new(), grants: Vec::new(), durable: None };
        answer.durable = sync.map(|ticket| Durable { ticket });
        if let Some(ticket) = changes {
            (answer.results, answer.grants) = journal_results(answered(ticket).await, count);
        }
        if let Some(ticket) = blobs {
            answer.blobs = answered(ticket).await.map(|_| ());
        }
        answer
    }
}

async fn answered(ticket: FsResult<Ticket>) -> FsResult<Answer> {
    ticket?.wait().await
}

pub(super) fn journal_results(answer: FsResult<Answer>, count: usize) -> (Vec<FsResult<OpReply>>, Vec<Grant>) {
    match answer {
        Ok(Answer::Applied { applied, grants }) if applied.len() == count => {
            (applied.into_iter().map(|applied| applied.result.map_err(Error::from_server)).collect(), grants)
        }
        Ok(other) => (vec![Err(unexpected(&other)); count], Vec::new()),
        Err(errno) => (vec![Err(errno); count], Vec::new()),
    }
}

/// See [`Session::journal_with`].
pub struct JournalMessage {
    pub headers: Vec<BlobHeader>,
    /// Contents of the blobs, in the order of `headers`.
    pub bytes: Vec<Bytes>,
    pub ops: Vec<MetaOp>,
    /// As in [`Session::journal`].
    pub generation: u64,
    pub sync: bool,
}

/// See [`Session::journal_with`].
pub struct JournalAnswer {
    /// Whether the content arrived. Changes that were applied all the same have it.
    pub blobs: FsResult<()>,
    /// One for each change.
    pub results: Vec<FsResult<OpReply>>,
    pub grants: Vec<Grant>,
    /// If it was asked for.
    pub durable: Option<Durable>,
}

/// What tells that everything up to a [`JournalMessage`] is on stable storage.
pub struct Durable {
    ticket: FsResult<Ticket>,
}

impl Durable {
    pub async fn wait(self) -> FsResult<()> {
        match answered(self.ticket).await? {
            Answer::Durable { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}
