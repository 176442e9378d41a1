//! One connection's stream of frames, guarded against peers that are slow: what reads, and what several tasks write to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_wire::{Frame, FrameError, FrameKind, FrameLimits, FrameReader, FrameWriter, frame};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::config::Limits;
use crate::stream::{CountingReader, ReadHalf, StallGuard, WriteHalf};

/// How often a silent connection is looked at, at least: it is what a slow frame may take beyond its time.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why nothing more is read from a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame was begun and did not arrive in time")]
    TooSlow,
}

/// Reads frames and gives up on one that does not arrive in time. A peer may be silent between frames for as long as it likes.
pub(crate) struct LinkReader {
    frames: FrameReader<CountingReader>,
    received: Arc<AtomicU64>,
    /// Bytes of all frames that were returned.
    consumed: u64,
    allowed: Duration,
    slowest_bytes_per_second: u64,
    look_every: Duration,
}

impl LinkReader {
    pub(crate) fn new(stream: ReadHalf, limits: &Limits) -> Self {
        let (counting, received) = CountingReader::new(stream);
        LinkReader {
            frames: FrameReader::new(counting, FrameLimits::HANDSHAKE),
            received,
            consumed: 0,
            allowed: limits.frame,
            slowest_bytes_per_second: limits.slowest_bytes_per_second.max(1),
            look_every: LOOK_EVERY.min(limits.frame / 4),
        }
    }

    /// The peer is known now: it may send whole requests.
    pub(crate) fn let_in(&mut self) {
        self.frames.set_limits(FrameLimits::SESSION);
    }

    /// Waits for the next frame. Safe to drop while waiting.
    pub(crate) async fn read(&mut self) -> Result<Frame, ReadError> {
        let mut begun: Option<Instant> = None;
        loop {
            if let Ok(frame) = timeout_at(Instant::now() + self.look_every, self.frames.read()).await {
                let frame = frame?;
                self.consumed += (frame::HEADER + frame.message.len() + frame.bulk.len()) as u64;
                return Ok(frame);
            }
            let partial = self.received.load(Ordering::Relaxed).saturating_sub(self.consumed);
            if partial == 0 {
                continue;
            }
            // It began at some time since the last look; to count from now on is in the peer's favour.
            let begun = *begun.get_or_insert_with(Instant::now);
            let for_its_size = Duration::from_secs(partial / self.slowest_bytes_per_second);
            if begun.elapsed() >= self.allowed + for_its_size {
                return Err(ReadError::TooSlow);
            }
        }
    }
}

/// Writes frames, from any number of tasks, each frame whole.
#[derive(Clone)]
pub(crate) struct LinkWriter {
    frames: Arc<Mutex<FrameWriter<StallGuard>>>,
}

impl LinkWriter {
    pub(crate) fn new(stream: WriteHalf, limits: &Limits) -> Self {
        LinkWriter { frames: Arc::new(Mutex::new(FrameWriter::new(StallGuard::new(stream, limits.write_stall)))) }
    }

    /// Sends one frame. After an error the connection is of no more use. A future that is dropped half way spoils it, too.
    pub(crate) async fn send<T: Serialize>(
        &self,
        kind: FrameKind,
        correlation: u64,
        message: &T,
        bulk: &[Bytes],
    ) -> Result<(), FrameError> {
        self.frames.lock().await.write(kind, correlation, message, bulk).await
    }

    /// Tells the peer that nothing more will come.
    pub(crate) async fn shutdown(&self) {
        // A peer that is gone need not be told.
        let _ = self.frames.lock().await.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn frame_bytes(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        FrameWriter::new(&mut bytes).write(FrameKind::Hello, 0, &text, &[]).await.expect("written");
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_frames_is_allowed_and_within_one_is_not() {
        let (near, mut far) = tokio::io::duplex(4096);
        let mut reader = LinkReader::new(Box::new(near), &Limits::default());
        let bytes = frame_bytes("hello").await;
        let peer = tokio::spawn(async move {
            far.write_all(&bytes).await.expect("written");
            tokio::time::sleep(Duration::from_secs(3600)).await;
            far.write_all(&bytes).await.expect("written");
            for byte in bytes {
                if far.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
        });
        assert!(reader.read().await.is_ok());
        assert!(reader.read().await.is_ok(), "an hour of silence");
        let begin = Instant::now();
        assert!(matches!(reader.read().await, Err(ReadError::TooSlow)));
        assert!((30..=41).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
        peer.abort();
    }
}
