//! `sensorium hardware`.

use std::process::ExitCode;

use sensorium_hardware::PlanOptions;
use serde_json::json;

use crate::arguments::HardwareArguments;
use crate::error::Outcome;

pub(crate) fn run(arguments: &HardwareArguments) -> Outcome {
    let inventory = sensorium_hardware::probe()?;
    let plan = sensorium_hardware::plan(&inventory, &PlanOptions::default());
    if arguments.json {
        println!("{}", json!({ "inventory": inventory, "plan": plan }));
    } else {
        print!("{}", sensorium_hardware::render(&inventory, &plan));
    }
    Ok(ExitCode::SUCCESS)
}
