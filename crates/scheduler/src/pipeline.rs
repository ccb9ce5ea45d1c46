//! One deadline for several stages: of a pipeline, whose stages are jobs that may each be refused, and of one job that several
//! models do in turn, which is accepted as a whole.

use smallvec::SmallVec;

use crate::admission::{Outlook, Refusal};
use crate::scheduler::Scheduler;
use crate::types::{Job, ModelKey};

/// One of the stages of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobStage {
    pub job: Job,
    /// Jobs that were accepted and will come to this stage, but are at one before it.
    pub coming: u64,
}

/// How long a stage takes.
#[derive(Clone, Copy, Default)]
struct Forecast {
    /// What is queued before it in its lane.
    queued_ns: u64,
    /// What will come before it from earlier stages.
    coming_ns: u64,
    /// Its own batch: with others, where batches gain and there are others.
    own_ns: u64,
    /// How much longer it may all take.
    spread_ns: u64,
}

type Forecasts = SmallVec<[Forecast; 4]>;

/// When the last of these is done, from now: each begins when the one before it has ended and what is ahead of it is done.
fn finished_ns(forecasts: &[Forecast]) -> u64 {
    forecasts
        .iter()
        .fold(0, |ns: u64, stage| ns.max(stage.queued_ns.saturating_add(stage.coming_ns)).saturating_add(stage.own_ns))
}

impl Scheduler {
    /// What would become of one job in these stages, if it arrived now: sets the deadline of each to when it must be done
    /// for those behind it to be on time; the last keeps its own. Send the first as [`crate::Event::JobArrived`], and each
    /// of the others, when the one before it is done, as [`crate::Event::JobContinued`].
    ///
    /// # Errors
    /// The first stage, from the last, that would be refused, and why: sent as [`crate::Event::JobArrived`] now, this job is
    /// refused for the same reason.
    pub fn promise(&self, now_ns: u64, stages: &mut [JobStage]) -> Result<(), (Job, Refusal)> {
        let forecasts: Forecasts = match stages {
            [_, _, ..] => self.forecasts(now_ns, stages),
            _ => Forecasts::new(),
        };
        let mut due_ns = stages.last().map_or(u64::MAX, |last| last.job.deadline_ns);
        // As at admission, at most half of the time beyond what is expected is kept for a bad spell: of all stages
        // together, each its part.
        let margins_ns = due_ns.saturating_sub(now_ns).saturating_sub(finished_ns(&forecasts)) / 2;
        let own_ns = forecasts.iter().fold(0_u64, |sum, stage| sum.saturating_add(stage.own_ns)).max(1);
        let before = |due_ns: u64, ns: u64| if due_ns == u64::MAX { due_ns } else { due_ns.saturating_sub(ns) };
        for (place, stage) in stages.iter_mut().enumerate().rev() {
            let forecast = forecasts.get(place).copied().unwrap_or_default();
            // Those that are coming will be before it.
            let pressed = Job { deadline_ns: before(due_ns, forecast.coming_ns), ..stage.job };
            if let Some(refusal) = self.refusal(now_ns, &pressed) {
                return Err((pressed, refusal));
            }
            stage.job.deadline_ns = due_ns;
            let part_ns = u128::from(margins_ns) * u128::from(forecast.own_ns) / u128::from(own_ns);
            let margin_ns = forecast.spread_ns.min(u64::try_from(part_ns).unwrap_or(u64::MAX));
            due_ns = before(due_ns, forecast.own_ns.saturating_add(margin_ns));
        }
        Ok(())
    }

    /// When a job in these stages would be done, if it arrived now; `None` when a stage has no lane with room.
    #[must_use]
    pub fn outlook_of_stages(&self, now_ns: u64, stages: &[JobStage]) -> Option<Outlook> {
        if let [only] = stages {
            return self.outlook(now_ns, &only.job);
        }
        stages.iter().try_for_each(|stage| self.outlook(now_ns, &stage.job).map(drop))?;
        let forecasts = self.forecasts(now_ns, stages);
        let sum = |part: fn(&Forecast) -> u64| forecasts.iter().map(part).fold(0, u64::saturating_add);
        let expected_ns = finished_ns(&forecasts);
        let sure_ns = expected_ns.saturating_add(sum(|stage| stage.spread_ns));
        Some(Outlook { expected_ns, sure_ns, own_ns: sum(|stage| stage.own_ns) })
    }

    /// What is not known counts as nothing.
    fn forecasts(&self, now_ns: u64, stages: &[JobStage]) -> Forecasts {
        let forecast = |stage: &JobStage| {
            let Some(outlook) = self.outlook(now_ns, &stage.job) else { return Forecast::default() };
            let queued_ns = outlook.expected_ns.saturating_sub(outlook.own_ns);
            let (size, full_ns) = self.full_batch(stage.job.model).unwrap_or((1, outlook.own_ns));
            let alone = queued_ns == 0 && stage.coming == 0;
            Forecast {
                queued_ns,
                // They fill batches, and this job may be left for the one after.
                coming_ns: full_ns.saturating_mul(stage.coming.div_ceil(size)),
                own_ns: if alone { outlook.own_ns } else { full_ns.max(outlook.own_ns) },
                spread_ns: outlook.sure_ns.saturating_sub(outlook.expected_ns),
            }
        };
        stages.iter().map(forecast).collect()
    }

    /// Jobs and time of the largest batch of a model that gains from batches, on the first lane that serves it.
    fn full_batch(&self, model: ModelKey) -> Option<(u64, u64)> {
        let lane = self.lane(*self.models.get(&model)?.lanes.first()?);
        let times = &lane.models[lane.model_index(model)?].times;
        let size = times.batch_max();
        times.gains().then(|| (size.max(1) as u64, times.expected_ns(size, 0)))
    }
    /// The deadline of the first of these stages, when the last is due at `deadline_ns`: what time there is beyond the
    /// stages' own is divided among them in proportion to their own. Ask again when a stage has ended, with what is
    /// left: a stage that was quick leaves its time to the later ones. A stage's own time is its learned time with its
    /// spread on the first lane that serves it; an unknown one counts as nothing.
    #[must_use]
    pub fn stage_deadline_ns(&self, now_ns: u64, deadline_ns: u64, stages: &[ModelKey]) -> u64 {
        if deadline_ns == u64::MAX || stages.len() <= 1 {
            return deadline_ns;
        }
        let own: Vec<u64> = stages.iter().map(|stage| self.stage_ns(*stage)).collect();
        let total: u128 = own.iter().map(|ns| u128::from(*ns)).sum();
        let left_ns = deadline_ns.saturating_sub(now_ns);
        if total == 0 {
            return now_ns.saturating_add(left_ns / stages.len() as u64);
        }
        let part = u128::from(left_ns) * u128::from(own[0]) / total;
        now_ns.saturating_add(u64::try_from(part).unwrap_or(left_ns))
    }

    fn stage_ns(&self, stage: ModelKey) -> u64 {
        let lane = self.models.get(&stage).and_then(|model| model.lanes.first());
        let times = lane.and_then(|slot| {
            let lane = self.lane(*slot);
            Some(&lane.models[lane.model_index(stage)?].times)
        });
        times.map_or(0, |times| times.expected_ns(1, 0).saturating_add(times.spread_ns(1, 0)))
    }
}

#[cfg(test)]
mod tests {
    use super::JobStage;
    use crate::fixture::{Desk, MS, NEVER, dispatches, policy};
    use crate::types::{DeviceId, Job, JobKey, LaneId, ModelKey};
    use crate::{Command, Event, Handled, ModelPolicy, Settings};
    use sensorium_wire::{Modality, Reason};

    /// Three stages on three devices, 10 ms each.
    fn three_stages(deadline_ns: u64) -> (Desk, [JobStage; 3]) {
        let mut desk = Desk::new(Settings::default());
        for number in 1..=3 {
            desk.open(number, number, &[number]);
        }
        (desk, [1, 2, 3].map(|model| stage(model, deadline_ns)))
    }

    fn stage(model: u32, deadline_ns: u64) -> JobStage {
        JobStage { job: Job::new(JobKey(1), ModelKey(model), deadline_ns), coming: 0 }
    }

    #[test]
    fn each_stage_leaves_the_later_ones_their_time() {
        let (desk, mut stages) = three_stages(100 * MS);
        desk.scheduler.promise(0, &mut stages).unwrap();
        let due = stages.map(|stage| stage.job.deadline_ns);
        assert_eq!(due[2], 100 * MS);
        assert!(due[1] <= 90 * MS && due[0] + 10 * MS <= due[1] && due[0] >= 30 * MS, "{due:?}");
        let outlook = desk.scheduler.outlook_of_stages(0, &stages).unwrap();
        assert_eq!((outlook.expected_ns, outlook.own_ns), (30 * MS, 30 * MS));

        let (desk, mut stages) = three_stages(NEVER);
        desk.scheduler.promise(0, &mut stages).unwrap();
        assert!(stages.iter().all(|stage| stage.job.deadline_ns == NEVER));
    }

    #[test]
    fn margins_of_all_stages_leave_half_of_what_is_to_spare() {
        let mut desk = Desk::new(Settings::default());
        for number in 1..=2 {
            // One in a hundred takes three times as long.
            let scattered = ModelPolicy::new(1, 0, vec![(1, 10 * MS)], vec![(1, 30 * MS)]);
            desk.apply(Event::LaneOpened {
                lane: LaneId(number),
                device: DeviceId(number),
                modality: Modality::Visual,
                models: vec![(ModelKey(number), scattered)],
            });
        }
        let due = |deadline_ns| {
            let mut stages = [1, 2].map(|model| stage(model, deadline_ns));
            desk.scheduler.promise(0, &mut stages).map(|()| stages[0].job.deadline_ns)
        };
        // 20 ms of work, 4 ms to spare, of which a quarter is the margin of the second stage.
        assert_eq!(due(24 * MS).unwrap(), 13 * MS);
        assert_eq!(due(19 * MS).unwrap_err().1.reason, Reason::DeadlineUnreachable);
    }

    #[test]
    fn a_job_is_refused_for_any_of_its_stages() {
        let (mut desk, mut stages) = three_stages(25 * MS);
        let (refused, refusal) = desk.scheduler.promise(0, &mut stages).unwrap_err();
        assert_eq!((refused.model.0, refusal.reason), (1, Reason::DeadlineUnreachable), "each alone could be in time");
        // The last stage has much to do already.
        for key in 10..30 {
            desk.arrive_for(key, 3, NEVER, sensorium_wire::Urgency::Critical);
        }
        let mut stages = [1, 2, 3].map(|model| stage(model, 60 * MS));
        let (refused, refusal) = desk.scheduler.promise(0, &mut stages).unwrap_err();
        assert_eq!((refused.model.0, refusal.reason), (3, Reason::DeadlineUnreachable));
        assert!(refusal.retry_after_us > 0);
        let mut stages = [1, 9, 2].map(|model| stage(model, 60 * MS));
        assert_eq!(desk.scheduler.promise(0, &mut stages).unwrap_err().1.reason, Reason::UnknownModel);
    }

    #[test]
    fn those_that_are_coming_to_a_stage_count_and_its_queue_is_done_beside_the_stage_before() {
        let (mut desk, _) = three_stages(NEVER);
        let asked = |desk: &Desk, deadline_ms: u64, coming: u64| {
            let mut stages = [stage(1, deadline_ms * MS), JobStage { coming, ..stage(2, deadline_ms * MS) }];
            let asked = desk.scheduler.promise(0, &mut stages);
            asked.map_err(|(refused, refusal)| {
                // Who tells the scheduler what was refused must not have it accepted.
                let mut scheduler = desk.scheduler.clone();
                let mut told = Vec::new();
                let _ = scheduler.handle(0, Event::JobArrived(refused), &mut told);
                assert!(matches!(told[..], [Command::Refuse { reason, .. }] if reason == refusal.reason), "{told:?}");
                refused.model.0
            })
        };
        assert_eq!(asked(&desk, 25, 0), Ok(()));
        // Batches of four take 16 ms: one of those that are coming, and its own.
        assert_eq!(asked(&desk, 25, 2), Err(2));
        assert_eq!(asked(&desk, 40, 2), Ok(()));
        assert_eq!(asked(&desk, 40, 5), Err(2), "two batches before it");
        // 10 ms are queued at the second stage: they are done while the first is.
        desk.arrive_for(10, 2, NEVER, sensorium_wire::Urgency::Standard);
        assert_eq!(asked(&desk, 27, 0), Ok(()));
        let stages = [stage(1, NEVER), stage(2, NEVER)];
        assert_eq!(desk.scheduler.outlook_of_stages(0, &stages).unwrap().expected_ns, 26 * MS);
    }

    #[test]
    fn a_stage_goes_on_under_the_key_of_the_one_before() {
        let (mut desk, mut stages) = three_stages(100 * MS);
        desk.scheduler.promise(0, &mut stages).unwrap();
        let [first, second, _] = stages.map(|stage| stage.job);
        assert_eq!(dispatches(&desk.apply(Event::JobArrived(first))), [(1, 1, vec![(1, 1)])]);
        assert_eq!(desk.send(Event::JobContinued(second)).0, Handled::Duplicate, "the first is not done");
        desk.done(1, 1);
        assert_eq!(dispatches(&desk.apply(Event::JobContinued(second))), [(2, 2, vec![(1, 1)])]);
    }

    #[test]
    fn stages_share_one_budget_by_their_times() {
        let mut desk = Desk::new(Settings::default());
        let slow = ModelPolicy::new(1, 0, vec![(1, 30 * MS)], vec![]);
        desk.apply(Event::LaneOpened {
            lane: LaneId(1),
            device: DeviceId(1),
            modality: Modality::Visual,
            models: vec![(ModelKey(1), policy()), (ModelKey(2), slow)],
        });
        let stage = |now_ms: u64, stages: &[u32]| {
            let stages: Vec<ModelKey> = stages.iter().copied().map(ModelKey).collect();
            desk.scheduler.stage_deadline_ns(now_ms * MS, 100 * MS, &stages) / MS
        };
        assert_eq!(stage(0, &[1, 2]), 25);
        assert_eq!(stage(5, &[2]), 100, "what the first left over is the second's");
        assert_eq!(stage(0, &[1, 1, 2, 2]), 12);
        assert_eq!(stage(0, &[8, 9]), 50, "nothing is known of these");
        assert_eq!(stage(200, &[1, 2]), 200, "too late for anything");
        assert_eq!(desk.scheduler.stage_deadline_ns(0, NEVER, &[ModelKey(1), ModelKey(2)]), NEVER);
    }
}
