//! One deadline for several stages: of a pipeline, whose stages are jobs that may each be refused, and of one job that several
//! models do in turn, which is accepted as a whole.

use crate::admission::{Outlook, Refusal};
use crate::scheduler::Scheduler;
use crate::types::{Job, ModelKey};

impl Scheduler {
    /// What would become of one job in these stages, if it arrived now: sets the deadline of each to when it must be done
    /// for those behind it to be on time; the last keeps its own. Send the first as [`crate::Event::JobArrived`], and each
    /// of the others, when the one before it is done, as [`crate::Event::JobContinued`].
    ///
    /// # Errors
    /// The first stage, from the last, that would be refused, by its place, and why.
    pub fn promise(&self, now_ns: u64, stages: &mut [Job]) -> Result<(), (usize, Refusal)> {
        let mut due_ns = stages.last().map_or(u64::MAX, |last| last.deadline_ns);
        for (place, stage) in stages.iter_mut().enumerate().rev() {
            stage.deadline_ns = due_ns;
            if let Some(refusal) = self.refusal(now_ns, stage) {
                return Err((place, refusal));
            }
            if place > 0
                && due_ns < u64::MAX
                && let Some(outlook) = self.outlook(now_ns, stage)
            {
                // As at admission, at most half of the time beyond what is expected is kept for a bad spell.
                let spare_ns = due_ns.saturating_sub(now_ns).saturating_sub(outlook.expected_ns);
                let margin_ns = outlook.sure_ns.saturating_sub(outlook.expected_ns).min(spare_ns / 2);
                due_ns = due_ns.saturating_sub(outlook.expected_ns.saturating_add(margin_ns));
            }
        }
        Ok(())
    }

    /// When a job in these stages would be done, if it arrived now; `None` when a stage has no lane with room.
    #[must_use]
    pub fn outlook_of_stages(&self, now_ns: u64, stages: &[Job]) -> Option<Outlook> {
        let none = Outlook { expected_ns: 0, sure_ns: 0, own_ns: 0 };
        stages.iter().try_fold(none, |sum, stage| {
            let outlook = self.outlook(now_ns, stage)?;
            Some(Outlook {
                expected_ns: sum.expected_ns.saturating_add(outlook.expected_ns),
                sure_ns: sum.sure_ns.saturating_add(outlook.sure_ns),
                own_ns: sum.own_ns.saturating_add(outlook.own_ns),
            })
        })
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
    use crate::fixture::{Desk, MS, NEVER, dispatches, policy};
    use crate::types::{DeviceId, Job, JobKey, LaneId, ModelKey};
    use crate::{Event, Handled, ModelPolicy, Settings};
    use sensorium_wire::{Modality, Reason};

    /// Three stages on three devices, 10 ms each.
    fn three_stages(deadline_ns: u64) -> (Desk, [Job; 3]) {
        let mut desk = Desk::new(Settings::default());
        for number in 1..=3 {
            desk.open(number, number, &[number]);
        }
        (desk, [1, 2, 3].map(|model| Job::new(JobKey(1), ModelKey(model), deadline_ns)))
    }

    #[test]
    fn each_stage_leaves_the_later_ones_their_time() {
        let (desk, mut stages) = three_stages(100 * MS);
        desk.scheduler.promise(0, &mut stages).unwrap();
        let due = stages.map(|stage| stage.deadline_ns);
        assert_eq!(due[2], 100 * MS);
        assert!(due[1] <= 90 * MS && due[0] + 10 * MS <= due[1] && due[0] >= 30 * MS, "{due:?}");
        let outlook = desk.scheduler.outlook_of_stages(0, &stages).unwrap();
        assert_eq!(outlook.expected_ns, 30 * MS);

        let (desk, mut stages) = three_stages(NEVER);
        desk.scheduler.promise(0, &mut stages).unwrap();
        assert!(stages.iter().all(|stage| stage.deadline_ns == NEVER));
    }

    #[test]
    fn a_job_is_refused_for_any_of_its_stages() {
        let (mut desk, mut stages) = three_stages(25 * MS);
        let (place, refusal) = desk.scheduler.promise(0, &mut stages).unwrap_err();
        assert_eq!((place, refusal.reason), (0, Reason::DeadlineUnreachable), "each alone could be in time");
        // The last stage has much to do already.
        for key in 10..30 {
            desk.arrive_for(key, 3, NEVER, sensorium_wire::Urgency::Critical);
        }
        let mut stages = stages.map(|stage| Job { deadline_ns: 60 * MS, ..stage });
        let (place, refusal) = desk.scheduler.promise(0, &mut stages).unwrap_err();
        assert_eq!((place, refusal.reason), (2, Reason::DeadlineUnreachable));
        assert!(refusal.retry_after_us > 0);
        stages[1].model = ModelKey(9);
        stages[2].model = ModelKey(1);
        assert_eq!(desk.scheduler.promise(0, &mut stages).unwrap_err().1.reason, Reason::UnknownModel);
    }

    #[test]
    fn a_stage_goes_on_under_the_key_of_the_one_before() {
        let (mut desk, mut stages) = three_stages(100 * MS);
        desk.scheduler.promise(0, &mut stages).unwrap();
        let [first, second, _] = stages;
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
