//! The group supervisor: one group actor per configured group, restarted by the table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use sensorium_device::clock::now_ns;

use super::group::{GroupActor, GroupArgs};
use crate::group::GroupTable;
use crate::restart::{History, Part, Verdict};

/// See the module.
pub struct GroupSupervisor;

#[derive(Clone)]
pub struct GroupSupervisorArgs {
    pub groups: Vec<GroupArgs>,
}

impl GroupSupervisorArgs {
    #[must_use]
    pub fn new(table: &Arc<GroupTable>) -> Self {
        let plans = table.plans().into_iter().enumerate();
        let args = plans.map(|(group, plan)| GroupArgs { group, plan, table: Arc::clone(table) });
        Self { groups: args.collect() }
    }
}

/// From itself, after a pause.
#[derive(RactorMessage)]
pub enum GroupsMessage {
    Restart(usize),
}

pub struct GroupsState {
    groups: Vec<GroupArgs>,
    running: HashMap<ActorId, usize>,
    histories: Vec<History>,
}

impl GroupsState {
    async fn start(&mut self, at: usize, me: ActorCell) -> Result<(), ActorProcessingErr> {
        let args = self.groups[at].clone();
        let (actor, _) = Actor::spawn_linked(None, GroupActor, args, me).await?;
        self.running.insert(actor.get_id(), at);
        Ok(())
    }
}

impl Actor for GroupSupervisor {
    type Msg = GroupsMessage;
    type State = GroupsState;
    type Arguments = GroupSupervisorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<GroupsMessage>,
        args: GroupSupervisorArgs,
    ) -> Result<GroupsState, ActorProcessingErr> {
        let histories = args.groups.iter().map(|_| History::new(Part::GroupActor)).collect();
        let mut state = GroupsState { groups: args.groups, running: HashMap::new(), histories };
        for at in 0..state.groups.len() {
            state.start(at, me.get_cell()).await?;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        me: ActorRef<GroupsMessage>,
        message: GroupsMessage,
        state: &mut GroupsState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            GroupsMessage::Restart(at) => state.start(at, me.get_cell()).await,
        }
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<GroupsMessage>,
        event: SupervisionEvent,
        state: &mut GroupsState,
    ) -> Result<(), ActorProcessingErr> {
        let Some((cell, reason)) = super::ended(event) else { return Ok(()) };
        let Some(at) = state.running.remove(&cell.get_id()) else { return Ok(()) };
        let name = state.groups[at].plan.name.clone();
        match state.histories[at].failed(now_ns() / 1_000_000) {
            Verdict::RestartAfter { wait_ms } => {
                tracing::warn!(group = name, reason, wait_ms, "group actor failed; restarting");
                me.send_after(Duration::from_millis(wait_ms), move || GroupsMessage::Restart(at));
            }
            Verdict::GiveUp | Verdict::StopNode => {
                tracing::error!(group = name, reason, "group actor failed too often; the group is given up");
            }
        }
        Ok(())
    }
}
