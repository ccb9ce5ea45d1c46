//! Models of images on a device that does the steps around the network itself: its twin on the processor stands for it, and
//! has to pass every contract that the processor passes.

use std::path::Path;
use std::time::Instant;

use sensorium_device::backend::images::{ImageNetwork, ImagePlan, STARTED_BATCHES_MAX};
use sensorium_device::backend::{Backend, BackendError, CpuBackend, LoadOptions, Network};
use sensorium_device::cuda::twin::TwinImages;
use sensorium_device::executor::{Executor, JobOutput, Slice};
use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::Reason;
use sensorium_wire::result::ModelResult;

use crate::cache::cpu;
use crate::harness::{Job, Ran, run, run_one};
use crate::media::{frame, jpeg};
use crate::models::loaded;

/// A processor that does the steps around a network as a GPU's kernels would.
pub(crate) struct TwinDevice(CpuBackend);

impl TwinDevice {
    pub(crate) fn open() -> Self {
        Self(cpu())
    }
}

impl Backend for TwinDevice {
    fn name(&self) -> &'static str {
        "twin"
    }

    fn load(&self, file: &Path, options: &LoadOptions<'_>) -> Result<Box<dyn Network>, BackendError> {
        self.0.load(file, options)
    }

    fn load_images(
        &self,
        file: &Path,
        options: &LoadOptions<'_>,
        plan: &ImagePlan,
    ) -> Result<Option<Box<dyn ImageNetwork>>, BackendError> {
        let network = self.0.load(file, options)?;
        let twin = TwinImages::new(file, network, plan, (options.outputs, options.rows_max))?;
        Ok(Some(Box::new(twin)))
    }
}

pub(crate) fn street(number: u32) -> Job {
    Job::frame(576, 768, frame("vtest.avi", number, 576, 768))
}

pub(crate) fn finish(executor: &mut dyn Executor, jobs: usize, since: Instant) -> Vec<Ran> {
    let mut rooms = vec![vec![0; 64 << 10]; jobs];
    let mut outputs: Vec<_> = rooms.iter_mut().map(|room| JobOutput::new(room)).collect();
    executor.finish(&mut outputs, since, &|_| ());
    let done: Vec<_> = outputs.into_iter().map(|output| (output.answer, output.times, output.unfinished)).collect();
    done.into_iter()
        .zip(rooms)
        .map(|((answer, times, unfinished), body)| Ran { answer, times, unfinished, body })
        .collect()
}

fn started_ahead(backend: &dyn Backend) {
    let mut executor = loaded(backend, "nanodet");
    assert!(executor.started_jobs_max() >= 2);
    let batches =
        [vec![street(0), Job::image(b"no image".to_vec()), street(300)], vec![Job::image(jpeg("vtest.avi", 200))]];
    let alone: Vec<Vec<_>> = batches.iter().map(|batch| run(executor.as_mut(), batch)).collect();
    for _ in 0..3 {
        for batch in &batches {
            let inputs: Vec<_> = batch.iter().map(|job| job.input(Slice::default())).collect();
            executor.start(&inputs, &|_| ());
        }
        for (batch, expected) in batches.iter().zip(&alone) {
            for (found, expected) in finish(executor.as_mut(), batch.len(), Instant::now()).iter().zip(expected) {
                match &expected.answer {
                    Ok(_) => assert_eq!(found.result(), expected.result()),
                    Err(rejection) => found.refused(rejection.reason, &rejection.detail),
                }
            }
        }
    }
    assert!(matches!(alone[0][0].result(), ModelResult::Detections { detections } if detections.len() > 1));
}

fn times_beside(backend: &dyn Backend) {
    let mut executor = loaded(backend, "nanodet");
    let job = street(100);
    let began = Instant::now();
    executor.start(&[job.input(Slice::default())], &|_| ());
    let [ran] = &finish(executor.as_mut(), 1, began)[..] else { panic!("one job") };
    assert!(ran.times.prepare_ns > 0 && ran.times.interpret_ns > 0, "{:?}", ran.times);
    executor.start(&[job.input(Slice::default())], &|_| ());
    let [ran] = &finish(executor.as_mut(), 1, Instant::now())[..] else { panic!("one job") };
    assert!(ran.times.prepare_ns == 0 && ran.times.infer_ns > 0, "{:?}", ran.times);
}

fn too_many_batches(backend: &dyn Backend) {
    let mut executor = loaded(backend, "nanodet");
    let job = street(100);
    for _ in 0..=STARTED_BATCHES_MAX {
        executor.start(&[job.input(Slice::default())], &|_| ());
    }
    for _ in 0..STARTED_BATCHES_MAX {
        let _ = finish(executor.as_mut(), 1, Instant::now())[0].result();
    }
    finish(executor.as_mut(), 1, Instant::now())[0].refused(Reason::ExecutionFailed, "started already");
    // Nothing was started: nothing is said of anything.
    finish(executor.as_mut(), 1, Instant::now())[0].refused(Reason::Internal, "");
    let _ = run_one(executor.as_mut(), &job).result();
}

fn too_large(backend: &dyn Backend) {
    let mut executor = loaded(backend, "nanodet");
    let wide = Job::frame(1, 16_385, vec![0; 16_385 * 3]);
    let short = Job::frame(576, 768, vec![0; 100]);
    let ran = run(executor.as_mut(), &[wide, short, street(0)]);
    ran[0].refused(Reason::InvalidPayload, "16385 × 1 pixels");
    ran[1].refused(Reason::InvalidShape, "");
    let _ = ran[2].result();
}

fn stages(backend: &dyn Backend) {
    let mut executor = loaded(backend, "movenet");
    let stages = std::cell::RefCell::new(Vec::new());
    let jobs = [street(0), street(1)];
    let _ = crate::harness::run_staged(executor.as_mut(), &jobs, 64 << 10, &|stage| stages.borrow_mut().push(stage));
    let count = |wanted: Stage| stages.borrow().iter().filter(|stage| **stage == wanted).count();
    assert_eq!((count(Stage::Prepare), count(Stage::Interpret)), (2, 2));
    assert!(count(Stage::Infer) > 0);
}

/// What any device must do that does the steps around networks of images itself.
pub(crate) fn contract(backend: &dyn Backend) {
    started_ahead(backend);
    times_beside(backend);
    too_many_batches(backend);
    too_large(backend);
    stages(backend);
}

#[test]
fn batches_that_are_started_ahead_are_answered_in_order_as_if_they_had_been_run() {
    started_ahead(&TwinDevice::open());
}

#[test]
fn what_was_done_beside_the_batch_before_is_in_no_time() {
    times_beside(&TwinDevice::open());
}

#[test]
fn a_device_that_cannot_take_a_batch_fails_its_jobs_alone() {
    too_many_batches(&TwinDevice::open());
}

#[test]
fn an_image_that_is_too_large_for_a_kernel_is_refused_alone() {
    too_large(&TwinDevice::open());
}

#[test]
fn stages_are_called_for_each_job() {
    stages(&TwinDevice::open());
}
