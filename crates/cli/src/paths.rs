//! Where things lie on this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use directories::ProjectDirs;
use sensorium_client::{Client, ClientConfig};
use sensorium_device::backend::cuda::KernelSetup;
use sensorium_device::cuda::compile::NvrtcSearch;
use sensorium_node::DataDirectory;

use crate::arguments::{Places, Reach};

/// Folders and files, each with its default.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) data: DataDirectory,
    pub(crate) cache: PathBuf,
    pub(crate) onnxruntime: PathBuf,
    pub(crate) onnxruntime_gpu: PathBuf,
    /// NVRTC, where it was named.
    pub(crate) nvrtc: Option<PathBuf>,
    pub(crate) repositories: Vec<PathBuf>,
    /// They were given on the command line or in the environment.
    pub(crate) repositories_given: bool,
}

impl Paths {
    pub(crate) fn new(places: &Places) -> Self {
        let standard = ProjectDirs::from("", "", "sensorium");
        let folder = |given: &Option<PathBuf>, pick: fn(&ProjectDirs) -> &Path| {
            given.clone().or_else(|| standard.as_ref().map(|dirs| pick(dirs).to_owned()))
        };
        let data = folder(&places.data, ProjectDirs::data_dir).unwrap_or_else(|| PathBuf::from("sensorium-data"));
        let cache = folder(&places.cache, ProjectDirs::cache_dir).unwrap_or_else(|| PathBuf::from("sensorium-cache"));
        let onnxruntime = places.onnxruntime.clone().unwrap_or_else(|| cache.join("lib/libonnxruntime.so"));
        let onnxruntime_gpu = places.onnxruntime_gpu.clone().unwrap_or_else(|| cache.join("lib/gpu/libonnxruntime.so"));
        let repositories = if places.models.is_empty() { standard_repository() } else { places.models.clone() };
        let repositories_given = !places.models.is_empty();
        let (data, nvrtc) = (DataDirectory::new(&data), places.nvrtc.clone());
        Self { data, cache, onnxruntime, onnxruntime_gpu, nvrtc, repositories, repositories_given }
    }

    /// Where GPUs' kernels are compiled and kept.
    pub(crate) fn kernels(&self) -> KernelSetup {
        let nvrtc = NvrtcSearch { named: self.nvrtc.clone(), cache: Some(self.cache.clone()) };
        KernelSetup { nvrtc, folder: self.cache.join("kernels") }
    }

    /// Where model files are that do not lie beside their manifest.
    pub(crate) fn weights(&self) -> PathBuf {
        self.cache.join("models")
    }

    /// Connects to a node of those that are meant.
    pub(crate) async fn connect(&self, reach: &Reach) -> anyhow::Result<Client> {
        let addresses = self.addresses(reach)?;
        let bundle = reach.bundle.clone().unwrap_or_else(|| self.data.certificates().join("client"));
        let config = ClientConfig::from_bundle_many(&bundle, addresses)
            .with_context(|| format!("a client bundle is needed in {} (--bundle)", bundle.display()))?;
        Ok(Client::connect(config).await?)
    }

    fn addresses(&self, reach: &Reach) -> anyhow::Result<Vec<SocketAddr>> {
        if !reach.nodes.is_empty() {
            return Ok(reach.nodes.clone());
        }
        match self.data.find_node()? {
            Some(node) => Ok(vec![node.api]),
            None => bail!(
                "no node runs on the data directory {}; start one with: sensorium node (or give --node ADDR)",
                self.data.root().display()
            ),
        }
    }
}

/// The repository that comes with the project: `cluster/models` below the current folder, or beside the binary's build
/// tree.
fn standard_repository() -> Vec<PathBuf> {
    let below = Path::new("cluster/models");
    let here = std::env::current_dir().ok();
    let binary = std::env::current_exe().ok();
    let starts = here.iter().map(PathBuf::as_path).chain(binary.iter().flat_map(|path| path.ancestors().skip(1)));
    starts.map(|start| start.join(below)).find(|path| path.is_dir()).into_iter().collect()
}
