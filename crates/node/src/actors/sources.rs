//! The source supervisor: one source actor for each camera or microphone that this node may open. One that fails is started
//! again, as the restart table says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use sensorium_device::clock::now_ns;

use super::source::{SourceActor, SourceArgs};
use crate::desk::NodeDesk;
use crate::restart::{History, Part, Verdict};
use crate::source::{OwnSetting, Source, Sources};

/// See the module.
pub struct SourceSupervisor;

#[derive(Clone)]
pub struct SourceSupervisorArgs {
    pub(crate) sources: Arc<Sources>,
    pub(crate) setting: OwnSetting,
    pub(crate) desk: Arc<NodeDesk>,
}

/// From the supervisor to itself, after a pause.
#[derive(RactorMessage)]
pub enum SourcesMessage {
    Start(String),
}

pub struct Supervised {
    args: SourceSupervisorArgs,
    sources: HashMap<String, (Arc<Source>, History)>,
    actors: HashMap<ActorId, String>,
}

impl Supervised {
    async fn start(&mut self, name: &str, me: ActorCell) -> Result<(), ActorProcessingErr> {
        let Some((source, _)) = self.sources.get(name) else { return Ok(()) };
        let SourceSupervisorArgs { setting, desk, .. } = self.args.clone();
        let args = SourceArgs { source: Arc::clone(source), setting, desk };
        let (actor, _) = Actor::spawn_linked(None, SourceActor, args, me).await?;
        self.actors.insert(actor.get_id(), name.to_owned());
        Ok(())
    }

    fn failed(&mut self, name: String, reason: &str, me: &ActorRef<SourcesMessage>) {
        let Some((source, history)) = self.sources.get_mut(&name) else { return };
        source.away(reason);
        match history.failed(now_ns() / 1_000_000) {
            Verdict::RestartAfter { wait_ms } => {
                tracing::warn!(source = name, reason, wait_ms, "a source failed; starting it again");
                me.send_after(Duration::from_millis(wait_ms), move || SourcesMessage::Start(name));
            }
            Verdict::GiveUp | Verdict::StopNode => tracing::error!(source = name, reason, "a source is given up"),
        }
    }
}

impl Actor for SourceSupervisor {
    type Msg = SourcesMessage;
    type State = Supervised;
    type Arguments = SourceSupervisorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<SourcesMessage>,
        args: SourceSupervisorArgs,
    ) -> Result<Supervised, ActorProcessingErr> {
        let open = args.sources.to_open().into_iter();
        let sources: HashMap<_, _> =
            open.map(|source| (source.spec.name.clone(), (source, History::new(Part::SourceActor)))).collect();
        let names: Vec<_> = sources.keys().cloned().collect();
        let mut supervised = Supervised { args, sources, actors: HashMap::new() };
        for name in names {
            supervised.start(&name, me.get_cell()).await?;
        }
        Ok(supervised)
    }

    async fn handle(
        &self,
        me: ActorRef<SourcesMessage>,
        message: SourcesMessage,
        supervised: &mut Supervised,
    ) -> Result<(), ActorProcessingErr> {
        let SourcesMessage::Start(name) = message;
        if let Err(error) = supervised.start(&name, me.get_cell()).await {
            supervised.failed(name, &error.to_string(), &me);
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<SourcesMessage>,
        event: SupervisionEvent,
        supervised: &mut Supervised,
    ) -> Result<(), ActorProcessingErr> {
        // One that ended well did so because the node stops.
        let ended_well = matches!(event, SupervisionEvent::ActorTerminated(..));
        let Some((cell, reason)) = super::ended(event) else { return Ok(()) };
        if let Some(name) = supervised.actors.remove(&cell.get_id())
            && !ended_well
        {
            supervised.failed(name, &reason, &me);
        }
        Ok(())
    }
}
