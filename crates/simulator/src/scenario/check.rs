//! From what is written to what is played: values that make no sense are refused, names become numbers.

use sensorium_scheduler::{PolicyError, Settings};
use toml::Spanned;

use super::error::ScenarioError;
use super::raw::{RawFile, RawPolicy};
use super::text::{Place, SourceFile};
use super::{DeviceGroup, Model, SECONDS_MAX, SITES_MAX, Scenario, loads, models, world};
use crate::time::{MS, SECOND, US, ns_of};

/// Gives the text of a file that a scenario names.
pub(super) type Attached<'a> = &'a dyn Fn(&SourceFile, &str) -> Result<String, String>;

/// Longest time that a value in a file may say, in seconds.
pub(super) const DURATION_S_MAX: f64 = 1_000_000.0;

pub(super) fn scenario(files: &[SourceFile], attached: Attached<'_>) -> Result<Scenario, ScenarioError> {
    let mut parsed = Vec::with_capacity(files.len());
    for file in files {
        let raw: RawFile = toml::from_str(&file.text).map_err(|error| file.syntax(&error))?;
        parsed.push((file, raw));
    }
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    let lacking = |problem| ScenarioError::Lacking { files: names.join(", "), problem };

    let run_s = single(&parsed, "seconds", |raw| raw.seconds.as_ref())?.map(|(place, seconds)| {
        let positive = *seconds > 0.0 && *seconds <= SECONDS_MAX;
        if positive {
            Ok(*seconds)
        } else {
            Err(place.wrong("seconds", format!("is {seconds}; more than 0 is expected")))
        }
    });
    let run_s = run_s.ok_or_else(|| lacking("says nowhere for how many seconds"))??;
    let tick_ms = single(&parsed, "tick_ms", |raw| raw.tick_ms.as_ref())?;
    let tick_ms = tick_ms.map_or(Ok(2.0), |(place, ms)| place.within("tick_ms", *ms, 0.1, 1000.0))?;
    let overhead_us = single(&parsed, "overhead_us", |raw| raw.overhead_us.as_ref())?;

    let sites = single(&parsed, "sites", |raw| raw.sites.as_ref())?;
    let sites = sites.map_or(Ok(1), |(place, sites)| match sites {
        1..=SITES_MAX => Ok(*sites),
        _ => Err(place.wrong("sites", format!("is {sites}; 1 to {SITES_MAX} is expected"))),
    })?;
    let models = tables(&parsed, |raw| &raw.model);
    let devices = tables(&parsed, |raw| &raw.device);
    if devices.is_empty() {
        return Err(lacking("no devices; at least one [[device]] is expected"));
    }
    if models.is_empty() {
        return Err(lacking("no models; at least one [[model]] is expected"));
    }
    distinct(models.iter().map(|(place, raw)| (*place, raw.name.as_str())))?;
    distinct(devices.iter().map(|(place, raw)| (*place, raw.name.as_str())))?;
    let models: Vec<Model> =
        models.iter().map(|(place, raw)| models::model(place, raw, attached)).collect::<Result<_, _>>()?;
    let mut groups: Vec<DeviceGroup> = Vec::with_capacity(devices.len());
    for (place, raw) in &devices {
        let first = groups.last().map_or(0, |last| last.first + last.count);
        groups.push(world::group(place, raw, first, sites, &models)?);
    }
    let mut scenario = Scenario {
        name: parsed.iter().find_map(|(_, raw)| raw.name.clone()).unwrap_or_else(|| stem(names[0]).to_owned()),
        seed: parsed.iter().find_map(|(_, raw)| raw.seed).unwrap_or(1),
        run_ns: ns_of(run_s, SECOND),
        sites,
        tick_ns: ns_of(tick_ms, MS),
        overhead_ns: overhead_us.map_or(0, |(_, us)| us.saturating_mul(US)),
        settings: settings(&parsed)?,
        models,
        groups,
        loads: Vec::new(),
        faults: Vec::new(),
        moments: Vec::new(),
        policies: Vec::new(),
    };
    let written = tables(&parsed, |raw| &raw.load);
    if written.is_empty() {
        return Err(lacking("no loads; at least one [[load]] is expected"));
    }
    distinct(written.iter().map(|(place, raw)| (*place, raw.name.as_str())))?;
    for (place, raw) in &written {
        let load = loads::load(place, raw, &scenario, attached)?;
        scenario.loads.push(load);
    }
    for (place, raw) in tables(&parsed, |raw| &raw.fault) {
        scenario.faults.push(world::fault(&place, raw, &scenario)?);
    }
    for (place, raw) in tables(&parsed, |raw| &raw.moment) {
        scenario.moments.push(world::moment(&place, raw)?);
    }
    for (place, raw) in tables(&parsed, |raw| &raw.policy) {
        let RawPolicy { at_s, plan } = raw;
        plan.check().map_err(|error| place.wrong("plan", error.to_string()))?;
        scenario.policies.push((time(&place, "at_s", *at_s)?, plan.clone()));
    }
    Ok(scenario)
}

/// `a/b.toml` is called b.
fn stem(name: &str) -> &str {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.strip_suffix(".toml").unwrap_or(last)
}

/// The tables of one kind, of all files.
fn tables<'a, T>(
    parsed: &'a [(&'a SourceFile, RawFile)],
    pick: fn(&RawFile) -> &Vec<Spanned<T>>,
) -> Vec<(Place<'a>, &'a T)> {
    let of_file = |(file, raw): &'a (&'a SourceFile, RawFile)| {
        let place = |table: &Spanned<T>| Place { file, at: table.span().start };
        pick(raw).iter().map(move |table| (place(table), table.get_ref()))
    };
    parsed.iter().flat_map(of_file).collect()
}

/// A value that only one of the files may give.
fn single<'a, T>(
    parsed: &'a [(&'a SourceFile, RawFile)],
    field: &str,
    pick: fn(&RawFile) -> Option<&Spanned<T>>,
) -> Result<Option<(Place<'a>, &'a T)>, ScenarioError> {
    let given = parsed.iter().filter_map(|(file, raw)| {
        let value = pick(raw)?;
        Some((Place { file, at: value.span().start }, value.get_ref()))
    });
    let mut given = given.fuse();
    let first = given.next();
    match given.next() {
        Some((place, _)) => Err(place.wrong(field, "is given by another file, too")),
        None => Ok(first),
    }
}

fn distinct<'a>(names: impl Iterator<Item = (Place<'a>, &'a str)>) -> Result<(), ScenarioError> {
    let mut seen = std::collections::BTreeSet::new();
    for (place, name) in names {
        if name.is_empty() {
            return Err(place.wrong("name", "is empty"));
        }
        if !seen.insert(name) {
            return Err(place.wrong("name", format!("\"{name}\" was used before")));
        }
    }
    Ok(())
}

/// A time in seconds, from 0 on.
pub(super) fn time(place: &Place<'_>, field: &str, seconds: f64) -> Result<u64, ScenarioError> {
    Ok(ns_of(place.within(field, seconds, 0.0, DURATION_S_MAX)?, SECOND))
}

fn settings(parsed: &[(&SourceFile, RawFile)]) -> Result<Settings, ScenarioError> {
    let Some((mut place, settings)) = single(parsed, "scheduler", |raw| raw.scheduler.as_ref())? else {
        return Ok(Settings::default());
    };
    settings.check().map_err(|error| {
        let field = match error {
            PolicyError::ClassShares { .. } => "share_min_permille",
            _ => "rows",
        };
        // Tables within [scheduler] may stand anywhere behind it.
        place.at = place.file.text.find("[scheduler").unwrap_or(place.at);
        place.wrong(field, error.to_string())
    })?;
    Ok(settings.clone())
}
