//! Receipts: the parts add up to the whole, and what is slow is seen where it is slow.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use sensorium_client::{Answer, Client, Job};
use sensorium_wire::receipt::Stage;
use sensorium_wire::{Dtype, PixelFormat};
use support::{Node, block_on, quiet_second};

/// What is put in on purpose, in microseconds.
const DELAY_US: u64 = 30_000;

async fn result(client: &Client, job: Job, payload: Vec<u8>) -> Answer {
    let answer = client.submit(job.deadline_ms(60_000), payload).await.unwrap();
    assert!(answer.is_result(), "{:?}", answer.rejection());
    answer
}

async fn one_sound(client: &Client) -> Answer {
    let (job, payload) = quiet_second();
    result(client, job, payload).await
}

#[test]
fn the_parts_add_up_to_the_whole() {
    let node = Node::start("load = [\"identity\", \"yamnet\", \"nanodet\"]\n");
    block_on(async {
        let client = node.client().await;
        for round in 0..5 {
            let echo = result(&client, Job::tensor("identity", Dtype::U8, &[1000]), vec![7; 1000]).await;
            let seen = result(&client, Job::frame("nanodet", 320, 240, PixelFormat::Rgb24), vec![90; 230_400]).await;
            let heard = one_sound(&client).await;
            for (model, answer) in [("identity", echo), ("nanodet", seen), ("yamnet", heard)] {
                let receipt = &answer.header.receipt;
                let (unaccounted_ns, total_ns) = (receipt.unaccounted_ns(), answer.total_ns);
                assert!(unaccounted_ns * 100 <= total_ns, "{model}, round {round}: {unaccounted_ns} of {total_ns} ns");
                assert!(receipt.stage_ns.iter().sum::<u64>() <= receipt.node_ns, "{model}: more than there was");
                assert!(receipt.node_ns <= answer.total_ns, "{model}: the node took longer than the client waited");
                assert!(receipt.stage_ns[Stage::Infer as usize] > 0, "{model}: {receipt:?}");
                assert_eq!((receipt.batch_size, receipt.attempt, receipt.model_version), (1, 1, 1), "{model}");
                assert!(receipt.device.as_str().starts_with("cpu"), "{model}: {}", receipt.device);
            }
        }
        client.close().await;
    });
}

#[test]
fn a_job_that_ran_in_slices_counts_each_part_once() {
    let node = Node::start("load = [\"moonshine\"]\n");
    let speech = std::fs::read(support::media("librivox/sense_and_sensibility_01_austen_64kb-0870.wav")).unwrap();
    let answer = block_on(async { result(&node.client().await, Job::sound("moonshine"), speech).await });
    let receipt = &answer.header.receipt;
    assert!(receipt.stage_ns.iter().sum::<u64>() <= receipt.node_ns, "more than there was: {receipt:?}");
    assert!(receipt.unaccounted_ns() * 100 <= answer.total_ns, "{receipt:?}");
}

#[test]
fn a_slow_stage_is_seen_in_its_own_part() {
    let node = Node::start("load = [\"identity\", \"yamnet\"]\n");
    let usual = block_on(async { one_sound(&node.client().await).await }).header.receipt;
    drop(node);
    for stage in Stage::ALL {
        let inject = format!("[inject]\ndelay_stage = \"{}\"\ndelay_us = {DELAY_US}\n", stage.name());
        let node = Node::start(&format!("load = [\"identity\", \"yamnet\"]\n{inject}"));
        let answer = block_on(async { one_sound(&node.client().await).await });
        let receipt = &answer.header.receipt;
        let (slow_ns, usual_ns) = (receipt.stage_ns[stage as usize], usual.stage_ns[stage as usize]);
        assert!(slow_ns >= DELAY_US * 1000, "{}: {slow_ns} ns in {receipt:?}", stage.name());
        assert!(slow_ns > usual_ns, "{}: {slow_ns} ns, {usual_ns} ns without", stage.name());
        assert!(receipt.unaccounted_ns() * 100 <= answer.total_ns, "{}: {receipt:?}", stage.name());
    }
}
