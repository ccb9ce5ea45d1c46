//! A network on a GPU, in one of two ways.
//!
//! *Bound*, where the manifest promises that every operator is on the GPU: inputs go over pinned memory into device memory that was set aside for
//! their shape, ONNX Runtime computes on the lane's stream from there, and the outputs come back over pinned memory. With
//! recorded launches the shapes are the batch sizes, and batches are filled up to the next of them.
//!
//! *Copied*, where some operators may be on the processor: ONNX Runtime copies by itself, where and when it has to.
#![allow(unsafe_code, reason = "copies to and from device memory that ONNX Runtime allocated")]

mod shape;

use std::path::PathBuf;
use std::sync::Arc;

use cudarc::driver::DriverError;
use ort::memory::Allocator;
use ort::session::Session;
use ort::value::{DynTensor, DynTensorValueType};
use sensorium_models::Signature;
use sensorium_models::manifest::Compute;

pub(super) use self::shape::{Computed, pick};
use self::shape::{Shape, device_memory, dims_i64, element, run_bound, run_kept, shape_is_bound};
use super::Lane;
use super::driver::{self, Staging, aligned};
use super::fault::GpuFault;
use super::inputs::{fitting, output, rows};
use super::share::{filled_up, recorded_rows};
use crate::backend::{
    BackendError, LoadOptions, NamedTensor, Network, Placed, Tensor, TensorBuffer, placement, runtime,
};
use crate::cuda::launch::LaunchError;

/// Shapes whose device memory is kept where launches are not recorded; the one used longest ago makes way.
pub(super) const SHAPES_MAX: usize = 8;

/// See the module.
pub(super) struct CudaNetwork {
    file: PathBuf,
    signature: Signature,
    placed: Placed,
    /// Before the session: what is bound must go first.
    bound: Option<Bound>,
    session: Session,
    /// Last: the session computes on its streams.
    lane: Arc<Lane>,
}

/// Why a run failed, before it is told with the network's file.
pub(super) enum Failure {
    Ort(ort::Error),
    Driver(DriverError),
    Said(String),
}

impl From<ort::Error> for Failure {
    fn from(error: ort::Error) -> Self {
        Self::Ort(error)
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        match error {
            LaunchError::Driver { error, .. } => Self::Driver(error),
            LaunchError::Compile(_) | LaunchError::Arguments(_) => Self::Said(error.to_string()),
        }
    }
}

impl From<String> for Failure {
    fn from(said: String) -> Self {
        Self::Said(said)
    }
}

struct Bound {
    allocator: Allocator,
    shapes: Vec<Shape>,
    /// The batch sizes that were recorded, and the outputs that are computed for them.
    recorded: Option<(&'static [usize], Vec<String>)>,
    up: Staging,
    down: Staging,
    runs: u64,
}

impl CudaNetwork {
    /// Takes a session whose operators are where `options` promise; records its launches if that is asked for.
    pub(super) fn new(
        file: PathBuf,
        session: Session,
        lane: Arc<Lane>,
        options: &LoadOptions<'_>,
        placed: Placed,
    ) -> Result<Self, BackendError> {
        let signature = runtime::signature(&file, &session)?;
        let mut network = Self { file, signature, placed, bound: None, session, lane };
        if options.compute == Compute::Gpu {
            let bound = network.bind(options).map_err(|failure| network.failed(failure))?;
            network.bound = Some(bound);
        }
        Ok(network)
    }

    fn bind(&mut self, options: &LoadOptions<'_>) -> Result<Bound, Failure> {
        let wanted_on_gpu = placement::inputs_on_gpu(&self.session)?;
        // What is bound there would be copied once, when it is bound, and not with each run.
        if let Some((spec, _)) = self.signature.inputs.iter().zip(wanted_on_gpu).find(|(_, on_gpu)| !on_gpu) {
            return Err(
                format!("input {} is read by the processor; placement.compute must be \"mixed\"", spec.name).into()
            );
        }
        let allocator = Allocator::new(&self.session, device_memory()?)?;
        let context = &self.lane.device.context;
        let (up, down) = (Staging::new(context), Staging::new(context));
        let mut bound = Bound { allocator, shapes: Vec::new(), recorded: None, up, down, runs: 0 };
        if options.graphs {
            let all = self.signature.outputs.iter().map(|spec| spec.name.as_str());
            let outputs: Vec<String> = match options.outputs {
                [] => all.map(str::to_owned).collect(),
                some => some.iter().map(|name| (*name).to_owned()).collect(),
            };
            let free = self.signature.inputs.iter().any(|spec| spec.dims.first() == Some(&None));
            let sizes: &[usize] = if free { recorded_rows(options.rows_max) } else { &[1] };
            // The largest first: what is recorded keeps addresses of memory that ONNX Runtime frees when a larger batch wants more of
            // it (the ones that a bias is multiplied with, for example), and small batches fit into what large ones left.
            for size in sizes.iter().rev() {
                self.record(&mut bound, *size, &outputs)?;
            }
            bound.recorded = Some((sizes, outputs));
        }
        Ok(bound)
    }

    /// Records the launches of a batch of `size` rows, on zeros. Nothing else in this process may use the GPU meanwhile.
    fn record(&mut self, bound: &mut Bound, size: usize, outputs: &[String]) -> Result<(), Failure> {
        let mut all = Vec::new();
        for spec in &self.signature.inputs {
            let mut dims = Vec::new();
            for (at, dim) in spec.dims.iter().enumerate() {
                match (at, dim) {
                    (_, Some(dim)) => dims.push(*dim as usize),
                    (0, None) => dims.push(size),
                    _ => {
                        return Err(format!(
                            "input {}: dimension {at} varies, so launches cannot be recorded",
                            spec.name
                        )
                        .into());
                    }
                }
            }
            all.push(dims);
        }
        let mut shape = Shape::new(&self.session, &self.signature, &bound.allocator, &self.lane, all)?;
        // Once as it comes, to learn the outputs' shapes; -1 keeps it from being recorded.
        shape.options.set("gpu_graph_id", "-1")?;
        shape.bind(outputs)?;
        let computed = run_bound(&mut self.session, &shape, outputs)?;
        self.lane.streams.compute.synchronize()?;
        shape.binding.clear_outputs();
        for computed in computed {
            if !computed.dims.first().is_some_and(|first| first.is_multiple_of(size)) {
                return Err(
                    format!("output {} is {:?} for {size} rows: no whole rows", computed.name, computed.dims).into()
                );
            }
            let mut tensor = DynTensor::new(&bound.allocator, element(computed.dtype)?, dims_i64(&computed.dims)?)?;
            let _ = tensor.data_ptr_mut();
            shape.binding.bind_output::<DynTensorValueType, _>(computed.name, tensor)?;
        }
        shape.options.set("gpu_graph_id", size.to_string())?;
        // The runtime runs it, records it and replays it, all in one call.
        run_bound(&mut self.session, &shape, outputs)?;
        self.lane.streams.compute.synchronize()?;
        bound.shapes.push(shape);
        Ok(())
    }

    fn run_on_device(
        session: &mut Session,
        signature: &Signature,
        lane: &Lane,
        bound: &mut Bound,
        inputs: &[NamedTensor<'_>],
        wanted: &[&str],
    ) -> Result<Vec<Tensor>, Failure> {
        let inputs = fitting(signature, inputs)?;
        let given = rows(signature, &inputs)?;
        let mut dims: Vec<Vec<usize>> = inputs.iter().map(|input| input.dims.to_vec()).collect();
        let mut filled = None;
        if let Some((sizes, _)) = &bound.recorded {
            let size = sizes_up(given, sizes)?;
            for (spec, dims) in signature.inputs.iter().zip(&mut dims) {
                if let (Some(None), Some(first)) = (spec.dims.first(), dims.first_mut()) {
                    *first = size;
                    filled = Some((given, size));
                }
            }
        }
        bound.runs += 1;
        let at = bound.shape(session, signature, lane, dims, wanted)?;
        let Bound { shapes, recorded, up, down, .. } = bound;
        let shape = &shapes[at];

        // Up: into pinned memory, from there to the device, in the order of the inputs.
        let mut end = 0;
        let places: Vec<usize> = shape
            .inputs
            .iter()
            .map(|(_, bytes)| {
                let start = end;
                end = aligned(start + bytes);
                start
            })
            .collect();
        let pinned = up.of(end)?;
        let waited = Waited(lane);
        for ((input, (address, bytes)), start) in inputs.iter().zip(&shape.inputs).zip(places) {
            let place = &mut pinned[start..start + bytes];
            let data = input.data.bytes();
            place[..data.len()].copy_from_slice(data);
            place[data.len()..].fill(0);
            // SAFETY: the tensor at this address has `bytes` bytes; the pinned memory is used again only after the wait
            // at the end of this function, which also ends every way out of it (see `Waited`).
            unsafe { driver::upload(&lane.streams.upload, place, *address)? };
        }
        lane.streams.compute_after_upload()?;

        let outputs: Vec<String> = match recorded {
            Some((_, outputs)) => outputs.clone(),
            None => wanted.iter().map(|name| (*name).to_owned()).collect(),
        };
        shape_is_bound(shape, &outputs)?;
        let (computed, _kept) = run_kept(session, shape, &outputs)?;

        // Down, in the order that was asked for.
        lane.streams.download_after_compute()?;
        let (picked, end) = pick(&computed, wanted.iter().copied())?;
        let pinned = down.of(end)?;
        for (output, start) in &picked {
            // SAFETY: the output at this address has `bytes` bytes and is kept until after the wait; so is the memory.
            unsafe {
                driver::download(&lane.streams.download, output.address, &mut pinned[*start..*start + output.bytes])?;
            };
        }
        drop(waited);
        lane.streams.download.synchronize()?;
        let mut tensors = Vec::with_capacity(picked.len());
        for (computed, start) in picked {
            let data = TensorBuffer::new(computed.dtype)
                .ok_or_else(|| format!("output {} is of {}", computed.name, computed.dtype.name()))?;
            let bytes = &pinned[start..start + computed.bytes];
            tensors.push(output(&computed.name, computed.dims.clone(), data, bytes, filled)?);
        }
        Ok(tensors)
    }

    /// Runs a batch of `rows` rows, each of `row_dims`, of a bound network with one input, and waits for nothing. `fill` is given
    /// the input's address and bytes and queues what writes it; `then` is given the outputs and how many rows were
    /// computed, and queues what reads them: both on the lane's stream that computes.
    pub(super) fn run_filled<T>(
        &mut self,
        row_dims: &[usize],
        rows: usize,
        wanted: &[String],
        fill: impl FnOnce(u64, usize) -> Result<(), Failure>,
        then: impl FnOnce(&[Computed], usize) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Self { signature, bound, session, lane, .. } = self;
        let bound = bound.as_mut().ok_or_else(|| "the network's tensors are not kept on the GPU".to_owned())?;
        let size = match &bound.recorded {
            Some((sizes, _)) => sizes_up(rows, sizes)?,
            None => rows,
        };
        let dims = [size].into_iter().chain(row_dims.iter().copied()).collect();
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        bound.runs += 1;
        let at = bound.shape(session, signature, lane, vec![dims], &names)?;
        let Bound { shapes, recorded, .. } = bound;
        let shape = &shapes[at];
        let outputs = recorded.as_ref().map_or(wanted, |(_, outputs)| outputs);
        shape_is_bound(shape, outputs)?;
        let (address, bytes) = shape.inputs[0];
        fill(address, bytes)?;
        let (computed, _kept) = run_kept(session, shape, outputs)?;
        then(&computed, size)
    }

    pub(super) fn failed(&self, failure: Failure) -> BackendError {
        let during = format!("running {}", self.file.display());
        let fault = match &failure {
            Failure::Ort(error) => {
                self.lane.device.fault_after(&error.to_string(), &during, &self.lane.streams.compute)
            }
            Failure::Driver(error) => Some(self.lane.device.fault(*error, &during)),
            Failure::Said(_) => None,
        };
        let message = match (&failure, &fault) {
            (_, Some(fault)) => fault.to_string(),
            (Failure::Ort(error), None) => error.to_string(),
            (Failure::Driver(error), None) => error.to_string(),
            (Failure::Said(said), None) => said.clone(),
        };
        if let Some(fault) = fault.filter(GpuFault::is_sticky) {
            self.lane.device.break_with(&fault);
        }
        BackendError::Run { file: self.file.clone(), message }
    }
}

/// Waits for all of a lane's copies and computations when it goes, however a run ends: nothing that they use may be
/// touched before.
pub(super) struct Waited<'a>(pub(super) &'a Lane);

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        for stream in [&self.0.streams.upload, &self.0.streams.compute, &self.0.streams.download] {
            // An error shows again at the next call.
            let _ = stream.synchronize();
        }
    }
}

impl Network for CudaNetwork {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn placed(&self) -> Option<&Placed> {
        Some(&self.placed)
    }

    fn run(&mut self, inputs: &[NamedTensor<'_>], wanted: &[&str]) -> Result<Vec<Tensor>, BackendError> {
        runtime::check_wanted(&self.file, &self.signature, wanted)?;
        let Self { signature, bound, session, lane, .. } = self;
        let outcome = match bound {
            Some(bound) => Self::run_on_device(session, signature, lane, bound, inputs, wanted),
            None => runtime::run(session, inputs, wanted).map_err(Failure::from),
        };
        outcome.map_err(|failure| self.failed(failure))
    }
}

impl Bound {
    /// The place of the memory for inputs of `dims`, made now if it is not there.
    fn shape(
        &mut self,
        session: &Session,
        signature: &Signature,
        lane: &Lane,
        dims: Vec<Vec<usize>>,
        wanted: &[&str],
    ) -> Result<usize, Failure> {
        let recorded = self.recorded.is_some();
        let same = |shape: &Shape| {
            shape.dims == dims && (recorded || shape.outputs.iter().map(String::as_str).eq(wanted.iter().copied()))
        };
        let at = match self.shapes.iter().position(same) {
            Some(at) => at,
            None if recorded => return Err(format!("inputs of {dims:?} were not recorded").into()),
            None => {
                // The arena may hand out what a queued batch still uses, and the zeros go over another stream.
                lane.streams.compute.synchronize()?;
                if self.shapes.len() == SHAPES_MAX
                    && let Some(oldest) = (0..SHAPES_MAX).min_by_key(|at| self.shapes[*at].used)
                {
                    self.shapes.swap_remove(oldest);
                }
                let mut shape = Shape::new(session, signature, &self.allocator, lane, dims)?;
                let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
                shape.bind(&wanted)?;
                self.shapes.push(shape);
                self.shapes.len() - 1
            }
        };
        self.shapes[at].used = self.runs;
        Ok(at)
    }
}

/// The recorded size that holds `rows`.
fn sizes_up(rows: usize, sizes: &[usize]) -> Result<usize, String> {
    filled_up(rows, sizes)
        .ok_or_else(|| format!("{rows} rows; launches are recorded for {} at most", sizes.last().copied().unwrap_or(0)))
}
