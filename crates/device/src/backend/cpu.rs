//! The processor: ONNX Runtime's CPU provider.
//!
//! The library is loaded at run time from a path, so the same binary runs where it is missing and says so. No library
//! of custom operators is ever registered.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};
use parking_lot::Mutex;
use sensorium_models::{Signature, TensorSpec};
use sensorium_wire::tensor::Dtype;

use super::{Backend, BackendError, NamedTensor, Network, Tensor, TensorBuffer, TensorData};

/// ONNX Runtime allows one environment per process, and it cannot be made again once it is gone.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Networks on the processor.
#[derive(Debug)]
pub struct CpuBackend {
    environment: Environment,
}

impl CpuBackend {
    /// Loads ONNX Runtime from `library` unless that was done before.
    ///
    /// # Errors
    /// [`BackendError::Library`] when it cannot be loaded, [`BackendError::OtherLibrary`] when another one is in use.
    pub fn open(library: &Path) -> Result<Self, BackendError> {
        let failed = |message: String| BackendError::Library { library: library.to_owned(), message };
        // A full path: the loader would look for a relative one in places of its own.
        let full = library.canonicalize().map_err(|error| failed(error.to_string()))?;
        let mut shared = ENVIRONMENT.lock();
        if let Some((loaded, environment)) = &*shared {
            if *loaded != full {
                return Err(BackendError::OtherLibrary { loaded: loaded.clone(), asked: full });
            }
            return Ok(Self { environment: environment.clone() });
        }
        let environment = ort::init_from(&full)
            .map_err(|error| failed(error.to_string()))?
            .with_name("sensorium")
            .with_telemetry(false)
            .build()
            .map_err(|error| failed(error.to_string()))?;
        *shared = Some((full, environment.clone()));
        Ok(Self { environment })
    }

    fn session(&self, file: &Path, threads: usize) -> Result<Session, ort::Error> {
        // Spinning threads would burn the cores that the node's network threads need.
        Session::builder(&self.environment)?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // A pattern would be kept for every shape that ever came, and a decoder's cache has a new one each step.
            .with_memory_pattern(false)?
            .commit_from_file(file)
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn load(&self, file: &Path, threads: usize) -> Result<Box<dyn Network>, BackendError> {
        let failed = |message: String| BackendError::Load { file: file.to_owned(), message };
        let full = file.canonicalize().map_err(|error| failed(error.to_string()))?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let session = self.session(&full, threads.clamp(1, cores)).map_err(|error| failed(error.to_string()))?;
        let inputs = session
            .inputs()
            .iter()
            .map(|outlet| {
                specification(outlet).ok_or_else(|| BackendError::Unsupported {
                    file: file.to_owned(),
                    tensor: outlet.name().to_owned(),
                    found: format!("{:?}", outlet.dtype()),
                })
            })
            .collect::<Result<_, _>>()?;
        let outputs = session.outputs().iter().filter_map(specification).collect();
        Ok(Box::new(CpuNetwork { file: file.to_owned(), session, signature: Signature { inputs, outputs } }))
    }
}

struct CpuNetwork {
    file: PathBuf,
    session: Session,
    signature: Signature,
}

impl Network for CpuNetwork {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn run(&mut self, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        if let Some(name) = wanted.iter().find(|name| !self.signature.outputs.iter().any(|spec| spec.name == **name)) {
            return Err(BackendError::Run { file: self.file.clone(), message: format!("there is no output {name}") });
        }
        run(&mut self.session, inputs, wanted)
            .map_err(|error| BackendError::Run { file: self.file.clone(), message: error.to_string() })
    }
}

fn run(session: &mut Session, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, ort::Error> {
    let mut values = Vec::with_capacity(inputs.len());
    for input in inputs {
        values.push((input.name, value(input)?));
    }
    let selector = wanted.iter().fold(OutputSelector::no_default(), |selector, name| selector.with(*name));
    let options = RunOptions::new()?.with_outputs(selector);
    let outputs = session.run_with_options(values, &options)?;
    wanted
        .iter()
        .map(|name| outputs.get(*name).map_or_else(|| Err(missing(name)), |value| tensor(name, value)))
        .collect()
}

fn missing(name: &str) -> ort::Error {
    ort::Error::new(format!("output {name} was not given"))
}

/// A view of the caller's memory; nothing is copied.
fn value<'a>(input: &NamedTensor<'a>) -> Result<SessionInputValue<'a>, ort::Error> {
    fn view<'a, T>(dims: &'a [usize], data: &'a [T]) -> Result<SessionInputValue<'a>, ort::Error>
    where
        T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
    {
        // The length is compared here, with a product that cannot overflow.
        let elements = dims.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim));
        if elements != Some(data.len()) {
            return Err(ort::Error::new(format!("{} elements for a tensor of {dims:?}", data.len())));
        }
        Ok(TensorRef::from_array_view((dims, data))?.into())
    }
    let value = match input.data {
        TensorData::U8(data) => view(input.dims, data),
        TensorData::I32(data) => view(input.dims, data),
        TensorData::I64(data) => view(input.dims, data),
        TensorData::F32(data) => view(input.dims, data),
        TensorData::Bool(data) => view(input.dims, data),
    };
    value.map_err(|error| ort::Error::new(format!("input {}: {error}", input.name)))
}

/// A copy of an output, so that the runtime's memory is free for the next run.
fn tensor(name: &str, value: &DynValue) -> Result<Tensor, ort::Error> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(ort::Error::new(format!("output {name} is not a tensor")));
    };
    let data = match ty {
        TensorElementType::Uint8 => TensorBuffer::U8(value.try_extract_tensor()?.1.to_vec()),
        TensorElementType::Int32 => TensorBuffer::I32(value.try_extract_tensor()?.1.to_vec()),
        TensorElementType::Int64 => TensorBuffer::I64(value.try_extract_tensor()?.1.to_vec()),
        TensorElementType::Float32 => TensorBuffer::F32(value.try_extract_tensor()?.1.to_vec()),
        TensorElementType::Bool => TensorBuffer::Bool(value.try_extract_tensor()?.1.to_vec()),
        other => return Err(ort::Error::new(format!("output {name} is of type {other}, which is not supported"))),
    };
    let dims = shape.iter().map(|dim| usize::try_from(*dim)).collect::<Result<_, _>>();
    let dims = dims.map_err(|_| ort::Error::new(format!("output {name} has a negative dimension: {shape:?}")))?;
    Ok(Tensor { name: name.to_owned(), dims, data })
}

/// Name, type and dimensions; `None` when it is not a tensor of a type that the wire knows.
fn specification(outlet: &Outlet) -> Option<TensorSpec> {
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return None };
    let dtype = match ty {
        TensorElementType::Uint8 => Dtype::U8,
        TensorElementType::Int8 => Dtype::I8,
        TensorElementType::Int16 => Dtype::I16,
        TensorElementType::Int32 => Dtype::I32,
        TensorElementType::Int64 => Dtype::I64,
        TensorElementType::Float16 => Dtype::F16,
        TensorElementType::Float32 => Dtype::F32,
        TensorElementType::Float64 => Dtype::F64,
        TensorElementType::Bool => Dtype::Bool,
        _ => return None,
    };
    let dims = shape.iter().map(|dim| u32::try_from(*dim).ok()).collect();
    Some(TensorSpec { name: outlet.name().to_owned(), dtype, dims })
}
