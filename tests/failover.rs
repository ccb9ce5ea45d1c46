//! Several nodes and one client: a node that dies or stops takes no job with it, and a client that moves keeps its streams.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sensorium_client::{Client, ClientConfig, ClientError, Job, SessionOptions};
use sensorium_wire::{Dtype, EventBody};
use support::{Node, authority, block_on, complaint, ffmpeg, local};

/// Jobs take a few milliseconds, so that some are in flight whenever a node dies.
const SLOW: &str =
    "load = [\"identity\"]\n[inject]\ndelay_stage = \"infer\"\ndelay_us = 3000\nhang_on_prefix = \"hang\"\n";

fn identity(bytes: usize) -> Job {
    Job::tensor("identity", Dtype::U8, &[u32::try_from(bytes).unwrap()]).deadline_ms(60_000)
}

/// Two nodes of one authority, and the configuration of a client that prefers the first.
fn two_nodes() -> (Node, Node, ClientConfig) {
    let authority = authority();
    let [one, two] = ["one", "two"].map(|name| Node::start_of(&authority, name, SLOW));
    let config = one.client_config().also(two.address("api"));
    (one, two, config)
}

/// A steady flow of jobs, some of them large, each of which must come back as it was, once.
#[derive(Clone)]
struct Flow {
    client: Client,
    /// Which node answered, and when.
    answers: Rc<RefCell<Vec<(String, Instant)>>>,
    sent: Rc<Cell<u32>>,
    stop: Rc<Cell<bool>>,
}

impl Flow {
    fn start(client: &Client, every: Duration) -> (Self, tokio::task::JoinHandle<()>) {
        let flow = Self { client: client.clone(), answers: Rc::default(), sent: Rc::default(), stop: Rc::default() };
        let sending = flow.clone();
        let task = tokio::task::spawn_local(async move {
            let mut tasks = Vec::new();
            while !sending.stop.get() {
                tasks.push(tokio::task::spawn_local(sending.clone().one()));
                tokio::time::sleep(every).await;
            }
            for task in tasks {
                task.await.unwrap();
            }
        });
        (flow, task)
    }

    async fn one(self) {
        let number = self.sent.replace(self.sent.get() + 1);
        let payload = number.to_le_bytes().repeat(if number.is_multiple_of(20) { 20_000 } else { 100 });
        let answer = self.client.submit(identity(payload.len()), payload.clone()).await.unwrap();
        assert!(answer.is_result(), "job {number}: {:?}", answer.rejection());
        assert!(answer.payload == payload, "job {number}: other bytes came back");
        self.answers.borrow_mut().push((answer.header.receipt.node.to_string(), Instant::now()));
    }

    fn of(&self, node: &str) -> usize {
        self.answers.borrow().iter().filter(|(name, _)| name == node).count()
    }

    /// Waits until `node` has given `count` answers.
    async fn until(&self, node: &str, count: usize) {
        let began = Instant::now();
        while self.of(node) < count {
            let (have, sent) = (self.answers.borrow().len(), self.sent.get());
            let now = (self.client.node(), self.client.reconnects(), self.client.skipped());
            assert!(
                began.elapsed() < support::PATIENCE,
                "{node}: {} of {have} answers, {sent} sent; {now:?}",
                self.of(node)
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Starts an ended node again, on the addresses that it had.
fn restart_in_place(node: &mut Node, api: SocketAddr) {
    let path = node.data.path().join("test.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("127.0.0.1:0", &api.to_string(), 1)).unwrap();
    node.restart();
}

#[test]
fn a_killed_node_loses_no_job_and_the_next_of_the_list_goes_on() {
    let (mut one, two, config) = two_nodes();
    let address = one.address("api");
    let one = local(async {
        let client = Client::connect(config).await.unwrap();
        assert_eq!(client.node().unwrap().name, "one");
        let (flow, sending) = Flow::start(&client, Duration::from_millis(4));
        let burst: Vec<_> = (0..200).map(|_| tokio::task::spawn_local(flow.clone().one())).collect();
        flow.until("one", 30).await;
        one.signal("KILL");
        flow.until("two", 30).await;
        for job in burst {
            job.await.unwrap();
        }
        assert_eq!((client.reconnects(), client.node().unwrap().name.as_str()), (1, "two"));
        assert_eq!(client.node().unwrap().address, two.address("api"));

        // The preferred one is back: nobody goes there for that.
        // On a thread of its own: a client that does not run is one that is gone.
        one = tokio::task::spawn_blocking(move || {
            assert!(!one.wait());
            restart_in_place(&mut one, address);
            one
        })
        .await
        .unwrap();
        let before = flow.of("two");
        flow.until("two", before + 50).await;
        let of_one = flow.of("one");
        two.signal("KILL");
        flow.until("one", of_one + 30).await;
        flow.stop.set(true);
        sending.await.unwrap();
        assert_eq!((client.reconnects(), client.node().unwrap().name.as_str()), (2, "one"));
        assert_eq!(flow.answers.borrow().len(), flow.sent.get() as usize, "as many answers as jobs");
        let order: Vec<_> = flow.answers.borrow().iter().map(|(name, _)| name.clone()).collect();
        let mut turns = order;
        turns.dedup();
        assert_eq!(turns, ["one", "two", "one"]);
        client.close().await;
        one
    });
    one.proves_healthy();
}

#[test]
fn a_node_that_stops_hands_over_without_a_failed_job() {
    let (mut one, two, config) = two_nodes();
    local(async {
        let client = Client::connect(config).await.unwrap();
        let (flow, sending) = Flow::start(&client, Duration::from_millis(2));
        flow.until("one", 30).await;
        let burst: Vec<_> = (0..200).map(|_| tokio::task::spawn_local(flow.clone().one())).collect();
        tokio::task::yield_now().await;
        one.signal("TERM");
        flow.until("two", 100).await;
        for job in burst {
            job.await.unwrap();
        }
        flow.stop.set(true);
        sending.await.unwrap();
        assert_eq!(client.node().unwrap().name, "two");
        assert_eq!(flow.answers.borrow().len(), flow.sent.get() as usize, "as many answers as jobs");
        client.close().await;
    });
    assert!(one.wait(), "it did not end well: {}", one.log());
    two.proves_healthy();
}

#[test]
fn without_any_node_every_job_ends_with_a_reason_that_names_them_all() {
    let (one, two, mut config) = two_nodes();
    config.reconnect_ms_max = 1_000;
    let addresses = [one.address("api"), two.address("api")];
    local(async {
        let client = Client::connect(config).await.unwrap();
        let jobs: Vec<_> = (0..100_u8).map(|number| client.submit(identity(100), vec![number; 100])).collect();
        let hanging = client.submit(identity(4).deadline_ms(1_200), &b"hang"[..]);
        let killing = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            one.signal("KILL");
            two.signal("KILL");
            // A job of a time without any node ends when its deadline passes.
            while client.node().is_some() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            client.submit(identity(4).deadline_ms(50), &b"late"[..]).await
        };
        let (answers, hung, late) = futures_util::join!(futures_util::future::join_all(jobs), hanging, killing);
        let late = late.unwrap_err();
        assert!(matches!(late, ClientError::Expired { sent: 0, .. }), "{late}");
        let hung = hung.unwrap_err();
        assert!(matches!(hung, ClientError::Expired { sent: 1, .. }), "{hung}");
        let errors: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
        assert!(!errors.is_empty());
        for error in errors {
            assert!(matches!(error, ClientError::Lost { .. }), "{error}");
            for address in addresses {
                assert!(error.to_string().contains(&format!("{address} does not answer")), "{error}");
            }
        }
        let error = client.submit(identity(1), &b"x"[..]).await.unwrap_err();
        assert!(matches!(error, ClientError::Closed), "{error}");
    });
}

#[test]
fn nodes_that_cannot_be_used_are_passed_over_with_their_reasons() {
    let node = Node::start("load = [\"identity\"]\n");
    let stranger = Node::start("load = [\"identity\"]\n");
    // A port that nobody listens on, for as long as the socket is held.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (nobody, foreign, good) = (silent.local_addr().unwrap(), stranger.address("api"), node.address("api"));
    let with = |addresses: &[SocketAddr]| ClientConfig { addresses: addresses.to_vec(), ..node.client_config() };
    block_on(async {
        let client = Client::connect(with(&[nobody, foreign, good])).await.unwrap();
        assert_eq!(client.node().unwrap().address, good);
        let skipped = client.skipped();
        assert_eq!(skipped.iter().map(|failed| failed.address).collect::<Vec<_>>(), [nobody, foreign]);
        assert!(skipped[0].to_string().contains("does not answer (no answer within"), "{}", skipped[0]);
        assert!(skipped[1].to_string().contains("does not accept this client"), "{}", skipped[1]);
        assert!(client.submit(identity(4), &b"abcd"[..]).await.unwrap().is_result());
        client.close().await;

        let refused = async |addresses: &[SocketAddr]| {
            let config = ClientConfig { connect_ms_max: 600, ..with(addresses) };
            Client::connect(config).await.err().unwrap()
        };
        let error = refused(&[nobody, foreign]).await;
        assert!(matches!(&error, ClientError::NoNode { tried } if tried.len() == 2), "{error}");
        let text = error.to_string();
        for part in ["none of the 2 nodes", &format!("{nobody} does not answer"), &format!("{foreign} does not accept")]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Twice the same is one, and one alone is said as ever.
        assert!(matches!(refused(&[nobody, nobody]).await, ClientError::Unreachable { .. }));
        assert!(matches!(refused(&[foreign]).await, ClientError::Rejected { .. }));
        for (count, expected) in [(0, "0 nodes"), (17, "17 nodes")] {
            let text = refused(&vec![good; count]).await.to_string();
            assert!(text.contains(expected) && text.contains("1 to 16"), "{text}");
        }
    });

    let list = format!("{nobody},{good}");
    let bundle = node.data.path().join("certificates/client");
    let elsewhere = tempfile::tempdir().unwrap();
    let command = |arguments: &[&str]| {
        let mut command = support::sensorium();
        command.args(arguments).arg("--bundle").arg(&bundle).arg("--data").arg(elsewhere.path());
        command
    };
    let shown = |output: std::process::Output| {
        assert!(output.status.success(), "{}", complaint(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("api {good}")), "{output:?}");
    };
    shown(command(&["status", "--node", &list]).output().unwrap());
    shown(command(&["status", "--node", &nobody.to_string(), "--node", &good.to_string()]).output().unwrap());
    shown(command(&["status"]).env("SENSORIUM_NODE", &list).output().unwrap());
    let many = vec![good.to_string(); 17].join(",");
    let text = complaint(&command(&["status", "--node", &many]).output().unwrap());
    assert!(text.contains("17 nodes: 1 to 16"), "{text}");
    let text = complaint(&command(&["status", "--node", "nowhere"]).output().unwrap());
    assert!(text.contains("--node") && text.contains("nowhere"), "{text}");
}

/// A clip of a few seconds without sound.
fn clip(folder: &std::path::Path) -> std::path::PathBuf {
    let path = folder.join("clip.mkv");
    let source = "testsrc=size=160x120:rate=10:duration=4";
    ffmpeg(&["-f", "lavfi", "-i", source, "-c:v", "mpeg4", path.to_str().unwrap()]);
    path
}

#[test]
fn a_client_that_moves_keeps_its_jobs_and_its_session() {
    let node = Node::start(SLOW);
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path());
    local(async {
        let client = node.client().await;
        let connection = client.connection().unwrap().stable_id();
        let mut session = client.session(SessionOptions::default(), &clip).await.unwrap();
        let name = client.node().unwrap().name;
        let (flow, sending) = Flow::start(&client, Duration::from_millis(4));
        let moving = async {
            for round in 1..=10 {
                flow.until(&name, round * 50).await;
                client.rebind("0.0.0.0:0".parse().unwrap()).unwrap();
            }
            flow.until(&name, 600).await;
            flow.stop.set(true);
        };
        let watching = async {
            loop {
                let event = session.next().await.unwrap().expect("closed is the last event");
                if let EventBody::Closed { complete, error, .. } = event.body {
                    assert!(complete, "{error}");
                    return;
                }
            }
        };
        futures_util::join!(moving, watching);
        sending.await.unwrap();
        assert_eq!((client.reconnects(), client.stray_answers()), (0, 0));
        assert_eq!(client.connection().unwrap().stable_id(), connection);
        let error = client.rebind("192.0.2.1:0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("192.0.2.1"), "{error}");
        assert!(client.submit(identity(4), &b"abcd"[..]).await.unwrap().is_result(), "the old socket is kept");
        client.close().await;
    });
    let status = node.status().unwrap();
    assert_eq!(status["engine"]["results"], status["engine"]["accepted"], "something was run twice or not: {status}");
}

#[test]
fn a_session_that_nobody_takes_up_says_so() {
    let (one, two, mut config) = two_nodes();
    config.reconnect_ms_max = 500;
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path());
    local(async {
        let client = Client::connect(config).await.unwrap();
        let mut session = client.session(SessionOptions::default(), &clip).await.unwrap();
        assert_eq!(session.node().name, "one");
        assert!(session.next().await.unwrap().is_some());
        two.signal("KILL");
        one.signal("KILL");
        let error = loop {
            match session.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the session ended well"),
                Err(error) => break error,
            }
        };
        assert!(matches!(&error, ClientError::SessionLost { node, events: 1.., .. } if node == "one"), "{error}");
        assert!(error.to_string().contains(&one.address("api").to_string()), "{error}");
        client.close().await;
    });
}

/// `cargo test --test failover how_long -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn how_long_a_killed_node_is_missed() {
    const KILLS: usize = 9;
    let (mut one, mut two, _) = two_nodes();
    let mut gaps_ms = Vec::new();
    for _ in 0..KILLS {
        let config = one.client_config().also(two.address("api"));
        gaps_ms.push(local(async {
            let client = Client::connect(config).await.unwrap();
            let (flow, sending) = Flow::start(&client, Duration::from_millis(5));
            let (first, second) =
                (client.node().unwrap().name, if client.node().unwrap().name == "one" { "two" } else { "one" });
            flow.until(&first, 200).await;
            let killed = Instant::now();
            one.signal("KILL");
            flow.until(second, 50).await;
            flow.stop.set(true);
            sending.await.unwrap();
            assert_eq!(flow.answers.borrow().len(), flow.sent.get() as usize, "as many answers as jobs");
            client.close().await;
            let answers = flow.answers.borrow();
            let (_, at) = answers.iter().find(|(name, _)| name == second).unwrap();
            at.duration_since(killed).as_millis()
        }));
        assert!(!one.wait());
        one.restart();
        std::mem::swap(&mut one, &mut two);
    }
    gaps_ms.sort_unstable();
    println!(
        "from kill -9 to the first answer of the next node, {KILLS} kills: {gaps_ms:?} ms, median {}",
        gaps_ms[KILLS / 2]
    );
}
