//! Rules: conditions over a job, its result and what its stream showed before, and what is to be done when they hold.
//!
//! Conditions are written in CEL, the Common Expression Language. The crate `cel` reads them; names, types and cost are
//! checked here, once, and what is left is run by an evaluator that allocates nothing and cannot fail but by a
//! [`Fault`]. (The crate's own interpreter takes about a microsecond for each step of a loop over detections, a hundred
//! times as long; the tests hold this evaluator to the same answers.) Nothing here acts: who asks whether a rule holds
//! also does what the rule says.

mod check;
mod error;
mod facts;
mod parse;
mod program;
mod schema;
mod state;
#[cfg(test)]
mod tests;
mod value;

use serde::{Deserialize, Serialize};

pub use error::{Fault, FieldName, RuleError};
pub use facts::Facts;
pub use state::{StreamKey, StreamState, StreamStates};

use program::Program;

/// Most rules of one node.
pub const RULES_MAX: usize = 64;
/// Longest condition, in bytes.
pub const RULE_BYTES_MAX: usize = 1024;
/// Longest text of a rule, in bytes.
pub const RULE_TEXT_BYTES_MAX: usize = 256;
/// Longest name of a rule, in bytes.
pub const RULE_NAME_BYTES_MAX: usize = 32;
/// Deepest nesting of a condition's parts.
pub const RULE_DEPTH_MAX: usize = 32;
/// Items of a list of a result that rules look at; those after are not seen. Models give the best ones first.
pub const RULE_ITEMS_MAX: usize = 100;
/// Most steps that one condition may take in the worst case. A step is a few nanoseconds.
pub const RULE_STEPS_MAX: u64 = 250_000;
/// Most steps that all conditions together may take in the worst case.
pub const RULES_STEPS_MAX: u64 = 500_000;
/// Streams whose latest state is known; the one that was longest silent goes first.
pub const STREAMS_MAX: usize = 4096;
/// Labels of one kind that a stream's state holds; later ones are not counted.
pub const STREAM_LABELS_MAX: usize = 64;
/// Leading bytes of a transcript that a stream's state holds.
pub const STREAM_TEXT_BYTES_MAX: usize = 512;
/// Longest time that an alert stands or a critical moment lasts, in milliseconds.
pub const RULE_FOR_MS_MAX: u64 = sensorium_wire::limits::CRITICAL_MOMENT_MS_MAX;

/// How long an alert stands after its rule held, in milliseconds, when the rule does not say.
const ALERT_FOR_MS: u64 = 60_000;
/// The same for a critical moment.
const MOMENT_FOR_MS: u64 = 10_000;

/// When a rule is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum On {
    /// Before a job is admitted, by its header alone.
    Job,
    /// After a job has its result.
    Result,
}

/// What is done when a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The job is answered at once with the rule's text. Only on a job.
    Answer,
    /// The job is refused with the rule's text. Only on a job.
    Refuse,
    /// The text stands among the node's alerts for a while.
    Alert,
    /// The plan for critical moments is in force for a while.
    CriticalMoment,
}

/// A rule as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    /// What it is called in receipts, alerts and the status: 1 to 32 of `a-z A-Z 0-9 . _ -`, no two the same.
    pub name: String,
    pub on: On,
    /// The condition.
    pub when: String,
    pub then: Then,
    /// What is answered or told, at most 256 bytes.
    #[serde(default)]
    pub text: String,
    /// How long an alert stands after the rule last held (default 60,000) or a critical moment lasts (default 10,000),
    /// in milliseconds.
    #[serde(default)]
    pub for_ms: Option<u64>,
}

/// A rule that is ready to be asked.
#[derive(Debug)]
pub struct Rule {
    spec: RuleSpec,
    program: Program,
}

impl Rule {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    #[must_use]
    pub fn on(&self) -> On {
        self.spec.on
    }

    #[must_use]
    pub fn then(&self) -> Then {
        self.spec.then
    }

    #[must_use]
    pub fn text(&self) -> &str {
        &self.spec.text
    }

    /// How long what it brings about lasts, in milliseconds.
    #[must_use]
    pub fn for_ms(&self) -> u64 {
        let standard = if self.spec.then == Then::CriticalMoment { MOMENT_FOR_MS } else { ALERT_FOR_MS };
        self.spec.for_ms.unwrap_or(standard)
    }

    /// The most steps that its condition can take.
    #[must_use]
    pub fn steps_max(&self) -> u64 {
        self.program.steps_max
    }

    /// Whether its condition is true of these facts.
    ///
    /// # Errors
    /// [`Fault`], when the condition asks for something that these facts do not have.
    pub fn holds(&self, facts: &Facts<'_>) -> Result<bool, Fault> {
        self.program.holds(facts)
    }
}

/// The rules of a node.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    asks_stream: bool,
}

impl RuleSet {
    /// Checks and prepares rules.
    ///
    /// # Errors
    /// [`RuleError`], with the rule's name, the place in its condition, and what is wrong there.
    pub fn compile(specs: &[RuleSpec]) -> Result<Self, RuleError> {
        if specs.len() > RULES_MAX {
            return Err(RuleError::Count { count: specs.len() });
        }
        let mut set = Self::default();
        let mut steps_max = 0_u64;
        for (number, spec) in (1..).zip(specs) {
            check_spec(number, spec)?;
            if set.rules.iter().any(|rule| rule.spec.name == spec.name) {
                return Err(RuleError::value(spec, "name", "another rule has the same name"));
            }
            let expression = parse::parse(spec)?;
            let program = check::check(spec, &expression)?;
            steps_max = steps_max.saturating_add(program.steps_max);
            if steps_max > RULES_STEPS_MAX {
                return Err(RuleError::value(
                    spec,
                    "when",
                    format!("with the rules before it, {steps_max} steps in the worst case; at most {RULES_STEPS_MAX}"),
                ));
            }
            set.asks_stream |= program.asks_stream;
            set.rules.push(Rule { spec: spec.clone(), program });
        }
        Ok(set)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// All rules, in the order of the configuration.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules of one kind, with their place among all.
    pub fn on(&self, on: On) -> impl Iterator<Item = (usize, &Rule)> {
        self.rules.iter().enumerate().filter(move |(_, rule)| rule.spec.on == on)
    }

    /// Whether any condition asks what a stream showed before: only then is that worth remembering.
    #[must_use]
    pub fn asks_stream(&self) -> bool {
        self.asks_stream
    }
}

fn check_spec(number: usize, spec: &RuleSpec) -> Result<(), RuleError> {
    let wrong = |field, reason: String| Err(RuleError::value(spec, field, reason));
    if !sensorium_wire::principal::is_plain_name(&spec.name) || spec.name.len() > RULE_NAME_BYTES_MAX {
        return Err(RuleError::Name { number, name: spec.name.chars().take(RULE_NAME_BYTES_MAX).collect() });
    }
    if spec.when.len() > RULE_BYTES_MAX {
        return wrong("when", format!("{} bytes; at most {RULE_BYTES_MAX} are taken", spec.when.len()));
    }
    if spec.text.len() > RULE_TEXT_BYTES_MAX {
        return wrong("text", format!("{} bytes; at most {RULE_TEXT_BYTES_MAX} are taken", spec.text.len()));
    }
    match spec.then {
        Then::Answer | Then::Refuse if spec.on == On::Result => {
            return wrong("then", "a job that has its result can neither be answered nor refused".to_owned());
        }
        Then::Answer | Then::Refuse if spec.for_ms.is_some() => {
            return wrong("for_ms", "only alerts and critical moments last".to_owned());
        }
        Then::Answer | Then::Refuse | Then::Alert if spec.text.is_empty() => {
            return wrong("text", "it says what is answered or told, and is empty".to_owned());
        }
        Then::Answer | Then::Refuse | Then::Alert | Then::CriticalMoment => {}
    }
    match spec.for_ms {
        Some(ms) if !(1..=RULE_FOR_MS_MAX).contains(&ms) => {
            wrong("for_ms", format!("{ms}; 1 to {RULE_FOR_MS_MAX} is expected"))
        }
        _ => Ok(()),
    }
}
