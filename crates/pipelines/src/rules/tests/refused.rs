//! Conditions that are not let through, and why; and text that is no condition at all.

use proptest::prelude::*;

use super::super::*;
use super::spec;

fn refusal(on: On, when: &str) -> String {
    match RuleSet::compile(&[spec(on, when)]) {
        Ok(_) => panic!("{when}: let through"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_refusal_says_where_and_why() {
    for (when, where_and_why) in [
        ("result.x > 1", "line 1, column 7: a result has no field x; there are type, detections"),
        ("job.widht > 1", "a job has no field widht; there are model, version"),
        ("reslt.type == \"pose\"", "line 1, column 1: no variable reslt; there are job, tenant, stream, result"),
        ("job.width", "it gives a int; a condition gives a bool"),
        ("job.width >", "line 1, column 12: mismatched input the end"),
        ("", "there is nothing"),
        ("job.width >\n  \"9\"", "line 1, column 11: a int and a string have no order"),
        ("true &&\n  job.with > 1", "line 2, column 6: a job has no field with"),
        ("tenant == 1", "a string and a int cannot be equal"),
        ("job.budget_ms + 1 > 2.0", "double() and int() convert"),
        ("tenant + tenant == \"a\"", "cannot be reckoned with"),
        ("1u == 1u", "unsigned numbers are not known; write 1"),
        ("null == null", "null"),
        ("[job.width].exists(w, w > 1)", "constants only"),
        ("[1, \"a\"].exists(x, true)", "same type"),
        ("[].exists(x, true)", "empty list"),
        ("{\"a\": 1}.a == 1", "only names, constants"),
        ("tenant.matches(\"a+\")", "no method matches"),
        ("result.detections.map(d, d.score) == [1.0]", "no method map"),
        ("stream.count.exists(c, true)", "a list is expected, this is a map from string to int"),
        ("result.detections.filter(d, true) == result.detections", "can be counted"),
        ("result.detections.exists(d.label, true)", "a name for the items is expected"),
        ("result.detections == result.detections", "cannot be equal"),
        ("has(tenant)", "has() asks for a field"),
        ("size(job) > 1", "a job has no size"),
        ("\"a\" in tenant", "never in"),
        ("job[0] == 1", "a job has no items"),
        ("result.detections[\"a\"].score > 0.0", "a int is expected, this is a string"),
        ("stream.count[1] > 0", "a string is expected, this is a int"),
        ("job.width ? true : false", "a bool is expected"),
        ("-tenant == \"a\"", "a number is expected"),
        ("9223372036854775808 > 1", ""),
    ] {
        let refusal = refusal(On::Result, when);
        assert!(refusal.starts_with("rule \"test\": when"), "{refusal}");
        assert!(refusal.contains(where_and_why), "{when}: {refusal}");
    }
    let early = refusal(On::Job, "result.type == \"pose\"");
    assert!(early.contains("in rules on = \"result\""), "{early}");
}

#[test]
fn rules_that_contradict_themselves_are_refused() {
    let changed = |change: fn(&mut RuleSpec)| {
        let mut spec = spec(On::Result, "true");
        change(&mut spec);
        RuleSet::compile(&[spec]).unwrap_err().to_string()
    };
    assert!(changed(|spec| spec.then = Then::Refuse).contains("neither be answered nor refused"));
    assert!(changed(|spec| spec.text.clear()).contains("text: "));
    assert!(changed(|spec| spec.text = "x".repeat(257)).contains("at most 256"));
    assert!(changed(|spec| spec.name = "no blanks".to_owned()).contains("rule number 1: name \"no blanks\""));
    assert!(changed(|spec| spec.for_ms = Some(0)).contains("1 to 600000"));
    assert!(changed(|spec| (spec.on, spec.then, spec.for_ms) = (On::Job, Then::Answer, Some(5))).contains("for_ms"));
    assert!(changed(|spec| spec.when = format!("true{}", " ".repeat(1024))).contains("at most 1024"));
    let twice = [spec(On::Job, "true"), spec(On::Job, "true")];
    assert!(RuleSet::compile(&twice).unwrap_err().to_string().contains("another rule has the same name"));
    let many: Vec<_> = (0..65).map(|at| RuleSpec { name: at.to_string(), ..spec(On::Job, "true") }).collect();
    assert_eq!(RuleSet::compile(&many).unwrap_err().to_string(), "65 rules; at most 64 are taken");
    assert!(RuleSet::compile(&many[..64]).is_ok());
}

#[test]
fn what_could_run_away_is_refused_beforehand() {
    let cube =
        "result.detections.exists(a, result.detections.exists(b, result.detections.exists(c, a.score == c.score)))";
    assert!(refusal(On::Result, cube).contains("steps in the worst case"), "{}", refusal(On::Result, cube));
    let square = "result.detections.exists(a, result.detections.exists(b, a.score == b.score))";
    let square = |at: usize| RuleSpec { name: at.to_string(), ..spec(On::Result, square) };
    let one = RuleSet::compile(&[square(0)]).unwrap().rules()[0].steps_max();
    assert!(one > 10_000 * 3, "{one}");
    let many: Vec<_> = (0..64).map(square).collect();
    let refused = RuleSet::compile(&many).unwrap_err().to_string();
    assert!(refused.contains("with the rules before it"), "{refused}");

    let nested = "[1].exists(a, ".repeat(4) + "true" + &")".repeat(4);
    assert!(refusal(On::Result, &nested).contains("at most 3 loops"));
    let filters = "result.detections".to_owned() + &".filter(d, true)".repeat(40) + ".size() > 0";
    assert!(refusal(On::Result, &filters).contains("nested deeper"), "{}", refusal(On::Result, &filters));
}

/// Everything that is much too deep, on a stack that a test's thread has.
#[test]
fn deep_text_is_refused_and_not_followed_down() {
    for (open, middle, close) in [
        ("(", "true", ")"),
        ("!(", "true", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("-(", "1", ")"),
        ("size(", "1", ")"),
        ("1+", "1", ""),
        ("true?true:", "true", ""),
        ("has(", "a.b", ")"),
        ("a[", "1", "]"),
        ("a.", "b", ""),
        ("", "a", ".b"),
        ("", "a", "[0]"),
        ("", "a", ".size()"),
        ("a.exists(x,", "true", ")"),
    ] {
        let times = (RULE_BYTES_MAX - middle.len()) / (open.len() + close.len());
        let when = open.repeat(times) + middle + &close.repeat(times);
        let _ = refusal(On::Result, &when);
    }
    // These are long, not deep.
    for when in ["!".repeat(1000) + "true", vec!["true"; 170].join("&&"), vec!["false"; 140].join("||")] {
        let _ = RuleSet::compile(&[spec(On::Result, &when)]);
    }
}

const PIECES: [&str; 44] = [
    "result",
    "detections",
    "job",
    "stream",
    "tenant",
    "d",
    ".",
    ".exists(",
    "all(",
    "filter(",
    "has(",
    "size(",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&&",
    "||",
    "!",
    "?",
    ":",
    "==",
    "<",
    ">=",
    "+",
    "-",
    "%",
    " in ",
    "1",
    "0x9",
    "1.5e9",
    "9u",
    "\"a\"",
    "'",
    "r\"\\\"",
    "b'x'",
    "null",
    "true",
    "`",
    "\\",
    "//\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_condition_or_refused(when in ".{0,200}") {
        let _ = RuleSet::compile(&[spec(On::Result, &when)]);
    }

    #[test]
    fn any_sequence_of_pieces_is_a_condition_or_refused(
        pieces in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..60),
    ) {
        let _ = RuleSet::compile(&[spec(On::Result, &pieces.concat())]);
    }
}
