//! What will happen, by time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use sensorium_scheduler::{BatchId, DeviceId, JobKey, LaneId};

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Happening {
    Tick,
    /// A source submits.
    Arrival {
        load: u32,
        source: u32,
    },
    /// A refused job is submitted again.
    Again {
        item: u32,
    },
    /// A client takes its job back.
    Cancel {
        key: JobKey,
    },
    BatchEnd {
        lane: LaneId,
        batch: BatchId,
    },
    Fault {
        number: u32,
    },
    /// A slow device is itself again.
    Recovery {
        number: u32,
    },
    Loss {
        device: DeviceId,
        restart_ns: u64,
    },
    Restart {
        device: DeviceId,
    },
    Moment {
        until_ns: u64,
    },
    Policy {
        number: u32,
    },
}

#[derive(Debug)]
struct Entry {
    at_ns: u64,
    sequence: u64,
    happening: Happening,
}

/// The earliest comes first; of those of one time, the one that was entered first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    sequence: u64,
}

impl Queue {
    pub(super) fn push(&mut self, at_ns: u64, happening: Happening) {
        self.sequence += 1;
        self.entries.push(Reverse(Entry { at_ns, sequence: self.sequence, happening }));
    }

    pub(super) fn pop(&mut self) -> Option<(u64, Happening)> {
        self.entries.pop().map(|Reverse(entry)| (entry.at_ns, entry.happening))
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
        (self.at_ns, self.sequence).cmp(&(other.at_ns, other.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_in_the_order_of_time_and_then_of_entry() {
        let mut queue = Queue::default();
        for (at_ns, item) in [(5, 1), (3, 2), (5, 3), (3, 4)] {
            queue.push(at_ns, Happening::Again { item });
        }
        let order = std::iter::from_fn(|| queue.pop());
        let items: Vec<u32> =
            order.map(|(_, what)| if let Happening::Again { item } = what { item } else { 0 }).collect();
        assert_eq!(items, [2, 4, 1, 3]);
    }
}
