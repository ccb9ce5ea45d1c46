//! A place for one worker process of a device: the thread that starts and reaps it, and how far it is.

use std::io;
use std::os::fd::OwnedFd;

use ractor::ActorRef;
use sensorium_device::protocol::{LaneReport, WorkerReport};
use sensorium_device::supervise::{WorkerSpec, WorkerSupervisor};

use super::DeviceMessage;

/// See the module. Dropping it kills the worker and waits until it has been reaped.
pub(super) struct Place {
    supervisor: WorkerSupervisor,
    /// Number of its worker's start; 0 = none was ordered yet.
    incarnation: u64,
    pub(super) pid: Option<u32>,
    /// Another one served when it was started.
    pub(super) is_second: bool,
    pub(super) stage: Stage,
}

/// How far a place's worker is.
pub(super) enum Stage {
    /// There is none: what was here has been reaped, and none is on its way.
    Empty,
    /// The same, and a `Start` for this place is on its way.
    Resting,
    /// Ordered; it loads its models.
    Loading,
    /// Loaded and warm; it serves as soon as nobody else does.
    Waiting(ReadyWorker),
    /// Jobs go to it.
    Serving,
    /// Killed while it did not serve, and not reaped yet.
    Ending,
}

/// A worker that can serve.
pub(super) struct ReadyWorker {
    pub(super) report: WorkerReport,
    pub(super) lanes: Vec<OwnedFd>,
    pub(super) groups: Vec<OwnedFd>,
}

impl Place {
    pub(super) fn new(device: &str, actor: ActorRef<DeviceMessage>) -> io::Result<Self> {
        let supervisor = WorkerSupervisor::launch(device, move |event| {
            // An actor that is gone has killed its workers when it was dropped.
            let _ = actor.cast(DeviceMessage::Worker(event));
        })?;
        Ok(Self { supervisor, incarnation: 0, pid: None, is_second: false, stage: Stage::Empty })
    }

    /// Orders a worker. The place must be free.
    pub(super) fn start(&mut self, incarnation: u64, spec: WorkerSpec) -> Result<(), &'static str> {
        self.supervisor.start(incarnation, spec)?;
        (self.incarnation, self.stage) = (incarnation, Stage::Loading);
        Ok(())
    }

    pub(super) fn is_of(&self, incarnation: u64) -> bool {
        self.incarnation == incarnation
    }

    /// Nothing of a worker is left here.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.stage, Stage::Empty | Stage::Resting)
    }

    /// Kills the worker, if there is one; it is told of when it has been reaped. One that does not serve never will.
    pub(super) fn kill(&mut self) {
        match self.stage {
            Stage::Empty | Stage::Resting | Stage::Serving | Stage::Ending => {}
            Stage::Loading | Stage::Waiting(_) => self.stage = Stage::Ending,
        }
        self.supervisor.kill();
    }

    /// The worker that waits here, if it still lives.
    pub(super) fn take_waiting(&mut self) -> Option<ReadyWorker> {
        if !matches!(self.stage, Stage::Waiting(_)) || !self.supervisor.is_alive() {
            return None;
        }
        match std::mem::replace(&mut self.stage, Stage::Serving) {
            Stage::Waiting(worker) => Some(worker),
            Stage::Empty | Stage::Resting | Stage::Loading | Stage::Serving | Stage::Ending => None,
        }
    }
}

/// The first model that a worker lacks and the serving one has, with the reason.
pub(super) fn lacks(standby: &[LaneReport], serving: &[LaneReport]) -> Option<String> {
    let models = |lanes: &'_ [LaneReport]| lanes.iter().flat_map(|lane| lane.models.clone()).collect::<Vec<_>>();
    models(standby).into_iter().zip(models(serving)).find_map(|(mine, other)| match (mine.outcome, other.outcome) {
        (Err(reason), Ok(_)) => Some(format!("{}: {reason}", mine.name)),
        (Err(_), Err(_)) | (Ok(_), _) => None,
    })
}

#[cfg(test)]
mod tests {
    use sensorium_device::protocol::{Measured, ModelReport, PlacementReport};
    use sensorium_models::ServiceProfile;
    use sensorium_wire::Modality;

    use super::*;

    fn lane(outcomes: &[Result<(), &str>]) -> Vec<LaneReport> {
        let measured =
            || Measured { variant: "fp32".to_owned(), profile: ServiceProfile { batches: Vec::new(), arena_bytes: 0 } };
        let model = |outcome: &Result<(), &str>| ModelReport {
            name: "nanodet".to_owned(),
            version: 1,
            load_ms: 1,
            outcome: outcome.map(|()| measured()).map_err(str::to_owned),
            note: None,
            placement: PlacementReport::default(),
        };
        vec![LaneReport { modality: Modality::Visual, models: outcomes.iter().map(model).collect() }]
    }

    #[test]
    fn a_standby_must_have_what_the_serving_worker_has() {
        assert_eq!(lacks(&lane(&[Ok(()), Ok(())]), &lane(&[Ok(()), Err("no file")])), None);
        assert_eq!(lacks(&lane(&[Err("no file")]), &lane(&[Err("no file")])), None);
        let lacking = lacks(&lane(&[Ok(()), Err("out of GPU memory")]), &lane(&[Ok(()), Ok(())]));
        assert_eq!(lacking.as_deref(), Some("nanodet: out of GPU memory"));
    }
}
