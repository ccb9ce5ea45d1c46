//! Clients: they submit, submit again when they are told to, take jobs back, and follow a job through its stages.

use sensorium_scheduler::{Event, Job, JobKey, ModelKey, PrincipalKey, StreamKey};
use sensorium_wire::Reason;

use super::items::{Item, place};
use super::queue::Happening;
use super::{Decide, Simulation};
use crate::arrivals::Arrivals;
use crate::report::{HowMissed, Miss};
use crate::tally::End;
use crate::time::{SECOND, US, float, ns_of};

impl<D: Decide> Simulation<'_, D> {
    pub(super) fn open_sources(&mut self) {
        for (number, load) in (0..).zip(&self.scenario.loads) {
            let chance = &mut self.of_loads[number as usize];
            let of_load = if matches!(load.arrivals, Arrivals::Trace { .. }) { 1 } else { load.sources };
            let together = self.misfortune.together();
            self.sources.push((0..of_load).map(|_| load.arrivals.source(together, chance)).collect());
            for source in 0..of_load {
                self.arrange_arrival(number, source, load.start_ns);
            }
        }
    }

    fn arrange_arrival(&mut self, load: u32, source: u32, after_ns: u64) {
        let of_load = &self.scenario.loads[load as usize];
        let end_ns = of_load.end_ns.min(self.scenario.run_ns).saturating_sub(of_load.start_ns);
        let state = &mut self.sources[load as usize][source as usize];
        let chance = &mut self.of_loads[load as usize];
        let next_ns = of_load.arrivals.next(state, after_ns - of_load.start_ns, end_ns, chance);
        if let Some(next_ns) = next_ns {
            self.queue.push(of_load.start_ns + next_ns, Happening::Arrival { load, source });
        }
    }

    pub(super) fn arrive(&mut self, load: u32, source: u32) -> Result<(), String> {
        let number = self.tally.offered(load as usize);
        let of_load = &self.scenario.loads[load as usize];
        // The jobs of a trace come from its sources in turn.
        let turn = u32::try_from((number - 1) % u64::from(of_load.sources)).unwrap_or(0);
        let traced = matches!(of_load.arrivals, Arrivals::Trace { .. });
        let item = Item {
            key: JobKey(u64::MAX),
            load,
            source: if traced { turn } else { source },
            number,
            stage: 0,
            tries: 0,
            submitted_ns: self.now_ns,
            deadline_ns: u64::MAX,
            cancelled: false,
            left: 1.0,
            luck: None,
        };
        let at = self.items.insert(item);
        self.submit_again(at)?;
        self.arrange_arrival(load, source, self.now_ns);
        Ok(())
    }

    /// Submits a job from its first stage on, with its whole deadline.
    pub(super) fn submit_again(&mut self, at: u32) -> Result<(), String> {
        let Some(item) = self.items.items[at as usize].as_mut() else { return Ok(()) };
        let load = item.load as usize;
        let of_load = &self.scenario.loads[load];
        item.submitted_ns = self.now_ns;
        // The sender takes off what the way costs.
        let budget_ns = of_load.deadline_ns.map(|deadline_ns| deadline_ns - self.scenario.overhead_ns);
        item.deadline_ns = budget_ns.map_or(u64::MAX, |budget_ns| self.now_ns.saturating_add(budget_ns));
        let Some((key, reason, retry_after_us)) = self.submit(at)? else {
            self.tally.accepted(load);
            if self.of_clients.happens(of_load.cancel_probability) {
                let patience_ns = float(of_load.deadline_ns.unwrap_or(SECOND));
                let at_ns = self.now_ns.saturating_add(ns_of(self.of_clients.unit() * patience_ns, 1));
                if let Some(key) = self.items.items[at as usize].map(|item| item.key) {
                    self.queue.push(at_ns, Happening::Cancel { key });
                }
            }
            return Ok(());
        };
        let again_ns = self.now_ns.saturating_add(retry_after_us.saturating_mul(US));
        let item = self.items.find_mut(key);
        let tries_left = item.as_ref().is_some_and(|item| item.tries < of_load.retries_max);
        if let Some(item) = item.filter(|_| tries_left && retry_after_us > 0 && again_ns < self.scenario.run_ns) {
            item.tries += 1;
            self.tally.retried(load);
            self.queue.push(again_ns, Happening::Again { item: at });
        } else {
            self.items.remove(key);
            self.tally.refused(load, reason);
        }
        Ok(())
    }

    /// Submits the present stage; gives the refusal, if it is one.
    fn submit(&mut self, at: u32) -> Result<Option<(JobKey, Reason, u64)>, String> {
        let key = self.items.fresh_key(at);
        let Some(item) = self.items.items[at as usize].as_mut() else { return Ok(None) };
        item.key = key;
        (item.left, item.luck) = (1.0, None);
        let item = *item;
        let load = &self.scenario.loads[item.load as usize];
        let stages = &load.stages[usize::from(item.stage)..];
        let site = item.source % self.scenario.sites;
        let job = Job {
            key,
            model: self.scenario.model_key(site, stages[0]),
            deadline_ns: self.stage_deadline_ns(item.deadline_ns, site, stages),
            urgency: load.urgency,
            payload_bytes: load.payload_bytes,
            work: load.work,
            stream: load.ordered.then(|| StreamKey(load.first_source + u64::from(item.source))),
            principal: PrincipalKey(load.first_principal + item.source % load.principals),
        };
        self.tell(Event::JobArrived(job))?;
        Ok(self.items.refusal.take())
    }

    fn stage_deadline_ns(&self, deadline_ns: u64, site: u32, stages: &[usize]) -> u64 {
        if deadline_ns == u64::MAX || stages.len() == 1 {
            return deadline_ns;
        }
        let keys: Vec<ModelKey> = stages.iter().map(|stage| self.scenario.model_key(site, *stage)).collect();
        self.decider.stage_deadline_ns(self.now_ns, deadline_ns, &keys)
    }

    /// Only during the first stage: later a client is nearly served.
    pub(super) fn cancel(&mut self, key: JobKey) -> Result<(), String> {
        if self.items.find(key).is_none_or(|item| item.cancelled) {
            return Ok(());
        }
        self.tell(Event::JobCancelled { key })
    }

    /// A stage has its result.
    pub(super) fn stage_done(&mut self, key: JobKey) -> Result<(), String> {
        let at = u32::try_from(place(key)).unwrap_or(u32::MAX);
        let Some(item) = self.items.find_mut(key) else { return Ok(()) };
        if item.cancelled {
            self.items.remove(key);
            return Ok(());
        }
        let stages = &self.scenario.loads[item.load as usize].stages;
        if usize::from(item.stage) + 1 < stages.len() {
            item.stage += 1;
            if let Some((key, reason, _)) = self.submit(at)? {
                self.end(key, End::Missed(HowMissed::RefusedMidway(reason)));
            }
            return Ok(());
        }
        let latency_ns = self.now_ns - item.submitted_ns + self.scenario.overhead_ns;
        let left_ns = (item.deadline_ns != u64::MAX).then(|| difference(item.deadline_ns, self.now_ns));
        self.end(key, End::Done { latency_ns, left_ns });
        Ok(())
    }

    pub(super) fn expired(&mut self, key: JobKey) {
        self.end(key, End::Missed(HowMissed::Expired));
    }

    pub(super) fn failed(&mut self, key: JobKey, reason: Reason) {
        self.end(key, End::Missed(HowMissed::Failed(reason)));
    }

    pub(super) fn cancelled(&mut self, key: JobKey, running: bool) {
        let Some(item) = self.items.find_mut(key) else { return };
        item.cancelled = true;
        let load = item.load as usize;
        self.tally.ended(load, End::Cancelled, false, |how| Miss::new(0, "", 0, how));
        if !running {
            self.items.remove(key);
        }
    }

    /// An accepted job has its outcome.
    fn end(&mut self, key: JobKey, end: End) {
        let Some(item) = self.items.remove(key) else { return };
        let excused = self.items.excused(&item, self.scenario);
        let (now_ns, load) = (self.now_ns, item.load as usize);
        let name = &self.scenario.loads[load].name;
        self.tally.ended(load, end, excused, |how| Miss::new(now_ns, name, item.number, how));
    }

    /// Accepted jobs that still wait when the run is given up.
    pub(super) fn count_lost(&mut self) {
        for item in self.items.items.iter().flatten().filter(|item| !item.cancelled) {
            self.tally.lost(item.load as usize);
        }
    }
}

fn difference(left: u64, right: u64) -> i64 {
    i64::try_from(i128::from(left) - i128::from(right)).unwrap_or(i64::MIN)
}
