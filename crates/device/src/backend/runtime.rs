//! ONNX Runtime as every backend here uses it: the one environment of a process, and tensors on their way in and out.
//!
//! The library is loaded at run time from a path, so the same binary runs where it is missing and says so. No library
//! of custom operators is ever registered.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::builder::SessionBuilder;
use ort::session::{OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Outlet, PrimitiveTensorElementType, TensorElementType, TensorRef, ValueType};
use parking_lot::Mutex;
use sensorium_models::{Signature, TensorSpec};
use sensorium_wire::tensor::Dtype;

use super::{BackendError, NamedTensor, Tensor, TensorBuffer, TensorData};

/// ONNX Runtime allows one environment per process, and it cannot be made again once it is gone.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// Loads ONNX Runtime from `library` unless that was done before.
///
/// # Errors
/// [`BackendError::Library`] when it cannot be loaded, [`BackendError::OtherLibrary`] when another one is in use.
pub(super) fn environment(library: &Path) -> Result<Environment, BackendError> {
    let failed = |message: String| BackendError::Library { library: library.to_owned(), message };
    // A full path: the loader would look for a relative one in places of its own.
    let full = library.canonicalize().map_err(|error| failed(error.to_string()))?;
    let mut shared = ENVIRONMENT.lock();
    if let Some((loaded, environment)) = &*shared {
        if *loaded != full {
            return Err(BackendError::OtherLibrary { loaded: loaded.clone(), asked: full });
        }
        return Ok(environment.clone());
    }
    let environment = ort::init_from(&full)
        .map_err(|error| failed(error.to_string()))?
        .with_name("sensorium")
        .with_telemetry(false)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    *shared = Some((full, environment.clone()));
    Ok(environment)
}

/// How every session is made, on whatever device.
pub(super) fn builder(environment: &Environment, threads: usize) -> Result<SessionBuilder, ort::Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Spinning threads would burn the cores that the node's network threads need.
    Ok(Session::builder(environment)?
        .with_intra_threads(threads.clamp(1, cores))?
        .with_inter_threads(1)?
        .with_intra_op_spinning(false)?
        .with_inter_op_spinning(false)?
        // A pattern would be kept for every shape that ever came, and a decoder's cache has a new one each step.
        .with_memory_pattern(false)?)
}

/// The tensors that a session takes and gives.
///
/// # Errors
/// [`BackendError::Unsupported`] with the first input that is not a tensor of a known type.
pub(super) fn signature(file: &Path, session: &Session) -> Result<Signature, BackendError> {
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
    Ok(Signature { inputs, outputs })
}

/// That a network has every output that is wanted of it.
///
/// # Errors
/// [`BackendError::Run`] with the first one that it has not.
pub(super) fn check_wanted(file: &Path, signature: &Signature, wanted: &[&str]) -> Result<(), BackendError> {
    match wanted.iter().find(|name| !signature.outputs.iter().any(|spec| spec.name == **name)) {
        Some(name) => Err(BackendError::Run { file: file.to_owned(), message: format!("there is no output {name}") }),
        None => Ok(()),
    }
}

/// Runs a session on tensors of this process; ONNX Runtime copies them to other devices and back where it has to.
pub(super) fn run(
    session: &mut Session,
    inputs: &[NamedTensor<'_>],
    wanted: &[&str],
) -> Result<Vec<Tensor>, ort::Error> {
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
    let dims = shape.iter().map(|dim| u32::try_from(*dim).ok()).collect();
    Some(TensorSpec { name: outlet.name().to_owned(), dtype: dtype(*ty)?, dims })
}

/// The wire's name for a type of elements, if it has one.
pub(super) fn dtype(element: TensorElementType) -> Option<Dtype> {
    match element {
        TensorElementType::Uint8 => Some(Dtype::U8),
        TensorElementType::Int8 => Some(Dtype::I8),
        TensorElementType::Int16 => Some(Dtype::I16),
        TensorElementType::Int32 => Some(Dtype::I32),
        TensorElementType::Int64 => Some(Dtype::I64),
        TensorElementType::Float16 => Some(Dtype::F16),
        TensorElementType::Float32 => Some(Dtype::F32),
        TensorElementType::Float64 => Some(Dtype::F64),
        TensorElementType::Bool => Some(Dtype::Bool),
        _ => None,
    }
}
