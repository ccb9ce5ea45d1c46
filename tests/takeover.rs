//! Sources that change hands: their owner is killed, stopped or ended in an orderly way, or the grantor is started again. Real
//! nodes, a real camera that counts who looks, and a watcher that goes on through all of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::time::{Duration, Instant};

use sensorium_client::{Client, ClientConfig, Watch};
use sensorium_wire::{Event, EventBody, Tier};
use serde_json::Value;
use support::camera::{Camera, clip};
use support::cluster::{Place, Plan};
use support::watching::{decoder, ids, in_order, is_track, is_transcript, shown, until};
use support::{Node, block_on, complaint, sensorium};

const SEEING: &str = "load = [\"nanodet\"]\n";
const SEEING_AND_HEARING: &str = "load = [\"nanodet\", \"silero-vad\", \"moonshine\"]\n";

/// Two edges that can reach the camera, and their region, which gives the lease.
fn places(options: &'static str) -> [Place; 3] {
    let edge = |name| Place { name, tier: Tier::Edge, parents: &["regional-1"], options };
    let regional = Place { name: "regional-1", tier: Tier::Regional, parents: &[], options: "load = [\"identity\"]\n" };
    [edge("edge-1"), edge("edge-2"), regional]
}

fn plan(camera: &Camera, options: &'static str, lease_ms: u64) -> Plan {
    let source = format!(
        "[[source]]\nname = \"door\"\nuri = {:?}\nnodes = [\"edge-1\", \"edge-2\"]\nlease_ms = {lease_ms}\nbudget_ms = 5000\n",
        camera.uri()
    );
    Plan::with_more(&places(options), &source)
}

fn client_of(nodes: &[&Node]) -> ClientConfig {
    let first = nodes[0].client_config();
    nodes[1..].iter().fold(first, |config, node| config.also(node.address("api")))
}

fn stands(node: &Node, standing: &str, owner: &str) -> Value {
    let status = node.wait_until(&format!("{standing} by {owner}"), |status| {
        let door = shown(status, "door");
        door["standing"] == standing && door["owner"] == owner
    });
    shown(&status, "door").clone()
}

fn resumed(event: &Event) -> Option<(u64, String)> {
    match &event.body {
        EventBody::Resumed { epoch, node, .. } => Some((*epoch, node.to_string())),
        _ => None,
    }
}

/// Watches until people were seen; gives their ids.
async fn people(watch: &mut Watch, events: &mut Vec<Event>) -> std::collections::BTreeSet<u64> {
    let from = events.len();
    for _ in 0..3 {
        until(watch, events, "people", is_track).await;
    }
    ids(&events[from..])
}

#[test]
fn the_owner_is_killed_and_the_next_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(&clip(folder.path()), 0);
    let plan = plan(&camera, SEEING_AND_HEARING, 1_000);
    let mut nodes = plan.start();
    // The preferred one has it, though all began together.
    let first = stands(&nodes[0], "owned", "edge-1");
    stands(&nodes[1], "held", "edge-1");
    stands(&nodes[2], "held", "edge-1");
    block_on(async {
        // Asked at a node that does not own it.
        let client = Client::connect(client_of(&[&nodes[1], &nodes[0]])).await.unwrap();
        let mut watch = client.watch("door").unwrap();
        let mut events = Vec::new();
        let mut known = people(&mut watch, &mut events).await;
        until(&mut watch, &mut events, "words", is_transcript).await;
        known.extend(ids(&events));
        assert_eq!(watch.node().unwrap().name, "edge-1");
        assert_eq!(Some(watch.epoch()), first["epoch"].as_u64());

        let (before, began) = (events.len(), Instant::now());
        nodes[0].signal("KILL");
        assert!(!nodes[0].wait());
        until(&mut watch, &mut events, "another owner", |event| resumed(event).is_some()).await;
        let owned = began.elapsed();
        until(&mut watch, &mut events, "people there", is_track).await;
        let looked = began.elapsed();
        eprintln!("take-over: owned after {} ms, looked at after {} ms", owned.as_millis(), looked.as_millis());
        until(&mut watch, &mut events, "words there", is_transcript).await;
        let moves: Vec<_> = events.iter().filter_map(resumed).collect();
        assert!(matches!(&moves[..], [(epoch, node)] if Some(*epoch) > first["epoch"].as_u64() && node == "edge-2"));
        assert_eq!((watch.node().unwrap().name.as_str(), watch.epoch()), ("edge-2", moves[0].0));
        let after = ids(&events[before..]);
        assert!(!after.is_empty() && after.is_subset(&known), "{after:?} of {known:?}");
        for part in ["visual", "audio"] {
            let changed = |event: &Event| {
                matches!(&event.body, EventBody::Gap { modality, reason, .. }
                    if modality.as_str() == part && reason == "the source changed hands")
            };
            if !events[before..].iter().any(changed) {
                until(&mut watch, &mut events, "a gap", changed).await;
            }
        }
        in_order(&events);
        assert_eq!(camera.viewers().1, 1, "never two at once");

        // Whoever comes back waits like the others; whoever stops in an orderly way hands over.
        nodes[0].restart();
        stands(&nodes[0], "held", "edge-2");
        assert!(people(&mut watch, &mut events).await.is_subset(&known));
        let before = events.len();
        nodes[1].signal("TERM");
        assert!(nodes[1].wait(), "{}", nodes[1].log());
        let back = |event: &Event| resumed(event).is_some_and(|(_, node)| node == "edge-1");
        until(&mut watch, &mut events, "the first owner again", back).await;
        until(&mut watch, &mut events, "people there", is_track).await;
        assert!(ids(&events[before..]).is_subset(&known));
        in_order(&events);
        assert_eq!(camera.viewers().1, 1, "never two at once");
        drop(watch);
        client.close().await;
    });
}

#[test]
fn an_owner_that_is_stopped_for_longer_than_its_lease_does_not_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(&clip(folder.path()), 0);
    let plan = plan(&camera, SEEING, 1_000);
    let nodes = plan.start();
    stands(&nodes[0], "owned", "edge-1");
    block_on(async {
        let client = Client::connect(client_of(&[&nodes[0], &nodes[1]])).await.unwrap();
        let mut watch = client.watch("door").unwrap();
        let mut events = Vec::new();
        let known = people(&mut watch, &mut events).await;
        let stopped = decoder(&nodes[0]).unwrap();
        nodes[0].signal("STOP");
        until(&mut watch, &mut events, "another owner", |event| resumed(event).is_some()).await;
        // Nobody ran in the stopped node to see to that.
        assert!(!std::path::Path::new(&format!("/proc/{stopped}/cwd")).exists(), "its guard has ended it");
        assert!(people(&mut watch, &mut events).await.is_subset(&known));
        let epoch = watch.epoch();
        nodes[0].signal("CONT");
        let door = stands(&nodes[0], "held", "edge-2");
        assert_eq!(door["epoch"].as_u64(), Some(epoch));
        assert!(nodes[0].log().contains("the lease has lapsed"), "{}", nodes[0].log());
        // Who asks the old owner is sent to the new one.
        let other = Client::connect(client_of(&[&nodes[0]])).await.unwrap();
        let mut late = other.watch("door").unwrap();
        let mut theirs = Vec::new();
        people(&mut late, &mut theirs).await;
        assert_eq!((late.node().unwrap().name.as_str(), late.epoch()), ("edge-2", epoch));
        people(&mut watch, &mut events).await;
        assert_eq!(watch.epoch(), epoch);
        in_order(&events);
        assert_eq!(camera.viewers().1, 1, "never two at once");
        client.close().await;
    });
}

#[test]
fn the_grantor_is_started_again_and_the_source_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let camera = Camera::start(&clip(folder.path()), 0);
    let plan = plan(&camera, SEEING, 2_000);
    let mut nodes = plan.start();
    stands(&nodes[0], "owned", "edge-1");
    block_on(async {
        // Asked at a node that may not open it, and does not know who has it but for the leases that it gives.
        let client = Client::connect(client_of(&[&nodes[1], &nodes[0]])).await.unwrap();
        let mut watch = client.watch("door").unwrap();
        let mut events = Vec::new();
        let known = people(&mut watch, &mut events).await;
        let epoch = watch.epoch();
        nodes[2].signal("KILL");
        assert!(!nodes[2].wait());
        nodes[2].restart();
        nodes[2].wait_until("it gives the lease again", |status| shown(status, "door")["standing"] == "held");
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(people(&mut watch, &mut events).await.is_subset(&known));
        eprintln!("the grantor's start: epoch {epoch} became {}", watch.epoch());
        assert!(watch.epoch() >= epoch);
        in_order(&events);
        assert_eq!(camera.viewers().1, 1, "never two at once");
        client.close().await;
    });
    let lease = nodes[2].status().unwrap();
    assert_eq!(shown(&lease, "door")["standing"], "held");
    nodes[2].signal("KILL");
    assert!(!nodes[2].wait());
    // Without a grantor nobody owns it for longer than a lease.
    nodes[0].wait_until("the source is given up", |status| shown(status, "door")["standing"] != "owned");
    nodes[1].wait_until("nobody has it", |status| shown(status, "door")["standing"] == "waiting");
    assert_eq!(camera.viewers().0, 0);
}

#[test]
fn a_cluster_file_with_a_wrong_source_is_refused_in_one_line() {
    let plan = Plan::new(&places(SEEING));
    let check = |more: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.toml");
        std::fs::write(&path, plan.text("test") + more).unwrap();
        sensorium().arg("topology").arg(&path).output().unwrap()
    };
    let refused = |more: &str| {
        let output = check(more);
        assert!(!output.status.success());
        let text = complaint(&output);
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    let door = "[[source]]\nname = \"door\"\nuri = \"rtsp://me:secret@10.0.0.9/stream\"\n";
    let output = check(&format!("{door}nodes = [\"edge-1\", \"edge-2\"]\n"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = "source door  rtsp://***@10.0.0.9/stream  opened by: edge-1, edge-2  lease of 1000 ms from regional-1";
    assert!(text.lines().any(|shown| shown == line) && !text.contains("secret"), "{text}");
    let text = refused(&format!("{door}nodes = [\"edge-1\", \"edge-3\"]\n"));
    assert!(text.contains("source door: there is no node edge-3; did you mean edge-"), "{text}");
    let text = refused(&format!("{door}nodes = [\"regional-1\", \"edge-2\"]\n"));
    assert!(text.contains("source door: its nodes have no parent in common"), "{text}");
    let text = refused(&format!("{door}nodes = [\"edge-1\"]\ngrantor = \"edge-2\"\n"));
    assert!(text.contains("source door: its grantor edge-2 is no neighbour of edge-1"), "{text}");
    let text = refused("[[source]]\nname = \"door\"\nuri = \"gopher://a\"\nnodes = [\"edge-1\"]\n");
    assert!(text.contains("source door: uri: gopher is not opened: rtsp, "), "{text}");
}
