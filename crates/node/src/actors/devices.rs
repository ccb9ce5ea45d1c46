//! The device supervisor: one device actor per planned device, restarted by the table.

use std::collections::HashMap;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use sensorium_device::clock::now_ns;

use super::device::{DeviceActor, DeviceArgs};
use crate::restart::{History, Part, Verdict};

/// See the module.
pub struct DeviceSupervisor;

#[derive(Clone)]
pub struct DeviceSupervisorArgs {
    pub devices: Vec<DeviceArgs>,
}

/// From itself, after a pause.
#[derive(RactorMessage)]
pub enum DevicesMessage {
    Restart(usize),
}

pub struct DevicesState {
    devices: Vec<DeviceArgs>,
    running: HashMap<ActorId, usize>,
    histories: Vec<History>,
}

impl DevicesState {
    async fn start(&mut self, at: usize, me: ActorCell) -> Result<(), ActorProcessingErr> {
        let args = self.devices[at].clone();
        let board = args.board.clone();
        let device = args.device.0;
        let (actor, _) = Actor::spawn_linked(None, DeviceActor, args, me).await?;
        board.set_address(device, actor.clone());
        self.running.insert(actor.get_id(), at);
        Ok(())
    }
}

impl Actor for DeviceSupervisor {
    type Msg = DevicesMessage;
    type State = DevicesState;
    type Arguments = DeviceSupervisorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<DevicesMessage>,
        args: DeviceSupervisorArgs,
    ) -> Result<DevicesState, ActorProcessingErr> {
        let histories = args.devices.iter().map(|_| History::new(Part::DeviceActor)).collect();
        let mut state = DevicesState { devices: args.devices, running: HashMap::new(), histories };
        for at in 0..state.devices.len() {
            state.start(at, me.get_cell()).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<DevicesMessage>,
        message: DevicesMessage,
        state: &mut DevicesState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            DevicesMessage::Restart(at) => state.start(at, me.get_cell()).await,
        }
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<DevicesMessage>,
        event: SupervisionEvent,
        state: &mut DevicesState,
    ) -> Result<(), ActorProcessingErr> {
        let Some((cell, reason)) = super::ended(event) else { return Ok(()) };
        let Some(at) = state.running.remove(&cell.get_id()) else { return Ok(()) };
        let name = state.devices[at].setup.device.clone();
        match state.histories[at].failed(now_ns() / 1_000_000) {
            Verdict::RestartAfter { wait_ms } => {
                tracing::warn!(device = name, reason, wait_ms, "device actor failed; restarting");
                me.send_after(Duration::from_millis(wait_ms), move || DevicesMessage::Restart(at));
            }
            Verdict::GiveUp | Verdict::StopNode => {
                tracing::error!(device = name, reason, "device actor failed too often; the device is given up");
            }
        }
        Ok(())
    }
}
