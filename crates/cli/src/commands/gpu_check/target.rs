//! What is checked: the first usable GPU, or the processor, to try out the checks themselves.

use std::path::PathBuf;
use std::sync::Arc;

use sensorium_device::backend::cuda::GpuSetup;
use sensorium_device::backend::{Backend, CpuBackend, CudaBackend, CudaDevice};
use sensorium_hardware::DeviceKind;
use sensorium_models::ModelPackage;
use sensorium_models::manifest;
use sensorium_models::repository::Repository;
use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};

use super::checks::Check;
use crate::arguments::CheckedDevice;
use crate::commands::picture;
use crate::paths::Paths;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// `None` = the processor.
    pub(crate) gpu: Option<GpuSetup>,
    name: String,
    pub(crate) library: PathBuf,
    /// Inputs, and a network for PyTorch, to compare with; `None` = none are given.
    pub(crate) reference: Option<PathBuf>,
    /// How long the check may take, in seconds.
    pub(crate) seconds_max: u64,
}

impl Target {
    /// The first GPU of this machine; `None` when there is none.
    pub(crate) fn find(
        paths: &Paths,
        device: CheckedDevice,
        reference: Option<PathBuf>,
    ) -> anyhow::Result<Option<Self>> {
        if device == CheckedDevice::Cpu {
            let library = paths.onnxruntime.clone();
            return Ok(Some(Self { gpu: None, name: "processor".to_owned(), library, reference, seconds_max: 0 }));
        }
        let inventory = sensorium_hardware::probe()?;
        let plan = sensorium_hardware::plan(&inventory, &sensorium_hardware::PlanOptions::default());
        let found = plan.devices.iter().find_map(|device| match &device.kind {
            DeviceKind::Cuda { gpu, uuid } => Some((device, *gpu, uuid.clone())),
            DeviceKind::Cpu => None,
        });
        let Some((device, index, uuid)) = found else {
            if let Some(note) = &inventory.gpu_note {
                println!("{note}");
            }
            return Ok(None);
        };
        let gpu = inventory.gpus.iter().find(|gpu| gpu.index == index);
        let name = gpu.map_or_else(|| uuid.clone(), |gpu| format!("{}, driver {}", gpu.name, gpu.driver_version));
        let setup = GpuSetup {
            uuid,
            numa_node: device.numa_node,
            kernels: Some(paths.kernels()),
            ..GpuSetup::first(device.memory_bytes)
        };
        Ok(Some(Self { gpu: Some(setup), name, library: paths.onnxruntime_gpu.clone(), reference, seconds_max: 0 }))
    }

    pub(crate) const fn kind(&self) -> &'static str {
        if self.gpu.is_some() { "cuda" } else { "cpu" }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn runs(&self, check: &Check) -> bool {
        self.gpu.is_some() || !check.needs_gpu
    }

    /// What a process needs in its environment to use it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        self.gpu.as_ref().map(GpuSetup::environment).unwrap_or_default()
    }

    /// The device, opened once per process.
    pub(crate) fn open(&self) -> anyhow::Result<Opened> {
        let gpu = match &self.gpu {
            Some(setup) => Some(CudaDevice::open(&self.library, setup)?),
            None => None,
        };
        Ok(Opened { gpu, library: self.library.clone() })
    }

    /// A picture with something to be found in it: that of the reference, where there is one.
    pub(crate) fn picture(&self, paths: &Paths) -> anyhow::Result<Vec<u8>> {
        let given = self.reference.as_ref().and_then(|folder| std::fs::read(folder.join("street.jpg")).ok());
        given.map_or_else(|| picture::street(&paths.cache), Ok)
    }

    /// The models that this kind of device runs, by name.
    pub(crate) fn packages(&self, paths: &Paths) -> anyhow::Result<Vec<ModelPackage>> {
        let repository = Repository::open(&paths.repositories, &paths.weights())?;
        let kind = if self.gpu.is_some() { manifest::DeviceKind::Cuda } else { manifest::DeviceKind::Cpu };
        let packages: Vec<_> = repository
            .models
            .into_values()
            .filter(|package| package.manifest.placement.devices.contains(&kind))
            .collect();
        anyhow::ensure!(!packages.is_empty(), "no models in {:?}; give a repository with --models", paths.repositories);
        Ok(packages)
    }

    /// One of them.
    pub(crate) fn package(&self, paths: &Paths, name: &str) -> anyhow::Result<ModelPackage> {
        let found = self.packages(paths)?.into_iter().find(|package| package.manifest.name == name);
        found.ok_or_else(|| anyhow::anyhow!("there is no model {name} in {:?}", paths.repositories))
    }
}

/// An open device.
pub(crate) struct Opened {
    pub(crate) gpu: Option<Arc<CudaDevice>>,
    library: PathBuf,
}

impl Opened {
    /// Networks of one lane on it.
    pub(crate) fn backend(&self, modality: Modality) -> anyhow::Result<Box<dyn Backend>> {
        Ok(match &self.gpu {
            Some(gpu) => Box::new(CudaBackend::new(gpu, modality)?),
            None => Box::new(self.processor()?),
        })
    }

    pub(crate) fn processor(&self) -> anyhow::Result<CpuBackend> {
        Ok(CpuBackend::open(&self.library)?)
    }
}
