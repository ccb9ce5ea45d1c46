//! Loads: who submits what, when, and what becomes of refusals.

use super::check::{Attached, time};
use super::error::ScenarioError;
use super::models::{find_model, numbers};
use super::raw::{RawArrivals, RawLoad, RawRetry};
use super::text::Place;
use super::{Load, SOURCES_MAX, Scenario};
use crate::arrivals::Arrivals;
use crate::time::{MS, SECOND, ns_of};

const PER_S_MAX: f64 = 1e6;
const PATTERNS: &str = "one of poisson_per_s, periodic_per_s, bursts, diurnal, trace is expected";

/// `scenario` has its models and devices, and the loads before this one.
pub(super) fn load(
    place: &Place<'_>,
    raw: &RawLoad,
    scenario: &Scenario,
    attached: Attached<'_>,
) -> Result<Load, ScenarioError> {
    let (first_source, first_principal) = scenario
        .loads
        .last()
        .map_or((0, 0), |last| (last.first_source + u64::from(last.sources), last.first_principal + last.principals));
    let left = f64::from(SOURCES_MAX) - f64::from(u32::try_from(first_source).unwrap_or(u32::MAX));
    place.within("count", f64::from(raw.count), f64::from(scenario.sites), left)?;
    place.within("principals", f64::from(raw.principals), 1.0, f64::from(raw.count))?;
    let deadline_ns = match raw.deadline_ms {
        Some(ms) => Some(ns_of(place.within("deadline_ms", ms, 0.001, 1e9)?, MS)),
        None => None,
    };
    if deadline_ns.is_some_and(|deadline_ns| deadline_ns <= scenario.overhead_ns) {
        return Err(place.wrong("deadline_ms", "is not longer than overhead_us"));
    }
    let start_ns = time(place, "start_s", raw.start_s)?;
    let end_ns = raw.end_s.map_or(Ok(u64::MAX), |end_s| time(place, "end_s", end_s))?;
    if end_ns <= start_ns {
        return Err(place.wrong("end_s", "is not after start_s"));
    }
    if raw.cancelled_permille > 1000 {
        return Err(place.wrong("cancelled_permille", format!("is {}; 0 to 1000 is expected", raw.cancelled_permille)));
    }
    Ok(Load {
        name: raw.name.clone(),
        sources: raw.count,
        first_source,
        first_principal,
        principals: raw.principals,
        stages: stages(place, raw, scenario)?,
        urgency: raw.urgency,
        deadline_ns,
        ordered: raw.ordered,
        work: raw.work,
        time_factor: place.within("time_factor", raw.time_factor, 0.001, 1000.0)?,
        payload_bytes: raw.payload_bytes,
        arrivals: arrivals(place, &raw.arrivals, attached)?,
        start_ns,
        end_ns,
        retries_max: match raw.retry {
            RawRetry::None => 0,
            RawRetry::After => raw.retries_max,
        },
        cancel_probability: f64::from(raw.cancelled_permille) / 1000.0,
    })
}

fn stages(place: &Place<'_>, raw: &RawLoad, scenario: &Scenario) -> Result<Vec<usize>, ScenarioError> {
    let (field, names) = match (&raw.model, &raw.pipeline) {
        (Some(model), None) => ("model", std::slice::from_ref(model)),
        (None, Some(pipeline)) if !pipeline.is_empty() => ("pipeline", pipeline.as_slice()),
        _ => return Err(place.wrong("model", "either model or pipeline = [\"...\"] is expected")),
    };
    let mut stages = Vec::with_capacity(names.len());
    for name in names {
        let stage = find_model(place, field, name, &scenario.models)?;
        let mut served = scenario.groups.iter().flat_map(|group| &group.lanes);
        if !served.any(|(_, models)| models.contains(&stage)) {
            return Err(place.wrong(field, format!("no device has the model \"{name}\"")));
        }
        stages.push(stage);
    }
    Ok(stages)
}

fn arrivals(place: &Place<'_>, raw: &RawArrivals, attached: Attached<'_>) -> Result<Arrivals, ScenarioError> {
    let within = |name: &str, value: f64, min: f64, max: f64| {
        if (min..=max).contains(&value) {
            Ok(value)
        } else {
            Err(place.wrong("arrivals", format!("{name} is {value}; {min} to {max} is expected")))
        }
    };
    let rate = |name: &str, per_s| within(name, per_s, 1e-6, PER_S_MAX);
    let RawArrivals { poisson_per_s, periodic_per_s, jitter_ms, bursts, diurnal, trace } = raw;
    let patterns =
        [poisson_per_s.is_some(), periodic_per_s.is_some(), bursts.is_some(), diurnal.is_some(), trace.is_some()];
    if patterns.iter().filter(|given| **given).count() != 1 {
        return Err(place.wrong("arrivals", PATTERNS));
    }
    if jitter_ms.is_some() && periodic_per_s.is_none() {
        return Err(place.wrong("arrivals", "jitter_ms belongs to periodic_per_s"));
    }
    if let Some(per_s) = poisson_per_s {
        return Ok(Arrivals::Poisson { per_s: rate("poisson_per_s", *per_s)? });
    }
    if let Some(per_s) = periodic_per_s {
        let period_ns = ns_of(1.0 / rate("periodic_per_s", *per_s)?, SECOND);
        let jitter_ns = ns_of(within("jitter_ms", jitter_ms.unwrap_or(0.0), 0.0, 1e6)?, MS);
        return Ok(Arrivals::Periodic { period_ns, jitter_ns });
    }
    if let Some(bursts) = bursts {
        let every_s = within("every_s", bursts.every_s, 1e-3, 1e6)?;
        return Ok(Arrivals::Bursts {
            every_ns: ns_of(every_s, SECOND),
            for_ns: ns_of(within("for_s", bursts.for_s, 1e-3, every_s)?, SECOND),
            burst_per_s: rate("burst_per_s", bursts.burst_per_s)?,
            base_per_s: within("base_per_s", bursts.base_per_s, 0.0, PER_S_MAX)?,
            together: bursts.together,
        });
    }
    if let Some(diurnal) = diurnal {
        let peak_over_mean = within("peak_over_mean", diurnal.peak_over_mean, 1.0, 20.0)?;
        let day_ns = ns_of(within("day_s", diurnal.day_s, 0.01, 1e6)?, SECOND);
        return Ok(Arrivals::diurnal(rate("mean_per_s", diurnal.mean_per_s)?, peak_over_mean, day_ns));
    }
    let Some(name) = trace else { return Err(place.wrong("arrivals", PATTERNS)) };
    let mut offsets_ns: Vec<u64> =
        numbers(place, "arrivals", name, ("offset_us", 0.0), attached)?.into_iter().map(|ns| ns_of(ns, 1)).collect();
    offsets_ns.sort_unstable();
    Ok(Arrivals::Trace { offsets_ns: offsets_ns.into() })
}
