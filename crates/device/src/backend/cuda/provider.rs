//! Which of ONNX Runtime's providers computes on a GPU: CUDA's, or TensorRT's where it is asked for and installed.
//!
//! TensorRT compiles each network for the GPU that it finds, for a range of batch sizes, which takes from seconds to
//! minutes; what it made is kept in a folder and found again. It gets the networks that promise to be on the GPU as a whole
//! and whose shapes are known; CUDA's provider computes all others, and what TensorRT does not know.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sensorium_models::manifest::{Compute, Dim, TensorEntry};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::driver;
use super::fault::GpuFault;
use crate::backend::LoadOptions;

/// File name of ONNX Runtime's TensorRT provider, which lies beside its library.
const PROVIDER: &str = "libonnxruntime_providers_tensorrt.so";
/// What that provider needs, those that others need first.
const LIBRARIES: [&str; 3] = ["libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10"];

/// A provider of ONNX Runtime for GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuProvider {
    /// NVIDIA's libraries operator by operator. Loads in seconds.
    #[default]
    Cuda,
    /// TensorRT, where it is installed.
    Tensorrt,
}

/// How a process's networks are computed on its GPU, settled once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) provider: GpuProvider,
    /// Where TensorRT keeps what it compiled.
    pub(super) engines: PathBuf,
    /// Why it is another provider than was asked for.
    pub(super) note: Option<String>,
}

impl Chosen {
    /// `library` is ONNX Runtime's; `engines` is made if it is not there.
    ///
    /// TensorRT that cannot be used is no reason to leave a GPU idle: CUDA's provider takes its place, and `note` says so.
    pub(super) fn new(wanted: GpuProvider, library: &Path, engines: &Path) -> Self {
        let missing = match wanted {
            GpuProvider::Cuda => None,
            GpuProvider::Tensorrt => check_tensorrt(library, engines).err(),
        };
        let provider = if missing.is_some() { GpuProvider::Cuda } else { wanted };
        Self { provider, engines: engines.to_owned(), note: missing.map(|missing| missing.to_string()) }
    }
}

/// That TensorRT can be used: its provider is beside ONNX Runtime's library, its own libraries load, and there is a folder for
/// what it compiles.
fn check_tensorrt(library: &Path, engines: &Path) -> Result<(), GpuFault> {
    let unusable = |reason: String| GpuFault::TensorRt { reason };
    let library = library.canonicalize().unwrap_or_else(|_| library.to_owned());
    let provider = library.with_file_name(PROVIDER);
    if !provider.is_file() {
        return Err(unusable(format!("{} does not exist; it comes with onnxruntime-gpu", provider.display())));
    }
    if let Some(missing) = driver::missing(LIBRARIES) {
        return Err(unusable(format!(
            "{missing} is not found; install TensorRT 10 for CUDA 13, and name its folder in LD_LIBRARY_PATH"
        )));
    }
    std::fs::create_dir_all(engines).map_err(|error| unusable(format!("{} cannot be made: {error}", engines.display())))
}

/// The folder below `engines` for what is compiled of `file` on this GPU; it is made. The provider names what it compiled
/// after the graph, not the weights, and workers of several GPUs would write the same file at once.
///
/// # Errors
/// When the file cannot be read, or the folder not be made.
pub(super) fn engines_of(engines: &Path, gpu: &str, file: &Path) -> io::Result<PathBuf> {
    let mut digest = Sha256::new();
    io::copy(&mut File::open(file)?, &mut digest)?;
    let gpu = if gpu.is_empty() { "first" } else { gpu };
    let folder = engines.join(gpu.replace('/', "-")).join(format!("{:x}", digest.finalize()));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The batch sizes that TensorRT is to compile a network for, in its provider's notation: least, most, and what it is tuned
/// for, which is the most. `None` when the network is not for TensorRT.
pub(super) fn profile(options: &LoadOptions<'_>) -> Option<(String, String)> {
    if options.compute != Compute::Gpu || options.inputs.is_empty() {
        return None;
    }
    Some((shapes(options.inputs, 1)?, shapes(options.inputs, options.rows_max)?))
}

/// `name:1x3x416x416`, with commas between inputs; `None` when another dimension than the first varies.
fn shapes(inputs: &[TensorEntry], rows: usize) -> Option<String> {
    let shape = |input: &TensorEntry| {
        let dims: Option<Vec<String>> = input
            .shape
            .iter()
            .enumerate()
            .map(|(at, dim)| match dim {
                Dim::Fixed(size) => Some(size.to_string()),
                Dim::Named(_) => (at == 0).then(|| rows.to_string()),
            })
            .collect();
        Some(format!("{}:{}", input.name, dims?.join("x")))
    };
    Some(inputs.iter().map(shape).collect::<Option<Vec<_>>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use sensorium_models::manifest::FileRole;
    use sensorium_wire::Dtype;

    use super::*;

    fn input(name: &str, shape: &[&str]) -> TensorEntry {
        let dim = |text: &&str| text.parse().map_or_else(|_| Dim::Named((*text).to_owned()), Dim::Fixed);
        let shape = shape.iter().map(dim).collect();
        TensorEntry { name: name.to_owned(), of: FileRole::Network, dtype: Dtype::F32, shape }
    }

    #[test]
    fn networks_that_promise_the_gpu_and_vary_in_rows_only_are_compiled() {
        let inputs = [input("x", &["N", "3", "416", "416"]), input("y", &["1"])];
        let options = LoadOptions { rows_max: 4, compute: Compute::Gpu, inputs: &inputs, ..LoadOptions::default() };
        let expected = ("x:1x3x416x416,y:1".to_owned(), "x:4x3x416x416,y:1".to_owned());
        assert_eq!(profile(&options), Some(expected));
        assert_eq!(profile(&LoadOptions { compute: Compute::Mixed, ..options }), None);
        assert_eq!(profile(&LoadOptions { inputs: &[], ..options }), None, "without shapes nothing can be compiled");
        let free = [input("x", &["N", "L"])];
        assert_eq!(profile(&LoadOptions { inputs: &free, ..options }), None);
    }

    #[test]
    fn other_weights_and_other_gpus_have_folders_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old.onnx"), folder.path().join("new.onnx"));
        fs::write(&old, "weights").unwrap();
        fs::write(&new, "others").unwrap();
        let of = |gpu: &str, file: &Path| engines_of(&folder.path().join("engines"), gpu, file).unwrap();
        let folders = [of("GPU-1", &old), of("GPU-1", &new), of("GPU-2", &old)];
        assert!(folders.iter().all(|folder| folder.is_dir()));
        assert!(folders[0] != folders[1] && folders[0] != folders[2]);
        assert_eq!(of("GPU-1", &old), folders[0]);
        assert!(engines_of(folder.path(), "GPU-1", Path::new("/nowhere/x.onnx")).is_err());
    }

    #[test]
    fn without_tensorrt_a_sentence_says_what_is_missing_and_cuda_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (library, engines) = (folder.path().join("libonnxruntime.so"), folder.path().join("engines"));
        fs::write(&library, "").unwrap();
        let asked = || Chosen::new(GpuProvider::Tensorrt, &library, &engines);
        assert_eq!(Chosen::new(GpuProvider::Cuda, &library, &engines).note, None);
        let chosen = asked();
        assert_eq!(chosen.provider, GpuProvider::Cuda);
        let note = chosen.note.unwrap();
        assert!(note.contains("libonnxruntime_providers_tensorrt.so does not exist"), "{note}");
        assert!(note.contains("gpu_provider") && !note.contains('\n'), "{note}");
        fs::write(folder.path().join(PROVIDER), "").unwrap();
        if let Some(missing) = driver::missing(LIBRARIES) {
            let note = asked().note.unwrap();
            assert!(note.contains(missing) && note.contains("install TensorRT 10"), "{note}");
        } else {
            assert_eq!((asked().provider, engines.is_dir()), (GpuProvider::Tensorrt, true));
        }
    }
}
