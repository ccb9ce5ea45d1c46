//! GPUs: ONNX Runtime's CUDA or TensorRT provider on streams and in memory of our own.
//!
//! A process drives one GPU or slice of a GPU, the only one that it is shown (`CUDA_VISIBLE_DEVICES` with an identifier).
//! Each lane has three streams with the lane's priority: one to compute and one for each way of copying, so that no lane's
//! copies wait for another's computation. A model has a session of its own, whose arena ends at what is left of the
//! lane's quota. See `docs/gpu.md`.
//!
//! An error of the hardware or of a kernel ends the use of the GPU for the whole process: [`Backend::check`] says so, and
//! the process is replaced. Nothing here tries to go on.
#![allow(unsafe_code, reason = "hands a stream to ONNX Runtime, which cannot know how long it lives")]

mod driver;
mod fault;
mod images;
mod inputs;
mod measure;
mod network;
mod provider;
mod share;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaStream, DriverError};
use ort::environment::Environment;
use ort::ep;
use ort::session::Session;
use parking_lot::Mutex;
use sensorium_models::manifest::{Compute, Precision};
use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};

pub use driver::PinnedSlab;
pub use fault::{GpuFault, check_driver_version};
pub use measure::upload_bytes_per_second;
pub use provider::GpuProvider;
pub use share::GpuQuotas;

use self::driver::Streams;
use self::images::CudaImages;
use self::network::CudaNetwork;
use self::provider::Chosen;
use super::placement::{self, Placed};
use super::{Backend, BackendError, CpuBackend, ImageNetwork, ImagePlan, LoadOptions, Network, runtime};
use crate::cuda::cache::{CacheLimits, CubinCache};
use crate::cuda::check::{CheckResult, kernels_against_twins};
use crate::cuda::compile::{Nvrtc, NvrtcSearch};
use crate::cuda::launch::{Kernels, LaunchError};
use crate::cuda::partition::{self, Apart};
use crate::cuda::rates::{self, Rate};
use crate::slab::SharedMemory;

/// File name of ONNX Runtime's CUDA provider, which lies beside its library.
const PROVIDER: &str = "libonnxruntime_providers_cuda.so";
/// Least memory that a model's arena is made with: less is no use to any network.
const ARENA_BYTES_MIN: u64 = 16 << 20;

/// The GPU that a worker drives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuSetup {
    /// `GPU-…`, or `MIG-…` for a slice; as in `sensorium hardware`.
    pub uuid: String,
    /// What models and their buffers may take of its memory.
    pub memory_bytes: u64,
    /// Where host memory for it should come from; `None` = anywhere.
    pub numa_node: Option<u32>,
    pub quotas: GpuQuotas,
    #[serde(default)]
    pub provider: GpuProvider,
    /// Where TensorRT keeps the networks that it compiled; only used with it.
    #[serde(default)]
    pub engines: PathBuf,
    /// For the steps around networks of images; `None` = they are the processor's.
    pub kernels: Option<KernelSetup>,
}

/// Where the kernels of ours come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSetup {
    pub nvrtc: NvrtcSearch,
    /// Folder that keeps their machine code.
    pub folder: PathBuf,
}

impl GpuSetup {
    /// The only GPU of this process, whichever it is, for tests and checks.
    #[must_use]
    pub fn first(memory_bytes: u64) -> Self {
        Self {
            uuid: String::new(),
            memory_bytes,
            numa_node: None,
            quotas: GpuQuotas::default(),
            provider: GpuProvider::Cuda,
            engines: PathBuf::new(),
            kernels: None,
        }
    }

    /// What a process that drives this GPU needs in its environment before it starts.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        // Identifiers, because CUDA numbers GPUs in an order of its own; PCI order all the same, for tools beside us.
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            pair("CUDA_VISIBLE_DEVICES", &self.uuid),
            pair("CUDA_DEVICE_ORDER", "PCI_BUS_ID"),
            // TensorRT, and 32 bits in networks of 16, have no other way to keep all digits of a float.
            pair("NVIDIA_TF32_OVERRIDE", "0"),
        ]
    }
}

/// The GPU of this process.
#[derive(Debug)]
pub struct CudaDevice {
    context: Arc<CudaContext>,
    environment: Environment,
    processor: PathBuf,
    setup: GpuSetup,
    /// `None`: there are none, which was told.
    kernels: Option<Arc<Kernels>>,
    /// Payload memory that it reads by itself.
    slab: OnceLock<Arc<PinnedSlab>>,
    chosen: Chosen,
    /// Why nothing runs on it any more.
    broken: Mutex<Option<String>>,
}

impl CudaDevice {
    /// Opens the GPU that this process is shown and loads ONNX Runtime from `library`, unless that was done before.
    ///
    /// # Errors
    /// [`BackendError::Gpu`] with a line that says what to do, or the errors of [`CpuBackend::open`].
    pub fn open(library: &Path, setup: &GpuSetup) -> Result<Arc<Self>, BackendError> {
        driver::check_driver()?;
        driver::check_libraries()?;
        let provider = library.canonicalize().unwrap_or_else(|_| library.to_owned()).with_file_name(PROVIDER);
        if !provider.is_file() {
            let file = provider.parent().unwrap_or(&provider).to_owned();
            return Err(GpuFault::ProviderMissing { file }.into());
        }
        let environment = runtime::environment(library)?;
        let context = driver::open(&setup.uuid)?;
        let kernels = setup.kernels.as_ref().and_then(|kernels| match load_kernels(&context, kernels) {
            Ok(kernels) => Some(Arc::new(kernels)),
            Err(error) => {
                tracing::warn!(%error, "images are prepared by the processor");
                None
            }
        });
        let (setup, processor) = (setup.clone(), library.to_owned());
        let (slab, broken) = (OnceLock::new(), Mutex::new(None));
        let chosen = Chosen::new(setup.provider, library, &setup.engines);
        Ok(Arc::new(Self { context, environment, processor, setup, kernels, slab, chosen, broken }))
    }

    /// Why it is used in another way than the setup says, in one line.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.chosen.note.as_deref()
    }

    /// Gives the GPU direct access to payload memory, for as long as the value lives.
    ///
    /// # Errors
    /// What the driver says; the memory can be used all the same.
    pub fn register(&self, memory: Arc<SharedMemory>) -> Result<PinnedSlab, GpuFault> {
        PinnedSlab::register(&self.context, memory).map_err(|error| self.fault(error, "registering payload memory"))
    }

    /// The same for as long as the device lives: lanes that are made from here on copy payloads from where they lie.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn read_from(&self, memory: Arc<SharedMemory>) -> Result<(), GpuFault> {
        let slab = Arc::new(self.register(memory)?);
        // A second one is not needed: nobody makes one.
        let _ = self.slab.set(slab);
        Ok(())
    }

    /// For those of this crate that bring streams and memory of their own.
    pub(crate) const fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// What the GPU calls itself.
    ///
    /// # Errors
    /// What the driver says.
    pub fn name(&self) -> Result<String, GpuFault> {
        self.context.name().map_err(|error| self.fault(error, "asking for the GPU's name"))
    }

    /// Runs every kernel of ours beside its twin on the processor.
    ///
    /// # Errors
    /// When NVRTC is not there, or a kernel cannot be compiled or loaded.
    pub fn check_kernels(&self, setup: &KernelSetup) -> Result<Vec<CheckResult>, LaunchError> {
        let kernels = load_kernels(&self.context, setup)?;
        Ok(kernels_against_twins(&self.context, &kernels))
    }

    /// How fast the kernels of ours are, beside copies within the GPU.
    ///
    /// # Errors
    /// When NVRTC is not there, or the GPU refuses something.
    pub fn measure_kernels(&self, nvrtc: &NvrtcSearch, folder: &Path) -> Result<Vec<Rate>, LaunchError> {
        let nvrtc = Nvrtc::open(nvrtc)?;
        let kernels = Kernels::load(&self.context, &nvrtc, &CubinCache::new(folder, CacheLimits::default()))?;
        rates::measure(&self.context, &kernels)
    }

    /// What a stream that fills the GPU does to a small one beside it, for each way of keeping them apart.
    ///
    /// # Errors
    /// When NVRTC is not there, or the GPU refuses something.
    pub fn measure_partition(&self, nvrtc: &NvrtcSearch, folder: &Path) -> Result<Vec<Apart>, LaunchError> {
        let nvrtc = Nvrtc::open(nvrtc)?;
        partition::measure(&self.context, &nvrtc, &CubinCache::new(folder, CacheLimits::default()))
    }

    fn fault(&self, error: DriverError, during: &str) -> GpuFault {
        GpuFault::of_code(driver::code(error), during, &self.setup.uuid)
    }

    fn fault_of_text(&self, message: &str, during: &str) -> Option<GpuFault> {
        GpuFault::of_text(message, during, &self.setup.uuid)
    }

    /// What a failure that ONNX Runtime told of on `stream` means. cuDNN and cuBLAS hide the driver's code behind codes of their own:
    /// whether the process is done with the GPU is then asked of the driver, which waits for the stream.
    fn fault_after(&self, message: &str, during: &str, stream: &CudaStream) -> Option<GpuFault> {
        let told = self.fault_of_text(message, during);
        if told.as_ref().is_some_and(GpuFault::is_sticky) {
            return told;
        }
        let behind = stream.synchronize().err().map(|error| self.fault(error, during));
        behind.filter(GpuFault::is_sticky).or(told)
    }

    fn break_with(&self, fault: &GpuFault) {
        self.broken.lock().get_or_insert_with(|| fault.to_string());
    }

    fn used_bytes(&self) -> Option<u64> {
        let (free, total) = self.context.mem_get_info().ok()?;
        Some(total.saturating_sub(free) as u64)
    }
}

fn load_kernels(context: &Arc<CudaContext>, setup: &KernelSetup) -> Result<Kernels, LaunchError> {
    let nvrtc = Nvrtc::open(&setup.nvrtc)?;
    let cache = CubinCache::new(&setup.folder, CacheLimits::default());
    Kernels::load(context, &nvrtc, &cache)
}

/// A lane's part of the GPU.
struct Lane {
    streams: Streams,
    /// Payload memory that the GPU may copy from.
    slab: Option<Arc<PinnedSlab>>,
    device: Arc<CudaDevice>,
}

/// Networks of one lane on a GPU.
pub struct CudaBackend {
    lane: Arc<Lane>,
    modality: Modality,
    /// For models that are to be computed by the processor.
    processor: CpuBackend,
    quota_bytes: u64,
    /// What the lane's models took when each was loaded.
    used_bytes: AtomicU64,
}

impl CudaBackend {
    /// Makes a lane's streams.
    ///
    /// # Errors
    /// [`BackendError::Gpu`].
    pub fn new(device: &Arc<CudaDevice>, modality: Modality) -> Result<Self, BackendError> {
        let streams = Streams::new(&device.context, |least, greatest| share::priority(modality, least, greatest))
            .map_err(|error| device.fault(error, "making a lane's streams"))?;
        let quota_bytes = device.setup.quotas.bytes(modality, device.setup.memory_bytes);
        let processor = CpuBackend::open(&device.processor)?;
        let lane = Arc::new(Lane { streams, slab: device.slab.get().cloned(), device: Arc::clone(device) });
        Ok(Self { lane, modality, processor, quota_bytes, used_bytes: AtomicU64::new(0) })
    }

    /// The batch sizes to compile a network for; `None` = TensorRT does not get it.
    fn compiled(&self, options: &LoadOptions<'_>) -> Option<(String, String)> {
        match self.lane.device.chosen.provider {
            GpuProvider::Cuda => None,
            GpuProvider::Tensorrt => provider::profile(options),
        }
    }

    fn session(&self, file: &Path, arena_bytes: u64, options: &LoadOptions<'_>) -> Result<Session, ort::Error> {
        let arena_bytes = usize::try_from(arena_bytes).unwrap_or(usize::MAX);
        let stream = self.lane.streams.compute.cu_stream().cast::<()>();
        let mut providers = Vec::new();
        if let Some((least, most)) = self.compiled(options) {
            let engines = provider::engines_of(&self.lane.device.chosen.engines, &self.lane.device.setup.uuid, file)
                .map_err(|error| ort::Error::new(format!("TensorRT's folder: {error}")))?;
            let engines = engines.display();
            // SAFETY: as for the provider below.
            let provider = unsafe { ep::TensorRT::default().with_device_id(0).with_compute_stream(stream) }
                .with_max_workspace_size(arena_bytes)
                .with_fp16(options.precision == Precision::Fp16)
                .with_engine_cache(true)
                .with_engine_cache_path(&engines)
                .with_timing_cache(true)
                .with_timing_cache_path(engines)
                .with_profile_min_shapes(least)
                .with_profile_opt_shapes(&most)
                .with_profile_max_shapes(most);
            providers.push(provider.build().error_on_failure());
        }
        // SAFETY: whoever holds the session (a `CudaNetwork`) also holds the lane, and lets go of the session first.
        let provider = unsafe { ep::CUDA::default().with_device_id(0).with_compute_stream(stream) }
            .with_memory_limit(arena_bytes)
            // Doubling would go over the limit where there is still room for what is asked.
            .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
            // Trying out every algorithm takes seconds for each shape, and a worker must be back soon.
            .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
            // A float of 19 bits is not what the CPU computes; answers are to agree. Without it, though, ONNX Runtime takes the tensor cores
            // from convolutions of 16 bits as well: their networks have it, and the environment keeps it from what they
            // compute in 32 bits.
            .with_tf32(options.precision == Precision::Fp16)
            .with_cuda_graph(options.graphs && options.compute == Compute::Gpu);
        providers.push(provider.build().error_on_failure());
        let builder = runtime::builder(&self.lane.device.environment, options.threads)?;
        // Without error_on_failure a missing provider would mean the processor, silently.
        placement::recorded(builder)?.with_execution_providers(providers)?.commit_from_file(file)
    }

    /// The options, without recorded launches where they are not possible.
    fn launched<'a>(&self, options: &LoadOptions<'a>) -> LoadOptions<'a> {
        // TensorRT records launches in a way of its own, which is not used here.
        let graphs = options.graphs && self.compiled(options).is_none();
        LoadOptions { graphs, ..*options }
    }

    /// Loads a network that is to run on the GPU; `around` puts other steps around it, and what both take counts.
    fn load_on_gpu<T>(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        around: impl FnOnce(CudaNetwork) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let file = &file
            .canonicalize()
            .map_err(|error| BackendError::Load { file: file.to_owned(), message: error.to_string() })?;
        let during = format!("loading {}", file.display());
        let failed = |error: ort::Error| {
            let text = error.to_string();
            match self.lane.device.fault_after(&text, &during, &self.lane.streams.compute) {
                Some(fault) => {
                    if fault.is_sticky() {
                        self.lane.device.break_with(&fault);
                    }
                    BackendError::Gpu(fault)
                }
                None => BackendError::Load { file: file.to_owned(), message: text },
            }
        };
        let before = self.lane.device.used_bytes();
        let left = self.quota_bytes.saturating_sub(self.used_bytes.load(Ordering::Relaxed));
        if left < ARENA_BYTES_MIN {
            return Err(self.over_quota(self.quota_bytes - left + ARENA_BYTES_MIN));
        }
        let session = self.session(file, left, options).map_err(failed)?;
        let placed = Placed::of(&placement::assignments(&session).map_err(failed)?);
        tracing::info!(file = %file.display(), "{}", placed.in_words());
        placed.keeps(options.compute).map_err(|message| BackendError::Misplaced { file: file.to_owned(), message })?;
        let network = around(CudaNetwork::new(file.to_owned(), session, Arc::clone(&self.lane), options, placed)?)?;
        // The arena's limit holds for the arena; what cuDNN and the code itself take is seen only here.
        let grown = before.zip(self.lane.device.used_bytes()).map_or(0, |(before, after)| after.saturating_sub(before));
        let used = self.used_bytes.fetch_add(grown, Ordering::Relaxed) + grown;
        if used > self.quota_bytes {
            self.used_bytes.fetch_sub(grown, Ordering::Relaxed);
            return Err(self.over_quota(used));
        }
        Ok(network)
    }

    fn over_quota(&self, used_bytes: u64) -> BackendError {
        let mib = |bytes: u64| bytes >> 20;
        let lane = self.modality.name();
        GpuFault::OverQuota { lane, used_mib: mib(used_bytes), quota_mib: mib(self.quota_bytes) }.into()
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        match self.lane.device.chosen.provider {
            GpuProvider::Cuda => "cuda",
            GpuProvider::Tensorrt => "tensorrt",
        }
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        if options.compute == Compute::Cpu {
            return self.processor.load(file, options);
        }
        Ok(Box::new(self.load_on_gpu(file, &self.launched(options), Ok)?))
    }

    fn load_images(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        plan: &ImagePlan,
    ) -> Result<Option<Box<dyn ImageNetwork>>, BackendError> {
        let Some(kernels) = self.lane.device.kernels.as_ref().filter(|_| options.compute == Compute::Gpu) else {
            return Ok(None);
        };
        let around =
            |network| CudaImages::new(file, network, &self.lane, kernels, plan, (options.outputs, options.rows_max));
        Ok(Some(Box::new(self.load_on_gpu(file, &self.launched(options), around)?)))
    }

    fn memory_bytes_now(&self) -> Option<u64> {
        self.lane.device.used_bytes()
    }

    fn loads_alone(&self) -> bool {
        // Recording launches fails when another thread allocates meanwhile.
        true
    }

    fn check(&self) -> Result<(), String> {
        match &*self.lane.device.broken.lock() {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    fn access_illegally(&self) -> Result<(), String> {
        let device = &self.lane.device;
        let during = "accessing memory that is not there, as told by [inject]";
        match driver::access_illegally(&self.lane.streams.compute) {
            Ok(()) => Err("the GPU did not mind".to_owned()),
            Err(error) => {
                let fault = device.fault(error, during);
                if !fault.is_sticky() {
                    return Err(fault.to_string());
                }
                device.break_with(&fault);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> GpuSetup {
        GpuSetup { uuid: "GPU-1".to_owned(), ..GpuSetup::first(8 << 30) }
    }

    #[test]
    fn a_worker_is_shown_its_gpu_alone() {
        let environment = setup().environment();
        assert_eq!(environment[0], ("CUDA_VISIBLE_DEVICES".to_owned(), "GPU-1".to_owned()));
        assert_eq!(environment[2], ("NVIDIA_TF32_OVERRIDE".to_owned(), "0".to_owned()));
        assert_eq!(environment[1], ("CUDA_DEVICE_ORDER".to_owned(), "PCI_BUS_ID".to_owned()));
    }

    #[test]
    fn a_machine_without_a_driver_is_a_sentence_and_no_panic() {
        if driver::check_driver().is_ok() {
            return;
        }
        let error = CudaDevice::open(Path::new("/nowhere/libonnxruntime.so"), &setup()).unwrap_err();
        assert!(matches!(error, BackendError::Gpu(GpuFault::NoDriver | GpuFault::DriverTooOld { .. })), "{error}");
    }
}
