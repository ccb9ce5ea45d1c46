use sensorium_wire::Reason;

use crate::fixture::{Desk, MS, NEVER, dispatches};
use crate::{BatchId, Command, DeviceId, Event, Handled, Hung, JobKey, LaneId, Position, Settings, Unfinished};

/// Four jobs so that lane 1 runs {1}, has {2} behind it and {3, 4} queued.
fn loaded() -> Desk {
    let mut desk = Desk::with_one_lane();
    for key in 1..=4 {
        desk.arrive(key, NEVER);
    }
    desk
}

#[test]
fn only_the_started_batch_is_suspect_and_it_runs_alone() {
    let mut desk = loaded();
    assert!(desk.lose(1).is_empty(), "nothing can run until the worker is back");
    assert_eq!(desk.scheduler.position(JobKey(1)), Some(Position::Suspect { device: DeviceId(1) }));
    assert_eq!(desk.scheduler.position(JobKey(2)), Some(Position::Waiting));
    assert_eq!(dispatches(&desk.open(2, 1, &[1])), [(2, 3, vec![(1, 2)])], "alone, and its second start");
    // The innocents share a batch; number 2 was committed but never started, so this is its first start.
    assert_eq!(dispatches(&desk.done(2, 3)), [(2, 4, vec![(2, 1), (3, 1), (4, 1)])]);
}

#[test]
fn a_suspect_runs_with_no_other_lane_of_its_device_beside_it() {
    let mut desk = Desk::new(Settings::default());
    desk.open(1, 1, &[1]);
    desk.open(2, 1, &[2]);
    desk.arrive(1, NEVER);
    desk.arrive_for(2, 2, NEVER, sensorium_wire::Urgency::Standard);
    desk.lose(1);
    // Lane 4 opens last: suspect 2 has no lane yet when suspect 1 starts.
    assert_eq!(dispatches(&desk.open(3, 1, &[1])), [(3, 3, vec![(1, 2)])]);
    assert!(desk.open(4, 1, &[2]).is_empty());
    desk.arrive(3, NEVER);
    assert_eq!(dispatches(&desk.done(3, 3)), [(4, 4, vec![(2, 2)])]);
    assert_eq!(dispatches(&desk.done(4, 4)), [(3, 5, vec![(3, 1)])]);
}

#[test]
fn what_is_due_before_a_suspect_goes_first_and_then_the_lanes_run_dry() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.lose(1);
    desk.arrive(2, 500 * MS);
    assert_eq!(dispatches(&desk.open(2, 1, &[1])), [(2, 2, vec![(2, 1)])]);
    assert!(desk.arrive(3, NEVER).is_empty(), "due after the suspect, so it is held back");
    assert_eq!(dispatches(&desk.done(2, 2)), [(2, 3, vec![(1, 2)])]);
    assert_eq!(dispatches(&desk.done(2, 3)), [(2, 4, vec![(3, 1)])]);
}

#[test]
fn a_job_that_kills_its_worker_alone_twice_is_poisoned() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    assert!(desk.lose(1).is_empty(), "not alone by decision: other work could have been beside it");
    assert_eq!(dispatches(&desk.open(2, 1, &[1])), [(2, 2, vec![(1, 2)])]);
    assert!(desk.lose(1).is_empty());
    assert_eq!(dispatches(&desk.open(3, 1, &[1])), [(3, 3, vec![(1, 3)])]);
    assert_eq!(desk.lose(1), [Command::Fail { key: JobKey(1), reason: Reason::Poisoned }]);
    assert_eq!(desk.scheduler.snapshot().jobs, 0);
}

#[test]
fn a_late_answer_of_a_dead_worker_is_stale() {
    let mut desk = loaded();
    desk.lose(1);
    let late = Event::BatchDone { lane: LaneId(1), batch: BatchId(1), service_ns: MS, unfinished: Unfinished::new() };
    assert_eq!(desk.send(late), (Handled::Stale, vec![]));
}

#[test]
fn queued_work_of_a_lost_device_moves_to_another() {
    let mut desk = loaded();
    desk.open(2, 2, &[1]);
    let moved = dispatches(&desk.lose(1));
    assert_eq!(moved.iter().flat_map(|(_, _, jobs)| jobs.clone()).collect::<Vec<_>>(), [(2, 1), (3, 1), (4, 1)]);
    assert!(moved.iter().all(|(lane, _, _)| *lane == 2));
    assert_eq!(desk.scheduler.position(JobKey(1)), Some(Position::Suspect { device: DeviceId(1) }));
}

#[test]
fn a_suspect_whose_device_stays_away_runs_alone_elsewhere() {
    let mut desk = loaded();
    desk.open(2, 2, &[1]);
    desk.lose(1);
    desk.now_ns = 5_000 * MS;
    desk.done(2, 3);
    desk.arrive(5, NEVER);
    assert!(desk.tick().iter().all(|command| dispatches(std::slice::from_ref(command)).is_empty()));
    assert_eq!(dispatches(&desk.done(2, 4)), [(2, 5, vec![(1, 2)])]);
}

#[test]
fn a_suspect_with_nowhere_to_go_fails() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.lose(1);
    desk.now_ns = 5_000 * MS;
    assert_eq!(desk.tick(), [Command::Fail { key: JobKey(1), reason: Reason::ModelUnavailable }]);
}

#[test]
fn a_suspect_expires_like_any_queued_job() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, 50 * MS);
    desk.lose(1);
    desk.now_ns = 50 * MS;
    assert_eq!(desk.tick(), [Command::Expire { key: JobKey(1) }]);
}

#[test]
fn a_cancelled_job_is_no_suspect() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.apply(Event::JobCancelled { key: JobKey(1) });
    desk.lose(1);
    assert!(desk.open(2, 1, &[1]).is_empty());
    assert_eq!(desk.scheduler.snapshot().jobs, 0);
}

#[test]
fn closing_a_lane_lets_it_end_and_moves_its_queue() {
    let mut desk = loaded();
    assert!(desk.apply(Event::LaneClosed { lane: LaneId(1) }).is_empty());
    assert!(desk.arrive(5, NEVER).is_empty(), "the model's lane may come back");
    assert!(desk.done(1, 1).is_empty());
    assert_eq!(dispatches(&desk.open(2, 1, &[1])), [(2, 3, vec![(3, 1), (4, 1), (5, 1)])]);
    desk.done(1, 2);
    let lanes: Vec<_> = desk.scheduler.snapshot().lanes.iter().map(|lane| lane.lane.0).collect();
    assert_eq!(lanes, [2], "the closed lane went away with its last batch");
}

#[test]
fn a_hung_batch_asks_for_a_new_worker_once() {
    let mut desk = loaded();
    desk.now_ns = 60 * MS;
    desk.done(1, 1);
    // Batch 2 counts from the end of batch 1, not from its dispatch.
    desk.now_ns = 160 * MS;
    assert!(desk.tick().is_empty());
    desk.now_ns += 1;
    let why = Hung { lane: LaneId(1), batch: BatchId(2), limit_ns: 100 * MS };
    assert_eq!(desk.tick(), [Command::ReplaceWorker { device: DeviceId(1), why }]);
    assert!(desk.tick().is_empty());
    assert!(desk.arrive(9, NEVER).is_empty(), "nothing is sent to a worker that is being killed");
    desk.lose(1);
    assert_eq!(dispatches(&desk.open(2, 1, &[1])), [(2, 4, vec![(2, 2)])]);
}

#[test]
fn lanes_keep_their_bound_when_work_moves() {
    let mut desk = Desk::new(Settings { queue_jobs_max: 2, ..Settings::default() });
    desk.open(1, 1, &[1]);
    desk.open(2, 2, &[1]);
    for key in 0..8 {
        desk.arrive(key, NEVER);
    }
    desk.lose(1);
    let snapshot = desk.scheduler.snapshot();
    assert_eq!((snapshot.lanes[0].queued_jobs, snapshot.waiting_jobs, snapshot.suspect_jobs), (2, 3, 1));
    let batch = dispatches(&desk.done(2, 2)).remove(0);
    assert!(!batch.2.is_empty());
    assert_eq!(desk.scheduler.snapshot().lanes[0].queued_jobs, 2, "the waiting jobs fill the room");
}
