//! A backend that notes where the networks that it loads have their operators. It changes nothing else.

use std::path::Path;

use parking_lot::Mutex;

use crate::backend::{Backend, BackendError, ImageNetwork, ImagePlan, LoadOptions, Network, Placed};

/// Around the backend of a lane, while one model is loaded.
pub(super) struct Noting<'a> {
    backend: &'a mut dyn Backend,
    placed: Mutex<Placed>,
}

impl<'a> Noting<'a> {
    pub(super) fn new(backend: &'a mut dyn Backend) -> Self {
        Self { backend, placed: Mutex::default() }
    }

    /// The operators of all networks that were loaded.
    pub(super) fn placed(&self) -> Placed {
        self.placed.lock().clone()
    }
}

impl Backend for Noting<'_> {
    fn name(&self) -> &'static str {
        self.backend.name()
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        let network = self.backend.load(file, options)?;
        if let Some(placed) = network.placed() {
            self.placed.lock().add(placed);
        }
        Ok(network)
    }

    fn load_images(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        plan: &ImagePlan,
    ) -> Result<Option<Box<dyn ImageNetwork>>, BackendError> {
        let network = self.backend.load_images(file, options, plan)?;
        if let Some(placed) = network.as_ref().and_then(|network| network.placed()) {
            self.placed.lock().add(placed);
        }
        Ok(network)
    }

    fn memory_bytes_now(&self) -> Option<u64> {
        self.backend.memory_bytes_now()
    }

    fn loads_alone(&self) -> bool {
        self.backend.loads_alone()
    }

    fn check(&self) -> Result<(), String> {
        self.backend.check()
    }

    fn access_illegally(&self) -> Result<(), String> {
        self.backend.access_illegally()
    }
}
