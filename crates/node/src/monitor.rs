//! What is wrong with a node right now, in sentences for whoever watches it. Pure: readings in, alerts out.

use std::collections::VecDeque;

use crate::board::{DeviceState, DeviceStatus};

/// How long counters are looked back on, in milliseconds.
const WINDOW_MS: u64 = 60_000;
/// A device that is not ready for longer than this is told of, in milliseconds. Replacing a worker takes about a second.
const NOT_READY_MS_MAX: u64 = 5_000;
/// Share of the jobs of the window that may expire or fail, in percent; more is told of.
const MISSED_PERCENT_MAX: u64 = 1;

/// Counters since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) results: u64,
    pub(crate) expired: u64,
    pub(crate) failed: u64,
}

/// Remembers readings for as long as they matter.
#[derive(Debug, Default)]
pub(crate) struct Monitor {
    readings: VecDeque<(u64, Counts)>,
    /// Since when each device has not been ready, by its place.
    not_ready_since_ms: Vec<Option<u64>>,
}

impl Monitor {
    /// Takes a reading at `now_ms` of any monotonic clock; gives what is wrong now.
    pub(crate) fn read(&mut self, now_ms: u64, counts: Counts, devices: &[DeviceStatus]) -> Vec<String> {
        let mut alerts = Vec::new();
        self.not_ready_since_ms.resize(devices.len(), None);
        for (since, device) in self.not_ready_since_ms.iter_mut().zip(devices) {
            if device.state == DeviceState::Ready {
                *since = None;
            } else {
                let since_ms = *since.get_or_insert(now_ms);
                if device.state == DeviceState::Quarantined {
                    alerts.push(format!("{} is {}", device.name, device.last_exit.as_deref().unwrap_or("quarantined")));
                } else if now_ms - since_ms > NOT_READY_MS_MAX {
                    let why = device.last_exit.as_deref().unwrap_or("its worker has not become ready");
                    alerts.push(format!("{} is not ready for {} s: {why}", device.name, (now_ms - since_ms) / 1000));
                }
            }
            for (model, reason) in &device.broken_models {
                alerts.push(format!("{} does not run {model}: {reason}", device.name));
            }
        }
        while self.readings.front().is_some_and(|(at_ms, _)| at_ms + WINDOW_MS < now_ms) {
            self.readings.pop_front();
        }
        let before = self.readings.front().map_or(counts, |(_, counts)| *counts);
        self.readings.push_back((now_ms, counts));
        let missed = (counts.expired - before.expired) + (counts.failed - before.failed);
        let ended = missed + (counts.results - before.results);
        if missed * 100 > ended * MISSED_PERCENT_MAX {
            alerts.push(format!("jobs: {missed} of the last {ended} accepted ones expired or failed"));
        }
        alerts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(state: DeviceState) -> DeviceStatus {
        DeviceStatus {
            name: "cpu:0".to_owned(),
            state,
            worker_pid: None,
            restarts: 1,
            last_exit: Some("signal: 9".to_owned()),
            cpus: Vec::new(),
            broken_models: Vec::new(),
            standby: None,
            notes: Vec::new(),
            gpu: None,
        }
    }

    #[test]
    fn a_short_restart_is_no_alert_and_a_long_one_is() {
        let mut monitor = Monitor::default();
        let counts = Counts::default();
        assert!(monitor.read(0, counts, &[device(DeviceState::Restarting)]).is_empty());
        assert!(monitor.read(4_000, counts, &[device(DeviceState::Restarting)]).is_empty());
        let alerts = monitor.read(6_000, counts, &[device(DeviceState::Restarting)]);
        assert_eq!(alerts, ["cpu:0 is not ready for 6 s: signal: 9"]);
        assert!(monitor.read(7_000, counts, &[device(DeviceState::Ready)]).is_empty());
        assert!(monitor.read(8_000, counts, &[device(DeviceState::Restarting)]).is_empty(), "counted afresh");
    }

    #[test]
    fn a_device_out_of_service_is_told_of_at_once() {
        let mut quarantined = device(DeviceState::Quarantined);
        quarantined.last_exit = Some("taken out of service: it has left the bus".to_owned());
        let alerts = Monitor::default().read(0, Counts::default(), &[quarantined]);
        assert_eq!(alerts, ["cpu:0 is taken out of service: it has left the bus"]);
    }

    #[test]
    fn misses_are_told_while_they_are_recent() {
        let mut monitor = Monitor::default();
        let at = |results, expired| Counts { results, expired, failed: 0 };
        assert!(monitor.read(0, at(0, 0), &[]).is_empty());
        assert!(monitor.read(1_000, at(1_000, 10), &[]).is_empty(), "one percent is allowed");
        assert_eq!(
            monitor.read(2_000, at(1_000, 11), &[]),
            ["jobs: 11 of the last 1011 accepted ones expired or failed"]
        );
        assert!(monitor.read(70_000, at(2_000, 11), &[]).is_empty(), "long ago");
    }
}
