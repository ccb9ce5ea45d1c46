//! The latency receipt that every answer carries.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::{Name, ShortName};

/// The stages of a job inside a node, in order. They are consecutive: one ends where the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// From the complete header to the complete payload in the slab.
    Receive = 0,
    /// Admission: limits, model, prediction.
    Admit = 1,
    /// Waiting in the lane's queue.
    Queue = 2,
    /// The descriptor's way from node to worker.
    Dispatch = 3,
    /// Waiting inside the worker for the rest of the batch.
    Batch = 4,
    /// Decode, resize, resample.
    Prepare = 5,
    /// The model itself.
    Infer = 6,
    /// Boxes, classes, text.
    Interpret = 7,
    /// The answer's way from worker to node.
    Collect = 8,
    /// From the node's hold of the answer to the moment it is handed to the connection.
    Answer = 9,
}

impl Stage {
    pub const COUNT: usize = 10;
    pub const ALL: [Self; Self::COUNT] = [
        Self::Receive,
        Self::Admit,
        Self::Queue,
        Self::Dispatch,
        Self::Batch,
        Self::Prepare,
        Self::Infer,
        Self::Interpret,
        Self::Collect,
        Self::Answer,
    ];

    /// The name in receipts and in the `[inject]` table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Admit => "admit",
            Self::Queue => "queue",
            Self::Dispatch => "dispatch",
            Self::Batch => "batch",
            Self::Prepare => "prepare",
            Self::Infer => "infer",
            Self::Interpret => "interpret",
            Self::Collect => "collect",
            Self::Answer => "answer",
        }
    }
}

/// Where a job's time went and who ran it. Times are durations of one monotonic clock, in nanoseconds; network time is
/// the client's total less `node_ns`, so no two machines' clocks are ever subtracted.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct Receipt {
    /// From the complete header to the answer's hand-over to the connection.
    pub node_ns: u64,
    /// By [`Stage`].
    pub stage_ns: [u64; Stage::COUNT],
    pub node: ShortName,
    /// For example `cpu:0`.
    pub device: Name<16>,
    /// Code of the lane's modality.
    pub lane: u8,
    /// 1 when a cache answered.
    pub cached: u8,
    /// Jobs in the batch that it ran in.
    pub batch_size: u16,
    /// How often the job was started on a worker, from 1.
    pub attempt: u32,
    pub model_version: u32,
    /// How old the answer of a cache is, in milliseconds; 0 when it was made for this job.
    pub age_ms: u32,
    /// What of the model ran, or `rule:NAME` when a rule answered.
    pub variant: Name<16>,
}

/// A node that a job passed on its way to the one that ran it.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize)]
pub struct Hop {
    pub node: ShortName,
    /// From the complete header to the hand-over of the answer, in nanoseconds. What it exceeds the next hop's (or the
    /// receipt's `node_ns`) by was spent in this node and on the way between the two.
    pub node_ns: u64,
}

impl Receipt {
    /// What the stages do not explain, in nanoseconds.
    #[must_use]
    pub fn unaccounted_ns(&self) -> u64 {
        self.node_ns.saturating_sub(self.stage_ns.iter().sum())
    }
}
