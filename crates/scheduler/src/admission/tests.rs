use sensorium_wire::{Reason, Urgency};

use crate::fixture::{Desk, MS, NEVER};
use crate::{Command, DeviceId, Event, Handled, Job, JobKey, LaneId, ModelKey, Refusal, Settings};

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

#[test]
fn accepted_work_is_not_displaced_but_by_critical_work() {
    let mut desk = Desk::new(Settings::default());
    desk.open(1, 1, &[1, 2]);
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    // Done after 30 ms: on time, but not behind another batch.
    desk.arrive(3, 32 * MS);
    for (key, urgency, refused) in [(4, Urgency::High, true), (5, Urgency::Critical, false)] {
        // Done after 30 ms, it has no time to let the other pass.
        let job = Job { urgency, ..Job::new(JobKey(key), ModelKey(2), 33 * MS) };
        assert_eq!(desk.scheduler.refusal(0, &job).is_some(), refused, "{urgency:?}");
    }
}

#[test]
fn a_greedy_principal_leaves_room_for_a_modest_one() {
    let mut desk = Desk::new(Settings::default());
    let single = crate::ModelPolicy::new(1, 0, vec![(1, 10 * MS)], vec![]);
    desk.apply(Event::LaneOpened {
        lane: LaneId(1),
        device: DeviceId(1),
        modality: sensorium_wire::Modality::Visual,
        models: vec![(ModelKey(1), single)],
    });
    let mut accepted = [0, 0];
    let mut running = std::collections::VecDeque::new();
    for step in 0..4_000_u64 {
        desk.now_ns = step * MS;
        // Greedy: 3 jobs each 10 ms, modest: one each 50 ms; there is room for one each 10 ms.
        for principal in 0..2_u32 {
            let arrives = if principal == 0 { step % 10 < 3 } else { step % 50 == 7 };
            if arrives {
                let key = JobKey(step * 2 + u64::from(principal));
                let job = Job::new(key, ModelKey(1), desk.now_ns + 100 * MS);
                let commands = desk.apply(Event::JobArrived(Job { principal: crate::PrincipalKey(principal), ..job }));
                let refused = commands.iter().any(|command| matches!(command, Command::Refuse { .. }));
                accepted[principal as usize] += u64::from(!refused);
                running.extend(crate::fixture::dispatches(&commands).into_iter().map(|(_, batch, _)| batch));
            }
        }
        if step % 10 == 9
            && let Some(batch) = running.pop_front()
        {
            running.extend(crate::fixture::dispatches(&desk.done(1, batch)).into_iter().map(|(_, batch, _)| batch));
        }
    }
    let [greedy, modest] = accepted;
    assert!(modest >= 64, "of 80 jobs of the modest one {modest} were accepted");
    assert!(greedy > 280, "what it leaves is the greedy one's: {greedy}");
}

#[test]
fn what_was_learned_too_badly_is_tried_again() {
    let mut desk = Desk::with_one_lane();
    for key in 0..60 {
        desk.arrive(key, NEVER);
        desk.now_ns += 90 * MS;
        desk.apply(Event::BatchDone {
            lane: LaneId(1),
            batch: crate::BatchId(key + 1),
            service_ns: 90 * MS,
            unfinished: crate::Unfinished::new(),
        });
    }
    let job = |key, now_ns| Job::new(JobKey(key), ModelKey(1), now_ns + 50 * MS);
    let refusal = desk.scheduler.refusal(desk.now_ns, &job(100, desk.now_ns));
    assert_eq!(refusal.map(|refusal| refusal.reason), Some(Reason::DeadlineUnreachable));
    desk.now_ns += 2_000 * MS;
    let commands = desk.apply(Event::JobArrived(job(101, desk.now_ns)));
    assert_eq!(
        crate::fixture::dispatches(&commands),
        [(1, 61, vec![(101, 1)])],
        "after two silent seconds one is tried"
    );
    assert!(desk.scheduler.refusal(desk.now_ns, &job(102, desk.now_ns)).is_some(), "only one");
    // It was quick after all: what was learned is doubted, and soon forgotten.
    for key in 102..140 {
        desk.now_ns += 10 * MS;
        desk.apply(Event::BatchDone {
            lane: LaneId(1),
            batch: crate::BatchId(key - 41),
            service_ns: 10 * MS,
            unfinished: crate::Unfinished::new(),
        });
        desk.arrive(key, NEVER);
    }
    desk.now_ns += 10 * MS;
    desk.done(1, 99);
    assert_eq!(desk.scheduler.refusal(desk.now_ns, &job(200, desk.now_ns)), None);
}

#[test]
fn a_device_that_says_it_is_slow_is_believed_at_once() {
    let mut desk = Desk::with_one_lane();
    let job = Job::new(JobKey(1), ModelKey(1), 15 * MS);
    assert_eq!(desk.scheduler.refusal(0, &job), None);
    desk.apply(Event::LoadReport { device: DeviceId(1), time_percent: 300 });
    assert!(desk.scheduler.refusal(0, &job).is_some());
    desk.apply(Event::LoadReport { device: DeviceId(1), time_percent: 100 });
    assert_eq!(desk.scheduler.refusal(0, &job), None);
    assert_eq!(desk.send(Event::LoadReport { device: DeviceId(7), time_percent: 100 }).0, crate::Handled::Stale);
}

#[test]
fn a_job_that_goes_on_with_another_model_is_not_refused() {
    let mut desk = Desk::new(Settings { queue_jobs_max: 1, restart_wait_ns: 100 * MS, ..Settings::default() });
    desk.open(1, 1, &[1]);
    let next = |key| Event::JobContinued(Job::new(JobKey(key), ModelKey(1), 15 * MS));
    for key in 1..=4 {
        desk.arrive(key, NEVER);
    }
    assert_eq!(refusal(&desk.arrive(5, 15 * MS)).0, Reason::Overloaded, "the queue is full");
    assert!(desk.apply(next(5)).is_empty(), "it waits for room");
    assert_eq!(desk.send(next(5)).0, Handled::Duplicate);
    desk.now_ns = 10 * MS;
    let commands = desk.done(1, 1);
    assert!(!commands.iter().any(|command| matches!(command, Command::Refuse { .. })), "{commands:?}");
    desk.now_ns = 20 * MS;
    assert!(desk.tick().contains(&Command::Expire { key: JobKey(5) }), "its deadline holds all the same");

    // A model that nobody serves, now or soon.
    assert!(desk.apply(Event::JobContinued(Job::new(JobKey(6), ModelKey(9), NEVER))).is_empty());
    assert!(desk.tick().contains(&Command::Fail { key: JobKey(6), reason: Reason::ModelUnavailable }));
}

#[test]
fn jobs_of_a_stream_go_on_in_their_order() {
    let mut desk = Desk::new(Settings::default());
    desk.open(1, 1, &[1]);
    desk.open(2, 2, &[2]);
    desk.open(3, 3, &[2]);
    let stream = Some(crate::StreamKey(7));
    let mut started = Vec::new();
    for key in 1..=6 {
        // Later ones are due earlier.
        let job = Job { stream, ..Job::new(JobKey(key), ModelKey(2), 1_000 * MS - key * 100 * MS) };
        started.extend(crate::fixture::dispatches(&desk.apply(Event::JobContinued(job))));
    }
    let (mut lane, mut batch) = (started[0].0, started[0].1);
    while started.iter().map(|(_, _, jobs)| jobs.len()).sum::<usize>() < 6 {
        let more = crate::fixture::dispatches(&desk.done(lane, batch));
        started.extend(more);
        let next = started.iter().find(|other| other.1 > batch).expect("the next batch was dispatched");
        (lane, batch) = (next.0, next.1);
    }
    let keys: Vec<u64> = started.iter().flat_map(|(_, _, jobs)| jobs.iter().map(|(key, _)| *key)).collect();
    assert_eq!(keys, [1, 2, 3, 4, 5, 6]);
    assert!(started.iter().all(|(other, ..)| *other == started[0].0), "one lane has the stream");
}
