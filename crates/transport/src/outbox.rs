//! Frames on their way to one stream, coalesced: whoever has something to say appends it, one task writes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// Payloads up to this size are copied behind their header; larger ones are passed on as they are.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// Copied bytes are cut into pieces of about this size.
const PIECE_BYTES: usize = 64 << 10;

#[derive(Default)]
struct Queue {
    open: BytesMut,
    pieces: Vec<Bytes>,
    queued_bytes: usize,
    finished: bool,
    closed: bool,
}

/// A bounded buffer between many writers and one stream. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
    queued_bytes_max: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Notify,
    ended: watch::Sender<bool>,
}

/// The other side reads too slowly, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxError {
    /// More than the limit is waiting to be written.
    Full,
    /// The stream has ended.
    Closed,
}

impl Outbox {
    #[must_use]
    pub fn new(queued_bytes_max: usize) -> Self {
        let shared =
            Shared { queue: Mutex::new(Queue::default()), changed: Notify::new(), ended: watch::Sender::new(false) };
        Self { shared: Arc::new(shared), queued_bytes_max }
    }

    /// Appends a head (written by `head`) and a payload.
    ///
    /// # Errors
    /// [`OutboxError`]; nothing is appended then.
    pub fn push(&self, head: impl FnOnce(&mut BytesMut), payload: Payload<'_>) -> Result<(), OutboxError> {
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed || queue.finished {
                return Err(OutboxError::Closed);
            }
            if queue.queued_bytes > self.queued_bytes_max {
                return Err(OutboxError::Full);
            }
            if queue.open.capacity() - queue.open.len() < 4096 {
                queue.open.reserve(PIECE_BYTES);
            }
            let before = queue.open.len();
            head(&mut queue.open);
            let mut added = queue.open.len() - before;
            match payload {
                Payload::Copied(bytes) => {
                    queue.open.extend_from_slice(bytes);
                    added += bytes.len();
                }
                Payload::Shared(bytes) if bytes.len() <= COPIED_BYTES_MAX => {
                    queue.open.extend_from_slice(&bytes);
                    added += bytes.len();
                }
                Payload::Shared(bytes) => {
                    let open = queue.open.split().freeze();
                    queue.pieces.push(open);
                    added += bytes.len();
                    queue.pieces.push(bytes);
                }
            }
            if queue.open.len() >= PIECE_BYTES {
                let open = queue.open.split().freeze();
                queue.pieces.push(open);
            }
            queue.queued_bytes += added;
        }
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Returns when there is something to write, or nothing more will come.
    pub async fn wait_for_first(&self) {
        loop {
            {
                let queue = self.shared.queue.lock();
                if !queue.open.is_empty() || !queue.pieces.is_empty() || queue.finished || queue.closed {
                    return;
                }
            }
            self.shared.changed.notified().await;
        }
    }

    /// Returns when nobody will read what is appended any more.
    pub async fn wait_for_end(&self) {
        let _ = self.shared.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Ends the stream after what is queued.
    pub fn finish(&self) {
        self.shared.queue.lock().finished = true;
        self.shared.changed.notify_one();
    }

    /// Forgets what is queued and refuses more; the writer ends.
    pub fn close(&self) {
        let mut queue = self.shared.queue.lock();
        *queue = Queue { closed: true, ..Queue::default() };
        drop(queue);
        self.shared.changed.notify_one();
        self.shared.ended.send_replace(true);
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.shared.queue.lock().queued_bytes
    }

    /// Writes what is appended to `stream` until it is finished or closed, or the stream fails. Run by one task.
    pub async fn write_to(&self, stream: &mut quinn::SendStream) {
        loop {
            let (mut pieces, bytes) = match self.take() {
                Taken::Nothing => {
                    self.shared.changed.notified().await;
                    continue;
                }
                Taken::Finished => {
                    let _ = stream.finish();
                    return;
                }
                Taken::Closed => {
                    let _ = stream.reset(0_u32.into());
                    return;
                }
                Taken::Pieces(pieces, bytes) => (pieces, bytes),
            };
            if stream.write_all_chunks(&mut pieces).await.is_err() {
                self.close();
                return;
            }
            let mut queue = self.shared.queue.lock();
            queue.queued_bytes = queue.queued_bytes.saturating_sub(bytes);
        }
    }

    fn take(&self) -> Taken {
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return Taken::Closed;
        }
        if queue.open.is_empty() && queue.pieces.is_empty() {
            return if queue.finished { Taken::Finished } else { Taken::Nothing };
        }
        let mut pieces = std::mem::take(&mut queue.pieces);
        if !queue.open.is_empty() {
            pieces.push(queue.open.split().freeze());
        }
        let bytes = pieces.iter().map(Bytes::len).sum();
        Taken::Pieces(pieces, bytes)
    }
}

enum Taken {
    Nothing,
    Pieces(Vec<Bytes>, usize),
    Finished,
    Closed,
}

/// A payload to append.
pub enum Payload<'a> {
    /// Copied at once.
    Copied(&'a [u8]),
    /// Kept until it has been acknowledged, unless it is small.
    Shared(Bytes),
}

impl Payload<'_> {
    /// No payload.
    pub const EMPTY: Payload<'static> = Payload::Copied(&[]);
}
