//! One deadline for a whole pipeline.

use crate::scheduler::Scheduler;
use crate::types::ModelKey;

impl Scheduler {
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
    use crate::fixture::{Desk, MS, NEVER, policy};
    use crate::types::{DeviceId, LaneId, ModelKey};
    use crate::{Event, ModelPolicy, Settings};
    use sensorium_wire::Modality;

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
