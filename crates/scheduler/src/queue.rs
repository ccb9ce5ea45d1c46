//! A queue in the order of deadlines, as a sorted ring: jobs mostly arrive with the latest deadline and leave from the
//! front, both of which cost nothing here, and "how much is ahead of this one" is mostly all of it.

use std::cmp::Ordering;
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::jobs::JobSlot;
use crate::types::{Job, virtual_deadline_ns};

/// A job's place in the order: earliest deadline first, then arrival.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The deadline, or what takes its place; never before that of an earlier job of the same stream.
    pub(crate) order_ns: u64,
    /// Number of the arrival; unique, so that no two entries are equal.
    sequence: u64,
    pub(crate) slot: JobSlot,
    /// Expected time on a device of its own batch of one, when it was queued.
    pub(crate) cost_ns: u64,
}

impl Entry {
    pub(crate) fn new(job: &Job, arrival_ns: u64, sequence: u64, slot: JobSlot) -> Self {
        let order_ns =
            if job.deadline_ns == u64::MAX { virtual_deadline_ns(arrival_ns, job.urgency) } else { job.deadline_ns };
        Self { order_ns, sequence, slot, cost_ns: 0 }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.order_ns, self.sequence).cmp(&(other.order_ns, other.sequence))
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EdfQueue {
    entries: VecDeque<Entry>,
    total_ns: u64,
}

impl EdfQueue {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn first(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// Expected time of everything in it, job by job.
    pub(crate) fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// How many entries come before this one.
    pub(crate) fn ahead_of(&self, entry: &Entry) -> usize {
        if self.entries.back().is_none_or(|last| last < entry) {
            return self.entries.len();
        }
        self.entries.partition_point(|other| other < entry)
    }

    /// Expected time of the first `jobs` entries, job by job.
    pub(crate) fn first_ns(&self, jobs: usize) -> u64 {
        if 2 * jobs <= self.entries.len() {
            self.entries.iter().take(jobs).map(|entry| entry.cost_ns).sum()
        } else {
            self.total_ns - self.entries.iter().skip(jobs).map(|entry| entry.cost_ns).sum::<u64>()
        }
    }

    /// The entries behind this place in the order.
    pub(crate) fn behind(&self, entry: &Entry) -> impl Iterator<Item = &Entry> {
        self.entries.range(self.ahead_of(entry)..)
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        let index = self.ahead_of(&entry);
        self.total_ns += entry.cost_ns;
        self.entries.insert(index, entry);
    }

    pub(crate) fn pop_first(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.total_ns -= entry.cost_ns;
        Some(entry)
    }

    /// Takes out one entry.
    pub(crate) fn remove(&mut self, entry: &Entry) -> Option<Entry> {
        let index = self.entries.binary_search(entry).ok()?;
        let entry = self.entries.remove(index)?;
        self.total_ns -= entry.cost_ns;
        Some(entry)
    }

    /// Takes out every entry that is ordered at or before `until_ns` and that `gone` says is to go.
    pub(crate) fn take_due(&mut self, until_ns: u64, mut gone: impl FnMut(&Entry) -> bool) {
        let due = self.entries.partition_point(|entry| entry.order_ns <= until_ns);
        if due == 0 {
            return;
        }
        let (mut index, mut taken_ns) = (0, 0);
        self.entries.retain(|entry| {
            index += 1;
            let stays = index > due || !gone(entry);
            taken_ns += if stays { 0 } else { entry.cost_ns };
            stays
        });
        self.total_ns -= taken_ns;
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> {
        self.total_ns = 0;
        std::mem::take(&mut self.entries).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::{JobKey, ModelKey};

    fn entry(deadline_ns: u64, sequence: u64) -> Entry {
        let job = Job::new(JobKey(sequence), ModelKey(0), deadline_ns);
        let slot = JobSlot::try_from(sequence).unwrap();
        Entry { cost_ns: sequence % 7, ..Entry::new(&job, 0, sequence, slot) }
    }

    proptest! {
        /// Whatever is done to it, the queue is the sorted set of what was inserted and not taken out.
        #[test]
        fn the_queue_is_a_sorted_set(steps in prop::collection::vec((0..4_u8, 0..20_u64), 0..200)) {
            let (mut queue, mut model) = (EdfQueue::default(), BTreeSet::<Entry>::new());
            for (sequence, (step, number)) in (0_u64..).zip(steps) {
                match step {
                    0 | 1 => {
                        let new = entry(number, sequence);
                        prop_assert_eq!(queue.ahead_of(&new), model.range(..new).count());
                        let ahead_ns = model.range(..new).map(|entry| entry.cost_ns).sum::<u64>();
                        prop_assert_eq!(queue.first_ns(queue.ahead_of(&new)), ahead_ns);
                        prop_assert!(queue.behind(&new).eq(model.range(new..)));
                        queue.insert(new);
                        model.insert(new);
                    }
                    2 => prop_assert_eq!(queue.pop_first(), model.pop_first()),
                    _ => {
                        let any = model.iter().nth(usize::try_from(number).unwrap()).copied();
                        prop_assert_eq!(any.and_then(|any| queue.remove(&any)), any.and_then(|any| model.take(&any)));
                        let gone = number / 2;
                        queue.take_due(gone, |entry| entry.sequence % 2 == 0);
                        model.retain(|entry| entry.order_ns > gone || entry.sequence % 2 != 0);
                    }
                }
                prop_assert!(queue.iter().eq(model.iter()));
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(queue.total_ns(), model.iter().map(|entry| entry.cost_ns).sum::<u64>());
            }
        }
    }
}
