//! The monitor actor: looks at the node once a second, keeps what is wrong for status pages, and logs what is new.

use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use sensorium_device::clock::now_ns;

use crate::board::Board;
use crate::engine::Engine;
use crate::group::GroupTable;
use crate::monitor::{Counts, Monitor};

/// How often it looks, in milliseconds.
const LOOK_MS: u64 = 1_000;

/// See the module.
pub struct MonitorActor;

#[derive(Clone)]
pub struct MonitorArgs {
    pub engine: Arc<Engine>,
    pub board: Arc<Board>,
    pub groups: Arc<GroupTable>,
}

/// From its own timer.
#[derive(RactorMessage)]
pub enum MonitorMessage {
    Look,
}

pub struct MonitorState {
    args: MonitorArgs,
    monitor: Monitor,
}

impl Actor for MonitorActor {
    type Msg = MonitorMessage;
    type State = MonitorState;
    type Arguments = MonitorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<MonitorMessage>,
        args: MonitorArgs,
    ) -> Result<MonitorState, ActorProcessingErr> {
        me.send_interval(Duration::from_millis(LOOK_MS), || MonitorMessage::Look);
        Ok(MonitorState { args, monitor: Monitor::default() })
    }

    async fn handle(
        &self,
        _me: ActorRef<MonitorMessage>,
        message: MonitorMessage,
        state: &mut MonitorState,
    ) -> Result<(), ActorProcessingErr> {
        let MonitorMessage::Look = message;
        let snapshot = state.args.engine.snapshot();
        let counts = Counts { results: snapshot.results, expired: snapshot.expired, failed: snapshot.failed };
        let now_ms = now_ns() / 1_000_000;
        let mut alerts = state.monitor.read(now_ms, counts, &state.args.board.devices());
        alerts.extend(state.args.groups.alerts(now_ms));
        for alert in state.args.board.set_alerts(alerts) {
            tracing::warn!("{alert}");
        }
        Ok(())
    }
}
