//! How fast the kernels of ours are, and what share of the memory's speed the preparation of images reaches.

use std::path::Path;

use anyhow::Context;
use sensorium_device::cuda::compile::NvrtcSearch;

use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

/// What is aimed at: images are prepared at this share of the rate of a copy within the GPU, in large batches.
const COPY_SHARE_AIM: f64 = 0.70;
/// Batches that count for it.
const LARGE: [&str; 2] = ["_batch_32", "_batch_64"];
const GIGA: f64 = 1e9;

pub(crate) fn run(paths: &Paths, target: &Target, out: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?.gpu.context("kernels run on a GPU")?;
    let search = NvrtcSearch { named: paths.nvrtc.clone(), cache: Some(paths.cache.clone()) };
    let rates = device.measure_kernels(&search, &out.join("kernels"))?;
    let (copy, kernels) = rates.split_first().context("nothing was measured")?;
    let mut finding = Finding::default();
    finding.note("copy_gb_per_s", copy.bytes_per_second() / GIGA);
    let mut least = f64::INFINITY;
    for rate in kernels {
        finding.note(format!("{}_us", rate.name), rate.us);
        finding.note(format!("{}_per_s", rate.name), rate.items_per_second());
        if rate.bytes > 0 {
            let share = rate.bytes_per_second() / copy.bytes_per_second();
            finding.note(format!("{}_gb_per_s", rate.name), rate.bytes_per_second() / GIGA);
            finding.note(format!("{}_share_of_copy", rate.name), share);
            if LARGE.iter().any(|batch| rate.name.ends_with(batch)) {
                least = least.min(share);
            }
        }
    }
    finding.note("prepare_aim", format!("{} ({least:.2} of {COPY_SHARE_AIM})", met(least)));
    Ok(finding)
}

fn met(share: f64) -> &'static str {
    if share.is_finite() && share >= COPY_SHARE_AIM { "met" } else { "not met" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aim_is_met_or_not() {
        assert_eq!(
            (met(0.70), met(0.699), met(f64::INFINITY), met(f64::NAN)),
            ("met", "not met", "not met", "not met")
        );
    }
}
