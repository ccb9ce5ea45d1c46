//! An endpoint actor: owns the task that accepts connections of one QUIC endpoint, on that endpoint's own thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use ractor_cluster::RactorMessage;
use tokio::runtime::Handle;

/// Starts accepting; resolves when the endpoint ends.
pub type Serve = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// See the module.
pub struct EndpointActor;

#[derive(Clone)]
pub struct EndpointArgs {
    /// The runtime of the endpoint's thread.
    pub runtime: Handle,
    pub serve: Serve,
}

/// From the accepting task.
#[derive(RactorMessage)]
pub enum EndpointMessage {
    /// It ended or panicked.
    Ended(String),
}

impl Actor for EndpointActor {
    type Msg = EndpointMessage;
    type State = ();
    type Arguments = EndpointArgs;

    async fn pre_start(&self, me: ActorRef<EndpointMessage>, args: EndpointArgs) -> Result<(), ActorProcessingErr> {
        let task = args.runtime.spawn((args.serve)());
        tokio::spawn(async move {
            let reason = match task.await {
                Ok(()) => "the endpoint was closed".to_owned(),
                Err(error) => error.to_string(),
            };
            let _ = me.cast(EndpointMessage::Ended(reason));
        });
        Ok(())
    }

    async fn handle(
        &self,
        _me: ActorRef<EndpointMessage>,
        message: EndpointMessage,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        let EndpointMessage::Ended(reason) = message;
        Err(reason.into())
    }
}
