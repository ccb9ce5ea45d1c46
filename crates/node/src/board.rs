//! What is known about the devices, for status pages and for those who must reach a device's actor.

use parking_lot::Mutex;
use ractor::ActorRef;
use sensorium_hardware::GpuSample;
use serde::Serialize;

use crate::actors::device::DeviceMessage;

/// Where a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// Its worker loads models.
    Starting,
    Ready,
    /// Its worker is gone; another is on its way.
    Restarting,
    /// Its GPU went bad: its worker is killed, and no other starts before the GPU is well.
    Quarantined,
    /// Given up.
    Failed,
}

/// One device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceStatus {
    pub name: String,
    pub state: DeviceState,
    pub worker_pid: Option<u32>,
    /// Workers replaced since the node started.
    pub restarts: u64,
    /// How the last worker ended.
    pub last_exit: Option<String>,
    /// Cores that it is kept on; empty = any.
    pub cpus: Vec<u32>,
    /// Models that could not be loaded, and why.
    pub broken_models: Vec<(String, String)>,
    /// What is not as the configuration asks and works all the same.
    pub notes: Vec<String>,
    /// The worker that waits to take over; absent where none is wanted.
    pub standby: Option<StandbyStatus>,
    /// What its GPU said a moment ago; absent for processors.
    pub gpu: Option<GpuSample>,
}

/// Where a device's second worker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StandbyState {
    /// There is none now: the device has no worker yet, it was just promoted, or it will not do (see the note).
    #[default]
    None,
    /// It loads models.
    Loading,
    /// Loaded and warm; it takes over when the serving one is gone.
    Ready,
}

/// A device's second worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StandbyStatus {
    pub state: StandbyState,
    pub pid: Option<u32>,
    /// How often one took over since the node started.
    pub promotions: u64,
    /// How often one that waited or loaded was lost.
    pub restarts: u64,
    /// Why the last one ended, or why there is none.
    pub note: Option<String>,
}

struct Entry {
    status: DeviceStatus,
    address: Option<ActorRef<DeviceMessage>>,
    blame: Option<String>,
}

/// The devices, by number.
#[derive(Default)]
pub struct Board {
    entries: Mutex<Vec<Entry>>,
    alerts: Mutex<Vec<String>>,
}

impl Board {
    /// Adds a device; its number is the count of those before.
    pub fn add(&self, name: &str, cpus: Vec<u32>) {
        let status = DeviceStatus {
            name: name.to_owned(),
            state: DeviceState::Starting,
            worker_pid: None,
            restarts: 0,
            last_exit: None,
            cpus,
            broken_models: Vec::new(),
            standby: None,
            notes: Vec::new(),
            gpu: None,
        };
        self.entries.lock().push(Entry { status, address: None, blame: None });
    }

    fn with<T>(&self, device: u32, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.entries.lock().get_mut(device as usize).map(act)
    }

    pub fn set_address(&self, device: u32, address: ActorRef<DeviceMessage>) {
        self.with(device, |entry| entry.address = Some(address));
    }

    /// The actor of a device.
    pub fn address(&self, device: u32) -> Option<ActorRef<DeviceMessage>> {
        self.with(device, |entry| entry.address.clone()).flatten()
    }

    pub fn spawned(&self, device: u32, pid: u32) {
        self.with(device, |entry| {
            entry.status.worker_pid = Some(pid);
            if entry.status.state != DeviceState::Quarantined {
                entry.status.state = DeviceState::Starting;
            }
        });
    }

    /// A worker, `pid`, serves from now on.
    pub fn ready(&self, device: u32, pid: Option<u32>, broken_models: Vec<(String, String)>, notes: Vec<String>) {
        self.with(device, |entry| {
            entry.status.worker_pid = pid;
            // A worker that became ready while its GPU went bad is about to be killed.
            if entry.status.state != DeviceState::Quarantined {
                entry.status.state = DeviceState::Ready;
            }
            entry.status.broken_models = broken_models;
            entry.status.notes = notes;
        });
    }

    /// Where the device's second worker stands.
    pub fn set_standby(&self, device: u32, standby: StandbyStatus) {
        self.with(device, |entry| entry.status.standby = Some(standby));
    }

    /// Takes a device out of service because of its GPU. One that was given up stays so.
    pub fn quarantine(&self, device: u32, reason: &str) {
        self.with(device, |entry| {
            if !matches!(entry.status.state, DeviceState::Quarantined | DeviceState::Failed) {
                entry.status.state = DeviceState::Quarantined;
                entry.status.last_exit = Some(format!("taken out of service: {reason}"));
            }
        });
    }

    /// A device in quarantine gets a worker again.
    pub fn released(&self, device: u32) {
        self.with(device, |entry| entry.status.state = DeviceState::Restarting);
    }

    /// A device will not come back.
    pub fn give_up(&self, device: u32, reason: &str) {
        self.with(device, |entry| {
            entry.status.state = DeviceState::Failed;
            entry.status.last_exit = Some(reason.to_owned());
        });
    }

    pub fn set_sample(&self, device: u32, sample: Option<GpuSample>) {
        self.with(device, |entry| entry.status.gpu = sample);
    }

    /// Notes why a worker is about to be killed: a better reason than the signal.
    pub fn blame(&self, device: u32, reason: &str) {
        self.with(device, |entry| entry.blame = Some(reason.to_owned()));
    }

    pub fn exited(&self, device: u32, state: DeviceState, reason: &str) {
        self.with(device, |entry| {
            entry.status.state = state;
            entry.status.worker_pid = None;
            entry.status.restarts += 1;
            entry.status.last_exit = Some(entry.blame.take().unwrap_or_else(|| reason.to_owned()));
        });
    }

    /// What is wrong now; gives the alerts that were not there before. Numbers in them change from look to look, so one
    /// counts as new when its first word (whom it is about) had none.
    pub fn set_alerts(&self, alerts: Vec<String>) -> Vec<String> {
        let about = |alert: &String| alert.split(' ').next().unwrap_or("").to_owned();
        let before = std::mem::replace(&mut *self.alerts.lock(), alerts.clone());
        let known: Vec<String> = before.iter().map(about).collect();
        alerts.into_iter().filter(|alert| !known.contains(&about(alert))).collect()
    }

    pub fn alerts(&self) -> Vec<String> {
        self.alerts.lock().clone()
    }

    pub fn devices(&self) -> Vec<DeviceStatus> {
        self.entries.lock().iter().map(|entry| entry.status.clone()).collect()
    }

    /// Whether every device has finished its first start (ready or not able to).
    pub fn settled(&self) -> bool {
        self.entries.lock().iter().all(|entry| entry.status.state != DeviceState::Starting || entry.status.restarts > 0)
    }
}
