//! The executor of models that take images, on a device that resizes, normalises and finds boxes itself.
//!
//! Only what the device cannot do is done here: encoded images are decoded, and answers are written. While the device is at
//! one batch, the next can be opened and copied to it.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Instant;

use sensorium_processing::image::{Image, ImageStep, ImageView};
use sensorium_wire::receipt::Stage;
use sensorium_wire::rejection::{Reason, Rejection};

use super::interpretation::Interpretation;
use super::preparation::Opened;
use super::preparation::image::{decoded, opened, view};
use super::{Executor, JobInput, JobOutput, StageTimes, refused};
use crate::backend::images::{ImageAnswer, ImageNetwork, STARTED_BATCHES_MAX};
use crate::cuda::arguments::SIDE_PIXELS_MAX;

/// See the module.
pub(super) struct ImagesExecutor {
    network: Box<dyn ImageNetwork>,
    manifest_file: PathBuf,
    step: ImageStep,
    interpretation: Box<dyn Interpretation>,
    /// Oldest first.
    started: VecDeque<Started>,
}

/// A batch that was started.
struct Started {
    jobs: Vec<StartedJob>,
    /// Why the device has nothing of it; no images are no reason.
    failure: Option<Rejection>,
    /// Images that the device has.
    images: usize,
    /// When it was given to the device, which takes its time for it.
    handed_over: Instant,
}

struct StartedJob {
    outcome: Result<Opened, Rejection>,
    began: Instant,
    ended: Instant,
}

impl ImagesExecutor {
    pub(super) fn new(
        network: Box<dyn ImageNetwork>,
        manifest_file: PathBuf,
        step: ImageStep,
        interpretation: Box<dyn Interpretation>,
    ) -> Self {
        Self { network, manifest_file, step, interpretation, started: VecDeque::with_capacity(STARTED_BATCHES_MAX) }
    }

    /// Interprets what the device said of image number `image`, which is that of job `job`.
    fn take(&mut self, job: usize, answer: &ImageAnswer, image: usize) -> Result<(), Rejection> {
        match answer {
            ImageAnswer::Tensors(tensors) => self.interpretation.row(job, tensors, image),
            ImageAnswer::Boxes(boxes) => match boxes.of(image) {
                Some((outcome, found)) => self.interpretation.boxes(job, outcome, found),
                None => Err(Rejection::new(
                    Reason::ExecutionFailed,
                    format!("{}: no boxes were given for image {image}", self.manifest_file.display()),
                )),
            },
        }
    }
}

/// Decodes what is encoded and checks what the device will be given.
fn open(step: &ImageStep, job: &JobInput<'_>) -> Result<(Option<Image>, Opened), Rejection> {
    let image = decoded(job)?;
    let seen = view(image.as_ref(), job)?;
    seen.check().map_err(refused)?;
    if seen.width.max(seen.height) > SIDE_PIXELS_MAX {
        let detail = format!("{} × {} pixels; a side has at most {SIDE_PIXELS_MAX}", seen.width, seen.height);
        return Err(Rejection::new(Reason::InvalidPayload, detail));
    }
    let opened = opened(step, &seen);
    Ok((image, opened))
}

impl Executor for ImagesExecutor {
    fn run(&mut self, jobs: &[JobInput<'_>], outputs: &mut [JobOutput<'_>], on_stage: &dyn Fn(Stage)) {
        let size = self.network.images_max().max(1);
        for (jobs, outputs) in jobs.chunks(size).zip(outputs.chunks_mut(size)) {
            let began = Instant::now();
            self.start(jobs, on_stage);
            self.finish(outputs, began, on_stage);
        }
    }

    fn started_jobs_max(&self) -> usize {
        self.network.images_max()
    }

    fn start(&mut self, jobs: &[JobInput<'_>], on_stage: &dyn Fn(Stage)) {
        let mut images = Vec::with_capacity(jobs.len());
        let mut opened_jobs = Vec::with_capacity(jobs.len());
        for job in jobs {
            let began = Instant::now();
            on_stage(Stage::Prepare);
            let (image, outcome) = match open(&self.step, job) {
                Ok((image, opened)) => (image, Ok(opened)),
                Err(rejection) => (None, Err(rejection)),
            };
            images.push(image);
            opened_jobs.push(StartedJob { outcome, began, ended: Instant::now() });
        }
        let good = jobs.iter().zip(&images).zip(&opened_jobs).filter(|(_, opened)| opened.outcome.is_ok());
        let views: Vec<ImageView<'_>> = good.filter_map(|((job, image), _)| view(image.as_ref(), job).ok()).collect();
        let handed_over = Instant::now();
        let failure = match &views[..] {
            [] => None,
            views => self.network.start(views).err(),
        };
        self.started.push_back(Started {
            jobs: opened_jobs,
            images: if failure.is_some() { 0 } else { views.len() },
            failure: failure.map(|error| Rejection::new(Reason::ExecutionFailed, error.to_string())),
            handed_over,
        });
    }

    fn is_done(&self) -> bool {
        // What the device never had is not waited for.
        self.started.front().is_none_or(|batch| batch.images == 0) || self.network.is_done()
    }

    fn finish(&mut self, outputs: &mut [JobOutput<'_>], since: Instant, on_stage: &dyn Fn(Stage)) {
        let Some(Started { jobs, failure, images, handed_over }) = self.started.pop_front() else { return };
        on_stage(Stage::Infer);
        let answer = match failure {
            Some(rejection) => Err(rejection),
            None if images == 0 => Ok(ImageAnswer::Tensors(Vec::new())),
            None => self.network.finish().map_err(|error| Rejection::new(Reason::ExecutionFailed, error.to_string())),
        };
        let infer_ns = between_ns(handed_over.max(since), Instant::now());
        self.interpretation.begin(jobs.len());
        let mut image = 0;
        for (index, (job, output)) in jobs.into_iter().zip(outputs).enumerate() {
            let prepare_ns = between_ns(job.began.max(since), job.ended);
            output.unfinished = false;
            output.times = StageTimes { prepare_ns, ..StageTimes::default() };
            output.answer = match job.outcome {
                Err(rejection) => Err(rejection),
                Ok(opened) => {
                    output.times.infer_ns = infer_ns;
                    let began = Instant::now();
                    on_stage(Stage::Interpret);
                    self.interpretation.expect(index, &opened);
                    let taken = match &answer {
                        Ok(answer) => self.take(index, answer, image),
                        Err(rejection) => Err(rejection.clone()),
                    };
                    image += 1;
                    let answer = taken.and_then(|()| self.interpretation.finish(index, output.bytes));
                    output.times.interpret_ns = between_ns(began, Instant::now());
                    answer
                }
            };
        }
    }
}

/// Nanoseconds from one to the other; 0 when they are in the wrong order.
fn between_ns(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}
