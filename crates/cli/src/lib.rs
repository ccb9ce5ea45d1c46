//! The command line: reads the environment, arguments and files, and hands what it found to the crates that do the work.
//!
//! This is the only crate that prints, reads environment variables and knows where things lie on a machine.
#![allow(clippy::print_stdout, reason = "printing is this crate's job")]

mod arguments;
mod commands;
mod error;
mod notify;
mod paths;
mod payload;
mod show;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

/// Runs the command that the process's arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_logging(&arguments);
    let paths = paths::Paths::new(&arguments.places);
    let outcome = match arguments.command {
        Command::Node(options) => commands::node::run(&paths, &options),
        Command::Worker(options) => commands::worker::run(&options),
        Command::Guard(options) => commands::guard::run(&options),
        Command::Watch(options) => commands::watch::run(&paths, &options),
        Command::Run(options) => commands::run::run(&paths, &options),
        Command::Submit(options) => commands::submit::run(&paths, &options),
        Command::Status(options) => commands::status::run(&paths, &options),
        Command::Plan(options) => commands::plan::run(&paths, &options),
        Command::Replay(options) => commands::replay::run(&options),
        Command::Load(options) => commands::load::run(&paths, &options),
        Command::Bench(options) => commands::bench::run(&paths, &options),
        Command::Simulate(options) => commands::simulate::run(&options),
        Command::Prove(options) => commands::prove::run(&options),
        Command::Topology(options) => commands::topology::run(&options),
        Command::GpuCheck(options) => commands::gpu_check::run(&paths, &options),
        Command::Hardware(options) => commands::hardware::run(&options),
        Command::Models(options) => commands::models::run(&paths, &options),
        Command::Ca(options) => commands::ca::run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sensorium: {}", error::sentence(&error));
            ExitCode::FAILURE
        }
    }
}

fn start_logging(arguments: &Arguments) {
    // Only a node (and its workers) tells what it does; the other commands print results.
    let default = match arguments.command {
        Command::Node(_) | Command::Worker(_) => "info",
        _ => "error",
    };
    let filter = arguments.log.clone().unwrap_or_else(|| default.to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(format!(
            "{filter},ort=error,quinn=error,ractor_cluster=error"
        )))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
