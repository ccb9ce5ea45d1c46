//! Sessions that move: their node is killed, stopped or cut off, and they go on at another with the same tracks, numbers
//! and transcript.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use sensorium_client::{Client, ClientConfig, Session, SessionOptions};
use sensorium_pipelines::SessionState;
use sensorium_transport::pki::Bundle;
use sensorium_transport::{ALPN_API, ALPN_PEER, Dialer, FrameReader, Liveness, Step};
use sensorium_wire::codec::{self, FrameWriter};
use sensorium_wire::peer::{CheckpointAct, CheckpointHeader};
use sensorium_wire::session::SessionHeader;
use sensorium_wire::{Event, EventBody, Kind, Role, Tier};
use sha2::{Digest, Sha256};
use support::cluster::{Place, Plan};
use support::{Node, authority, block_on, ffmpeg, local, media, spoken};

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
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Track { frame: 80.., .. })).await;
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

#[test]
fn both_sides_and_what_is_fused_of_them_go_on_together() {
    const ALL: &str = "load = [\"nanodet\", \"silero-vad\", \"moonshine\", \"yamnet\", \"fusion\"]\n";
    let plan = Plan::new(&[edge(&["regional-1"], ALL), regional("regional-1", ALL)]);
    let nodes = plan.start();
    let demo = media("demo.mkv");
    let mut undisturbed = Vec::new();
    local(async {
        let client = Client::connect(client_of(&[&nodes[1]])).await.unwrap();
        rest(&mut open(&client, true, &demo).await, &mut undisturbed).await;
        client.close().await;
    });
    let mut events = Vec::new();
    local(async {
        let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
        let mut session = open(&client, true, &demo).await;
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Transcript { .. })).await;
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Speech { active: true, .. })).await;
        nodes[0].signal("KILL");
        rest(&mut session, &mut events).await;
        client.close().await;
    });
    whole(&events);
    assert!(matches!(&resumed(&events)[..], [(2, 1.., _)]), "{:?}", resumed(&events));
    assert_eq!(transcripts(&events), transcripts(&undisturbed));
    assert_eq!(tracks(&events), tracks(&undisturbed));
    // Every window is fused once, of the same evidence: the same classes come out.
    let fused = |events: &[Event]| {
        let windows = events.iter().filter_map(|event| match &event.body {
            EventBody::Fusion { start_ms, intensity, .. } => Some((*start_ms, (intensity * 1_000.0).round())),
            _ => None,
        });
        windows.collect::<Vec<_>>()
    };
    assert_eq!(fused(&events), fused(&undisturbed));
    let heard = |events: &[Event]| {
        let mut heard: Vec<_> = events
            .iter()
            .filter_map(|event| match &event.body {
                EventBody::Sound { active, start_ms, end_ms, label, .. } => {
                    Some((label.to_string(), *start_ms, *active, *end_ms))
                }
                EventBody::Speech { active, start_ms, end_ms } => {
                    Some(("speech".to_owned(), *start_ms, *active, *end_ms))
                }
                _ => None,
            })
            .collect();
        heard.sort();
        heard
    };
    assert_eq!(heard(&events), heard(&undisturbed));
}

#[test]
fn a_session_at_real_speed_keeps_its_tracks_and_goes_on_where_it_was() {
    let plan = Plan::new(&[edge(&["regional-1"], SEEING), regional("regional-1", SEEING)]);
    let nodes = plan.start();
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    local(async {
        let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
        let mut session = open(&client, false, &street).await;
        let mut events = Vec::new();
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Track { frame: 45.., .. })).await;
        nodes[0].signal("KILL");
        let before = *tracks(&events).last_key_value().unwrap().0;
        rest(&mut session, &mut events).await;
        whole(&events);
        let moves = resumed(&events);
        assert!(matches!(&moves[..], [(2, 1.., node)] if node == "regional-1"), "{moves:?}");
        // Whoever was there just before and is there just after is the same one, at about the same place.
        let tracks = tracks(&events);
        let (_, after) = tracks.range(before + 1..).next().unwrap();
        let stayed = tracks[&before].iter().filter(|(id, _)| after.iter().any(|(other, _)| other == id)).count();
        assert!(stayed * 4 >= tracks[&before].len() * 3, "{:?} then {after:?}", tracks[&before]);
        for (id, [x, ..]) in &tracks[&before] {
            if let Some((_, [later, ..])) = after.iter().find(|(other, _)| other == id) {
                assert!((x - later).abs() < 40, "{id} was at {x} and is at {later}");
            }
        }
        // Every frame was looked at, or is in a gap.
        let lost: u64 = events
            .iter()
            .filter_map(|event| if let EventBody::Gap { units, .. } = &event.body { Some(*units) } else { None })
            .sum();
        let EventBody::Closed { frames, .. } = events.last().unwrap().body else { unreachable!() };
        assert_eq!(frames, 120);
        assert!(tracks.len() as u64 + lost >= frames, "{} frames seen and {lost} lost of {frames}", tracks.len());
        client.close().await;
    });
}

#[test]
fn a_transcript_is_complete_and_said_once() {
    let plan = Plan::new(&[edge(&["regional-1"], HEARING), regional("regional-1", HEARING)]);
    let mut nodes = plan.start();
    let folder = tempfile::tempdir().unwrap();
    let reading = reading(folder.path());
    let mut undisturbed = Vec::new();
    local(async {
        let client = Client::connect(client_of(&[&nodes[1]])).await.unwrap();
        rest(&mut open(&client, true, &reading).await, &mut undisturbed).await;
        client.close().await;
    });
    let expected = transcripts(&undisturbed);
    assert!(expected.len() >= 5, "{expected:?}");
    for fast in [true, false] {
        local(async {
            let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
            let mut session = open(&client, fast, &reading).await;
            let mut events = Vec::new();
            // In the middle of the third sentence.
            let begins = |event: &Event| matches!(event.body, EventBody::Speech { active: true, .. });
            for _ in 0..3 {
                until(&mut session, &mut events, begins).await;
            }
            nodes[0].signal("KILL");
            rest(&mut session, &mut events).await;
            whole(&events);
            assert_eq!(resumed(&events).len(), 1);
            assert_eq!(transcripts(&events), expected, "fast: {fast}");
            client.close().await;
        });
        assert!(!nodes[0].wait());
        nodes[0].restart();
        nodes.iter().for_each(Node::joined);
    }
}

#[test]
fn a_node_that_stops_hands_its_sessions_over() {
    let plan = Plan::new(&[edge(&["regional-1"], SEEING), regional("regional-1", SEEING)]);
    let nodes = plan.start();
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    let [quick, live] = local(async {
        let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
        let (mut quick, mut live) = (open(&client, true, &street).await, open(&client, false, &street).await);
        let (mut quick_events, mut live_events) = (Vec::new(), Vec::new());
        until(&mut live, &mut live_events, |event| matches!(event.body, EventBody::Track { frame: 20.., .. })).await;
        nodes[0].signal("TERM");
        tokio::join!(rest(&mut quick, &mut quick_events), rest(&mut live, &mut live_events));
        client.close().await;
        [quick_events, live_events]
    });
    for events in [&quick, &live] {
        whole(events);
        tracks(events);
    }
    assert!(matches!(&resumed(&live)[..], [(2, 1.., node)] if node == "regional-1"), "{:?}", resumed(&live));
    let log = nodes[0].log();
    assert!(log.contains("session handed over") && !log.contains("session ended early"), "{log}");
}

#[test]
fn an_old_owner_is_refused_and_ends_its_session() {
    let plan = Plan::new(&[edge(&["regional-1"], SEEING), regional("regional-1", SEEING)]);
    let nodes = plan.start();
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    local(async {
        let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
        let mut session = open(&client, false, &street).await;
        let mut events = Vec::new();
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Track { frame: 25.., .. })).await;
        nodes[0].signal("STOP");
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Resumed { .. })).await;
        nodes[0].signal("CONT");
        rest(&mut session, &mut events).await;
        whole(&events);
        tracks(&events);
        let moves = resumed(&events);
        assert!(matches!(&moves[..], [(2, 1.., node)] if node == "regional-1"), "{moves:?}");
        client.close().await;
    });
    let began = Instant::now();
    while !nodes[0].log().contains("moved to another node (epoch 2)") {
        assert!(began.elapsed() < support::PATIENCE, "{}", nodes[0].log());
        std::thread::sleep(Duration::from_millis(50));
    }
    nodes[0].wait_until("its session is over", |status| status["sessions"] == 0);
}

/// A session over these nodes, at real speed, in which nodes are killed once it has come to a frame: it must go on, once,
/// at the node of this name, and be whole.
fn goes_on_at(list: [&Node; 2], kills: &[(u64, &Node)], name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    local(async {
        let client = Client::connect(client_of(&list)).await.unwrap();
        let mut session = open(&client, false, &street).await;
        let mut events = Vec::new();
        for (at, node) in kills {
            let come = |event: &Event| matches!(event.body, EventBody::Track { frame, .. } if frame >= *at);
            until(&mut session, &mut events, come).await;
            node.signal("KILL");
        }
        rest(&mut session, &mut events).await;
        whole(&events);
        let moves = resumed(&events);
        assert!(matches!(&moves[..], [(2, 1.., node)] if node == name), "{moves:?}");
        client.close().await;
    });
}

#[test]
fn when_the_fallback_dies_another_is_chosen() {
    let plan = Plan::new(&[
        edge(&["regional-1", "regional-2"], SEEING),
        regional("regional-1", SEEING),
        regional("regional-2", SEEING),
    ]);
    let nodes = plan.start();
    goes_on_at([&nodes[0], &nodes[2]], &[(12, &nodes[1]), (45, &nodes[0])], "regional-2");
}

#[test]
fn a_state_is_fetched_from_the_neighbour_that_keeps_it() {
    // Two edges share a parent; the client knows only the edges.
    let plan = Plan::new(&[
        edge(&["regional-1"], SEEING),
        Place { name: "edge-2", tier: Tier::Edge, parents: &["regional-1"], options: SEEING },
        regional("regional-1", SEEING),
    ]);
    let nodes = plan.start();
    goes_on_at([&nodes[0], &nodes[1]], &[(35, &nodes[0])], "edge-2");
    // What was kept of a session that has ended goes.
    nodes[2].wait_until("nothing is kept", |status| status["cluster"]["checkpoints"] == 0);
}

#[test]
fn without_a_state_a_session_starts_again_and_says_so() {
    let authority = authority();
    let [one, two] = ["one", "two"].map(|name| Node::start_of(&authority, name, SEEING));
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    local(async {
        let client = Client::connect(client_of(&[&one, &two])).await.unwrap();
        let mut session = open(&client, true, &street).await;
        let mut events = Vec::new();
        until(&mut session, &mut events, |event| matches!(event.body, EventBody::Track { frame: 20.., .. })).await;
        one.signal("KILL");
        rest(&mut session, &mut events).await;
        whole(&events);
        assert_eq!(tracks(&events).len(), 120);
        let told = |event: &Event| matches!(&event.body, EventBody::Notice { text } if text.contains("starts again"));
        assert!(events.iter().any(told));
        client.close().await;
    });
}

/// The events of a session that is opened with this header, without the SDK.
async fn raw_session(node: &Node, header: &SessionHeader, file: &Path) -> Vec<Event> {
    let bundle = Bundle::read(&node.data.path().join("certificates/client")).unwrap();
    let dialer = Dialer::new(&bundle, ALPN_API, Liveness::API, false).unwrap();
    let connection = dialer.dial(node.address("api")).unwrap().await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let media = std::fs::read(file).unwrap();
    let mut frame = Vec::new();
    FrameWriter::default().put(&mut frame, Kind::Session, 1, header, media.len() as u64);
    frame.extend_from_slice(&media);
    send.write_all(&frame).await.unwrap();
    let _ = send.finish();
    let (mut reader, mut payload, mut events) = (FrameReader::default(), Vec::new(), Vec::new());
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await.unwrap() {
        let mut input = &chunk.bytes[..];
        loop {
            match reader.step(&mut input).unwrap() {
                Step::More => break,
                Step::Head(prelude) => assert_eq!(prelude.kind, Kind::Event),
                Step::Payload(bytes) => payload.extend_from_slice(bytes),
                Step::End => events.push(codec::decode::<Event>(&std::mem::take(&mut payload)).unwrap()),
            }
        }
    }
    events
}

#[test]
fn a_state_of_another_version_is_refused_and_the_session_starts_afresh() {
    let plan = Plan::new(&[edge(&["regional-1"], SEEING), regional("regional-1", SEEING)]);
    let node = plan.launch("regional-1", &[Role::Peer]);
    node.wait_until("ready", |status| status["devices"][0]["state"] == "ready");
    let edge = plan.data("edge-1", &[Role::Peer], Some(Tier::Edge));
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    let own = |epoch: u64| {
        let digest = Sha256::digest("local/tester");
        let principal = *digest.first_chunk::<16>().unwrap();
        CheckpointHeader { principal, session: 77, epoch, number: 1, ..CheckpointHeader::default() }
    };
    block_on(async {
        let bundle = Bundle::read(&edge.path().join("certificates/node")).unwrap();
        let dialer = Dialer::new(&bundle, ALPN_PEER, Liveness::PEER, false).unwrap();
        let connection = dialer.dial(node.address("cluster")).unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let mut say = async |header: &CheckpointHeader, state: &[u8]| {
            let mut frame = Vec::new();
            FrameWriter::default().put(&mut frame, Kind::Checkpoint, 0, header, state.len() as u64);
            frame.extend_from_slice(state);
            send.write_all(&frame).await.unwrap();
        };
        // From a newer build, as far as its first bytes say.
        let mut state = SessionState { duration_ms: 12_000, ..SessionState::default() }.encode();
        state[4] = 200;
        say(&own(3), &state).await;
        let kept = || node.status().unwrap()["cluster"]["checkpoints"] == 1;
        while !kept() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let header = SessionHeader { session: 77, resume: 1, next_event: 40, fast: 1, ..SessionHeader::default() };
        let events = raw_session(&node, &header, &street).await;
        assert_eq!(events[0].number, 40, "numbers go on");
        assert!(
            matches!(&events[0].body, EventBody::Notice { text } if text.contains("starts again")),
            "{:?}",
            events[0]
        );
        assert!(matches!(events[1].body, EventBody::Opened { .. }), "{:?}", events[1]);
        assert!(matches!(events.last().unwrap().body, EventBody::Closed { complete: true, frames: 120, .. }));
        assert!(node.log().contains("checkpoint of version 200, this build reads version 1"), "{}", node.log());

        // The one that sent it is an owner of yesterday now, and hears which epoch it is.
        say(&own(3), b"later").await;
        let (mut reader, mut refusal) = (FrameReader::default(), None);
        while refusal.is_none() {
            let chunk = recv.read_chunk(usize::MAX, true).await.unwrap().unwrap();
            let mut input = &chunk.bytes[..];
            while let step @ (Step::Head(_) | Step::End) = reader.step(&mut input).unwrap() {
                if let Step::Head(prelude) = step {
                    assert_eq!(prelude.kind, Kind::Checkpoint);
                    refusal =
                        Some(codec::decode_header::<CheckpointHeader>(Kind::Checkpoint, reader.header()).unwrap());
                }
            }
        }
        let refusal = refusal.unwrap();
        assert_eq!((refusal.act(), refusal.epoch), (Some(CheckpointAct::Refused), 4));
        assert_eq!(node.status().unwrap()["cluster"]["checkpoints_refused"], 1);
    });
}

/// `cargo test --test moving how_long -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn how_long_a_killed_owner_is_missed() {
    const KILLS: usize = 9;
    let plan = Plan::new(&[edge(&["regional-1"], SEEING), regional("regional-1", SEEING)]);
    let mut nodes = plan.start();
    let folder = tempfile::tempdir().unwrap();
    let street = street(folder.path());
    let (mut taken_ms, mut seen_ms) = (Vec::new(), Vec::new());
    for kill in 0..KILLS {
        local(async {
            let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
            let mut session = open(&client, false, &street).await;
            let mut events = Vec::new();
            let at = 30 + u64::try_from(kill).unwrap();
            until(
                &mut session,
                &mut events,
                |event| matches!(event.body, EventBody::Track { frame, .. } if frame >= at),
            )
            .await;
            let killed = Instant::now();
            nodes[0].signal("KILL");
            until(&mut session, &mut events, |event| matches!(event.body, EventBody::Resumed { .. })).await;
            taken_ms.push(killed.elapsed().as_millis());
            until(&mut session, &mut events, |event| matches!(event.body, EventBody::Track { .. })).await;
            seen_ms.push(killed.elapsed().as_millis());
            client.close().await;
        });
        assert!(!nodes[0].wait());
        nodes[0].restart();
        nodes.iter().for_each(Node::joined);
    }
    taken_ms.sort_unstable();
    seen_ms.sort_unstable();
    let middle = KILLS / 2;
    println!("kill -9 to taken up, {KILLS} kills: {taken_ms:?} ms, median {}", taken_ms[middle]);
    println!("kill -9 to the next frame's objects: {seen_ms:?} ms, median {}", seen_ms[middle]);
}
