//! A network of images on a GPU, with the steps around it: pixels go up as they came, boxes or outputs come back.
//!
//! Pixels that lie in payload memory are copied to the GPU from there; others (decoded ones) through pinned memory of ours.
//! Then all of a batch is queued at once: the copies on the lane's upload stream; preparation, network and boxes on its
//! compute stream; the answer's way back on its download stream. Two batches may be queued, each with memory of its own but
//! for the network's input and outputs, which one stream uses in order: copies of the second run beside the computation of
//! the first.
#![allow(unsafe_code, reason = "lends ONNX Runtime's memory to kernels")]

mod down;
mod up;

use std::path::Path;
use std::sync::Arc;

use cudarc::driver::CudaStream;
use sensorium_models::Signature;
use sensorium_processing::image::{ImageView, SourceGeometry};
use sensorium_wire::tensor::Dtype;

use self::down::{Down, Pending};
use self::up::Up;
use super::Lane;
use super::driver::{Foreign, aligned};
use super::network::{Computed, CudaNetwork, Failure, SHAPES_MAX, Waited};
use crate::backend::images::{BoxForm, BoxPlan, ImageAnswer, ImageNetwork, ImagePlan, STARTED_BATCHES_MAX};
use crate::backend::{BackendError, Network as _, Placed};
use crate::cuda::arguments::{Geometry, ImageSource, PrepareStep};
use crate::cuda::launch::{BoxBuffers, Kernels, PreparedElement};

/// Most bytes of pixels that lie on the GPU at once for one batch. Images of more than that are refused; a batch of more is
/// sent up in parts.
const STAGED_BYTES_MAX: usize = 128 << 20;

/// See the module.
pub(super) struct CudaImages {
    network: CudaNetwork,
    lane: Arc<Lane>,
    kernels: Arc<Kernels>,
    plan: ImagePlan,
    step: PrepareStep,
    dtype: Dtype,
    /// The outputs that boxes are found in, or that are wanted as they are.
    wanted: Vec<String>,
    images_max: usize,
    slots: [Slot; STARTED_BATCHES_MAX],
    /// Number of the batch that is started next, and of the one that is finished next.
    next: usize,
    first: usize,
}

/// Memory of one batch that is under way.
struct Slot {
    up: Up,
    down: Down,
    /// A batch uses it.
    pending: Option<Pending>,
}

impl CudaImages {
    /// Puts the steps of `plan` around `network`, whose operators are all on the GPU.
    pub(super) fn new(
        file: &Path,
        mut network: CudaNetwork,
        lane: &Arc<Lane>,
        kernels: &Arc<Kernels>,
        plan: &ImagePlan,
        (outputs, images_max): (&[&str], usize),
    ) -> Result<Self, BackendError> {
        let unfit = |message: String| BackendError::Load { file: file.to_owned(), message };
        let signature = network.signature();
        plan.check(signature).map_err(unfit)?;
        let input = &signature.inputs[0];
        let dtype = input.dtype;
        let images_max = if input.dims[0].is_some() { 1 } else { images_max };
        let slot =
            || Ok(Slot { up: Up::new(lane, images_max)?, down: Down::new(lane, plan, images_max)?, pending: None });
        let slots = slot().and_then(|first| Ok([first, slot()?]));
        let slots = slots.map_err(|failure: Failure| network.failed(failure))?;
        // Memory that was asked for is there from here on for every stream.
        let ready = lane.streams.compute.synchronize().map_err(Failure::from);
        ready.map_err(|failure| network.failed(failure))?;
        // Every size of batch has its memory from here on, and has run once: no memory is asked for under load. The largest first, so
        // that smaller ones use what it left. Plans of convolutions are the runtime's, which keeps those of the last size.
        let wanted = wanted(plan, outputs);
        for rows in (1..=images_max.min(SHAPES_MAX)).rev() {
            let ran = network.run_filled(&plan.step.dims(), rows, &wanted, |_, _| Ok(()), |_, _| Ok(()));
            ran.and_then(|()| Ok(lane.streams.compute.synchronize()?)).map_err(|failure| network.failed(failure))?;
        }
        Ok(Self {
            lane: Arc::clone(lane),
            kernels: Arc::clone(kernels),
            step: PrepareStep::from(&plan.step),
            plan: plan.clone(),
            dtype,
            wanted,
            images_max,
            slots,
            next: 0,
            first: 0,
            network,
        })
    }

    fn queue(&mut self, images: &[ImageView<'_>]) -> Result<(), Failure> {
        if images.is_empty() || images.len() > self.images_max {
            return Err(format!("{} images; 1 to {} are taken", images.len(), self.images_max).into());
        }
        if self.next - self.first == STARTED_BATCHES_MAX {
            return Err(format!("{STARTED_BATCHES_MAX} batches are started already").into());
        }
        let Self { network, lane, kernels, plan, step, dtype, wanted, slots, .. } = self;
        let Slot { up, down, pending } = &mut slots[self.next % STARTED_BATCHES_MAX];
        let geometries = images.iter().map(|image| Geometry::from(SourceGeometry::fit(&plan.step, image)));
        let geometries: Vec<Geometry> = geometries.collect();
        let (stream, count) = (Arc::clone(&lane.streams.compute), images.len());
        let queued = network.run_filled(
            &plan.step.dims(),
            count,
            wanted,
            |address, bytes| {
                let mut row = 0;
                for (part, images) in parts(images)?.into_iter().enumerate() {
                    if part > 0 {
                        // The part before has to be out of the way; so large a batch is no steady load.
                        stream.synchronize()?;
                    }
                    let sources = up.send(lane, &plan.step, images, row)?;
                    let input = (address, bytes);
                    match dtype {
                        Dtype::I32 => write::<i32>(kernels, &stream, step, &sources, up, input)?,
                        _ => write::<f32>(kernels, &stream, step, &sources, up, input)?,
                    }
                    row += images.len();
                }
                Ok(())
            },
            |computed, rows| match (&plan.boxes, &mut down.boxes) {
                (Some(plan), Some(buffers)) => {
                    find(lane, kernels, plan, computed, rows, &geometries, buffers)?;
                    down.queue_boxes(lane, count)
                }
                _ => down.queue_tensors(lane, computed, wanted, count, rows),
            },
        )?;
        *pending = Some(queued);
        self.next += 1;
        Ok(())
    }

    fn collect(&mut self) -> Result<ImageAnswer, Failure> {
        let slot = &mut self.slots[self.first % STARTED_BATCHES_MAX];
        let Some(pending) = slot.pending.take() else { return Err("no batch was started".to_owned().into()) };
        self.first += 1;
        slot.down.read(pending)
    }
}

impl ImageNetwork for CudaImages {
    fn signature(&self) -> &Signature {
        self.network.signature()
    }

    fn placed(&self) -> Option<&Placed> {
        self.network.placed()
    }

    fn images_max(&self) -> usize {
        self.images_max
    }

    fn start(&mut self, images: &[ImageView<'_>]) -> Result<(), BackendError> {
        let lane = Arc::clone(&self.lane);
        self.queue(images).map_err(|failure| {
            // What was queued before it failed must not find its memory in other hands.
            drop(Waited(&lane));
            self.network.failed(failure)
        })
    }

    fn is_done(&self) -> bool {
        let slot = &self.slots[self.first % STARTED_BATCHES_MAX];
        slot.pending.is_none() || slot.down.is_done()
    }

    fn finish(&mut self) -> Result<ImageAnswer, BackendError> {
        self.collect().map_err(|failure| self.network.failed(failure))
    }
}

impl Drop for CudaImages {
    fn drop(&mut self) {
        // Batches that nobody finished still use the memory that goes now.
        drop(Waited(&self.lane));
    }
}

/// The outputs that a plan needs; `outputs` where it finds no boxes.
fn wanted(plan: &ImagePlan, outputs: &[&str]) -> Vec<String> {
    match &plan.boxes {
        Some(boxes) => boxes.outputs().map(str::to_owned).collect(),
        None => outputs.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Images in parts that fit the GPU's memory for pixels.
fn parts<'a, 'b>(images: &'a [ImageView<'b>]) -> Result<Vec<&'a [ImageView<'b>]>, Failure> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, image) in images.iter().enumerate() {
        let more = aligned(image.bytes.len());
        if more > STAGED_BYTES_MAX {
            return Err(format!("an image of {} bytes; at most {STAGED_BYTES_MAX} are taken", image.bytes.len()).into());
        }
        if bytes + more > STAGED_BYTES_MAX {
            parts.push(&images[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += more;
    }
    parts.push(&images[start..]);
    Ok(parts)
}

/// Queues the writing of images to the network's input, which is at this address with so many bytes.
fn write<T: PreparedElement>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    step: &PrepareStep,
    sources: &[ImageSource],
    up: &mut Up,
    (address, bytes): (u64, usize),
) -> Result<(), Failure> {
    // SAFETY: the input stays as long as the network, has this type, and is used on this stream alone.
    let mut input = unsafe { Foreign::<T>::new(stream, address, bytes / size_of::<T>()) };
    kernels.prepare(stream, step, sources, &up.pixels, &mut up.descriptors, &mut input)?;
    Ok(())
}

/// Queues the finding of boxes in the outputs of `rows` images, of which `geometries` are wanted.
fn find(
    lane: &Lane,
    kernels: &Kernels,
    plan: &BoxPlan,
    computed: &[Computed],
    rows: usize,
    geometries: &[Geometry],
    buffers: &mut BoxBuffers,
) -> Result<(), Failure> {
    let stream = &lane.streams.compute;
    let values = |name: &str, each: usize| {
        let output = computed.iter().find(|output| output.name == name);
        let output = output.ok_or_else(|| format!("output {name} was not given"))?;
        if output.dtype != Dtype::F32 || output.bytes != rows * each * size_of::<f32>() {
            let (dims, dtype) = (&output.dims, output.dtype.name());
            return Err(format!("output {name} is {dims:?} of {dtype}; expected {rows} rows of {each} f32"));
        }
        // SAFETY: so many values lie there until the next run of the network, which is queued on the same stream.
        Ok(unsafe { Foreign::<f32>::new(stream, output.address, rows * each) })
    };
    let selection = (plan.selection.iou_max, geometries);
    match &plan.form {
        BoxForm::Dfl { step, outputs } => {
            let mut levels = Vec::with_capacity(outputs.len());
            for (level, (scores, distances)) in step.levels.iter().zip(outputs) {
                let cells = level.cells as usize;
                let scores = values(scores, cells * step.classes as usize)?;
                levels.push((scores, values(distances, cells * 4 * step.bins as usize)?));
            }
            let levels: Vec<_> = levels.iter().map(|(scores, distances)| (&**scores, &**distances)).collect();
            kernels.detect_dfl(stream, step, &levels, selection, buffers)?;
        }
        BoxForm::Rows { step, output } => {
            let output = values(output, step.rows as usize * 6)?;
            kernels.detect_rows(stream, step, &output, selection, buffers)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sensorium_wire::submit::PixelFormat;

    use super::*;

    #[test]
    fn large_batches_are_divided_and_too_large_images_refused() {
        let bytes = vec![0; STAGED_BYTES_MAX + 1];
        let image =
            |length: usize| ImageView { width: 1, height: 1, format: PixelFormat::Gray8, bytes: &bytes[..length] };
        let sizes = |lengths: &[usize]| {
            let images: Vec<_> = lengths.iter().map(|length| image(*length)).collect();
            parts(&images).ok().map(|parts| parts.iter().map(|part| part.len()).collect::<Vec<_>>())
        };
        let half = STAGED_BYTES_MAX / 2;
        assert_eq!(sizes(&[1; 32]), Some(vec![32]));
        assert_eq!(sizes(&[half, half, half]), Some(vec![2, 1]));
        assert_eq!(sizes(&[half + 1, half, STAGED_BYTES_MAX]), Some(vec![1, 1, 1]));
        assert_eq!(sizes(&[1, STAGED_BYTES_MAX + 1]), None);
    }
}
