//! A connection that breaks: jobs are sent again under the same id, run once, and answered once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use sensorium_client::{ClientError, Job};
use sensorium_wire::{Dtype, JobId, Urgency};
use support::{Node, block_on};

fn identity(bytes: usize) -> Job {
    Job::tensor("identity", Dtype::U8, &[u32::try_from(bytes).unwrap()]).deadline_ms(60_000)
}

#[test]
fn jobs_survive_broken_connections_and_are_answered_once() {
    let node = Node::start("load = [\"identity\", \"yamnet\"]\n");
    block_on(async {
        let client = node.client().await;
        let answered = AtomicUsize::new(0);
        let jobs = (0..400_usize).map(|number| {
            let (client, answered) = (client.clone(), &answered);
            async move {
                // Some are small and share a stream, some are large and have their own.
                let payload = vec![u8::try_from(number % 251).unwrap(); if number % 25 == 0 { 100_000 } else { 1_000 }];
                let urgency = if number % 2 == 0 { Urgency::Standard } else { Urgency::High };
                let answer = client.submit(identity(payload.len()).urgency(urgency), payload.clone()).await.unwrap();
                assert!(answer.is_result(), "{:?}", answer.rejection());
                assert!(answer.payload == payload, "job {number}: other bytes came back");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let breaking = async {
            for _ in 0..5 {
                while client.connection().is_none() {
                    tokio::task::yield_now().await;
                }
                if let Some(connection) = client.connection() {
                    connection.close(9_u32.into(), b"pulled out");
                }
                tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            }
        };
        futures_util::join!(futures_util::future::join_all(jobs), breaking);
        assert_eq!(answered.load(Ordering::Relaxed), 400);
        client.close().await;
    });
    // Answers on broken connections hold their slots until QUIC has forgotten the connection.
    node.wait_until("all memory is back", |status| {
        status["engine"]["jobs_in_flight"] == 0 && status["engine"]["slab_bytes_out"] == 0
    });
}

#[test]
fn a_job_id_is_run_once_however_often_it_is_sent() {
    let node = Node::start("load = [\"identity\"]\n");
    block_on(async {
        let client = node.client().await;
        let id = JobId([7; 16]);
        let first = client.submit(identity(3).job_id(id), &b"one"[..]).await.unwrap();
        // The same id with other bytes: the answer is the first one's, because that job was done.
        let second = client.submit(identity(3).job_id(id), &b"two"[..]).await.unwrap();
        assert_eq!((&first.payload[..], &second.payload[..]), (&b"one"[..], &b"one"[..]));
        let other = client.submit(identity(3).job_id(JobId([8; 16])), &b"two"[..]).await.unwrap();
        assert_eq!(&other.payload[..], b"two");
    });
    assert_eq!(node.status().unwrap()["engine"]["accepted"], 2);
}

#[test]
fn a_job_id_that_is_unanswered_is_not_sent_again_and_everyone_gets_the_answer() {
    let node = Node::start("load = [\"identity\"]\n[inject]\ndelay_stage = \"infer\"\ndelay_us = 50000\n");
    block_on(async {
        let client = node.client().await;
        let job = || identity(3).job_id(JobId([7; 16]));
        let again = || client.submit(job(), &b"one"[..]);
        let (first, second, third) = futures_util::join!(again(), again(), again());
        for answer in [first, second, third] {
            assert_eq!(&answer.unwrap().payload[..], b"one");
        }
        // One who does not wait any more takes nothing from the others; the last one takes the job back.
        let job = || identity(3).job_id(JobId([9; 16]));
        let mut given_up = Box::pin(client.submit(job(), &b"two"[..]));
        let mut kept = Box::pin(client.submit(job(), &b"two"[..]));
        assert!(futures_util::poll!(&mut given_up).is_pending() && futures_util::poll!(&mut kept).is_pending());
        drop(given_up);
        assert!(kept.await.unwrap().is_result());
        assert_eq!(client.stray_answers(), 0);
        client.close().await;
    });
    let status = node.status().unwrap();
    assert_eq!((&status["engine"]["accepted"], &status["engine"]["cancelled"]), (&2.into(), &0.into()), "{status}");
}

#[test]
fn what_was_taken_back_is_told_before_the_client_is_closed() {
    let node = Node::start("load = [\"identity\"]\n[inject]\ndelay_stage = \"infer\"\ndelay_us = 300000\n");
    block_on(async {
        let client = node.client().await;
        let mut jobs: Vec<_> = (0..8).map(|_| Box::pin(client.submit(identity(3), &b"one"[..]))).collect();
        for job in &mut jobs {
            assert!(futures_util::poll!(job).is_pending());
        }
        let accepted = async || {
            let status: serde_json::Value = serde_json::from_str(&client.query("status").await.unwrap()).unwrap();
            status["engine"]["accepted"] == 8
        };
        while !accepted().await {}
        jobs.pop();
        // What the node says of a job that was taken back reaches nobody any more.
        while client.stray_answers() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        drop(jobs);
        client.close().await;
    });
    node.wait_until("every job was taken back", |status| {
        let counted = |key: &str| status["engine"][key].as_u64().unwrap();
        counted("cancelled") > 0 && counted("cancelled") + counted("results") == 8
    });
}

#[test]
fn refusals_that_name_a_pause_are_retried_when_asked() {
    let node =
        Node::start("load = [\"identity\"]\nqueue_jobs_max = 1\n[inject]\ndelay_stage = \"infer\"\ndelay_us = 5000\n");
    block_on(async {
        let client = node.client().await;
        let all = async |retries: u32| {
            let jobs = (0..30).map(|_| client.submit(identity(3).retry_refusals(retries), &b"one"[..]));
            let answers = futures_util::future::join_all(jobs).await;
            answers.into_iter().map(Result::unwrap).filter(|answer| !answer.is_result()).count()
        };
        assert!(all(0).await > 0, "nothing was refused: the test tests nothing");
        assert_eq!(all(10_000).await, 0);
        client.close().await;
    });
}

#[test]
fn a_node_that_does_not_come_back_ends_every_job_with_a_reason() {
    let mut node = Node::start("load = [\"nanodet\"]\n");
    block_on(async {
        let mut config = node.client_config();
        config.reconnect_ms_max = 500;
        let client = sensorium_client::Client::connect(config).await.unwrap();
        let frame = vec![0_u8; 640 * 480 * 3];
        let job = || Job::frame("nanodet", 640, 480, sensorium_wire::PixelFormat::Rgb24).deadline_ms(60_000);
        let jobs = (0..20).map(|_| client.submit(job(), frame.clone()));
        let killing = async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            node.signal("KILL");
        };
        let (answers, ()) = futures_util::join!(futures_util::future::join_all(jobs), killing);
        let lost = answers.iter().filter(|answer| matches!(answer, Err(ClientError::Lost { .. }))).count();
        let done = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(lost + done, 20, "{answers:?}");
        assert!(lost > 0);
        let error = client.submit(identity(1), &b"x"[..]).await.unwrap_err();
        assert!(matches!(error, ClientError::Closed), "{error}");
    });
    assert!(!node.wait());
}
