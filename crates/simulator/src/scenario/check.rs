//! From what is written to what is played: values that make no sense are refused, names become numbers.

use sensorium_scheduler::{DeviceKind, JOBS_PER_BATCH_MAX, PolicyError, Settings};
use sensorium_wire::Modality;
use toml::Spanned;

use super::error::ScenarioError;
use super::raw::{RawDevice, RawFault, RawFaultKind, RawFile, RawModel, RawMoment, RawPolicy};
use super::text::{Place, SourceFile, suggestion};
use super::{DEVICES_MAX, DeviceGroup, Fault, FaultKind, Model, SECONDS_MAX, SITES_MAX, Scenario, loads, recorded};
use crate::profile::{Profile, ProfileRow};
use crate::time::{MS, SECOND, US, ns_of};

/// Gives the text of a file that a scenario names.
pub(super) type Attached<'a> = &'a dyn Fn(&SourceFile, &str) -> Result<String, String>;

/// Longest time that a value in a file may say, in seconds.
const DURATION_S_MAX: f64 = 1_000_000.0;

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
    let models: Vec<Model> = models.iter().map(|(place, raw)| model(place, raw, attached)).collect::<Result<_, _>>()?;
    let mut groups: Vec<DeviceGroup> = Vec::with_capacity(devices.len());
    for (place, raw) in &devices {
        let first = groups.last().map_or(0, |last| last.first + last.count);
        groups.push(group(place, raw, first, sites, &models)?);
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
        scenario.faults.push(fault(&place, raw, &scenario)?);
    }
    for (place, raw) in tables(&parsed, |raw| &raw.moment) {
        scenario.moments.push(moment(&place, raw)?);
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

fn model(place: &Place<'_>, raw: &RawModel, attached: Attached<'_>) -> Result<Model, ScenarioError> {
    let batch_max = raw.batch_max;
    place.within("batch_max", f64::from(batch_max), 1.0, f64::from(JOBS_PER_BATCH_MAX))?;
    let ms = |field, value, min| Ok(ns_of(place.within(field, value, min, DURATION_S_MAX * 1e3)?, MS));
    let mut rows: Vec<ProfileRow> = Vec::with_capacity(raw.profile.len().max(1));
    for row in &raw.profile {
        let at = Place { file: place.file, at: row.span().start };
        let wrong = |problem: String| Err(at.wrong("profile", problem));
        let row = row.get_ref();
        let smaller = rows.last().map_or(0, |last| last.jobs);
        if row.jobs <= smaller {
            return wrong(format!("jobs = {} comes after {smaller}; sizes rise from 1 on", row.jobs));
        }
        for (field, us) in [("p50_us", row.p50_us), ("p99_us", row.p99_us)] {
            if !(us > 0.0 && us <= DURATION_S_MAX * 1e6) {
                return wrong(format!("{field} is {us}; more than 0 is expected"));
            }
        }
        if row.p99_us < row.p50_us {
            return wrong(format!("p99_us is {}, below p50_us of {}", row.p99_us, row.p50_us));
        }
        rows.push(ProfileRow { jobs: row.jobs, p50_ns: row.p50_us * 1e3, p99_ns: row.p99_us * 1e3 });
    }
    let samples_ns = match &raw.service_samples {
        Some(name) => numbers(place, "service_samples", name, ("service_us", 0.001), attached)?,
        None => Vec::new(),
    };
    if rows.is_empty() {
        let mut sorted = samples_ns.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(p50_ns), Some(p99_ns)) = (sorted.get(sorted.len() / 2), sorted.get(sorted.len() * 99 / 100)) else {
            return Err(place.wrong("profile", "is empty; at least one row, or service_samples, is expected"));
        };
        rows.push(ProfileRow { jobs: 1, p50_ns: *p50_ns, p99_ns: *p99_ns });
    }
    Ok(Model {
        name: raw.name.clone(),
        modality: raw.modality,
        batch_max,
        run_ns_max: ms("run_ms_max", raw.run_ms_max, 0.0)?,
        slice_ns: ms("slice_ms", raw.slice_ms, 0.0)?,
        batch_wait_ns: ms("batch_wait_ms", raw.batch_wait_ms, 0.0)?,
        profile: Profile::new(rows, batch_max, samples_ns),
    })
}

/// A recorded column of microseconds, in nanoseconds.
pub(super) fn numbers(
    place: &Place<'_>,
    field: &str,
    name: &str,
    (header, min): (&str, f64),
    attached: Attached<'_>,
) -> Result<Vec<f64>, ScenarioError> {
    let text = attached(place.file, name).map_err(|reason| place.wrong(field, format!("{name}: {reason}")))?;
    let numbers = recorded::column(&text, header, min).map_err(|bad| ScenarioError::Syntax {
        file: name.to_owned(),
        line: bad.line,
        message: bad.problem,
    })?;
    Ok(numbers.into_iter().map(|us| us * 1e3).collect())
}

/// The number of a model that a field names.
pub(super) fn find_model(place: &Place<'_>, field: &str, name: &str, models: &[Model]) -> Result<usize, ScenarioError> {
    models.iter().position(|model| model.name == name).ok_or_else(|| {
        let nearest = suggestion(name, models.iter().map(|model| model.name.as_str()));
        place.wrong(field, format!("no model is called \"{name}\"{nearest}"))
    })
}

fn group(
    place: &Place<'_>,
    raw: &RawDevice,
    first: u32,
    sites: u32,
    models: &[Model],
) -> Result<DeviceGroup, ScenarioError> {
    place.within("count", f64::from(raw.count), 1.0, f64::from(DEVICES_MAX - first))?;
    if raw.count % sites != 0 {
        return Err(place.wrong("count", format!("is {}, which cannot be divided among {sites} sites", raw.count)));
    }
    let lanes_at_once_max = match (raw.lanes_at_once_max, raw.kind) {
        (Some(0), _) => return Err(place.wrong("lanes_at_once_max", "is 0; at least 1 is expected")),
        (Some(lanes), _) => lanes,
        (None, DeviceKind::Accelerator) => 3,
        (None, DeviceKind::Cpu) => {
            return Err(place.wrong("lanes_at_once_max", "is missing; for a CPU it is the number of cores"));
        }
    };
    if raw.models.is_empty() {
        return Err(place.wrong("models", "is empty; a device without models does nothing"));
    }
    let mut lanes: Vec<(Modality, Vec<usize>)> = Vec::new();
    for name in &raw.models {
        let model = find_model(place, "models", name, models)?;
        let modality = models[model].modality;
        match lanes.iter_mut().find(|(of, _)| *of == modality) {
            Some((_, served)) if served.contains(&model) => {
                return Err(place.wrong("models", format!("\"{name}\" is named twice")));
            }
            Some((_, served)) => served.push(model),
            None => lanes.push((modality, vec![model])),
        }
    }
    lanes.sort_by_key(|(modality, _)| *modality as u8);
    place.within("hiccup_per_million", f64::from(raw.hiccup_per_million), 0.0, 1e6)?;
    Ok(DeviceGroup {
        name: raw.name.clone(),
        first,
        count: raw.count,
        kind: raw.kind,
        lanes_at_once_max,
        lanes,
        time_factor: place.within("time_factor", raw.time_factor, 0.001, 1000.0)?,
        contention: raw.contention.map(|factor| place.within("contention", factor, 1.0, 1000.0)).transpose()?,
        hiccup_probability: f64::from(raw.hiccup_per_million) / 1e6,
        hiccup_ns: ns_of(place.within("hiccup_ms", raw.hiccup_ms, 0.0, 1e6)?, MS),
        restart_ns: time(place, "restart_s", raw.restart_s)?,
    })
}

fn fault(place: &Place<'_>, raw: &RawFault, scenario: &Scenario) -> Result<Fault, ScenarioError> {
    let groups = &scenario.groups;
    let group = groups.iter().find(|group| group.name == raw.device).ok_or_else(|| {
        let nearest = suggestion(&raw.device, groups.iter().map(|group| group.name.as_str()));
        place.wrong("device", format!("no device is called \"{}\"{nearest}", raw.device))
    })?;
    let at_ns = match (raw.at_s, raw.at) {
        (Some(at_s), None) => Some(time(place, "at_s", at_s)?),
        (None, Some(_)) => None,
        _ => return Err(place.wrong("at_s", "either at_s or at = \"peak\" is expected")),
    };
    let (skip, devices) = match (raw.index, raw.share) {
        (Some(_), Some(_)) => return Err(place.wrong("share", "either index or share is expected, not both")),
        (Some(index), None) if index >= group.count => {
            return Err(place.wrong("index", format!("is {index}; {} has {} devices, from 0", group.name, group.count)));
        }
        (Some(index), None) => (index, 1),
        (None, Some(share)) => (0, share_of(group.count, place.within("share", share, 0.0, 1.0)?)),
        (None, None) => (0, 1),
    };
    let misplaced = |field| Err(place.wrong(field, "does not belong to this kind of fault"));
    let kind = match raw.kind {
        RawFaultKind::Lose if raw.factor.is_some() => return misplaced("factor"),
        RawFaultKind::Lose if raw.for_s.is_some() => return misplaced("for_s"),
        RawFaultKind::Lose => {
            let restart_ns = raw.restart_s.map(|restart_s| time(place, "restart_s", restart_s)).transpose()?;
            FaultKind::Lose { restart_ns: restart_ns.unwrap_or(group.restart_ns) }
        }
        RawFaultKind::Slow if raw.restart_s.is_some() => return misplaced("restart_s"),
        RawFaultKind::Slow => FaultKind::Slow {
            factor: place.within("factor", raw.factor.unwrap_or(2.0), 0.01, 1000.0)?,
            for_ns: time(place, "for_s", raw.for_s.unwrap_or(SECONDS_MAX))?,
            reported: raw.reported,
        },
    };
    Ok(Fault { at_ns, device_first: group.first + skip, devices, kind })
}

/// Rounded up, so that a share of anything is at least one device.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most the count")]
fn share_of(count: u32, share: f64) -> u32 {
    (f64::from(count) * share).ceil() as u32
}

fn moment(place: &Place<'_>, raw: &RawMoment) -> Result<(u64, u64), ScenarioError> {
    let at_ns = time(place, "at_s", raw.at_s)?;
    Ok((at_ns, at_ns + time(place, "for_s", raw.for_s)?))
}
