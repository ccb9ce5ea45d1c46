//! One lane: its models and the loop that runs their batches.

mod batch;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::net::RecvFlags;
use sensorium_models::repository::Repository;

use self::batch::{Answers, Batch, Received, receive, receive_until};
use super::noting::Noting;
use crate::backend::Backend;
use crate::executor::{self, Executor, STARTED_BATCHES_MAX};
use crate::protocol::{
    Injection, LaneReport, LaneSetup, Measured, ModelReport, ModelSetup, PACKET_BYTES_MAX, PlacementReport,
};
use crate::slab::SharedMemory;

/// Lanes load beside each other, but only one model is measured at a time: both its times and its memory (what the process
/// grows by) would otherwise be its neighbours' as well.
static MEASURING: Mutex<()> = Mutex::new(());
/// Runs that warm a model whose times are known.
const WARM_UP_RUNS: u32 = 1;

pub(super) struct Lane {
    models: Vec<Model>,
    report: LaneReport,
}

struct Model {
    executor: Option<Box<dyn Executor>>,
}

impl Lane {
    /// Loads, warms and measures the lane's models. One that cannot be loaded is reported; the others work.
    ///
    /// `gently`: one model after the other in the whole process, because another worker serves meanwhile.
    pub(super) fn load(setup: &LaneSetup, repository: &Repository, backend: &mut dyn Backend, gently: bool) -> Self {
        let mut lane = Self { models: Vec::new(), report: LaneReport { modality: setup.modality, models: Vec::new() } };
        for model in &setup.models {
            let name = &model.name;
            let began = Instant::now();
            let backend = Noting::new(backend);
            let mut note = None;
            let loaded = load_model(model, repository, &backend, gently, &mut note);
            let load_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            let manifest = repository.models.get(name).map(|package| &package.manifest);
            let version = manifest.map_or(0, |manifest| manifest.version);
            let compute = manifest.map(|manifest| manifest.placement.compute).unwrap_or_default();
            let (executor, outcome, placement) = match loaded {
                Ok((executor, measured)) => (Some(executor), Ok(measured), backend.placed().report(compute)),
                Err(reason) => (None, Err(reason), PlacementReport::default()),
            };
            lane.models.push(Model { executor });
            lane.report.models.push(ModelReport { name: name.clone(), version, load_ms, outcome, note, placement });
        }
        lane
    }

    pub(super) fn report(&self) -> LaneReport {
        self.report.clone()
    }

    /// Runs batches until the node closes the socket.
    ///
    /// # Errors
    /// When the node sends what no sound node sends, the socket fails, or the device ended for this process: the batch
    /// is then not answered, and the node runs it again elsewhere.
    pub(super) fn run(
        &mut self,
        socket: &OwnedFd,
        memory: &SharedMemory,
        injection: &Injection,
        backend: &dyn Backend,
    ) -> Result<(), String> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        let mut started: VecDeque<Batch> = VecDeque::with_capacity(STARTED_BATCHES_MAX);
        let mut answers = Answers::new(socket, memory, injection);
        loop {
            // Until the batch that was started first is done, one more may come and be started beside it.
            let next = match started.front() {
                None => receive(socket, &mut packet, RecvFlags::empty())?,
                Some(_) if started.len() == STARTED_BATCHES_MAX => Received::Nothing,
                Some(first) => {
                    let executor = self.executor(first)?;
                    receive_until(socket, &mut packet, || executor.is_done())?
                }
            };
            let batch = match next {
                Received::Batch(bytes) => Batch::read(&packet[..bytes], injection)?,
                Received::Nothing => {
                    if let Some(batch) = started.pop_front() {
                        answers.finish(self.executor(&batch)?, &batch, backend)?;
                    }
                    continue;
                }
                Received::End => return Ok(()),
            };
            if batch.has(memory, injection.illegal_on_prefix.as_deref()) {
                // What it does to the GPU shows at the batch's answer.
                if let Err(reason) = backend.access_illegally() {
                    tracing::warn!(reason, "illegal_on_prefix of [inject] did nothing");
                }
            }
            let executor = self.executor(&batch)?;
            if batch.jobs.len() <= executor.started_jobs_max() {
                executor.start(&batch.inputs(memory, injection)?, &|stage| injection.pause(stage));
                started.push_back(batch);
                continue;
            }
            // Batches are answered in the order in which they came.
            while let Some(batch) = started.pop_front() {
                answers.finish(self.executor(&batch)?, &batch, backend)?;
            }
            answers.run(self.executor(&batch)?, &batch, backend)?;
        }
    }

    fn executor(&mut self, batch: &Batch) -> Result<&mut dyn Executor, String> {
        let model = self.models.get_mut(batch.head.model as usize).and_then(|model| model.executor.as_deref_mut());
        match model {
            Some(executor) => Ok(executor),
            None => Err(format!("batch {} is for model {}, which is not loaded", batch.head.batch, batch.head.model)),
        }
    }
}

fn load_model(
    setup: &ModelSetup,
    repository: &Repository,
    backend: &dyn Backend,
    gently: bool,
    note: &mut Option<String>,
) -> Result<(Box<dyn Executor>, Measured), String> {
    let name = &setup.name;
    let package = repository.models.get(name).ok_or_else(|| format!("{name}: not in the repository"))?;
    let (package, otherwise) = executor::chosen(package, setup.precision);
    *note = otherwise;
    let variant = executor::variant_name(&package, backend);
    // Times of something else say nothing of this.
    let known = setup.known.as_ref().filter(|known| known.variant == variant);
    let alone = (known.is_none() || gently || backend.loads_alone()).then(|| MEASURING.lock());
    let Some(known) = known else {
        let (executor, profile) = executor::load_measured(&package, backend).map_err(|error| error.to_string())?;
        return Ok((executor, Measured { variant, profile }));
    };
    let mut executor = executor::load(&package, backend).map_err(|error| error.to_string())?;
    executor::warm_up(&mut *executor, &package, WARM_UP_RUNS)?;
    drop(alone);
    Ok((executor, known.clone()))
}

#[cfg(test)]
mod tests;
