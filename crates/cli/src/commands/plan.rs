//! `sensorium plan`.

use std::process::ExitCode;

use serde_json::Value;

use crate::arguments::PlanArguments;
use crate::error::Outcome;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, arguments: &PlanArguments) -> Outcome {
    let plan = super::block_on(async {
        let client = paths.connect(&arguments.reach).await?;
        let plan: Value = if let Some(time) = arguments.critical_moment {
            let question = format!("critical-moment {}", time.as_millis());
            serde_json::from_str(&client.query(&question).await?)?
        } else {
            let mut status: Value = serde_json::from_str(&client.query("status").await?)?;
            status["plan"].take()
        };
        client.close().await;
        anyhow::Ok(plan)
    })??;
    if arguments.json {
        println!("{plan}");
    } else {
        lines(&plan).iter().for_each(|line| println!("{line}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The plan for people.
pub(super) fn lines(plan: &Value) -> Vec<String> {
    let none = Vec::new();
    let intensities = plan["intensity"].as_array().unwrap_or(&none).iter().map(|entry| {
        let load = entry[1].as_f64().unwrap_or(0.0);
        format!("{} {load:.2}", entry[0].as_str().unwrap_or("-"))
    });
    let intensities: Vec<String> = intensities.collect();
    let mut lines =
        vec![format!("plan {}, level {}; intensity: {}", plan["epoch"], plan["level"], intensities.join(", "))];
    for device in plan["devices"].as_array().unwrap_or(&none) {
        let share = |modality: &str| format!("{modality} {:.0} %", 100.0 * device[modality].as_f64().unwrap_or(0.0));
        let shares = ["visual", "audio", "fusion"].map(share).join(", ");
        lines.push(format!("  {:<8} {shares}", device["device"].as_str().unwrap_or("-")));
    }
    lines
}
