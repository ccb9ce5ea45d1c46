//! How many events a second one core handles: a few lanes, and 10, 1,000 and 10,000 devices with two jobs each in flight.

use std::collections::VecDeque;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sensorium_scheduler::{
    BatchId, Command, DeviceId, Event, Job, JobKey, LaneId, ModelKey, ModelPolicy, Scheduler, Settings, Unfinished,
};
use sensorium_wire::Modality;

const EVENTS: u64 = 10_000;
const MODELS: u32 = 3;

fn scheduler(lanes: u32) -> Scheduler {
    let mut scheduler = Scheduler::new(Settings::default());
    let mut out = Vec::new();
    for lane in 0..lanes {
        let policy = ModelPolicy::new(8, 1_000_000_000, vec![(1, 1_000), (8, 2_000)], vec![(1, 1_500), (8, 3_000)]);
        let models = (0..MODELS).map(|model| (ModelKey(model), policy.clone())).collect();
        let opened =
            Event::LaneOpened { lane: LaneId(lane), device: DeviceId(lane), modality: Modality::Visual, models };
        let _ = scheduler.handle(0, opened, &mut out);
    }
    scheduler
}

/// What is in flight from one measurement to the next.
#[derive(Clone, Default)]
struct Flight {
    running: VecDeque<(LaneId, BatchId, usize)>,
    jobs: usize,
    key: u64,
    now_ns: u64,
}

/// Jobs arrive in a steady stream; batches end in the order of their dispatch whenever `held` jobs are in flight.
fn steady_load(scheduler: &mut Scheduler, flight: &mut Flight, held: usize, events: u64) {
    let mut out: Vec<Command> = Vec::with_capacity(64);
    for event in 0..events {
        flight.now_ns += 500;
        let now_ns = flight.now_ns;
        let done = if flight.jobs >= held { flight.running.pop_front() } else { None };
        if event % 4_000 == 0 {
            let _ = scheduler.handle(now_ns, Event::Tick, &mut out);
        } else if let Some((lane, batch, jobs)) = done {
            flight.jobs -= jobs;
            let done = Event::BatchDone { lane, batch, service_ns: 2_000, unfinished: Unfinished::new() };
            let _ = scheduler.handle(now_ns, done, &mut out);
        } else {
            flight.key += 1;
            flight.jobs += 1;
            let model = ModelKey(u32::try_from(flight.key % u64::from(MODELS)).unwrap_or(0));
            let deadline_ns = now_ns + 500_000_000;
            let _ =
                scheduler.handle(now_ns, Event::JobArrived(Job::new(JobKey(flight.key), model, deadline_ns)), &mut out);
        }
        for command in out.drain(..) {
            match command {
                Command::Dispatch { lane, batch, jobs, .. } => flight.running.push_back((lane, batch, jobs.len())),
                Command::PlanChanged(_) => {}
                other => panic!("a steady load that fits is only ever dispatched: {other:?}"),
            }
        }
    }
}

fn handle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handle");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(20);
    let cases = [
        ("one lane, 32 jobs", 1, 32),
        ("one lane, 1000 jobs", 1, 1_000),
        ("eight lanes, 256 jobs", 8, 256),
        ("10 devices", 10, 20),
        ("1,000 devices", 1_000, 2_000),
        ("10,000 devices", 10_000, 20_000),
    ];
    for (name, lanes, held) in cases {
        // Warm: as many jobs in flight as it is to hold.
        let (mut warm, mut flight) = (scheduler(lanes), Flight::default());
        steady_load(&mut warm, &mut flight, held, 4 * held as u64);
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || (warm.clone(), flight.clone()),
                |(scheduler, flight)| steady_load(scheduler, flight, held, EVENTS),
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, handle);
criterion_main!(benches);
