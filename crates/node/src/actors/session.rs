//! A session actor: owns one session's source and streams, and sees to it that its client hears how it ended.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::cluster::Cluster;
use crate::desk::SessionGuard;
use crate::gateway::SessionRequest;
use crate::session::{self, Events, SessionLimits};

/// See the module.
pub struct SessionActor;

pub struct SessionArgs {
    pub request: Box<SessionRequest>,
    pub cluster: Arc<Cluster>,
    pub media: Handle,
    pub limits: SessionLimits,
    pub stopping: watch::Receiver<bool>,
    pub guard: SessionGuard,
}

/// From the session's own task.
#[derive(RactorMessage)]
pub enum SessionMessage {
    /// It ended; `Some` tells of a panic, which the client has not heard of.
    Ended(Option<String>),
}

pub struct Running {
    task: AbortHandle,
    events: Events,
    _guard: SessionGuard,
}

impl Actor for SessionActor {
    type Msg = SessionMessage;
    type State = Running;
    type Arguments = SessionArgs;

    async fn pre_start(&self, me: ActorRef<SessionMessage>, args: SessionArgs) -> Result<Running, ActorProcessingErr> {
        let SessionArgs { request, cluster, media, limits, stopping, guard } = args;
        let events = Events::new(request.events.clone(), request.header.next_event);
        let run = media.spawn(session::run(*request, cluster, limits, stopping, events.clone()));
        let task = run.abort_handle();
        media.spawn(async move {
            let panic = run.await.err().map(|error| error.to_string());
            let _ = me.cast(SessionMessage::Ended(panic));
        });
        Ok(Running { task, events, _guard: guard })
    }

    async fn handle(
        &self,
        me: ActorRef<SessionMessage>,
        message: SessionMessage,
        running: &mut Running,
    ) -> Result<(), ActorProcessingErr> {
        let SessionMessage::Ended(panic) = message;
        if let Some(reason) = panic {
            running.events.close(&format!("a fault inside the node: {reason}"));
        }
        me.stop(None);
        Ok(())
    }
}

/// However the actor ends (a failure skips its `post_stop`), nothing of the session goes on and its client hears of it.
impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.events.close("the node stopped the session");
    }
}
