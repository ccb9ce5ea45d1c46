//! Which devices may run which model. By default all of a kind that the manifest allows: data parallel.

use std::collections::BTreeMap;

use sensorium_hardware::{DeviceKind, DevicePlan};
use sensorium_models::{Manifest, ModelPackage, manifest};

use crate::config::{ConfigError, NodeConfig};

/// Models that are not for all devices, each with the names of those that may run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins(BTreeMap<String, Vec<String>>);

impl Pins {
    /// What the configuration and the manifests say together, checked against the machine: the configuration comes first,
    /// and is about this machine, so that every device in it must be there. A manifest may go with several machines: of its
    /// devices one must be there.
    ///
    /// # Errors
    /// [`ConfigError::Pin`], with the model, what is wrong and what there is.
    pub(crate) fn new(
        config: &NodeConfig,
        packages: &[ModelPackage],
        devices: &[DevicePlan],
    ) -> Result<Self, ConfigError> {
        let wrong = |model: &str, reason: String| Err(ConfigError::Pin { model: model.to_owned(), reason });
        let names: Vec<&str> = packages.iter().map(|package| package.manifest.name.as_str()).collect();
        if let Some(unknown) = config.pin.keys().find(|name| !names.contains(&name.as_str())) {
            return wrong(unknown, format!("there is no such model; this node loads {}", names.join(", ")));
        }
        let mut pins = BTreeMap::new();
        for manifest in packages.iter().map(|package| &package.manifest) {
            let (asked, all_needed) = match config.pin.get(&manifest.name) {
                Some(asked) => (asked, true),
                None => (&manifest.placement.pin, false),
            };
            if asked.is_empty() {
                continue;
            }
            let mut there = Vec::new();
            for name in asked {
                let Some(device) = devices.iter().find(|device| device.name == *name) else {
                    if all_needed {
                        return wrong(&manifest.name, no_device(name, devices));
                    }
                    continue;
                };
                if !runs_on(manifest, device) {
                    let kinds = "its manifest's placement.devices has no such kind of device";
                    return wrong(&manifest.name, format!("{name} may not run it: {kinds}"));
                }
                there.push(name.clone());
            }
            if there.is_empty() {
                return wrong(&manifest.name, no_device(&asked.join(", "), devices));
            }
            pins.insert(manifest.name.clone(), there);
        }
        Ok(Self(pins))
    }

    /// Whether a device may run a model, by its kind and by name.
    pub(crate) fn allow(&self, manifest: &Manifest, device: &DevicePlan) -> bool {
        runs_on(manifest, device) && self.0.get(&manifest.name).is_none_or(|devices| devices.contains(&device.name))
    }

    /// The pinned models, by name.
    pub(crate) fn into_shown(self) -> BTreeMap<String, Vec<String>> {
        self.0
    }
}

fn no_device(name: &str, devices: &[DevicePlan]) -> String {
    let known: Vec<_> = devices.iter().map(|device| device.name.as_str()).collect();
    format!("there is no device {name}; this node has {}", known.join(", "))
}

/// Whether a device is of a kind that the manifest allows.
fn runs_on(manifest: &Manifest, device: &DevicePlan) -> bool {
    let kind = match device.kind {
        DeviceKind::Cuda { .. } => manifest::DeviceKind::Cuda,
        DeviceKind::Cpu => manifest::DeviceKind::Cpu,
    };
    manifest.placement.devices.contains(&kind)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn device(name: &str) -> DevicePlan {
        let kind = match name.strip_prefix("cuda:") {
            Some(gpu) => DeviceKind::Cuda { gpu: gpu.parse().unwrap(), uuid: format!("GPU-{gpu}") },
            None => DeviceKind::Cpu,
        };
        DevicePlan {
            name: name.to_owned(),
            kind,
            numa_node: None,
            cpus: vec![0],
            threads: 1,
            memory_bytes: 1 << 30,
            host_memory_bytes: 1 << 30,
        }
    }

    /// A model without a network, with these lines in its placement.
    fn package(name: &str, placement: &str) -> ModelPackage {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join(name);
        std::fs::create_dir(&model).unwrap();
        let text = format!(
            "name = \"{name}\"\nversion = 1\nmodality = \"visual\"\ndescription = \"x\"\nsource = \"x\"\nlicence = \"MIT\"\n\
             [placement]\n{placement}\n[prepare]\nstep = \"tensor\"\n[interpret]\nstep = \"identity\"\n"
        );
        std::fs::write(model.join("model.toml"), text).unwrap();
        ModelPackage::open(&model, Path::new("weights")).unwrap()
    }

    fn pins(pin: &[(&str, &[&str])], placement: &str) -> Result<Pins, ConfigError> {
        let names = |devices: &&[&str]| devices.iter().map(|name| (*name).to_owned()).collect();
        let pin = pin.iter().map(|(model, devices)| ((*model).to_owned(), names(devices))).collect();
        let config = NodeConfig { pin, ..NodeConfig::default() };
        let packages = [package("one", placement), package("two", "")];
        Pins::new(&config, &packages, &["cuda:0", "cuda:1", "cpu:0"].map(device))
    }

    #[test]
    fn without_pins_every_device_of_a_kind_that_is_allowed_runs_a_model() {
        let none = pins(&[], "devices = [\"cuda\"]").unwrap();
        let one = package("one", "devices = [\"cuda\"]").manifest;
        let may = |pins: &Pins| ["cuda:0", "cuda:1", "cpu:0"].map(|name| pins.allow(&one, &device(name)));
        assert_eq!(may(&none), [true, true, false]);
        assert_eq!(may(&pins(&[("one", &["cuda:1"])], "").unwrap()), [false, true, false]);
        let by_manifest = pins(&[], "pin = [\"cuda:0\", \"cuda:7\"]").unwrap();
        assert_eq!(may(&by_manifest), [true, false, false], "a manifest may name devices of other machines");
        let overridden = pins(&[("one", &["cuda:1"])], "pin = [\"cuda:0\"]").unwrap();
        assert_eq!(may(&overridden), [false, true, false]);
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let error = |pin: &[(&str, &[&str])], placement| pins(pin, placement).unwrap_err().to_string();
        assert_eq!(error(&[("three", &["cuda:0"])], ""), "pin.three: there is no such model; this node loads one, two");
        let no_device = "there is no device cuda:2; this node has cuda:0, cuda:1, cpu:0";
        assert_eq!(error(&[("one", &["cuda:0", "cuda:2"])], ""), format!("pin.one: {no_device}"));
        assert_eq!(error(&[], "pin = [\"cuda:2\"]"), format!("pin.one: {no_device}"));
        let kind = error(&[("one", &["cpu:0"])], "devices = [\"cuda\"]");
        assert!(kind.starts_with("pin.one: cpu:0 may not run it"), "{kind}");
    }
}
