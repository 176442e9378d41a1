//! The first half of a flush: frozen content becomes blobs, and blobs go to the chunk server.

use std::sync::Arc;

use bytes::Bytes;
use cairn_types::{BlobId, Errno, WrittenExtent};
use cairn_wire::message::BlobHeader;
use tokio::runtime::Handle as Runtime;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::pack::{Draft, Sealed, pack};
use crate::error::{Error, FsResult};
use crate::node::Node;
use crate::overlay::FrozenChunk;
use crate::session::Session;
use crate::stats::{Counters, add};

/// Most bytes and blobs of one request.
const REQUEST_BYTES: usize = cairn_wire::BLOB_MAX as usize;
const REQUEST_BLOBS: usize = 2048;
/// Requests that are under way at once.
const UNDER_WAY: usize = 8;
/// Checksums of more bytes than this are computed off the runtime's own threads.
const SEAL_INLINE: usize = 64 * 1024;

/// What one round takes of one file.
pub(crate) struct Part {
    pub claim: usize,
    pub node: Arc<Node>,
    /// The node's count of lost leases: if it has changed, the content is no longer this session's to write.
    pub epoch: u64,
    pub chunks: Vec<FrozenChunk>,
    pub extents: Vec<WrittenExtent>,
    pub outcome: FsResult<()>,
}

pub(crate) fn bytes_of(parts: &[Part]) -> u64 {
    let segments = parts.iter().flat_map(|part| &part.chunks).flat_map(|chunk| &chunk.segments);
    segments.map(|segment| segment.data.len() as u64).sum()
}

impl Part {
    /// Its bytes could not be sent and are to be sent again.
    pub(crate) fn begin_again(&mut self) {
        self.extents.clear();
        self.outcome = Ok(());
    }
}

/// Parts whose bytes are on their way together.
pub(crate) struct Round {
    pub parts: Vec<Part>,
    /// Each says which parts it carries bytes of, and how it ended.
    uploads: JoinSet<(Vec<usize>, FsResult<()>)>,
}

impl Round {
    fn note(&mut self, ended: Result<(Vec<usize>, FsResult<()>), JoinError>) {
        match ended {
            Ok((_, Ok(()))) => {}
            Ok((members, Err(error))) => {
                for index in members {
                    if let Some(part) = self.parts.get_mut(index) {
                        part.outcome = Err(error.clone());
                    }
                }
            }
            Err(_) => fail_all(&mut self.parts, &Errno::EIO.into()),
        }
    }

    /// Waits until all bytes have arrived. May be dropped and called again.
    pub(crate) async fn arrived(&mut self) {
        while let Some(ended) = self.uploads.join_next().await {
            self.note(ended);
        }
    }

    pub(crate) fn has_arrived(&mut self) -> bool {
        while let Some(ended) = self.uploads.try_join_next() {
            self.note(ended);
        }
        self.uploads.is_empty()
    }
}

fn fail_all(parts: &mut [Part], error: &Error) {
    for part in parts {
        part.outcome = Err(error.clone());
    }
}

/// Sends bytes as blobs. It knows nothing of what they are content of but numbers.
pub(crate) struct Uploads {
    session: Session,
    counters: Arc<Counters>,
    runtime: Runtime,
    permits: Semaphore,
}

impl Uploads {
    pub(crate) fn new(session: Session, counters: Arc<Counters>, runtime: Runtime) -> Self {
        Uploads { session, counters, runtime, permits: Semaphore::new(UNDER_WAY) }
    }

    /// Makes blobs of the content and sends them.
    pub(crate) async fn upload(self: &Arc<Self>, parts: Vec<Part>) -> Vec<Part> {
        let mut round = self.begin_round(parts).await;
        round.arrived().await;
        round.parts
    }

    /// Makes numbered blobs of the content, each with the place of its part. Parts fail for which there are no numbers.
    async fn number_blobs(&self, parts: &mut [Part]) -> Vec<(usize, BlobId, Draft)> {
        let mut drafts: Vec<(usize, Draft)> = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            for chunk in &part.chunks {
                drafts.extend(pack(part.node.ino, chunk).into_iter().map(|draft| (index, draft)));
            }
        }
        let first = match self.session.new_blob_ids(drafts.len() as u32).await {
            Ok(first) => first,
            Err(error) => {
                fail_all(parts, &error);
                return Vec::new();
            }
        };
        let number = |(number, (index, draft)): (usize, (usize, Draft))| {
            let blob = BlobId(first.0 + number as u64);
            if let Some(part) = parts.get_mut(index) {
                part.extents.extend(draft.extents(blob));
            }
            (index, blob, draft)
        };
        drafts.into_iter().enumerate().map(number).collect()
    }

    /// Makes blobs of little content, to be sent along with the changes that refer to them.
    pub(crate) async fn seal_few(&self, parts: &mut [Part]) -> (Vec<BlobHeader>, Vec<Bytes>) {
        if parts.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let blobs = self.number_blobs(parts).await;
        add(&self.counters.blobs_flushed, blobs.len() as u64);
        add(&self.counters.bytes_flushed, blobs.iter().map(|(_, _, draft)| draft.data.len() as u64).sum());
        let sealed = blobs.into_iter().map(|(_, blob, draft)| draft.seal(blob));
        sealed.map(|sealed| (sealed.header, sealed.data)).unzip()
    }

    /// Makes blobs of the content and begins to send them.
    pub(crate) async fn begin_round(self: &Arc<Self>, mut parts: Vec<Part>) -> Round {
        let mut uploads = JoinSet::new();
        let mut requests: Vec<Vec<(usize, BlobId, Draft)>> = Vec::new();
        let mut bytes = 0;
        for (index, blob, draft) in self.number_blobs(&mut parts).await {
            let length = draft.data.len();
            match requests.last_mut() {
                Some(request) if bytes + length <= REQUEST_BYTES && request.len() < REQUEST_BLOBS => {
                    bytes += length;
                    request.push((index, blob, draft));
                }
                _ => {
                    bytes = length;
                    requests.push(vec![(index, blob, draft)]);
                }
            }
        }
        for request in requests {
            let members: Vec<usize> = request.iter().map(|(index, _, _)| *index).collect();
            let uploads_of = Arc::clone(self);
            uploads.spawn_on(async move { (members, uploads_of.send_blobs(request).await) }, &self.runtime);
        }
        Round { parts, uploads }
    }

    /// Sends blobs in one request.
    async fn send_blobs(&self, request: Vec<(usize, BlobId, Draft)>) -> FsResult<()> {
        let _permit = self.permits.acquire().await.map_err(|_| Errno::ESHUTDOWN)?;
        let bytes: usize = request.iter().map(|(_, _, draft)| draft.data.len()).sum();
        let seal = move || request.into_iter().map(|(_, blob, draft)| draft.seal(blob)).collect::<Vec<Sealed>>();
        let sealed =
            if bytes > SEAL_INLINE { self.runtime.spawn_blocking(seal).await.map_err(|_| Errno::EIO)? } else { seal() };
        let blobs = sealed.len() as u64;
        let (headers, data): (Vec<BlobHeader>, Vec<Bytes>) =
            sealed.into_iter().map(|sealed| (sealed.header, sealed.data)).unzip();
        self.session.put_blobs(headers, data).await?;
        add(&self.counters.bytes_flushed, bytes as u64);
        add(&self.counters.blobs_flushed, blobs);
        Ok(())
    }
}
