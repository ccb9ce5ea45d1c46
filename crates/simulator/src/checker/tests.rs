use sensorium_scheduler::{BatchedJob, Hung, Job, ModelPolicy, PrincipalKey, Shares, Unfinished};
use sensorium_wire::{Modality, Reason};

use super::*;

const LANE: LaneId = LaneId(1);
const DEVICE: DeviceId = DeviceId(0);

/// A checker that has seen one lane open, and jobs 1 to 8 of one stream accepted.
fn checker() -> Checker {
    let mut checker = Checker::default();
    let models = vec![(ModelKey(0), ModelPolicy::new(4, 0, vec![], vec![]))];
    told(&mut checker, &Event::LaneOpened { lane: LANE, device: DEVICE, modality: Modality::Visual, models }).unwrap();
    for key in 1..=8 {
        let job =
            Job { stream: Some(StreamKey(7)), principal: PrincipalKey(1), ..Job::new(JobKey(key), ModelKey(0), 1000) };
        told(&mut checker, &Event::JobArrived(job)).unwrap();
    }
    checker
}

fn told(checker: &mut Checker, event: &Event) -> Result<(), String> {
    checker.check(0, event, Handled::Applied, &[])
}

fn ordered(checker: &mut Checker, now_ns: u64, command: Command) -> Result<(), String> {
    checker.check(now_ns, &Event::Tick, Handled::Applied, &[command])
}

fn dispatch(batch: u64, keys: &[u64]) -> Command {
    let job = |key: &u64| BatchedJob { key: JobKey(*key), attempt: 1, slice: 0 };
    let jobs = keys.iter().map(job).collect();
    Command::Dispatch { lane: LANE, batch: BatchId(batch), model: ModelKey(0), jobs, epoch: 0, predicted_ns: 1 }
}

fn done(batch: u64, unfinished: &[u64]) -> Event {
    let unfinished: Unfinished = unfinished.iter().map(|key| JobKey(*key)).collect();
    Event::BatchDone { lane: LANE, batch: BatchId(batch), service_ns: 1, unfinished }
}

fn plan(epoch: u64, shares: [u16; 3]) -> Command {
    Command::PlanChanged(Plan { epoch, level: 0, devices: vec![(DEVICE, Shares(shares))] })
}

#[track_caller]
fn broken(result: Result<(), String>, part: &str) {
    let rule = result.unwrap_err();
    assert!(rule.contains(part), "{rule}");
}

#[test]
fn a_sound_life_breaks_no_rule() {
    let mut checker = checker();
    ordered(&mut checker, 0, dispatch(1, &[1, 2])).unwrap();
    ordered(&mut checker, 0, dispatch(2, &[3])).unwrap();
    told(&mut checker, &done(1, &[])).unwrap();
    told(&mut checker, &done(2, &[3])).unwrap();
    ordered(&mut checker, 0, plan(1, [500, 300, 200])).unwrap();
    let mut slice = dispatch(3, &[3]);
    if let Command::Dispatch { jobs, epoch, .. } = &mut slice {
        (jobs[0].slice, *epoch) = (1, 1);
    }
    ordered(&mut checker, 0, slice).unwrap();
    told(&mut checker, &Event::DeviceLost { device: DEVICE }).unwrap();
    for key in 3..=8 {
        ordered(&mut checker, 0, Command::Expire { key: JobKey(key) }).unwrap();
    }
    assert_eq!(checker.finish(), Ok(()));
}

#[test]
fn every_job_has_exactly_one_outcome() {
    let mut checker = checker();
    broken(checker.finish(), "8 accepted jobs have no outcome");
    ordered(&mut checker, 0, Command::Expire { key: JobKey(1) }).unwrap();
    broken(ordered(&mut checker, 0, Command::Expire { key: JobKey(1) }), "no open outcome");
    broken(ordered(&mut checker, 0, Command::Fail { key: JobKey(1), reason: Reason::Poisoned }), "no open outcome");
    broken(ordered(&mut checker, 0, dispatch(1, &[1])), "dispatched after its end");
    let refuse = Command::Refuse { key: JobKey(2), reason: Reason::Overloaded, retry_after_us: 0, predicted_ns: 0 };
    broken(ordered(&mut checker, 0, refuse), "after it had been accepted");
}

#[test]
fn a_job_has_one_owner() {
    let mut checker = checker();
    ordered(&mut checker, 0, dispatch(1, &[1])).unwrap();
    broken(ordered(&mut checker, 0, dispatch(2, &[1])), "while LaneId(1) has it");
    broken(ordered(&mut checker, 0, Command::Expire { key: JobKey(1) }), "while it is committed");
    broken(ordered(&mut checker, 0, Command::Cancelled { key: JobKey(2), running: true }), "running = true");
}

#[test]
fn lanes_and_batches_have_bounds() {
    let mut checker = checker();
    broken(ordered(&mut checker, 0, dispatch(1, &[1, 2, 3, 4, 5])), "5 jobs; 1 to 4 are allowed");
    broken(ordered(&mut checker, 0, dispatch(2, &[])), "0 jobs");
    ordered(&mut checker, 0, dispatch(3, &[1])).unwrap();
    ordered(&mut checker, 0, dispatch(4, &[2])).unwrap();
    broken(ordered(&mut checker, 0, dispatch(5, &[3])), "one more than 2 committed");
    broken(ordered(&mut checker, 0, dispatch(5, &[3])), "is not new");
}

#[test]
fn what_is_gone_or_past_gets_nothing() {
    let mut checker = checker();
    broken(ordered(&mut checker, 1000, dispatch(1, &[1])), "after its deadline");
    told(&mut checker, &Event::DeviceLost { device: DEVICE }).unwrap();
    broken(ordered(&mut checker, 0, dispatch(2, &[1])), "which is gone");
    broken(told(&mut checker, &done(1, &[])), "a lane that is gone");
}

#[test]
fn a_batch_ends_once_and_in_its_turn() {
    let mut checker = checker();
    ordered(&mut checker, 0, dispatch(1, &[1])).unwrap();
    ordered(&mut checker, 0, dispatch(2, &[2])).unwrap();
    broken(told(&mut checker, &done(2, &[])), "not the oldest committed");
    broken(checker.check(0, &done(1, &[]), Handled::Stale, &[]), "counts as stale");
    told(&mut checker, &done(1, &[])).unwrap();
    broken(told(&mut checker, &done(1, &[])), "not the oldest committed");
    assert_eq!(checker.check(0, &done(1, &[]), Handled::Stale, &[]), Ok(()));
}

#[test]
fn a_stream_is_answered_in_its_order() {
    let mut checker = checker();
    ordered(&mut checker, 0, dispatch(1, &[2])).unwrap();
    broken(told(&mut checker, &done(1, &[])), "JobKey(2) overtook Some(JobKey(1))");
}

#[test]
fn slices_go_on_where_they_were() {
    let mut checker = checker();
    let mut slice = dispatch(1, &[1]);
    if let Command::Dispatch { jobs, .. } = &mut slice {
        jobs[0].slice = 1;
    }
    broken(ordered(&mut checker, 0, slice), "its last slice was with None");
}

#[test]
fn plans_follow_each_other_and_share_one_device() {
    let mut checker = checker();
    broken(ordered(&mut checker, 0, plan(2, [0; 3])), "epoch 2 follows that of epoch 0");
    broken(ordered(&mut checker, 0, plan(1, [500, 300, 201])), "1001 thousandths");
    ordered(&mut checker, 0, plan(2, [500, 300, 200])).unwrap();
    broken(ordered(&mut checker, 0, dispatch(1, &[1])), "carries epoch 0; 2 is in force");
}

#[test]
fn only_what_runs_can_hang() {
    let mut checker = checker();
    ordered(&mut checker, 0, dispatch(1, &[1])).unwrap();
    ordered(&mut checker, 0, dispatch(2, &[2])).unwrap();
    let replace = |batch| {
        let why = Hung { lane: LANE, batch: BatchId(batch), limit_ns: 5 };
        Command::ReplaceWorker { device: DEVICE, why }
    };
    broken(ordered(&mut checker, 0, replace(2)), "is not what DeviceId(0) runs");
    ordered(&mut checker, 0, replace(1)).unwrap();
}
