//! The restart table: what is restarted, how often, and then what. The whole policy is the constants below.

use std::collections::VecDeque;

use serde::Serialize;

/// Something that is restarted when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Worker,
    /// A worker that waits to take over from the one that serves.
    Standby,
    /// A GPU that was taken out of service because it went bad, each time it may come back.
    Gpu,
    DeviceActor,
    DeviceSupervisor,
    /// A group of devices that is broken, each time it comes together anew.
    Group,
    GroupActor,
    GroupSupervisor,
    Scheduler,
    Gateway,
    ClusterListener,
    Cluster,
    SessionSupervisor,
    Monitor,
    SourceProcess,
    SourceSupervisor,
    SourceActor,
    /// A live source that is opened again.
    Camera,
}

/// What happens when a part has failed more often than its policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Wait this long, then start counting afresh.
    Pause { pause_ms: u64 },
    /// Give the part up; the rest of the node goes on.
    GiveUp,
    /// The node cannot work without it: stop, with a reason, for whoever runs the node to restart it.
    StopNode,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct RestartPolicy {
    pub part: Part,
    /// Restarts allowed within `window_ms`.
    pub restarts_max: usize,
    pub window_ms: u64,
    /// Pause before the second restart in a window; it doubles with each further one, up to 2 s. The first is at once.
    pub backoff_ms: u64,
    pub then: Then,
}

const fn row(part: Part, restarts_max: usize, window_ms: u64, backoff_ms: u64, then: Then) -> RestartPolicy {
    RestartPolicy { part, restarts_max, window_ms, backoff_ms, then }
}

/// The table.
pub const TABLE: [RestartPolicy; 18] = [
    row(Part::Worker, 20, 60_000, 50, Then::Pause { pause_ms: 10_000 }),
    row(Part::Standby, 5, 60_000, 500, Then::Pause { pause_ms: 30_000 }),
    row(Part::Gpu, 3, 600_000, 500, Then::GiveUp),
    row(Part::DeviceActor, 5, 60_000, 50, Then::GiveUp),
    row(Part::DeviceSupervisor, 3, 60_000, 50, Then::StopNode),
    row(Part::Group, 20, 60_000, 100, Then::Pause { pause_ms: 10_000 }),
    row(Part::GroupActor, 5, 60_000, 50, Then::GiveUp),
    row(Part::GroupSupervisor, 3, 60_000, 50, Then::GiveUp),
    row(Part::Scheduler, 5, 60_000, 10, Then::StopNode),
    row(Part::Gateway, 3, 60_000, 100, Then::StopNode),
    row(Part::ClusterListener, 5, 60_000, 200, Then::GiveUp),
    row(Part::Cluster, 10, 60_000, 100, Then::Pause { pause_ms: 10_000 }),
    row(Part::SessionSupervisor, 5, 60_000, 10, Then::StopNode),
    row(Part::Monitor, 5, 60_000, 100, Then::GiveUp),
    row(Part::SourceProcess, 3, 60_000, 100, Then::GiveUp),
    row(Part::SourceSupervisor, 5, 60_000, 10, Then::StopNode),
    row(Part::SourceActor, 10, 60_000, 100, Then::Pause { pause_ms: 10_000 }),
    row(Part::Camera, 20, 60_000, 100, Then::Pause { pause_ms: 5_000 }),
];

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    RestartAfter { wait_ms: u64 },
    GiveUp,
    StopNode,
}

/// The failures of one part.
#[derive(Debug)]
pub struct History {
    policy: RestartPolicy,
    failures_ms: VecDeque<u64>,
    /// Restarts since the node started.
    pub restarts: u64,
}

impl History {
    pub fn new(part: Part) -> Self {
        let policy = TABLE.into_iter().find(|row| row.part == part).expect("every part has a row");
        Self { policy, failures_ms: VecDeque::new(), restarts: 0 }
    }

    /// Notes a failure and says what follows. `now_ms` is any monotonic clock.
    pub fn failed(&mut self, now_ms: u64) -> Verdict {
        let horizon = now_ms.saturating_sub(self.policy.window_ms);
        while self.failures_ms.front().is_some_and(|at| *at < horizon) {
            self.failures_ms.pop_front();
        }
        let earlier = self.failures_ms.len();
        self.failures_ms.push_back(now_ms);
        if earlier < self.policy.restarts_max {
            self.restarts += 1;
            let doubled = self.policy.backoff_ms << earlier.saturating_sub(1).min(16);
            return Verdict::RestartAfter { wait_ms: if earlier == 0 { 0 } else { doubled.min(2_000) } };
        }
        match self.policy.then {
            Then::Pause { pause_ms } => {
                self.failures_ms.clear();
                self.restarts += 1;
                Verdict::RestartAfter { wait_ms: pause_ms }
            }
            Then::GiveUp => Verdict::GiveUp,
            Then::StopNode => Verdict::StopNode,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_exactly_one_row() {
        for row in TABLE {
            assert_eq!(TABLE.iter().filter(|other| other.part == row.part).count(), 1);
        }
    }

    #[test]
    fn the_first_restart_is_at_once_and_too_many_end_it() {
        let mut history = History::new(Part::SourceProcess);
        assert_eq!(history.failed(0), Verdict::RestartAfter { wait_ms: 0 });
        assert_eq!(history.failed(1), Verdict::RestartAfter { wait_ms: 100 });
        assert_eq!(history.failed(2), Verdict::RestartAfter { wait_ms: 200 });
        assert_eq!(history.failed(3), Verdict::GiveUp);
        assert_eq!(History::new(Part::Gateway).failed(7), Verdict::RestartAfter { wait_ms: 0 });
    }

    #[test]
    fn old_failures_are_forgotten_and_a_pause_starts_afresh() {
        let mut history = History::new(Part::SourceProcess);
        for second in 0..100 {
            assert_eq!(history.failed(second * 61_000), Verdict::RestartAfter { wait_ms: 0 });
        }
        let mut worker = History::new(Part::Worker);
        let waits: Vec<_> = (0..22).map(|ms| worker.failed(ms)).collect();
        assert_eq!(waits[20], Verdict::RestartAfter { wait_ms: 10_000 });
        assert_eq!(waits[21], Verdict::RestartAfter { wait_ms: 0 });
        assert_eq!(worker.restarts, 22);
    }
}
