//! Device memory for a network's inputs of one shape, and a run from there.
#![allow(unsafe_code, reason = "writes zeros to device memory that ONNX Runtime allocated")]

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, NoSelectedOutputs, RunOptions, Session, SessionOutputs};
use ort::value::{DynTensor, DynTensorValueType, DynValue, TensorElementType, ValueType};
use sensorium_models::Signature;
use sensorium_wire::tensor::Dtype;

use super::Failure;
use crate::backend::cuda::driver::aligned;
use crate::backend::cuda::inputs::TENSOR_BYTES_MAX;
use crate::backend::cuda::{Lane, driver};
use crate::backend::{TensorBuffer, runtime};

/// Device memory for one shape of the inputs.
pub(super) struct Shape {
    /// Dimensions of each input.
    pub(super) dims: Vec<Vec<usize>>,
    /// Where each input lies on the device, and its bytes.
    pub(super) inputs: Vec<(u64, usize)>,
    /// The outputs that are bound, in this order.
    pub(super) outputs: Vec<String>,
    pub(super) binding: IoBinding,
    pub(super) options: RunOptions<NoSelectedOutputs>,
    pub(super) used: u64,
}

/// An output on the device.
pub(in crate::backend::cuda) struct Computed {
    pub(in crate::backend::cuda) name: String,
    pub(in crate::backend::cuda) dims: Vec<usize>,
    pub(in crate::backend::cuda) dtype: Dtype,
    pub(in crate::backend::cuda) address: u64,
    pub(in crate::backend::cuda) bytes: usize,
}

impl Shape {
    pub(super) fn new(
        session: &Session,
        signature: &Signature,
        allocator: &Allocator,
        lane: &Lane,
        all: Vec<Vec<usize>>,
    ) -> Result<Self, Failure> {
        let mut binding = session.create_binding()?;
        let mut inputs = Vec::with_capacity(all.len());
        for (spec, dims) in signature.inputs.iter().zip(&all) {
            let bytes =
                bytes_of(dims, spec.dtype).ok_or_else(|| format!("input {} of {dims:?} is too large", spec.name))?;
            let mut tensor = DynTensor::new(allocator, element(spec.dtype)?, dims_i64(dims)?)?;
            let address = tensor.data_ptr_mut() as u64;
            if address == 0 {
                return Err(format!("input {}: no device memory for {dims:?}", spec.name).into());
            }
            // Zeros, so that a network is never run on what was there before.
            let zeros = vec![0; bytes];
            // SAFETY: the tensor has `bytes` bytes, and the wait below ends the copy before `zeros` goes.
            unsafe { driver::upload(&lane.streams.upload, &zeros, address)? };
            lane.streams.upload.synchronize()?;
            binding.bind_input(spec.name.clone(), &tensor)?;
            inputs.push((address, bytes));
        }
        let mut options = RunOptions::new()?;
        options.disable_device_sync()?;
        Ok(Self { dims: all, inputs, outputs: Vec::new(), binding, options, used: 0 })
    }

    /// Binds outputs whose memory the runtime allocates on the device, in each run as it needs.
    pub(super) fn bind(&mut self, outputs: &[String]) -> Result<(), Failure> {
        for name in outputs {
            self.binding.bind_output_to_device(name.clone(), &device_memory()?)?;
        }
        outputs.clone_into(&mut self.outputs);
        Ok(())
    }
}

pub(super) fn shape_is_bound(shape: &Shape, outputs: &[String]) -> Result<(), Failure> {
    if shape.outputs == outputs { Ok(()) } else { Err("other outputs are bound".to_owned().into()) }
}

/// Runs a bound session; the outputs stay where they are for as long as nothing else is run.
pub(super) fn run_bound(session: &mut Session, shape: &Shape, outputs: &[String]) -> Result<Vec<Computed>, Failure> {
    run_kept(session, shape, outputs).map(|(computed, _)| computed)
}

/// As [`run_bound`], with the values that keep the outputs' memory.
pub(super) fn run_kept<'a>(
    session: &'a mut Session,
    shape: &'a Shape,
    outputs: &[String],
) -> Result<(Vec<Computed>, SessionOutputs<'a>), Failure> {
    let values = session.run_binding_with_options(&shape.binding, &shape.options)?;
    let mut computed = Vec::with_capacity(outputs.len());
    for name in outputs {
        let value = values.get(name.as_str()).ok_or_else(|| format!("output {name} was not given"))?;
        computed.push(located(name, value)?);
    }
    Ok((computed, values))
}

fn located(name: &str, value: &DynValue) -> Result<Computed, Failure> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(format!("output {name} is not a tensor").into());
    };
    let dtype = runtime::dtype(*ty).ok_or_else(|| format!("output {name} is of type {ty}, which is not supported"))?;
    let dims: Vec<usize> = shape
        .iter()
        .map(|dim| usize::try_from(*dim))
        .collect::<Result<_, _>>()
        .map_err(|_| format!("output {name} has a negative dimension: {shape:?}"))?;
    let bytes = bytes_of(&dims, dtype).ok_or_else(|| format!("output {name} of {dims:?} is too large"))?;
    let tensor = value.view().downcast::<DynTensorValueType>()?;
    if tensor.memory_info().allocation_device() != AllocationDevice::CUDA {
        return Err(format!("output {name} is not on the GPU").into());
    }
    Ok(Computed { name: name.to_owned(), dims, dtype, address: tensor.data_ptr() as u64, bytes })
}

/// An output, and where it starts.
type Picked<'a> = (&'a Computed, usize);

/// The outputs that are wanted, each with where it starts in pinned memory, and where the last one ends.
pub(in crate::backend::cuda) fn pick<'a>(
    computed: &'a [Computed],
    wanted: impl IntoIterator<Item = &'a str>,
) -> Result<(Vec<Picked<'a>>, usize), String> {
    let (mut picked, mut end) = (Vec::new(), 0);
    for name in wanted {
        let output = computed.iter().find(|output| output.name == name);
        let output = output.ok_or_else(|| format!("output {name} was not recorded"))?;
        picked.push((output, end));
        end = aligned(end + output.bytes);
    }
    Ok((picked, end))
}

pub(super) fn device_memory() -> Result<MemoryInfo<'static>, ort::Error> {
    MemoryInfo::new(AllocationDevice::CUDA, 0, AllocatorType::Device, MemoryType::Default)
}

pub(super) fn element(dtype: Dtype) -> Result<TensorElementType, Failure> {
    match dtype {
        Dtype::U8 => Ok(TensorElementType::Uint8),
        Dtype::I32 => Ok(TensorElementType::Int32),
        Dtype::I64 => Ok(TensorElementType::Int64),
        Dtype::F32 => Ok(TensorElementType::Float32),
        Dtype::Bool => Ok(TensorElementType::Bool),
        Dtype::I8 | Dtype::I16 | Dtype::F16 | Dtype::F64 => {
            Err(format!("tensors of {} are not fed to networks", dtype.name()).into())
        }
    }
}

fn bytes_of(dims: &[usize], dtype: Dtype) -> Option<usize> {
    let size = TensorBuffer::new(dtype).map(|_| dtype.bytes())?;
    let bytes = dims.iter().try_fold(size, |product, dim| product.checked_mul(*dim))?;
    (bytes <= TENSOR_BYTES_MAX).then_some(bytes)
}

pub(super) fn dims_i64(dims: &[usize]) -> Result<Vec<i64>, Failure> {
    dims.iter()
        .map(|dim| i64::try_from(*dim).map_err(|_| Failure::Said(format!("dimension {dim} is too large"))))
        .collect()
}
