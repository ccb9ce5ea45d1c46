//! `sensorium status`.

use std::process::ExitCode;

use serde_json::Value;

use crate::arguments::StatusArguments;
use crate::error::Outcome;
use crate::paths::Paths;

/// Most kinds of operator that are named in a line; JSON has more.
const KINDS_SHOWN: usize = 4;

pub(crate) fn run(paths: &Paths, arguments: &StatusArguments) -> Outcome {
    let text = super::block_on(async {
        let client = paths.connect(&arguments.reach).await?;
        let text = client.query("status").await?;
        client.close().await;
        anyhow::Ok(text)
    })??;
    if arguments.json {
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let status: Value = serde_json::from_str(&text)?;
    print(&status);
    Ok(ExitCode::SUCCESS)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn print(status: &Value) {
    let engine = &status["engine"];
    let seconds = status["uptime_ms"].as_u64().unwrap_or(0) / 1000;
    println!(
        "node {} (process {}), up {seconds} s, api {}, peer {}, {} sessions",
        text(status, "name"),
        status["pid"],
        text(status, "api"),
        text(status, "peer"),
        status["sessions"]
    );
    println!(
        "jobs: {} in flight, {} results, {} refused, {} expired, {} failed, {} cancelled",
        engine["jobs_in_flight"],
        engine["results"],
        engine["refused"],
        engine["expired"],
        engine["failed"],
        engine["cancelled"]
    );
    let mib = |key: &str| engine[key].as_u64().unwrap_or(0) >> 20;
    println!("payload memory: {} of {} MiB out", mib("slab_bytes_out"), mib("slab_bytes"));
    super::plan::lines(&status["plan"]).iter().for_each(|line| println!("{line}"));
    for (model, devices) in status["pins"].as_object().into_iter().flatten() {
        let devices: Vec<_> = devices.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        println!("{model} is pinned to {}", devices.join(", "));
    }
    neighbours(&status["cluster"]);
    sources(&status["sources"]);
    let none = Vec::new();
    for alert in status["alerts"].as_array().unwrap_or(&none) {
        println!("ALERT: {}", alert.as_str().unwrap_or("-"));
    }
    for rule in status["rules"].as_array().unwrap_or(&none) {
        println!(
            "rule {:<16} on {} {}: held {} times, failed {} times, 99 of 100 within {} µs",
            text(rule, "name"),
            text(rule, "on"),
            text(rule, "then"),
            rule["fired"],
            rule["failed"],
            rule["p99_us"]
        );
    }
    let cache = &status["cache"];
    if cache["hits"].as_u64() > Some(0) || cache["misses"].as_u64() > Some(0) {
        let mib = |key: &str| cache[key].as_u64().unwrap_or(0) >> 20;
        println!(
            "cache: {} hits, {} misses, {} answers, {} of {} MiB",
            cache["hits"],
            cache["misses"],
            cache["entries"],
            mib("bytes"),
            mib("bytes_max")
        );
    }
    groups(&status["groups"]);
    for device in status["devices"].as_array().unwrap_or(&none) {
        println!(
            "{} {}: worker {}, {} restarts{}",
            text(device, "name"),
            text(device, "state"),
            device["worker_pid"],
            device["restarts"],
            device["last_exit"].as_str().map_or_else(String::new, |exit| format!(", last: {exit}"))
        );
        gpu(&device["gpu"]).iter().for_each(|line| println!("{line}"));
        standby(&device["standby"]).iter().for_each(|line| println!("{line}"));
        for lane in engine["lanes"].as_array().unwrap_or(&none) {
            if lane["device"] != device["name"] {
                continue;
            }
            println!(
                "  {:<7} {} queued, {} running, {} done",
                text(lane, "modality"),
                lane["queued_jobs"],
                lane["committed_jobs"],
                lane["completed_jobs"]
            );
            for model in lane["models"].as_array().unwrap_or(&none) {
                println!(
                    "    {:<12} v{} {:<4}  {:>7} µs a job, {:>4} MiB, loaded in {} ms{}",
                    text(model, "name"),
                    model["version"],
                    text(model, "variant"),
                    model["service_p50_us"],
                    model["arena_bytes"].as_u64().unwrap_or(0) >> 20,
                    model["load_ms"],
                    operators(&model["placement"]).map_or_else(String::new, |words| format!(", {words}"))
                );
            }
        }
        for note in device["notes"].as_array().unwrap_or(&none) {
            println!("    {}", note.as_str().unwrap_or("-"));
        }
        for broken in device["broken_models"].as_array().unwrap_or(&none) {
            println!("    {} not loaded: {}", broken[0].as_str().unwrap_or("-"), broken[1].as_str().unwrap_or("-"));
        }
    }
}

/// The worker that waits to take over; nothing where none is wanted.
fn standby(standby: &Value) -> Option<String> {
    let state = standby.as_object()?.get("state")?.as_str()?;
    let pid = standby["pid"].as_u64().map_or_else(String::new, |pid| format!(": worker {pid}"));
    let note = standby["note"].as_str().map_or_else(String::new, |note| format!("; {note}"));
    Some(format!(
        "  standby {state}{pid}, took over {} times, {} restarts{note}",
        standby["promotions"], standby["restarts"]
    ))
}

/// Who computes a model's operators; with names only where some of a GPU's model are left to the processor.
fn operators(placement: &Value) -> Option<String> {
    let operators = placement["operators"].as_object().filter(|operators| !operators.is_empty())?;
    let short = |name: &str| name.trim_end_matches("ExecutionProvider").to_owned();
    let counts: Vec<_> = operators.iter().map(|(name, count)| format!("{count} on {}", short(name))).collect();
    let mut words = format!("operators: {}", counts.join(", "));
    if operators.len() > 1 {
        let kinds: Vec<_> = placement["off_gpu"].as_array()?.iter().collect();
        let name = |kind: &&Value| format!("{} × {}", kind[0].as_str().unwrap_or("-"), kind[1]);
        let named: Vec<_> = kinds.iter().take(KINDS_SHOWN).map(name).collect();
        let more = if kinds.len() > KINDS_SHOWN { ", …" } else { "" };
        words = format!("{words} ({}{more})", named.join(", "));
    }
    Some(words)
}

/// What a GPU said a moment ago; nothing for processors.
fn gpu(sample: &Value) -> Option<String> {
    let sample = sample.as_object()?;
    let number = |key: &str| sample.get(key).and_then(Value::as_u64);
    let told =
        |number: Option<u64>, unit: &str| number.map_or_else(|| "?".to_owned(), |number| format!("{number}{unit}"));
    let slowed: Vec<_> = sample.get("slowed_by")?.as_array()?.iter().filter_map(Value::as_str).collect();
    Some(format!(
        "  GPU     {} busy, {} of {} MiB, {}, {}, {} uncorrectable errors{}",
        told(number("busy_percent"), " %"),
        told(number("memory_used_bytes").map(|bytes| bytes >> 20), ""),
        told(number("memory_bytes").map(|bytes| bytes >> 20), ""),
        told(number("temperature_c"), " °C"),
        told(number("power_mw").map(|power| power / 1000), " W"),
        told(number("uncorrectable_errors"), ""),
        if slowed.is_empty() { String::new() } else { format!(", slowed by {}", slowed.join(", ")) }
    ))
}

fn groups(groups: &Value) {
    for group in groups.as_array().into_iter().flatten() {
        let names = |key: &str| {
            let names: Vec<_> = group[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            names.join(", ")
        };
        let told = |start: &str, names: String| if names.is_empty() { names } else { format!(", {start} {names}") };
        println!(
            "group {} {} over {}: {} in generation {}, exercised {} times{}{}{}{}",
            text(group, "name"),
            text(group, "state"),
            text(group, "transport"),
            names("devices"),
            group["generation"],
            group["pulses"],
            group["pulse"]["all_gather_us"].as_f64().map_or_else(String::new, |us| format!(", {us:.0} µs")),
            told("without a worker:", names("missing")),
            told("without an answer:", names("silent")),
            group["last_reason"].as_str().map_or_else(String::new, |reason| format!(", last: {reason}")),
        );
    }
}

fn sources(sources: &Value) {
    for source in sources.as_array().into_iter().flatten() {
        let reason = text(source, "reason");
        println!(
            "source {} {}{}: {} frames{}, opened again {} times, {} watchers{}",
            text(source, "name"),
            text(source, "standing"),
            source["owner"]
                .as_str()
                .map_or_else(String::new, |owner| format!(" by {owner} (epoch {})", source["epoch"])),
            source["frames"],
            source["last_ms"].as_u64().map_or_else(String::new, |ms| format!(", the last {ms} ms ago")),
            source["reopened"],
            source["watchers"],
            if reason.is_empty() { String::new() } else { format!(": {reason}") },
        );
    }
}

/// The cluster as the node sees it; nothing for one that is alone.
fn neighbours(cluster: &Value) {
    let Some(neighbours) = cluster["neighbours"].as_array() else { return };
    println!(
        "{} of cluster {} ({}): {} jobs away, {} handed on, {} given to another node, {} lost",
        text(cluster, "tier"),
        text(cluster, "cluster"),
        text(cluster, "region"),
        cluster["away"],
        cluster["forwarded"],
        cluster["rerouted"],
        cluster["lost"],
    );
    for neighbour in neighbours {
        let reason = text(neighbour, "reason");
        println!(
            "  {:<16} {:<8} {:<8} {:>6} µs away, {} models in reach{}{}",
            text(neighbour, "name"),
            text(neighbour, "tier"),
            text(neighbour, "standing"),
            neighbour["round_trip_us"],
            neighbour["models"],
            if neighbour["parent"] == true { ", parent" } else { "" },
            if reason.is_empty() || reason == "-" { String::new() } else { format!(": {reason}") },
        );
        for device in cluster["seen"][text(neighbour, "name")]["devices"].as_array().into_iter().flatten() {
            println!("    {} {}, {} restarts", text(device, "name"), text(device, "state"), device["restarts"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_standby_is_a_line_and_its_absence_is_none() {
        assert_eq!(standby(&Value::Null), None);
        let ready = json!({"state": "ready", "pid": 7, "promotions": 1, "restarts": 0, "note": null});
        assert_eq!(standby(&ready).as_deref(), Some("  standby ready: worker 7, took over 1 times, 0 restarts"));
        let none = json!({"state": "none", "pid": null, "promotions": 0, "restarts": 0, "note": "no room"});
        assert_eq!(standby(&none).as_deref(), Some("  standby none, took over 0 times, 0 restarts; no room"));
    }

    #[test]
    fn operators_are_named_where_they_are_in_two_places() {
        assert_eq!(operators(&json!({"operators": {}, "off_gpu": []})), None);
        let one = json!({"operators": {"CPUExecutionProvider": 9}, "off_gpu": [["Conv", 9]]});
        assert_eq!(operators(&one).as_deref(), Some("operators: 9 on CPU"));
        let kinds = json!([["If", 5], ["Loop", 4], ["Cast", 3], ["Slice", 2], ["Shape", 1]]);
        let two = json!({"operators": {"CPUExecutionProvider": 15, "CUDAExecutionProvider": 80}, "off_gpu": kinds});
        let words = operators(&two).unwrap();
        assert_eq!(words, "operators: 15 on CPU, 80 on CUDA (If × 5, Loop × 4, Cast × 3, Slice × 2, …)");
    }
}
