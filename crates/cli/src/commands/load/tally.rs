//! The account of a run: every job under exactly one heading.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use sensorium_wire::Outcome;
use serde_json::{Map, Value, json};

use super::offer::{End, Ending, Strays};
use crate::show;

/// Longest latency that is told apart, in microseconds: 2 hours.
const LATENCY_US_MAX: u64 = 7_200_000_000;
/// Most reasons that are told apart; the SDK's words may hold addresses and times.
const REASONS_MAX: usize = 64;

/// The outcomes that end a job, in the order in which they are shown.
const OUTCOMES: [Outcome; 5] =
    [Outcome::Result, Outcome::Refused, Outcome::Expired, Outcome::Failed, Outcome::Cancelled];

/// What became of the jobs of a run.
pub(super) struct Tally {
    kinds: Vec<String>,
    deadline: Duration,
    due: usize,
    total: Count,
    by_kind: Vec<Count>,
    reasons: BTreeMap<String, u64>,
    nodes: BTreeMap<String, u64>,
    latencies_us: Option<Histogram<u64>>,
    lag_us_max: u64,
    ended_us: u64,
    /// Longest time without any result, in microseconds.
    gap_us: u64,
    last_result_us: u64,
    strays: Strays,
    replaced: u32,
}

#[derive(Clone, Default)]
struct Count {
    jobs: u64,
    outcomes: [u64; OUTCOMES.len()],
    lost: u64,
    wrong: u64,
    on_time: u64,
}

impl Count {
    fn add(&mut self, ending: &Ending) {
        self.jobs += 1;
        match ending.end {
            End::Answered(outcome) => {
                if let Some(at) = OUTCOMES.iter().position(|known| *known == outcome) {
                    self.outcomes[at] += 1;
                }
            }
            End::Lost => self.lost += 1,
        }
        self.wrong += u64::from(ending.wrong);
        self.on_time += u64::from(ending.on_time);
    }

    fn of(&self, outcome: Outcome) -> u64 {
        OUTCOMES.iter().position(|known| *known == outcome).map_or(0, |at| self.outcomes[at])
    }

    /// Jobs that a node took on.
    fn accepted(&self) -> u64 {
        self.outcomes.iter().sum::<u64>() - self.of(Outcome::Refused)
    }

    fn json(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("jobs".to_owned(), json!(self.jobs));
        for (outcome, count) in OUTCOMES.iter().zip(self.outcomes) {
            object.insert(outcome.name().to_owned(), json!(count));
        }
        for (name, count) in
            [("accepted", self.accepted()), ("on_time", self.on_time), ("lost", self.lost), ("wrong", self.wrong)]
        {
            object.insert(name.to_owned(), json!(count));
        }
        object
    }
}

impl Tally {
    pub(super) fn new(kinds: Vec<String>, deadline: Duration, due: usize) -> Self {
        let by_kind = vec![Count::default(); kinds.len()];
        Self {
            kinds,
            deadline,
            due,
            total: Count::default(),
            by_kind,
            reasons: BTreeMap::new(),
            nodes: BTreeMap::new(),
            // Fails only for bounds that make no sense.
            latencies_us: Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).ok(),
            lag_us_max: 0,
            ended_us: 0,
            gap_us: 0,
            last_result_us: 0,
            strays: Strays::default(),
            replaced: 0,
        }
    }

    pub(super) fn kind(&self, part: usize) -> &str {
        self.kinds.get(part).map_or("", String::as_str)
    }

    /// Endings come in the order in which they happen.
    pub(super) fn add(&mut self, ending: &Ending) {
        self.total.add(ending);
        if let Some(count) = self.by_kind.get_mut(ending.part) {
            count.add(ending);
        }
        self.lag_us_max = self.lag_us_max.max(ending.lag_us);
        self.ended_us = self.ended_us.max(ending.ended_us);
        if ending.end == End::Answered(Outcome::Result) {
            self.gap_us = self.gap_us.max(ending.ended_us.saturating_sub(self.last_result_us));
            self.last_result_us = self.last_result_us.max(ending.ended_us);
            *self.nodes.entry(ending.node.as_str().to_owned()).or_default() += 1;
            if let Some(latencies) = &mut self.latencies_us {
                latencies.saturating_record(ending.latency_us.max(1));
            }
        } else {
            let reason = format!("{}: {}", ending.end.name(), ending.reason);
            let known = self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason);
            let key = if known { reason } else { format!("{}: other reasons", ending.end.name()) };
            *self.reasons.entry(key).or_default() += 1;
        }
    }

    /// What clients saw, at their end.
    pub(super) fn add_strays(&mut self, strays: Strays) {
        self.strays = self.strays.and(strays);
    }

    /// Connections that were lost for good and made anew.
    pub(super) fn add_replaced(&mut self, replaced: u32) {
        self.replaced += replaced;
    }

    /// Whether every job had exactly one ending, and its own.
    pub(super) fn is_sound(&self) -> bool {
        let answered: u64 = self.total.outcomes.iter().sum();
        let all = usize::try_from(answered).is_ok_and(|answered| answered == self.due);
        all && self.total.lost == 0 && self.total.wrong == 0 && self.strays.twice == 0
    }

    pub(super) fn json(&self) -> Value {
        let quantile = |q: f64| self.latencies_us.as_ref().map_or(0, |latencies| latencies.value_at_quantile(q));
        let mut object = self.total.json();
        let kinds: Map<String, Value> =
            self.kinds.iter().zip(&self.by_kind).map(|(kind, count)| (kind.clone(), count.json().into())).collect();
        for (name, value) in [
            ("due", json!(self.due)),
            ("twice", json!(self.strays.twice)),
            ("stray", json!(self.strays.stray)),
            ("ok", json!(self.is_sound())),
            ("deadline_us", json!(self.deadline.as_micros())),
            ("seconds", json!(self.seconds())),
            (
                "latency_us",
                json!({ "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "p999": quantile(0.999), "max": quantile(1.0) }),
            ),
            ("lag_us_max", json!(self.lag_us_max)),
            ("gap_us_max", json!(self.gap_us)),
            ("reasons", json!(self.reasons)),
            ("nodes", json!(self.nodes)),
            ("reconnects", json!(self.strays.reconnects)),
            ("replaced", json!(self.replaced)),
            ("kinds", kinds.into()),
        ] {
            object.insert(name.to_owned(), value);
        }
        object.into()
    }

    /// For a person.
    pub(super) fn lines(&self) -> Vec<String> {
        let total = &self.total;
        let outcomes: Vec<_> =
            OUTCOMES.iter().zip(total.outcomes).map(|(outcome, count)| format!("{count} {}", outcome.name())).collect();
        let mut lines = vec![
            format!("{} jobs in {:.1} s: {}", total.jobs, self.seconds(), outcomes.join(", ")),
            format!(
                "{} of {} accepted on time (deadline {})",
                total.on_time,
                total.accepted(),
                humantime::format_duration(self.deadline)
            ),
        ];
        if let Some(latencies) = self.latencies_us.as_ref().filter(|latencies| !latencies.is_empty()) {
            let at = |q: f64| show::duration(latencies.value_at_quantile(q).saturating_mul(1000));
            lines.push(format!("results: p50 {}, p99 {}, longest {}", at(0.5), at(0.99), at(1.0)));
        }
        let ran: Vec<_> = self.nodes.iter().map(|(node, count)| format!("{node} {count}")).collect();
        lines.push(format!("results by node: {}", if ran.is_empty() { "none".to_owned() } else { ran.join(", ") }));
        lines.extend(self.reasons.iter().map(|(reason, count)| format!("  {count} {reason}")));
        lines.push(format!(
            "connections: {} opened again, {} made anew; longest time without a result {}; behind the schedule by at most {}",
            self.strays.reconnects,
            self.replaced,
            show::duration(self.gap_us.saturating_mul(1000)),
            show::duration(self.lag_us_max.saturating_mul(1000)),
        ));
        lines.push(format!(
            "{}: {} lost, {} answered twice, {} with another job's answer",
            if self.is_sound() { "ok" } else { "NOT OK" },
            total.lost,
            self.strays.twice,
            total.wrong
        ));
        lines
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds for display")]
    fn seconds(&self) -> f64 {
        (self.ended_us as f64 / 1e4).round() / 100.0
    }
}

#[cfg(test)]
mod tests {
    use sensorium_wire::JobId;
    use sensorium_wire::ids::ShortName;

    use super::*;

    fn ending(end: End) -> Ending {
        Ending {
            job: JobId::default(),
            part: 0,
            client: 0,
            sent_us: 10,
            ended_us: 500,
            latency_us: 490,
            lag_us: 0,
            end,
            reason: "overloaded".to_owned(),
            node: ShortName::new("edge-1").unwrap(),
            on_time: end == End::Answered(Outcome::Result),
            wrong: false,
        }
    }

    fn tally(due: usize) -> Tally {
        Tally::new(vec!["identity".to_owned()], Duration::from_secs(1), due)
    }

    #[test]
    fn every_job_counts_once_and_a_whole_run_is_sound() {
        let mut tally = tally(3);
        tally.add(&ending(End::Answered(Outcome::Result)));
        tally.add(&ending(End::Answered(Outcome::Refused)));
        assert!(!tally.is_sound(), "one is missing");
        tally.add(&ending(End::Answered(Outcome::Expired)));
        assert!(tally.is_sound());
        let json = tally.json();
        assert_eq!(json["result"], 1);
        assert_eq!(json["accepted"], 2);
        assert_eq!(json["on_time"], 1);
        assert_eq!(json["reasons"]["refused: overloaded"], 1);
        assert_eq!(json["nodes"]["edge-1"], 1);
        assert_eq!(json["kinds"]["identity"]["jobs"], 3);
    }

    #[test]
    fn what_is_lost_twice_or_anothers_is_not_sound() {
        let mut lost = tally(1);
        lost.add(&ending(End::Lost));
        assert!(!lost.is_sound() && lost.json()["lost"] == 1);
        let mut twice = tally(1);
        twice.add(&ending(End::Answered(Outcome::Result)));
        twice.add_strays(Strays { twice: 1, ..Strays::default() });
        assert!(!twice.is_sound() && twice.json()["twice"] == 1);
        let mut wrong = tally(1);
        wrong.add(&Ending { wrong: true, ..ending(End::Answered(Outcome::Result)) });
        assert!(!wrong.is_sound());
        assert!(wrong.lines().last().unwrap().starts_with("NOT OK"));
    }

    #[test]
    fn reasons_are_bounded() {
        let mut tally = tally(200);
        for number in 0..200 {
            tally.add(&Ending { reason: format!("reason {number}"), ..ending(End::Lost) });
        }
        assert_eq!(tally.reasons.len(), REASONS_MAX + 1);
        assert_eq!(tally.reasons["lost: other reasons"], 136);
    }
}
