//! Events on their way to the client: numbered, in the order in which they were emitted.

use std::sync::Arc;

use parking_lot::Mutex;
use sensorium_transport::{Outbox, Payload};
use sensorium_wire::codec::{self, put_frame};
use sensorium_wire::{Event, EventBody, Kind, Receipt, limits};
use tokio::sync::Notify;

struct Stream {
    outbox: Outbox,
    number: u64,
    /// The latest session time that an event spoke of.
    latest_ms: u64,
    closed: bool,
}

/// A session's stream of events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    shared: Arc<(Mutex<Stream>, Notify)>,
}

impl Events {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self {
            shared: Arc::new((Mutex::new(Stream { outbox, number: 0, latest_ms: 0, closed: false }), Notify::new())),
        }
    }

    /// Sends an event. After the last one nothing is sent.
    pub(crate) fn emit(&self, t_ms: u64, body: EventBody, receipt: Option<Receipt>) {
        let mut stream = self.shared.0.lock();
        if stream.closed {
            return;
        }
        stream.latest_ms = stream.latest_ms.max(t_ms);
        let event = Event { t_ms, number: stream.number, body, receipt };
        let archive = codec::encode(&event);
        if archive.len() as u64 > limits::EVENT_BYTES_MAX {
            tracing::warn!(bytes = archive.len(), "event too long; not sent");
            return;
        }
        let pushed = stream
            .outbox
            .push(|out| put_frame(out, Kind::Event, 0, &[], archive.len() as u64), Payload::Copied(&archive));
        match pushed {
            Ok(()) => stream.number += 1,
            // Gone, or so slow that its events would fill the node's memory: either way nobody listens.
            Err(_) => {
                stream.closed = true;
                stream.outbox.close();
                self.shared.1.notify_waiters();
            }
        }
    }

    /// The session is complete.
    pub(crate) fn finish(&self, frames: u64, audio_ms: u64, gaps: u64) {
        self.last(EventBody::Closed { complete: true, frames, audio_ms, gaps, error: String::new() });
    }

    /// The session ended early. Does nothing when it has ended already.
    pub(crate) fn close(&self, reason: &str) {
        let error = reason.to_owned();
        self.last(EventBody::Closed { complete: false, frames: 0, audio_ms: 0, gaps: 0, error });
    }

    fn last(&self, body: EventBody) {
        let latest_ms = self.shared.0.lock().latest_ms;
        self.emit(latest_ms, body, None);
        let mut stream = self.shared.0.lock();
        if !stream.closed {
            stream.closed = true;
            stream.outbox.finish();
        }
    }

    /// Resolves when the client is gone.
    pub(crate) async fn abandoned(&self) {
        let outbox = self.shared.0.lock().outbox.clone();
        tokio::select! {
            () = outbox.wait_for_end() => {}
            () = self.shared.1.notified() => {}
        }
    }
}
