use std::collections::BTreeMap;

use proptest::prelude::*;
use sensorium_scheduler::{BatchId, Unfinished};

use super::*;
use crate::scenario::SourceFile;

/// One device that takes 10 ms for a job, always.
const STEADY: &str = r#"
seconds = 10
[[model]]
name = "m"
modality = "visual"
batch_max = 1
profile = [{ jobs = 1, p50_us = 10000, p99_us = 10000 }]
[[device]]
name = "d"
kind = "accelerator"
models = ["m"]
[[load]]
name = "l"
model = "m"
deadline_ms = 100
arrivals = { periodic_per_s = 50 }
"#;

fn world(text: &str) -> Scenario {
    let file = SourceFile { name: "world.toml".to_owned(), text: text.to_owned() };
    Scenario::parse(&[file], &|_, _| Err("none".to_owned())).unwrap()
}

fn played(text: &str) -> Report {
    simulate(&world(text), 1, Misfortune::NONE).unwrap()
}

#[test]
fn a_steady_world_gives_what_arithmetic_says() {
    let report = played(STEADY);
    assert_eq!((report.outcomes.offered, report.outcomes.on_time), (500, 500));
    assert_eq!((report.latency_us.p50, report.latency_us.max), (10_000, 10_000));
    assert_eq!(report.margin_us, Some(90_000));
    assert_eq!(report.prediction_error_percent, 0.0);
    assert!((report.utilisation[0].busy - 0.5).abs() < 0.002, "{:?}", report.utilisation);
    assert!((report.goodput_per_s - 50.0).abs() < 1e-9);
}

#[test]
fn the_way_costs_latency_and_budget() {
    let report = played(&format!("overhead_us = 700\n{STEADY}"));
    assert_eq!((report.latency_us.max, report.margin_us), (10_700, Some(89_300)));
}

#[test]
fn overload_is_refused_not_late() {
    let report = played(&STEADY.replace("periodic_per_s = 50", "poisson_per_s = 200"));
    let outcomes = report.outcomes;
    assert!((1_900..2_100).contains(&outcomes.offered), "{outcomes:?}");
    assert_eq!(outcomes.accepted, outcomes.on_time, "{outcomes:?}");
    assert!(outcomes.on_time > 950 && outcomes.refused > 900, "{outcomes:?}");
    assert!(report.utilisation[0].busy > 0.97, "{:?}", report.utilisation);
    assert_eq!(report.refused_as.values().sum::<u64>(), outcomes.refused);
}

/// A device that other programs use as well: now and then everything takes two thirds longer for a while. No single batch
/// tells, and one job in a hundred would be promised too much; a scheduler that counts what it broke finds out.
#[test]
fn slow_spells_break_few_promises() {
    let spell = |(length, slow)| std::iter::repeat_n(if slow { 42_000 } else { 26_000 }, length);
    let spells = [(55, false), (9, true), (70, false), (4, true), (31, false), (14, true)];
    let service_us: Vec<u32> = spells.into_iter().flat_map(spell).collect();
    let lines: String = service_us.iter().map(|us| format!("{us}\n")).collect();
    let text = STEADY
        .replace("seconds = 10\n", "seconds = 400\n")
        .replace("p50_us = 10000, p99_us = 10000 }]", "p50_us = 26000, p99_us = 30000 }]\nservice_samples = \"s.csv\"")
        .replace("periodic_per_s = 50", "poisson_per_s = 75");
    let file = SourceFile { name: "world.toml".to_owned(), text };
    let scenario = Scenario::parse(&[file], &|_, _| Ok(format!("service_us\n{lines}"))).unwrap();
    let outcomes = simulate(&scenario, 1, Misfortune::NONE).unwrap().outcomes;
    let mean_us = service_us.iter().sum::<u32>() as usize / service_us.len();
    let possible = 400_000_000 / mean_us as u64;
    assert!(outcomes.on_time * 1000 >= outcomes.accepted * 999, "{outcomes:?}");
    assert!(outcomes.on_time * 100 >= possible * 92, "{outcomes:?} of {possible}");
}

#[test]
fn refused_jobs_come_back_as_often_as_they_may() {
    let text = STEADY.replace("periodic_per_s = 50", "poisson_per_s = 150");
    let without = played(&text).outcomes;
    let again = played(&format!("{text}retry = \"after\"\nretries_max = 3\n")).outcomes;
    assert_eq!((without.retries, without.offered), (0, again.offered), "repetitions are not offered again");
    assert!(again.retries > 100 && again.retries <= 3 * again.offered, "{again:?}");
    assert_eq!(again.offered, again.accepted + again.refused);
}

#[test]
fn a_dead_device_loses_no_job_in_silence() {
    let fault = "[[fault]]\nat_s = 3.005\ndevice = \"d\"\nkind = \"lose\"\nrestart_s = 0.05\n";
    let report = played(&format!("{STEADY}{fault}"));
    let outcomes = report.outcomes;
    assert_eq!((report.workers_lost, outcomes.lost), (1, 0));
    let ended = outcomes.on_time + outcomes.late + outcomes.expired + outcomes.failed + outcomes.cancelled;
    assert_eq!(outcomes.accepted, ended);
    assert_eq!(report.misses, 0, "{:?}", report.first_miss);
    let busy = report.utilisation[0].busy;
    assert!((0.48..0.52).contains(&busy), "{busy}");
}

#[test]
fn a_slow_device_is_slow_as_long_as_it_was_said() {
    let fault = "[[fault]]\nat_s = 2\ndevice = \"d\"\nkind = \"slow\"\nfactor = 1.5\nfor_s = 4\n";
    let report = played(&format!("{STEADY}{fault}"));
    assert_eq!(report.latency_us.max, 15_000);
    assert!((report.utilisation[0].busy - 0.6).abs() < 0.01, "{:?}", report.utilisation);
    let reported = played(&format!("{STEADY}{fault}reported = true\n"));
    assert_eq!(reported.latency_us.max, 15_000);
}

#[test]
fn a_hung_worker_is_replaced() {
    let text = STEADY.replace("batch_max = 1", "batch_max = 1\nrun_ms_max = 60");
    let text = text
        .replace("models = [\"m\"]", "models = [\"m\"]\nhiccup_per_million = 10000\nhiccup_ms = 5000\nrestart_s = 0.1");
    let report = played(&text);
    assert!(report.workers_replaced > 0, "{report:?}");
    assert_eq!((report.workers_lost, report.outcomes.lost), (report.workers_replaced, 0));
}

#[test]
fn stages_follow_each_other_under_one_deadline() {
    let second = "[[model]]\nname = \"n\"\nmodality = \"audio\"\nbatch_max = 1\nprofile = [{ jobs = 1, p50_us = 5000, p99_us = 5000 }]\n[[device]]";
    let text = STEADY.replace("[[device]]", second).replace("models = [\"m\"]", "models = [\"m\", \"n\"]");
    let report = played(&text.replace("model = \"m\"", "pipeline = [\"m\", \"n\"]"));
    assert_eq!((report.outcomes.offered, report.outcomes.on_time), (500, 500));
    assert_eq!((report.latency_us.p50, report.margin_us), (15_000, Some(85_000)));
}

#[test]
fn jobs_that_are_taken_back_are_counted_once() {
    let outcomes = played(&format!("{STEADY}cancelled_permille = 300\n")).outcomes;
    assert!((5..150).contains(&outcomes.cancelled), "{outcomes:?}");
    assert_eq!(outcomes.accepted, outcomes.on_time + outcomes.cancelled);
}

#[test]
fn a_trace_is_played_source_by_source() {
    let file = SourceFile {
        name: "world.toml".to_owned(),
        text: STEADY
            .replace("{ periodic_per_s = 50 }", "{ trace = \"t.csv\" }")
            .replace("model = \"m\"", "model = \"m\"\ncount = 2\nordered = true"),
    };
    let scenario = Scenario::parse(&[file], &|_, _| Ok("offset_us\n0\n0\n500000\n".to_owned())).unwrap();
    let report = simulate(&scenario, 1, Misfortune::NONE).unwrap();
    assert_eq!((report.outcomes.offered, report.outcomes.on_time), (3, 3));
    assert_eq!(report.latency_us.max, 20_000, "the second waits for the first");
}

/// Everything that the files can say, in one small world.
fn busy_world(text: &str) -> String {
    text.replace("p99_us = 10000", "p99_us = 14000")
        .replace("batch_max = 1", "batch_max = 4")
        .replace("kind = \"accelerator\"", "kind = \"accelerator\"\ncount = 3\nrestart_s = 0.2")
        .replace("periodic_per_s = 50", "bursts = { every_s = 2, for_s = 0.5, burst_per_s = 100, base_per_s = 20 }")
        .replace(
            "model = \"m\"",
            "model = \"m\"\ncount = 8\nprincipals = 4\nordered = true\nretry = \"after\"\ncancelled_permille = 20",
        )
        + "[[fault]]\nat = \"peak\"\ndevice = \"d\"\nshare = 0.5\nkind = \"lose\"\n[[moment]]\nat_s = 1\nfor_s = 1\n"
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let scenario = world(&busy_world(STEADY));
    let misfortune = "0.5,0.5,0.5,0.5".parse().unwrap();
    let json = |seed| serde_json::to_string(&simulate(&scenario, seed, misfortune).unwrap()).unwrap();
    assert_eq!(json(4), json(4));
    assert_ne!(json(4), json(5));
}

#[test]
fn arrivals_do_not_depend_on_what_is_decided() {
    let offered = |text: &str| played(text).outcomes.offered;
    let text = STEADY.replace("periodic_per_s = 50", "poisson_per_s = 70");
    assert_eq!(
        offered(&text),
        offered(&text.replace("p50_us = 10000, p99_us = 10000", "p50_us = 30000, p99_us = 90000"))
    );
}

/// The scheduler, and somebody who meddles.
struct Meddled {
    scheduler: Scheduler,
    fault: Meddling,
    committed: BTreeMap<LaneId, Vec<BatchId>>,
    struck: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Meddling {
    /// A batch that waits behind another is called done, too: its slot is released twice.
    ReleaseTwice,
    /// A batch is reported done twice; the caller gets the answer to the second report.
    DoneTwice,
    /// A dispatch is repeated under a new number.
    DispatchTwice,
    /// A refusal is kept back.
    SwallowRefusal,
    /// An expired job is not told of.
    SwallowOutcome,
}

impl Decide for Meddled {
    fn handle(&mut self, now_ns: u64, event: Event, out: &mut Vec<Command>) -> Handled {
        let handled = self.scheduler.handle(now_ns, event.clone(), out);
        let mut again = Vec::new();
        if let Event::BatchDone { lane, batch, .. } = event {
            let committed = self.committed.entry(lane).or_default();
            committed.retain(|other| *other != batch);
            let batch = match self.fault {
                Meddling::ReleaseTwice => committed.first().copied(),
                Meddling::DoneTwice if !self.struck => Some(batch),
                _ => None,
            };
            if let Some(batch) = batch {
                self.struck = true;
                let done = Event::BatchDone { lane, batch, service_ns: 1, unfinished: Unfinished::new() };
                let twice = self.scheduler.handle(now_ns, done, &mut again);
                if self.fault == Meddling::DoneTwice {
                    return twice;
                }
            }
        }
        out.append(&mut again);
        match self.fault {
            Meddling::DispatchTwice => {
                let dispatch = out.iter().find(|command| matches!(command, Command::Dispatch { .. })).cloned();
                if let Some(Command::Dispatch { lane, batch, model, jobs, epoch, predicted_ns }) = dispatch {
                    self.struck = true;
                    let batch = BatchId(batch.0 + 1_000_000);
                    out.push(Command::Dispatch { lane, batch, model, jobs, epoch, predicted_ns });
                }
            }
            Meddling::SwallowRefusal => self.swallow(out, |command| matches!(command, Command::Refuse { .. })),
            Meddling::SwallowOutcome => self.swallow(out, |command| matches!(command, Command::Cancelled { .. })),
            Meddling::ReleaseTwice | Meddling::DoneTwice => {}
        }
        for command in out.iter() {
            if let Command::Dispatch { lane, batch, .. } = command {
                self.committed.entry(*lane).or_default().push(*batch);
            }
        }
        handled
    }

    fn stage_deadline_ns(&self, now_ns: u64, deadline_ns: u64, models: &[ModelKey]) -> u64 {
        self.scheduler.stage_deadline_ns(now_ns, deadline_ns, models)
    }

    fn learned(&self, lane: LaneId) -> Vec<(ModelKey, Learned)> {
        self.scheduler.learned(lane)
    }
}

impl Meddled {
    fn swallow(&mut self, out: &mut Vec<Command>, which: fn(&Command) -> bool) {
        let before = out.len();
        out.retain(|command| !which(command));
        self.struck |= out.len() < before;
    }
}

/// The checker itself is tested: each fault that strikes is noticed, as what it is.
#[test]
fn meddling_is_noticed() {
    let text = busy_world(STEADY).replace("burst_per_s = 100", "burst_per_s = 400");
    // Batches are committed early, so that lanes are full.
    let text =
        format!("[scheduler]\ncommit_ahead_ns = 1000000000\n{}", text.replace("ordered = true", "ordered = false"));
    let text = text.replace("\nseconds = 10\n", "\n").replace("[scheduler]", "seconds = 10\n[scheduler]");
    let cases = [
        (Meddling::ReleaseTwice, "is one more than 2 committed"),
        (Meddling::DoneTwice, "counts as stale"),
        (Meddling::DispatchTwice, "has it"),
        (Meddling::SwallowRefusal, "accepted jobs have no outcome"),
        (Meddling::SwallowOutcome, "accepted jobs have no outcome"),
    ];
    for (fault, rule) in cases {
        // A refused job that a client could take back would be noticed by that, too.
        let taken_back = if fault == Meddling::SwallowRefusal { 0 } else { 20 };
        let text = text.replace("cancelled_permille = 20", &format!("cancelled_permille = {taken_back}"));
        let scenario = world(&text);
        let scheduler = Scheduler::new(scenario.settings.clone());
        let meddled = Meddled { scheduler, fault, committed: BTreeMap::new(), struck: false };
        let broken = simulate_with(&scenario, 1, Misfortune::NONE, meddled).unwrap_err();
        assert!(broken.rule.contains(rule), "{fault:?}: {broken}");
        simulate(&scenario, 1, Misfortune::NONE).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the world, the sum is right and no rule is broken.
    #[test]
    fn no_world_breaks_a_rule(
        seed in any::<u64>(),
        permille in prop::array::uniform4(0..=1000_u16),
        per_s in 5..300_u32,
        batch_max in 1..12_u16,
        deadline_ms in 5..400_u32,
        count in 1..4_u32,
        slice_ms in prop::sample::select(vec![0, 3]),
        ordered in any::<bool>(),
    ) {
        let text = busy_world(STEADY)
            .replace("seconds = 10", "seconds = 4")
            .replace("batch_max = 4", &format!("batch_max = {batch_max}\nslice_ms = {slice_ms}"))
            .replace("burst_per_s = 100", &format!("burst_per_s = {per_s}"))
            .replace("deadline_ms = 100", &format!("deadline_ms = {deadline_ms}"))
            .replace("count = 3", &format!("count = {count}"))
            .replace("ordered = true", &format!("ordered = {ordered}"));
        let report = simulate(&world(&text), seed, Misfortune { permille });
        let outcomes = report.as_ref().map_err(|broken| TestCaseError::fail(broken.to_string()))?.outcomes;
        prop_assert_eq!(outcomes.offered, outcomes.accepted + outcomes.refused);
        let ended = outcomes.on_time + outcomes.late + outcomes.expired + outcomes.failed + outcomes.cancelled;
        prop_assert_eq!(outcomes.accepted, ended);
    }
}
