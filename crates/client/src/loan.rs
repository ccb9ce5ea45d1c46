//! Payload buffers on loan: filled by the application, given back when the node has acknowledged them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Most idle buffers that are kept.
const IDLE_BUFFERS_MAX: usize = 64;
/// Most bytes of idle buffers that are kept.
const IDLE_BYTES_MAX: usize = 256 << 20;

#[derive(Default)]
struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

/// Idle buffers.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    idle: Arc<Mutex<Idle>>,
}

impl Pool {
    pub(crate) fn loan(&self, bytes: usize) -> Loan {
        let mut idle = self.idle.lock();
        let found = idle.buffers.iter().rposition(|buffer| buffer.capacity() >= bytes);
        let mut buffer = found.map_or_else(Vec::new, |at| idle.buffers.swap_remove(at));
        idle.bytes -= buffer.capacity();
        drop(idle);
        buffer.resize(bytes, 0);
        Loan { buffer, pool: self.clone() }
    }
}

/// A buffer on loan. Turn it into [`Bytes`] by passing it to `submit`.
pub struct Loan {
    buffer: Vec<u8>,
    pool: Pool,
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl From<Loan> for Bytes {
    fn from(loan: Loan) -> Self {
        Self::from_owner(loan)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut idle = self.pool.idle.lock();
        if idle.buffers.len() < IDLE_BUFFERS_MAX && idle.bytes + buffer.capacity() <= IDLE_BYTES_MAX {
            idle.bytes += buffer.capacity();
            idle.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_reference_is_gone() {
        let pool = Pool::default();
        let mut loan = pool.loan(1000);
        loan[0] = 7;
        let place = loan.as_ptr();
        let bytes = Bytes::from(loan);
        let other = bytes.clone();
        drop(bytes);
        assert!(pool.idle.lock().buffers.is_empty());
        drop(other);
        assert_eq!(pool.loan(900).as_ptr(), place);
    }
}
