//! `sensorium load`: many small clients' worth of mixed jobs at a steady rate, and what became of every single one.
//!
//! An open loop: jobs leave by a schedule that a seed decides, whatever becomes of those before them. The point is the
//! account and not the speed: every job has an id of its own, its ending is written down, and a job without an ending, with
//! two, or with somebody else's answer is counted and makes the run fail. `ops/chaos` runs it while it breaks things.
//! Capacity is not measured here: that is what `sensorium bench` does.

mod mix;
mod offer;
mod plan;
mod record;
mod tally;

use std::process::ExitCode;

use anyhow::{Context, bail};
use sensorium_models::repository::Repository;
use sensorium_wire::limits;

pub(crate) use self::mix::Mix;
use self::offer::{Load, Shape};
use self::record::Record;
use crate::arguments::LoadArguments;
use crate::error::Outcome;
use crate::paths::Paths;

/// Most jobs of one run: the ids of all are kept.
const JOBS_MAX: u64 = 10_000_000;
/// Highest rate that may be asked for, in jobs a second.
const RATE_MAX: f64 = 1_000_000.0;
/// Most connections at once.
const CLIENTS_MAX: usize = 1_000;

pub(crate) fn run(paths: &Paths, arguments: &LoadArguments) -> Outcome {
    let jobs = check(arguments)?;
    let shapes = shapes(paths, &arguments.mix)?;
    let record = match &arguments.record {
        Some(path) => Some(Record::create(path).with_context(|| format!("--record {}", path.display()))?),
        None => None,
    };
    let schedule = plan::schedule(jobs, arguments.rate, &arguments.mix.weights(), arguments.seed);
    let load = Load { paths: paths.clone(), reach: arguments.reach.clone(), shapes, deadline: arguments.deadline };
    let tally = super::block_on(load.run(arguments.clients, schedule, record))??;
    if arguments.json {
        println!("{}", tally.json());
    } else {
        tally.lines().iter().for_each(|line| println!("{line}"));
    }
    Ok(if tally.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How many jobs are asked for, once everything is in its range.
fn check(arguments: &LoadArguments) -> anyhow::Result<u64> {
    let rate = arguments.rate;
    if !(rate > 0.0 && rate <= RATE_MAX) {
        bail!("--rate {rate}: more than 0 and at most {RATE_MAX} jobs a second is expected");
    }
    if !(1..=CLIENTS_MAX).contains(&arguments.clients) {
        bail!("--clients {}: 1 to {CLIENTS_MAX} is expected", arguments.clients);
    }
    let deadline_us = arguments.deadline.as_micros();
    if deadline_us == 0 || deadline_us > u128::from(limits::BUDGET_US_MAX) {
        bail!("--deadline {}: more than 0 and at most 1h is expected", humantime::format_duration(arguments.deadline));
    }
    let jobs = match arguments.seconds {
        Some(seconds) if !(seconds > 0.0 && seconds <= 86_400.0) => {
            bail!("--seconds {seconds}: more than 0 and at most 86400 is expected")
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and too many are refused"
        )]
        Some(seconds) => (seconds * rate).ceil() as u64,
        None => arguments.jobs,
    };
    if !(1..=JOBS_MAX).contains(&jobs) {
        bail!("{jobs} jobs: 1 to {JOBS_MAX} is expected; use --jobs, or --seconds and --rate");
    }
    Ok(jobs)
}

/// What every part of the mix sends, by the manifests of the model repository here: the node that is asked need not have
/// the model itself.
fn shapes(paths: &Paths, mix: &Mix) -> anyhow::Result<Vec<Shape>> {
    if paths.repositories.is_empty() {
        bail!("no model repository: run in the project's folder or give one with --models DIR");
    }
    let repository = Repository::open(&paths.repositories, &paths.weights())?;
    let shape = |part: &mix::Part| {
        let Some(package) = repository.models.get(&part.model) else {
            let known: Vec<_> = repository.models.keys().map(String::as_str).collect();
            bail!("--mix: no model {:?} in the repository; there are {}", part.model, known.join(", "));
        };
        Shape::new(part, &package.manifest)
    };
    mix.parts.iter().map(shape).collect()
}
