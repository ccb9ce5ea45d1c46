//! The roll call: once a second the remote schedulers and devices in reach say how they are.
//!
//! They are found through their process groups each time, so that one that was restarted answers under its new address.
//! The answers are for status pages; no decision about a job rests on them.

use std::collections::BTreeMap;
use std::time::Duration;

use ractor::{ActorRef, call_t, pg};
use serde::Serialize;
use serde_json::Value;

use super::Cluster;
use super::envoy::{DESCRIBE, EnvoyMessage, Subject};

/// How often, in milliseconds.
pub(super) const ROLLCALL_MS: u64 = 1_000;
/// How long one actor may take to answer, in milliseconds.
const ANSWER_MS_MAX: u64 = 300;
/// Actors that are asked in one roll call.
const ASKED_MAX: usize = 1_024;

/// What a node in reach says of itself.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SeenNode {
    pub scheduler: Value,
    pub devices: Vec<Value>,
}

/// Calls the roll; what is not answered in time is not there.
pub(super) async fn call(cluster: &Cluster) {
    let mut seen: BTreeMap<String, SeenNode> = BTreeMap::new();
    for subject in [Subject::Scheduler, Subject::Device] {
        let members = pg::get_members(&subject.group().to_owned());
        let remote = members.into_iter().filter(|member| !member.get_id().is_local()).take(ASKED_MAX);
        let asked = remote.map(|member| async move {
            let envoy: ActorRef<EnvoyMessage> = member.into();
            let answer = call_t!(envoy, EnvoyMessage::Ask, ANSWER_MS_MAX, DESCRIBE.to_owned()).ok()?;
            serde_json::from_str::<Value>(&answer).ok()
        });
        let asked: Vec<_> = asked.map(tokio::spawn).collect();
        for answer in asked {
            let Ok(Some(answer)) = answer.await else { continue };
            let Some(node) = answer["node"].as_str() else { continue };
            let node = seen.entry(node.to_owned()).or_default();
            match subject {
                Subject::Scheduler => node.scheduler = answer,
                Subject::Device => node.devices.push(answer),
                Subject::Node => {}
            }
        }
    }
    *cluster.seen.lock() = seen;
}

/// Calls the roll again and again.
pub(super) async fn repeat(cluster: std::sync::Arc<Cluster>) {
    loop {
        call(&cluster).await;
        tokio::time::sleep(Duration::from_millis(ROLLCALL_MS)).await;
    }
}
