//! A job's final answer as the application sees it.

use bytes::Bytes;
use sensorium_wire::result::ModelResult;
use sensorium_wire::{AnswerHeader, BodyKind, Outcome, Rejection, codec};

use crate::ClientError;

/// The final answer of a job.
#[derive(Clone, Debug)]
pub struct Answer {
    pub header: AnswerHeader,
    pub payload: Bytes,
    /// From `submit`'s hold of credits to the complete answer, in nanoseconds of this machine's monotonic clock.
    pub total_ns: u64,
}

impl Answer {
    #[must_use]
    pub fn is_result(&self) -> bool {
        self.header.outcome == Outcome::Result
    }

    /// Why it is not a result; `None` when it is.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        (!self.is_result()).then(|| {
            let detail = match self.header.body {
                BodyKind::Text => String::from_utf8_lossy(&self.payload).into_owned(),
                BodyKind::Empty | BodyKind::Tensor | BodyKind::Result => String::new(),
            };
            Rejection { reason: self.header.reason, retry_after_us: self.header.retry_after_us, detail }
        })
    }

    /// What the model said.
    ///
    /// # Errors
    /// The rejection as text when the job did not end in a result; a protocol error when the payload is no result.
    pub fn result(&self) -> Result<ModelResult, ClientError> {
        if let Some(rejection) = self.rejection() {
            return Err(ClientError::Refused(format!("{}: {rejection}", self.header.outcome.name())));
        }
        match self.header.body {
            BodyKind::Result => codec::decode(&self.payload)
                .ok_or_else(|| ClientError::Protocol("the result is not a valid archive".to_owned())),
            other => Err(ClientError::Protocol(format!("the answer's body is {other:?}, not a result"))),
        }
    }

    /// Network time: the client's total less what the node spent, in nanoseconds.
    #[must_use]
    pub fn network_ns(&self) -> u64 {
        self.total_ns.saturating_sub(self.header.receipt.node_ns)
    }
}
