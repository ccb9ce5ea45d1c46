//! Whose turn it is in a lane: which model and class of urgency gives the next batch.
//!
//! The most urgent class comes first. A lower class has its turn when it is owed time (its guaranteed share) or when its
//! first job would be late otherwise, and those above have the time to let it pass. What is owed comes even when they
//! have not, except before `critical`, which waits for nobody.

use smallvec::SmallVec;

use crate::lane::{CLASSES, Lane};
use crate::queue::Entry;

/// Jobs per class and model that are looked at for the question whether a class can wait.
const LOOK_AHEAD_JOBS_MAX: usize = 256;

/// The model, class and job whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) model: usize,
    pub(crate) class: usize,
    pub(crate) head: Entry,
}

impl Lane {
    /// See the module. `begin_ns` is when the batch would start.
    pub(crate) fn turn(&self, begin_ns: u64) -> Option<Turn> {
        if self.queued == 0 {
            return None;
        }
        let first = (0..CLASSES).find(|class| self.class_jobs[*class] > 0)?;
        let (model, head) = self.head(first)?;
        let top = Turn { model, class: first, head };
        let top_ns = self.batch_ns(&top);
        for class in first + 1..CLASSES {
            let Some((model, head)) = self.head(class) else { continue };
            let turn = Turn { model, class, head };
            let needs_ns = self.batch_ns(&turn);
            let owed = self.credit_ns[class] >= needs_ns && needs_ns > 0;
            let late_if_passed = head.order_ns < begin_ns.saturating_add(top_ns).saturating_add(needs_ns)
                && head.order_ns >= begin_ns.saturating_add(needs_ns);
            if !owed && !late_if_passed {
                continue;
            }
            let must = owed && self.class_jobs[0] == 0;
            if must || (first..class).all(|above| self.can_wait(above, begin_ns.saturating_add(needs_ns))) {
                return Some(turn);
            }
        }
        Some(top)
    }

    /// How long the batch of this turn takes.
    pub(crate) fn batch_ns(&self, turn: &Turn) -> u64 {
        let model = &self.models[turn.model];
        if model.times.gains() {
            let jobs = model.queues[turn.class].len().min(model.times.batch_max());
            model.times.expected_ns(jobs, 0)
        } else {
            turn.head.cost_ns
        }
    }

    /// Whether what a class has queued is on time when its first job starts at `begin_ns`.
    pub(crate) fn can_wait(&self, class: usize, begin_ns: u64) -> bool {
        if self.class_jobs[class] == 0 {
            return true;
        }
        let mut entries: SmallVec<[Entry; 16]> = SmallVec::new();
        // A job is done when its batch is, not when its part of it would be.
        let mut batch_ns = 0;
        for model in self.models.iter().filter(|model| !model.queues[class].is_empty()) {
            if model.times.gains() {
                let jobs = model.queues[class].len().min(model.times.batch_max());
                batch_ns = batch_ns.max(model.times.expected_ns(jobs, 0));
            }
            entries.extend(model.queues[class].iter().take(LOOK_AHEAD_JOBS_MAX).copied());
        }
        entries.sort_unstable();
        let mut at_ns = begin_ns;
        entries.iter().all(|entry| {
            at_ns = at_ns.saturating_add(entry.cost_ns);
            // An eighth of its time is left as a margin.
            at_ns.saturating_add(batch_ns.max(entry.cost_ns / 8)) <= entry.order_ns
        })
    }
}
