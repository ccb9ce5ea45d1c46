//! Pixels on their way to the GPU.
#![allow(unsafe_code, reason = "copies from payload memory while others may be told of it")]

use cudarc::driver::{CudaEvent, CudaSlice, DevicePtr};
use sensorium_processing::image::{ImageStep, ImageView};

use crate::backend::cuda::Lane;
use crate::backend::cuda::driver::{self, PinnedSlab, Staging, aligned};
use crate::backend::cuda::network::Failure;
use crate::cuda::arguments::ImageSource;

/// Memory for the pixels of one batch.
pub(super) struct Up {
    /// On the GPU.
    pub(super) pixels: CudaSlice<u8>,
    pub(super) descriptors: CudaSlice<ImageSource>,
    /// Pixels that do not lie in payload memory.
    staging: Staging,
    uploaded: CudaEvent,
}

impl Up {
    pub(super) fn new(lane: &Lane, images_max: usize) -> Result<Self, Failure> {
        let (context, stream) = (&lane.device.context, &lane.streams.compute);
        Ok(Self {
            pixels: stream.alloc_zeros(aligned(1))?,
            descriptors: stream.alloc_zeros(images_max)?,
            staging: Staging::new(context),
            uploaded: context.new_event(None)?,
        })
    }

    /// Sends pixels up; the lane's computation waits for them from here on. Row `row` is the first image's.
    pub(super) fn send(
        &mut self,
        lane: &Lane,
        step: &ImageStep,
        images: &[ImageView<'_>],
        row: usize,
    ) -> Result<Vec<ImageSource>, Failure> {
        let slab = lane.slab.as_deref();
        let total = images.iter().map(|image| aligned(image.bytes.len())).sum();
        if self.pixels.len() < total {
            self.pixels = lane.streams.compute.alloc_zeros(total.next_power_of_two())?;
            lane.streams.compute.synchronize()?;
        }
        let foreign = images.iter().filter(|image| !lies_in(slab, image.bytes));
        let pinned = self.staging.of(foreign.map(|image| aligned(image.bytes.len())).sum())?;
        let address = self.pixels.device_ptr(&lane.streams.upload).0;
        let (mut offset, mut used) = (0, 0);
        let mut sources = Vec::with_capacity(images.len());
        for (slot, image) in (row..).zip(images) {
            let from = if lies_in(slab, image.bytes) {
                image.bytes
            } else {
                let place = &mut pinned[used..used + image.bytes.len()];
                place.copy_from_slice(image.bytes);
                used += aligned(image.bytes.len());
                &*place
            };
            // SAFETY: the memory has room for all images one after the other. What is copied from is either payload memory,
            // which the lane keeps mapped, or pinned memory of this slot, which is used again only after its batch.
            unsafe { driver::upload(&lane.streams.upload, from, address + offset as u64)? };
            let slot = u32::try_from(slot).map_err(|_| Failure::Said("too many images".to_owned()))?;
            sources.push(ImageSource::packed(step, image, offset as u64, slot));
            offset += aligned(image.bytes.len());
        }
        self.uploaded.record(&lane.streams.upload)?;
        lane.streams.compute.wait(&self.uploaded)?;
        Ok(sources)
    }
}

/// Whether the GPU can copy `bytes` from where they are for as long as the lane lives.
fn lies_in(slab: Option<&PinnedSlab>, bytes: &[u8]) -> bool {
    let Some(slab) = slab else { return false };
    let (start, length) = slab.memory().span_of_all();
    let start = start.as_ptr().addr();
    let first = bytes.as_ptr().addr();
    first >= start && first + bytes.len() <= start + length
}
