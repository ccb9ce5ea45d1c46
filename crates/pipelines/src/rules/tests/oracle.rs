//! The evaluator beside the interpreter of the crate `cel`: the same answers, and faults in the same places.

use std::collections::HashMap;

use cel::{Context, Env, Value as Cel};
use proptest::prelude::*;
use sensorium_wire::Name;
use sensorium_wire::result::{Detection, ModelResult};
use sensorium_wire::submit::SubmitHeader;

use super::super::*;
use super::spec;

fn text(text: &str) -> Cel {
    Cel::from(text.to_owned())
}

fn map(entries: Vec<(&str, Cel)>) -> Cel {
    let entries: HashMap<String, Cel> = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Cel::from(entries)
}

fn floats(values: &[f32]) -> Cel {
    Cel::from(values.iter().map(|value| Cel::Float(f64::from(*value))).collect::<Vec<_>>())
}

/// What the interpreter says about the same facts.
fn interpret(when: &str, facts: &Facts<'_>) -> Option<bool> {
    let Some(ModelResult::Detections { detections }) = facts.result else { panic!("made of detections") };
    let detections = detections.iter().map(|found| {
        map(vec![
            ("label", text(found.label.as_str())),
            ("score", Cel::Float(f64::from(found.score))),
            ("class", Cel::Int(i64::from(found.class))),
            ("box", floats(&found.bbox)),
        ])
    });
    let result = map(vec![("type", text("detections")), ("detections", Cel::from(detections.collect::<Vec<_>>()))]);
    let (header, state) = (facts.header, facts.stream);
    let job = map(vec![
        ("model", text(header.model.as_str())),
        ("sequence", Cel::Int(i64::try_from(header.sequence).unwrap())),
        ("attempt", Cel::Int(i64::from(header.attempt))),
    ]);
    let count: HashMap<String, Cel> =
        state.count.iter().map(|(label, count)| (label.as_str().to_owned(), Cel::Int(i64::from(*count)))).collect();
    let mut stream = vec![("results", Cel::Int(i64::try_from(state.results).unwrap())), ("count", Cel::from(count))];
    stream.extend(state.speech.map(|speech| ("speech", Cel::Bool(speech))));
    stream.extend(state.intensity.map(|intensity| ("intensity", Cel::Float(f64::from(intensity)))));

    let env = std::sync::Arc::new(Env::stdlib());
    let program = env.compile(when).unwrap_or_else(|error| panic!("{when}: {error}"));
    let mut context = Context::with_env(env);
    context.add_variable_from_value("tenant", facts.tenant.to_owned());
    context.add_variable_from_value("job", job);
    context.add_variable_from_value("stream", map(stream));
    context.add_variable_from_value("result", result);
    match program.execute(&context) {
        Ok(Cel::Bool(held)) => Some(held),
        Ok(other) => panic!("{when}: {other:?}"),
        Err(_) => None,
    }
}

const LABELS: [&str; 4] = ["person", "car", "dog", ""];

prop_compose! {
    fn detection()(
        label in prop::sample::select(&LABELS[..]),
        (score, class) in (0_u8..=8, 0_u32..4),
        bbox in prop::array::uniform4(0_u8..=8),
    ) -> Detection {
        Detection { bbox: bbox.map(f32::from), score: f32::from(score) / 8.0, class, label: Name::cut(label) }
    }
}

prop_compose! {
    fn states()(
        results in 0_u64..4,
        counts in prop::collection::vec(0_u32..4, 0..3),
        speech in prop::option::of(any::<bool>()),
        intensity in prop::option::of(0_u8..=4),
    ) -> StreamState {
        StreamState {
            results,
            count: LABELS.iter().zip(counts).map(|(label, count)| (Name::cut(label), count)).collect(),
            speech,
            intensity: intensity.map(|intensity| f32::from(intensity) / 4.0),
            ..StreamState::default()
        }
    }
}

/// How many loops are around a part decides which items it may name.
fn item(loops: usize) -> impl Strategy<Value = String> {
    (0..loops.max(1)).prop_map(move |at| if loops == 0 { "result.detections[0]".to_owned() } else { format!("d{at}") })
}

fn ints(depth: u32, loops: usize) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        (-3_i64..6).prop_map(|value| value.to_string()),
        Just("9223372036854775807".to_owned()),
        Just("job.sequence".to_owned()),
        Just("job.attempt".to_owned()),
        Just("stream.results".to_owned()),
        prop::sample::select(&LABELS[..]).prop_map(|label| format!("stream.count[\"{label}\"]")),
        item(loops).prop_map(|item| format!("{item}.class")),
        Just("size(tenant)".to_owned()),
        Just("size(result.detections)".to_owned()),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let (a, b) = (ints(depth - 1, loops), ints(depth - 1, loops));
    let sum = (a.clone(), prop::sample::select(&["+", "-", "*", "/", "%"][..]), b.clone());
    let chosen = (bools(depth - 1, loops), a, b);
    prop_oneof![
        3 => leaf,
        2 => sum.prop_map(|(a, by, b)| format!("({a} {by} {b})")),
        1 => chosen.prop_map(|(when, a, b)| format!("({when} ? {a} : {b})")),
        1 => doubles(depth - 1, loops).prop_map(|of| format!("int({of})")),
        1 => ints(depth - 1, loops).prop_map(|of| format!("(-{of})")),
        1 => bools(depth - 1, loops + 1)
            .prop_map(move |keep| format!("result.detections.filter(d{loops}, {keep}).size()")),
    ]
    .boxed()
}

/// No division by what may be zero: what comes of NaN is told apart below.
fn doubles(depth: u32, loops: usize) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        (0_u8..16).prop_map(|value| format!("{:?}", f64::from(value) / 4.0)),
        Just("stream.intensity".to_owned()),
        item(loops).prop_map(|item| format!("{item}.score")),
        (item(loops), 0..5).prop_map(|(item, at)| format!("{item}.box[{at}]")),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let (a, b) = (doubles(depth - 1, loops), doubles(depth - 1, loops));
    prop_oneof![
        3 => leaf,
        1 => (a, prop::sample::select(&["+", "-", "*"][..]), b).prop_map(|(a, by, b)| format!("({a} {by} {b})")),
        1 => ints(depth - 1, loops).prop_map(|of| format!("double({of})")),
    ]
    .boxed()
}

fn texts(loops: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(&LABELS[..]).prop_map(|label| format!("\"{label}\"")),
        Just("job.model".to_owned()),
        Just("tenant".to_owned()),
        item(loops).prop_map(|item| format!("{item}.label")),
    ]
}

fn bools(depth: u32, loops: usize) -> BoxedStrategy<String> {
    const ORDERS: [&str; 6] = ["<", "<=", ">", ">=", "==", "!="];
    let order = || prop::sample::select(&ORDERS[..]);
    let below = depth.saturating_sub(1);
    let numbers = move || prop_oneof![ints(below, loops), doubles(below, loops)];
    let leaf = prop_oneof![
        Just("stream.speech".to_owned()),
        Just("has(stream.speech)".to_owned()),
        Just("has(stream.count.person)".to_owned()),
        Just("has(result.text)".to_owned()),
        (texts(loops), order(), texts(loops)).prop_map(|(a, by, b)| format!("{a} {by} {b}")),
        texts(loops).prop_map(|text| format!("{text} in [\"car\", \"dog\"]")),
        texts(loops).prop_map(|text| format!("{text} in stream.count")),
        (texts(loops), prop::sample::select(&["contains", "startsWith", "endsWith"][..]), texts(loops))
            .prop_map(|(a, by, b)| format!("{a}.{by}({b})")),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let joined = (bools(below, loops), prop::sample::select(&["&&", "||"][..]), bools(below, loops));
    let looped = (prop::sample::select(&["exists", "all", "exists_one"][..]), bools(below, loops + 1));
    let filtered = (bools(below, loops + 1), bools(below, loops + 1));
    prop_oneof![
        2 => leaf,
        3 => (numbers(), order(), numbers()).prop_map(|(a, by, b)| format!("{a} {by} {b}")),
        1 => numbers().prop_map(|number| format!("{number} in [1, 2, -1]")),
        3 => joined.prop_map(|(a, by, b)| format!("({a} {by} {b})")),
        1 => bools(below, loops).prop_map(|of| format!("!({of})")),
        2 => looped.prop_map(move |(kind, body)| format!("result.detections.{kind}(d{loops}, {body})")),
        1 => filtered.prop_map(move |(keep, body)| {
            format!("result.detections.filter(d{loops}, {keep}).exists(d{loops}, {body})")
        }),
    ]
    .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_evaluator_and_the_interpreter_agree(
        when in bools(2, 0),
        detections in prop::collection::vec(detection(), 0..4),
        stream in states(),
        (sequence, attempt) in (0_u64..4, 0_u32..4),
    ) {
        let set = match RuleSet::compile(&[spec(On::Result, &when)]) {
            Ok(set) => set,
            // Long or costly ones are not this test's business; anything else is.
            Err(RuleError::Value { .. }) => return Ok(()),
            Err(error) => return Err(TestCaseError::fail(format!("{when}: {error}"))),
        };
        let header = SubmitHeader { model: Name::cut("car"), sequence, attempt, ..SubmitHeader::default() };
        let result = ModelResult::Detections { detections };
        let facts =
            Facts { tenant: "person", header: &header, payload_bytes: 1, stream: &stream, now_ms: 0, result: Some(&result) };
        let held = set.rules()[0].holds(&facts);
        prop_assert!(held != Err(Fault::Type), "{}", when);
        prop_assert_eq!(held.ok(), interpret(&when, &facts), "{} {:?}", when, held);
    }
}

/// Where the interpreter gives an error beside NaN, the language's definition says false; so does the evaluator.
#[test]
fn nothing_compares_with_what_is_no_number() {
    let holds = |when: &str| super::ask(when);
    assert_eq!(holds("0.0 / 0.0 > 1.0"), Ok(false));
    assert_eq!(holds("0.0 / 0.0 == 0.0 / 0.0"), Ok(false));
    assert_eq!(holds("0.0 / 0.0 != 0.0 / 0.0"), Ok(true));
}
