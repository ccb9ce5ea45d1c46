//! Models and what was recorded of them.

use sensorium_scheduler::JOBS_PER_BATCH_MAX;

use super::Model;
use super::check::{Attached, DURATION_S_MAX};
use super::error::ScenarioError;
use super::raw::RawModel;
use super::recorded;
use super::text::{Place, suggestion};
use crate::profile::{Profile, ProfileRow};
use crate::time::{MS, ns_of};

pub(super) fn model(place: &Place<'_>, raw: &RawModel, attached: Attached<'_>) -> Result<Model, ScenarioError> {
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
        profile: Profile::new(rows, batch_max, &samples_ns),
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
