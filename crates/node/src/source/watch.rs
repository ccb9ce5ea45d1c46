//! One watcher: events from the ring to its stream, as fast as it reads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sensorium_transport::{Outbox, Payload};
use sensorium_wire::codec::{self, FrameWriter, put_frame};
use sensorium_wire::source::OwnerHeader;
use sensorium_wire::source::WatchHeader;
use sensorium_wire::{Event, EventBody, Kind, Name};

use super::{Place, Ring, Source};
use crate::cluster::Cluster;

/// Bytes that may wait for one watcher; the ring has the rest.
const WATCHER_QUEUED_BYTES_MAX: usize = 256 << 10;
/// Events that are handed over at once.
const BATCH_EVENTS_MAX: usize = 64;
/// How often a watcher that reads slowly is looked at, in milliseconds.
const SLOW_PAUSE_MS: u64 = 20;
/// When it is worth asking again who owns a source, in milliseconds.
const RETRY_MS: u64 = 100;

/// Counts a watcher for as long as it lives.
struct Counted<'a>(&'a Source);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves a watcher until it is gone, or tells it who owns the source.
pub(crate) async fn serve(
    cluster: Arc<Cluster>,
    source: Arc<Source>,
    from: WatchHeader,
    outbox: Outbox,
    _place: Arc<()>,
) {
    source.watchers.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(&source);
    if let Some(ring) = source.ring() {
        let here = OwnerHeader { epoch: ring.epoch, node: cluster.engine.node, here: 1, ..OwnerHeader::default() };
        tell(&outbox, &here);
        tokio::select! {
            () = send(&source, &ring, &from, &outbox) => {}
            () = outbox.wait_for_end() => return,
        }
    }
    tell(&outbox, &source.elsewhere(&cluster));
    outbox.finish();
}

fn tell(outbox: &Outbox, owner: &OwnerHeader) {
    let _ = outbox.push(|out| FrameWriter::default().put(out, Kind::Owner, 0, owner, 0), Payload::EMPTY);
}

/// Sends what the watcher has not had, until the ring is closed.
async fn send(source: &Source, ring: &Ring, from: &WatchHeader, outbox: &Outbox) {
    let push = |event: &[u8]| {
        outbox.push(|out| put_frame(out, Kind::Event, 0, &[], event.len() as u64), Payload::Copied(event)).is_ok()
    };
    let mut changed = ring.subscribe();
    let mut next = match from.epoch {
        // A new watcher begins now, and is told what the source is.
        0 => {
            let next = ring.next();
            if let Some(opened) = ring.opened()
                && !push(&opened)
            {
                return;
            }
            next
        }
        epoch if epoch == ring.epoch => from.next_event,
        // What the owner before had told last is at the ring's beginning.
        _ => 0,
    };
    loop {
        changed.borrow_and_update();
        if outbox.queued_bytes() >= WATCHER_QUEUED_BYTES_MAX {
            tokio::time::sleep(Duration::from_millis(SLOW_PAUSE_MS)).await;
            continue;
        }
        let batch = ring.read(next, BATCH_EVENTS_MAX);
        if batch.missed > 0 {
            source.missed.fetch_add(batch.missed, Ordering::Relaxed);
            let body = EventBody::Missed { events: batch.missed };
            let number = (next + batch.missed).saturating_sub(1);
            if !push(&codec::encode(&Event { t_ms: 0, number, body, receipt: None })) {
                return;
            }
        }
        if !batch.events.iter().all(|event| push(event)) || batch.closed {
            return;
        }
        let waits = batch.events.is_empty();
        next = batch.next;
        if waits && changed.changed().await.is_err() {
            return;
        }
    }
}

impl Source {
    /// Who owns it, or who may know.
    fn elsewhere(&self, cluster: &Cluster) -> OwnerHeader {
        let nobody = OwnerHeader { retry_after_ms: RETRY_MS, ..OwnerHeader::default() };
        let named = |name: &str, api: SocketAddr, epoch: u64| OwnerHeader {
            epoch,
            node: Name::cut(name),
            api: Name::cut(&api.to_string()),
            ..nobody
        };
        let Some((topology, me)) = cluster.topology() else { return nobody };
        let known = self.state.lock().other.or_else(|| cluster.lease_holder(&self.spec.name));
        if let Some((owner, epoch)) = known {
            let spec = topology.nodes.iter().find(|spec| spec.id() == owner && spec.name != me);
            return spec.map_or(nobody, |spec| named(&spec.name, spec.api, epoch));
        }
        // The grantor, and those that ask it, know that nobody owns it; of the others any may know more.
        let grantor = topology.grantor_of(&self.spec);
        if matches!(self.place, Place::Candidate { .. }) || grantor.is_some_and(|grantor| grantor.name == me) {
            return nobody;
        }
        let others: Vec<_> = self.spec.nodes.iter().filter_map(|name| topology.node(name)).chain(grantor).collect();
        let Some(any) = others.get(rand::random_range(0..others.len().max(1))) else { return nobody };
        named(&any.name, any.api, 0)
    }
}

#[cfg(test)]
mod tests {
    use sensorium_wire::frame::PRELUDE_BYTES;

    use super::*;

    fn source() -> Source {
        let spec = toml::from_str("name = \"door\"\nuri = \"/a.ts\"").unwrap();
        Source::new(spec, Place::Alone)
    }

    fn long_event(number: u64) -> Event {
        Event { t_ms: number, number, body: EventBody::Notice { text: "x".repeat(1_000) }, receipt: None }
    }

    fn fill(ring: &Ring, events: u64) {
        for number in 0..events {
            let event = long_event(number);
            assert!(ring.push(&event, &codec::encode(&event)), "the source is never held up");
        }
    }

    #[tokio::test]
    async fn a_watcher_that_reads_nothing_costs_a_bounded_memory_and_holds_nobody_up() {
        let (source, ring, outbox) = (source(), Ring::new(7, u64::MAX), Outbox::new(usize::MAX));
        let from = WatchHeader { epoch: 7, ..WatchHeader::default() };
        fill(&ring, 1);
        let serving = send(&source, &ring, &from, &outbox);
        let framed_bytes = codec::encode(&long_event(0)).len() + PRELUDE_BYTES;
        let filling = async {
            for _ in 0..50 {
                fill(&ring, 100);
                tokio::task::yield_now().await;
                // One batch more than the bound, each event with its frame,
                // and room for a word about what was missed.
                let queued_bytes_max = WATCHER_QUEUED_BYTES_MAX + (BATCH_EVENTS_MAX + 1) * framed_bytes;
                assert!(outbox.queued_bytes() <= queued_bytes_max, "{} {framed_bytes}", outbox.queued_bytes());
            }
            assert!(outbox.queued_bytes() >= WATCHER_QUEUED_BYTES_MAX);
            ring.close();
        };
        tokio::select! {
            () = serving => panic!("it waits for its reader"),
            () = filling => {}
        }
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_is_there_and_how_much_is_not() {
        let (source, ring, outbox) = (source(), Ring::new(7, u64::MAX), Outbox::new(usize::MAX));
        fill(&ring, super::super::ring::RING_EVENTS_MAX as u64 + 30);
        ring.close();
        // Of that epoch, from number 10 on: 20 of them are gone. A bounded part is sent before the reader reads.
        let from = WatchHeader { epoch: 7, next_event: 10, ..WatchHeader::default() };
        let wait = Duration::from_millis(200);
        assert!(tokio::time::timeout(wait, send(&source, &ring, &from, &outbox)).await.is_err());
        assert_eq!(source.missed.load(Ordering::Relaxed), 20);
        // Who had everything is done at once.
        let (next_event, outbox) = (ring.next(), Outbox::new(usize::MAX));
        send(&source, &ring, &WatchHeader { epoch: 7, next_event, ..WatchHeader::default() }, &outbox).await;
        assert_eq!(outbox.queued_bytes(), 0);
    }
}
