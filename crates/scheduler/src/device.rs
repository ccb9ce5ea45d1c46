//! One device: its lanes, and the jobs that must run alone on it.

use crate::lane::LaneSlot;
use crate::queue::EdfQueue;
use crate::types::BatchId;

#[derive(Clone, Debug, Default)]
pub(crate) struct Device {
    pub(crate) lanes: Vec<LaneSlot>,
    pub(crate) suspects: EdfQueue,
    /// The batch of one that runs alone now.
    pub(crate) suspect_batch: Option<BatchId>,
    /// A replacement was asked for; nothing is dispatched until the device is lost and its lanes open again.
    pub(crate) replacing: bool,
    /// When a lane was last lost; its jobs wait from then on for it to come back.
    pub(crate) lost_ns: u64,
}
