//! How many events a second one core handles, with a small state: one lane under a steady load, and eight lanes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sensorium_scheduler::{
    Command, DeviceId, Event, Job, JobKey, LaneId, ModelKey, ModelPolicy, Scheduler, Settings, Unfinished,
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

/// Jobs arrive in a steady stream; batches end in the order of their dispatch whenever `held` jobs are in flight.
fn steady_load(mut scheduler: Scheduler, held: usize) -> Scheduler {
    let mut out: Vec<Command> = Vec::with_capacity(64);
    let mut running = std::collections::VecDeque::with_capacity(64);
    let (mut key, mut in_flight) = (0_u64, 0_usize);
    for event in 0..EVENTS {
        let now_ns = event * 500;
        let done = if in_flight >= held { running.pop_front() } else { None };
        if let Some((lane, batch, jobs)) = done {
            in_flight -= jobs;
            let _ = scheduler.handle(
                now_ns,
                Event::BatchDone { lane, batch, service_ns: 2_000, unfinished: Unfinished::new() },
                &mut out,
            );
        } else {
            key += 1;
            in_flight += 1;
            let model = ModelKey(u32::try_from(key).unwrap_or(0) % MODELS);
            let deadline_ns = now_ns + 50_000_000;
            let job = Job::new(JobKey(key), model, deadline_ns);
            let _ = scheduler.handle(now_ns, Event::JobArrived(job), &mut out);
        }
        for command in out.drain(..) {
            match command {
                Command::Dispatch { lane, batch, jobs, .. } => running.push_back((lane, batch, jobs.len())),
                other => panic!("a steady load that fits is only ever dispatched: {other:?}"),
            }
        }
    }
    scheduler
}

fn handle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handle");
    group.throughput(Throughput::Elements(EVENTS)).sample_size(50);
    for (name, lanes, held) in
        [("one lane, 32 jobs", 1, 32), ("one lane, 1000 jobs", 1, 1_000), ("eight lanes, 256 jobs", 8, 256)]
    {
        let fresh = scheduler(lanes);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                || fresh.clone(),
                |scheduler| steady_load(scheduler, held),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, handle);
criterion_main!(benches);
