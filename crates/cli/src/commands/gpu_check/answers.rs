//! Whether networks answer as on the processor, and refuse what does not fit.

use std::path::Path;

use anyhow::{Context, bail};
use sensorium_device::backend::twin::TwinBackend;
use sensorium_device::backend::{Backend as _, LoadOptions, NamedTensor, TensorData};
use sensorium_device::executor;
use sensorium_models::ModelPackage;
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
/// Rows of the batches that recorded launches are compared with.
const RECORDED_ROWS: [usize; 6] = [8, 1, 3, 8, 2, 1];

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
        if package.manifest.placement.compute == Compute::Gpu {
            let (subject, reference) = backend()?;
            compared(&mut finding, &format!("{name}_recorded"), &TwinBackend::of_tensors(subject, reference), |twin| {
                recorded(&package, twin).map_err(|error| format!("{error:#}"))
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

/// A model's network with recorded launches, in batches of several sizes and with other numbers each time: what was recorded for
/// one size must not touch what belongs to another.
fn recorded(package: &ModelPackage, twin: &TwinBackend) -> anyhow::Result<()> {
    let manifest = &package.manifest;
    let outputs: Vec<&str> = manifest.outputs.iter().map(|output| output.name.as_str()).collect();
    let options = LoadOptions {
        threads: usize::from(manifest.placement.threads),
        rows_max: RECORDED_ROWS.into_iter().max().unwrap_or(1),
        compute: Compute::Gpu,
        graphs: true,
        outputs: &outputs,
        precision: package.precision,
        inputs: &manifest.inputs,
    };
    let mut network = twin.load(package.file(FileRole::Network)?, &options)?;
    let signature = network.signature().clone();
    let mut seed = 0_u32;
    for rows in RECORDED_ROWS {
        let mut inputs = Vec::with_capacity(signature.inputs.len());
        for spec in &signature.inputs {
            anyhow::ensure!(spec.dtype == Dtype::F32, "input {} is of {}", spec.name, spec.dtype.name());
            let dims: Vec<usize> = spec.dims.iter().map(|dim| dim.map_or(rows, |dim| dim as usize)).collect();
            let values = std::iter::repeat_with(|| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from(u16::try_from(seed >> 16).unwrap_or_default()) / f32::from(u16::MAX)
            });
            inputs.push((&spec.name, values.take(dims.iter().product()).collect::<Vec<_>>(), dims));
        }
        let given = |(name, values, dims)| NamedTensor { name, dims, data: TensorData::F32(values) };
        let inputs: Vec<_> =
            inputs.iter().map(|(name, values, dims)| given((name.as_str(), &values[..], &dims[..]))).collect();
        network.run(&inputs, &outputs)?;
    }
    Ok(())
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
