//! The latest events of a source, for whoever watches: one bounded ring that all watchers read at their own pace.
//!
//! Whoever reads too slowly finds that what it wants is no longer there; nobody else notices, and the source never does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use sensorium_device::clock::now_ns;
use sensorium_wire::{Event, EventBody};
use tokio::sync::watch;

/// Events that are kept, and their bytes. The oldest go.
pub(crate) const RING_EVENTS_MAX: usize = 2_048;
pub(crate) const RING_BYTES_MAX: usize = 4 << 20;

#[derive(Default)]
struct Kept {
    /// Number of the first event that is kept.
    first: u64,
    events: VecDeque<Bytes>,
    bytes: usize,
    /// What the source is, for those who come later.
    opened: Option<Bytes>,
    closed: bool,
}

/// The events of one epoch.
pub(crate) struct Ring {
    pub(crate) epoch: u64,
    /// Nothing is taken from here on: the lease has lapsed. Of the machine's monotonic clock.
    until_ns: AtomicU64,
    kept: Mutex<Kept>,
    /// How many there were.
    changed: watch::Sender<u64>,
}

/// What there is for one watcher.
pub(crate) struct Batch {
    pub(crate) events: Vec<Bytes>,
    /// Events before these that are not there any more.
    pub(crate) missed: u64,
    /// Where to go on.
    pub(crate) next: u64,
    /// Nothing more will come.
    pub(crate) closed: bool,
}

impl Ring {
    pub(crate) fn new(epoch: u64, until_ns: u64) -> Self {
        Self { epoch, until_ns: AtomicU64::new(until_ns), kept: Mutex::default(), changed: watch::Sender::new(0) }
    }

    /// The lease was renewed.
    pub(crate) fn extend(&self, until_ns: u64) {
        self.until_ns.store(until_ns, Ordering::Release);
    }

    /// Takes the next event; `false` when the ring is closed or the lease has lapsed.
    pub(crate) fn push(&self, event: &Event, archive: &[u8]) -> bool {
        if now_ns() >= self.until_ns.load(Ordering::Acquire) {
            return false;
        }
        let archive = Bytes::copy_from_slice(archive);
        let mut kept = self.kept.lock();
        if kept.closed {
            return false;
        }
        if matches!(event.body, EventBody::Opened { .. }) {
            kept.opened = Some(archive.clone());
        }
        kept.bytes += archive.len();
        kept.events.push_back(archive);
        while kept.events.len() > RING_EVENTS_MAX || kept.bytes > RING_BYTES_MAX {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.len();
            kept.first += 1;
        }
        let count = kept.first + kept.events.len() as u64;
        drop(kept);
        self.changed.send_replace(count);
        true
    }

    /// Nothing more comes.
    pub(crate) fn close(&self) {
        self.kept.lock().closed = true;
        self.changed.send_modify(|_| {});
    }

    /// The number of the next event.
    pub(crate) fn next(&self) -> u64 {
        *self.changed.borrow()
    }

    /// What the source is, as its owner found it last.
    pub(crate) fn opened(&self) -> Option<Bytes> {
        self.kept.lock().opened.clone()
    }

    /// Tells of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Events from number `from` on, at most `events_max`.
    pub(crate) fn read(&self, from: u64, events_max: usize) -> Batch {
        let kept = self.kept.lock();
        let end = kept.first + kept.events.len() as u64;
        // A number from the future is somebody's mistake: it goes on with what comes next.
        let start = from.clamp(kept.first, end);
        let skipped = usize::try_from(start - kept.first).unwrap_or(usize::MAX);
        let events: Vec<_> = kept.events.iter().skip(skipped).take(events_max).cloned().collect();
        let next = start + events.len() as u64;
        Batch { missed: start.saturating_sub(from), closed: kept.closed && next == end, events, next }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensorium_wire::codec;

    use super::*;

    fn event(number: u64, text: usize) -> Event {
        let body = EventBody::Notice { text: "x".repeat(text) };
        Event { t_ms: 0, number, body, receipt: None }
    }

    fn push(ring: &Ring, number: u64, text: usize) -> bool {
        let event = event(number, text);
        ring.push(&event, &codec::encode(&event))
    }

    fn number(bytes: &Bytes) -> u64 {
        codec::decode::<Event>(bytes).unwrap().number
    }

    #[test]
    fn who_reads_too_slowly_is_told_how_much_it_missed() {
        let ring = Ring::new(1, u64::MAX);
        for at in 0..RING_EVENTS_MAX as u64 + 10 {
            assert!(push(&ring, at, 1));
        }
        let batch = ring.read(4, 3);
        assert_eq!((batch.missed, batch.next, batch.closed), (6, 13, false));
        assert_eq!(batch.events.iter().map(number).collect::<Vec<_>>(), [10, 11, 12]);
        let batch = ring.read(ring.next(), 3);
        assert_eq!((batch.events.len(), batch.missed), (0, 0));
        assert_eq!(ring.read(u64::MAX, 3).missed, 0);
        ring.close();
        assert!(!push(&ring, 0, 1));
        assert!(ring.read(ring.next(), 3).closed && !ring.read(20, 3).closed);
    }

    #[test]
    fn nothing_is_taken_after_the_lease_has_lapsed() {
        let ring = Ring::new(1, 0);
        assert!(!push(&ring, 0, 1));
        ring.extend(u64::MAX);
        assert!(push(&ring, 0, 1));
    }

    proptest! {
        #[test]
        fn every_event_is_read_or_counted_as_missed(acts in prop::collection::vec((0..200_usize, 0..40_usize), 1..60)) {
            let ring = Ring::new(1, u64::MAX);
            let (mut pushed, mut cursor, mut had, mut missed) = (0_u64, 0, 0, 0);
            for (pushes, reads) in acts {
                for _ in 0..pushes {
                    prop_assert!(push(&ring, pushed, 20_000));
                    pushed += 1;
                }
                let batch = ring.read(cursor, reads);
                missed += batch.missed;
                for (bytes, expected) in batch.events.iter().zip(cursor + batch.missed..) {
                    prop_assert_eq!(number(bytes), expected);
                }
                had += batch.events.len() as u64;
                cursor = batch.next;
            }
            let rest = ring.read(cursor, usize::MAX);
            prop_assert_eq!(had + missed + rest.missed + rest.events.len() as u64, pushed);
            prop_assert!(ring.kept.lock().bytes <= RING_BYTES_MAX);
        }
    }
}
