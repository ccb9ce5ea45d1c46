//! What rules mean, what is not let through, and that the evaluator agrees with the crate's own interpreter.

mod oracle;
mod refused;

use sensorium_wire::Name;
use sensorium_wire::result::{ClassScore, Detection, ModelResult};
use sensorium_wire::submit::{PayloadKind, SubmitHeader, Urgency};

use super::*;

fn spec(on: On, when: &str) -> RuleSpec {
    RuleSpec {
        name: "test".to_owned(),
        on,
        when: when.to_owned(),
        then: Then::Alert,
        text: "so".to_owned(),
        for_ms: None,
    }
}

fn detection(label: &str, score: f32, bottom: f32) -> Detection {
    Detection { bbox: [10.0, 20.0, 110.0, bottom], score, class: 3, label: Name::cut(label) }
}

fn header() -> SubmitHeader {
    let header = SubmitHeader {
        model: Name::cut("nanodet"),
        session: 7,
        stream: 2,
        sequence: 40,
        budget_us: 50_500,
        payload: PayloadKind::RawFrame,
        urgency: Urgency::High,
        ..SubmitHeader::default()
    };
    header.with_shape(&[480, 640]).unwrap()
}

fn street() -> ModelResult {
    let detections =
        vec![detection("person", 0.9, 420.0), detection("car", 0.7, 300.0), detection("person", 0.4, 90.0)];
    ModelResult::Detections { detections }
}

fn ask(when: &str) -> Result<bool, Fault> {
    ask_about(when, &StreamState::default(), Some(&street()))
}

fn ask_about(when: &str, stream: &StreamState, result: Option<&ModelResult>) -> Result<bool, Fault> {
    let set = RuleSet::compile(&[spec(On::Result, when)]).unwrap_or_else(|error| panic!("{when}: {error}"));
    let header = header();
    let facts = Facts { tenant: "stadium", header: &header, payload_bytes: 921_600, stream, now_ms: 5_000, result };
    set.rules()[0].holds(&facts)
}

#[test]
fn conditions_mean_what_they_say() {
    for when in [
        r#"result.detections.exists(d, d.label == "person" && d.score > 0.6 && d.box[3] > 400.0)"#,
        r#"result.detections.filter(d, d.label == "person").size() == 2"#,
        r#"result.detections.filter(d, d.label == "person").filter(p, p.score > 0.5).exists(p, p.box[3] > 400)"#,
        r#"result.detections.all(d, d.score > 0.3)"#,
        r#"result.detections.exists_one(d, d.label == "car")"#,
        r#"result.detections.exists(a, result.detections.exists(b, a.label != b.label && a.box[3] - b.box[3] > 100.0))"#,
        r#"size(result.detections) == 3 && result.type == "detections""#,
        r#"job.model == "nanodet" && job.urgency in ["critical", "high"] && job.payload == "raw_frame""#,
        "job.width == 640 && job.height == 480 && job.payload_bytes == 921600 && job.budget_ms < 51",
        r#"tenant.startsWith("stad") && tenant.endsWith("ium") && tenant.contains("adi") && size(tenant) == 7"#,
        "!has(job.samples) && has(job.width) && !has(stream.speech) && !has(result.text) && has(result.detections)",
        "job.sequence % 10 == 0 && job.sequence / 7 == 5 && -job.sequence == -40 && int(job.budget_ms) == 50",
        "(job.stream == 2 ? double(job.session) : 0.0) == 7.0",
    ] {
        assert_eq!(ask(when), Ok(true), "{when}");
        assert_eq!(ask(&format!("!({when})")), Ok(false), "{when}");
    }
}

#[test]
fn what_is_not_there_is_a_fault_unless_it_does_not_matter() {
    for (when, missing) in [
        ("result.text.contains(\"help\")", "result.text is not there"),
        ("stream.age_ms > 10", "stream.age_ms is not there"),
        ("job.samples > 10", "job.samples is not there"),
    ] {
        assert_eq!(ask(when).unwrap_err().to_string(), missing);
    }
    assert_eq!(ask("stream.count[\"person\"] > 0"), Err(Fault::Key));
    assert_eq!(ask("result.detections[3].score > 0.0"), Err(Fault::Index));
    assert_eq!(ask("result.detections[-1].score > 0.0"), Err(Fault::Index));
    assert_eq!(ask("1 / (job.session - 7) > 0"), Err(Fault::Division));
    assert_eq!(ask("9223372036854775807 + job.session > 0"), Err(Fault::Overflow));
    // As CEL has it: the side that decides makes up for a fault on the other.
    assert_eq!(ask("stream.speech || job.stream == 2"), Ok(true));
    assert_eq!(ask("stream.speech && job.stream == 3"), Ok(false));
    assert_eq!(ask("result.detections.exists(d, 1 / (d.class - 3) == 1 || d.label == \"car\")"), Ok(true));
    assert_eq!(ask("result.detections.exists(d, 1 / (d.class - 3) == 1)"), Err(Fault::Division));
    // But a filter is asked about everything before anything is looked for.
    let filtered = "result.detections.filter(d, d.score > 0.6 || stream.speech).exists(d, d.label == \"person\")";
    assert!(matches!(ask(filtered), Err(Fault::Missing(_))));
}

#[test]
fn a_stream_is_known_by_what_its_earlier_results_left() {
    let mut states = StreamStates::default();
    let key = (1, 7, 2);
    let ask = |states: &StreamStates, when: &str| ask_about(when, &states.get(key), Some(&street()));
    assert_eq!(ask(&states, "stream.results == 0 && size(stream.count) == 0 && !has(stream.age_ms)"), Ok(true));

    states.note(key, 4_000, Some(&street()));
    assert_eq!(
        ask(&states, r#"stream.count["person"] == 2 && stream.count.car == 1 && stream.age_ms == 1000"#),
        Ok(true)
    );
    assert_eq!(
        ask(&states, r#""person" in stream.count && !("dog" in stream.count) && !has(stream.count.dog)"#),
        Ok(true)
    );

    let probabilities = vec![0.1, 0.7];
    states.note(key, 4_900, Some(&ModelResult::Speech { probabilities, window_ms: 32, state: Vec::new() }));
    states.note(key, 4_950, Some(&ModelResult::Transcript { text: "ä".repeat(400), tokens: 3 }));
    let shot = ClassScore { class: 0, score: 0.75, label: Name::cut("shot") };
    states.note(key, 4_960, Some(&ModelResult::Classes { classes: vec![shot], windows: 1 }));
    states.note(key, 4_970, Some(&ModelResult::Fusion { events: vec![shot], intensity: 0.5 }));
    states.note(key, 4_980, None);
    for when in [
        "stream.results == 6 && stream.age_ms == 20 && stream.count.person == 2",
        "stream.speech && size(stream.text) == 256 && stream.intensity == 0.5",
        r#"stream.sound["shot"] == 0.75 && stream.event.shot > 0.7"#,
    ] {
        assert_eq!(ask(&states, when), Ok(true), "{when}");
    }
    assert_eq!(*states.get((2, 7, 2)), StreamState::default(), "another principal's stream of the same number");

    // Nobody fills the node's memory with streams or with labels.
    let labels = (0..200).map(|number| detection(&number.to_string(), 0.5, 1.0)).collect();
    states.note(key, 5_000, Some(&ModelResult::Detections { detections: labels }));
    assert_eq!(states.get(key).count.len(), STREAM_LABELS_MAX);
    for stream in 0..STREAMS_MAX as u64 - 1 {
        states.note((9, 0, stream), 5_000, None);
        assert_eq!(states.get(key).results, 7);
    }
    states.note((9, 0, u64::MAX), 5_000, None);
    assert_eq!((states.len(), states.get(key).results), (STREAMS_MAX, 0), "the one that was longest silent is gone");
    assert_eq!(states.get((9, 0, 0)).results, 1);
}

#[test]
fn rules_see_the_first_items_of_a_long_list() {
    let mut detections = vec![detection("car", 0.5, 1.0); RULE_ITEMS_MAX];
    detections.push(detection("person", 0.5, 1.0));
    let result = ModelResult::Detections { detections };
    let ask = |when: &str| ask_about(when, &StreamState::default(), Some(&result));
    assert_eq!(ask(&format!("size(result.detections) == {RULE_ITEMS_MAX}")), Ok(true));
    assert_eq!(ask("result.detections.exists(d, d.label == \"person\")"), Ok(false));
}

#[test]
fn rules_come_from_toml_in_their_order() {
    #[derive(serde::Deserialize)]
    struct File {
        rule: Vec<RuleSpec>,
    }
    let text = "[[rule]]\nname = \"a\"\non = \"job\"\nwhen = 'job.stream == 1'\nthen = \"refuse\"\ntext = \"no\"\n\
                [[rule]]\nname = \"b\"\non = \"result\"\nwhen = 'stream.results > 3'\nthen = \"critical_moment\"\nfor_ms = 2000\n\
                [[rule]]\nname = \"c\"\non = \"job\"\nwhen = 'job.stream == 2'\nthen = \"alert\"\ntext = \"two\"\n";
    let file: File = toml::from_str(text).unwrap();
    let set = RuleSet::compile(&file.rule).unwrap();
    let names = |on| set.on(on).map(|(at, rule)| (at, rule.name().to_owned())).collect::<Vec<_>>();
    assert_eq!(names(On::Job), [(0, "a".to_owned()), (2, "c".to_owned())]);
    assert_eq!(names(On::Result), [(1, "b".to_owned())]);
    assert_eq!(set.rules().iter().map(Rule::for_ms).collect::<Vec<_>>(), [60_000, 2_000, 60_000]);
    assert!(set.asks_stream() && !set.is_empty());
    assert!(!RuleSet::compile(&file.rule[..1]).unwrap().asks_stream());
    assert!(toml::from_str::<File>(&text.replace("for_ms", "forms")).is_err());
}
