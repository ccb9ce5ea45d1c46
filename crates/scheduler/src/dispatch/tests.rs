use sensorium_wire::{Modality, Urgency};

use crate::fixture::{Desk, MS, NEVER, dispatches};
use crate::{
    BatchId, Command, DeviceId, Event, Handled, Job, JobKey, LaneId, ModelKey, ModelPolicy, Settings, StreamKey,
    Unfinished,
};

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

/// One lane of one model, 10 ms a job, without batches.
fn singles(settings: Settings) -> Desk {
    let mut desk = Desk::new(settings);
    open_with(&mut desk, ModelPolicy::new(1, 0, vec![(1, 10 * MS)], vec![]));
    desk
}

fn open_with(desk: &mut Desk, policy: ModelPolicy) {
    desk.apply(Event::LaneOpened {
        lane: LaneId(1),
        device: DeviceId(1),
        modality: Modality::Visual,
        models: vec![(ModelKey(1), policy)],
    });
}

fn done(desk: &mut Desk, batch: u64, unfinished: &[u64]) -> Vec<Command> {
    let unfinished = unfinished.iter().map(|key| JobKey(*key)).collect();
    desk.apply(Event::BatchDone { lane: LaneId(1), batch: BatchId(batch), service_ns: 10 * MS, unfinished })
}

#[test]
fn batch_work_does_not_starve_and_critical_work_never_waits_for_it() {
    let mut desk = singles(Settings::default());
    // Much of every class, none of it in a hurry.
    let classes = [Urgency::High, Urgency::Standard, Urgency::Batch];
    for key in 0..300 {
        desk.arrive_for(key, 1, NEVER, classes[usize::try_from(key).unwrap() % 3]);
    }
    let (mut counts, mut next) = ([0; 3], 3);
    for batch in 1..=120 {
        desk.now_ns += 10 * MS;
        if batch == 60 {
            desk.arrive_for(1_000, 1, NEVER, Urgency::Critical);
        }
        for (_, _, jobs) in dispatches(&done(&mut desk, batch, &[])) {
            let key = jobs[0].0;
            if batch >= 60 && key == 1_000 {
                next = batch;
            } else {
                counts[usize::try_from(key).unwrap() % 3] += 1;
            }
        }
    }
    assert_eq!(next, 60, "the critical job is dispatched with the first batch after its arrival");
    let [high, standard, batch] = counts;
    assert!((4..=9).contains(&batch), "a twentieth is guaranteed: {counts:?}");
    assert!((8..=16).contains(&standard), "a tenth: {counts:?}");
    assert!(high > 80, "the rest: {counts:?}");
}

#[test]
fn a_less_urgent_job_goes_first_when_it_would_be_late_and_the_others_have_the_time() {
    let mut desk = singles(Settings::default());
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    desk.arrive_for(4, 1, 39 * MS, Urgency::Batch);
    desk.arrive_for(3, 1, 200 * MS, Urgency::High);
    desk.now_ns = 10 * MS;
    assert_eq!(dispatches(&done(&mut desk, 1, &[]))[0].2, [(4, 1)]);
    let mut hurried = singles(Settings::default());
    hurried.arrive(1, NEVER);
    hurried.arrive(2, NEVER);
    hurried.arrive_for(4, 1, 39 * MS, Urgency::Batch);
    hurried.arrive_for(3, 1, 33 * MS, Urgency::Critical);
    hurried.now_ns = 10 * MS;
    assert_eq!(dispatches(&done(&mut hurried, 1, &[]))[0].2, [(3, 1)], "these have not");
}

#[test]
fn the_second_batch_is_committed_shortly_before_the_first_ends() {
    let mut desk = singles(Settings::default());
    desk.scheduler = crate::Scheduler::new(Settings::default());
    open_with(&mut desk, ModelPolicy::new(1, 0, vec![(1, 10 * MS)], vec![]));
    assert_eq!(dispatches(&desk.arrive(1, NEVER)).len(), 1);
    assert!(dispatches(&desk.arrive(2, NEVER)).is_empty());
    desk.now_ns = 5 * MS;
    desk.arrive_for(3, 1, NEVER, Urgency::High);
    assert!(dispatches(&desk.tick()).is_empty());
    desk.now_ns = 6 * MS;
    assert_eq!(dispatches(&desk.tick()), [(1, 2, vec![(3, 1)])], "the urgent one was not too late");
}

#[test]
fn an_idle_lane_waits_for_a_fuller_batch_only_while_that_is_free() {
    let policy = ModelPolicy::new(8, 0, vec![(1, 4 * MS), (8, 6 * MS)], vec![]);
    let mut desk = Desk::new(Settings::default());
    open_with(&mut desk, policy);
    // One job each 2 ms is more than can be done one by one.
    let mut batches = Vec::new();
    let mut busy_until = None;
    for key in 0..100 {
        desk.now_ns = key * 2 * MS;
        let mut commands = Vec::new();
        if let Some((batch, ends_ns)) = busy_until
            && ends_ns <= desk.now_ns
        {
            busy_until = None;
            commands = done(&mut desk, batch, &[]);
        }
        commands.extend(desk.arrive(key, desk.now_ns + 100 * MS));
        commands.extend(desk.tick());
        for (_, batch, jobs) in dispatches(&commands) {
            batches.push(jobs.len());
            busy_until = busy_until.or(Some((batch, desk.now_ns + 6 * MS)));
        }
    }
    assert!(batches[10..].iter().filter(|jobs| **jobs > 1).count() > 8, "{batches:?}");
}

#[test]
fn jobs_of_a_stream_run_in_the_order_of_their_arrival() {
    let mut desk = singles(Settings::default());
    let in_stream = |key, deadline_ns, urgency| {
        let job = Job { urgency, stream: Some(StreamKey(7)), ..Job::new(JobKey(key), ModelKey(1), deadline_ns) };
        Event::JobArrived(job)
    };
    desk.arrive(1, NEVER);
    desk.arrive(2, NEVER);
    // Later jobs are due earlier and more urgent.
    desk.apply(in_stream(10, 900 * MS, Urgency::Batch));
    desk.apply(in_stream(11, 500 * MS, Urgency::Standard));
    desk.apply(in_stream(12, 400 * MS, Urgency::Critical));
    desk.arrive_for(20, 1, 800 * MS, Urgency::High);
    let mut order = Vec::new();
    for batch in 1..=6 {
        desk.now_ns += 10 * MS;
        order.extend(dispatches(&done(&mut desk, batch, &[])).into_iter().map(|(_, _, jobs)| jobs[0].0));
    }
    assert_eq!(order, [10, 11, 12, 20], "the critical one makes those before it as urgent as it is");
}

#[test]
fn a_stream_waits_for_its_job_that_may_have_killed_a_worker() {
    let mut desk = singles(Settings::default());
    let in_stream =
        |key| Event::JobArrived(Job { stream: Some(StreamKey(7)), ..Job::new(JobKey(key), ModelKey(1), NEVER) });
    desk.apply(in_stream(1));
    desk.apply(in_stream(2));
    desk.apply(in_stream(3));
    desk.lose(1);
    assert_eq!(desk.scheduler.snapshot().held_jobs, 2);
    let policy = ModelPolicy::new(1, 0, vec![(1, 10 * MS)], vec![]);
    let opened = desk.apply(Event::LaneOpened {
        lane: LaneId(2),
        device: DeviceId(1),
        modality: Modality::Visual,
        models: vec![(ModelKey(1), policy)],
    });
    assert_eq!(dispatches(&opened), [(2, 3, vec![(1, 2)])], "alone");
    let after = desk.done(2, 3);
    assert_eq!(dispatches(&after), [(2, 4, vec![(2, 1)]), (2, 5, vec![(3, 1)])]);
}

#[test]
fn between_the_slices_of_a_long_job_the_lane_chooses_again() {
    let mut desk = Desk::new(Settings::default());
    let policy = ModelPolicy::new(1, 0, vec![(1, 200 * MS)], vec![]);
    let sliced = ModelPolicy { slice_ns: 10 * MS, ..policy };
    desk.apply(Event::LaneOpened {
        lane: LaneId(1),
        device: DeviceId(1),
        modality: Modality::Audio,
        models: vec![(ModelKey(1), sliced), (ModelKey(2), ModelPolicy::new(1, 0, vec![(1, MS)], vec![]))],
    });
    desk.arrive_for(1, 1, 1_000 * MS, Urgency::Standard);
    desk.arrive_for(2, 2, 30 * MS, Urgency::Standard);
    let slices = |commands: &[Command]| -> Vec<(u64, u32, u32)> {
        let dispatch = |command: &Command| match command {
            Command::Dispatch { jobs, .. } => Some((jobs[0].key.0, jobs[0].attempt, jobs[0].slice)),
            _ => None,
        };
        commands.iter().filter_map(dispatch).collect()
    };
    desk.now_ns = 10 * MS;
    let commands = done(&mut desk, 1, &[1]);
    assert_eq!(slices(&commands), [(1, 1, 1)], "job 2 runs, then the next slice");
    desk.now_ns = 11 * MS;
    assert!(slices(&done(&mut desk, 2, &[])).is_empty());
    desk.lose(1);
    desk.open(2, 1, &[1]);
    let snapshot = desk.scheduler.snapshot();
    assert_eq!((snapshot.jobs, snapshot.lanes[0].committed_jobs), (1, 1), "it starts over, alone");
}

#[test]
fn a_less_urgent_job_does_not_overtake_its_stream_when_its_class_has_its_turn() {
    let mut desk = Desk::with_one_lane();
    let job = |key, urgency, stream: u64| {
        let stream = (stream > 0).then_some(StreamKey(stream));
        Event::JobArrived(Job { stream, urgency, ..Job::new(JobKey(key), ModelKey(1), NEVER) })
    };
    // So many that the least urgent get their share before the end.
    for key in 1..=200 {
        desk.apply(job(key, Urgency::Standard, 0));
    }
    desk.apply(job(201, Urgency::Standard, 7));
    desk.apply(job(202, Urgency::Batch, 7));
    let mut order = Vec::new();
    for batch in 1..=202 {
        if desk.scheduler.snapshot().jobs == 0 {
            break;
        }
        let commands = desk.done(1, batch);
        order.extend(dispatches(&commands).into_iter().flat_map(|(_, _, jobs)| jobs).map(|(key, _)| key));
    }
    let at = |key| order.iter().position(|other| *other == key).unwrap();
    assert!(at(201) < at(202), "{order:?}");
}
