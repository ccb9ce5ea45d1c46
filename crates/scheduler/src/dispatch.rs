//! From queues to batches: at most two committed per lane, lanes of a crowded device by their shares, and a suspect alone
//! on its device.

use smallvec::SmallVec;

use crate::COMMITTED_BATCHES_MAX;
use crate::event::{BatchJobs, BatchedJob, Command};
use crate::jobs::{JobSlot, Place};
use crate::lane::{CLASSES, CommittedBatch, LaneSlot};
use crate::plan::SHARE_PERMILLE_MAX;
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::turn::Turn;
use crate::types::{BatchId, DeviceId};

/// A suspect that could run now, and where.
#[derive(Clone, Copy)]
struct Runnable {
    entry: Entry,
    lane: LaneSlot,
    model: usize,
}

type LaneSlots = SmallVec<[LaneSlot; 4]>;

impl Scheduler {
    /// Commits what the device's lanes have room for.
    ///
    /// A suspect takes its turn by deadline: lanes still commit what is due before it, then they run dry, then it runs
    /// with nothing beside it.
    pub(crate) fn dispatch(&mut self, device: DeviceId, out: &mut Vec<Command>) {
        let Some(state) = self.devices.get(&device) else {
            return;
        };
        let lanes: LaneSlots = state.lanes.iter().copied().collect();
        if !state.replacing && state.suspect_batch.is_none() {
            let suspect = if state.suspects.is_empty() { None } else { self.next_suspect(device, out) };
            if self.is_crowded(device, &lanes) {
                self.take_turns(device, &lanes, suspect.as_ref(), out);
            } else {
                for slot in &lanes {
                    while self.commit_batch(*slot, suspect.as_ref(), out) {}
                }
            }
            if let Some(suspect) = suspect
                && lanes.iter().all(|slot| self.lane(*slot).committed.is_empty())
            {
                self.take_suspect(device, &suspect.entry);
                let batch = self.commit(suspect.lane, suspect.model, None, &[suspect.entry.slot], out);
                self.device_mut(device).suspect_batch = Some(batch);
            }
        }
        for slot in lanes {
            self.touch(slot);
        }
    }

    /// Whether more lanes have work than the device runs at once.
    fn is_crowded(&self, device: DeviceId, lanes: &[LaneSlot]) -> bool {
        let at_once = self.devices[&device].lanes_at_once_max;
        lanes.len() > at_once && lanes.iter().filter(|slot| self.lane(**slot).is_busy()).count() > at_once
    }

    /// How much longer queued work of a lane takes because others take turns with it, in thousandths.
    pub(crate) fn stretch_permille(&self, slot: LaneSlot) -> u64 {
        let lane = self.lane(slot);
        let Some(device) = self.devices.get(&lane.device) else {
            return 1000;
        };
        if device.lanes.len() <= device.lanes_at_once_max {
            return 1000;
        }
        let share = |slot: LaneSlot| u64::from(self.lane(slot).share_permille.max(1));
        let busy = device.lanes.iter().filter(|other| **other == slot || self.lane(**other).is_busy());
        let (lanes, shares) = busy.fold((0, 0), |(lanes, sum), other| (lanes + 1, sum + share(*other)));
        if lanes <= device.lanes_at_once_max {
            return 1000;
        }
        (1000 * shares / (share(slot) * device.lanes_at_once_max as u64)).max(1000)
    }

    /// Lanes of a crowded device: as many at once as it runs, one batch at a time; first those with jobs that would be
    /// late otherwise, then those that had the least of their share.
    fn take_turns(&mut self, device: DeviceId, lanes: &[LaneSlot], suspect: Option<&Runnable>, out: &mut Vec<Command>) {
        let at_once = self.devices[&device].lanes_at_once_max;
        let mut passed: LaneSlots = SmallVec::new();
        loop {
            let running = lanes.iter().filter(|slot| !self.lane(**slot).committed.is_empty()).count();
            if running >= at_once {
                return;
            }
            let idle = lanes.iter().filter(|slot| {
                let lane = self.lane(**slot);
                lane.committed.is_empty() && lane.queued > 0 && !lane.closing && !passed.contains(slot)
            });
            let next = idle.min_by_key(|slot| {
                let lane = self.lane(**slot);
                let passed_ns = self.now_ns.saturating_add(self.longest_turn_ns(lanes, **slot));
                let pressing = !(0..CLASSES).all(|class| lane.can_wait(class, passed_ns));
                let head_ns = lane.turn(self.now_ns).map_or(u64::MAX, |turn| turn.head.order_ns);
                (!pressing, if pressing { head_ns } else { lane.spent_ns })
            });
            let Some(next) = next.copied() else { return };
            if !self.commit_batch(next, suspect, out) {
                passed.push(next);
            }
        }
    }

    /// How long the next batch of any other of these lanes may take.
    fn longest_turn_ns(&self, lanes: &[LaneSlot], but: LaneSlot) -> u64 {
        let others = lanes.iter().filter(|slot| **slot != but);
        let turns = others.filter_map(|slot| {
            let lane = self.lane(*slot);
            Some(lane.batch_ns(&lane.turn(self.now_ns)?))
        });
        turns.max().unwrap_or(0)
    }

    /// A lane that has had nothing to do starts with no more credit than the one that has the most: it cannot save up
    /// its share.
    pub(crate) fn join_turns(&mut self, slot: LaneSlot) {
        let lane = self.lane(slot);
        if lane.is_busy() {
            return;
        }
        let Some(device) = self.devices.get(&lane.device) else { return };
        if device.lanes.len() <= device.lanes_at_once_max {
            return;
        }
        let busy = device.lanes.iter().map(|other| self.lane(*other)).filter(|other| other.is_busy());
        if let Some(least_ns) = busy.map(|other| other.spent_ns).min() {
            let lane = self.lane_mut(slot);
            lane.spent_ns = lane.spent_ns.max(least_ns);
        }
    }

    /// The lane used its device for so long.
    pub(crate) fn spend(&mut self, slot: LaneSlot, took_ns: u64) {
        let lane = self.lane_mut(slot);
        let share = u64::from(lane.share_permille.max(1));
        let cost_ns = took_ns.saturating_mul(u64::from(SHARE_PERMILLE_MAX)) / share;
        lane.spent_ns = lane.spent_ns.saturating_add(cost_ns);
    }

    /// The earliest suspect that a lane of the device can take. Those whose deadline has passed end here.
    fn next_suspect(&mut self, device: DeviceId, out: &mut Vec<Command>) -> Option<Runnable> {
        self.expire_suspects(device, out);
        let state = &self.devices[&device];
        state.suspects.iter().find_map(|entry| {
            let key = self.jobs.get(entry.slot).job.model;
            let serving = |slot: &LaneSlot| {
                let lane = self.lane(*slot);
                if lane.closing { None } else { lane.model_index(key).map(|model| (*slot, model)) }
            };
            let (lane, model) = state.lanes.iter().find_map(serving)?;
            Some(Runnable { entry: *entry, lane, model })
        })
    }

    /// Moves waiting jobs of the lane's models into the room that it has.
    fn refill(&mut self, slot: LaneSlot) {
        if self.lane(slot).closing {
            return;
        }
        for index in 0..self.lane(slot).models.len() {
            let key = self.lane(slot).models[index].key;
            while self.lane(slot).queued < self.settings.queue_jobs_max {
                let Some(entry) = self.models.get_mut(&key).and_then(|model| model.waiting.pop_first()) else {
                    break;
                };
                self.waiting -= 1;
                self.enqueue(entry.slot, slot);
            }
        }
    }

    /// Commits one batch if the lane has a credit and a job that is due before the suspect that waits for its turn.
    fn commit_batch(&mut self, slot: LaneSlot, suspect: Option<&Runnable>, out: &mut Vec<Command>) -> bool {
        if self.waiting > 0 {
            self.refill(slot);
        }
        let lane = self.lane(slot);
        if lane.queued == 0 || lane.closing || lane.committed.len() >= COMMITTED_BATCHES_MAX {
            return false;
        }
        let committed_ns = lane.committed(self.now_ns).expected_ns;
        if !lane.committed.is_empty() && committed_ns > self.settings.commit_ahead_ns {
            return false;
        }
        let begin_ns = self.now_ns.saturating_add(committed_ns);
        let Some(turn) = self.next_turn(slot, begin_ns, out) else {
            return false;
        };
        if suspect.is_some_and(|suspect| suspect.entry < turn.head) {
            return false;
        }
        let lane = self.lane(slot);
        let model = &lane.models[turn.model];
        let left_ns = self.jobs.get(turn.head.slot).job.deadline_ns.saturating_sub(begin_ns);
        let available: usize = model.queues.iter().map(crate::queue::EdfQueue::len).sum();
        let size = model.times.fitting(available, left_ns);
        if self.waits_for_more(slot, &turn, size, left_ns) {
            return false;
        }
        let mut jobs: SmallVec<[JobSlot; 8]> = SmallVec::new();
        // The class whose turn it is comes first; what room is left in the batch costs the others nothing.
        let classes = std::iter::once(turn.class).chain((0..CLASSES).filter(|class| *class != turn.class));
        for class in classes {
            while jobs.len() < size {
                let Some(entry) = self.lane_mut(slot).pop_first(turn.model, class) else {
                    break;
                };
                if self.is_hopeless(slot, turn.model, &entry, begin_ns) {
                    self.expire(entry.slot, out);
                } else {
                    jobs.push(entry.slot);
                }
            }
        }
        if !jobs.is_empty() {
            self.commit(slot, turn.model, Some(turn.class), &jobs, out);
        }
        true
    }

    /// Whether an idle lane is better left waiting for a fuller batch: only for models that gain from it, when jobs come
    /// faster than one by one they could be done, the next is expected within the wait, and the first has the time.
    fn waits_for_more(&mut self, slot: LaneSlot, turn: &Turn, size: usize, left_ns: u64) -> bool {
        let now_ns = self.now_ns;
        let lane = self.lane_mut(slot);
        let idle = lane.committed.is_empty();
        let model = &mut lane.models[turn.model];
        let gap_ns = model.arrivals.gap_ns;
        let single_ns = model.times.expected_ns(1, 0);
        let worth = idle
            && turn.class > 0
            && model.times.gains()
            && size < model.times.batch_max()
            && gap_ns > 0
            && gap_ns < model.batch_wait_ns
            && single_ns.saturating_mul(10) > gap_ns.saturating_mul(7);
        if !worth {
            model.arrivals.waiting_since_ns = 0;
            return false;
        }
        if model.arrivals.waiting_since_ns == 0 {
            model.arrivals.waiting_since_ns = now_ns.max(1);
        }
        let until_ns = model.arrivals.waiting_since_ns.saturating_add(model.batch_wait_ns);
        let wait_ns = until_ns.saturating_sub(now_ns);
        let next = (size + 1).min(model.times.batch_max());
        let needs_ns = model.times.expected_ns(next, 0).saturating_add(model.times.spread_ns(next, 0));
        if wait_ns == 0 || needs_ns.saturating_add(wait_ns) > left_ns {
            model.arrivals.waiting_since_ns = 0;
            return false;
        }
        true
    }

    /// The lane's next turn; jobs that have expired or cannot be on time any more end on the way.
    fn next_turn(&mut self, slot: LaneSlot, begin_ns: u64, out: &mut Vec<Command>) -> Option<Turn> {
        loop {
            let turn = self.lane(slot).turn(begin_ns)?;
            if !self.is_hopeless(slot, turn.model, &turn.head, begin_ns) {
                return Some(turn);
            }
            self.lane_mut(slot).pop_first(turn.model, turn.class);
            self.break_promise(slot, turn.model, turn.head.slot, out);
        }
    }

    /// Whether the deadline has passed or cannot be met, even at the median, by a job that begins then.
    pub(crate) fn is_hopeless(&self, slot: LaneSlot, model: usize, entry: &Entry, begin_ns: u64) -> bool {
        let record = self.jobs.get(entry.slot);
        if record.job.deadline_ns == u64::MAX {
            return false;
        }
        if record.job.deadline_ns <= self.now_ns {
            return true;
        }
        let times = &self.lane(slot).models[model].times;
        let needs_ns = times.expected_ns(1, record.job.work).saturating_sub(record.sliced_ns);
        !record.probe && begin_ns.saturating_add(needs_ns) > record.job.deadline_ns
    }

    /// Commits a batch, of a class or of a suspect.
    fn commit(
        &mut self,
        slot: LaneSlot,
        model: usize,
        class: Option<usize>,
        jobs: &[JobSlot],
        out: &mut Vec<Command>,
    ) -> BatchId {
        self.batches += 1;
        let batch = BatchId(self.batches);
        let mut batched = BatchJobs::new();
        let (mut work, mut sliced_ns) = (0, u64::MAX);
        for job in jobs {
            let record = self.jobs.get_mut(*job);
            record.place = Place::Committed { lane: slot };
            record.attempt += u32::from(record.slices == 0);
            work = work.max(record.job.work);
            sliced_ns = sliced_ns.min(record.sliced_ns);
            batched.push(BatchedJob { key: record.job.key, attempt: record.attempt, slice: record.slices });
        }
        let (started_ns, epoch, shares) = (self.now_ns, self.planner.epoch(), self.settings.share_min_permille);
        let lane = self.lane_mut(slot);
        let served = &mut lane.models[model];
        served.arrivals.waiting_since_ns = 0;
        let mut predicted_ns = served.times.expected_ns(jobs.len(), work).saturating_sub(sliced_ns);
        let mut spread_ns = served.times.spread_ns(jobs.len(), work);
        if served.slice_ns > 0 {
            predicted_ns = predicted_ns.clamp(served.slice_ns / 4, served.slice_ns);
            spread_ns = spread_ns.min(served.slice_ns / 2);
        }
        let (run_ns_max, key) = (served.run_ns_max, served.key);
        if let Some(class) = class {
            lane.charge(class, predicted_ns, &shares);
        }
        lane.committed.push_back(CommittedBatch {
            id: batch,
            jobs: jobs.iter().copied().collect(),
            model,
            work,
            started_ns,
            predicted_ns,
            spread_ns,
            run_ns_max,
        });
        out.push(Command::Dispatch { lane: lane.id, batch, model: key, jobs: batched, epoch, predicted_ns });
        batch
    }
}

#[cfg(test)]
mod tests;
