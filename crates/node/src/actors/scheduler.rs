//! The scheduler actor: gives the pure scheduler its sense of time.
//!
//! Arrivals and finished batches reach the scheduler on the threads where they happen; what needs a clock of its own
//! (expiry of queued jobs, workers that hang) is driven from here.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::engine::Engine;

/// How often it ticks, in milliseconds: how late an expiry may be noticed.
const TICK_MS: u64 = 2;

/// See the module.
pub struct SchedulerActor;

/// From its own timer.
pub enum SchedulerMessage {
    Tick,
}

impl Actor for SchedulerActor {
    type Msg = SchedulerMessage;
    type State = Arc<Engine>;
    type Arguments = Arc<Engine>;

    async fn pre_start(
        &self,
        me: ActorRef<SchedulerMessage>,
        engine: Arc<Engine>,
    ) -> Result<Arc<Engine>, ActorProcessingErr> {
        me.send_interval(Duration::from_millis(TICK_MS), || SchedulerMessage::Tick);
        Ok(engine)
    }

    async fn handle(
        &self,
        _me: ActorRef<SchedulerMessage>,
        message: SchedulerMessage,
        engine: &mut Arc<Engine>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            SchedulerMessage::Tick => engine.tick(),
        }
        Ok(())
    }
}
