//! What comes before a node's models: rules that answer, refuse and warn in place, and answers that it still has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use sensorium_client::{Answer, Client, ClientConfig, Job};
use sensorium_transport::pki::Authority;
use sensorium_transport::{FrameReader, Step};
use sensorium_wire::codec::{decode_answer, encode, put_frame};
use sensorium_wire::{
    AnswerHeader, BodyKind, Dtype, JobId, Kind, Name, Outcome, Principal, Reason, Role, SubmitHeader,
};
use serde_json::Value;
use support::{Node, block_on, complaint, quiet_second, sensorium, signal_process};

fn echo(sequence: u64) -> Job {
    Job::tensor("identity", Dtype::U8, &[4]).deadline_ms(60_000).stream(9, sequence, 0, 0)
}

/// A client of another tenant.
async fn guest(node: &Node) -> Client {
    let authority = Authority::load(&node.data.path().join("certificates/ca")).unwrap();
    let (tenant, name) = ("guests".to_owned(), "guest".to_owned());
    let principal = Principal { tenant, name, roles: vec![Role::Submit], tier: None };
    let bundle = authority.issue(&principal, &[], 1).unwrap();
    Client::connect(ClientConfig { bundle, ..node.client_config() }).await.unwrap()
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.payload.to_vec()).unwrap()
}

const RULES: &str = r#"
load = ["identity", "yamnet"]
[[rule]]
name = "ask-the-porter"
on = "job"
when = 'job.model == "identity" && job.sequence == 1'
then = "answer"
text = "the porter knows"
[[rule]]
name = "no-guests"
on = "job"
when = 'tenant == "guests" && job.payload_bytes > 3'
then = "refuse"
text = "guests send up to 3 bytes"
[[rule]]
name = "silence"
on = "result"
when = 'result.classes.exists(c, c.label == "Silence" && c.score > 0.5)'
then = "alert"
text = "nothing is heard"
[[rule]]
name = "third"
on = "result"
when = 'stream.results == 2 && stream.age_ms >= 0'
then = "alert"
text = "the third of its stream"
[[rule]]
name = "moment"
on = "job"
when = 'job.sequence == 7'
then = "critical_moment"
for_ms = 60000
[[rule]]
name = "lacking"
on = "result"
when = 'result.text.contains("help")'
then = "alert"
text = "somebody asks for help"
"#;

fn rule<'a>(status: &'a Value, name: &str) -> &'a Value {
    let rules = status["rules"].as_array().unwrap();
    rules.iter().find(|rule| rule["name"] == name).unwrap_or_else(|| panic!("no rule {name}: {status}"))
}

#[test]
fn rules_answer_refuse_and_warn_in_place() {
    let node = Node::start(RULES);
    block_on(async {
        let client = node.client().await;
        let answer = client.submit(echo(1), b"abcd".to_vec()).await.unwrap();
        let header = &answer.header;
        assert_eq!((header.outcome, header.body), (Outcome::Result, BodyKind::Text), "{:?}", answer.rejection());
        assert_eq!(text(&answer), "the porter knows");
        assert_eq!((header.receipt.variant.as_str(), header.receipt.cached), ("rule:ask-the-por", 0));
        assert_eq!((header.receipt.attempt, header.receipt.unaccounted_ns()), (0, 0), "no worker had it");

        let guest = guest(&node).await;
        // Large: its payload would have a stream of its own.
        for bytes in [4_u32, 8 << 20] {
            let job = Job::tensor("identity", Dtype::U8, &[bytes]).deadline_ms(60_000);
            let refused = guest.submit(job, vec![1; bytes as usize]).await.unwrap();
            assert_eq!((refused.header.outcome, refused.header.reason), (Outcome::Refused, Reason::Rule));
            assert_eq!(text(&refused), "guests send up to 3 bytes");
        }
        let small = Job::tensor("identity", Dtype::U8, &[3]).deadline_ms(60_000);
        assert_eq!(&guest.submit(small, b"abc".to_vec()).await.unwrap().payload[..], b"abc");
        // What admission refuses is not a rule's to answer.
        let late = guest.submit(echo(1).deadline_ms(0), b"abcd".to_vec()).await.unwrap();
        assert_eq!(late.header.reason, Reason::DeadlinePassed);
        guest.close().await;

        assert_eq!(&client.submit(echo(2), b"abcd".to_vec()).await.unwrap().payload[..], b"abcd");
        let calm = node.status().unwrap()["plan"]["level"].as_u64().unwrap();
        assert!(client.submit(echo(7), b"abcd".to_vec()).await.unwrap().is_result());
        node.wait_until("the moment is critical", |status| status["plan"]["level"].as_u64() > Some(calm));
        assert!(client.submit(echo(3), b"abcd".to_vec()).await.unwrap().is_result());

        let (job, sound) = quiet_second();
        assert!(client.submit(job, sound).await.unwrap().is_result());
        client.close().await;
    });
    let status = node.wait_until("rules have warned", |status| status["alerts"].as_array().unwrap().len() == 2);
    let alerts: Vec<_> = status["alerts"].as_array().unwrap().iter().map(|alert| alert.as_str().unwrap()).collect();
    assert!(alerts[0].starts_with("rule third: the third of its stream; model identity, tenant local"), "{alerts:?}");
    assert!(alerts[1].starts_with("rule silence: nothing is heard; model yamnet"), "{alerts:?}");
    for (name, fired) in [("ask-the-porter", 1), ("no-guests", 2), ("silence", 1), ("third", 1), ("moment", 1)] {
        assert_eq!(rule(&status, name)["fired"], fired, "{name}: {status}");
    }
    // Asked of every result, and none of them had a text.
    assert_eq!(rule(&status, "lacking")["failed"], 5, "{status}");
    assert_eq!((&rule(&status, "lacking")["fired"], &rule(&status, "third")["failed"]), (&0.into(), &0.into()));
    assert!(rule(&status, "no-guests")["p99_us"].as_f64() > Some(0.0), "{status}");
    assert_eq!(status["engine"]["accepted"], 5, "{status}");
    let shown = String::from_utf8(node.run(&["status"]).stdout).unwrap();
    assert!(shown.contains("ALERT: rule silence") && shown.contains("rule no-guests"), "{shown}");
    assert!(node.log().contains("rule silence: nothing is heard"), "{}", node.log());
}

#[test]
fn a_bad_rule_keeps_the_node_from_starting() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("bad.toml");
    for (when, line) in [
        ("job.widht > 3", "rule \"near\": when, line 1, column 4: a job has no field widht; there are model, version"),
        ("result.type == \"pose\"", "rule \"near\": when, line 1, column 1: no variable result; there are job"),
        ("job.width", "rule \"near\": when, line 1, column 4: it gives a int; a condition gives a bool"),
        ("job.width >", "rule \"near\": when, line 1, column 12: mismatched input the end"),
    ] {
        let rule =
            format!("[[rule]]\nname = \"near\"\non = \"job\"\nwhen = '{when}'\nthen = \"refuse\"\ntext = \"no\"\n");
        std::fs::write(&path, rule).unwrap();
        let output = sensorium().args(["node", "--config"]).arg(&path).arg("--data").arg(data.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let complaint = complaint(&output);
        assert!(complaint.contains(line), "{complaint}");
        assert!(complaint.trim_end().lines().count() == 1, "{complaint}");
    }
}

/// The header of the answer that comes back for these bytes on a stream of their own, and its payload.
async fn answer_to(client: &Client, header: &SubmitHeader, payload: &[u8], announced: u64) -> (AnswerHeader, Vec<u8>) {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, Kind::Submit, 1, &encode(header), announced);
    bytes.extend_from_slice(payload);
    let (mut send, mut recv) = client.connection().unwrap().open_bi().await.unwrap();
    send.write_all(&bytes).await.unwrap();
    if payload.len() as u64 == announced {
        send.finish().unwrap();
    }
    let (mut reader, mut header, mut said) = (FrameReader::default(), None, Vec::new());
    loop {
        let chunk = recv.read_chunk(1 << 16, true).await.unwrap().expect("an answer comes before the end");
        let mut input = &chunk.bytes[..];
        loop {
            match reader.step(&mut input).unwrap() {
                Step::More => break,
                Step::Head(_) => header = Some(decode_answer(reader.header()).unwrap()),
                Step::Payload(bytes) => said.extend_from_slice(bytes),
                Step::End => return (header.unwrap(), said),
            }
        }
    }
}

#[test]
fn an_answer_that_is_fresh_enough_is_given_again() {
    let node = Node::start("load = [\"identity\", \"intake\"]\n");
    const LARGE: u32 = 24 << 20;
    let large: &'static [u8] = (0..LARGE).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>().leak();
    block_on(async {
        let client = node.client().await;
        let job = || Job::tensor("identity", Dtype::U8, &[4]).deadline_ms(60_000);
        let minute = || job().fresh_within_ms(60_000);
        let ask = async |job: Job, payload: &[u8]| {
            let answer = client.submit(job, payload.to_vec()).await.unwrap();
            assert!(answer.is_result(), "{:?}", answer.rejection());
            answer
        };
        assert_eq!(ask(minute(), b"abcd").await.header.receipt.cached, 0);
        let again = ask(minute(), b"abcd").await;
        let receipt = again.header.receipt;
        assert_eq!((&again.payload[..], receipt.cached, receipt.attempt), (&b"abcd"[..], 1, 0));
        assert_eq!((again.header.dims(), receipt.device.as_str(), receipt.unaccounted_ns()), (&[4][..], "cpu:0", 0));
        // Whatever else decides the answer, or asks for a run of its own.
        for (what, job) in [
            ("another shape", Job::tensor("identity", Dtype::U8, &[2, 2]).deadline_ms(60_000).fresh_within_ms(60_000)),
            ("another type", Job::tensor("identity", Dtype::I8, &[4]).deadline_ms(60_000).fresh_within_ms(60_000)),
            ("another model", Job::tensor("intake", Dtype::U8, &[4]).deadline_ms(60_000).fresh_within_ms(60_000)),
            ("a stream", minute().stream(3, 1, 0, 0)),
            ("no cache wanted", job()),
        ] {
            assert_eq!(ask(job, b"abcd").await.header.receipt.cached, 0, "{what}");
        }
        assert_eq!(ask(minute(), b"abce").await.header.receipt.cached, 0, "another payload");
        assert_eq!(ask(minute().model_version(1), b"abcd").await.header.receipt.cached, 1);
        let unknown = client.submit(minute().model_version(2), b"abcd".to_vec()).await.unwrap();
        assert_eq!(unknown.header.reason, Reason::UnknownModel);

        // An answer gets too old.
        let age_ms = loop {
            let answer = ask(minute(), b"abcd").await;
            if answer.header.receipt.age_ms > 1 {
                break answer.header.receipt.age_ms;
            }
        };
        let stale = ask(job().fresh_within_ms(1), b"abcd").await;
        assert_eq!((stale.header.receipt.cached, stale.header.receipt.age_ms), (0, 0), "it was {age_ms} ms old before");

        // Another tenant's answers are another tenant's.
        let guest = guest(&node).await;
        let theirs = guest.submit(minute(), b"abcd".to_vec()).await.unwrap();
        assert_eq!(theirs.header.receipt.cached, 0);
        guest.close().await;

        // A large payload stays where it is.
        let sent = || client.connection().unwrap().stats().udp_tx.bytes;
        let job = || Job::tensor("intake", Dtype::U8, &[LARGE]).deadline_ms(60_000).fresh_within_ms(600_000);
        assert_eq!(client.submit(job(), large).await.unwrap().header.receipt.cached, 0);
        let before = sent();
        let answer = client.submit(job(), large).await.unwrap();
        assert_eq!((answer.header.receipt.cached, &answer.payload[..]), (1, &large[..64]));
        assert!(sent() - before < u64::from(LARGE) / 2, "{} bytes went out", sent() - before);
        client.close().await;
    });
    let status = node.status().unwrap();
    let cache = &status["cache"];
    assert!(cache["hits"].as_u64() >= Some(4) && cache["misses"].as_u64() >= Some(6), "{status}");
    assert_eq!(cache["bytes_max"], 64 << 20, "{status}");
    assert!(cache["entries"].as_u64() >= Some(5) && cache["bytes"].as_u64() > Some(0), "{status}");
    node.wait_until("all memory is back", |status| status["engine"]["slab_bytes_out"] == 0);
}

fn raw(job: u8, payload: &[u8], digest_of: &[u8]) -> SubmitHeader {
    let header = SubmitHeader {
        job_id: JobId([job; 16]),
        model: Name::cut("intake"),
        budget_us: 60_000_000,
        dtype: Dtype::U8,
        freshness_us: 60_000_000,
        digest: sha256(digest_of),
        ..SubmitHeader::default()
    };
    header.with_shape(&[u32::try_from(payload.len()).unwrap()]).unwrap()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

#[test]
fn a_digest_that_lies_is_found_out_and_a_hit_needs_no_payload() {
    let node = Node::start("load = [\"intake\"]\n");
    let (honest, other) = (vec![1_u8; 300_000], vec![2_u8; 300_000]);
    block_on(async {
        let client = node.client().await;
        for (job, payload, digest_of) in [(1, &other[..], &honest[..]), (2, b"abcd", b"abce")] {
            let (header, said) = answer_to(&client, &raw(job, payload, digest_of), payload, payload.len() as u64).await;
            assert_eq!((header.outcome, header.reason), (Outcome::Refused, Reason::InvalidPayload));
            let said = String::from_utf8(said).unwrap();
            assert!(said.contains("the payload's SHA-256 begins with"), "{said}");
        }
        // Nothing of it was kept under the digest that it claimed.
        let bytes = honest.len() as u64;
        let (header, said) = answer_to(&client, &raw(3, &honest, &honest), &honest, bytes).await;
        assert_eq!((header.outcome, header.receipt.cached, &said[..]), (Outcome::Result, 0, &honest[..64]));
        // The header alone brings the answer; not a byte of the payload is sent.
        let (header, said) = answer_to(&client, &raw(4, &honest, &honest), &[], bytes).await;
        assert_eq!((header.outcome, header.receipt.cached, &said[..]), (Outcome::Result, 1, &honest[..64]));
        assert_eq!(header.job_id, JobId([4; 16]));
        client.close().await;
    });
    let status = node.wait_until("all memory is back", |status| status["engine"]["slab_bytes_out"] == 0);
    assert_eq!((&status["engine"]["accepted"], &status["engine"]["refused"]), (&1.into(), &2.into()), "{status}");
}

#[test]
fn a_node_without_a_cache_runs_every_job() {
    let node = Node::start("load = [\"identity\"]\ncache_bytes_max = 0\n");
    let file = node.data.path().join("abcd.npy");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let header = format!("{:<117}\n", "{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }");
    bytes.extend_from_slice(&u16::try_from(header.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(b"abcd");
    std::fs::write(&file, bytes).unwrap();
    for _ in 0..2 {
        let (answer, done) = node.submit("identity", &file, &["--fresh-within", "60000"]);
        assert!(done && answer["receipt"]["cached"] == false, "{answer}");
    }
    assert!(node.status().unwrap()["cache"].is_null());
}

/// The worker is stopped, as good as gone: nothing that it would have to say is heard.
#[test]
fn rules_and_cache_need_no_worker() {
    let node = Node::start(RULES);
    let worker = node.worker_pid();
    block_on(async {
        let client = node.client().await;
        let job = || Job::tensor("identity", Dtype::U8, &[4]).deadline_ms(60_000).fresh_within_ms(60_000);
        assert!(client.submit(job(), b"abcd".to_vec()).await.unwrap().is_result());
        signal_process(worker, "STOP");
        let known = client.submit(job(), b"abcd".to_vec()).await.unwrap();
        assert_eq!((known.header.receipt.cached, &known.payload[..]), (1, &b"abcd"[..]));
        assert_eq!(text(&client.submit(echo(1), b"abcd".to_vec()).await.unwrap()), "the porter knows");
        signal_process(worker, "CONT");
        client.close().await;
    });
    node.proves_healthy();
}

#[test]
fn the_jobs_of_a_session_are_under_the_same_rules() {
    let node = Node::start(
        r#"
load = ["yamnet", "nanodet"]
[[rule]]
name = "no-looking"
on = "job"
when = 'job.model == "nanodet" && job.session != 0'
then = "refuse"
text = "nobody looks here"
[[rule]]
name = "heard"
on = "result"
when = 'job.model == "yamnet" && stream.results > 0 && size(stream.sound) > 0'
then = "alert"
text = "something was heard twice"
"#,
    );
    let clip = node.data.path().join("clip.mkv");
    let inputs = ["-f", "lavfi", "-i", "testsrc=rate=5:duration=2", "-f", "lavfi", "-i", "sine=duration=2"];
    support::ffmpeg(&[&inputs[..], &["-c:a", "pcm_s16le", clip.to_str().unwrap()]].concat());
    let output = node.command(&["run", "--fast", "--json"]).arg(&clip).output().unwrap();
    let events = support::events(&output);
    let gaps: Vec<_> = events.iter().filter(|event| event["kind"] == "gap" && event["modality"] == "visual").collect();
    assert!(!gaps.is_empty(), "{events:?}");
    for gap in gaps {
        assert!(gap["reason"].as_str().unwrap().contains("a rule says nobody looks here"), "{gap}");
    }
    assert!(!events.iter().any(|event| event["kind"] == "detection"), "{events:?}");
    let status = node.status().unwrap();
    assert!(rule(&status, "no-looking")["fired"].as_u64() > Some(0), "{status}");
    assert!(rule(&status, "heard")["fired"].as_u64() > Some(0), "{status}");
    assert_eq!(rule(&status, "heard")["failed"], 0, "{status}");
}
