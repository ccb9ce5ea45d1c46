//! `sensorium bench`.

mod floor;
mod job;
mod overload;

use crate::arguments::{Bench, BenchArguments};
use crate::error::Outcome;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, arguments: &BenchArguments) -> Outcome {
    match &arguments.what {
        Bench::Job(arguments) => job::run(paths, arguments),
        Bench::Overload(arguments) => overload::run(paths, arguments),
        Bench::Floor(arguments) => floor::run(paths, arguments),
    }
}
