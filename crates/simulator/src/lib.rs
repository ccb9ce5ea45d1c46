//! The scheduler in virtual time: worlds of devices, models and loads from TOML, played by the very code that schedules in
//! a node, as fast as it goes, and watched by a checker that knows its rules.
//!
//! This crate has no clock, opens no files, starts no threads and draws its chance from a seed: the same scenario and the
//! same seed give the same run. It deliberately leaves out the network, the payloads and what a worker does inside; their
//! times come from measured profiles.

mod arrivals;
mod chance;
mod checker;
mod misfortune;
mod profile;
mod prove;
mod quantiles;
mod report;
mod scenario;
mod simulation;
mod tally;
mod time;

pub use misfortune::{Misfortune, MisfortuneError};
pub use prove::{Bound, FoundMiss, Losses, Proof, prove};
pub use quantiles::QuantileReport;
pub use report::{HowMissed, LoadReport, Miss, Outcomes, PLANS_LISTED_MAX, PlanChange, Report, Utilisation};
pub use scenario::{DEVICES_MAX, SECONDS_MAX, SITES_MAX, SOURCES_MAX, Scenario, ScenarioError, SourceFile};
pub use simulation::{Broken, Decide, simulate, simulate_with};
