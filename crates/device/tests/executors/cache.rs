//! Where setup put models, media and the runtime.

use std::path::PathBuf;

use sensorium_device::backend::CpuBackend;
use sensorium_models::{ModelPackage, Repository};

/// `$SENSORIUM_CACHE`, or `~/.cache/sensorium`.
pub(crate) fn cache() -> PathBuf {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("SENSORIUM_CACHE")
        .or_else(|| Some(of("HOME")?.join(".cache/sensorium")))
        .expect("SENSORIUM_CACHE or HOME says where the cache is")
}

/// A file of the cache, which must be there.
pub(crate) fn cached(path: &str) -> PathBuf {
    let file = cache().join(path);
    assert!(file.exists(), "{} is not there; run ops/setup", file.display());
    file
}

/// The root of the source tree.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The processor: with the library that the stand-in for a GPU has, in a process that it is in.
pub(crate) fn cpu() -> CpuBackend {
    let standin = std::env::var_os("STANDIN_FOLDER").map(|folder| PathBuf::from(folder).join("libonnxruntime.so"));
    let library = standin.unwrap_or_else(|| cached("lib/libonnxruntime.so"));
    CpuBackend::open(&library).unwrap()
}

/// One of the project's own models.
pub(crate) fn package(name: &str) -> ModelPackage {
    let repository = Repository::open(&[root().join("cluster/models")], &cached("models")).unwrap();
    assert!(repository.broken.is_empty(), "{:?}", repository.broken);
    repository.models.get(name).unwrap_or_else(|| panic!("there is no model {name}")).clone()
}
