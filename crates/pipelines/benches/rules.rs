//! How long 20 conditions take over 64 values: on results of 9 objects (of 7 values each), and, harder, over 64 objects.
//! Criterion gives means; the histogram that follows gives what one round of 20 takes at worst.

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use hdrhistogram::Histogram;
use sensorium_pipelines::rules::{
    Facts, On, RULE_ITEMS_MAX, RULES_STEPS_MAX, Rule, RuleSet, RuleSpec, StreamState, Then,
};
use sensorium_wire::Name;
use sensorium_wire::result::{Detection, ModelResult};
use sensorium_wire::submit::SubmitHeader;

const RULES: usize = 20;
const ROUNDS: usize = 20_000;

fn spec(at: usize, when: String) -> RuleSpec {
    RuleSpec {
        name: format!("rule-{at}"),
        on: On::Result,
        when,
        then: Then::Alert,
        text: "seen".to_owned(),
        for_ms: None,
    }
}

fn rules(condition: impl Fn(usize) -> String) -> RuleSet {
    let specs: Vec<_> = (0..RULES).map(|at| spec(at, condition(at))).collect();
    RuleSet::compile(&specs).expect("these conditions are sound")
}

fn objects(count: usize) -> ModelResult {
    let object = |at: usize| Detection {
        bbox: [10.0, 20.0, 110.0, 420.0],
        score: 0.9,
        class: 3,
        label: Name::cut(if at.is_multiple_of(2) { "person" } else { "car" }),
    };
    ModelResult::Detections { detections: (0..count).map(object).collect() }
}

/// No rule holds, so that every one looks at everything.
fn over_objects(at: usize) -> String {
    let score = 95 + at % 5;
    format!(r#"result.detections.exists(d, d.label == "person" && d.score > 0.{score} && d.box[3] > 400.0)"#)
}

fn over_fields(at: usize) -> String {
    format!(
        r#"(job.payload_bytes > {at} && job.stream == 2 && job.urgency in ["critical", "high"]) || stream.age_ms > {at}
           || stream.count["person"] > 3 || (stream.speech && stream.intensity > 0.9) || tenant == "guest""#
    )
}

fn bench(criterion: &mut Criterion) {
    let (header, state) = (SubmitHeader { stream: 2, ..SubmitHeader::default() }, stream());
    let mut group = criterion.benchmark_group("20 rules");
    let cases = [
        ("over fields", rules(over_fields), objects(0)),
        ("over 9 objects (63 values)", rules(over_objects), objects(9)),
        ("over 64 objects (448 values)", rules(over_objects), objects(64)),
        ("as costly as rules may be", costly(), objects(RULE_ITEMS_MAX)),
    ];
    for (name, rules, result) in &cases {
        let facts = Facts {
            tenant: "stadium",
            header: &header,
            payload_bytes: 1,
            stream: &state,
            now_ms: 1,
            result: Some(result),
        };
        let round = || rules.rules().iter().filter(|rule| black_box(rule.holds(black_box(&facts))) == Ok(true)).count();
        assert_eq!(round(), 0, "{name}");
        group.bench_function(*name, |bencher| bencher.iter(round));
        report(name, &spread(round));
    }
    group.finish();
}

/// Two rules that compare every object with every other, and so come close to what all rules together may cost.
fn costly() -> RuleSet {
    let pairs = |at: usize| {
        format!(
            "result.detections.exists(a, result.detections.exists(b, a.label != b.label && a.box[3] - b.box[3] > {at}.0))"
        )
    };
    let specs: Vec<_> = (0..2).map(|at| spec(at, pairs(at))).collect();
    let set = RuleSet::compile(&specs).expect("they are just let through");
    let steps: u64 = set.rules().iter().map(Rule::steps_max).sum();
    assert!(steps > RULES_STEPS_MAX / 4 * 3, "{steps}");
    set
}

fn stream() -> StreamState {
    let count = vec![(Name::cut("car"), 2), (Name::cut("person"), 1)];
    StreamState { results: 9, last_ms: 1, count, speech: Some(false), intensity: Some(0.5), ..StreamState::default() }
}

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn report(name: &str, spread: &str) {
    println!("{name}: {spread}");
}

/// What single rounds take.
fn spread(round: impl Fn() -> usize) -> String {
    let mut times = Histogram::<u64>::new_with_max(1_000_000_000, 3).expect("three digits are few");
    for _ in 0..ROUNDS {
        let began = Instant::now();
        black_box(round());
        times.saturating_record(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let us = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs of {ROUNDS} rounds", us(0.5), us(0.99), us(0.999))
}

criterion_group!(benches, bench);
criterion_main!(benches);
