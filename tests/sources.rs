//! Sources that nodes open themselves, with real nodes and a real camera: it goes away and comes back, its ffmpeg is killed,
//! watchers come late or read too slowly, and what may not be watched or opened is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use sensorium_client::{ClientConfig, ClientError};
use sensorium_transport::pki::Bundle;
use sensorium_wire::{Event, EventBody, Principal, Role};
use serde_json::Value;
use support::camera::{Camera, clip, free_port};
use support::watching::{decoder, ids, in_order, is_track, is_transcript, shown, until};
use support::{Node, authority, block_on, complaint, sensorium, signal_process};

const LOAD: &str = "load = [\"nanodet\", \"silero-vad\", \"moonshine\"]\n";

fn source(name: &str, uri: &str) -> String {
    format!("[[source]]\nname = {name:?}\nuri = {uri:?}\nbudget_ms = 5000\n")
}

#[test]
fn a_camera_is_watched_through_deaths_of_its_ffmpeg_and_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path());
    let camera = Camera::start(&clip, 0);
    let port = camera.port;
    let node = Node::start(&format!("{LOAD}{}", source("door", &camera.uri())));
    block_on(async {
        let client = node.client().await;
        let mut watch = client.watch("door").unwrap();
        let mut events = Vec::new();
        until(&mut watch, &mut events, "what it is", |event| matches!(event.body, EventBody::Opened { .. })).await;
        let EventBody::Opened { video: true, audio: true, width: 768, height: 576, frame_rate, .. } =
            events.last().unwrap().body
        else {
            panic!("{events:?}")
        };
        assert!((frame_rate - 5.0).abs() < 0.5, "{frame_rate}");
        until(&mut watch, &mut events, "people", is_track).await;
        until(&mut watch, &mut events, "words", is_transcript).await;
        let known = ids(&events);

        // Its ffmpeg dies: a gap, and the same people.
        let before = events.len();
        signal_process(decoder(&node).unwrap(), "KILL");
        let gap = |event: &Event| matches!(&event.body, EventBody::Gap { reason, .. } if reason.contains("ffmpeg"));
        until(&mut watch, &mut events, "a gap", gap).await;
        until(&mut watch, &mut events, "people again", is_track).await;
        let after = ids(&events[before..]);
        assert!(after.is_subset(&known), "{after:?} of {known:?}");
        assert_eq!(watch.node().unwrap().name, node.status().unwrap()["name"].as_str().unwrap());

        // The camera goes and comes back.
        drop(camera);
        let away = |event: &Event| matches!(&event.body, EventBody::Notice { text } if text.contains("is away"));
        until(&mut watch, &mut events, "it is away", away).await;
        let refused = |status: &Value| shown(status, "door")["reason"] == "Connection refused";
        let status = node.wait_until("nobody is there", refused);
        assert_eq!(shown(&status, "door")["standing"], "owned");
        let before = events.len();
        let camera = Camera::start(&clip, port);
        until(&mut watch, &mut events, "people after that", is_track).await;
        until(&mut watch, &mut events, "words after that", is_transcript).await;
        for part in ["visual", "audio"] {
            let gap =
                |event: &Event| matches!(&event.body, EventBody::Gap { modality, .. } if modality.as_str() == part);
            if !events[before..].iter().any(gap) {
                until(&mut watch, &mut events, "a gap", gap).await;
            }
        }
        in_order(&events);
        let (now, most, total) = camera.viewers();
        assert_eq!((now, most), (1, 1), "of {total}");
        let status = node.wait_until("all is well", |status| shown(status, "door")["reason"] == "");
        let door = shown(&status, "door");
        assert_eq!((&door["standing"], &door["watchers"]), (&Value::from("owned"), &Value::from(1)), "{door}");
        assert!(door["frames"].as_u64() > Some(10) && door["reopened"].as_u64() > Some(1), "{door}");
        assert_eq!(door["missed"], 0);
        drop(watch);
        client.close().await;
    });
    // Each change stands in the log once; its end and what came of opening it again may be two reasons.
    let log = node.log();
    assert_eq!(log.matches("the source is back").count(), 2, "{log}");
    assert!((2..=4).contains(&log.matches("the source is away").count()), "{log}");
}

#[test]
fn a_camera_that_is_away_at_the_start_is_waited_for_and_a_file_is_played_over_and_over() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path());
    let short = folder.path().join("short.ts");
    support::ffmpeg(&["-i", clip.to_str().unwrap(), "-t", "2", "-an", "-c", "copy", short.to_str().unwrap()]);
    let port = free_port();
    let sources = source("door", &format!("tcp://127.0.0.1:{port}")) + &source("loop", short.to_str().unwrap());
    let node = Node::start(&format!("load = [\"nanodet\"]\n{sources}"));
    node.wait_until("the camera is away", |status| shown(status, "door")["reason"] == "Connection refused");
    block_on(async {
        let client = node.client().await;
        let (mut watch, mut looped) = (client.watch("door").unwrap(), client.watch("loop").unwrap());
        let camera = Camera::start(&clip, port);
        let (mut events, mut others) = (Vec::new(), Vec::new());
        until(&mut watch, &mut events, "people", is_track).await;
        assert_eq!(camera.viewers().0, 1);
        // Its two seconds end again and again, and its session does not.
        until(&mut looped, &mut others, "more than the file has", |event| event.t_ms > 6_000 && is_track(event)).await;
        in_order(&others);
        let EventBody::Opened { audio: false, .. } = others[0].body else { panic!("{:?}", others[0]) };
        client.close().await;
    });
    let output = node.run(&["watch", "loop", "--json", "--events", "4"]);
    let told = support::events(&output);
    assert!(output.status.success() && told.len() == 4 && told[0]["kind"] == "opened", "{told:?}");
    // A node that stops closes its sources.
    let pid = decoder(&node).unwrap();
    node.signal("TERM");
    let mut node = node;
    assert!(node.wait(), "{}", node.log());
    assert!(!std::path::Path::new(&format!("/proc/{pid}/cwd")).exists());
}

#[test]
fn what_may_not_be_watched_is_refused_in_one_line() {
    let authority = authority();
    let mut open = source("door", "tcp://127.0.0.1:9");
    open += "tenants = [\"local\"]\n";
    let node = Node::start_of(&authority, "one", &format!("load = [\"identity\"]\n{open}"));
    let issue = |tenant: &str, roles: &[Role]| -> Bundle {
        let (tenant, name) = (tenant.to_owned(), "tester".to_owned());
        authority.issue(&Principal { tenant, name, roles: roles.to_vec(), tier: None }, &[], 1).unwrap()
    };
    let refused = |config: ClientConfig, source: &str| {
        block_on(async {
            let client = sensorium_client::Client::connect(config).await.unwrap();
            match client.watch(source) {
                Ok(mut watch) => match watch.next().await {
                    Err(ClientError::Refused(reason)) => reason,
                    other => panic!("{other:?}"),
                },
                Err(error) => error.to_string(),
            }
        })
    };
    let with = |bundle: Bundle| ClientConfig { bundle, ..node.client_config() };
    assert_eq!(refused(node.client_config(), "dor"), "there is no source \"dor\"; known are: door");
    assert_eq!(
        refused(with(issue("local", &[Role::Operate])), "door"),
        "watching a source needs a certificate with the role submit"
    );
    assert_eq!(refused(with(issue("other", &[Role::Submit])), "door"), "source door is not for tenant other");
    assert_eq!(refused(with(issue("other", &[Role::Submit])), "x"), "there is no source \"x\"; known are: none");
    assert!(refused(node.client_config(), "a b").starts_with("\"a b\" is no source: 1 to 128"));
    // The same as a command: one line, and no success.
    let output = node.run(&["watch", "dor"]);
    assert!(!output.status.success());
    assert_eq!(complaint(&output), "sensorium: the node refuses: there is no source \"dor\"; known are: door\n");
    let status = node.run(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("source door") && text.contains("owned by one"), "{text}");
    node.proves_healthy();
}

#[test]
fn a_node_does_not_start_with_a_source_that_it_must_not_open() {
    let folder = tempfile::tempdir().unwrap();
    for (uri, says) in [
        ("concat:/etc/passwd|/etc/group", "an absolute path or /dev/videoN is expected"),
        ("file:///etc/passwd", "file is not opened"),
        ("tcp://127.0.0.1:5000?listen=1", "without options behind it"),
        ("-f lavfi", "without spaces"),
    ] {
        let path = folder.path().join("node.toml");
        std::fs::write(&path, source("door", uri)).unwrap();
        let output =
            sensorium().args(["node", "--config"]).arg(&path).arg("--data").arg(folder.path()).output().unwrap();
        let complaint = complaint(&output);
        assert!(!output.status.success() && complaint.contains("source door: uri: "), "{complaint}");
        assert!(complaint.contains(says) && complaint.trim().lines().count() == 1, "{uri}: {complaint}");
    }
}
