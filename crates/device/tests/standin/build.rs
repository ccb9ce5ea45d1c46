//! The stand-in as a library under the names that it is looked for by, and processes that use it.

use std::mem::offset_of;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ort::sys::OrtApi;
use tempfile::TempDir;

/// The names that parts of the product look for.
const NAMES: [&str; 9] = [
    "libcuda.so",
    "libnccl.so.2",
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
    "libonnxruntime.so",
    "libonnxruntime_providers_cuda.so",
];

/// Says to the compiler where functions lie in ONNX Runtime's table.
macro_rules! places {
    ($($name:ident),* $(,)?) => {
        vec![$(format!("-DAT_{}={}", stringify!($name), offset_of!(OrtApi, $name) / size_of::<usize>())),*]
    };
}

fn places() -> Vec<String> {
    let mut places = places![
        CreateStatus,
        GetErrorMessage,
        CreateMemoryInfo,
        MemoryInfoGetName,
        CreateSession,
        ReleaseSession,
        CloneSessionOptions,
        ReleaseSessionOptions,
        CreateCUDAProviderOptions,
        UpdateCUDAProviderOptions,
        ReleaseCUDAProviderOptions,
        SessionOptionsAppendExecutionProvider_CUDA_V2,
        Session_GetEpGraphAssignmentInfo,
        EpAssignedSubgraph_GetEpName,
        SessionGetMemoryInfoForInputs,
        CreateAllocator,
        ReleaseAllocator,
        CreateIoBinding,
        ReleaseIoBinding,
        BindInput,
        BindOutput,
        BindOutputToDevice,
        ClearBoundInputs,
        ClearBoundOutputs,
        GetBoundOutputValues,
        RunWithBinding,
        Run,
        AddRunConfigEntry,
        ReleaseRunOptions,
        GetTensorTypeAndShape,
        GetTensorElementType,
        GetDimensionsCount,
        GetDimensions,
        ReleaseTensorTypeAndShapeInfo,
        GetTensorMutableData,
        CreateTensorWithDataAsOrtValue,
        ReleaseValue,
    ];
    places.push(format!("-DTABLE_BYTES={}", size_of::<OrtApi>()));
    places
}

/// The folder with the stand-in under all its names; built once.
pub(crate) fn folder() -> &'static Path {
    static BUILT: OnceLock<TempDir> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin");
        // Kernels without contraction, as the twins are compiled.
        let compile = |part: &str| {
            let object = folder.path().join(part).with_extension("o");
            let child = Command::new("c++")
                .args(["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-pthread", "-w", "-c"])
                .args(places())
                .arg(sources.join(part))
                .arg("-o")
                .arg(&object)
                .spawn()
                .expect("a C++ compiler is installed; run ops/setup");
            (child, object)
        };
        let parts = ["driver.cpp", "kernels.cpp", "nccl.cpp", "onnxruntime.cpp"].map(compile);
        let objects = parts.map(|(mut child, object)| {
            assert!(child.wait().unwrap().success(), "{} does not compile", object.display());
            object
        });
        let library = folder.path().join("libstandin.so");
        let linked =
            Command::new("c++").args(["-shared", "-pthread", "-o"]).arg(&library).args(objects).arg("-ldl").status();
        assert!(linked.unwrap().success(), "the stand-in does not link");
        // One library under many names: one state.
        for name in NAMES {
            symlink(&library, folder.path().join(name)).unwrap();
        }
        folder
    });
    folder.path()
}

/// The library that stands in for ONNX Runtime's for GPUs, in a process that the stand-in is in.
pub(crate) fn onnxruntime() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("STANDIN_FOLDER")?).join("libonnxruntime.so"))
}

/// Where kernels are kept that were compiled for one such process, for the others.
pub(crate) fn cubins() -> PathBuf {
    onnxruntime().unwrap().with_file_name("cubins")
}

/// The cache that `ops/setup` fills.
pub(crate) fn sensorium_cache() -> PathBuf {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("SENSORIUM_CACHE").or_else(|| Some(of("HOME")?.join(".cache/sensorium"))).unwrap()
}

/// Seeds that are tried: the number of them from the environment, or `few`.
pub(crate) fn seeds(few: u64) -> std::ops::Range<u64> {
    let more = std::env::var("SENSORIUM_STANDIN_SEEDS").ok().map(|text| text.parse().unwrap());
    0..more.unwrap_or(few)
}

/// Runs the test `name` of this program in a process of its own with the stand-in, and these variables.
pub(crate) fn with_stand_in(name: &str, seed: u64, variables: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", name])
        .env("LD_LIBRARY_PATH", folder())
        .env("STANDIN_FOLDER", folder())
        .env("STANDIN_ONNXRUNTIME", sensorium_cache().join("lib/libonnxruntime.so"))
        .env("STANDIN_SEED", seed.to_string())
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}, seed {seed}, {variables:?}: {} {text}",
        output.status
    );
}
