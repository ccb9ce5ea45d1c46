//! The session supervisor: one session actor per media file that a client sent.
//!
//! A session that fails is not restarted: its client is told why and opens another.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use ractor_cluster::RactorMessage;
use sensorium_transport::Payload;
use sensorium_wire::Kind;
use sensorium_wire::codec::put_frame;
use tokio::runtime::Handle;

use super::session::{SessionActor, SessionArgs};
use crate::cluster::Cluster;
use crate::desk::NodeDesk;
use crate::gateway::SessionRequest;
use crate::session::SessionLimits;

/// See the module.
pub struct SessionSupervisor;

#[derive(Clone)]
pub struct SessionSupervisorArgs {
    pub cluster: Arc<Cluster>,
    /// Where media is decoded and sessions run: apart from network I/O.
    pub media: Handle,
    pub limits: SessionLimits,
    pub desk: Arc<NodeDesk>,
}

/// From the gateway.
#[derive(RactorMessage)]
pub enum SessionsMessage {
    /// A client's media file is complete: run it, or say why not on its stream.
    Open(Box<SessionRequest>),
}

impl Actor for SessionSupervisor {
    type Msg = SessionsMessage;
    type State = SessionSupervisorArgs;
    type Arguments = SessionSupervisorArgs;

    async fn pre_start(
        &self,
        me: ActorRef<SessionsMessage>,
        args: SessionSupervisorArgs,
    ) -> Result<SessionSupervisorArgs, ActorProcessingErr> {
        args.desk.set_sessions(me);
        Ok(args)
    }

    async fn handle(
        &self,
        me: ActorRef<SessionsMessage>,
        message: SessionsMessage,
        args: &mut SessionSupervisorArgs,
    ) -> Result<(), ActorProcessingErr> {
        let SessionsMessage::Open(request) = message;
        let Some(guard) = args.desk.enter(args.limits.sessions_max) else {
            let reason =
                format!("{} sessions are running, the node's limit; try again later", args.limits.sessions_max);
            let _ = request.events.push(
                |out| put_frame(out, Kind::Error, 0, &[], reason.len() as u64),
                Payload::Copied(reason.as_bytes()),
            );
            request.events.finish();
            return Ok(());
        };
        let session = SessionArgs {
            request,
            cluster: Arc::clone(&args.cluster),
            media: args.media.clone(),
            limits: args.limits.clone(),
            stopping: args.desk.stopping(),
            guard,
        };
        Actor::spawn_linked(None, SessionActor, session, me.get_cell()).await?;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _me: ActorRef<SessionsMessage>,
        event: SupervisionEvent,
        _args: &mut SessionSupervisorArgs,
    ) -> Result<(), ActorProcessingErr> {
        if let SupervisionEvent::ActorFailed(_, error) = event {
            tracing::error!(%error, "session failed");
        }
        Ok(())
    }
}
