//! The stand-in as a library under the names that it is looked for by, and processes that use it.

use std::fs;
use std::mem::offset_of;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ort::sys::OrtApi;
use sha2::{Digest, Sha256};

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

/// What the stand-in is made of.
const PARTS: [&str; 16] = [
    "driver.cpp",
    "driver/copies.cpp",
    "driver/device_memory.cpp",
    "driver/host_memory.cpp",
    "driver/modules.cpp",
    "driver/order.cpp",
    "driver/streams.cpp",
    "kernels.cpp",
    "kernels/threads.cpp",
    "nccl.cpp",
    "onnxruntime.cpp",
    "onnxruntime/bindings.cpp",
    "onnxruntime/runs.cpp",
    "onnxruntime/session_memory.cpp",
    "onnxruntime/sessions.cpp",
    "standin.cpp",
];
/// Kernels without contraction, as the twins are compiled.
const ARGUMENTS: [&str; 7] = ["-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-pthread", "-w", "-c"];

/// The folder with the stand-in under all its names. It is kept between runs, under the digest of all that it is made of.
pub(crate) fn folder() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folders = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = folders.join(format!("standin-{}", &digest()[..16]));
        if !folder.is_dir() {
            let made = tempfile::tempdir_in(folders).unwrap();
            build(made.path());
            // Whole, or not at all; another process that was quicker made the same.
            if let Err(error) = fs::rename(made.path(), &folder) {
                assert!(folder.is_dir(), "{}: {error}", folder.display());
            }
        }
        folder
    })
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin")
}

/// Hexadecimal digits of everything that the library follows from, but the compiler.
fn digest() -> String {
    let mut digest = Sha256::new();
    for folder in [sources(), sources().join("../../kernels")] {
        for file in files(&folder).iter().filter(|file| file.extension().is_some_and(|extension| extension != "rs")) {
            digest.update(fs::read(file).unwrap());
        }
    }
    for argument in places().iter().map(String::as_str).chain(ARGUMENTS).chain(NAMES).chain(PARTS) {
        digest.update(argument);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The files of a folder and of those in it, in an order that is always the same.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().flat_map(|entry| if entry.is_dir() { files(&entry) } else { vec![entry] }).collect()
}

fn build(folder: &Path) {
    let compile = |part: &str| {
        let object = folder.join(part.replace('/', "-")).with_extension("o");
        let compiler = Command::new("c++")
            .args(ARGUMENTS)
            .args(places())
            .arg(sources().join(part))
            .arg("-o")
            .arg(&object)
            .spawn()
            .expect("a C++ compiler (c++) is installed; run ops/setup");
        (compiler, object)
    };
    let objects = PARTS.map(compile).map(|(mut compiler, object)| {
        assert!(compiler.wait().unwrap().success(), "{} does not compile", object.display());
        object
    });
    let library = folder.join("libstandin.so");
    let linked =
        Command::new("c++").args(["-shared", "-pthread", "-o"]).arg(&library).args(objects).arg("-ldl").status();
    assert!(linked.unwrap().success(), "the stand-in does not link");
    // One library under many names: one state.
    for name in NAMES {
        symlink("libstandin.so", folder.join(name)).unwrap();
    }
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
