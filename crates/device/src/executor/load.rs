//! From a model package to an executor: files verified, networks loaded, the manifest checked against them.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use sensorium_models::manifest::{Compute, Dim, FileRole, Interpret, Manifest, Precision, TensorEntry};
use sensorium_models::{ModelError, ModelPackage, ServiceProfile};
use sensorium_processing::image::ImageStep;
use sensorium_processing::tokens::{TOKENIZER_BYTES_MAX, Tokenizer};
use thiserror::Error;

use super::batch::{BatchExecutor, Chunk};
use super::identity::IdentityExecutor;
use super::images::ImagesExecutor;
use super::interpretation::{
    ClassesInterpretation, DetectionsInterpretation, FusionInterpretation, Interpretation, PoseInterpretation,
    TensorInterpretation,
};
use super::speech::SpeechExecutor;
use super::stage::StageInterpretation;
use super::transcript::TranscriptExecutor;
use super::{Executor, preparation, profile};
use crate::backend::{Backend, BackendError, ImagePlan, LoadOptions, Network, TensorBuffer};

/// Why a model cannot be run on this device.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Manifest, files and networks are each in order but do not fit each other.
    #[error("{}: {problem}", file.display())]
    Unfit { file: PathBuf, problem: String },
    /// It loads, but not even a made-up job works.
    #[error("model {model} fails on a made-up job: {problem}")]
    Trial { model: String, problem: String },
}

/// Loads a model that is ready to serve.
///
/// # Errors
/// The first thing that is wrong, with its file.
pub fn load(package: &ModelPackage, backend: &dyn Backend) -> Result<Box<dyn Executor>, LoadError> {
    package.verify()?;
    let manifest = &package.manifest;
    let unfit = |problem: String| LoadError::Unfit { file: package.manifest_file(), problem };
    match &manifest.interpret {
        Interpret::Identity { answer_bytes_max } => {
            Ok(Box::new(IdentityExecutor { answer_bytes_max: *answer_bytes_max as usize }))
        }
        Interpret::Speech {} => {
            let network = network(package, backend, FileRole::Network)?;
            Ok(Box::new(SpeechExecutor::new(manifest, network).map_err(unfit)?))
        }
        Interpret::Transcript { .. } => {
            let file = package.file(FileRole::Tokenizer)?;
            let unusable = |problem: String| LoadError::Unfit { file: file.to_owned(), problem };
            // One byte more than is taken: the tokenizer then says what is wrong.
            let mut bytes = Vec::new();
            let bytes_max = TOKENIZER_BYTES_MAX as u64 + 1;
            let read = File::open(file).and_then(|file| file.take(bytes_max).read_to_end(&mut bytes));
            read.map_err(|error| unusable(error.to_string()))?;
            let tokenizer = Tokenizer::from_json(&bytes).map_err(|error| unusable(error.to_string()))?;
            let encoder = network(package, backend, FileRole::Encoder)?;
            let decoder = network(package, backend, FileRole::Decoder)?;
            Ok(Box::new(TranscriptExecutor::new(manifest, encoder, decoder, tokenizer).map_err(unfit)?))
        }
        Interpret::DetectionsDfl { .. }
        | Interpret::DetectionRows { .. }
        | Interpret::Classes { .. }
        | Interpret::Fusion { .. }
        | Interpret::Pose {}
        | Interpret::Tensor {}
        | Interpret::Stage {} => {
            if let Some(executor) = images(package, backend)? {
                return Ok(Box::new(executor));
            }
            let network = network(package, backend, FileRole::Network)?;
            let interpretation = interpretation(package)?;
            Ok(Box::new(batch(package, network, interpretation).map_err(unfit)?))
        }
    }
}

/// The networks of `package` to load where `wanted` is asked for, and where these are others, why.
///
/// A variant that is missing or damaged is no reason not to serve a model whose own networks are in order: these are used,
/// which are slower and no less exact.
#[must_use]
pub fn chosen(package: &ModelPackage, wanted: Precision) -> (Cow<'_, ModelPackage>, Option<String>) {
    if wanted == package.precision {
        return (Cow::Borrowed(package), None);
    }
    let name = wanted.name();
    let reason = match package.in_precision(wanted) {
        Some(variant) => match variant.verify() {
            Ok(()) => return (Cow::Owned(variant), None),
            Err(error) => error.to_string(),
        },
        None => format!("{} lists no such variant", package.manifest_file().display()),
    };
    let own = package.precision.name();
    (Cow::Borrowed(package), Some(format!("{}: {own} is used instead of {name}: {reason}", package.manifest.name)))
}

/// What runs of a model, for receipts and measurements: its precision, and who compiled it where that was not ONNX Runtime
/// itself. At most 16 bytes.
#[must_use]
pub fn variant_name(package: &ModelPackage, backend: &dyn Backend) -> String {
    let precision = package.precision.name();
    match backend.name() {
        "tensorrt" if is_compiled(package) => format!("{precision}-tensorrt"),
        _ => precision.to_owned(),
    }
}

/// Whether TensorRT gets a model's networks: they promise the GPU, and only the number of rows varies.
fn is_compiled(package: &ModelPackage) -> bool {
    let mut varying = package.manifest.inputs.iter().flat_map(|input| input.shape.iter().skip(1));
    package.manifest.placement.compute == Compute::Gpu && varying.all(|dim| matches!(dim, Dim::Fixed(_)))
}

/// Loads and measures a model. Memory is what the device's use grew by meanwhile.
///
/// # Errors
/// As [`load`], and when the model fails on a made-up job.
pub fn load_measured(
    package: &ModelPackage,
    backend: &dyn Backend,
) -> Result<(Box<dyn Executor>, ServiceProfile), LoadError> {
    let before = backend.memory_bytes_now();
    let mut executor = load(package, backend)?;
    let mut measured = profile(executor.as_mut(), package)
        .map_err(|problem| LoadError::Trial { model: package.manifest.name.clone(), problem })?;
    let grown = before.zip(backend.memory_bytes_now()).map(|(before, after)| after.saturating_sub(before));
    measured.arena_bytes = grown.unwrap_or(0);
    Ok((executor, measured))
}

fn network(package: &ModelPackage, backend: &dyn Backend, role: FileRole) -> Result<Box<dyn Network>, LoadError> {
    let outputs: Vec<&str> = used_outputs(&package.manifest, role).collect();
    let inputs = inputs_of(package, role);
    let network = backend.load(package.file(role)?, &options(package, &inputs, &outputs))?;
    package.check(role, network.signature())?;
    Ok(network)
}

fn inputs_of(package: &ModelPackage, role: FileRole) -> Vec<TensorEntry> {
    package.manifest.inputs.iter().filter(|input| input.of == role).cloned().collect()
}

fn options<'a>(package: &ModelPackage, inputs: &'a [TensorEntry], outputs: &'a [&'a str]) -> LoadOptions<'a> {
    let placement = &package.manifest.placement;
    LoadOptions {
        threads: usize::from(placement.threads),
        rows_max: usize::from(placement.batch_max),
        compute: placement.compute,
        graphs: placement.graphs,
        outputs,
        precision: package.precision,
        inputs,
    }
}

/// The executor of a model of images on a device that does the steps around the network itself; `None` where either is
/// not so.
fn images(package: &ModelPackage, backend: &dyn Backend) -> Result<Option<ImagesExecutor>, LoadError> {
    let manifest = &package.manifest;
    let Some(step) = ImageStep::from_prepare(&manifest.prepare) else { return Ok(None) };
    let unfit = |problem: String| LoadError::Unfit { file: package.manifest_file(), problem };
    let outputs: Vec<&str> = used_outputs(manifest, FileRole::Network).collect();
    let (boxes, interpretation): (_, Box<dyn Interpretation>) = match &manifest.interpret {
        Interpret::DetectionsDfl { .. } | Interpret::DetectionRows { .. } => {
            let detections = DetectionsInterpretation::new(manifest, &package.labels()?).map_err(unfit)?;
            let names: Vec<String> = outputs.iter().map(|name| (*name).to_owned()).collect();
            let Some(boxes) = detections.plan(manifest, &names) else { return Ok(None) };
            (Some(boxes), Box::new(detections))
        }
        _ => (None, interpretation(package)?),
    };
    let plan = ImagePlan { step, boxes };
    let inputs = inputs_of(package, FileRole::Network);
    let options = options(package, &inputs, &outputs);
    let network = backend.load_images(package.file(FileRole::Network)?, &options, &plan)?;
    let Some(network) = network else { return Ok(None) };
    package.check(FileRole::Network, network.signature())?;
    Ok(Some(ImagesExecutor::new(network, package.manifest_file(), step, interpretation)))
}

/// The outputs that the interpret step reads, in the manifest's order: what nothing reads is not computed.
fn used_outputs(manifest: &Manifest, role: FileRole) -> impl Iterator<Item = &str> {
    let used = match &manifest.interpret {
        Interpret::DetectionsDfl { .. } | Interpret::Speech {} | Interpret::Transcript { .. } => manifest.outputs.len(),
        Interpret::Fusion { .. } => 2,
        Interpret::DetectionRows { .. }
        | Interpret::Classes { .. }
        | Interpret::Pose {}
        | Interpret::Tensor {}
        | Interpret::Stage {}
        | Interpret::Identity { .. } => 1,
    };
    manifest.outputs.iter().filter(move |output| output.of == role).take(used).map(|output| output.name.as_str())
}

fn interpretation(package: &ModelPackage) -> Result<Box<dyn Interpretation>, LoadError> {
    let manifest = &package.manifest;
    let unfit = |problem: String| LoadError::Unfit { file: package.manifest_file(), problem };
    match &manifest.interpret {
        Interpret::DetectionsDfl { .. } | Interpret::DetectionRows { .. } => {
            Ok(Box::new(DetectionsInterpretation::new(manifest, &package.labels()?).map_err(unfit)?))
        }
        Interpret::Classes { score_min, classes_max } => {
            let labels = package.labels()?;
            let classes = manifest.outputs.first().and_then(|output| output.shape.get(1));
            if classes.is_some_and(|classes| *classes != Dim::Fixed(super::work(labels.len()))) {
                let shape = manifest.outputs.first().map(shape).unwrap_or_default();
                return Err(unfit(format!("output[0].shape [{shape}]; there are {} labels", labels.len())));
            }
            Ok(Box::new(ClassesInterpretation::new(&labels, *score_min, *classes_max)))
        }
        Interpret::Fusion { events } => {
            let expected = [Dim::Fixed(super::work(events.len())), Dim::Fixed(1)];
            for (output, width) in manifest.outputs.iter().zip(expected) {
                if output.shape.len() != 2 || output.shape[1] != width {
                    return Err(unfit(format!("output {} is [{}]; expected [N,{width}]", output.name, shape(output))));
                }
            }
            Ok(Box::new(FusionInterpretation::new(events)))
        }
        Interpret::Pose {} => Ok(Box::new(PoseInterpretation::new(manifest, &package.labels()?).map_err(unfit)?)),
        Interpret::Tensor {} => Ok(Box::<TensorInterpretation>::default()),
        Interpret::Stage {} => Ok(Box::<StageInterpretation>::default()),
        other => Err(unfit(format!("interpret step {} does not work on rows", other.name()))),
    }
}

fn batch(
    package: &ModelPackage,
    network: Box<dyn Network>,
    interpretation: Box<dyn Interpretation>,
) -> Result<BatchExecutor, String> {
    let manifest: &Manifest = &package.manifest;
    let [input] = &manifest.inputs[..] else {
        let step = manifest.interpret.name();
        return Err(format!("{} inputs; interpret step {step} feeds one", manifest.inputs.len()));
    };
    let rows_max = match input.shape.first() {
        Some(Dim::Named(_)) => usize::from(manifest.placement.batch_max),
        Some(Dim::Fixed(1)) => 1,
        _ => return Err(format!("input {} is [{}]; its first dimension must be N or 1", input.name, shape(input))),
    };
    let data = TensorBuffer::new(input.dtype)
        .ok_or_else(|| format!("input {} is {}, which networks are not fed", input.name, input.dtype.name()))?;
    Ok(BatchExecutor {
        network,
        manifest_file: package.manifest_file(),
        input: input.name.clone(),
        outputs: used_outputs(manifest, FileRole::Network).map(str::to_owned).collect(),
        rows_max,
        preparation: preparation::of(&manifest.prepare, &input.name, input.dtype, &input.shape)?,
        interpretation,
        chunk: Chunk::new(data),
        failures: Vec::new(),
    })
}

fn shape(entry: &TensorEntry) -> String {
    entry.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
