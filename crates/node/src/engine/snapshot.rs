//! The data path as a status page shows it.

use std::sync::atomic::Ordering;

use sensorium_device::protocol::PlacementReport;
use serde::Serialize;

use super::Engine;

#[derive(Clone, Debug, Serialize)]
pub struct EngineSnapshot {
    pub jobs_in_flight: usize,
    pub jobs_waiting: usize,
    pub suspects: usize,
    pub draining: bool,
    pub accepted: u64,
    pub results: u64,
    pub refused: u64,
    pub expired: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub stale_answers: u64,
    pub slab_bytes: u64,
    pub slab_bytes_out: u64,
    pub lanes: Vec<LaneStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LaneStatus {
    pub device: String,
    pub modality: sensorium_wire::Modality,
    pub queued_jobs: usize,
    pub committed_batches: usize,
    pub committed_jobs: usize,
    pub completed_jobs: u64,
    pub completed_batches: u64,
    pub busy_ms: u64,
    pub backlog_ms: u64,
    pub models: Vec<LaneModelStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct LaneModelStatus {
    pub name: String,
    pub version: u32,
    /// What of it runs: `fp32` or `fp16`, with `-tensorrt` where that compiled it.
    pub variant: String,
    pub load_ms: u64,
    /// Memory that the model took at load and warm-up, in bytes.
    pub arena_bytes: u64,
    /// Median time of one job alone, prepare to interpret, in microseconds.
    pub service_p50_us: u64,
    /// Where its operators are computed, as the runtime said at load.
    pub placement: PlacementReport,
}

impl Engine {
    /// The state now.
    pub fn snapshot(&self) -> EngineSnapshot {
        let core = self.core.lock();
        let state = core.scheduler.snapshot();
        let lanes = state.lanes.iter().filter_map(|lane| {
            let link = core.lanes.get(&lane.lane)?;
            let models = link.models.iter().filter_map(|model| {
                let info = self.models.get(model.key)?;
                Some(LaneModelStatus {
                    name: info.name.clone(),
                    version: info.version,
                    variant: model.variant.to_string(),
                    load_ms: model.load_ms,
                    arena_bytes: model.profile.arena_bytes,
                    service_p50_us: model.profile.batches.first().map_or(0, |batch| batch.total.p50_ns / 1000),
                    placement: model.placement.clone(),
                })
            });
            Some(LaneStatus {
                device: link.device_name.to_string(),
                modality: lane.modality,
                queued_jobs: lane.queued_jobs,
                committed_batches: lane.committed_batches,
                committed_jobs: lane.committed_jobs,
                completed_jobs: lane.completed_jobs,
                completed_batches: lane.completed_batches,
                busy_ms: lane.busy_ns / 1_000_000,
                backlog_ms: lane.backlog_ns / 1_000_000,
                models: models.collect(),
            })
        });
        let counters = &self.counters;
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        EngineSnapshot {
            jobs_in_flight: core.records.len(),
            jobs_waiting: state.waiting_jobs,
            suspects: state.suspect_jobs,
            draining: state.draining,
            accepted: count(&counters.accepted),
            results: count(&counters.results),
            refused: count(&counters.refused),
            expired: count(&counters.expired),
            failed: count(&counters.failed),
            cancelled: count(&counters.cancelled),
            stale_answers: count(&counters.stale_answers),
            slab_bytes: self.slab.memory_bytes(),
            slab_bytes_out: self.slab.bytes_out(),
            lanes: lanes.collect(),
        }
    }
}
