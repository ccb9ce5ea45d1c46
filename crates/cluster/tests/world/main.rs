//! Nodes in virtual time: messages are lost, delayed, reordered and repeated, the network falls apart and heals, nodes
//! die and start anew, and every clock runs at a speed of its own. What must hold is checked all the while.
//!
//! A failure names its seed; the same seed gives the same world.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

mod jobs;
mod leases;
mod links;
mod world;

use world::{Broken, Story, World};

fn outcome(seed: u64, broken: Broken) -> Result<Story, String> {
    World::new(seed, broken).play()
}

fn all_hold(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(wrong) = outcome(seed, Broken::Nothing) {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn the_first_five_hundred_worlds_hold() {
    all_hold(0..500);
}

#[test]
fn the_next_five_hundred_worlds_hold() {
    all_hold(500..1_000);
}

#[test]
fn a_seed_gives_the_same_world_again() {
    let traces: Vec<_> = (0..5).map(|seed| outcome(seed, Broken::Nothing).unwrap()).collect();
    let again: Vec<_> = (0..5).map(|seed| outcome(seed, Broken::Nothing).unwrap()).collect();
    assert_eq!(traces, again);
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "every seed another world");
}

/// A world in which nothing happens would hold as well.
#[test]
fn the_worlds_are_eventful() {
    let stories: Vec<Story> = (0..50).map(|seed| outcome(seed, Broken::Nothing).unwrap()).collect();
    let total = |number: fn(&Story) -> u64| stories.iter().map(number).sum::<u64>();
    for hops in 0..4 {
        let jobs: u64 = stories.iter().map(|story| story.jobs_by_hops[hops]).sum();
        assert!(jobs > 50, "{jobs} jobs were handed on {hops} times");
    }
    assert!(total(|story| story.hellos_refused) > 5);
    assert!(total(|story| story.connections) > 500);
    assert!(total(|story| story.deaths) > 30);
    assert!(total(|story| story.owners_changed) > 60);
}

/// Mistakes put in on purpose: a check that does not find its mistake checks nothing.
#[test]
fn every_mistake_is_found() {
    for (broken, complaint) in [
        (Broken::DeafToSilence, "is believed alive"),
        (Broken::ForgetsWhereJobsWere, "was there before"),
        (Broken::LeaseFromTheAnswer, "both hold"),
        (Broken::GrantsAtOnceAfterARestart, "both hold"),
        (Broken::EpochsStartAgain, "epoch"),
        (Broken::KeepsOldReports, "older report"),
        (Broken::NeverDialsAgain, "after healing"),
    ] {
        let found = (0..300).find_map(|seed| outcome(seed, broken).err());
        let found = found.unwrap_or_else(|| panic!("{broken:?} is not found"));
        assert!(found.contains(complaint), "{broken:?}: {found}");
    }
}
