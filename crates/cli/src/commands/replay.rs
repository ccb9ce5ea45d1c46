//! `sensorium replay`: a node's log of decisions, decided again and told.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use sensorium_scheduler::{Command, Event, Handled, Replay, Step};

use crate::arguments::ReplayArguments;
use crate::error::Outcome;

pub(crate) fn run(arguments: &ReplayArguments) -> Outcome {
    let segments = segments(&arguments.segments)?;
    let mut summary = Summary::default();
    for segment in &segments {
        replay(segment, arguments, &mut summary).with_context(|| segment.display().to_string())?;
    }
    println!("{} events in {} segments; every decision is the same again", summary.events, segments.len());
    for (what, count) in &summary.counts {
        println!("  {count:>8}  {what}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The files to replay: the one that is named, or those of the folder.
fn segments(log: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !log.is_dir() {
        return Ok(vec![log.to_owned()]);
    }
    let entries = std::fs::read_dir(log).with_context(|| log.display().to_string())?;
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    found.sort();
    if found.is_empty() {
        bail!(
            "{}: no events-N.jsonl; a node keeps a log when event_log_bytes_max is set in its configuration",
            log.display()
        );
    }
    Ok(found)
}

#[derive(Default)]
struct Summary {
    events: u64,
    counts: BTreeMap<String, u64>,
}

impl Summary {
    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }
}

fn replay(path: &Path, arguments: &ReplayArguments, summary: &mut Summary) -> anyhow::Result<()> {
    let mut lines = BufReader::new(File::open(path)?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut replay = Replay::new(&first)?;
    let models = replay.head.models.clone();
    let mut started_ns = None;
    let mut lines = lines.peekable();
    while let Some(line) = lines.next() {
        let line = line?;
        let step = match replay.step(&line) {
            Ok(step) => step,
            // A node that was killed leaves half a line behind.
            Err(sensorium_scheduler::ReplayError::Line { .. }) if lines.peek().is_none() => break,
            Err(error) => return Err(error.into()),
        };
        let started_ns = *started_ns.get_or_insert(step.entry.at_ns);
        summary.events += 1;
        step.entry.commands.iter().for_each(|command| summary.count(name(command)));
        if !arguments.quiet && arguments.job.is_none_or(|job| concerns(&step, job)) {
            #[expect(clippy::cast_precision_loss, reason = "shown with microseconds")]
            let at_s = step.entry.at_ns.saturating_sub(started_ns) as f64 / 1e9;
            tell(&step, &models, replay.head.state.snapshot().jobs)
                .iter()
                .for_each(|line| println!("{at_s:12.6} {line}"));
        }
    }
    Ok(())
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Dispatch { .. } => "batches dispatched",
        Command::Refuse { .. } => "jobs refused",
        Command::Expire { .. } => "jobs expired",
        Command::Fail { .. } => "jobs failed",
        Command::Cancelled { .. } => "jobs cancelled",
        Command::ReplaceWorker { .. } => "workers replaced",
        Command::PlanChanged(_) => "plans changed",
    }
}

fn concerns(step: &Step, job: u64) -> bool {
    let event = match &step.entry.event {
        Event::JobArrived(arrived) | Event::JobContinued(arrived) => arrived.key.0 == job,
        Event::JobCancelled { key } => key.0 == job,
        _ => false,
    };
    event
        || step.entry.commands.iter().any(|command| match command {
            Command::Dispatch { jobs, .. } => jobs.iter().any(|batched| batched.key.0 == job),
            Command::Refuse { key, .. }
            | Command::Expire { key }
            | Command::Fail { key, .. }
            | Command::Cancelled { key, .. } => key.0 == job,
            Command::ReplaceWorker { .. } | Command::PlanChanged(_) => false,
        })
}

/// What happened and what was decided, in sentences. Ticks without consequences are not worth one.
fn tell(step: &Step, models: &[String], in_flight: usize) -> Vec<String> {
    let model = |number: u32| models.get(number as usize).map_or("?", String::as_str);
    let at_ns = step.entry.at_ns;
    let left = |deadline_ns: u64| match deadline_ns {
        u64::MAX => "no deadline".to_owned(),
        deadline_ns => format!("due in {}", ms(deadline_ns.saturating_sub(at_ns))),
    };
    let mut lines = Vec::new();
    match &step.entry.event {
        Event::Tick => {}
        Event::JobArrived(job) => lines.push(format!(
            "job {} arrives: {}, {}, {}; {in_flight} in flight",
            job.key.0,
            model(job.model.0),
            job.urgency.name(),
            left(job.deadline_ns)
        )),
        Event::JobContinued(job) => {
            lines.push(format!("job {} goes on: {}, {}", job.key.0, model(job.model.0), left(job.deadline_ns)))
        }
        Event::BatchDone { lane, batch, service_ns, unfinished } => {
            let rest = if unfinished.is_empty() { String::new() } else { format!(", {} unfinished", unfinished.len()) };
            lines.push(format!("batch {} of lane {} done after {}{rest}", batch.0, lane.0, ms(*service_ns)));
        }
        Event::LaneOpened { lane, device, modality, models } => lines.push(format!(
            "lane {} ({}) of device {} opens with {} models",
            lane.0,
            modality.name(),
            device.0,
            models.len()
        )),
        other => lines.push(format!("{other:?}")),
    }
    if step.handled != Handled::Applied {
        lines.push(format!("  {:?}: dropped", step.handled));
    }
    lines.extend(step.entry.commands.iter().map(|command| match command {
        Command::Dispatch { lane, batch, model: key, jobs, predicted_ns, epoch } => {
            let jobs: Vec<String> = jobs.iter().map(|job| job.key.0.to_string()).collect();
            let (model, takes) = (model(key.0), ms(*predicted_ns));
            format!(
                "  → batch {} of {model} to lane {}: {takes} expected, plan {epoch}, jobs {}",
                batch.0,
                lane.0,
                jobs.join(" ")
            )
        }
        Command::Refuse { key, reason, retry_after_us, predicted_ns } => {
            let why = if *predicted_ns > 0 { format!(", it would take {}", ms(*predicted_ns)) } else { String::new() };
            format!("  → job {} refused: {}{why}; again in {retry_after_us} µs", key.0, reason.name())
        }
        Command::Expire { key } => format!("  → job {} expires: it cannot be on time any more", key.0),
        Command::Fail { key, reason } => format!("  → job {} failed: {}", key.0, reason.name()),
        Command::Cancelled { key, running } => {
            format!("  → job {} cancelled{}", key.0, if *running { " while it runs" } else { "" })
        }
        Command::ReplaceWorker { device, why } => {
            format!(
                "  → the worker of device {} is replaced: batch {} runs over {}",
                device.0,
                why.batch.0,
                ms(why.limit_ns)
            )
        }
        Command::PlanChanged(plan) => format!("  → plan {}, level {}: {:?}", plan.epoch, plan.level, plan.devices),
    }));
    lines
}

fn ms(ns: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
    let ms = ns as f64 / 1e6;
    format!("{ms:.2} ms")
}
