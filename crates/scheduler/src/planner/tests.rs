use sensorium_wire::{Modality, Urgency};

use crate::fixture::{Desk, MS, dispatches};
use crate::{
    Amount, Command, DeviceId, DeviceKind, Event, Job, JobKey, LaneId, ModelKey, ModelPolicy, Plan, PlanPolicy,
    PlanRow, PolicyError, PolicyKind, Settings, Shares,
};

/// One CPU device that runs one lane at a time, with a visual (model 1) and an audio lane (model 2) of 10 ms a job.
fn shared_device(policy: PlanPolicy) -> Desk {
    let mut desk = Desk::new(Settings { plan: policy, ..Settings::default() });
    desk.apply(Event::DeviceAdded { device: DeviceId(1), kind: DeviceKind::Cpu, lanes_at_once_max: 1 });
    for (lane, modality) in [(1, Modality::Visual), (2, Modality::Audio)] {
        let policy = ModelPolicy::new(1, 0, vec![(1, 10 * MS)], vec![(1, 12 * MS)]);
        desk.apply(Event::LaneOpened {
            lane: LaneId(lane),
            device: DeviceId(1),
            modality,
            models: vec![(ModelKey(lane), policy)],
        });
    }
    desk
}

fn fixed(visual: f64, audio: f64) -> PlanPolicy {
    let row = PlanRow {
        intensity_above_permille: None,
        critical_moment: false,
        visual: Amount::Devices(visual),
        audio: Amount::Devices(audio),
        fusion: Amount::Devices(0.0),
    };
    PlanPolicy { kind: PolicyKind::Fixed, rows: vec![row], ..PlanPolicy::default() }
}

fn plans(commands: &[Command]) -> Vec<&Plan> {
    commands
        .iter()
        .filter_map(|command| if let Command::PlanChanged(plan) = command { Some(plan) } else { None })
        .collect()
}

/// Jobs of both models arrive faster than they can be done, for so long; gives how many of each were dispatched, and how
/// many expired. `running`: lane, batch and end of what runs.
fn overload(desk: &mut Desk, running: &mut Vec<(u32, u64, u64)>, for_ms: u64) -> ([u64; 2], u64) {
    let (mut dispatched, mut expired) = ([0; 2], 0);
    let end_ns = desk.now_ns + for_ms * MS;
    let mut key = desk.now_ns * 4;
    while desk.now_ns < end_ns {
        desk.now_ns += MS;
        let mut out = Vec::new();
        let mut send = |desk: &mut Desk, event| {
            let _ = desk.scheduler.handle(desk.now_ns, event, &mut out);
        };
        for model in [1, 2] {
            if (desk.now_ns / MS) % 7 < 2 {
                key += 1;
                send(desk, Event::JobArrived(Job::new(JobKey(key), ModelKey(model), desk.now_ns + 100 * MS)));
            }
        }
        while let Some(at) = running.iter().position(|(_, _, ends_ns)| *ends_ns <= desk.now_ns) {
            let (lane, batch, _) = running.remove(at);
            send(
                desk,
                Event::BatchDone {
                    lane: LaneId(lane),
                    batch: crate::BatchId(batch),
                    service_ns: 10 * MS,
                    unfinished: crate::Unfinished::new(),
                },
            );
        }
        send(desk, Event::Tick);
        for (lane, batch, _) in dispatches(&out) {
            dispatched[lane as usize - 1] += 1;
            running.push((lane, batch, desk.now_ns + 10 * MS));
        }
        expired += out.iter().filter(|command| matches!(command, Command::Expire { .. })).count() as u64;
    }
    (dispatched, expired)
}

#[test]
fn lanes_of_a_crowded_device_get_their_shares() {
    let mut desk = shared_device(fixed(3.0, 1.0));
    let ([visual, audio], expired) = overload(&mut desk, &mut Vec::new(), 4_000);
    assert!(visual + audio >= 380, "the device is busy: {visual} + {audio} of 400");
    let ratio = visual * 100 / audio;
    assert!((240..=360).contains(&ratio), "three to one: {visual} to {audio}");
    assert_eq!(expired, 0);
}

#[test]
fn moving_half_a_device_takes_effect_at_once_and_makes_nothing_late() {
    let mut desk = shared_device(fixed(1.0, 0.02));
    let mut running = Vec::new();
    let ([visual, audio], expired) = overload(&mut desk, &mut running, 2_000);
    assert!(visual > 20 * audio.max(1) / 2 && expired == 0, "{visual} to {audio}, {expired} expired");
    let commands = desk.apply(Event::PolicyChanged { policy: fixed(1.0, 1.0) });
    let epoch = plans(&commands)[0].epoch;
    let ([visual, audio], expired) = overload(&mut desk, &mut running, 2_000);
    assert_eq!(expired, 0, "what was promised before is kept");
    assert!(visual * 100 / audio < 125 && audio * 100 / visual < 125, "half each: {visual} to {audio}");
    assert_eq!(desk.scheduler.plan().epoch, epoch);
}

#[test]
fn a_device_that_nobody_else_wants_is_not_kept_from_anyone() {
    let mut desk = shared_device(fixed(0.02, 1.0));
    let mut done = 0;
    for key in 0..200 {
        desk.now_ns += 10 * MS;
        if key > 0 {
            desk.done(1, key);
            done += 1;
        }
        assert!(!dispatches(&desk.arrive(key, desk.now_ns + 50 * MS)).is_empty(), "job {key} after {done}");
    }
}

#[test]
fn the_table_follows_the_intensity_up_at_once_and_down_after_a_while() {
    let policy = PlanPolicy { dwell_ms: 500, ..PlanPolicy::default() };
    let mut desk = shared_device(policy);
    let level = |desk: &Desk| desk.scheduler.plan().level;
    desk.apply(Event::Tick);
    assert_eq!(level(&desk), 0);
    let calm = desk.scheduler.plan().devices[0].1;
    assert_eq!(calm, Shares([666, 166, 166]), "1 : cpu : cpu");
    overload(&mut desk, &mut Vec::new(), 1_000);
    assert_eq!(level(&desk), 2, "intensities {:?}", desk.scheduler.intensities());
    desk.now_ns += 50 * MS;
    desk.apply(Event::Tick);
    assert_eq!(level(&desk), 2, "not yet");
    desk.now_ns += 3_000 * MS;
    let commands = desk.apply(Event::Tick);
    assert_eq!((level(&desk), plans(&commands).len()), (0, 1));
}

#[test]
fn a_critical_moment_is_in_force_until_its_end() {
    let mut desk = shared_device(PlanPolicy { dwell_ms: 0, ..PlanPolicy::default() });
    desk.apply(Event::Tick);
    let commands = desk.apply(Event::CriticalMoment { until_ns: 300 * MS });
    assert_eq!(plans(&commands)[0].devices[0].1, Shares([615, 307, 76]), "2 : 1 : cpu");
    desk.now_ns = 299 * MS;
    desk.apply(Event::Tick);
    assert_eq!(desk.scheduler.plan().level, 2);
    desk.now_ns = 301 * MS;
    desk.apply(Event::Tick);
    assert_eq!(desk.scheduler.plan().level, 0);
    desk.apply(Event::CriticalMoment { until_ns: 900 * MS });
    desk.apply(Event::CriticalMoment { until_ns: 0 });
    assert_eq!(desk.scheduler.plan().level, 0, "taken back");
}

#[test]
fn rows_are_dealt_to_accelerators_in_their_proportions() {
    let devices = |accelerators: u32, cpus: u32| -> Vec<(DeviceId, DeviceKind)> {
        let kind = |number| if number < accelerators { DeviceKind::Accelerator } else { DeviceKind::Cpu };
        (0..accelerators + cpus).map(|number| (DeviceId(number), kind(number))).collect()
    };
    let table = PlanPolicy::default();
    let deal = |row: usize, accelerators, cpus| -> Vec<[u16; 3]> {
        super::deal_row(&table.rows[row], &devices(accelerators, cpus)).iter().map(|(_, shares)| shares.0).collect()
    };
    assert_eq!(deal(0, 3, 1), [[1000, 0, 0], [1000, 0, 0], [0, 1000, 0], [0, 0, 1000]]);
    assert_eq!(deal(0, 1, 1), [[667, 333, 0], [0, 0, 1000]], "less of everything");
    assert_eq!(deal(1, 2, 1), [[1000, 0, 0], [0, 500, 500], [333, 333, 333]]);
    assert_eq!(deal(2, 1, 1), [[1000, 0, 0], [0, 500, 500]]);
    assert_eq!(deal(2, 2, 0), [[1000, 0, 0], [333, 333, 333]], "no CPU to go to");
    assert!(deal(2, 0, 0).is_empty());
    for accelerators in 0..12 {
        for row in 0..3 {
            let dealt = deal(row, accelerators, 1);
            assert!(dealt.iter().all(|shares| shares.iter().sum::<u16>() <= 1000), "{dealt:?}");
        }
    }
}

#[test]
fn proportional_shares_follow_the_work() {
    let policy = PlanPolicy { kind: PolicyKind::Proportional, dwell_ms: 100, ..PlanPolicy::default() };
    let mut desk = shared_device(policy);
    for key in 0..100 {
        desk.now_ns += 10 * MS;
        desk.arrive_for(key, 2, desk.now_ns + 10_000 * MS, Urgency::Standard);
        desk.apply(Event::Tick);
    }
    let [visual, audio, fusion] = desk.scheduler.plan().devices[0].1.0;
    assert!(audio >= 700 && visual <= 150 && fusion <= 150, "{visual} {audio} {fusion}");
}

#[test]
fn policies_without_sense_are_named() {
    let with = |rows: Vec<PlanRow>| PlanPolicy { rows, ..PlanPolicy::default() }.check();
    let row = PlanPolicy::default().rows[2];
    assert_eq!(PlanPolicy::default().check(), Ok(()));
    assert_eq!(with(vec![]), Err(PolicyError::Rows));
    assert_eq!(with(vec![row, row]), Err(PolicyError::Unreachable { row: 0 }));
    let above = |permille| PlanRow { intensity_above_permille: Some(permille), ..row };
    assert_eq!(with(vec![above(500)]), Err(PolicyError::LastRow { row: 0 }));
    assert_eq!(with(vec![above(500), above(600), row]), Err(PolicyError::Order { row: 1, bound: 600 }));
    let nothing =
        PlanRow { visual: Amount::Devices(0.0), audio: Amount::Devices(0.0), fusion: Amount::Devices(0.0), ..row };
    assert_eq!(with(vec![nothing]), Err(PolicyError::Nothing { row: 0 }));
    let negative = PlanRow { visual: Amount::Devices(-1.0), ..row };
    assert!(matches!(with(vec![negative]), Err(PolicyError::Amount { row: 0, modality: "visual", .. })));
    let shares = Settings { share_min_permille: [500, 500, 0, 0], ..Settings::default() };
    assert_eq!(shares.check(), Err(PolicyError::ClassShares { together: 1000 }));
}
