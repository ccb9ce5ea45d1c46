use sensorium_wire::Urgency;

use crate::fixture::{Desk, MS, NEVER, dispatches};
use crate::{BatchId, Command, Event, Handled, JobKey, LaneId, Unfinished};

#[test]
fn at_most_two_batches_are_committed_and_the_rest_is_batched() {
    let mut desk = Desk::with_one_lane();
    assert_eq!(dispatches(&desk.arrive(1, NEVER)), [(1, 1, vec![(1, 1)])]);
    assert_eq!(dispatches(&desk.arrive(2, NEVER)), [(1, 2, vec![(2, 1)])]);
    for key in 3..=7 {
        assert!(desk.arrive(key, NEVER).is_empty());
    }
    assert_eq!(dispatches(&desk.done(1, 1)), [(1, 3, vec![(3, 1), (4, 1), (5, 1), (6, 1)])]);
    assert_eq!(dispatches(&desk.done(1, 2)), [(1, 4, vec![(7, 1)])]);
}

#[test]
fn urgency_goes_first_then_the_earliest_deadline_then_arrival() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    let due = 500 * MS;
    desk.arrive_for(10, 1, due, Urgency::Standard);
    desk.arrive_for(11, 1, due, Urgency::Standard);
    desk.arrive_for(12, 1, due, Urgency::High);
    desk.arrive_for(13, 1, due - MS, Urgency::Batch);
    let (_, _, jobs) = dispatches(&desk.done(1, 1)).remove(0);
    assert_eq!(jobs, [(12, 1), (10, 1), (11, 1), (13, 1)]);
}

#[test]
fn jobs_without_a_deadline_are_ordered_by_urgency_and_arrival_but_never_expire() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    desk.arrive_for(10, 1, NEVER, Urgency::Batch);
    desk.arrive_for(11, 1, NEVER, Urgency::Standard);
    desk.arrive_for(12, 1, NEVER, Urgency::High);
    desk.arrive_for(13, 1, NEVER, Urgency::Critical);
    let mut later = desk.scheduler.clone();
    let mut out = Vec::new();
    let _ = later.handle(3_600_000 * MS, Event::Tick, &mut out);
    out.retain(|command| !matches!(command, Command::PlanChanged(_)));
    assert!(matches!(out[..], [Command::ReplaceWorker { .. }]), "an hour later the worker hangs, but none expired");
    let (_, _, jobs) = dispatches(&desk.done(1, 1)).remove(0);
    assert_eq!(jobs, [(13, 1), (12, 1), (11, 1), (10, 1)]);
}

#[test]
fn a_batch_holds_one_model() {
    let mut desk = Desk::new(crate::Settings::default());
    desk.open(1, 1, &[1, 2]);
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    for (key, model) in [(10, 2), (11, 1), (12, 2), (13, 1)] {
        desk.arrive_for(key, model, 1_000 * MS + key, Urgency::Standard);
    }
    assert_eq!(dispatches(&desk.done(1, 1)), [(1, 3, vec![(10, 1), (12, 1)])]);
    assert_eq!(dispatches(&desk.done(1, 2)), [(1, 4, vec![(11, 1), (13, 1)])]);
}

#[test]
fn a_batch_does_not_grow_past_what_its_first_deadline_allows() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    desk.arrive(3, 33 * MS);
    desk.arrive_for(4, 1, 900 * MS, Urgency::Standard);
    desk.arrive_for(5, 1, 900 * MS, Urgency::Standard);
    desk.now_ns = 10 * MS;
    // Batch 2 ends at 20 ms by prediction; 13 ms are left, and a batch of three takes 14.
    assert_eq!(dispatches(&desk.done(1, 1)), [(1, 3, vec![(3, 1), (4, 1)])]);
}

#[test]
fn what_expires_in_the_queue_is_not_dispatched() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    desk.arrive(3, 40 * MS);
    desk.arrive(4, 60 * MS);
    desk.now_ns = 40 * MS;
    let commands = desk.done(1, 1);
    assert_eq!(commands[0], Command::Expire { key: JobKey(3) });
    assert_eq!(dispatches(&commands), [(1, 3, vec![(4, 1)])]);
}

#[test]
fn a_tick_expires_what_cannot_be_on_time_any_more() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    desk.arrive(3, 40 * MS);
    // It takes 10 ms.
    desk.now_ns = 30 * MS;
    assert!(desk.tick().is_empty());
    desk.now_ns += 1;
    assert_eq!(desk.tick(), [Command::Expire { key: JobKey(3) }]);
    assert_eq!(desk.scheduler.snapshot().lanes[0].queued_jobs, 0);
}

#[test]
fn cancelling_says_whether_the_job_runs() {
    let mut desk = Desk::with_one_lane();
    for key in 1..=3 {
        desk.arrive(key, NEVER);
    }
    let queued = desk.apply(Event::JobCancelled { key: JobKey(3) });
    assert_eq!(queued, [Command::Cancelled { key: JobKey(3), running: false }]);
    let running = desk.apply(Event::JobCancelled { key: JobKey(1) });
    assert_eq!(running, [Command::Cancelled { key: JobKey(1), running: true }]);
    assert_eq!(desk.send(Event::JobCancelled { key: JobKey(1) }).0, Handled::Stale);
    desk.done(1, 1);
    assert_eq!(desk.scheduler.snapshot().lanes[0].completed_jobs, 0);
    desk.done(1, 2);
    assert_eq!(desk.scheduler.snapshot().lanes[0].completed_jobs, 1);
}

#[test]
fn a_batch_is_done_once() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.done(1, 1);
    let again = Event::BatchDone { lane: LaneId(1), batch: BatchId(1), service_ns: 0, unfinished: Unfinished::new() };
    assert_eq!(desk.send(again), (Handled::Stale, vec![]));
}
