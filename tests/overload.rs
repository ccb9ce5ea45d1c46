//! Overload from outside: what is refused is refused at once, and what is accepted is not late and not lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use serde_json::Value;
use support::{Node, complaint};

#[test]
fn three_times_the_capacity_is_refused_and_nothing_is_late_or_lost() {
    let node = Node::start("load = [\"nanodet\"]\n");
    let folder = node.data.path().join("record/of/it");
    // A deadline far above what a job takes, so that a slow machine does not make the test.
    let arguments = ["bench", "overload", "--model", "nanodet", "--load", "3", "--seconds", "2", "--deadline", "800ms"];
    let output = node.command(&arguments).arg("--json").arg("--record").arg(&folder).output().unwrap();
    assert!(output.status.success(), "{}", complaint(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |key: &str| report[key].as_u64().unwrap_or_else(|| panic!("no {key} in {report}"));
    assert_eq!((count("lost"), count("late"), count("failed")), (0, 0, 0), "{report}");
    assert_eq!(count("accepted") + count("refused"), count("offered"), "{report}");
    assert_eq!(count("accepted"), count("on_time") + count("expired"), "{report}");
    assert!(count("refused") > 0 && count("on_time") > 0, "{report}");
    assert!(report["fresh_us"].is_number() && report["capacity_per_s"].as_f64().unwrap() > 0.0, "{report}");

    let rows = |name: &str| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let mut lines = text.lines().map(str::to_owned);
        (lines.next().unwrap(), lines.collect::<Vec<_>>())
    };
    let (heading, arrivals) = rows("arrivals.csv");
    assert_eq!((heading.as_str(), arrivals.len() as u64), ("offset_us", count("offered")));
    let offsets: Vec<u64> = arrivals.iter().map(|row| row.parse().unwrap()).collect();
    assert!(offsets.is_sorted() && offsets.iter().all(|offset_us| *offset_us < 2_000_000));
    let (heading, services) = rows("service.csv");
    assert_eq!((heading.as_str(), services.len() as u64), ("service_us", count("on_time")));
    assert!(services.iter().all(|row| row.parse::<u64>().unwrap() > 0));
    let (heading, latencies) = rows("latency.csv");
    assert_eq!(
        (heading.as_str(), latencies.len() as u64),
        ("scheduled_offset_us,outcome,latency_us", count("offered"))
    );
    let refused = latencies.iter().filter(|row| row.split(',').nth(1) == Some("refused")).count();
    assert_eq!(refused as u64, count("refused"));

    // A person's table, and what cannot be measured.
    let arguments = ["bench", "overload", "--model", "nanodet", "--seconds", "0.5", "--deadline", "800ms"];
    let shown = node.run(&arguments);
    assert!(shown.status.success(), "{}", complaint(&shown));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in ["capacity", "accepted", "refused", "goodput", " on time ("] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
    let short = node.run(&["bench", "overload", "--model", "nanodet", "--deadline", "1ms"]);
    let text = complaint(&short);
    assert!(!short.status.success() && text.contains("--deadline 1ms") && text.contains("try --deadline"), "{text}");
    let unknown = node.run(&["bench", "overload", "--model", "nanodte"]);
    let text = complaint(&unknown);
    assert!(!unknown.status.success() && text.contains("nanodte") && text.contains("\"nanodet\""), "{text}");
    node.proves_healthy();
}
