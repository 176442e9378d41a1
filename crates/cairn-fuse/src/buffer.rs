//! Buffers into which requests are read, and which large writes take away with them instead of being copied.

use std::sync::Arc;

use cairn_locks::Mutex;

use crate::lock_order;

/// Free buffers, kept because a fresh one costs a page fault for every 4 KiB.
#[derive(Debug)]
pub(crate) struct BufferPool {
    free: Mutex<Vec<Box<[u8]>>, lock_order::SpareBuffers>,
    /// Length of each buffer, in bytes.
    length: usize,
    /// Most buffers that are kept while nobody uses them.
    keep: usize,
}

impl BufferPool {
    pub(crate) fn new(length: usize, keep: usize) -> Arc<Self> {
        Arc::new(BufferPool { free: Mutex::new(Vec::new()), length, keep })
    }

    pub(crate) fn take(self: &Arc<Self>) -> Buffer {
        let recycled = self.free.lock().pop();
        Buffer { bytes: recycled.unwrap_or_else(|| vec![0; self.length].into()), pool: Arc::clone(self) }
    }
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = self.pool.free.lock();
        if free.len() < self.pool.keep {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_up_to_the_limit() {
        let pool = BufferPool::new(16, 2);
        let taken: Vec<Buffer> = (0..3).map(|_| pool.take()).collect();
        assert!(taken.iter().all(|buffer| buffer.as_ref().len() == 16));
        drop(taken);
        assert_eq!(pool.free.lock().len(), 2);
        let _one = pool.take();
        assert_eq!(pool.free.lock().len(), 1);
    }
}
