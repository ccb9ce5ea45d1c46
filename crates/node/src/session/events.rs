//! Events on their way to the client: numbered, in the order in which they were emitted.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use sensorium_pipelines::session::{TAIL_BYTES_MAX, TAIL_EVENTS_MAX, Tail};
use sensorium_transport::{Outbox, Payload};
use sensorium_wire::codec::{self, put_frame};
use sensorium_wire::{Event, EventBody, Kind, Modality, Receipt, limits};
use tokio::sync::Notify;

use crate::source::Ring;

/// A part of a session, as far as events go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Video,
    Audio,
    Fusion,
}

impl Part {
    const COUNT: usize = 3;

    /// Whose event it is; `None` for what is not evidence.
    fn of(body: &EventBody) -> Option<Self> {
        match body {
            EventBody::Detection { .. } | EventBody::Track { .. } => Some(Self::Video),
            EventBody::Sound { .. } | EventBody::Speech { .. } | EventBody::Transcript { .. } => Some(Self::Audio),
            EventBody::Fusion { .. } => Some(Self::Fusion),
            EventBody::Gap { modality, .. } => [Self::Video, Self::Audio, Self::Fusion]
                .into_iter()
                .zip([Modality::Visual, Modality::Audio, Modality::Fusion])
                .find_map(|(part, name)| (modality.as_str() == name.name()).then_some(part)),
            EventBody::Opened { .. }
            | EventBody::Notice { .. }
            | EventBody::Closed { .. }
            | EventBody::Resumed { .. }
            | EventBody::Missed { .. } => None,
        }
    }
}

/// The latest events of a part, and its gaps.
#[derive(Default)]
struct Told {
    tail: VecDeque<Vec<u8>>,
    tail_bytes: usize,
    gaps: u64,
}

impl Told {
    fn note(&mut self, body: &EventBody, archive: &[u8]) {
        self.gaps += u64::from(matches!(body, EventBody::Gap { .. }));
        self.tail_bytes += archive.len();
        self.tail.push_back(archive.to_vec());
        while self.tail.len() > TAIL_EVENTS_MAX || self.tail_bytes > TAIL_BYTES_MAX {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.len();
        }
    }
}

/// Where events go.
enum Sink {
    /// To the client whose session it is.
    Client(Outbox),
    /// To whoever watches.
    Ring(Arc<Ring>),
}

struct Stream {
    sink: Sink,
    number: u64,
    told: [Told; Part::COUNT],
    /// The latest session time that an event spoke of.
    latest_ms: u64,
    closed: bool,
}

impl Sink {
    fn close(&self) {
        match self {
            Self::Client(outbox) => outbox.close(),
            Self::Ring(ring) => ring.close(),
        }
    }
}

/// A session's stream of events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    shared: Arc<(Mutex<Stream>, Notify)>,
}

impl Events {
    /// `number` is that of the first event.
    pub(crate) fn new(outbox: Outbox, number: u64) -> Self {
        Self::to(Sink::Client(outbox), number)
    }

    /// The events of a source, for whoever watches.
    pub(crate) fn of_source(ring: Arc<Ring>) -> Self {
        Self::to(Sink::Ring(ring), 0)
    }

    fn to(sink: Sink, number: u64) -> Self {
        let stream = Stream { sink, number, told: Default::default(), latest_ms: 0, closed: false };
        Self { shared: Arc::new((Mutex::new(stream), Notify::new())) }
    }

    /// The latest events of a part, and how many gaps it had.
    pub(super) fn told(&self, part: Part) -> (Tail, u64) {
        let stream = self.shared.0.lock();
        let told = &stream.told[part as usize];
        (told.tail.iter().cloned().collect(), told.gaps)
    }

    /// Gaps of all parts.
    fn gaps(&self) -> u64 {
        self.shared.0.lock().told.iter().map(|told| told.gaps).sum()
    }

    /// Goes on from what a part had told before: its latest events are sent again, because the client may not have them.
    pub(super) fn retell(&self, part: Part, tail: &Tail, gaps: u64) {
        for event in tail.iter().filter_map(|archive| codec::decode::<Event>(archive)) {
            if Part::of(&event.body) == Some(part) {
                self.emit(event.t_ms, event.body, event.receipt);
            }
        }
        self.shared.0.lock().told[part as usize].gaps = gaps;
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
        let taken = match &stream.sink {
            Sink::Client(outbox) => outbox
                .push(|out| put_frame(out, Kind::Event, 0, &[], archive.len() as u64), Payload::Copied(&archive))
                .is_ok(),
            Sink::Ring(ring) => ring.push(&event, &archive),
        };
        match taken {
            true => {
                stream.number += 1;
                if let Some(part) = Part::of(&event.body) {
                    stream.told[part as usize].note(&event.body, &archive);
                }
            }
            // Gone, or so slow that its events would fill the node's memory: either way nobody listens.
            false => {
                stream.closed = true;
                stream.sink.close();
                self.shared.1.notify_waiters();
            }
        }
    }

    /// The session is complete.
    pub(crate) fn finish(&self, frames: u64, audio_ms: u64) {
        let gaps = self.gaps();
        self.last(EventBody::Closed { complete: true, frames, audio_ms, gaps, error: String::new() });
    }

    /// Another node goes on with the session: the stream ends without a last event, by which the client knows.
    pub(super) fn hand_over(&self) {
        let mut stream = self.shared.0.lock();
        if !stream.closed {
            stream.closed = true;
            match &stream.sink {
                Sink::Client(outbox) => outbox.finish(),
                Sink::Ring(ring) => ring.close(),
            }
        }
    }

    /// The session ended early. Does nothing when it has ended already.
    pub(crate) fn close(&self, reason: &str) {
        let error = reason.to_owned();
        self.last(EventBody::Closed { complete: false, frames: 0, audio_ms: 0, gaps: 0, error });
    }

    fn last(&self, body: EventBody) {
        let latest_ms = self.shared.0.lock().latest_ms;
        self.emit(latest_ms, body, None);
        self.hand_over();
    }

    /// Resolves when the client is gone.
    pub(crate) async fn abandoned(&self) {
        let outbox = match &self.shared.0.lock().sink {
            Sink::Client(outbox) => Some(outbox.clone()),
            Sink::Ring(_) => None,
        };
        let gone = async {
            match outbox {
                Some(outbox) => outbox.wait_for_end().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = gone => {}
            () = self.shared.1.notified() => {}
        }
    }
}
