//! Small work beside a stream that fills the GPU: with the same priority, with a higher one, and on multiprocessors of its
//! own (green contexts). Measured, not judged: nothing in the product divides a GPU.

use std::path::Path;

use anyhow::Context;
use sensorium_device::cuda::compile::NvrtcSearch;

use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?.gpu.context("only a GPU has multiprocessors")?;
    let search = NvrtcSearch { named: paths.nvrtc.clone(), cache: Some(paths.cache.clone()) };
    let ways = device.measure_partition(&search, &out.join("kernels"))?;
    let alone = ways.first().context("nothing was measured")?.p99_us;
    let mut finding = Finding::default();
    for way in &ways {
        let name = &way.name;
        if let Some(problem) = &way.problem {
            finding.note(name.clone(), problem.clone());
            continue;
        }
        finding.note(format!("{name}_p50_us"), way.p50_us);
        finding.note(format!("{name}_p99_us"), way.p99_us);
        finding.note(format!("{name}_p99_ratio"), way.p99_us / alone);
        finding.note(format!("{name}_fill_launches_per_s"), way.fill_per_s);
        finding.note(format!("{name}_multiprocessors"), format!("{} and {}", way.processors.0, way.processors.1));
    }
    Ok(finding)
}
