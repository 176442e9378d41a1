//! Byte streams of any kind behind one type, with what keeps a slow peer from holding on for ever.
//!
//! [`CountingReader`] counts what has arrived, so that the reader of frames can tell a peer that is idle between two frames
//! from one that stopped in the middle of one. [`StallGuard`] fails a write when the peer takes nothing for too long.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The two directions of a connection, whatever it runs over.
pub(crate) type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
pub(crate) type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// Counts the bytes that are read through it.
pub(crate) struct CountingReader {
    stream: ReadHalf,
    received: Arc<AtomicU64>,
}

impl CountingReader {
    /// The reader, and the count of bytes that have come through it so far.
    pub(crate) fn new(stream: ReadHalf) -> (Self, Arc<AtomicU64>) {
        let received = Arc::new(AtomicU64::new(0));
        (CountingReader { stream, received: Arc::clone(&received) }, received)
    }
}

impl AsyncRead for CountingReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len().saturating_sub(before);
        self.received.fetch_add(read as u64, Ordering::Relaxed);
        outcome
    }
}

/// Fails a write with `TimedOut` once the peer has taken nothing for `limit`.
pub(crate) struct StallGuard {
    stream: WriteHalf,
    limit: Duration,
    /// Runs while a write waits. Made only then: most writes never wait.
    deadline: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl StallGuard {
    pub(crate) fn new(stream: WriteHalf, limit: Duration) -> Self {
        StallGuard { stream, limit, deadline: None, waiting: false }
    }

    fn guard<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.waiting = false;
            return outcome;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waiting {
            deadline.as_mut().reset(Instant::now() + limit);
            self.waiting = true;
        }
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for StallGuard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.guard(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.guard(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.guard(context, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.guard(context, outcome)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_only_when_nothing_is_taken_for_the_limit() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut writer = StallGuard::new(Box::new(near), Duration::from_secs(30));
        let slow_reader = tokio::spawn(async move {
            let mut taken = [0u8; 10];
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                far.read_exact(&mut taken).await.expect("read");
            }
            far
        });
        // Takes 80 s altogether, but never 30 s without progress.
        writer.write_all(&[1; 50]).await.expect("written, slowly");
        let _far = slow_reader.await.expect("reader");
        let begin = Instant::now();
        let error = writer.write_all(&[2; 50]).await.expect_err("stalled");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn what_arrives_is_counted() {
        let (near, mut far) = tokio::io::duplex(64);
        let (mut reader, received) = CountingReader::new(Box::new(near));
        far.write_all(b"twelve bytes").await.expect("written");
        drop(far);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.expect("read");
        assert_eq!(received.load(Ordering::Relaxed), 12);
    }
}
