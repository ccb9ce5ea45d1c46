//! Which of a model's networks a lane loads, and which times it believes.

use std::path::Path;

use sensorium_models::manifest::Precision;
use sensorium_models::{ServiceProfile, Signature, TensorSpec};
use sensorium_wire::Dtype;
use sensorium_wire::submit::Modality;

use super::super::*;
use crate::backend::{BackendError, LoadOptions, NamedTensor, Network, Tensor, TensorBuffer};

/// A GPU's backend that says which files it was given; its networks answer nothing but zeros.
struct Zeros {
    name: &'static str,
    loaded: parking_lot::Mutex<Vec<(String, Precision)>>,
}

struct Zero(Signature);

impl Backend for Zeros {
    fn name(&self) -> &'static str {
        self.name
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        self.loaded.lock().push((name, options.precision));
        assert_eq!((options.inputs.len(), options.inputs[0].name.as_str()), (1, "x"));
        let spec = |name: &str| TensorSpec { name: name.to_owned(), dtype: Dtype::F32, dims: vec![None, Some(2)] };
        Ok(Box::new(Zero(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] })))
    }
}

impl Network for Zero {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn run(&mut self, inputs: &[NamedTensor<'_>], _: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        let dims = inputs[0].dims.to_vec();
        let data = TensorBuffer::F32(vec![0.0; dims.iter().product()]);
        Ok(vec![Tensor { name: "y".to_owned(), dims, data }])
    }
}

const ZEROS: &str = r#"
name = "zeros"
version = 1
modality = "fusion"
description = "Zeros"
source = "written by hand"
licence = "MIT"
file = [{ role = "network", path = "own.onnx", sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" }]

[[variant]]
name = "fp16"
file = [{ role = "network", path = "half.onnx", sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" }]

[placement]
compute = "gpu"

[[input]]
name = "x"
dtype = "f32"
shape = ["N", 2]

[[output]]
name = "y"
dtype = "f32"
shape = ["N", 2]

[prepare]
step = "tensor"

[interpret]
step = "tensor"
"#;

#[test]
fn the_variant_that_is_asked_for_is_loaded_and_what_is_known_of_another_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("zeros");
    std::fs::create_dir(&model).unwrap();
    for (file, text) in [("model.toml", ZEROS), ("own.onnx", "abc"), ("half.onnx", "abc")] {
        std::fs::write(model.join(file), text).unwrap();
    }
    let load = |backend: &mut Zeros, known: Option<Measured>| {
        let repository = Repository::open(&[folder.path().to_owned()], Path::new("weights")).unwrap();
        let setup = ModelSetup { name: "zeros".to_owned(), precision: Precision::Fp16, known };
        let lane =
            Lane::load(&LaneSetup { modality: Modality::Fusion, models: vec![setup] }, &repository, backend, false);
        let [model] = &lane.report().models[..] else { panic!("one model is expected") };
        (model.outcome.clone().unwrap(), model.note.clone())
    };
    let backend = |name| Zeros { name, loaded: parking_lot::Mutex::default() };
    let mut cuda = backend("cuda");
    // No model takes so much: a profile with it was handed in and not measured.
    let marked = |variant: &str| {
        let profile = ServiceProfile { arena_bytes: u64::MAX, ..ServiceProfile::default() };
        Some(Measured { variant: variant.to_owned(), profile })
    };
    let (measured, note) = load(&mut cuda, marked("fp32"));
    assert_eq!((measured.variant.as_str(), note), ("fp16", None));
    assert!(measured.profile.arena_bytes < u64::MAX && !measured.profile.batches.is_empty());
    assert_eq!(cuda.loaded.lock()[..], [("half.onnx".to_owned(), Precision::Fp16)]);
    assert_eq!(load(&mut cuda, marked("fp16")).0, marked("fp16").unwrap(), "its own times are believed");
    assert_eq!(load(&mut backend("tensorrt"), None).0.variant, "fp16-tensorrt");

    std::fs::write(model.join("half.onnx"), "abd").unwrap();
    let mut damaged = backend("cuda");
    let (measured, note) = load(&mut damaged, marked("fp16"));
    assert_eq!(measured.variant, "fp32");
    assert!(note.unwrap().starts_with("zeros: fp32 is used instead of fp16: "));
    assert_eq!(damaged.loaded.lock()[..], [("own.onnx".to_owned(), Precision::Fp32)]);
}
