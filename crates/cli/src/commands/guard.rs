//! `sensorium guard`: runs a program for as long as the node that started it says.

use std::path::Path;
use std::process::ExitCode;

use crate::arguments::GuardArguments;
use crate::error::Outcome;

pub(crate) fn run(arguments: &GuardArguments) -> Outcome {
    let Some((program, rest)) = arguments.command.split_first() else { anyhow::bail!("a program is expected") };
    Ok(ExitCode::from(sensorium_node::guard::run(Path::new(program), rest)?))
}
