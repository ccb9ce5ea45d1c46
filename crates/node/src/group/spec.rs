//! `[[group]]` in a node's configuration.

use sensorium_device::group::lifecycle::{Link, Plan};
use sensorium_device::group::{RANKS_MAX, WAIT_MS_MAX, WAIT_MS_MIN};
use sensorium_hardware::{DeviceKind, DevicePlan};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most groups of a node.
const GROUPS_MAX: usize = 8;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 32;
/// Shortest and longest time between two exercises, in milliseconds.
const PULSE_MS_MIN: u64 = 100;
const PULSE_MS_MAX: u64 = 3_600_000;
/// Most values of an exercise: 1 MiB from each member.
const PULSE_VALUES_MAX: u32 = 1 << 18;
/// How long coming together may take, in milliseconds: NCCL looks at the whole machine first.
const FORM_MS_MAX: u64 = 20_000;

/// How members are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupLink {
    /// NCCL where all members are GPUs, sockets where one is not.
    #[default]
    Auto,
    Nccl,
    Host,
}

/// A group of devices of this node whose workers exchange features.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// 1 to 32 bytes of a to z, 0 to 9 and `-`; no two groups share one.
    pub name: String,
    /// 2 to 16 devices of this node, as in `sensorium hardware`; the first is rank 0.
    pub devices: Vec<String>,
    /// Default `auto`.
    #[serde(default)]
    pub transport: GroupLink,
    /// How long a member waits for the others in one exchange, in milliseconds, 50 to 60000. Default 1000.
    #[serde(default = "wait_ms_max")]
    pub wait_ms_max: u64,
    /// Time between two exercises, in milliseconds, 100 to 3600000. Default 1000.
    #[serde(default = "pulse_ms")]
    pub pulse_ms: u64,
    /// Values that each member gives in an exercise, 1 to 262144. Default 1024.
    #[serde(default = "pulse_values")]
    pub pulse_values: u32,
}

const fn wait_ms_max() -> u64 {
    1_000
}

const fn pulse_ms() -> u64 {
    1_000
}

const fn pulse_values() -> u32 {
    1_024
}

/// What is wrong with a group.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum GroupSpecError {
    #[error("{count} groups; at most {GROUPS_MAX} are taken")]
    TooMany { count: usize },
    #[error("group {name:?}: the name must have 1 to {NAME_BYTES_MAX} bytes of a to z, 0 to 9 and -")]
    Name { name: String },
    #[error("group {name:?} is there twice")]
    Twice { name: String },
    #[error("group {name:?} has {count} devices; 2 to {RANKS_MAX} are expected")]
    Members { name: String, count: usize },
    #[error("group {name:?}: {device} is in it twice")]
    DeviceTwice { name: String, device: String },
    #[error("group {name:?}: {field} is {found}; {least} to {most} is expected")]
    Range { name: String, field: &'static str, found: u64, least: u64, most: u64 },
    #[error("group {name:?}: there is no device {device}; there are {known}")]
    UnknownDevice { name: String, device: String, known: String },
    #[error("group {name:?}: {device} is no GPU, and NCCL connects GPUs; set transport = \"host\"")]
    NoGpu { name: String, device: String },
    #[error("group {name:?}: {device} is a slice of a GPU, which NCCL does not connect; set transport = \"host\"")]
    Slice { name: String, device: String },
}

/// A group whose devices are there.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    pub name: String,
    /// By rank.
    pub devices: Vec<String>,
    pub plan: Plan,
}

/// Checks what can be checked without knowing the machine.
pub(crate) fn check(groups: &[GroupSpec]) -> Result<(), GroupSpecError> {
    if groups.len() > GROUPS_MAX {
        return Err(GroupSpecError::TooMany { count: groups.len() });
    }
    for (at, group) in groups.iter().enumerate() {
        group.check()?;
        if groups[..at].iter().any(|other| other.name == group.name) {
            return Err(GroupSpecError::Twice { name: group.name.clone() });
        }
    }
    Ok(())
}

/// Finds the devices of every group.
pub(crate) fn plan(groups: &[GroupSpec], devices: &[DevicePlan]) -> Result<Vec<GroupPlan>, GroupSpecError> {
    groups.iter().map(|group| group.plan(devices)).collect()
}

impl GroupSpec {
    fn check(&self) -> Result<(), GroupSpecError> {
        let name = self.name.clone();
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_plain) {
            return Err(GroupSpecError::Name { name });
        }
        let count = self.devices.len();
        if !(2..=RANKS_MAX as usize).contains(&count) {
            return Err(GroupSpecError::Members { name, count });
        }
        let twice = self.devices.iter().enumerate().find(|(at, device)| self.devices[..*at].contains(device));
        if let Some((_, device)) = twice {
            return Err(GroupSpecError::DeviceTwice { name, device: device.clone() });
        }
        let ranges = [
            ("wait_ms_max", self.wait_ms_max, WAIT_MS_MIN, WAIT_MS_MAX),
            ("pulse_ms", self.pulse_ms, PULSE_MS_MIN, PULSE_MS_MAX),
            ("pulse_values", u64::from(self.pulse_values), 1, u64::from(PULSE_VALUES_MAX)),
        ];
        match ranges.into_iter().find(|(_, found, least, most)| !(least..=most).contains(&found)) {
            Some((field, found, least, most)) => Err(GroupSpecError::Range { name, field, found, least, most }),
            None => Ok(()),
        }
    }

    fn plan(&self, devices: &[DevicePlan]) -> Result<GroupPlan, GroupSpecError> {
        let name = || self.name.clone();
        let mut processors = Vec::new();
        let mut slices = Vec::new();
        for wanted in &self.devices {
            let Some(found) = devices.iter().find(|device| device.name == *wanted) else {
                let known: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
                let (device, known) = (wanted.clone(), known.join(", "));
                return Err(GroupSpecError::UnknownDevice { name: name(), device, known });
            };
            match &found.kind {
                DeviceKind::Cpu => processors.push(wanted.clone()),
                DeviceKind::Cuda { uuid, .. } if uuid.starts_with("MIG-") => slices.push(wanted.clone()),
                DeviceKind::Cuda { .. } => {}
            }
        }
        let link = match self.transport {
            GroupLink::Host => Link::Host,
            GroupLink::Auto if !processors.is_empty() => Link::Host,
            GroupLink::Auto | GroupLink::Nccl => Link::Nccl,
        };
        if link == Link::Nccl {
            if let Some(device) = processors.pop() {
                return Err(GroupSpecError::NoGpu { name: name(), device });
            }
            if let Some(device) = slices.pop() {
                return Err(GroupSpecError::Slice { name: name(), device });
            }
        }
        let plan = Plan {
            link,
            ranks: u32::try_from(self.devices.len()).unwrap_or(RANKS_MAX),
            form_ms_max: FORM_MS_MAX,
            wait_ms_max: self.wait_ms_max,
            pulse_ms: self.pulse_ms,
            pulse_values: self.pulse_values,
        };
        Ok(GroupPlan { name: name(), devices: self.devices.clone(), plan })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, devices: &[&str]) -> GroupSpec {
        GroupSpec {
            name: name.to_owned(),
            devices: devices.iter().map(|device| (*device).to_owned()).collect(),
            transport: GroupLink::Auto,
            wait_ms_max: wait_ms_max(),
            pulse_ms: pulse_ms(),
            pulse_values: pulse_values(),
        }
    }

    fn device(name: &str, uuid: Option<&str>) -> DevicePlan {
        let kind = uuid.map_or(DeviceKind::Cpu, |uuid| DeviceKind::Cuda { gpu: 0, uuid: uuid.to_owned() });
        let name = name.to_owned();
        DevicePlan { name, kind, numa_node: None, cpus: vec![0], threads: 1, memory_bytes: 1, host_memory_bytes: 1 }
    }

    #[test]
    fn what_is_wrong_with_a_group_is_said() {
        let said = |groups: &[GroupSpec]| check(groups).unwrap_err().to_string();
        let good = group("features", &["cpu:0", "cpu:1"]);
        check(&[good.clone(), group("b", &["cpu:0", "cpu:1"])]).unwrap();
        assert_eq!(said(&[good.clone(), good.clone()]), "group \"features\" is there twice");
        assert_eq!(said(&[group("a", &["cpu:0"])]), "group \"a\" has 1 devices; 2 to 16 are expected");
        assert_eq!(said(&[group("a", &["cpu:0", "cpu:1", "cpu:0"])]), "group \"a\": cpu:0 is in it twice");
        assert!(said(&[group("A", &["cpu:0", "cpu:1"])]).contains("the name must have"));
        assert!(said(&vec![good.clone(); 9]).starts_with("9 groups; at most 8"));
        let slow = GroupSpec { wait_ms_max: 60_001, ..good.clone() };
        assert_eq!(said(&[slow]), "group \"features\": wait_ms_max is 60001; 50 to 60000 is expected");
        assert!(said(&[GroupSpec { pulse_values: 0, ..good.clone() }]).contains("pulse_values is 0; 1 to 262144"));
        assert!(said(&[GroupSpec { pulse_ms: 99, ..good }]).contains("pulse_ms is 99; 100 to 3600000"));
    }

    #[test]
    fn devices_decide_how_a_group_is_connected() {
        let devices = [
            device("cuda:0", Some("GPU-a")),
            device("cuda:1", Some("GPU-b")),
            device("cuda:2", Some("MIG-c")),
            device("cpu:0", None),
        ];
        let of = |group: GroupSpec| plan(&[group], &devices).map(|plans| plans[0].plan.link);
        assert_eq!(of(group("a", &["cuda:0", "cuda:1"])), Ok(Link::Nccl));
        assert_eq!(of(group("a", &["cuda:0", "cpu:0"])), Ok(Link::Host));
        let nccl = |devices: &[&str]| GroupSpec { transport: GroupLink::Nccl, ..group("a", devices) };
        assert!(of(nccl(&["cuda:0", "cpu:0"])).unwrap_err().to_string().contains("cpu:0 is no GPU"));
        let slice = of(group("a", &["cuda:0", "cuda:2"])).unwrap_err().to_string();
        assert!(slice.contains("cuda:2 is a slice of a GPU") && slice.contains("transport = \"host\""), "{slice}");
        let host = GroupSpec { transport: GroupLink::Host, ..group("a", &["cuda:0", "cuda:2"]) };
        assert_eq!(of(host), Ok(Link::Host));
        let unknown = of(group("a", &["cuda:0", "cuda:9"])).unwrap_err().to_string();
        assert_eq!(unknown, "group \"a\": there is no device cuda:9; there are cuda:0, cuda:1, cuda:2, cpu:0");
    }
}
