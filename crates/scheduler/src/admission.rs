//! May this job in, and into which lane.

use sensorium_wire::Reason;

use crate::event::{Command, Handled};
use crate::jobs::Place;
use crate::lane::LaneSlot;
use crate::queue::Entry;
use crate::scheduler::{Model, Scheduler};
use crate::types::Job;

/// Shortest retry hint: less would only make clients spin.
const RETRY_AFTER_US_MIN: u64 = 1_000;

struct Refusal {
    reason: Reason,
    retry_after_us: u64,
}

impl Refusal {
    const fn new(reason: Reason) -> Self {
        Self { reason, retry_after_us: 0 }
    }

    fn retry_after_ns(reason: Reason, retry_after_ns: u64) -> Self {
        Self { reason, retry_after_us: (retry_after_ns / 1_000).max(RETRY_AFTER_US_MIN) }
    }
}

impl Scheduler {
    /// What would become of a job that arrived now: `None` when it would be accepted, else the reason and the retry hint
    /// in microseconds. Lets a caller refuse by the header, before the payload is there; nothing is changed.
    #[must_use]
    pub fn refusal(&self, now_ns: u64, job: &Job) -> Option<(Reason, u64)> {
        let entry = Entry::new(job, now_ns, self.arrivals, self.jobs.next_slot());
        let refusal = self.admit(now_ns.max(self.now_ns), job, &entry).err()?;
        Some((refusal.reason, refusal.retry_after_us))
    }

    pub(crate) fn job_arrived(&mut self, job: &Job, out: &mut Vec<Command>) -> Handled {
        if self.jobs.contains(job.key) {
            return Handled::Duplicate;
        }
        let entry = Entry::new(job, self.now_ns, self.arrivals, self.jobs.next_slot());
        let place = match self.admit(self.now_ns, job, &entry) {
            Ok(place) => place,
            Err(Refusal { reason, retry_after_us }) => {
                out.push(Command::Refuse { key: job.key, reason, retry_after_us, predicted_ns: 0 });
                return Handled::Applied;
            }
        };
        self.arrivals += 1;
        self.jobs.insert(*job, entry, place);
        match place {
            Place::Queued { lane } => {
                let lane = self.lane_mut(lane);
                let model = lane.model_index(job.model).expect("a model's lanes serve it");
                lane.enqueue(model, entry);
                let device = lane.device;
                self.dispatch(device, out);
            }
            Place::Waiting => {
                self.waiting += 1;
                self.models.get_mut(&job.model).expect("admitted jobs name a known model").waiting.insert(entry);
            }
            Place::Suspect { .. } | Place::Committed { .. } => {}
        }
        Handled::Applied
    }

    fn admit(&self, now_ns: u64, job: &Job, entry: &Entry) -> Result<Place, Refusal> {
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
            return self.admit_without_lane(now_ns, model);
        }
        let Some((lane, completion_ns)) = self.best_lane(now_ns, model, job, entry) else {
            let drained_ns = model.lanes.iter().map(|slot| self.lane(*slot).backlog_ns(now_ns)).min();
            return Err(Refusal::retry_after_ns(Reason::Overloaded, drained_ns.unwrap_or(0)));
        };
        let budget_ns = job.deadline_ns - now_ns;
        if job.deadline_ns != u64::MAX && completion_ns > budget_ns {
            let model_index = self.lane(lane).model_index(job.model).expect("a model's lanes serve it");
            let own_ns = self.lane(lane).models[model_index].times.p99_ns(1);
            // When the job would be too slow even alone, waiting does not help.
            return Err(if own_ns > budget_ns {
                Refusal::new(Reason::DeadlineUnreachable)
            } else {
                Refusal::retry_after_ns(Reason::DeadlineUnreachable, completion_ns - budget_ns)
            });
        }
        Ok(Place::Queued { lane })
    }

    /// A lane that went away a moment ago is coming back, so the job waits; otherwise there is nothing to wait for.
    fn admit_without_lane(&self, now_ns: u64, model: &Model) -> Result<Place, Refusal> {
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
        Ok(Place::Waiting)
    }

    /// The open lane with room that would have the job done first, and how long that takes. Ties go to the lane that
    /// was opened first.
    pub(crate) fn best_lane(&self, now_ns: u64, model: &Model, job: &Job, entry: &Entry) -> Option<(LaneSlot, u64)> {
        let with_room = model.lanes.iter().filter_map(|slot| {
            let lane = self.lane(*slot);
            if lane.queued >= self.settings.queue_jobs_max {
                return None;
            }
            let index = lane.model_index(job.model)?;
            Some((*slot, lane.completion_ns(now_ns, index, entry)))
        });
        with_room.min_by_key(|(_, completion_ns)| *completion_ns)
    }
}

#[cfg(test)]
mod tests;
