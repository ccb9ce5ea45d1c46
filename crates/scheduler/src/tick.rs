//! What passes with time: jobs expire, batches hang, waits end, the plan follows the load.

use std::collections::BTreeSet;

use sensorium_wire::Reason;

use crate::event::{Command, Hung};
use crate::jobs::{JobSlot, Place};
use crate::lane::{CLASSES, LaneSlot};
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::types::DeviceId;

/// Lanes per model that a tick asks for room for waiting jobs.
const LANES_ASKED_PER_TICK_MAX: usize = 64;

impl Scheduler {
    pub(crate) fn tick(&mut self, out: &mut Vec<Command>) {
        self.replan(out);
        while let Some((due_ns, slot)) = self.wakes.first().copied().filter(|(due_ns, _)| *due_ns <= self.now_ns) {
            self.wakes.remove(&(due_ns, slot));
            let lane = self.lane_mut(slot);
            lane.wake_ns = u64::MAX;
            let device = lane.device;
            self.expire_queued(slot, out);
            self.replace_if_hung(device, out);
            self.dispatch(device, out);
            self.wake_later(slot);
        }
        self.expire_waiting(out);
        let suspected: Vec<DeviceId> = self.with_suspects.iter().copied().collect();
        for device in &suspected {
            self.expire_suspects(*device, out);
        }
        self.give_up_waits(out);
        for device in suspected {
            self.dispatch(device, out);
        }
        self.dispatch_waiting(out);
    }

    /// Room for waiting jobs can have come from anywhere.
    fn dispatch_waiting(&mut self, out: &mut Vec<Command>) {
        if self.waiting == 0 {
            return;
        }
        let models = self.models.values().filter(|model| !model.waiting.is_empty());
        let lanes = models.flat_map(|model| model.lanes.iter().take(LANES_ASKED_PER_TICK_MAX));
        let devices: BTreeSet<DeviceId> = lanes.map(|slot| self.lane(*slot).device).collect();
        for device in devices {
            self.dispatch(device, out);
        }
    }

    /// The lane's state changed: its place in the ranking and when it is looked at again. Called after everything that
    /// changes a lane's queues or batches.
    pub(crate) fn touch(&mut self, slot: LaneSlot) {
        let now_ns = self.now_ns;
        let Some(lane) = self.lanes[slot as usize].as_ref() else {
            return;
        };
        if lane.closing || lane.queued >= self.settings.queue_jobs_max {
            self.pools.get_mut(lane.pool.0).ranking.clear(lane.pool.1);
        } else {
            // An idle lane is free since always, so that its number does not change from job to job.
            let free_ns = if lane.is_busy() { now_ns.saturating_add(lane.backlog_ns(now_ns)) } else { 0 };
            let number = if lane.share_permille == 0 { free_ns | WITHOUT_SHARE } else { free_ns };
            self.pools.get_mut(lane.pool.0).ranking.set(lane.pool.1, number.min(u64::MAX - 1));
        }
        self.wake_later(slot);
    }

    /// Registers when the lane wants to be looked at: after now, so that a tick ends. One that is registered earlier is
    /// looked at then and registered anew: deadlines mostly move on.
    fn wake_later(&mut self, slot: LaneSlot) {
        if self.lanes[slot as usize].is_none() {
            return;
        }
        let due_ns = self.due_ns(slot).max(self.now_ns + 1);
        let lane = self.lane_mut(slot);
        if due_ns < lane.wake_ns {
            let was_ns = std::mem::replace(&mut lane.wake_ns, due_ns);
            self.wakes.remove(&(was_ns, slot));
            self.wakes.insert((due_ns, slot));
        }
    }

    /// When something happens to this lane by the passing of time alone.
    fn due_ns(&self, slot: LaneSlot) -> u64 {
        let lane = self.lane(slot);
        let mut due_ns = u64::MAX;
        if let Some(running) = lane.committed.front() {
            if running.run_ns_max > 0 {
                due_ns = running.started_ns.saturating_add(running.run_ns_max).saturating_add(1);
            }
            if lane.queued > 0 && lane.committed.len() == 1 {
                let ends_ns = running.started_ns.saturating_add(running.predicted_ns);
                due_ns = due_ns.min(ends_ns.saturating_sub(self.settings.commit_ahead_ns).max(self.now_ns));
            }
        }
        if lane.queued > 0 {
            for model in &lane.models {
                for class in (0..CLASSES).filter(|class| lane.class_jobs[*class] > 0) {
                    if let Some(first) = model.queues[class].first() {
                        due_ns = due_ns.min(first.order_ns.saturating_sub(model.times.expected_ns(1, 0)));
                    }
                }
                if model.arrivals.waiting_since_ns > 0 {
                    due_ns = due_ns.min(model.arrivals.waiting_since_ns.saturating_add(model.batch_wait_ns));
                }
            }
        }
        due_ns
    }

    /// Ends the queued jobs of a lane that cannot be on time any more.
    fn expire_queued(&mut self, slot: LaneSlot, out: &mut Vec<Command>) {
        let now_ns = self.now_ns;
        for index in 0..self.lane(slot).models.len() {
            for class in 0..CLASSES {
                if self.lane(slot).class_jobs[class] == 0 {
                    continue;
                }
                let lead_ns = self.lane(slot).models[index].times.expected_ns(1, 0).saturating_mul(2);
                let mut gone: Vec<JobSlot> = Vec::new();
                let mut queue = std::mem::take(&mut self.lane_mut(slot).models[index].queues[class]);
                queue.take_due(now_ns.saturating_add(lead_ns), |entry| {
                    let hopeless = self.is_hopeless(slot, index, entry, now_ns);
                    gone.extend(hopeless.then_some(entry.slot));
                    hopeless
                });
                let lane = self.lane_mut(slot);
                lane.models[index].queues[class] = queue;
                lane.left(class, gone.len());
                for job in gone {
                    self.break_promise(slot, index, job, out);
                }
            }
        }
    }

    /// Ends jobs whose deadline passes while they wait for a lane or for a predecessor.
    fn expire_waiting(&mut self, out: &mut Vec<Command>) {
        let (jobs, now_ns) = (&self.jobs, self.now_ns);
        let mut gone: Vec<JobSlot> = Vec::new();
        if self.waiting > 0 {
            for model in self.models.values_mut() {
                let before = gone.len();
                // In a stream, a job's place can be later than its deadline, so all of them are asked.
                model.waiting.take_due(u64::MAX, |entry| {
                    let late = jobs.get(entry.slot).job.deadline_ns <= now_ns;
                    gone.extend(late.then_some(entry.slot));
                    late
                });
                self.waiting -= gone.len() - before;
            }
        }
        while let Some((deadline_ns, slot)) = self.held.first().copied()
            && deadline_ns <= now_ns
        {
            self.held.remove(&(deadline_ns, slot));
            gone.push(slot);
        }
        for slot in gone {
            self.expire(slot, out);
        }
    }

    pub(crate) fn expire_suspects(&mut self, device: DeviceId, out: &mut Vec<Command>) {
        let mut gone: Vec<JobSlot> = Vec::new();
        let (jobs, now_ns) = (&self.jobs, self.now_ns);
        let Some(state) = self.devices.get_mut(&device) else {
            return;
        };
        state.suspects.take_due(u64::MAX, |entry| {
            let late = jobs.get(entry.slot).job.deadline_ns <= now_ns;
            gone.extend(late.then_some(entry.slot));
            late
        });
        if state.suspects.is_empty() {
            self.with_suspects.remove(&device);
        }
        for slot in gone {
            self.expire(slot, out);
        }
    }

    fn replace_if_hung(&mut self, device: DeviceId, out: &mut Vec<Command>) {
        let now_ns = self.now_ns;
        let state = &self.devices[&device];
        if state.replacing {
            return;
        }
        let hung = state.lanes.iter().find_map(|slot| {
            let lane = self.lane(*slot);
            let running = lane.committed.front()?;
            let over = running.run_ns_max > 0 && now_ns.saturating_sub(running.started_ns) > running.run_ns_max;
            over.then_some(Hung { lane: lane.id, batch: running.id, limit_ns: running.run_ns_max })
        });
        if let Some(why) = hung {
            self.device_mut(device).replacing = true;
            out.push(Command::ReplaceWorker { device, why });
        }
    }

    /// Ends the wait of jobs whose lane did not come back in time. Suspects go to another device if there is one.
    fn give_up_waits(&mut self, out: &mut Vec<Command>) {
        let (now_ns, wait_ns) = (self.now_ns, self.settings.restart_wait_ns);
        let mut failed: Vec<JobSlot> = Vec::new();
        if self.waiting > 0 {
            for model in self.models.values_mut() {
                let over = model.lost_ns.is_none_or(|lost_ns| now_ns >= lost_ns.saturating_add(wait_ns));
                if over && model.lanes.is_empty() && !model.waiting.is_empty() {
                    self.waiting -= model.waiting.len();
                    failed.extend(model.waiting.drain().map(|entry| entry.slot));
                }
            }
        }
        let mut moved: Vec<(Entry, DeviceId, DeviceId)> = Vec::new();
        for device in &self.with_suspects {
            let state = &self.devices[device];
            if now_ns < state.lost_ns.saturating_add(wait_ns) {
                continue;
            }
            for entry in state.suspects.iter() {
                let lanes = self.models.get(&self.jobs.get(entry.slot).job.model).map_or(&[][..], |model| &model.lanes);
                let mut serving = lanes.iter().map(|slot| self.lane(*slot).device);
                if serving.clone().all(|other| other != *device) {
                    match serving.next() {
                        Some(other) => moved.push((*entry, *device, other)),
                        None => failed.push(entry.slot),
                    }
                }
            }
        }
        for (entry, from, to) in moved {
            self.take_suspect(from, &entry);
            self.add_suspect(to, entry);
            self.jobs.get_mut(entry.slot).place = Place::Suspect { device: to };
            self.dispatch(to, out);
        }
        for slot in failed {
            let record = self.jobs.get(slot);
            if let Place::Suspect { device } = record.place {
                let entry = record.entry;
                self.take_suspect(device, &entry);
            }
            self.fail(slot, Reason::ModelUnavailable, out);
        }
    }
}

/// Ranks a lane behind all that have a share.
const WITHOUT_SHARE: u64 = 1 << 63;
