use super::*;
use crate::report::HowMissed;
use crate::scenario::SourceFile;

const WORLD: &str = r#"
seconds = 3
overhead_us = 100
[[model]]
name = "m"
modality = "visual"
batch_max = 4
profile = [{ jobs = 1, p50_us = 4000, p99_us = 5000 }, { jobs = 4, p50_us = 8000, p99_us = 10000 }]
[[device]]
name = "gpu"
count = 2
kind = "accelerator"
models = ["m"]
[[load]]
name = "cameras"
count = 5
model = "m"
deadline_ms = 100
arrivals = { periodic_per_s = 10, jitter_ms = 3 }
"#;

fn world(text: &str) -> Scenario {
    let file = SourceFile { name: "world.toml".to_owned(), text: text.to_owned() };
    Scenario::parse(&[file], &|_, _| Err(String::new())).unwrap()
}

/// A world in which the margin shrinks with tail and slow, and ends at a sum that exploring alone seldom reaches.
fn hidden(scenario: &Scenario, seed: u64, misfortune: Misfortune) -> Report {
    let mut report = simulate(scenario, seed, Misfortune::NONE).unwrap();
    let [tail, _, _, slow] = misfortune.permille.map(i64::from);
    report.margin_us = Some(1850 - tail - slow);
    report.first_miss = (tail + slow > 1850).then(|| Miss::new(0, "cameras", 1, HowMissed::Late));
    report
}

#[test]
fn the_search_climbs_to_a_hidden_miss() {
    let scenario = world(WORLD).with_seconds(0.05);
    let found = (0..10).filter(|first| {
        let scenario = Scenario { seed: *first, ..scenario.clone() };
        let run = |seed, misfortune| Ok(hidden(&scenario, seed, misfortune));
        search(&scenario, 200, Losses::Excused, run).unwrap().miss.is_some()
    });
    assert!(found.count() >= 8, "climbing finds what is hidden in most searches");
}

#[test]
fn misfortune_grows_from_nearly_nothing() {
    let mut strengths = Vec::new();
    let scenario = world(WORLD).with_seconds(0.05);
    let run = |seed, misfortune: Misfortune| {
        strengths.push(misfortune.permille.map(u32::from).iter().sum::<u32>());
        Ok(Report { margin_us: None, first_miss: None, ..hidden(&scenario, seed, Misfortune::NONE) })
    };
    let proof = search(&scenario, 100, Losses::Excused, run).unwrap();
    assert_eq!((proof.tried, proof.miss, proof.worst), (100, None, None));
    let sum = |range: std::ops::Range<usize>| strengths[range].iter().sum::<u32>();
    assert!(sum(0..10) * 3 < sum(90..100), "{strengths:?}");
}

#[test]
fn a_calm_world_has_no_miss_and_its_worst_run_can_be_seen_again() {
    let scenario = world(WORLD);
    let proof = prove(&scenario, 30, Losses::Excused).unwrap();
    assert_eq!((proof.tried, &proof.miss), (30, &None));
    assert!(proof.accepted > 30 * 100, "{proof:?}");
    let worst = proof.worst.unwrap();
    let again = simulate(&scenario, worst.seed, worst.misfortune).unwrap();
    assert_eq!(again.margin_us, Some(worst.margin_us));
    assert_eq!(prove(&scenario, 30, Losses::Excused), Ok(proof), "the search itself repeats");
}

#[test]
fn an_impossible_promise_is_found_and_can_be_seen_again() {
    // Every thousandth batch takes longer than any deadline, which no profile tells.
    let text = WORLD.replace("models = [\"m\"]", "models = [\"m\"]\nhiccup_per_million = 2000\nhiccup_ms = 300");
    let scenario = world(&text);
    let found = prove(&scenario, 50, Losses::Excused).unwrap().miss.unwrap();
    let again = simulate(&scenario, found.seed, found.misfortune).unwrap();
    assert_eq!(again.first_miss, Some(found.miss));
}

#[test]
fn losses_count_when_they_are_asked_to() {
    let scenario = world(WORLD);
    let run = |seed, misfortune| {
        let miss = Miss::new(0, "cameras", 1, HowMissed::Expired);
        Ok(Report { first_miss_by_loss: Some(miss), missed_by_loss: 1, ..hidden(&scenario, seed, misfortune) })
    };
    let proof = search(&scenario, 3, Losses::Excused, run).unwrap();
    assert_eq!((proof.miss.is_some(), proof.missed_by_loss), (false, 3));
    assert!(search(&scenario, 3, Losses::Counted, run).unwrap().miss.is_some());
}
