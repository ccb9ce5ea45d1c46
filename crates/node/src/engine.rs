//! The data path of a node: from an admitted header to the one final answer.
//!
//! Who calls: the gateway and sessions submit, lane readers hand in packets, actors open and lose lanes and tick. All of
//! it runs on the caller's thread under one short lock around the pure scheduler; nothing here waits.

mod admit;
mod answer;
mod cache;
mod edge;
mod lanes;
mod learned;
mod log;
mod models;
mod plan;
mod prospect;
mod records;
mod retained;
mod run;
mod snapshot;
mod stages;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use sensorium_device::clock::now_ns;
use sensorium_device::protocol::Injection;
use sensorium_device::slab::Slab;
use sensorium_pipelines::RuleSet;
use sensorium_scheduler::{Command, Event, LaneId, Scheduler, Settings};
use sensorium_wire::{JobId, Name, ids::ShortName};

pub use admit::{Admitted, Caller};
pub use answer::{Delivered, InFlight, Reply};
pub use cache::CacheStatus;
pub use edge::{EdgeStatus, RuleStatus};
pub use lanes::{LaneLink, LaneModel, Nonsense};
pub use learned::LearnedTimes;
pub use log::{EventLog, EventLogError};
pub use models::{ModelInfo, ModelTable};
pub use plan::{DeviceShares, PlanStatus};
pub use prospect::{ModelLoad, Prospect};
pub use snapshot::{EngineSnapshot, LaneModelStatus, LaneStatus};

use edge::Edge;
use records::Records;
use retained::{Known, Retained};

/// Principals that a node knows, those behind its neighbours included.
pub(crate) const CALLERS_MAX: usize = 65_536;

/// Names a principal for the life of the node.
pub type CallerId = u32;

/// The data path. Shared by all threads of a node.
pub struct Engine {
    pub node: ShortName,
    pub slab: Arc<Slab>,
    pub models: ModelTable,
    pub injection: Injection,
    core: Mutex<Core>,
    /// Every job in flight and, for a while, every answer given.
    known: DashMap<(CallerId, JobId), Known>,
    retained: Mutex<Retained>,
    edge: Edge,
    callers: DashMap<String, CallerId>,
    next_caller: AtomicU32,
    draining: AtomicBool,
    counters: Counters,
    /// The size of the job seen last, by model.
    works: Vec<AtomicU64>,
    on_hung: Box<dyn Fn(u32, LaneId, String) + Send + Sync>,
}

/// Outcomes since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    pub accepted: AtomicU64,
    pub results: AtomicU64,
    pub refused: AtomicU64,
    pub expired: AtomicU64,
    pub failed: AtomicU64,
    pub cancelled: AtomicU64,
    /// Answers of a run that had been given up.
    pub stale_answers: AtomicU64,
}

struct Core {
    scheduler: Scheduler,
    commands: Vec<Command>,
    records: Records,
    lanes: HashMap<LaneId, LaneLink>,
    packet: Vec<u8>,
    learned: LearnedTimes,
    log: Option<EventLog>,
    next_lane: u32,
    next_run: u64,
}

/// What a data path is made of.
pub struct EngineSetup {
    pub node: String,
    pub slab: Arc<Slab>,
    pub models: ModelTable,
    pub settings: Settings,
    pub injection: Injection,
    pub learned: LearnedTimes,
    pub rules: RuleSet,
    /// Bytes of answers that are kept for jobs that allow it; 0 = none.
    pub cache_bytes_max: u64,
    /// Where scheduling decisions are written down, if they are.
    pub log: Option<EventLog>,
}

impl Engine {
    /// `on_hung` is called, with the device's number, one of the worker's lanes and a sentence, when a worker must be
    /// replaced.
    pub fn new(setup: EngineSetup, on_hung: impl Fn(u32, LaneId, String) + Send + Sync + 'static) -> Arc<Self> {
        let EngineSetup { node, slab, models, settings, injection, learned, rules, cache_bytes_max, log } = setup;
        let mut scheduler = Scheduler::new(settings);
        let mut commands = Vec::new();
        for info in models.iter() {
            let _ = scheduler.handle(now_ns(), Event::ModelAdded { model: info.key }, &mut commands);
        }
        let core = Core {
            scheduler,
            commands,
            records: Records::default(),
            lanes: HashMap::new(),
            packet: Vec::new(),
            learned,
            log,
            next_lane: 1,
            next_run: 1,
        };
        Arc::new(Self {
            node: Name::cut(&node),
            slab,
            works: models.iter().map(|_| AtomicU64::new(0)).collect(),
            models,
            injection,
            core: Mutex::new(core),
            known: DashMap::new(),
            retained: Mutex::new(Retained::default()),
            edge: Edge::new(rules, cache_bytes_max),
            callers: DashMap::new(),
            next_caller: AtomicU32::new(1),
            draining: AtomicBool::new(false),
            counters: Counters::default(),
            on_hung: Box::new(on_hung),
        })
    }

    /// Time passes: expires what is late and notices workers that hang. Called every few milliseconds.
    pub fn tick(&self) {
        let mut core = self.core.lock();
        let _ = self.handle(&mut core, Event::Tick);
    }

    /// From now on new jobs are refused; accepted ones are still done.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let mut core = self.core.lock();
        let _ = self.handle(&mut core, Event::Drain);
    }

    /// Jobs that were accepted and not answered yet.
    pub fn in_flight(&self) -> usize {
        self.core.lock().records.len()
    }

    /// The number of a principal (`TENANT/NAME`), the same for every connection of it.
    ///
    /// `None` when [`CALLERS_MAX`] others are known: a neighbour could make principals up without end.
    pub fn caller_id(&self, identity: &str) -> Option<CallerId> {
        if let Some(id) = self.callers.get(identity) {
            return Some(*id);
        }
        if self.callers.len() >= CALLERS_MAX {
            return None;
        }
        // Counted, not derived from the table's size: two that connect at once must not share a number, or one could
        // ask for the other's answers.
        let id = *self.callers.entry(identity.to_owned()).or_insert_with(|| {
            let id = self.next_caller.fetch_add(1, Ordering::Relaxed);
            self.edge.introduce(id, identity);
            id
        });
        Some(id)
    }

    /// Whether the node is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
