//! `sensorium worker`: runs one device for the node that started it.

use std::process::ExitCode;

use crate::arguments::WorkerArguments;
use crate::error::Outcome;

pub(crate) fn run(arguments: &WorkerArguments) -> Outcome {
    sensorium_device::worker::run(arguments.parent)?;
    Ok(ExitCode::SUCCESS)
}
