//! What can be wrong with a GPU, each in one line that says what to do. Pure: error codes and texts in, a fault out.

use std::path::PathBuf;

use thiserror::Error;

/// Oldest CUDA that the libraries here run on, as drivers count: 13.0.
const CUDA_VERSION_MIN: i32 = 13_000;

// Codes of the driver's interface (CUresult) that mean something to whoever runs a node.
const OUT_OF_MEMORY: u32 = 2;
const STUB_LIBRARY: u32 = 34;
const DEVICE_UNAVAILABLE: u32 = 46;
const NO_DEVICE: u32 = 100;
const INVALID_DEVICE: u32 = 101;
const SYSTEM_NOT_READY: u32 = 802;
const SYSTEM_DRIVER_MISMATCH: u32 = 803;
const COMPAT_NOT_SUPPORTED: u32 = 804;
/// `cudaErrorInsufficientDriver`, the one code that means something here and is the runtime library's alone.
const INSUFFICIENT_DRIVER: u32 = 35;
/// Codes after which every further call of the process fails, as the driver's header says of each: uncorrectable memory
/// errors (214), links (220), faults that the GPU contained (226), hardware exceptions (700, 702, 709, 710, 714 to 719:
/// illegal addresses and instructions, faults of the hardware, launches that failed), tensor memory that leaked (721).
const STICKY: [u32; 14] = [214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721];

/// Why a GPU cannot be used, or not any more.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GpuFault {
    #[error(
        "no NVIDIA driver: libcuda.so.1 is not on this machine or in this container; install driver 580 or newer, or give \
         the container its GPUs"
    )]
    NoDriver,
    #[error("the NVIDIA driver runs CUDA {found} and 13.0 is needed; install driver 580 or newer")]
    DriverTooOld { found: String },
    #[error("{library} is not found; install {package}, and name its folder in LD_LIBRARY_PATH")]
    LibraryMissing { library: String, package: &'static str },
    #[error(
        "ONNX Runtime's CUDA provider is not in {}; give the library of onnxruntime-gpu with --onnxruntime-gpu, with its \
         providers beside it", file.display()
    )]
    ProviderMissing { file: PathBuf },
    #[error("TensorRT is not used, CUDA's provider is: {reason}; or set gpu_provider = \"cuda\"")]
    TensorRt { reason: String },
    #[error(
        "GPU {uuid} is not there for this process; sensorium hardware shows those that are, and MIG slices may have changed"
    )]
    NotFound { uuid: String },
    #[error(
        "GPU {uuid} is taken by another process in exclusive mode; end that process, or let several use the GPU (nvidia-smi -c 0)"
    )]
    Busy { uuid: String },
    #[error(
        "the GPUs of this machine are not ready (CUDA error 802): where they are joined by NVSwitch, NVIDIA's fabric manager \
         must run, in the driver's version"
    )]
    NotReady,
    #[error(
        "out of GPU memory while {during}; load fewer models, lower their batch_max, or end what else uses the GPU"
    )]
    OutOfMemory { during: String },
    #[error(
        "over the quota of GPU memory: the {lane} lane's models take {used_mib} MiB and may take {quota_mib}; load fewer \
         models or raise gpu_quota_mib"
    )]
    OverQuota { lane: &'static str, used_mib: u64, quota_mib: u64 },
    /// Nothing of this process will run on the GPU again.
    #[error("the GPU failed for this process (CUDA error {code} while {during}); the process is replaced")]
    Broken { code: u32, during: String },
    #[error("CUDA error {code} while {during}")]
    Other { code: u32, during: String },
}

impl GpuFault {
    /// What an error code of the driver means. `uuid` is the GPU's.
    #[must_use]
    pub fn of_code(code: u32, during: &str, uuid: &str) -> Self {
        let during = during.to_owned();
        let uuid = uuid.to_owned();
        match code {
            OUT_OF_MEMORY => Self::OutOfMemory { during },
            STUB_LIBRARY => Self::NoDriver,
            DEVICE_UNAVAILABLE => Self::Busy { uuid },
            NO_DEVICE | INVALID_DEVICE => Self::NotFound { uuid },
            SYSTEM_NOT_READY => Self::NotReady,
            INSUFFICIENT_DRIVER => Self::DriverTooOld { found: "older than the CUDA libraries want".to_owned() },
            SYSTEM_DRIVER_MISMATCH | COMPAT_NOT_SUPPORTED => {
                Self::DriverTooOld { found: "of another version than its kernel module's".to_owned() }
            }
            code if STICKY.contains(&code) => Self::Broken { code, during },
            code => Self::Other { code, during },
        }
    }

    /// What a message of ONNX Runtime says about the GPU; `None` when it is about something else.
    #[must_use]
    pub fn of_text(message: &str, during: &str, uuid: &str) -> Option<Self> {
        if let Some(code) = code_in(message) {
            return Some(Self::of_code(code, during, uuid));
        }
        let lower = message.to_ascii_lowercase();
        if lower.contains("cannot open shared object file") {
            let library = lower.split_whitespace().find(|word| word.starts_with("lib") && word.contains(".so"))?;
            let library = library.trim_end_matches(':').to_owned();
            return Some(Self::LibraryMissing { library, package: "the CUDA 13 libraries and cuDNN 9" });
        }
        // The arena's own words, when its limit is reached, and cuDNN's and cuBLAS's.
        let memory = ["failed to allocate memory", "is smaller than requested bytes", "alloc_failed", "out of memory"];
        memory.iter().any(|part| lower.contains(part)).then(|| Self::OutOfMemory { during: during.to_owned() })
    }

    /// Whether the process must be replaced before the GPU can be used again.
    #[must_use]
    pub const fn is_sticky(&self) -> bool {
        matches!(self, Self::Broken { .. })
    }
}

/// That the driver is new enough. `version` is as the driver says it: 13000 is 13.0.
///
/// # Errors
/// [`GpuFault::DriverTooOld`].
pub fn check_driver_version(version: i32) -> Result<(), GpuFault> {
    if version >= CUDA_VERSION_MIN {
        return Ok(());
    }
    Err(GpuFault::DriverTooOld { found: format!("{}.{}", version / 1000, version % 1000 / 10) })
}

/// The code in `CUDA failure 700: an illegal memory access was encountered`, as ONNX Runtime writes it.
fn code_in(message: &str) -> Option<u32> {
    let rest = ["CUDA failure ", "CUDA error "].iter().find_map(|start| message.split_once(start))?.1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_to_do() {
        let of = |code| GpuFault::of_code(code, "opening it", "GPU-1");
        assert!(matches!(of(2), GpuFault::OutOfMemory { .. }));
        assert_eq!(of(46), GpuFault::Busy { uuid: "GPU-1".to_owned() });
        assert_eq!(of(100), GpuFault::NotFound { uuid: "GPU-1".to_owned() });
        assert_eq!(of(101), of(100));
        assert_eq!(of(34), GpuFault::NoDriver);
        for code in STICKY {
            assert!(of(code).is_sticky(), "{code}");
        }
        // Host memory that is registered already, or is not: the process goes on after either.
        assert!(!of(712).is_sticky() && !of(713).is_sticky());
        assert_eq!(of(802), GpuFault::NotReady);
        assert!(of(35).to_string().contains("driver 580"), "{}", of(35));
        assert!(!of(1).is_sticky() && !of(2).is_sticky());
        assert_eq!(of(1).to_string(), "CUDA error 1 while opening it");
    }

    #[test]
    fn old_drivers_are_told_by_their_version() {
        assert!(check_driver_version(13_000).is_ok() && check_driver_version(13_010).is_ok());
        let message = check_driver_version(12_080).unwrap_err().to_string();
        assert!(message.contains("CUDA 12.8") && message.contains("580"), "{message}");
    }

    #[test]
    fn texts_of_the_runtime_are_understood() {
        let of = |text| GpuFault::of_text(text, "running it", "GPU-1");
        let sticky =
            of("Non-zero status code returned while running Conv node. CUDA failure 700: an illegal memory access \
                         was encountered ; GPU=0 ; hostname=h ; expr=cudaStreamSynchronize");
        assert_eq!(sticky, Some(GpuFault::Broken { code: 700, during: "running it".to_owned() }));
        for text in [
            "CUDA failure 2: out of memory ; GPU=0",
            "Available memory of 1048576 is smaller than requested bytes of 16777216",
            "Failed to allocate memory for requested buffer of size 4096",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        ] {
            assert!(matches!(of(text), Some(GpuFault::OutOfMemory { .. })), "{text}");
        }
        let missing =
            of("Failed to load library libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open \
                          shared object file: No such file or directory");
        assert!(matches!(&missing, Some(GpuFault::LibraryMissing { .. })), "{missing:?}");
        // As version 1.31.1 words it, with the code behind the names of two files.
        let none = of(
            "/onnxruntime_src/cuda_execution_provider_info.cc:63 [ONNXRuntimeError] : 1 : FAIL : Failed to parse \
                       provider option \"device_id\": CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; line=70",
        );
        assert_eq!(none, Some(GpuFault::NotFound { uuid: "GPU-1".to_owned() }));
        // cuDNN's and cuBLAS's own words hold no code of CUDA: only the driver can say what is behind them.
        assert_eq!(of("CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=h"), None);
        assert_eq!(of("CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=h"), None);
        assert_eq!(of("Got invalid dimensions for input: x"), None);
        assert_eq!(of("CUDA failure : "), None);
    }

    #[test]
    fn every_sentence_is_one_line() {
        for fault in [
            GpuFault::NoDriver,
            GpuFault::DriverTooOld { found: "12.4".to_owned() },
            GpuFault::LibraryMissing { library: "libcudnn.so.9".to_owned(), package: "cuDNN 9" },
            GpuFault::ProviderMissing { file: "/nowhere/x.so".into() },
            GpuFault::TensorRt { reason: "libnvinfer.so.10 is not found".to_owned() },
            GpuFault::NotFound { uuid: "GPU-1".to_owned() },
            GpuFault::Busy { uuid: "GPU-1".to_owned() },
            GpuFault::NotReady,
            GpuFault::OverQuota { lane: "visual", used_mib: 5000, quota_mib: 4096 },
        ] {
            let text = fault.to_string();
            assert!(!text.contains('\n') && !text.contains("  ") && text.len() < 240, "{text}");
        }
    }
}
