//! What a run comes to.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::nanos;
use super::offer::{End, Ending};
use crate::show::{duration, micros};

/// What was offered, and what it is compared with.
pub(super) struct Setting {
    pub(super) model: String,
    /// What was sent, in words.
    pub(super) payload: String,
    pub(super) load: f64,
    pub(super) deadline: Duration,
    pub(super) seconds: f64,
    pub(super) seed: u64,
    pub(super) capacity_per_s: f64,
    pub(super) unloaded_p50_ns: u64,
}

pub(super) struct Report {
    pub(super) setting: Setting,
    /// Of every job, in the order of the schedule.
    pub(super) endings: Vec<Ending>,
    /// What one job took after the overload; `None` when it was not done.
    pub(super) fresh_ns: Option<u64>,
    /// What was last kept back of each deadline for the way.
    pub(super) transit_ns: u64,
}

impl Report {
    pub(super) fn count(&self, end: End) -> u32 {
        u32::try_from(self.endings.iter().filter(|ending| ending.end == end).count()).unwrap_or(u32::MAX)
    }

    fn offered(&self) -> u32 {
        u32::try_from(self.endings.len()).unwrap_or(u32::MAX)
    }

    /// All that were not refused.
    fn accepted(&self) -> u32 {
        self.offered() - self.count(End::Refused)
    }

    fn goodput_per_s(&self) -> f64 {
        f64::from(self.count(End::OnTime)) / self.setting.seconds
    }

    fn on_time_of_accepted(&self) -> Option<f64> {
        (self.accepted() > 0).then(|| f64::from(self.count(End::OnTime)) / f64::from(self.accepted()))
    }

    /// From the scheduled arrival to the answer.
    fn on_time_latencies(&self) -> Quantiles {
        Quantiles::new(self.endings.iter().filter(|ending| ending.end == End::OnTime).map(|ending| ending.latency_ns))
    }

    /// From the hand-over to the SDK to the refusal.
    fn refusals(&self) -> Quantiles {
        let refused = self.endings.iter().filter(|ending| ending.end == End::Refused);
        Quantiles::new(refused.map(|ending| ending.latency_ns.saturating_sub(ending.lag_ns)))
    }

    /// From the decoded header to the queued refusal, by the node's clock.
    fn refusals_in_node(&self) -> Quantiles {
        let refused = self.endings.iter().filter(|ending| ending.end == End::Refused);
        Quantiles::new(refused.map(|ending| ending.node_ns))
    }

    /// How far behind the schedule jobs were handed over.
    fn lags(&self) -> Quantiles {
        Quantiles::new(self.endings.iter().map(|ending| ending.lag_ns))
    }

    pub(super) fn json(&self) -> Value {
        let setting = &self.setting;
        let (latencies, refusals, lags) = (self.on_time_latencies(), self.refusals(), self.lags());
        let (goodput_per_s, unloaded_us) = (self.goodput_per_s(), micros(setting.unloaded_p50_ns));
        json!({
            "model": setting.model, "payload": setting.payload, "load": setting.load, "deadline_ms": micros(nanos(setting.deadline)) / 1000.0,
            "seconds": setting.seconds, "seed": setting.seed,
            "capacity_per_s": rounded(setting.capacity_per_s, 100.0), "unloaded_p50_us": unloaded_us,
            "offered": self.offered(), "accepted": self.accepted(), "refused": self.count(End::Refused),
            "on_time": self.count(End::OnTime), "late": self.count(End::Late), "expired": self.count(End::Expired),
            "failed": self.count(End::Failed), "lost": self.count(End::Lost),
            "goodput_per_s": rounded(goodput_per_s, 100.0),
            "goodput_ratio": rounded(goodput_per_s / setting.capacity_per_s, 1000.0),
            "on_time_of_accepted": self.on_time_of_accepted().map(|ratio| rounded(ratio, 10_000.0)),
            "refusal_p50_us": refusals.at(0.5).map(micros), "refusal_p99_us": refusals.at(0.99).map(micros),
            "refusal_node_p99_us": self.refusals_in_node().at(0.99).map(micros),
            "latency_p50_us": latencies.at(0.5).map(micros), "latency_p99_us": latencies.at(0.99).map(micros),
            "fresh_us": self.fresh_ns.map(micros),
            "fresh_over_unloaded_us": self.fresh_ns.map(|ns| rounded(micros(ns) - unloaded_us, 100.0)),
            "send_lag_p99_us": lags.at(0.99).map(micros), "transit_us": micros(self.transit_ns),
        })
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let setting = &self.setting;
        let shown = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), duration);
        let both =
            |quantiles: &Quantiles| format!("p50 {}, p99 {}", shown(quantiles.at(0.5)), shown(quantiles.at(0.99)));
        let (accepted, on_time) = (self.accepted(), self.count(End::OnTime));
        // Cut, not rounded: what is not all is never shown as all.
        let percent = self.on_time_of_accepted().map_or(0.0, |ratio| (ratio * 1000.0).floor() / 10.0);
        vec![
            format!(
                "{}: {} times its capacity for {} s, deadline {}, seed {}",
                setting.model,
                setting.load,
                setting.seconds,
                humantime::format_duration(setting.deadline),
                setting.seed
            ),
            format!("payload          {}", setting.payload),
            format!("capacity         {:.1} jobs a second", setting.capacity_per_s),
            format!("one job alone    p50 {}", duration(setting.unloaded_p50_ns)),
            format!("offered          {}: {} refused, {accepted} accepted", self.offered(), self.count(End::Refused)),
            format!(
                "accepted         {on_time} of {accepted} on time ({percent} %), {} late, {} expired, {} failed, {} lost",
                self.count(End::Late),
                self.count(End::Expired),
                self.count(End::Failed),
                self.count(End::Lost)
            ),
            format!(
                "goodput          {:.1} a second, {:.2} of the capacity",
                self.goodput_per_s(),
                self.goodput_per_s() / setting.capacity_per_s
            ),
            format!("on time          {} after the scheduled arrival", both(&self.on_time_latencies())),
            format!(
                "refusals         {}; in the node p99 {}",
                both(&self.refusals()),
                shown(self.refusals_in_node().at(0.99))
            ),
            format!("one job after it {}", shown(self.fresh_ns)),
            format!(
                "this client      p99 {} behind the schedule; {} kept back for the way",
                shown(self.lags().at(0.99)),
                duration(self.transit_ns)
            ),
        ]
    }
}

fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// Quantiles of durations; none of none.
struct Quantiles(Option<Histogram<u64>>);

impl Quantiles {
    fn new(values_ns: impl Iterator<Item = u64>) -> Self {
        // Up to an hour, the longest deadline there is; only what is outside is clamped.
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).ok();
        for ns in values_ns {
            if let Some(histogram) = &mut histogram {
                histogram.saturating_record(ns);
            }
        }
        Self(histogram.filter(|histogram| !histogram.is_empty()))
    }

    fn at(&self, quantile: f64) -> Option<u64> {
        Some(self.0.as_ref()?.value_at_quantile(quantile))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(endings: &[(End, u64)]) -> Report {
        let endings = endings.iter().enumerate().map(|(at, (end, latency_ms))| Ending {
            offset_us: at as u64 * 1000,
            end: *end,
            latency_ns: latency_ms * 1_000_000,
            lag_ns: 500_000,
            node_ns: 40_000,
            service_ns: None,
        });
        let setting = Setting {
            model: "nanodet".to_owned(),
            payload: "noise, 5 bytes".to_owned(),
            load: 2.0,
            deadline: Duration::from_millis(100),
            seconds: 2.0,
            seed: 1,
            capacity_per_s: 4.0,
            unloaded_p50_ns: 20_000_000,
        };
        Report { setting, endings: endings.collect(), fresh_ns: Some(25_000_000), transit_ns: 1_000_000 }
    }

    #[test]
    fn every_job_is_counted_once_and_ratios_are_of_the_right_whole() {
        let ends =
            [End::OnTime, End::OnTime, End::OnTime, End::Late, End::Expired, End::Failed, End::Lost, End::Refused];
        let json = report(&ends.map(|end| (end, 50))).json();
        assert_eq!(
            (&json["offered"], &json["accepted"], &json["refused"]),
            (&8.into(), &7.into(), &1.into()),
            "{json}"
        );
        assert_eq!((&json["goodput_per_s"], &json["goodput_ratio"]), (&1.5.into(), &0.375.into()), "{json}");
        assert_eq!(json["on_time_of_accepted"], 0.4286, "{json}");
        assert_eq!((&json["fresh_us"], &json["fresh_over_unloaded_us"]), (&25_000.0.into(), &5_000.0.into()), "{json}");
        // Refusals count from the hand-over, answers from the schedule.
        let us = |key: &str| json[key].as_f64().unwrap().round();
        assert!(
            (us("refusal_p50_us") - 49_500.0).abs() < 100.0 && (us("latency_p50_us") - 50_000.0).abs() < 100.0,
            "{json}"
        );
    }

    #[test]
    fn nothing_accepted_is_no_ratio_and_almost_all_is_not_all() {
        let json = report(&[(End::Refused, 1)]).json();
        assert!(json["on_time_of_accepted"].is_null() && json["latency_p50_us"].is_null(), "{json}");
        let mut ends = vec![(End::OnTime, 50); 9_999];
        ends.push((End::Expired, 100));
        let lines = report(&ends).lines().join("\n");
        assert!(lines.contains("9999 of 10000 on time (99.9 %)"), "{lines}");
    }
}
