//! Answers that were given, kept for a while: a job sent again under the same id gets the same answer.

use std::collections::VecDeque;

use bytes::Bytes;
use sensorium_scheduler::JobKey;
use sensorium_wire::{AnswerHeader, JobId, limits};

use super::CallerId;

/// What is known about a job id.
pub(super) enum Known {
    InFlight(JobKey),
    Answered(Box<(AnswerHeader, Bytes)>),
}

/// The order in which answers are forgotten.
#[derive(Default)]
pub(super) struct Retained {
    order: VecDeque<((CallerId, JobId), usize)>,
    bytes: usize,
}

impl Retained {
    /// Notes an answer of `bytes` payload bytes; gives the ids that are to be forgotten now.
    pub(super) fn note(&mut self, id: (CallerId, JobId), bytes: usize, mut forget: impl FnMut((CallerId, JobId))) {
        self.order.push_back((id, bytes));
        self.bytes += bytes;
        while self.order.len() > limits::RETAINED_ANSWERS_MAX || self.bytes > limits::RETAINED_BYTES_MAX {
            let Some((oldest, freed)) = self.order.pop_front() else { return };
            self.bytes -= freed;
            forget(oldest);
        }
    }
}
