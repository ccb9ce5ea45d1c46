//! Answers and receipts for people and for programs.

use sensorium_client::Answer;
use sensorium_wire::receipt::Stage;
use sensorium_wire::result::ModelResult;
use sensorium_wire::{BodyKind, Modality};
use serde_json::{Map, Value, json};

#[expect(clippy::cast_precision_loss, reason = "microseconds for display")]
pub(crate) fn micros(ns: u64) -> f64 {
    (ns as f64 / 10.0).round() / 100.0
}

/// `{"total_us", "parts", "unaccounted_us", …}` of an answer.
pub(crate) fn receipt(answer: &Answer) -> Value {
    let receipt = &answer.header.receipt;
    let mut parts: Map<String, Value> = Stage::ALL
        .iter()
        .map(|stage| (stage.name().to_owned(), json!(micros(receipt.stage_ns[*stage as usize]))))
        .collect();
    parts.insert("network".to_owned(), json!(micros(answer.network_ns())));
    json!({
        "total_us": micros(answer.total_ns),
        "parts": parts,
        "unaccounted_us": micros(receipt.unaccounted_ns()),
        "node": receipt.node,
        "device": receipt.device,
        "lane": Modality::from_code(receipt.lane).map(Modality::name),
        "batch_size": receipt.batch_size,
        "attempt": receipt.attempt,
        "model_version": receipt.model_version,
        "variant": receipt.variant,
        "cached": receipt.cached != 0,
        "hops": answer.header.hops().iter().map(|hop| json!({ "node": hop.node, "us": micros(hop.node_ns) })).collect::<Vec<_>>(),
        "age_ms": receipt.age_ms,
    })
}

/// The whole answer as JSON.
pub(crate) fn answer(answer: &Answer) -> anyhow::Result<Value> {
    let header = &answer.header;
    let mut object = json!({ "job_id": header.job_id.to_string(), "outcome": header.outcome });
    if let Some(rejection) = answer.rejection() {
        object["reason"] = json!(rejection.reason);
        object["detail"] = json!(rejection.detail);
        object["retry_after_us"] = json!(rejection.retry_after_us);
    } else {
        object["answer"] = match header.body {
            BodyKind::Result => serde_json::to_value(answer.result()?)?,
            BodyKind::Tensor => {
                json!({ "type": "tensor", "dtype": header.dtype, "shape": header.dims(), "bytes": answer.payload.len() })
            }
            BodyKind::Text | BodyKind::Empty => json!(String::from_utf8_lossy(&answer.payload)),
        };
    }
    object["receipt"] = receipt(answer);
    Ok(object)
}

/// A result in a few lines for a person.
pub(crate) fn result_lines(result: &ModelResult) -> Vec<String> {
    match result {
        ModelResult::Detections { detections } if detections.is_empty() => vec!["nothing found".to_owned()],
        ModelResult::Detections { detections } => detections
            .iter()
            .map(|found| {
                let [x1, y1, x2, y2] = found.bbox;
                format!(
                    "{:<16} {:>3.0} %  x {x1:.0} to {x2:.0}, y {y1:.0} to {y2:.0}",
                    found.label.as_str(),
                    found.score * 100.0
                )
            })
            .collect(),
        ModelResult::Classes { classes, .. } => {
            classes.iter().map(|class| format!("{:<32} {:>3.0} %", class.label.as_str(), class.score * 100.0)).collect()
        }
        ModelResult::Speech { probabilities, window_ms, .. } => {
            let speech = probabilities.iter().filter(|probability| **probability >= 0.5).count();
            vec![format!("speech in {speech} of {} windows of {window_ms} ms", probabilities.len())]
        }
        ModelResult::Transcript { text, .. } => vec![text.clone()],
        ModelResult::Fusion { events, intensity } => events
            .iter()
            .map(|event| format!("{:<16} {:>3.0} %", event.label.as_str(), event.score * 100.0))
            .chain([format!("intensity {intensity:.2}")])
            .collect(),
        ModelResult::Pose { keypoints } => keypoints
            .iter()
            .map(|point| {
                let label = point.label.as_str();
                format!("{label:<16} {:>3.0} %  x {:.0}, y {:.0}", point.score * 100.0, point.x, point.y)
            })
            .collect(),
    }
}

/// A receipt in one line for a person: the parts that matter, largest first.
pub(crate) fn receipt_line(answer: &Answer) -> String {
    let receipt = &answer.header.receipt;
    let mut parts: Vec<(&str, u64)> =
        Stage::ALL.iter().map(|stage| (stage.name(), receipt.stage_ns[*stage as usize])).collect();
    parts.push(("network", answer.network_ns()));
    parts.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    let shown: Vec<_> = parts.iter().take(5).map(|(name, ns)| format!("{name} {}", duration(*ns))).collect();
    let place = match (receipt.cached, receipt.variant.as_str().strip_prefix("rule:")) {
        (0, None) => format!("{} {}", receipt.node, receipt.device),
        (0, Some(rule)) => format!("{} by its rule {rule}", receipt.node),
        _ => format!("{} from its cache, {} ms old", receipt.node, receipt.age_ms),
    };
    format!("{} on {}: {}", duration(answer.total_ns), place.trim(), shown.join(", "))
}

/// A duration with three significant digits.
#[expect(clippy::cast_precision_loss, reason = "for display")]
pub(crate) fn duration(ns: u64) -> String {
    let ns = ns as f64;
    match ns {
        _ if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        _ if ns < 1e8 => format!("{:.1} ms", ns / 1e6),
        _ if ns < 1e9 => format!("{:.0} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}
