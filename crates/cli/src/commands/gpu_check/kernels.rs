//! Whether the kernels of ours give what their twins on the processor give.

use std::path::Path;

use anyhow::Context;
use sensorium_device::backend::cuda::KernelSetup;

use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?.gpu.context("kernels run on a GPU")?;
    // Compiled anew: that is part of the check.
    let setup = KernelSetup { folder: out.join("kernels"), ..paths.kernels() };
    let results = device.check_kernels(&setup)?;
    let mut finding = Finding::default();
    finding.note("comparisons", results.len());
    finding.expect(!results.is_empty(), || "nothing was compared".to_owned());
    for result in results {
        finding.note(format!("{}_worst", result.name), result.worst);
        let problem = result.problem.as_deref().unwrap_or("");
        finding.expect(result.passed(), || {
            format!("{}: {} where at most {} is expected {problem}", result.name, result.worst, result.bound)
        });
    }
    Ok(finding)
}
