//! A source actor: asks for the lease of one camera or microphone, and runs its session while the lease is valid.
//!
//! What it does is `crate::source::own`, a task on the actors' thread; the actor ends with it and fails when it fails, so that
//! its supervisor starts another.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::task::AbortHandle;

use crate::desk::NodeDesk;
use crate::source::{OwnSetting, Source, own};

/// See the module.
pub struct SourceActor;

pub struct SourceArgs {
    pub(crate) source: Arc<Source>,
    pub(crate) setting: OwnSetting,
    pub(crate) desk: Arc<NodeDesk>,
}

/// From its own task.
#[derive(RactorMessage)]
pub enum SourceMessage {
    /// It ended: with an error, or because the node stops.
    Ended(Result<(), String>),
}

pub struct Owning {
    task: AbortHandle,
}

impl Actor for SourceActor {
    type Msg = SourceMessage;
    type State = Owning;
    type Arguments = SourceArgs;

    async fn pre_start(&self, me: ActorRef<SourceMessage>, args: SourceArgs) -> Result<Owning, ActorProcessingErr> {
        let SourceArgs { source, setting, desk } = args;
        // A node that stops waits until the source is closed and its lease given back.
        let counted = desk.closing();
        let run = tokio::spawn(async move {
            let _counted = counted;
            own(source, setting).await
        });
        let task = run.abort_handle();
        tokio::spawn(async move {
            let ended = run.await.unwrap_or_else(|error| Err(format!("a fault inside the node: {error}")));
            let _ = me.cast(SourceMessage::Ended(ended));
        });
        Ok(Owning { task })
    }

    async fn handle(
        &self,
        me: ActorRef<SourceMessage>,
        message: SourceMessage,
        _owning: &mut Owning,
    ) -> Result<(), ActorProcessingErr> {
        let SourceMessage::Ended(ended) = message;
        ended?;
        me.stop(None);
        Ok(())
    }
}

/// However the actor ends, nothing of the source goes on.
impl Drop for Owning {
    fn drop(&mut self) {
        self.task.abort();
    }
}
