//! Whether networks answer as on the processor, and refuse what does not fit.

use std::path::Path;

use anyhow::{Context, bail};
use sensorium_device::backend::twin::TwinBackend;
use sensorium_device::backend::{LoadOptions, NamedTensor, TensorData};
use sensorium_device::executor;
use sensorium_models::manifest::{Compute, FileRole, Prepare};
use sensorium_wire::Modality;
use sensorium_wire::submit::PayloadKind;
use sensorium_wire::tensor::Dtype;

use super::half::{self, Question, answered};
use super::report::Finding;
use super::target::Target;
use crate::paths::Paths;

/// Made-up jobs of each model.
const RUNS: u32 = 3;

/// Every model on made-up jobs, beside the processor; models of images also on a picture, with the steps around the network
/// on the device where it does them.
pub(crate) fn run(paths: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?;
    let picture = Question::encoded(PayloadKind::EncodedImage, target.picture(paths)?);
    let mut finding = Finding::default();
    for package in target.packages(paths)? {
        let name = &package.manifest.name;
        let backend = || anyhow::Ok((device.backend(package.manifest.modality)?, device.processor()?));
        let (subject, reference) = backend()?;
        compared(&mut finding, name, &TwinBackend::of_tensors(subject, reference), |twin| {
            let mut executor = executor::load(&package, twin).map_err(|error| error.to_string())?;
            executor::warm_up(&mut *executor, &package, RUNS)
        });
        if matches!(package.manifest.prepare, Prepare::Image { .. }) {
            let (subject, reference) = backend()?;
            compared(&mut finding, &format!("{name}_picture"), &TwinBackend::new(subject, reference), |twin| {
                let mut executor = executor::load(&package, twin).map_err(|error| error.to_string())?;
                let room = package.manifest.placement.output_bytes_max as usize;
                (0..RUNS)
                    .try_for_each(|_| answered(&mut *executor, &picture, room).map(drop))
                    .map_err(|error| error.to_string())
            });
        }
        if let Err(error) = half::compare(&mut finding, &device, target, &package) {
            finding.expect(false, || format!("{name} in fp16: {error:#}"));
        }
    }
    Ok(finding)
}

fn compared(
    finding: &mut Finding,
    name: &str,
    twin: &TwinBackend,
    run: impl FnOnce(&TwinBackend) -> Result<(), String>,
) {
    let ran = run(twin);
    let differences = twin.differences();
    match ran {
        Ok(()) => {
            finding.note(format!("{name}_largest_difference"), differences.largest);
            finding.note(format!("{name}_values"), differences.values);
            finding.expect(differences.apart == 0, || {
                format!("{name}: {}", differences.first.clone().unwrap_or_default())
            });
        }
        Err(error) => finding.expect(false, || format!("{name}: {error}")),
    }
}

/// What every backend must do, on the smallest network with one input.
pub(crate) fn contract(paths: &Paths, target: &Target, _: &Path) -> anyhow::Result<Finding> {
    let device = target.open()?;
    let package = target.package(paths, "fusion")?;
    let file = package.file(FileRole::Network)?;
    let mut finding = Finding::default();
    let backend = device.backend(Modality::Fusion)?;
    for compute in [Compute::Gpu, Compute::Mixed, Compute::Cpu] {
        let mut network = backend.load(file, &LoadOptions { compute, rows_max: 4, ..LoadOptions::default() })?;
        let signature = network.signature().clone();
        let [input] = &signature.inputs[..] else { bail!("{}: one input is expected", file.display()) };
        let output = signature.outputs.first().context("an output is expected")?;
        let width = input.dims.get(1).copied().flatten().context("the input's width is expected")? as usize;
        if input.dtype != Dtype::F32 {
            bail!("{}: an input of f32 is expected", file.display());
        }
        let data = vec![0.5_f32; 3 * width];
        let (fits, too_wide) = ([3, width], [1, width + 1]);
        let given = |dims, data| NamedTensor { name: &input.name, dims, data };
        let good = given(&fits, TensorData::F32(&data));
        let wrong = [
            ("a missing input", vec![]),
            ("too few values", vec![given(&fits, TensorData::F32(&data[1..]))]),
            ("another width", vec![given(&too_wide, TensorData::F32(&data[..=width]))]),
            ("another type", vec![given(&[1, 1], TensorData::I64(&[1]))]),
        ];
        for (what, inputs) in &wrong {
            let refused = network.run(inputs, &[&output.name]).is_err();
            finding.expect(refused, || format!("{compute:?}: {what} was taken"));
            let ran = network.run(&[good], &[&output.name]);
            finding.expect(ran.is_ok(), || format!("{compute:?}: after {what} nothing runs: {:?}", ran.err()));
        }
        finding.expect(network.run(&[good], &["no such output"]).is_err(), || "an unknown output was given".to_owned());
        finding.expect(backend.check().is_ok(), || format!("{:?}", backend.check()));
    }
    finding.note("refusals", 15);
    Ok(finding)
}
