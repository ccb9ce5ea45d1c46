//! A run's report for people.

use sensorium_simulator::{Outcomes, PlanChange, QuantileReport, Report};

/// Changes of plan that are shown; `--json` has more.
const PLANS_SHOWN: usize = 12;

#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(super) fn lines(report: &Report, wall_s: f64) -> Vec<String> {
    let mut lines = vec![
        format!("{}, seed {}: {} virtual seconds in {wall_s:.2} s", report.scenario, report.seed, report.virtual_s),
        format!("{} events, {:.0} a second", report.events, report.events as f64 / wall_s),
        String::new(),
    ];
    if report.misfortune != "0,0,0,0" {
        lines.insert(1, format!("misfortune {} (tail, together, loss, slow)", report.misfortune));
    }
    let [counts, losses] = [["offered", "accepted", "refused", "on time"], ["late", "expired", "failed", "taken"]];
    let counts: String = counts.map(|name| format!("{name:>10}")).concat();
    let losses: String = losses.map(|name| format!("{name:>8}")).concat();
    lines.push(format!("{:<16}{counts}{losses}{:>10}{:>9}{:>9}{:>9}", "load", "kept", "p50", "p99", "max"));
    for load in &report.loads {
        lines.push(row(&load.load, &load.outcomes, load.on_time_of_accepted, &load.latency_us));
    }
    if report.loads.len() > 1 {
        lines.push(row("all", &report.outcomes, report.on_time_of_accepted, &report.latency_us));
    }
    lines.push(String::new());
    lines.push(format!("{:.1} results on time a second", report.goodput_per_s));
    if let Some(margin_us) = report.margin_us {
        lines.push(format!("{:.3} ms: the smallest time left of a deadline", margin_us as f64 / 1e3));
    }
    lines.push(format!("{} % median error of predicted ends", report.prediction_error_percent));
    if let Some(miss) = &report.first_miss {
        lines.push(format!("{} accepted jobs missed their deadline; the first {miss}", report.misses));
    }
    if report.missed_by_loss > 0 {
        lines.push(format!("{} accepted jobs missed theirs because a device died", report.missed_by_loss));
    }
    for (reason, count) in &report.refused_as {
        lines.push(format!("{count} refused: {reason}"));
    }
    if report.workers_lost > 0 {
        lines.push(format!("{} workers died, {} of them as hung", report.workers_lost, report.workers_replaced));
    }
    for lane in &report.utilisation {
        lines.push(format!("{:>5.1} % busy: {} {}", lane.busy * 100.0, lane.device, lane.modality.name()));
    }
    lines.extend(report.plans.iter().take(PLANS_SHOWN).map(plan));
    if report.plan_changes > PLANS_SHOWN as u64 {
        lines.push(format!("{} changes of plan in all", report.plan_changes));
    }
    lines
}

fn row(name: &str, outcomes: &Outcomes, kept: f64, latency: &QuantileReport) -> String {
    let Outcomes { offered, accepted, refused, on_time, late, expired, failed, cancelled, .. } = outcomes;
    let [p50, p99, max] = [latency.p50, latency.p99, latency.max].map(|us| crate::show::duration(us * 1000));
    let kept = format!("{:.3} %", kept * 100.0);
    format!(
        "{name:<16}{offered:>10}{accepted:>10}{refused:>10}{on_time:>10}{late:>8}{expired:>8}{failed:>8}{cancelled:>8}{kept:>10}{p50:>9}{p99:>9}{max:>9}"
    )
}

fn plan(change: &PlanChange) -> String {
    let [visual, audio, fusion] = change.shares.map(|share| f64::from(share) / 10.0);
    let PlanChange { at_ms, epoch, level, .. } = change;
    format!("{at_ms:>10.1} ms: plan {epoch}, level {level}: visual {visual} %, audio {audio} %, fusion {fusion} %")
}
