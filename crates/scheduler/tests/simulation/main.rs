//! Ten thousand random lives of a small node, checked against rules that know nothing of the scheduler's insides. A
//! failure names its seed; `SENSORIUM_SEED` plays that seed alone.

mod checker;
mod driver;

use driver::{Fault, run};
use sensorium_scheduler::Scheduler;

const STEPS: usize = 150;

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("SENSORIUM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..10_000,
    }
}

#[test]
fn every_rule_holds_in_every_run() {
    let (mut completed, mut ended, mut poisoned, mut suspects) = (0, 0, 0, 0);
    for seed in seeds() {
        match run(seed, STEPS, Fault::None) {
            Ok(run) => {
                completed += run.checker.completed;
                ended += run.checker.ended;
                poisoned += run.checker.poisoned;
                suspects += run.checker.suspects_run;
            }
            Err(broken) => panic!("SENSORIUM_SEED={seed}: {broken}"),
        }
    }
    println!("seeds {:?}: {ended} jobs, {completed} completed, {suspects} suspects run, {poisoned} poisoned", seeds());
    // The runs must reach what they are meant to test.
    if seeds().end - seeds().start > 1 {
        assert!(completed > ended / 10, "{completed} of {ended} completed");
        assert!(poisoned > 100 && suspects > 1_000, "{poisoned} poisoned, {suspects} suspects");
    }
}

#[test]
fn the_same_events_give_the_same_commands() {
    for seed in seeds().take(500) {
        let first = run(seed, STEPS, Fault::None).unwrap_or_else(|broken| panic!("SENSORIUM_SEED={seed}: {broken}"));
        // The events go through JSON, as they would in the log of an incident.
        let log = serde_json::to_vec(&first.events).unwrap();
        let events: Vec<(u64, sensorium_scheduler::Event)> = serde_json::from_slice(&log).unwrap();
        let mut scheduler = Scheduler::new(first.settings);
        let mut commands = Vec::new();
        for (now_ns, event) in events {
            let _ = scheduler.handle(now_ns, event, &mut commands);
        }
        let (was, is) = (serde_json::to_vec(&first.commands).unwrap(), serde_json::to_vec(&commands).unwrap());
        assert!(was == is, "SENSORIUM_SEED={seed}: the replay differs");
    }
}

/// The checker itself is tested: each fault that strikes must be noticed.
#[test]
fn faults_are_noticed() {
    let faults = [
        Fault::DropCommand(0),
        Fault::DropCommand(7),
        Fault::DropCommand(40),
        Fault::RepeatDone,
        Fault::ReverseBatch,
        Fault::RepeatDispatch,
    ];
    for fault in faults {
        let mut struck = 0;
        for seed in 0..200 {
            match run(seed, STEPS, fault) {
                Ok(run) => assert!(!run.fault_struck, "seed {seed}: {fault:?} went unnoticed"),
                Err(_) => struck += 1,
            }
        }
        assert!(struck > 20, "{fault:?} struck only {struck} times in 200 runs");
    }
}
