//! The jobs that clients wait for, by the numbers under which the scheduler knows them.

use std::collections::BTreeMap;

use sensorium_scheduler::{JobKey, ModelKey};
use sensorium_wire::Reason;

use crate::scenario::Scenario;

/// A job of a client's, through all stages and repetitions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Of its present stage; the lower half is its place in the table, the upper half counts uses of that place.
    pub(super) key: JobKey,
    pub(super) load: u32,
    pub(super) source: u32,
    /// Within its load.
    pub(super) number: u64,
    pub(super) stage: u8,
    pub(super) tries: u8,
    pub(super) submitted_ns: u64,
    /// `u64::MAX` = none. When the answer must leave the node.
    pub(super) deadline_ns: u64,
    pub(super) cancelled: bool,
    /// What is left of a job that runs in slices, as a part of it; and the factor of luck on its time.
    pub(super) left: f64,
    pub(super) luck: Option<f64>,
}

/// Every job that a client waits for.
#[derive(Debug, Default)]
pub(super) struct Items {
    pub(super) items: Vec<Option<Item>>,
    free: Vec<u32>,
    uses: u64,
    pub(super) refusal: Option<(JobKey, Reason, u64)>,
    /// When a device last died that has the model.
    died_ns: BTreeMap<ModelKey, u64>,
}

/// Where the item of a key is.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
pub(super) const fn place(key: JobKey) -> usize {
    key.0 as u32 as usize
}

impl Items {
    pub(super) fn find(&self, key: JobKey) -> Option<&Item> {
        self.items.get(place(key))?.as_ref().filter(|item| item.key == key)
    }

    pub(super) fn find_mut(&mut self, key: JobKey) -> Option<&mut Item> {
        self.items.get_mut(place(key))?.as_mut().filter(|item| item.key == key)
    }

    pub(super) fn remove(&mut self, key: JobKey) -> Option<Item> {
        let item = *self.find(key)?;
        self.items[place(key)] = None;
        self.free.push(u32::try_from(place(key)).unwrap_or(u32::MAX));
        Some(item)
    }

    pub(super) fn insert(&mut self, item: Item) -> u32 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            u32::try_from(self.items.len() - 1).expect("queues are bounded, and with them the jobs that wait")
        });
        self.items[at as usize] = Some(item);
        at
    }

    /// A key that no job had before.
    pub(super) fn fresh_key(&mut self, at: u32) -> JobKey {
        self.uses += 1;
        JobKey((self.uses << 32) | u64::from(at))
    }

    /// Remembered until the job's submission returns.
    pub(super) fn refuse(&mut self, key: JobKey, reason: Reason, retry_after_us: u64) {
        self.refusal = Some((key, reason, retry_after_us));
    }

    /// A job starts anew: what it had done in slices died with its worker.
    pub(super) fn start(&mut self, key: JobKey) {
        if let Some(item) = self.find_mut(key) {
            (item.left, item.luck) = (1.0, None);
        }
    }

    /// The factor on what is left of a job that runs in slices; drawn once.
    pub(super) fn luck(&mut self, key: JobKey, draw: impl FnOnce() -> f64) -> f64 {
        match self.find_mut(key) {
            Some(item) => item.left * *item.luck.get_or_insert_with(draw),
            None => 0.0,
        }
    }

    /// How much longer jobs of this load take.
    pub(super) fn factor(&self, key: JobKey, scenario: &Scenario) -> f64 {
        self.find(key).map_or(1.0, |item| scenario.loads[item.load as usize].time_factor)
    }

    /// A slice of so many medians will have been run.
    pub(super) fn advance(&mut self, key: JobKey, medians: f64, scenario: &Scenario) {
        let factor = self.factor(key, scenario);
        if let Some(item) = self.find_mut(key) {
            item.left -= medians / (item.luck.unwrap_or(1.0) * factor);
        }
    }

    /// What a worker says of a job at the end of a slice; it is not asked about jobs that were taken back.
    pub(super) fn unfinished(&self, key: JobKey) -> bool {
        self.find(key).is_some_and(|item| item.left > 1e-9 && !item.cancelled)
    }

    /// A batch died with its worker; jobs that were taken back over it are not run again.
    pub(super) fn forget_cancelled(&mut self, key: JobKey) {
        if self.find(key).is_some_and(|item| item.cancelled) {
            self.remove(key);
        }
    }

    pub(super) fn device_died(&mut self, now_ns: u64, model: ModelKey) {
        self.died_ns.insert(model, now_ns);
    }

    /// Whether a device that has one of its models died during its life.
    pub(super) fn excused(&self, item: &Item, scenario: &Scenario) -> bool {
        let stages = &scenario.loads[item.load as usize].stages;
        let site = item.source % scenario.sites;
        let died_ns = stages.iter().filter_map(|model| self.died_ns.get(&scenario.model_key(site, *model))).max();
        died_ns.is_some_and(|died_ns| *died_ns >= item.submitted_ns)
    }
}
