//! A world to be played: devices, models, loads and what goes wrong, read from TOML and checked.
//!
//! Reading is from text that the caller hands over; this crate opens no files. Everything is numbered here, so that the
//! simulation looks nothing up by name.

mod check;
mod error;
mod loads;
mod models;
mod raw;
mod recorded;
mod text;
mod world;

use sensorium_scheduler::{DeviceId, DeviceKind, Learned, ModelKey, ModelPolicy, PlanPolicy, Settings};
use sensorium_wire::{Modality, Urgency};

pub use error::ScenarioError;
pub use text::SourceFile;

use crate::arrivals::Arrivals;
use crate::profile::Profile;
use crate::time::{SECOND, float, ns_of, seconds};

/// Most devices of a scenario.
pub const DEVICES_MAX: u32 = 100_000;
/// Most sources of all its loads together.
pub const SOURCES_MAX: u32 = 1_000_000;
/// Most sites.
pub const SITES_MAX: u32 = 1000;
/// Longest run, in virtual seconds.
pub const SECONDS_MAX: f64 = 1_000_000.0;

/// A checked scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) run_ns: u64,
    /// Equal parts of the world, each with models of its own: devices and sources of one part never meet those of another.
    pub(crate) sites: u32,
    pub(crate) tick_ns: u64,
    pub(crate) overhead_ns: u64,
    pub(crate) settings: Settings,
    pub(crate) models: Vec<Model>,
    pub(crate) groups: Vec<DeviceGroup>,
    pub(crate) loads: Vec<Load>,
    pub(crate) faults: Vec<Fault>,
    /// From, until.
    pub(crate) moments: Vec<(u64, u64)>,
    pub(crate) policies: Vec<(u64, PlanPolicy)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) modality: Modality,
    pub(crate) batch_max: u16,
    pub(crate) run_ns_max: u64,
    /// 0 = batches run to their end.
    pub(crate) slice_ns: u64,
    /// For how long the scheduler may hold jobs back to fill a batch.
    pub(crate) batch_wait_ns: u64,
    pub(crate) profile: Profile,
}

/// Devices that are alike.
#[derive(Clone, Debug)]
pub(crate) struct DeviceGroup {
    pub(crate) name: String,
    /// Number of its first device; they are counted through.
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) kind: DeviceKind,
    pub(crate) lanes_at_once_max: u16,
    /// A lane for each modality, with its models.
    pub(crate) lanes: Vec<(Modality, Vec<usize>)>,
    pub(crate) time_factor: f64,
    /// `None` = lanes beyond the bound share what there is.
    pub(crate) contention: Option<f64>,
    pub(crate) hiccup_probability: f64,
    pub(crate) hiccup_ns: u64,
    pub(crate) restart_ns: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) name: String,
    pub(crate) sources: u32,
    /// Number of its first source among those of all loads; likewise of its principals.
    pub(crate) first_source: u64,
    pub(crate) first_principal: u32,
    pub(crate) principals: u32,
    /// Models, one after the other.
    pub(crate) stages: Vec<usize>,
    pub(crate) urgency: Urgency,
    pub(crate) deadline_ns: Option<u64>,
    pub(crate) ordered: bool,
    pub(crate) work: u64,
    pub(crate) time_factor: f64,
    pub(crate) payload_bytes: u64,
    pub(crate) arrivals: Arrivals,
    pub(crate) start_ns: u64,
    /// `u64::MAX` = with the run.
    pub(crate) end_ns: u64,
    /// How often a refused job is submitted again.
    pub(crate) retries_max: u8,
    pub(crate) cancel_probability: f64,
}

#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// `None` = when the most work is expected.
    pub(crate) at_ns: Option<u64>,
    pub(crate) device_first: u32,
    pub(crate) devices: u32,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum FaultKind {
    Lose { restart_ns: u64 },
    Slow { factor: f64, for_ns: u64, reported: bool },
}

impl Scenario {
    /// Reads a scenario from one or more files, whose tables are put together. `attached` gives the text of a file that
    /// a scenario names (recorded arrivals or service times), or why it cannot be read.
    ///
    /// # Errors
    /// [`ScenarioError`], with file, line and what was expected.
    pub fn parse(
        files: &[SourceFile],
        attached: &dyn Fn(&SourceFile, &str) -> Result<String, String>,
    ) -> Result<Self, ScenarioError> {
        check::scenario(files, attached)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The seed that the file names, 1 if it names none.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    #[must_use]
    pub fn seconds(&self) -> f64 {
        seconds(self.run_ns)
    }

    /// The same world for another length of time; what would happen later does not happen.
    #[must_use]
    pub fn with_seconds(self, seconds: f64) -> Self {
        Self { run_ns: ns_of(seconds.clamp(0.001, SECONDS_MAX), SECOND), ..self }
    }

    /// The first moment, of a thousand, at which the most work is expected.
    pub(crate) fn peak_ns(&self) -> u64 {
        let step_ns = (self.run_ns / 1000).max(1);
        let mut peak = (0, 0.0);
        for at_ns in (0..1000).map(|step| step * step_ns) {
            let work = self.expected_work(at_ns);
            if work > peak.1 * 1.000_001 {
                peak = (at_ns, work);
            }
        }
        peak.0
    }

    /// The scheduler's name for a model at a site.
    pub(crate) fn model_key(&self, site: u32, model: usize) -> ModelKey {
        let model = u32::try_from(model).expect("a file lists far fewer models");
        ModelKey(model * self.sites + site)
    }

    /// The model of a key.
    pub(crate) fn model(&self, key: ModelKey) -> &Model {
        &self.models[(key.0 / self.sites) as usize]
    }

    /// Where a device is: those of a group are counted through site by site.
    pub(crate) fn site_of(&self, group: &DeviceGroup, device: DeviceId) -> u32 {
        (device.0 - group.first) / (group.count / self.sites)
    }

    /// Expected work of all loads at a time, in seconds of service a second.
    fn expected_work(&self, at_ns: u64) -> f64 {
        let active = self.loads.iter().filter(|load| (load.start_ns..load.end_ns).contains(&at_ns));
        active.map(|load| load.per_s(at_ns - load.start_ns) * load.single_ns(&self.models) / float(SECOND)).sum()
    }
}

impl Load {
    /// Expected arrivals of all sources, so long after its start.
    pub(crate) fn per_s(&self, at_ns: u64) -> f64 {
        let of_each = self.arrivals.per_s(at_ns);
        if matches!(self.arrivals, Arrivals::Trace { .. }) { of_each } else { of_each * f64::from(self.sources) }
    }

    /// Median time of one job alone, all stages together.
    fn single_ns(&self, models: &[Model]) -> f64 {
        self.stages.iter().map(|stage| models[*stage].profile.single_ns()).sum::<f64>() * self.time_factor
    }
}

impl Model {
    /// What a lane of a device that takes `factor` times as long tells the scheduler, with what its predecessor learned.
    pub(crate) fn policy(&self, factor: f64, learned: Learned) -> ModelPolicy {
        let p50_ns = self.profile.told_ns(factor, |row| row.p50_ns);
        let p99_ns = self.profile.told_ns(factor, |row| row.p99_ns);
        let policy = ModelPolicy::new(self.batch_max, self.run_ns_max, p50_ns, p99_ns);
        ModelPolicy { batch_wait_ns: self.batch_wait_ns, slice_ns: self.slice_ns, learned, ..policy }
    }
}

#[cfg(test)]
mod tests;
