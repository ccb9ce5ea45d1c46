//! Several nodes as one: jobs go where they can be done, the loss of a node loses none, strangers stay outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sensorium_client::{Answer, Client, Job};
use sensorium_wire::{Dtype, JobId, Outcome, PixelFormat, Reason, Role, Tier, Urgency};
use support::cluster::{Place, Plan, neighbour};
use support::{Node, block_on, complaint, quiet_second, sensorium};

const EDGE: Place =
    Place { name: "edge-1", tier: Tier::Edge, parents: &["regional-1"], options: "load = [\"silero-vad\"]" };
const REGIONAL: Place = Place {
    name: "regional-1",
    tier: Tier::Regional,
    parents: &["central-1"],
    options: "load = [\"identity\", \"nanodet\"]\n",
};
const CENTRAL: Place =
    Place { name: "central-1", tier: Tier::Central, parents: &[], options: "load = [\"identity\", \"yamnet\"]\n" };

/// An edge with rules of its own.
const WATCHFUL: &str = "load = [\"silero-vad\"]
[[node.options.rule]]
name = \"small\"
on = \"job\"
when = 'job.model == \"identity\" && job.payload_bytes < 4'
then = \"answer\"
text = \"too small\"
[[node.options.rule]]
name = \"heard\"
on = \"result\"
when = 'result.type == \"classes\" && size(result.classes) > 0'
then = \"alert\"
text = \"something heard\"
";

fn bytes(count: usize) -> (Job, Vec<u8>) {
    let job = Job::tensor("identity", Dtype::U8, &[u32::try_from(count).unwrap()]).deadline_ms(60_000);
    (job, (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect())
}

/// Who ran it, and who handed it on.
fn way(answer: &Answer) -> (String, Vec<String>) {
    assert!(answer.is_result(), "{:?}", answer.rejection());
    let hops = answer.header.hops();
    let mut before_ns = u64::MAX;
    for ns in hops.iter().map(|hop| hop.node_ns).chain([answer.header.receipt.node_ns]) {
        assert!(0 < ns && ns < before_ns, "each hop contains the next: {hops:?}");
        before_ns = ns;
    }
    (answer.header.receipt.node.to_string(), hops.iter().map(|hop| hop.node.to_string()).collect())
}

fn refusal(answer: &Answer) -> (Outcome, Reason, String) {
    let rejection = answer.rejection().expect("this cannot be done");
    (answer.header.outcome, rejection.reason, rejection.detail)
}

fn count(node: &Node, of: &str) -> u64 {
    node.status().unwrap()["engine"][of].as_u64().unwrap()
}

#[test]
fn work_goes_where_it_can_be_done_and_the_receipt_shows_the_way() {
    let plan = Plan::new(&[Place { options: WATCHFUL, ..EDGE }, REGIONAL, CENTRAL]);
    let nodes = plan.start();
    let [edge, regional, central] = &nodes[..] else { unreachable!() };
    block_on(async {
        let client = edge.client().await;
        let (job, payload) = bytes(1024);
        let answer = client.submit(job, payload.clone()).await.unwrap();
        assert_eq!(way(&answer), ("regional-1".to_owned(), vec!["edge-1".to_owned()]));
        assert!(answer.payload == payload);
        // A payload with a stream of its own passes as it is, there and back.
        let (job, payload) = bytes(3_000_000);
        let answer = client.submit(job, payload.clone()).await.unwrap();
        assert_eq!(way(&answer).0, "regional-1");
        assert!(answer.payload == payload);
        let frame = Job::frame("nanodet", 1280, 720, PixelFormat::Rgb24).deadline_ms(60_000);
        let answer = client.submit(frame, vec![90; 1280 * 720 * 3]).await.unwrap();
        assert_eq!(way(&answer).0, "regional-1");
        // Two tiers up, through the middle.
        let (job, payload) = quiet_second();
        let answer = client.submit(job, payload).await.unwrap();
        assert_eq!(way(&answer), ("central-1".to_owned(), vec!["edge-1".to_owned(), "regional-1".to_owned()]));

        // The edge's rules see what others answer, and its own come before anybody is asked.
        edge.wait_until("the rule's alert stands", |status| {
            status["alerts"].as_array().unwrap().iter().any(|alert| alert.as_str().unwrap().contains("something heard"))
        });
        let small = client.submit(bytes(3).0, bytes(3).1).await.unwrap();
        assert_eq!((way(&small).0.as_str(), small.payload.as_ref()), ("edge-1", &b"too small"[..]));
        // An answer that is fresh enough is given by the node that was asked, or else by where it was made, without the
        // payload being asked for.
        let (_, payload) = bytes(200_000);
        let asked = |job: Job| client.submit(job.fresh_within_ms(60_000), payload.clone());
        let first = asked(bytes(200_000).0).await.unwrap();
        assert_eq!((way(&first).0, first.header.receipt.cached), ("regional-1".to_owned(), 0));
        let began = Instant::now();
        loop {
            let again = asked(bytes(200_000).0).await.unwrap();
            assert_eq!(again.header.receipt.cached, 1);
            assert!(again.payload == payload);
            // The edge keeps it as soon as it has found the digest right.
            if way(&again) == ("edge-1".to_owned(), vec![]) {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(10), "the edge keeps nothing");
        }

        // What nobody has, and what nobody has time for.
        let (outcome, reason, detail) =
            refusal(&client.submit(Job::image("nanodte").deadline_ms(60_000), vec![1]).await.unwrap());
        assert_eq!((outcome, reason), (Outcome::Refused, Reason::UnknownModel), "{detail}");
        let soon = Job::frame("nanodet", 120, 90, PixelFormat::Rgb24).deadline_ms(4);
        let (outcome, reason, detail) = refusal(&client.submit(soon, vec![90; 120 * 90 * 3]).await.unwrap());
        assert_eq!((outcome, reason), (Outcome::Refused, Reason::DeadlineUnreachable), "{detail}");
        assert!(detail.contains("no node in reach does nanodet within "), "{detail}");
        // What the node that has the model says of a bad payload comes back as it is.
        let (outcome, reason, detail) =
            refusal(&client.submit(Job::image("nanodet").deadline_ms(60_000), vec![7; 100]).await.unwrap());
        assert_eq!((outcome, reason), (Outcome::Failed, Reason::InvalidPayload), "{detail}");

        // The same job id again is the same job.
        let (id, (job, payload)) = (JobId([7; 16]), bytes(64));
        let first = client.submit(job.job_id(id), payload.clone()).await.unwrap();
        let results = count(regional, "results");
        let again = client.submit(bytes(64).0.job_id(id), payload).await.unwrap();
        assert_eq!(first.header.receipt, again.header.receipt);
        assert_eq!(count(regional, "results"), results);
        client.close().await;
    });
    let status = edge.status().unwrap();
    let regional_1 = neighbour(&status, "regional-1");
    assert_eq!((&regional_1["parent"], &regional_1["tier"]), (&true.into(), &"regional".into()));
    assert!(regional_1["round_trip_us"].as_u64().unwrap() > 0);
    assert_eq!(neighbour(&central.status().unwrap(), "regional-1")["parent"], false);
    assert!(status["cluster"]["forwarded"].as_u64().unwrap() >= 6, "{status}");
    // Actors of the neighbour are found over the control plane, and found again after a restart.
    let device = |status: &serde_json::Value| status["cluster"]["seen"]["regional-1"]["devices"][0].clone();
    let before = device(&edge.wait_until("its device is seen", |status| device(status)["state"] == "ready"));
    support::signal_process(regional.worker_pid(), "KILL");
    edge.wait_until("its new worker is seen", |status| {
        let now = device(status);
        now["state"] == "ready" && now["worker_pid"].is_u64() && now["worker_pid"] != before["worker_pid"]
    });
    let shown = String::from_utf8(edge.run(&["status"]).stdout).unwrap();
    assert!(shown.contains("regional-1       regional alive"), "{shown}");
}

/// The middle runs, slowly, what the edge does not have; so does the centre, which costs more.
const SLOW: &str = "load = [\"identity\"]\n[node.options.inject]\ndelay_stage = \"infer\"\ndelay_us = 3000\n";

fn three_with_a_standby() -> Plan {
    Plan::new(&[
        Place { parents: &["regional-1", "central-1"], ..EDGE },
        Place { options: SLOW, ..REGIONAL },
        Place { options: SLOW, ..CENTRAL },
    ])
}

/// Jobs in a steady flow; every one must come back as it was. Gives which nodes ran them.
async fn flow(client: &Client, jobs: usize) -> Vec<String> {
    let mut tasks = Vec::new();
    for number in 0..jobs {
        let client = client.clone();
        tasks.push(tokio::task::spawn_local(async move {
            let (job, payload) = bytes(if number.is_multiple_of(10) { 200_000 } else { 500 });
            let answer = client.submit(job, payload.clone()).await.unwrap();
            assert!(answer.payload == payload, "job {number}: {:?}", answer.rejection());
            way(&answer).0
        }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut ran = Vec::new();
    for task in tasks {
        ran.push(task.await.unwrap());
    }
    ran
}

#[test]
fn a_node_that_is_killed_takes_no_job_with_it_and_is_used_again_when_it_is_back() {
    let plan = three_with_a_standby();
    let mut nodes = plan.start();
    block_on(tokio::task::LocalSet::new().run_until(async {
        let client = nodes[0].client().await;
        let before = flow(&client, 20).await;
        assert!(before.iter().all(|node| node == "regional-1"), "{before:?}");
        let flowing = tokio::task::spawn_local({
            let client = client.clone();
            async move { flow(&client, 300).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        nodes[1].signal("KILL");
        let ran = flowing.await.unwrap();
        assert!(ran.iter().any(|node| node == "central-1"), "{ran:?}");
        let status = nodes[0].sees("regional-1", "lost");
        assert_ne!(status["reason"], "");
        assert_eq!(nodes[0].status().unwrap()["cluster"]["lost"], 0);
        nodes[1].wait();
        nodes[1].restart();
        nodes[0].joined();
        let after = flow(&client, 20).await;
        assert!(after.iter().all(|node| node == "regional-1"), "{after:?}");
        client.close().await;
    }));
}

#[test]
fn a_node_that_is_silent_is_not_waited_for() {
    let plan = three_with_a_standby();
    let nodes = plan.start();
    block_on(tokio::task::LocalSet::new().run_until(async {
        let client = nodes[0].client().await;
        let flowing = tokio::task::spawn_local({
            let client = client.clone();
            async move { flow(&client, 400).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        nodes[1].signal("STOP");
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        nodes[1].signal("CONT");
        // Every job has one answer, whoever ran it; what the silent node says late is not heard twice.
        let ran = flowing.await.unwrap();
        assert!(ran.iter().any(|node| node == "central-1"), "{ran:?}");
        nodes[0].joined();
        let after = flow(&client, 20).await;
        assert!(after.iter().all(|node| node == "regional-1"), "{after:?}");
        assert_eq!(client.stray_answers(), 0);
        client.close().await;
    }));
}

#[test]
fn a_job_that_is_away_can_be_taken_back_and_ends_when_it_is_due() {
    let slow = "load = [\"identity\"]\n[node.options.inject]\ndelay_stage = \"infer\"\ndelay_us = 200000\n";
    let plan = Plan::new(&[EDGE, Place { options: slow, parents: &[], ..REGIONAL }]);
    let nodes = plan.start();
    block_on(async {
        let client = nodes[0].client().await;
        let waiting: Vec<_> = (0..6).map(|_| client.submit(bytes(100).0, bytes(100).1)).collect();
        let mut waiting: Vec<_> = waiting.into_iter().map(Box::pin).collect();
        for job in &mut waiting {
            let _ = tokio::time::timeout(Duration::from_millis(20), job.as_mut()).await;
        }
        drop(waiting);
        let began = Instant::now();
        while count(&nodes[1], "cancelled") < 4 {
            assert!(began.elapsed() < support::PATIENCE, "{:?}", nodes[1].status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(nodes[0].status().unwrap()["cluster"]["away"], 0);
        // The other node stands still: at its deadline the job ends here, not when the other wakes up.
        nodes[0].wait_until("idle", |_| count(&nodes[1], "jobs_in_flight") == 0);
        let job = Box::pin(client.submit(bytes(100).0.deadline_ms(1_000), bytes(100).1));
        let (answer, ()) = tokio::join!(job, async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            nodes[1].signal("STOP");
        });
        nodes[1].signal("CONT");
        let (outcome, reason, detail) = refusal(&answer.unwrap());
        assert!(matches!(outcome, Outcome::Expired | Outcome::Failed), "{reason:?}: {detail}");
        assert!(matches!(reason, Reason::DeadlineExpired | Reason::NodeLost), "{detail}");
        client.close().await;
    });
}

#[test]
fn the_word_of_a_node_counts_no_further_than_its_certificate() {
    let plan = Plan::new(&[EDGE, Place { parents: &[], ..REGIONAL }]);
    let edge = plan.launch("edge-1", &[Role::Peer]);
    let regional = plan.launch("regional-1", &[Role::Peer]);
    edge.joined();
    regional.joined();
    block_on(async {
        let client = edge.client().await;
        let (job, payload) = bytes(10);
        let (outcome, reason, detail) = refusal(&client.submit(job.urgency(Urgency::Critical), payload).await.unwrap());
        assert_eq!((outcome, reason), (Outcome::Refused, Reason::Forbidden), "{detail}");
        let (job, payload) = bytes(10);
        assert_eq!(way(&client.submit(job, payload).await.unwrap()).0, "regional-1");
        client.close().await;
    });
}

/// Waits until a node's log has a line with all of these words; gives the line.
fn line(node: &Node, words: &[&str]) -> String {
    let began = Instant::now();
    loop {
        let log = node.log();
        if let Some(line) = log.lines().find(|line| words.iter().all(|word| line.contains(word))) {
            return line.to_owned();
        }
        assert!(began.elapsed() < support::PATIENCE, "no line with {words:?}:\n{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn strangers_stay_outside_and_say_why() {
    let plan = Plan::new(&[EDGE, Place { parents: &[], ..REGIONAL }]);
    let parent = plan.launch("regional-1", &[Role::Peer]);
    let impostor = |data, text: String| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let arguments = ["--cluster".into(), file.path().into(), "--name".into(), "edge-1".into()];
        let port = |option: &str| [option.into(), "127.0.0.1:0".into()];
        let arguments = arguments.into_iter().chain(port("--listen")).chain(port("--listen-cluster"));
        let node = Node::launch_with(data, arguments.collect());
        (node, file)
    };
    let good = || plan.data("edge-1", &[Role::Peer], Some(Tier::Edge));
    let told = |node: &Node, words: &[&str]| {
        line(node, words);
        line(&parent, words);
    };

    let (other_cluster, _file) = impostor(good(), plan.text("another"));
    told(&other_cluster, &["another", "test"]);
    let (no_peer, _file) = impostor(plan.data("edge-1", &[Role::Submit], Some(Tier::Edge)), plan.text("test"));
    line(&parent, &["role peer"]);
    line(&no_peer, &["role peer"]);
    let (wrong_tier, _file) = impostor(plan.data("edge-1", &[Role::Peer], Some(Tier::Central)), plan.text("test"));
    told(&wrong_tier, &["edge-1", "central"]);
    let (wrong_name, _file) = impostor(plan.data("edge-2", &[Role::Peer], Some(Tier::Edge)), plan.text("test"));
    told(&wrong_name, &["edge-1", "edge-2"]);
    let renamed = plan.text("test").replace("edge-1", "edge-9");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), renamed).unwrap();
    let arguments = ["--cluster", file.path().to_str().unwrap(), "--name", "edge-9", "--listen", "127.0.0.1:0"];
    let unknown = Node::launch_with(
        plan.data("edge-9", &[Role::Peer], Some(Tier::Edge)),
        arguments.iter().map(Into::into).collect(),
    );
    told(&unknown, &["edge-9"]);
    let other = Plan::new(&[EDGE, Place { parents: &[], ..REGIONAL }]);
    let (other_authority, _file) = impostor(other.data("edge-1", &[Role::Peer], Some(Tier::Edge)), plan.text("test"));
    line(&other_authority, &["regional-1", "cannot be reached"]);
    drop((other_cluster, no_peer, wrong_tier, wrong_name, unknown, other_authority));

    // The right one comes in all the same, and a second of its name does not.
    let edge = plan.launch("edge-1", &[Role::Peer]);
    edge.joined();
    let (twin, _file) = impostor(good(), plan.text("test"));
    told(&twin, &["another node is running under the name edge-1"]);
    block_on(async {
        let client = edge.client().await;
        let (job, payload) = bytes(10);
        assert_eq!(way(&client.submit(job, payload).await.unwrap()).0, "regional-1");
        client.close().await;
    });
}

#[test]
fn a_node_serves_without_its_parent_and_says_so() {
    let plan = Plan::new(&[Place { options: "load = [\"identity\"]", ..EDGE }, Place { parents: &[], ..REGIONAL }]);
    let edge = plan.launch("edge-1", &[Role::Peer]);
    edge.wait_until("ready", |status| status["devices"][0]["state"] == "ready");
    edge.proves_healthy();
    let status = edge.wait_until("the parent is missed", |status| neighbour(status, "regional-1")["reason"] != "");
    assert_ne!(neighbour(&status, "regional-1")["standing"], "alive");
    block_on(async {
        let client = edge.client().await;
        let (outcome, reason, detail) =
            refusal(&client.submit(Job::image("nanodet").deadline_ms(60_000), vec![1]).await.unwrap());
        assert_eq!((outcome, reason), (Outcome::Refused, Reason::ModelUnavailable), "{detail}");
        client.close().await;
    });
    line(&edge, &["regional-1", "cannot be reached"]);
    let parent = plan.launch("regional-1", &[Role::Peer]);
    parent.joined();
    edge.joined();
}

#[test]
fn clocks_that_are_an_hour_apart_are_never_compared() {
    let shift = ["unshare", "--time", "--fork", "--kill-child", "--monotonic", "3600", "--boottime", "3600"];
    let allowed = Command::new(shift[0]).args(&shift[1..]).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: this user may not make time namespaces");
        return;
    }
    let plan = Plan::new(&[EDGE, Place { parents: &[], ..REGIONAL }]);
    let data = plan.data("regional-1", &[Role::Peer], Some(Tier::Regional));
    let regional = Node::launch_under(&shift, data, plan.arguments("regional-1"));
    let edge = plan.launch("edge-1", &[Role::Peer]);
    edge.joined();
    regional.joined();
    assert!(edge.sees("regional-1", "alive")["round_trip_us"].as_u64().unwrap() < 1_000_000);
    block_on(async {
        let client = edge.client().await;
        for _ in 0..20 {
            let (job, payload) = bytes(100);
            let answer = client.submit(job.deadline_ms(5_000), payload).await.unwrap();
            assert_eq!(way(&answer).0, "regional-1");
            assert!(answer.total_ns < 3_600_000_000_000);
        }
        client.close().await;
    });
}

/// A library that shifts the wall clock, and only that, of the program it is loaded into.
fn wall_clock_shift(folder: &std::path::Path) -> String {
    let (source, library) = (folder.join("shift.c"), folder.join("shift.so"));
    std::fs::write(
        &source,
        "#define _GNU_SOURCE\n#include <stdlib.h>\n#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n\
         int clock_gettime(clockid_t id, struct timespec *out) {\n\
           int failed = syscall(SYS_clock_gettime, id, out);\n\
           if (!failed && id == CLOCK_REALTIME) out->tv_sec += atol(getenv(\"SHIFT_S\"));\n\
           return failed;\n}\n",
    )
    .unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    format!("LD_PRELOAD={}", library.display())
}

#[test]
fn wall_clocks_that_are_an_hour_wrong_part_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let preload = wall_clock_shift(folder.path());
    let plan = Plan::new(&[EDGE, Place { parents: &[], ..REGIONAL }]);
    let launch = |name: &'static str, tier: Tier, shift: &str| {
        let data = plan.data(name, &[Role::Peer], Some(tier));
        let node = Node::launch_under(&["env", &preload, shift], data, plan.arguments(name));
        let line = node.log().lines().next().unwrap_or_default().to_owned();
        (node, line)
    };
    // Certificates were issued just now; one of the two would not take them yet if they began now.
    let (regional, behind) = launch("regional-1", Tier::Regional, "SHIFT_S=-3600");
    let (edge, ahead) = launch("edge-1", Tier::Edge, "SHIFT_S=3600");
    assert_ne!(ahead[..13], behind[..13], "the clocks are not apart");
    edge.joined();
    regional.joined();
    block_on(async {
        let client = edge.client().await;
        let (job, payload) = bytes(100);
        let answer = client.submit(job.deadline_ms(5_000), payload).await.unwrap();
        assert_eq!(way(&answer).0, "regional-1");
        client.close().await;
    });
}

#[test]
fn a_flood_on_the_api_port_does_not_part_nodes() {
    let plan = Plan::new(&[EDGE, Place { parents: &[], ..REGIONAL }]);
    let nodes = plan.start();
    let api = nodes[1].address("api");
    let over = Arc::new(AtomicBool::new(false));
    let flooding: Vec<_> = (0..2_u8)
        .map(|seed| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                // Of the form of a first packet of QUIC, and nonsense behind that.
                let mut packet = [seed; 1_200];
                packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
                let mut sent = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    packet[6..10].copy_from_slice(&sent.to_le_bytes());
                    let _ = socket.send_to(&packet, api);
                    sent = sent.wrapping_add(1);
                }
                sent
            })
        })
        .collect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let status = nodes[0].status().unwrap();
        assert_eq!(neighbour(&status, "regional-1")["standing"], "alive", "{}", nodes[0].log());
        std::thread::sleep(Duration::from_millis(100));
    }
    block_on(async {
        let client = nodes[0].client().await;
        let (job, payload) = bytes(1_000);
        assert_eq!(way(&client.submit(job, payload).await.unwrap()).0, "regional-1");
        client.close().await;
    });
    over.store(true, Ordering::Relaxed);
    let sent: u32 = flooding.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(sent > 10_000, "{sent} packets are no flood");
}

#[test]
fn topologies_without_sense_keep_a_node_from_starting() {
    let plan = Plan::new(&[EDGE, REGIONAL, CENTRAL]);
    let starts = |text: &str, name: &str| {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("cluster.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = sensorium();
        command.args(["node", "--cluster"]).arg(&file).args(["--name", name, "--data"]).arg(data.path());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
        complaint(&output)
    };
    let text = plan.text("test");
    for (text, name, words) in [
        (text.clone(), "edge-7", ["edge-7", "edge-1"]),
        (text.replace("parents = [\"regional-1\"]", "parents = [\"edge-1\"]"), "edge-1", ["edge-1", "itself"]),
        (
            text.replace("parents = [\"regional-1\"]", "parents = [\"regional-2\"]"),
            "edge-1",
            ["regional-2", "regional-1"],
        ),
        (text.replace("name = \"central-1\"", "name = \"edge-1\""), "edge-1", ["edge-1", "twice"]),
        (text.replace("load = [\"silero-vad\"]", "lod = []"), "edge-1", ["edge-1", "load"]),
        (text.replace("tier = \"edge\"", "tier = \"moon\""), "edge-1", ["moon", "edge"]),
    ] {
        let complaint = starts(&text, name);
        assert!(words.iter().all(|word| complaint.contains(word)), "{words:?}: {complaint}");
    }
    let missing = sensorium().args(["node", "--cluster", "/nowhere/c.toml"]).output().unwrap();
    assert!(complaint(&missing).contains("/nowhere/c.toml"), "{}", complaint(&missing));
}
