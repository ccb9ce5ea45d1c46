//! Looks at GPUs again and again, through NVML.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};

use crate::health::{GpuSample, Reading, XIDS_MAX};

/// Reports that are taken at one look, of all GPUs together: a driver that reports without end must not hold it up.
const REPORTS_MAX: usize = 256;

/// Looks at the GPUs `uuids` whenever `wait` returns true, until it returns false, and hands each look to `tell` in their
/// order. Blocks: it wants a thread of its own. Where NVML cannot be opened, each look says so and tries again.
pub fn watch(uuids: &[String], mut wait: impl FnMut() -> bool, mut tell: impl FnMut(usize, Reading)) {
    loop {
        let nvml = match Nvml::init() {
            Ok(nvml) => nvml,
            Err(error) => {
                if !wait() {
                    return;
                }
                (0..uuids.len()).for_each(|gpu| tell(gpu, Reading::Silent(error.to_string())));
                continue;
            }
        };
        if !look_until_lost(&nvml, uuids, &mut wait, &mut tell) {
            return;
        }
    }
}

/// Looks until `wait` ends it (false), or NVML itself has to be opened anew (true).
fn look_until_lost(
    nvml: &Nvml,
    uuids: &[String],
    wait: &mut impl FnMut() -> bool,
    tell: &mut impl FnMut(usize, Reading),
) -> bool {
    let mut reports = nvml.create_event_set().ok();
    for uuid in uuids {
        // A slice reports nothing of its own; a set that fails to take a GPU is gone, and is made again without it.
        if let (Some(set), Ok(device)) = (reports.take(), nvml.device_by_uuid(uuid.as_str())) {
            reports = device.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok();
        }
    }
    while wait() {
        let mut xids = vec![Vec::new(); uuids.len()];
        if let Some(set) = &reports {
            collect(set, uuids, &mut xids);
        }
        let mut gone = 0;
        for (gpu, (uuid, xids)) in uuids.iter().zip(xids).enumerate() {
            let reading = match nvml.device_by_uuid(uuid.as_str()).and_then(|device| sample(&device, xids)) {
                Ok(sample) => Reading::Sample(sample),
                Err(NvmlError::GpuLost) => Reading::Lost,
                Err(error) => {
                    gone += usize::from(matches!(error, NvmlError::Uninitialized | NvmlError::DriverNotLoaded));
                    Reading::Silent(error.to_string())
                }
            };
            tell(gpu, reading);
        }
        if gone > 0 {
            return true;
        }
    }
    false
}

/// Takes the reports that have come since the last look.
fn collect(set: &EventSet<'_>, uuids: &[String], xids: &mut [Vec<u64>]) {
    for _ in 0..REPORTS_MAX {
        let Ok(event) = set.wait(0) else { return };
        let Some(XidError::Value(xid)) = event.event_data else { continue };
        let gpu = event.device.uuid().ok().and_then(|uuid| uuids.iter().position(|known| *known == uuid));
        if let Some(xids) = gpu.and_then(|gpu| xids.get_mut(gpu))
            && xids.len() < XIDS_MAX
        {
            xids.push(xid);
        }
    }
}

/// What a GPU says; only its loss is an error, as slices and virtual machines leave much untold.
fn sample(device: &Device<'_>, xids: Vec<u64>) -> Result<GpuSample, NvmlError> {
    fn told<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(error @ (NvmlError::GpuLost | NvmlError::Uninitialized | NvmlError::DriverNotLoaded)) => Err(error),
            Err(_) => Ok(None),
        }
    }
    let memory = told(device.memory_info())?;
    Ok(GpuSample {
        busy_percent: told(device.utilization_rates())?.map(|rates| rates.gpu),
        memory_used_bytes: memory.as_ref().map(|memory| memory.used),
        memory_bytes: memory.as_ref().map(|memory| memory.total),
        temperature_c: told(device.temperature(TemperatureSensor::Gpu))?,
        power_mw: told(device.power_usage())?,
        slowed_by: told(device.current_throttle_reasons())?.map(in_words).unwrap_or_default(),
        uncorrectable_errors: told(device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))?,
        xids,
    })
}

fn in_words(reasons: ThrottleReasons) -> Vec<String> {
    [
        (ThrottleReasons::SW_POWER_CAP, "power limit"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware slowdown"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "heat"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "heat (hardware)"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power brake"),
    ]
    .into_iter()
    .filter(|(reason, _)| reasons.contains(*reason))
    .map(|(_, words)| words.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_driver_is_silent_and_not_stuck() {
        if Nvml::init().is_ok() {
            return;
        }
        let (mut looks, mut told) = (0, Vec::new());
        let wait = || {
            looks += 1;
            looks <= 2
        };
        watch(&["GPU-1".to_owned(), "GPU-2".to_owned()], wait, |gpu, reading| told.push((gpu, reading)));
        assert_eq!(told.len(), 4);
        assert!(told.iter().all(|(_, reading)| matches!(reading, Reading::Silent(_))), "{told:?}");
    }

    #[test]
    fn reasons_are_told_in_words() {
        assert_eq!(in_words(ThrottleReasons::GPU_IDLE), Vec::<String>::new());
        let both = ThrottleReasons::SW_POWER_CAP | ThrottleReasons::SW_THERMAL_SLOWDOWN;
        assert_eq!(in_words(both), ["power limit", "heat"]);
    }
}
