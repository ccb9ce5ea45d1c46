//! Answers on their way back from the GPU.
#![allow(unsafe_code, reason = "copies from memory that ONNX Runtime allocated")]

use cudarc::driver::CudaEvent;
use sensorium_wire::tensor::Dtype;

use crate::backend::TensorBuffer;
use crate::backend::cuda::Lane;
use crate::backend::cuda::driver::{self, Staging, aligned};
use crate::backend::cuda::inputs::output;
use crate::backend::cuda::network::{Computed, Failure, pick};
use crate::backend::images::{FoundBoxes, ImageAnswer, ImagePlan};
use crate::cuda::arguments::{Found, Outcome};
use crate::cuda::launch::BoxBuffers;

/// Memory for the answers of one batch.
pub(super) struct Down {
    pub(super) boxes: Option<BoxBuffers>,
    staging: Staging,
    computed: CudaEvent,
    downloaded: CudaEvent,
}

/// What is on its way.
pub(super) enum Pending {
    /// Of so many images.
    Boxes(usize),
    /// Outputs, and where each starts.
    Tensors { images: usize, outputs: Vec<(Output, usize)> },
}

/// An output without its place on the device.
pub(super) struct Output {
    name: String,
    dims: Vec<usize>,
    dtype: Dtype,
    bytes: usize,
    /// Rows that were computed, of which some only filled the batch up.
    rows: usize,
}

impl Down {
    pub(super) fn new(lane: &Lane, plan: &ImagePlan, images_max: usize) -> Result<Self, Failure> {
        let (context, stream) = (&lane.device.context, &lane.streams.compute);
        let boxes = match &plan.boxes {
            Some(boxes) => {
                let places = u32::try_from(boxes.selection.detections_max).unwrap_or(u32::MAX);
                Some(BoxBuffers::new(stream, boxes.candidates(), images_max, places)?)
            }
            None => None,
        };
        let (computed, downloaded) = (context.new_event(None)?, context.new_event(None)?);
        Ok(Self { boxes, staging: Staging::new(context), computed, downloaded })
    }

    /// Queues the copy of the boxes whose finding was queued last.
    pub(super) fn queue_boxes(&mut self, lane: &Lane, images: usize) -> Result<Pending, Failure> {
        let Some(boxes) = &self.boxes else { return Err("no boxes are found".to_owned().into()) };
        let (outcome_bytes, found_bytes) = box_bytes(images, boxes.places());
        let (outcomes, found) = self.staging.of(outcome_bytes + found_bytes)?.split_at_mut(outcome_bytes);
        let outcomes = bytemuck::cast_slice_mut(&mut outcomes[..images * size_of::<Outcome>()]);
        self.computed.record(&lane.streams.compute)?;
        lane.streams.download.wait(&self.computed)?;
        // The pinned memory is read only once `downloaded` has come.
        boxes.download(&lane.streams.download, outcomes, bytemuck::cast_slice_mut(&mut found[..found_bytes]))?;
        self.downloaded.record(&lane.streams.download)?;
        Ok(Pending::Boxes(images))
    }

    /// Queues the copies of outputs; `rows` were computed for `images` images.
    pub(super) fn queue_tensors(
        &mut self,
        lane: &Lane,
        computed: &[Computed],
        wanted: &[String],
        images: usize,
        rows: usize,
    ) -> Result<Pending, Failure> {
        let (picked, end) = pick(computed, wanted.iter().map(String::as_str))?;
        let pinned = self.staging.of(end)?;
        // On the stream that computes: the runtime may use the outputs' memory for the next batch.
        let stream = &lane.streams.compute;
        let mut outputs = Vec::with_capacity(picked.len());
        for (output, start) in picked {
            let place = &mut pinned[start..start + output.bytes];
            // SAFETY: the output at this address has so many bytes until the next run, which is queued on the same stream;
            // the pinned memory is used again only after this batch.
            unsafe { driver::download(stream, output.address, place)? };
            let Computed { name, dims, dtype, bytes, .. } = output;
            let (name, dims, dtype, bytes) = (name.clone(), dims.clone(), *dtype, *bytes);
            outputs.push((Output { name, dims, dtype, bytes, rows }, start));
        }
        self.downloaded.record(stream)?;
        Ok(Pending::Tensors { images, outputs })
    }

    /// Whether nothing is on its way any more. An error is something to be read.
    pub(super) fn is_done(&self) -> bool {
        self.downloaded.try_is_complete().unwrap_or(true)
    }

    /// Waits for what is on its way.
    pub(super) fn read(&mut self, pending: Pending) -> Result<ImageAnswer, Failure> {
        self.downloaded.synchronize()?;
        match pending {
            Pending::Boxes(images) => {
                let places = self.boxes.as_ref().map_or(0, BoxBuffers::places);
                let (outcome_bytes, found_bytes) = box_bytes(images, places);
                let (outcomes, found) = self.staging.of(outcome_bytes + found_bytes)?.split_at(outcome_bytes);
                let outcomes = bytemuck::cast_slice(&outcomes[..images * size_of::<Outcome>()]).to_vec();
                let found = bytemuck::cast_slice(&found[..found_bytes]).to_vec();
                Ok(ImageAnswer::Boxes(FoundBoxes { outcomes, found, places }))
            }
            Pending::Tensors { images, outputs } => {
                let end = outputs.last().map_or(0, |(output, start)| start + output.bytes);
                let bytes = self.staging.of(end)?;
                let tensors = outputs.into_iter().map(|(Output { name, dims, dtype, bytes: count, rows }, start)| {
                    let data =
                        TensorBuffer::new(dtype).ok_or_else(|| format!("output {name} is of {}", dtype.name()))?;
                    output(&name, dims, data, &bytes[start..start + count], Some((images, rows)))
                });
                Ok(ImageAnswer::Tensors(tensors.collect::<Result<_, String>>()?))
            }
        }
    }
}

/// Bytes of the outcomes, up to where the boxes start, and of the boxes.
const fn box_bytes(images: usize, places: usize) -> (usize, usize) {
    (aligned(images * size_of::<Outcome>()), images * places * size_of::<Found>())
}
