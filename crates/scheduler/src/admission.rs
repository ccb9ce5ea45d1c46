//! May this job in, and into which lane.

use sensorium_wire::Reason;

use crate::event::{Command, Handled};
use crate::jobs::Place;
use crate::lane::{CLASSES, LaneSlot, PlaceInLane};
use crate::prediction::Prediction;
use crate::queue::Entry;
use crate::scheduler::{Model, Scheduler};
use crate::streams::Course;
use crate::types::{Job, ModelKey, StreamKey};

/// Shortest retry hint: less would only make clients spin.
const RETRY_AFTER_US_MIN: u64 = 1_000;
/// A model with up to so many lanes has every one of them asked; of more, those that are free first.
const ASKED_LANES_MAX: usize = 8;
/// Queued jobs that are looked at for the question whether a new one would make them late.
const DISPLACED_JOBS_MAX: usize = 1024;
/// Most of a lane that more urgent work is expected to take, in thousandths: what is left keeps its guaranteed shares.
const URGENT_PERMILLE_MAX: u64 = 850;
/// After so long without a batch of a model, a job that would be refused for what was learned is let in to find out
/// whether it still holds, in nanoseconds.
const PROBE_AFTER_NS: u64 = 2_000_000_000;

/// Why a job is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    /// 0 = trying again does not help without a change.
    pub retry_after_us: u64,
    /// How long it would have taken, from now, in nanoseconds; 0 = not the reason.
    pub predicted_ns: u64,
}

impl Refusal {
    const fn new(reason: Reason) -> Self {
        Self { reason, retry_after_us: 0, predicted_ns: 0 }
    }

    fn retry_after_ns(reason: Reason, retry_after_ns: u64) -> Self {
        Self { retry_after_us: (retry_after_ns / 1_000).max(RETRY_AFTER_US_MIN), ..Self::new(reason) }
    }

    const fn predicted_ns(self, predicted_ns: u64) -> Self {
        Self { predicted_ns, ..self }
    }
}

/// Where an accepted job goes.
struct Admitted {
    place: Place,
    probe: bool,
}

impl Admitted {
    const fn to(place: Place) -> Self {
        Self { place, probe: false }
    }
}

/// What a job can expect, from now until it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    pub expected_ns: u64,
    /// The same in a bad spell.
    pub sure_ns: u64,
    /// The part of `expected_ns` that is its own work.
    pub own_ns: u64,
}

/// A lane, the model's index there, and when the job would be done.
struct Candidate {
    lane: LaneSlot,
    model: usize,
    completion: Prediction,
}

impl Scheduler {
    /// What would become of a job that arrived now: `None` when it would be accepted. Lets a caller refuse by the header,
    /// before the payload is there; nothing is changed.
    #[must_use]
    pub fn refusal(&self, now_ns: u64, job: &Job) -> Option<Refusal> {
        let now_ns = now_ns.max(self.now_ns);
        self.admit(now_ns, job, &self.entry(job, now_ns)).err()
    }

    /// When a job that arrived now would be done, on the lane that would have it done first. `None` when none has room.
    /// For those who compare this node with others; whether it would be accepted is [`Self::refusal`]'s to say.
    #[must_use]
    pub fn outlook(&self, now_ns: u64, job: &Job) -> Option<Outlook> {
        let now_ns = now_ns.max(self.now_ns);
        let model = self.models.get(&job.model)?;
        let Candidate { lane, model: index, completion } =
            self.best_lane(now_ns, model, job, job.urgency as usize, &self.entry(job, now_ns))?;
        let (lane, model) = (self.lane(lane), &self.lane(lane).models[index]);
        let own_ns = model.times.expected_ns(1, job.work);
        // What a slow spell has taught is forgotten when nothing has come for a while: or nothing would ever come again.
        let profile_ns = model.times.profile(1);
        if !lane.is_busy() && now_ns.saturating_sub(model.noted_ns) >= PROBE_AFTER_NS && profile_ns < own_ns {
            return Some(Outlook { expected_ns: profile_ns, sure_ns: profile_ns, own_ns: profile_ns });
        }
        let sure_ns = completion.sure_ns().saturating_add(model.times.reserve.of_ns(own_ns));
        Some(Outlook { expected_ns: completion.expected_ns, sure_ns, own_ns })
    }

    /// Whether jobs of this stream for this model have not ended.
    #[must_use]
    pub fn has_stream(&self, stream: StreamKey, model: ModelKey) -> bool {
        self.streams.contains(stream, model)
    }

    pub(crate) fn job_arrived(&mut self, job: &Job, out: &mut Vec<Command>) -> Handled {
        if self.jobs.contains(job.key) {
            return Handled::Duplicate;
        }
        let entry = self.entry(job, self.now_ns);
        let admitted = self.admit(self.now_ns, job, &entry);
        self.note_offer(job);
        let Admitted { place, probe } = match admitted {
            Ok(admitted) => admitted,
            Err(Refusal { reason, retry_after_us, predicted_ns }) => {
                out.push(Command::Refuse { key: job.key, reason, retry_after_us, predicted_ns });
                return Handled::Applied;
            }
        };
        self.arrivals += 1;
        let slot = entry.slot;
        self.jobs.insert(*job, entry, place, self.now_ns);
        self.jobs.get_mut(slot).probe = probe;
        self.streams.enter(job, slot);
        match place {
            Place::Queued { lane } => {
                let now_ns = self.now_ns;
                self.enqueue(slot, lane);
                let lane = self.lane_mut(lane);
                let model = lane.model_index(job.model).expect("a model's lanes serve it");
                lane.models[model].arrivals.note(now_ns);
                if probe {
                    lane.models[model].noted_ns = now_ns;
                }
                let device = lane.device;
                self.dispatch(device, out);
            }
            Place::Waiting => {
                self.waiting += 1;
                self.models.get_mut(&job.model).expect("admitted jobs name a known model").waiting.insert(entry);
            }
            Place::Held => self.hold(slot),
            Place::Suspect { .. } | Place::Committed { .. } => {}
        }
        Handled::Applied
    }

    /// A job was promised as a whole, so its next stage finds a place as a job does that lost its own.
    pub(crate) fn job_continued(&mut self, job: &Job, out: &mut Vec<Command>) -> Handled {
        if self.jobs.contains(job.key) {
            return Handled::Duplicate;
        }
        let entry = self.entry(job, self.now_ns);
        self.note_offer(job);
        self.arrivals += 1;
        self.jobs.insert(*job, entry, Place::Waiting, self.now_ns);
        self.streams.enter(job, entry.slot);
        self.place_again(&[entry]);
        if let Place::Queued { lane } = self.jobs.get(entry.slot).place {
            let now_ns = self.now_ns;
            let lane = self.lane_mut(lane);
            let device = lane.device;
            if let Some(model) = lane.model_index(job.model) {
                lane.models[model].arrivals.note(now_ns);
            }
            self.dispatch(device, out);
        }
        Handled::Applied
    }

    /// Puts a job into its queue of a lane.
    pub(crate) fn enqueue(&mut self, slot: crate::jobs::JobSlot, lane_slot: LaneSlot) {
        self.join_turns(lane_slot);
        self.follow_predecessor(slot);
        let record = self.jobs.get(slot);
        let (job, class, sliced_ns) = (record.job, usize::from(record.class), record.sliced_ns);
        let lane = self.lane(lane_slot);
        let model = lane.model_index(job.model).expect("a model's lanes serve it");
        let cost_ns = lane.models[model].unit_ns(job.work).saturating_sub(sliced_ns);
        let record = self.jobs.get_mut(slot);
        record.place = Place::Queued { lane: lane_slot };
        record.entry.cost_ns = cost_ns;
        let entry = record.entry;
        self.lane_mut(lane_slot).enqueue(model, class, entry);
        if job.stream.is_some() {
            self.promote_predecessors(slot);
            self.release_successor(slot);
        }
    }

    fn admit(&self, now_ns: u64, job: &Job, entry: &Entry) -> Result<Admitted, Refusal> {
        if self.draining {
            return Err(Refusal::new(Reason::ShuttingDown));
        }
        let Some(model) = self.models.get(&job.model) else {
            return Err(Refusal::new(Reason::UnknownModel));
        };
        if job.deadline_ns <= now_ns {
            return Err(Refusal::new(Reason::DeadlinePassed));
        }
        if model.lanes.is_empty() {
            self.may_wait(now_ns, model)?;
        }
        let class = job.urgency as usize;
        let candidate = match self.course_of_arrival(job) {
            Course::Hold if self.held.len() >= self.settings.queue_jobs_max => {
                return Err(Refusal::retry_after_ns(Reason::Overloaded, 0));
            }
            Course::Hold => return Ok(Admitted::to(Place::Held)),
            Course::Free if model.lanes.is_empty() => return Ok(Admitted::to(Place::Waiting)),
            Course::Free => self.best_lane(now_ns, model, job, class, entry),
            Course::Follow(lane) => self.candidate(now_ns, lane, job, class, entry),
        };
        let Some(Candidate { lane, model: index, completion }) = candidate else {
            let drained_ns = model.lanes.iter().take(ASKED_LANES_MAX).map(|slot| self.lane(*slot).backlog_ns(now_ns));
            return Err(Refusal::retry_after_ns(Reason::Overloaded, drained_ns.min().unwrap_or(0)));
        };
        let lane_state = self.lane(lane);
        let own_ns = lane_state.models[index].times.expected_ns(1, job.work);
        let budget_ns = if job.deadline_ns == u64::MAX { u64::MAX } else { job.deadline_ns - now_ns };
        // Where times scatter so widely that no margin suffices, refusing everything would help nobody: at most half of
        // the time that a job has beyond its own is kept as a margin, and of the rest at most half in reserve.
        let margin_ns_max = budget_ns.saturating_sub(own_ns) / 2;
        let reserve_ns = lane_state.models[index].times.reserve.of_ns(own_ns).min(margin_ns_max / 2);
        let predicted_ns = completion.sure_within_ns(margin_ns_max).saturating_add(reserve_ns);
        if predicted_ns > budget_ns {
            let model = &lane_state.models[index];
            let silent_ns = now_ns.saturating_sub(model.noted_ns);
            if !lane_state.is_busy() && model.times.profile(1) <= budget_ns && silent_ns >= PROBE_AFTER_NS {
                return Ok(Admitted { place: Place::Queued { lane }, probe: true });
            }
            // When the job would be too slow even alone, waiting does not help.
            let refusal = if own_ns > budget_ns {
                Refusal::new(Reason::DeadlineUnreachable)
            } else {
                Refusal::retry_after_ns(Reason::DeadlineUnreachable, predicted_ns - budget_ns)
            };
            return Err(refusal.predicted_ns(predicted_ns));
        }
        self.fair(now_ns, job, class, entry, lane, index)?;
        let cost_ns = lane_state.models[index].unit_ns(job.work);
        let done_ns = now_ns.saturating_add(completion.expected_ns);
        if class > 0 && self.displaces(lane, class, entry, done_ns, cost_ns, job.deadline_ns) {
            return Err(Refusal::retry_after_ns(Reason::Overloaded, cost_ns).predicted_ns(predicted_ns));
        }
        Ok(Admitted::to(Place::Queued { lane }))
    }

    /// A lane that went away a moment ago is coming back, so the job waits; otherwise there is nothing to wait for.
    fn may_wait(&self, now_ns: u64, model: &Model) -> Result<(), Refusal> {
        let Some(lost_ns) = model.lost_ns else {
            return Err(Refusal::new(Reason::ModelUnavailable));
        };
        let back_ns = lost_ns.saturating_add(self.settings.restart_wait_ns);
        if now_ns >= back_ns {
            return Err(Refusal::new(Reason::ModelUnavailable));
        }
        if model.waiting.len() >= self.settings.queue_jobs_max {
            return Err(Refusal::retry_after_ns(Reason::Overloaded, back_ns - now_ns));
        }
        Ok(())
    }

    /// Whether the principal leaves room for the others.
    fn fair(
        &self,
        now_ns: u64,
        job: &Job,
        class: usize,
        entry: &Entry,
        lane: LaneSlot,
        model: usize,
    ) -> Result<(), Refusal> {
        let lane = self.lane(lane);
        if lane.class_jobs[class] == 0 {
            return Ok(());
        }
        let pool = self.pools.get(lane.pool.0);
        let part = pool.principals.limit_permille(now_ns, job.principal, job.urgency as u8, pool.serving_lanes());
        if part >= 1000 {
            return Ok(());
        }
        let queued = lane.models.iter().flat_map(|model| model.queues[class].iter());
        let own = queued.filter(|entry| self.jobs.get(entry.slot).job.principal == job.principal);
        let (jobs, queued_ns) = own.fold((0, 0_u64), |(jobs, ns), entry| (jobs + 1, ns.saturating_add(entry.cost_ns)));
        let wanted_ns = queued_ns.saturating_add(lane.models[model].unit_ns(job.work));
        let committed_ns = lane.committed(now_ns).expected_ns;
        let room_ns = entry.order_ns.saturating_sub(now_ns.saturating_add(committed_ns)) / 1000 * part;
        let room_jobs = self.settings.queue_jobs_max as u64 * part / 1000;
        if jobs == 0 || (wanted_ns <= room_ns && jobs < room_jobs) {
            return Ok(());
        }
        Err(Refusal::retry_after_ns(Reason::Overloaded, wanted_ns.saturating_sub(room_ns)))
    }

    /// Whether queued jobs of this class or below that are on time now would be late with `cost_ns` before them. The new
    /// job is done at `done_ns` and due at `due_ns`; a less urgent one goes before it if there is the time.
    fn displaces(
        &self,
        lane: LaneSlot,
        class: usize,
        entry: &Entry,
        mut done_ns: u64,
        cost_ns: u64,
        due_ns: u64,
    ) -> bool {
        let lane = self.lane(lane);
        let mut at_ns = done_ns;
        let mut seen = 0;
        for lower in class..CLASSES {
            if lane.class_jobs[lower] == 0 {
                continue;
            }
            let mut behind: smallvec::SmallVec<[Entry; 16]> = smallvec::SmallVec::new();
            for model in &lane.models {
                let queue = &model.queues[lower];
                let room = DISPLACED_JOBS_MAX - seen;
                if lower == class {
                    behind.extend(queue.behind(entry).take(room).copied());
                } else {
                    behind.extend(queue.iter().take(room).copied());
                }
            }
            behind.sort_unstable();
            for other in &behind {
                let without_ns = at_ns.saturating_sub(cost_ns).saturating_add(other.cost_ns);
                at_ns = at_ns.saturating_add(other.cost_ns);
                let deadline_ns = self.jobs.get(other.slot).job.deadline_ns;
                if at_ns > deadline_ns && without_ns <= deadline_ns {
                    done_ns = done_ns.saturating_add(other.cost_ns);
                    if lower == class || done_ns > due_ns {
                        return true;
                    }
                }
                seen += 1;
                if seen >= DISPLACED_JOBS_MAX {
                    return false;
                }
            }
        }
        false
    }

    /// The open lane with room that would have the job done first. Lanes without a share are asked only when no other
    /// serves the model; ties go to the lane that was opened first.
    fn best_lane(&self, now_ns: u64, model: &Model, job: &Job, class: usize, entry: &Entry) -> Option<Candidate> {
        if model.lanes.len() <= ASKED_LANES_MAX {
            let asked = model.lanes.iter().copied();
            return self.best_of(now_ns, asked, job, class, entry);
        }
        let first = model.pools.iter().filter_map(|pool| self.pools.get(*pool).first());
        self.best_of(now_ns, first.map(|(lane, _)| lane), job, class, entry)
    }

    fn best_of(
        &self,
        now_ns: u64,
        lanes: impl Iterator<Item = LaneSlot>,
        job: &Job,
        class: usize,
        entry: &Entry,
    ) -> Option<Candidate> {
        let candidates = lanes.filter_map(|lane| self.candidate(now_ns, lane, job, class, entry));
        candidates
            .min_by_key(|candidate| (self.lane(candidate.lane).share_permille == 0, candidate.completion.expected_ns))
    }

    /// The lane's offer; `None` when it has no room.
    fn candidate(&self, now_ns: u64, slot: LaneSlot, job: &Job, class: usize, entry: &Entry) -> Option<Candidate> {
        let lane = self.lane(slot);
        if lane.queued >= self.settings.queue_jobs_max || lane.closing {
            return None;
        }
        let model = lane.model_index(job.model)?;
        let place = PlaceInLane { model, class, entry, work: job.work };
        let crowding = self.stretch_permille(slot);
        let pool = self.pools.get(lane.pool.0);
        // More urgent jobs that are still to come will go before it: at the rate at which they have been coming.
        let urgent = pool.classes.above_permille(now_ns, class, pool.serving_lanes());
        let stretch = crowding * 1000 / (1000 - urgent.min(URGENT_PERMILLE_MAX));
        let mut completion = lane.completion(now_ns, &place, &self.settings.share_min_permille, stretch);
        if crowding > 1000 {
            let own_ns = lane.models[model].unit_ns(job.work);
            completion.at_least(self.due_before_ns(now_ns, lane.device, entry).saturating_add(own_ns));
            // A batch that runs is not interrupted, whatever its lane's share.
            completion.add(self.blocking_ns(slot), 0);
        }
        Some(Candidate { lane: slot, model, completion })
    }

    /// What all lanes of a crowded device have to do before a job of this place in the order: what was promised under
    /// other shares is kept, too.
    fn due_before_ns(&self, now_ns: u64, device: crate::types::DeviceId, entry: &Entry) -> u64 {
        let device = &self.devices[&device];
        let lanes = device.lanes.iter().map(|slot| self.lane(*slot));
        let total_ns = lanes.fold(0_u64, |total_ns, lane| {
            let queues = lane.models.iter().flat_map(|model| model.queues.iter());
            let due_ns = queues.map(|queue| queue.first_ns(queue.ahead_of(entry))).sum::<u64>();
            total_ns.saturating_add(lane.committed(now_ns).expected_ns).saturating_add(due_ns)
        });
        total_ns / device.lanes_at_once_max as u64
    }

    /// How long another lane's batch may hold up a lane of a crowded device.
    fn blocking_ns(&self, slot: LaneSlot) -> u64 {
        let device = &self.devices[&self.lane(slot).device];
        let others = device.lanes.iter().filter(|other| **other != slot).map(|other| self.lane(*other));
        let models = others.filter(|lane| lane.is_busy()).flat_map(|lane| lane.models.iter());
        models.map(|model| model.longest_batch_ns()).max().unwrap_or(0)
    }

    /// The lane for a job that was accepted before: the best one, on time or not.
    pub(crate) fn lane_again(&self, slot: crate::jobs::JobSlot) -> Option<LaneSlot> {
        let record = self.jobs.get(slot);
        let model = self.models.get(&record.job.model)?;
        let class = usize::from(record.class);
        let best = self.best_lane(self.now_ns, model, &record.job, class, &record.entry)?;
        Some(best.lane)
    }

    /// A lane other than `but`, with a share, where a queued job would be on time.
    pub(crate) fn lane_elsewhere(&self, slot: crate::jobs::JobSlot, but: LaneSlot) -> Option<LaneSlot> {
        let record = self.jobs.get(slot);
        let model = self.models.get(&record.job.model)?;
        let lanes = model.lanes.iter().copied().take(4 * ASKED_LANES_MAX);
        let others = lanes.filter(|lane| *lane != but && self.lane(*lane).share_permille > 0);
        let best = self.best_of(self.now_ns, others, &record.job, usize::from(record.class), &record.entry)?;
        let left_ns = record.job.deadline_ns.saturating_sub(self.now_ns);
        (best.completion.sure_ns() <= left_ns).then_some(best.lane)
    }

    /// Offered work, granted or not: plans and fair shares follow it.
    fn note_offer(&mut self, job: &Job) {
        let Some(first) = self.models.get(&job.model).and_then(|model| model.lanes.first().copied()) else {
            return;
        };
        let lane = self.lane(first);
        let (pool, modality) = (lane.pool.0, lane.modality);
        let Some(model) = lane.model_index(job.model) else { return };
        let cost_ns = lane.models[model].unit_ns(job.work);
        let now_ns = self.now_ns;
        let pool = self.pools.get_mut(pool);
        pool.principals.note(now_ns, job.principal, job.urgency as u8, cost_ns);
        pool.classes.note(now_ns, job.urgency as usize, cost_ns);
        self.planner.note(now_ns, modality, job.urgency, cost_ns);
    }
}

#[cfg(test)]
mod tests;
