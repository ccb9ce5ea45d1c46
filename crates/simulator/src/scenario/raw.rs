//! A scenario file as it is written, before anything is checked. Absent values are `None` or the default given here.

use sensorium_scheduler::{DeviceKind, PlanPolicy, Settings};
use sensorium_wire::{Modality, Urgency};
use serde::Deserialize;
use toml::Spanned;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawFile {
    pub(super) name: Option<String>,
    pub(super) seconds: Option<Spanned<f64>>,
    pub(super) seed: Option<u64>,
    pub(super) sites: Option<Spanned<u32>>,
    pub(super) tick_ms: Option<Spanned<f64>>,
    pub(super) overhead_us: Option<Spanned<u64>>,
    pub(super) scheduler: Option<Spanned<Settings>>,
    pub(super) device: Vec<Spanned<RawDevice>>,
    pub(super) model: Vec<Spanned<RawModel>>,
    pub(super) load: Vec<Spanned<RawLoad>>,
    pub(super) fault: Vec<Spanned<RawFault>>,
    pub(super) moment: Vec<Spanned<RawMoment>>,
    pub(super) policy: Vec<Spanned<RawPolicy>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDevice {
    pub(super) name: String,
    #[serde(default = "one")]
    pub(super) count: u32,
    pub(super) kind: DeviceKind,
    pub(super) lanes_at_once_max: Option<u16>,
    pub(super) models: Vec<String>,
    #[serde(default = "unchanged")]
    pub(super) time_factor: f64,
    pub(super) contention: Option<f64>,
    #[serde(default)]
    pub(super) hiccup_per_million: u32,
    #[serde(default)]
    pub(super) hiccup_ms: f64,
    #[serde(default = "unchanged")]
    pub(super) restart_s: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    pub(super) name: String,
    pub(super) modality: Modality,
    #[serde(default = "batch_max")]
    pub(super) batch_max: u16,
    #[serde(default = "batch_wait_ms")]
    pub(super) batch_wait_ms: f64,
    #[serde(default = "run_ms_max")]
    pub(super) run_ms_max: f64,
    #[serde(default)]
    pub(super) slice_ms: f64,
    #[serde(default)]
    pub(super) profile: Vec<Spanned<RawProfileRow>>,
    pub(super) service_samples: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProfileRow {
    pub(super) jobs: u16,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLoad {
    pub(super) name: String,
    #[serde(default = "one")]
    pub(super) count: u32,
    pub(super) model: Option<String>,
    pub(super) pipeline: Option<Vec<String>>,
    #[serde(default)]
    pub(super) urgency: Urgency,
    pub(super) deadline_ms: Option<f64>,
    #[serde(default = "one")]
    pub(super) principals: u32,
    #[serde(default)]
    pub(super) ordered: bool,
    #[serde(default)]
    pub(super) work: u64,
    #[serde(default = "unchanged")]
    pub(super) time_factor: f64,
    #[serde(default)]
    pub(super) payload_bytes: u64,
    pub(super) arrivals: RawArrivals,
    #[serde(default)]
    pub(super) start_s: f64,
    pub(super) end_s: Option<f64>,
    #[serde(default)]
    pub(super) retry: RawRetry,
    #[serde(default = "retries_max")]
    pub(super) retries_max: u8,
    #[serde(default)]
    pub(super) cancelled_permille: u16,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawRetry {
    #[default]
    None,
    After,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawArrivals {
    pub(super) poisson_per_s: Option<f64>,
    pub(super) periodic_per_s: Option<f64>,
    pub(super) jitter_ms: Option<f64>,
    pub(super) bursts: Option<RawBursts>,
    pub(super) diurnal: Option<RawDiurnal>,
    pub(super) trace: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBursts {
    pub(super) every_s: f64,
    pub(super) for_s: f64,
    pub(super) burst_per_s: f64,
    #[serde(default)]
    pub(super) base_per_s: f64,
    #[serde(default)]
    pub(super) together: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDiurnal {
    pub(super) mean_per_s: f64,
    pub(super) peak_over_mean: f64,
    pub(super) day_s: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFault {
    pub(super) at_s: Option<f64>,
    pub(super) at: Option<RawAt>,
    pub(super) device: String,
    pub(super) index: Option<u32>,
    pub(super) share: Option<f64>,
    pub(super) kind: RawFaultKind,
    pub(super) restart_s: Option<f64>,
    pub(super) factor: Option<f64>,
    pub(super) for_s: Option<f64>,
    #[serde(default)]
    pub(super) reported: bool,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawAt {
    Peak,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawFaultKind {
    Lose,
    Slow,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMoment {
    pub(super) at_s: f64,
    pub(super) for_s: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicy {
    pub(super) at_s: f64,
    pub(super) plan: PlanPolicy,
}

const fn one() -> u32 {
    1
}

const fn unchanged() -> f64 {
    1.0
}

const fn batch_max() -> u16 {
    32
}

const fn batch_wait_ms() -> f64 {
    5.0
}

const fn run_ms_max() -> f64 {
    30_000.0
}

const fn retries_max() -> u8 {
    1
}
