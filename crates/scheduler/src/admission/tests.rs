use sensorium_wire::{Reason, Urgency};

use crate::fixture::{Desk, MS, NEVER};
use crate::{Command, DeviceId, Event, Handled, Job, JobKey, ModelKey, Refusal, Settings};

fn refusal(commands: &[Command]) -> (Reason, u64) {
    match commands {
        [Command::Refuse { reason, retry_after_us, .. }] => (*reason, *retry_after_us),
        other => panic!("expected one refusal, not {other:?}"),
    }
}

#[test]
fn models_are_unknown_then_unavailable_then_served() {
    let mut desk = Desk::new(Settings::default());
    assert_eq!(refusal(&desk.arrive(1, NEVER)), (Reason::UnknownModel, 0));
    desk.apply(Event::ModelAdded { model: ModelKey(1) });
    assert_eq!(refusal(&desk.arrive(1, NEVER)), (Reason::ModelUnavailable, 0));
    desk.open(1, 1, &[1]);
    assert!(matches!(desk.arrive(1, NEVER)[..], [Command::Dispatch { .. }]));
}

#[test]
fn a_deadline_that_has_passed_is_refused() {
    let mut desk = Desk::with_one_lane();
    desk.now_ns = 50;
    assert_eq!(refusal(&desk.arrive(1, 50)), (Reason::DeadlinePassed, 0));
}

#[test]
fn a_deadline_below_the_service_time_is_refused_without_a_hint() {
    let mut desk = Desk::with_one_lane();
    assert_eq!(refusal(&desk.arrive(1, 9 * MS)), (Reason::DeadlineUnreachable, 0));
    assert!(matches!(desk.arrive(2, 10 * MS)[..], [Command::Dispatch { .. }]));
}

#[test]
fn the_backlog_counts_and_the_hint_says_how_much_too_late() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    // Two batches of 10 ms are committed; the job's own 10 ms make 30.
    assert_eq!(refusal(&desk.arrive(3, 25 * MS)), (Reason::DeadlineUnreachable, 5_000));
    assert!(desk.arrive(4, 30 * MS).is_empty());
    desk.now_ns = 4 * MS;
    assert!(desk.arrive(5, 32 * MS).is_empty(), "4 ms of the backlog are over and it shares a batch");
}

#[test]
fn jobs_that_are_due_later_do_not_count_as_backlog() {
    let mut desk = Desk::with_one_lane();
    for key in 0..400 {
        desk.arrive_for(key, 1, NEVER, Urgency::Batch);
    }
    assert!(desk.arrive(1_000, 31 * MS).is_empty(), "two committed batches and its own: accepted and queued");
}

#[test]
fn a_full_queue_refuses_with_the_time_until_it_has_drained() {
    let mut desk = Desk::new(Settings { queue_jobs_max: 4, ..Settings::default() });
    desk.open(1, 1, &[1]);
    for key in 0..6 {
        desk.arrive(key, NEVER);
    }
    // Two committed batches of one job and four queued jobs in one batch.
    assert_eq!(refusal(&desk.arrive(6, NEVER)), (Reason::Overloaded, 36_000));
    assert_eq!(desk.scheduler.snapshot().lanes[0].queued_jobs, 4);
}

#[test]
fn the_lane_that_is_done_first_gets_the_job() {
    let mut desk = Desk::with_one_lane();
    desk.open(2, 2, &[1]);
    for key in 0..4 {
        desk.arrive(key, NEVER);
    }
    let committed: Vec<_> = desk.scheduler.snapshot().lanes.iter().map(|lane| lane.committed_batches).collect();
    assert_eq!(committed, [2, 2]);
}

#[test]
fn draining_refuses_new_jobs_and_ends_the_old_ones() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    desk.apply(Event::Drain);
    assert_eq!(refusal(&desk.arrive(2, NEVER)), (Reason::ShuttingDown, 0));
    desk.done(1, 1);
    assert_eq!(desk.scheduler.snapshot().jobs, 0);
}

#[test]
fn while_its_lane_restarts_a_job_waits_up_to_a_bound_and_a_time() {
    let mut desk = Desk::new(Settings { queue_jobs_max: 1, restart_wait_ns: 100 * MS, ..Settings::default() });
    desk.open(1, 1, &[1]);
    desk.lose(1);
    assert!(desk.arrive(1, NEVER).is_empty());
    assert_eq!(refusal(&desk.arrive(2, NEVER)), (Reason::Overloaded, 100_000));
    desk.now_ns = 100 * MS;
    assert_eq!(refusal(&desk.arrive(3, NEVER)), (Reason::ModelUnavailable, 0));
    assert_eq!(desk.tick(), [Command::Fail { key: JobKey(1), reason: Reason::ModelUnavailable }]);
}

#[test]
fn a_key_in_use_is_a_duplicate_and_changes_nothing() {
    let mut desk = Desk::with_one_lane();
    desk.arrive(1, NEVER);
    let job = Job { urgency: Urgency::Batch, ..Job::new(JobKey(1), ModelKey(9), 0) };
    assert_eq!(desk.send(Event::JobArrived(job)), (Handled::Duplicate, vec![]));
    desk.done(1, 1);
    assert_eq!(refusal(&desk.apply(Event::JobArrived(job))).0, Reason::UnknownModel);
}

#[test]
fn events_about_nothing_known_are_stale() {
    let mut desk = Desk::with_one_lane();
    assert_eq!(desk.send(Event::DeviceLost { device: DeviceId(9) }).0, Handled::Stale);
    assert_eq!(desk.send(Event::JobCancelled { key: JobKey(9) }).0, Handled::Stale);
    assert_eq!(desk.send(Event::LaneClosed { lane: crate::LaneId(9) }).0, Handled::Stale);
}

#[test]
fn asking_beforehand_gives_the_answer_that_arriving_would_and_changes_nothing() {
    let mut desk = Desk::new(Settings { queue_jobs_max: 4, ..Settings::default() });
    desk.open(1, 1, &[1]);
    let mut refused = 0;
    for key in 0..40 {
        desk.now_ns = key * MS / 2;
        // From passed to far away, and a model that nobody knows.
        let deadline_ns = desk.now_ns + (key % 8) * 7 * MS;
        let model = ModelKey(if key % 11 == 0 { 9 } else { 1 });
        let job = Job::new(JobKey(key), model, deadline_ns);
        let asked = desk.scheduler.refusal(desk.now_ns, &job);
        assert_eq!(asked, desk.scheduler.refusal(desk.now_ns, &job), "asking left a trace");
        let commands = desk.apply(Event::JobArrived(job));
        let told = match &commands[..] {
            [Command::Refuse { reason, retry_after_us, predicted_ns, .. }] => {
                Some(Refusal { reason: *reason, retry_after_us: *retry_after_us, predicted_ns: *predicted_ns })
            }
            _ => None,
        };
        assert_eq!(asked, told, "job {key}");
        refused += usize::from(told.is_some());
    }
    assert!((5..35).contains(&refused), "both outcomes are seen: {refused} of 40 refused");
}
