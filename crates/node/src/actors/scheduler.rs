//! The scheduler actor: gives the pure scheduler its sense of time.
//!
//! It also writes what was learned to disk now and then. Arrivals and finished batches reach the scheduler on the threads where they happen; what needs a clock of its own
//! (expiry of queued jobs, workers that hang) is driven from here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;

use crate::cluster::{Answering, Cluster, Envoy, Subject};
use crate::engine::Engine;

/// How often it ticks, in milliseconds: how late an expiry may be noticed.
const TICK_MS: u64 = 2;

/// How often what was learned is written to disk, in milliseconds: how much a killed node forgets.
const KEEP_MS: u64 = 10_000;

/// See the module.
pub struct SchedulerActor;

#[derive(Clone)]
pub struct SchedulerArgs {
    pub engine: Arc<Engine>,
    pub cluster: Arc<Cluster>,
    /// File for what was learned.
    pub service_times: PathBuf,
}

/// From its own timers.
#[derive(RactorMessage)]
pub enum SchedulerMessage {
    Tick,
    KeepLearned,
}

impl Actor for SchedulerActor {
    type Msg = SchedulerMessage;
    type State = SchedulerArgs;
    type Arguments = SchedulerArgs;

    async fn pre_start(
        &self,
        me: ActorRef<SchedulerMessage>,
        args: SchedulerArgs,
    ) -> Result<SchedulerArgs, ActorProcessingErr> {
        let engine = Arc::clone(&args.engine);
        let answering: Answering = Arc::new(move |question| match question {
            "describe" => {
                let mut plan = serde_json::to_value(engine.plan()).ok()?;
                plan["node"] = engine.node.as_str().into();
                plan["jobs_in_flight"] = engine.in_flight().into();
                Some(plan.to_string())
            }
            _ => None,
        });
        Actor::spawn_linked(None, Envoy, (Subject::Scheduler, answering), me.get_cell()).await?;
        me.send_interval(Duration::from_millis(TICK_MS), || SchedulerMessage::Tick);
        me.send_interval(Duration::from_millis(KEEP_MS), || SchedulerMessage::KeepLearned);
        Ok(args)
    }

    async fn handle(
        &self,
        _me: ActorRef<SchedulerMessage>,
        message: SchedulerMessage,
        args: &mut SchedulerArgs,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SchedulerMessage::Tick => {
                args.engine.tick();
                args.cluster.tick();
            }
            SchedulerMessage::KeepLearned => {
                let (learned, path) = (args.engine.learned(), args.service_times.clone());
                tokio::task::spawn_blocking(move || learned.write(&path));
            }
        }
        Ok(())
    }
}
