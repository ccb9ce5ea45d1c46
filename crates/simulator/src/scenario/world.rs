//! Devices, and what happens to them.

use sensorium_scheduler::DeviceKind;
use sensorium_wire::Modality;

use super::check::time;
use super::error::ScenarioError;
use super::models::find_model;
use super::raw::{RawDevice, RawFault, RawFaultKind, RawMoment};
use super::text::{Place, suggestion};
use super::{DEVICES_MAX, DeviceGroup, Fault, FaultKind, Model, SECONDS_MAX, Scenario};
use crate::time::{MS, ns_of};

pub(super) fn group(
    place: &Place<'_>,
    raw: &RawDevice,
    first: u32,
    sites: u32,
    models: &[Model],
) -> Result<DeviceGroup, ScenarioError> {
    place.within("count", f64::from(raw.count), 1.0, f64::from(DEVICES_MAX - first))?;
    if !raw.count.is_multiple_of(sites) {
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

pub(super) fn fault(place: &Place<'_>, raw: &RawFault, scenario: &Scenario) -> Result<Fault, ScenarioError> {
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

pub(super) fn moment(place: &Place<'_>, raw: &RawMoment) -> Result<(u64, u64), ScenarioError> {
    let at_ns = time(place, "at_s", raw.at_s)?;
    Ok((at_ns, at_ns + time(place, "for_s", raw.for_s)?))
}
