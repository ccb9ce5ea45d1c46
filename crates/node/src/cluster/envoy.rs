//! The remote face of an actor: what other nodes may ask a scheduler, a device or a node, over ractor_cluster.
//!
//! An envoy is a child of the actor that it speaks for, so that it goes and comes back with it; others find it through a
//! process group, never by an address that a restart makes stale. Questions are short and answers are JSON. Jobs never
//! come this way.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, pg};
use ractor_cluster::RactorClusterMessage;

/// The question that every envoy knows: how its subject is, as JSON with the node's name in `node`.
pub(super) const DESCRIBE: &str = "describe";
/// Longest question, in bytes; a longer one is answered with nothing.
const QUESTION_BYTES_MAX: usize = 256;
/// Longest answer, in bytes; a longer one is replaced by nothing.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What an envoy speaks for; each has a process group of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Node,
    Scheduler,
    Device,
}

impl Subject {
    /// The process group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Node => "sensorium/nodes",
            Self::Scheduler => "sensorium/schedulers",
            Self::Device => "sensorium/devices",
        }
    }
}

/// Answers a question; `None` for one that it does not know.
pub type Answering = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// See the module.
pub struct Envoy;

/// From other nodes.
#[derive(RactorClusterMessage)]
pub enum EnvoyMessage {
    /// A question; the answer is JSON, or empty for a question that is not known.
    #[rpc]
    Ask(String, RpcReplyPort<String>),
}

impl Actor for Envoy {
    type Msg = EnvoyMessage;
    type State = Answering;
    type Arguments = (Subject, Answering);

    async fn pre_start(
        &self,
        me: ActorRef<EnvoyMessage>,
        (subject, answering): (Subject, Answering),
    ) -> Result<Answering, ActorProcessingErr> {
        pg::join(subject.group().to_owned(), vec![me.get_cell()]);
        Ok(answering)
    }

    async fn handle(
        &self,
        _me: ActorRef<EnvoyMessage>,
        EnvoyMessage::Ask(question, reply): EnvoyMessage,
        answering: &mut Answering,
    ) -> Result<(), ActorProcessingErr> {
        let answer = if question.len() > QUESTION_BYTES_MAX { None } else { answering(&question) };
        // Who asked may have gone; that is no failure of ours.
        let _ = reply.send(answer.filter(|answer| answer.len() <= ANSWER_BYTES_MAX).unwrap_or_default());
        Ok(())
    }
}
