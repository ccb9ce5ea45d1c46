//! A queue in the order of deadlines, as a sorted ring: jobs mostly arrive with the latest deadline and leave from the
//! front, both of which cost nothing here, and "how many are ahead of this one" is a binary search.

use std::collections::VecDeque;

use sensorium_wire::Urgency;

use crate::jobs::JobSlot;
use crate::types::{Job, virtual_deadline_ns};

/// A job's place in the order: earliest deadline first, then urgency, then arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    order_ns: u64,
    urgency: Urgency,
    /// Number of the arrival; unique, so that no two entries are equal.
    sequence: u64,
    pub(crate) slot: JobSlot,
}

impl Entry {
    pub(crate) fn new(job: &Job, arrival_ns: u64, sequence: u64, slot: JobSlot) -> Self {
        let order_ns =
            if job.deadline_ns == u64::MAX { virtual_deadline_ns(arrival_ns, job.urgency) } else { job.deadline_ns };
        Self { order_ns, urgency: job.urgency, sequence, slot }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct EdfQueue {
    entries: VecDeque<Entry>,
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

    /// How many entries come before this one.
    pub(crate) fn ahead_of(&self, entry: &Entry) -> usize {
        if self.entries.back().is_none_or(|last| last < entry) {
            return self.entries.len();
        }
        self.entries.partition_point(|other| other < entry)
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        let index = self.ahead_of(&entry);
        self.entries.insert(index, entry);
    }

    pub(crate) fn pop_first(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }

    /// Takes out one entry; false when it is not here.
    pub(crate) fn remove(&mut self, entry: &Entry) -> bool {
        match self.entries.binary_search(entry) {
            Ok(index) => self.entries.remove(index).is_some(),
            Err(_) => false,
        }
    }

    /// Takes out every entry that is ordered at or before `now_ns` and that `expired` says has expired.
    pub(crate) fn take_expired(&mut self, now_ns: u64, mut expired: impl FnMut(&Entry) -> bool) {
        let due = self.entries.partition_point(|entry| entry.order_ns <= now_ns);
        if due == 0 {
            return;
        }
        let mut index = 0;
        self.entries.retain(|entry| {
            index += 1;
            index > due || !expired(entry)
        });
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Entry> {
        std::mem::take(&mut self.entries).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::{JobKey, ModelKey};

    fn entry(deadline_ns: u64, urgency: usize, sequence: u64) -> Entry {
        let urgency = Urgency::ALL[urgency];
        let job = Job { key: JobKey(sequence), model: ModelKey(0), deadline_ns, urgency, payload_bytes: 0 };
        Entry::new(&job, 0, sequence, JobSlot::try_from(sequence).unwrap())
    }

    proptest! {
        /// Whatever is done to it, the queue is the sorted set of what was inserted and not taken out.
        #[test]
        fn the_queue_is_a_sorted_set(steps in prop::collection::vec((0..4_u8, 0..20_u64, 0..4_usize), 0..200)) {
            let (mut queue, mut model) = (EdfQueue::default(), BTreeSet::new());
            for (sequence, (step, number, urgency)) in (0_u64..).zip(steps) {
                match step {
                    0 | 1 => {
                        let new = entry(number, urgency, sequence);
                        prop_assert_eq!(queue.ahead_of(&new), model.range(..new).count());
                        queue.insert(new);
                        model.insert(new);
                    }
                    2 => prop_assert_eq!(queue.pop_first(), model.pop_first()),
                    _ => {
                        let any = model.iter().nth(usize::try_from(number).unwrap()).copied();
                        prop_assert_eq!(any.is_some_and(|any| queue.remove(&any)), any.is_some_and(|any| model.remove(&any)));
                        let gone = number / 2;
                        queue.take_expired(gone, |entry| entry.sequence % 2 == 0);
                        model.retain(|entry| entry.order_ns > gone || entry.sequence % 2 != 0);
                    }
                }
                prop_assert!(queue.iter().eq(model.iter()));
                prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
