//! A scheduler with a clock that tests turn by hand.

use sensorium_wire::{Modality, Urgency};

use crate::{
    BatchId, Command, DeviceId, Event, Handled, Job, JobKey, LaneId, ModelKey, ModelPolicy, Scheduler, Settings,
    Unfinished,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const NEVER: u64 = u64::MAX;

pub(crate) struct Desk {
    pub(crate) scheduler: Scheduler,
    pub(crate) now_ns: u64,
}

impl Desk {
    pub(crate) fn new(settings: Settings) -> Self {
        // The second batch is committed at once, which is easier to follow; one test is about the default.
        Self { scheduler: Scheduler::new(Settings { commit_ahead_ns: u64::MAX, ..settings }), now_ns: 0 }
    }

    /// Device 1 with lane 1, which serves model 1: 10 ms a job, 16 ms for four, 100 ms are too long.
    pub(crate) fn with_one_lane() -> Self {
        let mut desk = Self::new(Settings::default());
        desk.open(1, 1, &[1]);
        desk
    }

    pub(crate) fn send(&mut self, event: Event) -> (Handled, Vec<Command>) {
        let mut out = Vec::new();
        let handled = self.scheduler.handle(self.now_ns, event, &mut out);
        (handled, out)
    }

    pub(crate) fn apply(&mut self, event: Event) -> Vec<Command> {
        let (handled, out) = self.send(event);
        assert_eq!(handled, Handled::Applied);
        out
    }

    pub(crate) fn open(&mut self, lane: u32, device: u32, models: &[u32]) -> Vec<Command> {
        let models = models.iter().map(|model| (ModelKey(*model), policy())).collect();
        self.apply(Event::LaneOpened {
            lane: LaneId(lane),
            device: DeviceId(device),
            modality: Modality::Visual,
            models,
        })
    }

    pub(crate) fn arrive(&mut self, key: u64, deadline_ns: u64) -> Vec<Command> {
        self.arrive_for(key, 1, deadline_ns, Urgency::Standard)
    }

    pub(crate) fn arrive_for(&mut self, key: u64, model: u32, deadline_ns: u64, urgency: Urgency) -> Vec<Command> {
        self.apply(Event::JobArrived(Job { urgency, ..Job::new(JobKey(key), ModelKey(model), deadline_ns) }))
    }

    pub(crate) fn done(&mut self, lane: u32, batch: u64) -> Vec<Command> {
        self.apply(Event::BatchDone {
            lane: LaneId(lane),
            batch: BatchId(batch),
            service_ns: 10 * MS,
            unfinished: Unfinished::new(),
        })
    }

    pub(crate) fn lose(&mut self, device: u32) -> Vec<Command> {
        self.apply(Event::DeviceLost { device: DeviceId(device) })
    }

    /// What a tick brings, but for plans, which have tests of their own.
    pub(crate) fn tick(&mut self) -> Vec<Command> {
        let mut commands = self.apply(Event::Tick);
        commands.retain(|command| !matches!(command, Command::PlanChanged(_)));
        commands
    }
}

pub(crate) fn policy() -> ModelPolicy {
    ModelPolicy::new(4, 100 * MS, vec![(1, 10 * MS), (4, 16 * MS)], vec![])
}

/// Lane, batch, and each job with its attempt.
type Dispatched = (u32, u64, Vec<(u64, u32)>);

/// The dispatches among the commands.
pub(crate) fn dispatches(commands: &[Command]) -> Vec<Dispatched> {
    let dispatch = |command: &Command| match command {
        Command::Dispatch { lane, batch, jobs, .. } => {
            Some((lane.0, batch.0, jobs.iter().map(|job| (job.key.0, job.attempt)).collect()))
        }
        _ => None,
    };
    commands.iter().filter_map(dispatch).collect()
}
