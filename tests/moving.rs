//! Sessions that move: their node is killed, stopped or cut off, and they go on at another with the same tracks, numbers
//! and transcript.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use sensorium_client::{Client, ClientConfig, Session, SessionOptions};
use sensorium_wire::{Event, EventBody, Role, Tier};
use support::cluster::{Place, Plan};
use support::{Node, authority, block_on, ffmpeg, media, spoken};

const SEEING: &str = "load = [\"nanodet\"]\n";
const HEARING: &str = "load = [\"silero-vad\", \"moonshine\"]\n";

fn edge(parents: &'static [&'static str], options: &'static str) -> Place {
    Place { name: "edge-1", tier: Tier::Edge, parents, options }
}

fn regional(name: &'static str, options: &'static str) -> Place {
    Place { name, tier: Tier::Regional, parents: &[], options }
}

/// A client that prefers the first of these nodes.
fn client_of(nodes: &[&Node]) -> ClientConfig {
    let first = nodes[0].client_config();
    nodes[1..].iter().fold(first, |config, node| config.also(node.address("api")))
}

fn local<T>(future: impl Future<Output = T>) -> T {
    block_on(tokio::task::LocalSet::new().run_until(future))
}

async fn open(client: &Client, fast: bool, file: &Path) -> Session {
    client.session(SessionOptions { fast, ..SessionOptions::default() }, file).await.unwrap()
}

/// The rest of a session; its numbers go on from those of `events`.
async fn rest(session: &mut Session, events: &mut Vec<Event>) {
    while let Some(event) = session.next().await.unwrap() {
        events.push(event);
    }
}

/// Takes events until one is as wanted.
async fn until(session: &mut Session, events: &mut Vec<Event>, wanted: impl Fn(&Event) -> bool) {
    loop {
        let event = session.next().await.unwrap().expect("the session has ended");
        events.push(event);
        if wanted(events.last().unwrap()) {
            return;
        }
    }
}

/// Every number once, and a good end.
fn whole(events: &[Event]) {
    let numbers: Vec<_> = events.iter().map(|event| event.number).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{numbers:?}");
    let last = &events.last().unwrap().body;
    assert!(matches!(last, EventBody::Closed { complete: true, .. }), "{last:?}");
}

/// Where the session went on: how often, from which session time, and at which node.
fn resumed(events: &[Event]) -> Vec<(u64, u64, String)> {
    let resumed = events.iter().filter_map(|event| match &event.body {
        EventBody::Resumed { epoch, from_ms, node } => Some((*epoch, *from_ms, node.to_string())),
        _ => None,
    });
    resumed.collect()
}

/// The objects in each frame, by frame: id and where, in whole pixels.
fn tracks(events: &[Event]) -> BTreeMap<u64, Vec<(u64, [i64; 4])>> {
    let mut frames = BTreeMap::new();
    for event in events {
        if let EventBody::Track { frame, tracks } = &event.body {
            #[expect(clippy::cast_possible_truncation, reason = "pixels")]
            let at = tracks.iter().map(|track| (track.id, track.bbox.map(|value| value.round() as i64)));
            assert!(frames.insert(*frame, at.collect()).is_none(), "frame {frame} came twice");
        }
    }
    frames
}

fn transcripts(events: &[Event]) -> Vec<(u64, u64, String)> {
    let said = events.iter().filter_map(|event| match &event.body {
        EventBody::Transcript { start_ms, end_ms, text, .. } => Some((*start_ms, *end_ms, spoken(text))),
        _ => None,
    });
    said.collect()
}

/// Twelve seconds of a street, without sound.
fn street(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("street.avi");
    ffmpeg(&["-i", media("vtest.avi").to_str().unwrap(), "-t", "12", "-c", "copy", path.to_str().unwrap()]);
    path
}

/// Five sentences of a reading, one after the other with pauses.
fn reading(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("reading.wav");
    let sentences = ["0870", "0880", "0890", "0920", "0930"]
        .map(|number| media(&format!("librivox/sense_and_sensibility_01_austen_64kb-{number}.wav")));
    let mut arguments: Vec<String> = Vec::new();
    for sentence in &sentences {
        arguments.extend(["-i".to_owned(), sentence.to_str().unwrap().to_owned()]);
    }
    let padded: String = (0..5).map(|n| format!("[{n}:a]aresample=16000,apad=pad_dur=1[p{n}];")).collect();
    let joined: String = (0..5).map(|n| format!("[p{n}]")).collect();
    let filter = format!("{padded}{joined}concat=n=5:v=0:a=1");
    arguments.extend(["-filter_complex", &filter, "-ac", "1", path.to_str().unwrap()].map(str::to_owned));
    ffmpeg(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    path
}

/// Waits until the node keeps a state of somebody's session.
fn keeps_a_state(node: &Node) {
    node.wait_until("a state is kept", |status| status["cluster"]["checkpoints"].as_u64() > Some(0));
}

#[test]
fn a_fast_session_whose_node_is_killed_ends_as_if_nothing_had_been() {
    let plan = Plan::new(&[edge(&["regional-1"], SEEING), regional("regional-1", SEEING)]);
    let nodes = plan.start();
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    let mut undisturbed = Vec::new();
    local(async {
        let client = Client::connect(client_of(&[&nodes[1]])).await.unwrap();
        rest(&mut open(&client, true, &street).await, &mut undisturbed).await;
        client.close().await;
    });
    whole(&undisturbed);
    local(async {
        let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
        let mut session = open(&client, true, &street).await;
        let mut events = Vec::new();
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Track { frame: 30.., .. })).await;
        nodes[0].signal("KILL");
        rest(&mut session, &mut events).await;
        whole(&events);
        let moves = resumed(&events);
        assert!(matches!(&moves[..], [(2, from_ms, node)] if *from_ms > 0 && node == "regional-1"), "{moves:?}");
        assert_eq!(tracks(&events), tracks(&undisturbed));
        let closed = |events: &[Event]| match &events.last().unwrap().body {
            EventBody::Closed { frames, gaps, .. } => (*frames, *gaps),
            other => panic!("{other:?}"),
        };
        assert_eq!(closed(&events), closed(&undisturbed));
        client.close().await;
    });
}
