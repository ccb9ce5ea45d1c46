//! Whether networks in half precision say what the processor says in single precision, on real pictures and sound.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use sensorium_device::executor::agreement::{Apart, HALF, agree};
use sensorium_device::executor::{self, Executor, JobAnswer, JobInput, JobOutput, Slice};
use sensorium_models::ModelPackage;
use sensorium_models::manifest::{Interpret, Precision, Prepare};
use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::{PayloadKind, PixelFormat};
use sensorium_wire::{BodyKind, Dtype, codec};

use super::report::Finding;
use super::target::{Opened, Target};

/// Rows of numbers for models that take a tensor.
const ROWS: u16 = 32;

/// What a model is asked.
pub(super) struct Question {
    payload: PayloadKind,
    dtype: Dtype,
    dims: Vec<u32>,
    bytes: Vec<u8>,
}

impl Question {
    /// A picture or a recording as a file holds it.
    pub(super) fn encoded(payload: PayloadKind, bytes: Vec<u8>) -> Self {
        Self { payload, dtype: Dtype::U8, dims: Vec::new(), bytes }
    }
}

/// Compares a model's variant, if it has one; what it has no inputs for is noted.
pub(super) fn compare(
    finding: &mut Finding,
    device: &Opened,
    target: &Target,
    package: &ModelPackage,
) -> anyhow::Result<()> {
    if !package.manifest.has(Precision::Fp16) {
        return Ok(());
    }
    let name = &package.manifest.name;
    let (half, problem) = executor::chosen(package, Precision::Fp16);
    if let Some(problem) = problem {
        finding.expect(false, || problem);
        return Ok(());
    }
    let questions = questions(package, target.reference.as_deref())?;
    if questions.is_empty() {
        finding.note(format!("{name}_fp16"), "not compared: there are no inputs for it");
        return Ok(());
    }
    let mut subject = executor::load(&half, &*device.backend(package.manifest.modality)?)?;
    let mut reference = executor::load(package, &device.processor()?)?;
    let score_min = match package.manifest.interpret {
        Interpret::DetectionsDfl { score_min, .. }
        | Interpret::DetectionRows { score_min, .. }
        | Interpret::Classes { score_min, .. } => score_min,
        _ => 0.0,
    };
    let mut apart = Apart::default();
    let room = package.manifest.placement.output_bytes_max as usize;
    for question in &questions {
        let found = ask(&mut *subject, question, room)?;
        let expected = ask(&mut *reference, question, room)?;
        match agree(&found, &expected, score_min, HALF) {
            Ok(one) => apart = apart.and(one),
            Err(error) => finding.expect(false, || format!("{name} in fp16: {error}")),
        }
    }
    finding.note(format!("{name}_fp16_score_difference"), apart.score);
    if matches!(package.manifest.interpret, Interpret::DetectionsDfl { .. } | Interpret::DetectionRows { .. }) {
        finding.note(format!("{name}_fp16_iou_least"), apart.iou_least);
    }
    finding.expect(apart.compared > 0, || format!("{name} in fp16: nothing was found that could be compared"));
    Ok(())
}

fn questions(package: &ModelPackage, reference: Option<&Path>) -> anyhow::Result<Vec<Question>> {
    let file = |name: &str, payload| {
        let Some(path) = reference.map(|folder| folder.join(name)).filter(|path| path.exists()) else {
            return Ok(Vec::new());
        };
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        anyhow::Ok(vec![Question::encoded(payload, bytes)])
    };
    match &package.manifest.prepare {
        Prepare::Image { .. } => file("street.jpg", PayloadKind::EncodedImage),
        Prepare::Windows { .. } | Prepare::Utterance { .. } => file("speech.wav", PayloadKind::EncodedAudio),
        // What it is given comes from another model.
        Prepare::Stage { .. } => Ok(Vec::new()),
        Prepare::Tensor {} => {
            let input = package.manifest.inputs.first().context("an input is expected")?;
            let dims = input.one_row();
            let count = u16::try_from(dims.iter().product::<u32>()).context("a small input is expected")?;
            let value =
                |row: u16, at: u16| f32::from(row.wrapping_mul(37).wrapping_add(at.wrapping_mul(53)) % 256) / 255.0;
            let rows = (0..ROWS).map(|row| Question {
                payload: PayloadKind::Tensor,
                dtype: Dtype::F32,
                dims: dims.clone(),
                bytes: (0..count).flat_map(|at| value(row, at).to_le_bytes()).collect(),
            });
            Ok(rows.collect())
        }
    }
}

/// What an executor answers, in at most `room` bytes.
fn ask(executor: &mut dyn Executor, question: &Question, room: usize) -> anyhow::Result<ModelResult> {
    let (answer, bytes) = answered(executor, question, room)?;
    anyhow::ensure!(answer.body == BodyKind::Result, "a result is expected");
    codec::decode(&bytes[..answer.bytes]).ok_or_else(|| anyhow!("an answer that cannot be read"))
}

/// The same, whatever it is, with the bytes that it is the beginning of.
pub(super) fn answered(
    executor: &mut dyn Executor,
    question: &Question,
    room: usize,
) -> anyhow::Result<(JobAnswer, Vec<u8>)> {
    let input = JobInput {
        payload: question.payload,
        dtype: question.dtype,
        dims: &question.dims,
        pixels: PixelFormat::Rgb24,
        sample_rate_hz: 0,
        state: &[],
        bytes: &question.bytes,
        slice: Slice::default(),
    };
    let mut bytes = vec![0; room];
    let mut output = [JobOutput::new(&mut bytes)];
    executor.run(&[input], &mut output, &|_| ());
    let [JobOutput { answer, .. }] = output;
    let answer = answer.map_err(|rejection| anyhow!("{rejection}"))?;
    Ok((answer, bytes))
}
