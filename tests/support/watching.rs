//! What tests of sources look at: events of a watcher, and what a node says of its sources.

use std::collections::BTreeSet;
use std::time::Instant;

use sensorium_client::Watch;
use sensorium_wire::{Event, EventBody};
use serde_json::Value;

use super::{Node, PATIENCE, children};

/// Takes events until one is as wanted; numbers go on without holes.
pub async fn until(watch: &mut Watch, events: &mut Vec<Event>, what: &str, wanted: impl Fn(&Event) -> bool) {
    let began = Instant::now();
    loop {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await;
        let event = next.unwrap_or_else(|_| panic!("{what}: nothing came; {:?}", events.last())).unwrap();
        assert_eq!(event.number, events.len() as u64);
        events.push(event);
        if wanted(events.last().unwrap()) {
            return;
        }
        let told = || {
            events
                .iter()
                .rev()
                .take(2_000)
                .filter(|event| matches!(event.body, EventBody::Gap { .. } | EventBody::Notice { .. }))
        };
        assert!(
            began.elapsed() < PATIENCE,
            "{what}: not so in {} events: {:?}",
            events.len(),
            told().collect::<Vec<_>>()
        );
    }
}

/// Ids of the tracks in these events.
pub fn ids(events: &[Event]) -> BTreeSet<u64> {
    let tracks = events.iter().filter_map(|event| match &event.body {
        EventBody::Track { tracks, .. } => Some(tracks.iter().map(|track| track.id)),
        _ => None,
    });
    tracks.flatten().collect()
}

pub fn is_track(event: &Event) -> bool {
    matches!(&event.body, EventBody::Track { tracks, .. } if !tracks.is_empty())
}

pub fn is_transcript(event: &Event) -> bool {
    matches!(&event.body, EventBody::Transcript { text, .. } if !text.is_empty())
}

/// Frames come once and in order, and times never go back.
pub fn in_order(events: &[Event]) {
    let frames = events.iter().filter_map(|event| match &event.body {
        EventBody::Track { frame, .. } => Some((*frame, event.t_ms)),
        _ => None,
    });
    let frames: Vec<_> = frames.collect();
    assert!(frames.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{frames:?}");
}

/// The ffmpeg that has a source open.
pub fn decoder(node: &Node) -> Option<u32> {
    children(node.pid(), "sensorium").into_iter().flat_map(|guard| children(guard, "ffmpeg")).next()
}

pub fn shown<'a>(status: &'a Value, name: &str) -> &'a Value {
    status["sources"].as_array().unwrap().iter().find(|source| source["name"] == name).unwrap()
}
