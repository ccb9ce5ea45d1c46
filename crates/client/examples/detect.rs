//! Sends images to a node and prints what it sees.
//!
//! `cargo run --example detect -p sensorium-client -- ADDR BUNDLE IMAGE…`, for example with the address that
//! `sensorium status` shows and the development bundle in `~/.local/share/sensorium/certificates/client`.
#![allow(clippy::print_stdout, reason = "an example that shows something")]

use std::path::Path;

use sensorium_client::{Client, ClientConfig, Job};
use sensorium_wire::Urgency;
use sensorium_wire::result::ModelResult;

// QUIC answers soonest on a runtime that stays on one thread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(bundle)) = (arguments.next(), arguments.next()) else {
        return Err("usage: detect ADDR BUNDLE IMAGE…".into());
    };
    let client = Client::connect(ClientConfig::from_bundle(Path::new(&bundle), address.parse()?)?).await?;
    for path in arguments {
        // A loaned buffer is filled once and sent from where it lies; a steady stream of them allocates nothing.
        let payload = client.loan_from(&std::fs::read(&path)?);
        let job = Job::image("nanodet").deadline_ms(500).urgency(Urgency::High);
        let answer = client.submit(job, payload).await?;
        match answer.result() {
            Ok(ModelResult::Detections { detections }) => {
                println!("{path}: {} objects after {} µs", detections.len(), answer.total_ns / 1000);
                for found in detections {
                    println!("  {} {:.0} % at {:?}", found.label, found.score * 100.0, found.bbox);
                }
            }
            Ok(other) => println!("{path}: {other:?}"),
            // Refused, expired or failed: the sentence says what to do, and whether trying again makes sense.
            Err(error) => println!("{path}: {error}"),
        }
    }
    client.close().await;
    Ok(())
}
