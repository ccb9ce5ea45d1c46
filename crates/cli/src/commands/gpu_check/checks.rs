//! The table of checks, in the order in which they run.

use std::path::Path;

use super::report::Finding;
use super::target::Target;
use super::{
    answers, group, illegal, kernels, killed, partition, path, rates, restart, shares, stages, standby, throughput,
    torch, upload,
};
use crate::paths::Paths;

/// One check.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// Says nothing on a processor.
    pub(crate) needs_gpu: bool,
    /// After so many seconds its process is ended.
    pub(crate) seconds_max: u64,
    /// Runs in a process of its own; may write below the folder.
    pub(crate) run: fn(&Paths, &Target, &Path) -> anyhow::Result<Finding>,
}

const fn row(
    name: &'static str,
    needs_gpu: bool,
    seconds_max: u64,
    run: fn(&Paths, &Target, &Path) -> anyhow::Result<Finding>,
    what: &'static str,
) -> Check {
    Check { name, what, needs_gpu, seconds_max, run }
}

pub(crate) const CHECKS: &[Check] = &[
    row("upload", true, 60, upload::run, "payload memory is pinned, and goes to the GPU at the speed of its link"),
    row("contract", false, 60, answers::contract, "wrong inputs are errors, and the network stays usable"),
    row("answers", false, 120, answers::run, "every model answers as on the processor, and in fp16 says the same"),
    row("kernels", true, 60, kernels::run, "every kernel gives what its twin on the processor gives"),
    row("rates", true, 60, rates::run, "how fast every kernel is, beside copies within the GPU"),
    row("restart", false, 120, restart::run, "a worker that is killed is back, and how soon"),
    row(
        "detector",
        true,
        120,
        throughput::detector,
        "the detector in batches of 1, 8 and 32, in fp32 and fp16, with and without graphs",
    ),
    row(
        "path",
        false,
        120,
        path::run,
        "pixels in payload memory to boxes, against the network alone; how busy the GPU is",
    ),
    row("together", false, 60, throughput::together, "the three modalities at once, against each alone"),
    row(
        "critical",
        false,
        60,
        throughput::critical,
        "sound beside a detector that fills the device, against sound alone",
    ),
    row("partition", true, 60, partition::run, "small work beside a full GPU, by ways of keeping them apart"),
    row("group", false, 120, group::run, "all GPUs exchange values, without one that dies or hangs, and with it again"),
    row("stages", false, 90, stages::run, "a network split by stages finds the same boxes, also when a worker dies"),
    row(
        "killed",
        false,
        150,
        killed::run,
        "a node whose worker is killed under load loses no job, and its processor does not notice",
    ),
    row("illegal", false, 90, illegal::run, "a worker that breaks its GPU under load is replaced, and no job is lost"),
    row("standby", false, 150, standby::run, "how soon a killed worker's device answers, without and with a standby"),
    row("shares", false, 60, shares::run, "how soon the dispatcher follows new shares"),
    row(
        "tensorrt",
        true,
        150,
        throughput::tensorrt,
        "the detector in batches of 32 compiled by TensorRT, answering as on the processor",
    ),
    row(
        "torch",
        false,
        230,
        torch::run,
        "an equal network with torch.compile in fp16, and the detector's rate by its rate",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_that_a_file_can_have() {
        for check in CHECKS {
            assert_eq!(CHECKS.iter().filter(|other| other.name == check.name).count(), 1);
            assert!(check.name.bytes().all(|byte| byte.is_ascii_lowercase()) && check.seconds_max > 0);
        }
    }
}
