//! The models that a node knows, by name and by number.

use std::collections::HashMap;

use sensorium_models::manifest::{Interpret, Manifest, Prepare, TensorEntry};
use sensorium_scheduler::ModelKey;
use sensorium_wire::Modality;

/// What the data path needs to know about a model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    pub key: ModelKey,
    pub name: String,
    pub version: u32,
    pub modality: Modality,
    pub batch_max: u16,
    pub run_ms_max: u32,
    /// Jobs run for so long at a time; 0 = to their end.
    pub slice_ms: u32,
    /// 0 = as long as the payload.
    pub output_bytes_max: u32,
    /// The model that goes on where this one ends.
    pub next: Option<ModelKey>,
    /// It goes on where another ends: nobody submits to it.
    pub is_stage: bool,
    /// Of a stage: the tensor that it is given, in bytes.
    pub input_bytes: u64,
}

impl ModelInfo {
    /// Room for one answer to so long a payload.
    pub(super) fn output_bytes(&self, payload_bytes: u64) -> u64 {
        match self.output_bytes_max {
            0 => payload_bytes.max(1024),
            bytes => u64::from(bytes),
        }
    }
}

/// All models, fixed while the node runs.
#[derive(Default)]
pub struct ModelTable {
    models: Vec<ModelInfo>,
    by_name: HashMap<String, usize>,
}

impl ModelTable {
    pub fn new<'a>(manifests: impl Iterator<Item = &'a Manifest> + Clone) -> Self {
        let mut table = Self::default();
        let key_of = |name: &String| {
            (0_u32..).zip(manifests.clone()).find(|(_, other)| other.name == *name).map(|(number, _)| ModelKey(number))
        };
        for (number, manifest) in (0_u32..).zip(manifests.clone()) {
            table.by_name.insert(manifest.name.clone(), table.models.len());
            let echo = matches!(manifest.interpret, Interpret::Identity { answer_bytes_max: 0 });
            table.models.push(ModelInfo {
                key: ModelKey(number),
                name: manifest.name.clone(),
                version: manifest.version,
                modality: manifest.modality,
                batch_max: manifest.placement.batch_max,
                run_ms_max: manifest.placement.run_ms_max,
                slice_ms: manifest.placement.slice_ms,
                output_bytes_max: if echo { 0 } else { manifest.placement.output_bytes_max },
                next: manifest.next.as_ref().and_then(key_of),
                is_stage: matches!(manifest.prepare, Prepare::Stage { .. }),
                input_bytes: manifest.inputs.first().map_or(0, TensorEntry::row_bytes),
            });
        }
        table
    }

    pub fn find(&self, name: &str) -> Option<&ModelInfo> {
        self.by_name.get(name).map(|at| &self.models[*at])
    }

    pub fn get(&self, key: ModelKey) -> Option<&ModelInfo> {
        self.models.get(key.0 as usize)
    }

    pub fn iter(&self) -> impl Iterator<Item = &ModelInfo> {
        self.models.iter()
    }

    /// The known name nearest to `name`, for error messages.
    pub fn nearest(&self, name: &str) -> Option<&str> {
        let ranked = self.models.iter().map(|model| (strsim::damerau_levenshtein(name, &model.name), &model.name));
        ranked.min().filter(|(distance, _)| *distance <= 3).map(|(_, name)| name.as_str())
    }
}
