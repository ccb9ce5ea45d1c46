//! One device: its lanes, its shares, and the jobs that must run alone on it.

use serde::{Deserialize, Serialize};

use crate::lane::LaneSlot;
use crate::plan::{DeviceKind, Shares};
use crate::queue::EdfQueue;
use crate::types::BatchId;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) kind: DeviceKind,
    pub(crate) lanes_at_once_max: usize,
    pub(crate) shares: Shares,
    /// What the device last said of its speed; 100 = as measured.
    pub(crate) time_percent: u32,
    pub(crate) lanes: Vec<LaneSlot>,
    pub(crate) suspects: EdfQueue,
    /// The batch of one that runs alone now.
    pub(crate) suspect_batch: Option<BatchId>,
    /// A replacement was asked for; nothing is dispatched until the device is lost and its lanes open again.
    pub(crate) replacing: bool,
    /// When a lane was last lost; its jobs wait from then on for it to come back.
    pub(crate) lost_ns: u64,
}

impl Device {
    pub(crate) fn new(kind: DeviceKind, lanes_at_once_max: usize) -> Self {
        Self {
            kind,
            lanes_at_once_max: lanes_at_once_max.max(1),
            shares: Shares::default(),
            time_percent: 100,
            lanes: Vec::new(),
            suspects: EdfQueue::default(),
            suspect_batch: None,
            replacing: false,
            lost_ns: 0,
        }
    }
}

/// One that nobody announced.
impl Default for Device {
    fn default() -> Self {
        Self::new(DeviceKind::Accelerator, usize::MAX)
    }
}
