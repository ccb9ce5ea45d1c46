//! The scheduler at work in a real node: what it learns and plans, and the log from which it can be asked again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::path::{Path, PathBuf};

use sensorium_client::{Client, Job};
use sensorium_wire::{Dtype, Outcome, Reason, Urgency};
use serde_json::Value;
use support::{Node, block_on, complaint, media, sensorium};

fn echo(number: u32) -> Job {
    Job::tensor("identity", Dtype::U8, &[4]).deadline_ms(60_000).stream(7, u64::from(number), 0, 0)
}

/// The newest segment of a node's log.
fn segment(folder: &Path) -> PathBuf {
    let mut segments: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    segments.pop().expect("a segment")
}

async fn echoes(client: &Client, jobs: u32) {
    let answers = (0..jobs).map(|number| client.submit(echo(number), number.to_le_bytes().to_vec()));
    for answer in futures_util::future::join_all(answers).await {
        assert!(answer.unwrap().is_result());
    }
}

#[test]
fn a_log_of_decisions_is_replayed_to_the_same_decisions() {
    let mut node = Node::start("load = [\"identity\"]\nevent_log_bytes_max = 4000000\n");
    block_on(async {
        let client = node.client().await;
        echoes(&client, 300).await;
        let late = client.submit(echo(0).deadline_us(1), vec![0; 4]).await.unwrap();
        assert_eq!(late.header.outcome, Outcome::Refused);
        client.close().await;
    });
    node.signal("TERM");
    assert!(node.wait());
    let folder = node.data.path().join("events");
    let output = sensorium().args(["replay", "--quiet"]).arg(&folder).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}{}", complaint(&output));
    assert!(told.contains("every decision is the same again") && told.contains("jobs refused"), "{told}");
    let output = sensorium().arg("replay").arg(&folder).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("identity") && told.contains("expected, plan"), "it tells what and why: {told}");

    // Somebody changes a decision: the replay says where.
    let path = segment(&folder);
    let text = std::fs::read_to_string(&path).unwrap();
    let changed = text.replacen("\"retry_after_us\":", "\"retry_after_us\":1", 1);
    assert_ne!(text, changed);
    std::fs::write(&path, changed).unwrap();
    let output = sensorium().arg("replay").arg(&path).output().unwrap();
    assert!(!output.status.success());
    assert!(complaint(&output).contains("the replay decides otherwise"), "{}", complaint(&output));
}

#[test]
fn logs_that_are_none_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let replay = |path: &Path| complaint(&sensorium().arg("replay").arg(path).output().unwrap());
    assert!(replay(folder.path()).contains("event_log_bytes_max"), "{}", replay(folder.path()));
    assert!(replay(&folder.path().join("none")).contains("No such file"));
    let path = folder.path().join("events-000000001.jsonl");
    std::fs::write(&path, "nonsense\n").unwrap();
    assert!(replay(&path).contains("line 1: not a line of an event log"), "{}", replay(&path));
}

#[test]
fn a_log_keeps_within_its_bytes() {
    const BYTES_MAX: u64 = 400_000;
    let node = Node::start(&format!("load = [\"identity\"]\nevent_log_bytes_max = {BYTES_MAX}\n"));
    block_on(async {
        let client = node.client().await;
        for _ in 0..20 {
            echoes(&client, 200).await;
        }
        client.close().await;
    });
    let folder = node.data.path().join("events");
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    let sizes: Vec<u64> = files.collect();
    // What was waiting to be written when a segment was full still goes into it.
    assert!(sizes.len() <= 4 && sizes.iter().sum::<u64>() < 20 * BYTES_MAX, "{sizes:?}");
    assert!(!segment(&folder).ends_with("events-000000001.jsonl"), "no segment was replaced: {sizes:?}");
}

#[test]
fn what_was_learned_outlives_the_node() {
    let mut node = Node::start("load = [\"identity\", \"silero-vad\"]\n");
    block_on(async {
        let client = node.client().await;
        echoes(&client, 200).await;
        client.close().await;
    });
    node.signal("TERM");
    assert!(node.wait());
    let path = node.data.path().join("service-times.json");
    let kept: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let of = |kept: &Value, model: &str| {
        let all = kept["kept"].as_array().unwrap();
        all.iter().find(|entry| entry["model"] == model).unwrap_or_else(|| panic!("no {model} in {kept}")).clone()
    };
    let first = of(&kept, "identity");
    let samples = |entry: &Value| {
        let counts = entry["learned"]["ratios"][0][1]["counts"].as_array().unwrap();
        counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    assert!(samples(&first) > 20, "more than the profile: {first}");
    node.restart();
    node.signal("TERM");
    assert!(node.wait());
    let again: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(of(&again, "identity"), first, "the profile was not measured again, and nothing was forgotten");

    std::fs::write(&path, "{\"kept\":").unwrap();
    node.restart();
    assert!(node.log().contains("measuring again"), "{}", node.log());
}

#[test]
fn a_critical_moment_needs_a_role_and_changes_the_plan_for_its_time() {
    let node = Node::start("load = [\"identity\", \"silero-vad\"]\n[plan]\ndwell_ms = 0\n");
    let plan = |more: &[&str]| {
        let output = node.command(&["plan", "--json"]).args(more).output().unwrap();
        assert!(output.status.success(), "{}", complaint(&output));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let calm = plan(&[]);
    assert_eq!(calm["level"], 0, "{calm}");
    let critical = plan(&["--critical-moment", "60s"]);
    assert_eq!(critical["level"], 2, "{critical}");
    assert!(critical["epoch"].as_u64() > calm["epoch"].as_u64());
    let share = |plan: &Value| plan["devices"][0]["audio"].as_f64().unwrap();
    assert!(share(&critical) > share(&calm), "{critical} {calm}");
    assert_eq!(plan(&["--critical-moment", "0s"])["level"], 0);

    let output = node.command(&["plan", "--critical-moment", "2h"]).output().unwrap();
    assert!(complaint(&output).contains("0 to 600000 ms"), "{}", complaint(&output));
    let folder = node.data.path().join("submitter");
    let ca = node.data.path().join("certificates/ca");
    let issued = sensorium()
        .args(["ca", "issue", "--name", "camera", "--ca"])
        .arg(&ca)
        .arg("--out")
        .arg(&folder)
        .output()
        .unwrap();
    assert!(issued.status.success(), "{}", complaint(&issued));
    let output = node.command(&["plan", "--critical-moment", "1s"]).arg("--bundle").arg(&folder).output().unwrap();
    assert!(complaint(&output).contains("role critical or operate"), "{}", complaint(&output));
}

#[test]
fn policies_without_sense_keep_a_node_from_starting() {
    let cases = [
        ("share_min_permille = [500, 500, 100, 0]", "at most 900"),
        ("[plan]\nkind = \"tabel\"", "unknown variant `tabel`"),
        ("[plan]\nrows = []", "at least one row"),
        ("[plan]\nrows = [{ visual = -1, audio = 1, fusion = 1 }]", "plan.rows[0].visual: -1 devices"),
        ("[plan]\nrows = [{ visul = 1, audio = 1, fusion = 1 }]", "visual"),
    ];
    for (config, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, config).unwrap();
        let output =
            sensorium().args(["node", "--config"]).arg(&path).arg("--data").arg(folder.path()).output().unwrap();
        assert!(!output.status.success());
        assert!(complaint(&output).contains(expected), "{config}: {}", complaint(&output));
    }
}

/// A transcript runs in slices: voice detection on the same lane does not wait for its end.
#[test]
fn a_long_job_lets_short_ones_of_its_lane_pass() {
    let node = Node::start("load = [\"moonshine\", \"silero-vad\"]\n");
    let sound = std::fs::read(media("librivox/sense_and_sensibility_01_austen_64kb-0870.wav")).unwrap();
    block_on(async {
        let client = node.client().await;
        let mut transcript = Box::pin(client.submit(Job::sound("moonshine").deadline_ms(60_000), sound));
        let window = || {
            let job = Job::pcm("silero-vad", Dtype::F32, 512, 1, 16_000).deadline_ms(60_000).urgency(Urgency::High);
            client.submit(job, vec![0; 2048])
        };
        let mut passed = 0;
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut transcript => break answer.unwrap(),
                window = window() => {
                    assert!(window.unwrap().is_result());
                    passed += 1;
                }
            }
        };
        drop(transcript);
        assert!(answer.is_result(), "{:?}", answer.rejection());
        assert!(passed >= 3, "only {passed} windows passed");
        let receipt = &answer.header.receipt;
        assert!(receipt.unaccounted_ns() * 50 < receipt.node_ns, "slices are accounted for: {receipt:?}");
        assert_eq!(receipt.attempt, 1);
        let unknown = client.submit(Job::sound("moonshne"), vec![1]).await.unwrap();
        assert_eq!(unknown.header.reason, Reason::UnknownModel);
        client.close().await;
    });
}
