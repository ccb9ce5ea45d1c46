//! Random lives of a small node, from a seed.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sensorium_scheduler::{
    BatchId, Command, DeviceId, DeviceKind, Event, Handled, Job, JobKey, LaneId, ModelKey, ModelPolicy, PlanPolicy,
    PolicyKind, PrincipalKey, Scheduler, Settings, StreamKey, Unfinished,
};
use sensorium_wire::{Modality, Urgency};

use crate::checker::Checker;

const MS: u64 = 1_000_000;
const DEVICES: u32 = 3;
const MODELS: u32 = 4;
const SLICED_MODEL: u32 = 3;

/// A fault put between scheduler and checker, to see that the checker notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The first command after this many is lost (a lost `ReplaceWorker` does no harm to any job, so not that one).
    DropCommand(usize),
    /// A batch that is done is reported as done again, and believed.
    RepeatDone,
    /// A batch of more than one job is handed over in the reverse order.
    ReverseBatch,
    /// A dispatched job is dispatched a second time.
    RepeatDispatch,
}

/// What one run did.
pub(crate) struct Run {
    pub(crate) settings: Settings,
    pub(crate) events: Vec<(u64, Event)>,
    pub(crate) commands: Vec<Command>,
    pub(crate) checker: Checker,
    pub(crate) fault_struck: bool,
}

struct Driver {
    random: StdRng,
    fault: Fault,
    scheduler: Scheduler,
    run: Run,
    now_ns: u64,
    keys: u64,
    lanes: u32,
    seen: usize,
    late: Vec<(LaneId, BatchId)>,
}

/// Plays `steps` random events and then lets everything end.
pub(crate) fn run(seed: u64, steps: usize, fault: Fault) -> Result<Run, String> {
    let mut random = StdRng::seed_from_u64(seed);
    let settings = Settings {
        queue_jobs_max: random.random_range(1..8),
        restart_wait_ns: random.random_range(1..200) * MS,
        ..Settings::default()
    };
    let checker = Checker::new(settings.queue_jobs_max);
    let scheduler = Scheduler::new(settings.clone());
    let run = Run { settings, events: Vec::new(), commands: Vec::new(), checker, fault_struck: false };
    let mut driver = Driver { random, fault, scheduler, run, now_ns: 0, keys: 0, lanes: 0, seen: 0, late: Vec::new() };
    for device in 0..DEVICES {
        if driver.random.random_ratio(1, 2) {
            let kind = if device == 0 { DeviceKind::Cpu } else { DeviceKind::Accelerator };
            driver.send(Event::DeviceAdded { device: DeviceId(device), kind, lanes_at_once_max: 1 })?;
        }
        driver.open_lane(device)?;
    }
    for _ in 0..steps {
        driver.step()?;
    }
    driver.end()?;
    Ok(driver.run)
}

impl Driver {
    fn step(&mut self) -> Result<(), String> {
        self.now_ns += self.random.random_range(0..6 * MS);
        match self.random.random_range(0..100) {
            0..45 => self.arrive(),
            45..75 => self.finish_a_batch(),
            75..80 => {
                // Mostly a job that lives, sometimes one that does not.
                let keys = self.run.checker.live_keys();
                let key = if keys.is_empty() || self.random.random_ratio(1, 10) {
                    JobKey(self.random.random_range(0..=self.keys))
                } else {
                    keys[self.random.random_range(0..keys.len())]
                };
                self.send(Event::JobCancelled { key })
            }
            80..87 => self.send(Event::Tick),
            87..93 => self.lose_a_device(),
            93..95 => {
                let lanes = self.run.checker.open_lanes();
                if lanes.is_empty() {
                    return Ok(());
                }
                let lane = lanes[self.random.random_range(0..lanes.len())].0;
                self.send(Event::LaneClosed { lane })
            }
            95..99 => {
                let device = self.random.random_range(0..DEVICES);
                self.open_lane(device)
            }
            _ if self.random.random_ratio(1, 10) => self.send(Event::Drain),
            _ if self.random.random_ratio(1, 2) => {
                let device = DeviceId(self.random.random_range(0..=DEVICES));
                let until_ns = self.now_ns + self.random.random_range(0..100 * MS);
                let time_percent = self.random.random_range(50..200);
                match self.random.random_range(0..4) {
                    0 => self.send(Event::CriticalMoment { until_ns }),
                    1 => self.send(Event::LoadReport { device, time_percent }),
                    2 => self.send(Event::DeviceAdded { device, kind: DeviceKind::Cpu, lanes_at_once_max: 1 }),
                    _ => {
                        let kind = [PolicyKind::Table, PolicyKind::Proportional][self.random.random_range(0..2)];
                        self.send(Event::PolicyChanged {
                            policy: PlanPolicy { kind, dwell_ms: 10, ..PlanPolicy::default() },
                        })
                    }
                }
            }
            _ => self.send(Event::ModelAdded { model: ModelKey(MODELS) }),
        }
    }

    fn arrive(&mut self) -> Result<(), String> {
        // One in fifty uses the number of a job that has not ended.
        let live = self.run.checker.live_keys();
        let key = if live.is_empty() || !self.random.random_ratio(1, 50) {
            self.keys += 1;
            JobKey(self.keys)
        } else {
            live[self.random.random_range(0..live.len())]
        };
        let deadline_ns = match self.random.random_range(0..4) {
            0 => u64::MAX,
            1 => self.now_ns.saturating_sub(MS) + self.random.random_range(0..20 * MS),
            _ => self.now_ns + self.random.random_range(0..200 * MS),
        };
        let job = Job {
            key,
            model: ModelKey(self.random.random_range(0..=MODELS)),
            deadline_ns,
            urgency: Urgency::ALL[self.random.random_range(0..4)],
            payload_bytes: 1,
            work: self.random.random_range(0..3) * 1_000,
            stream: self.random.random_ratio(1, 2).then(|| StreamKey(self.random.random_range(0..3))),
            principal: PrincipalKey(self.random.random_range(0..3)),
        };
        // Some come from a stage before, and may not be refused.
        let continued = self.random.random_ratio(1, 12);
        self.send(if continued { Event::JobContinued(job) } else { Event::JobArrived(job) })
    }

    fn finish_a_batch(&mut self) -> Result<(), String> {
        let committed = self.run.checker.committed();
        if committed.is_empty() || (!self.late.is_empty() && self.random.random_ratio(1, 8)) {
            let Some((lane, batch)) = self.late.pop() else { return Ok(()) };
            return self.send(Event::BatchDone { lane, batch, service_ns: MS, unfinished: Unfinished::new() });
        }
        let (lane, batch) = committed[self.random.random_range(0..committed.len())];
        self.late.push((lane, batch));
        let mut unfinished = Unfinished::new();
        if self.random.random_ratio(1, 2) {
            let jobs = self.run.checker.jobs_of(batch, ModelKey(SLICED_MODEL));
            unfinished.extend(jobs.into_iter().filter(|_| self.random.random_ratio(3, 4)));
        }
        self.send(Event::BatchDone { lane, batch, service_ns: MS, unfinished })
    }

    fn lose_a_device(&mut self) -> Result<(), String> {
        // Half of the time the worker that runs a suspect, so that some are found guilty.
        let device = match self.run.checker.device_with_suspect() {
            Some(device) if self.random.random_ratio(1, 2) => device.0,
            _ => self.random.random_range(0..DEVICES),
        };
        self.late.extend(self.run.checker.committed());
        self.send(Event::DeviceLost { device: DeviceId(device) })?;
        if self.random.random_ratio(2, 3) { self.open_lane(device) } else { Ok(()) }
    }

    fn open_lane(&mut self, device: u32) -> Result<(), String> {
        self.lanes += 1;
        let mut models = Vec::new();
        for model in 0..MODELS {
            if self.random.random_ratio(2, 3) {
                let single = self.random.random_range(1..10) * MS;
                let p50 = if self.random.random_ratio(1, 5) { vec![] } else { vec![(1, single), (4, single * 2)] };
                let slice_ns = u64::from(model == SLICED_MODEL) * 2 * MS;
                let policy = ModelPolicy::new(self.random.random_range(1..6), 300 * MS, p50, vec![(1, single + MS)]);
                let policy = ModelPolicy { slice_ns, ..policy };
                models.push((ModelKey(model), policy));
            }
        }
        let modality = Modality::ALL[self.random.random_range(0..3)];
        self.send(Event::LaneOpened { lane: LaneId(self.lanes), device: DeviceId(device), modality, models })
    }

    /// Every batch ends, and time passes until nothing is left to wait for.
    fn end(&mut self) -> Result<(), String> {
        for _ in 0..10_000 {
            if self.run.checker.live_jobs() == 0 {
                return Ok(());
            }
            if let Some((lane, batch)) = self.run.checker.committed().first().copied() {
                self.now_ns += MS;
                self.send(Event::BatchDone { lane, batch, service_ns: MS, unfinished: Unfinished::new() })?;
            } else {
                self.now_ns += 1_000 * MS;
                self.send(Event::Tick)?;
            }
        }
        let stuck: Vec<_> = self.run.checker.live_keys();
        let stuck: Vec<_> = stuck.into_iter().map(|key| (key, self.scheduler.position(key))).collect();
        Err(format!("jobs never end: {stuck:?}"))
    }

    fn send(&mut self, event: Event) -> Result<(), String> {
        self.run.checker.before(&self.scheduler);
        let mut out = Vec::new();
        let handled = self.scheduler.handle(self.now_ns, event.clone(), &mut out);
        self.run.events.push((self.now_ns, event.clone()));
        self.run.commands.extend(out.iter().cloned());
        self.tamper(&mut out);
        self.run.checker.after(self.now_ns, &event, handled, &out, &self.scheduler)?;
        for command in &out {
            if let Command::ReplaceWorker { device, .. } = command {
                let device = *device;
                self.send(Event::DeviceLost { device })?;
                self.open_lane(device.0)?;
            }
        }
        if self.fault == Fault::RepeatDone && !self.run.fault_struck && matches!(event, Event::BatchDone { .. }) {
            self.run.fault_struck = true;
            self.run.checker.after(self.now_ns, &event, Handled::Applied, &[], &self.scheduler)?;
        }
        Ok(())
    }

    fn tamper(&mut self, out: &mut Vec<Command>) {
        if self.run.fault_struck {
            return;
        }
        self.run.fault_struck = match self.fault {
            Fault::None | Fault::RepeatDone => false,
            Fault::DropCommand(number) => {
                self.seen += out.len();
                let harmless = matches!(out.first(), None | Some(Command::ReplaceWorker { .. }));
                let strike = self.seen > number && !harmless;
                if strike {
                    out.remove(0);
                }
                strike
            }
            Fault::ReverseBatch => out.iter_mut().any(|command| match command {
                Command::Dispatch { jobs, .. }
                    if jobs.len() > 1 && self.run.checker.orders(jobs[0].key, jobs[1].key) =>
                {
                    jobs.reverse();
                    true
                }
                _ => false,
            }),
            Fault::RepeatDispatch => {
                let dispatch = out.iter().find(|command| matches!(command, Command::Dispatch { .. })).cloned();
                let strike = dispatch.is_some();
                out.extend(dispatch);
                strike
            }
        };
    }
}
