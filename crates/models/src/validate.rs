//! The rules of a manifest that its types do not hold. Checked once, when it is read.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Component, Path};

use sensorium_wire::limits;

use crate::manifest::{
    Compute, Dim, FileEntry, Interpret, Layout, Manifest, Placement, Precision, Prepare, TensorEntry,
};

/// Most rows of a batch whose launches are recorded.
const GRAPH_ROWS_MAX: u16 = 32;

/// Field and what is wrong with it.
type Fault = (String, String);

/// The first rule that `manifest` breaks.
pub(crate) fn validate(manifest: &Manifest) -> Result<(), Fault> {
    identity(manifest)?;
    for (index, entry) in manifest.files.iter().enumerate() {
        file("file", index, entry, &manifest.files[..index])?;
    }
    variants(manifest)?;
    placement(&manifest.placement)?;
    prepare(&manifest.prepare)?;
    interpret(&manifest.interpret)?;
    together(manifest)?;
    for (section, entries) in [("input", &manifest.inputs), ("output", &manifest.outputs)] {
        for (index, entry) in entries.iter().enumerate() {
            tensor(section, index, entry, &entries[..index], manifest)?;
        }
    }
    recordable(manifest)?;
    image_input(manifest)
}

fn fault<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, Fault> {
    Err((field.into(), problem.into()))
}

fn within<T: PartialOrd + Display>(field: &str, value: T, range: RangeInclusive<T>) -> Result<(), Fault> {
    if range.contains(&value) {
        return Ok(());
    }
    fault(field, format!("{value}; expected {} to {}", range.start(), range.end()))
}

fn identity(manifest: &Manifest) -> Result<(), Fault> {
    let name = &manifest.name;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if !(1..=31).contains(&name.len()) || !name.bytes().all(plain) {
        return fault("name", format!("{name:?}; expected 1 to 31 of a-z, 0-9, - and _"));
    }
    within("version", manifest.version, 1..=u32::MAX)?;
    for (field, text) in
        [("description", &manifest.description), ("source", &manifest.source), ("licence", &manifest.licence)]
    {
        if text.trim().is_empty() || text.len() > 1024 {
            return fault(field, format!("{} bytes; expected a text of 1 to 1024", text.len()));
        }
    }
    within("file", manifest.files.len(), 0..=8)?;
    within("input", manifest.inputs.len(), 0..=64)?;
    within("output", manifest.outputs.len(), 0..=64)
}

/// Each variant has exactly the model's networks, in files of their own.
fn variants(manifest: &Manifest) -> Result<(), Fault> {
    for (index, variant) in manifest.variants.iter().enumerate() {
        let name = variant.name.name();
        let section = format!("variant[{index}]");
        if variant.name == Precision::Fp32 {
            return fault(format!("{section}.name"), "fp32, which the model's own files are");
        }
        if manifest.variants[..index].iter().any(|other| other.name == variant.name) {
            return fault(format!("{section}.name"), format!("a second {name} variant"));
        }
        within(&format!("{section}.file"), variant.files.len(), 1..=8)?;
        for (at, entry) in variant.files.iter().enumerate() {
            file(&format!("{section}.file"), at, entry, &variant.files[..at])?;
            let others = manifest.files.iter().chain(manifest.variants[..index].iter().flat_map(|other| &other.files));
            if others.into_iter().any(|other| other.path == entry.path) {
                let path = entry.path.display();
                return fault(format!("{section}.file[{at}].path"), format!("{path} is listed twice"));
            }
        }
        let roles = |files: &[FileEntry]| -> BTreeSet<_> {
            files.iter().map(|entry| entry.role).filter(|role| role.is_network()).collect()
        };
        if variant.files.iter().any(|entry| !entry.role.is_network()) || roles(&variant.files) != roles(&manifest.files)
        {
            let expected: Vec<_> = roles(&manifest.files).into_iter().map(|role| role.name()).collect();
            let expected = if expected.is_empty() { "no variant".to_owned() } else { expected.join(", ") };
            return fault(
                format!("{section}.file"),
                format!("expected a file for each network of the model: {expected}"),
            );
        }
    }
    let wanted = manifest.placement.gpu_precision;
    if !manifest.has(wanted) {
        let name = wanted.name();
        return fault("placement.gpu_precision", format!("{name}; there is no [[variant]] with name = \"{name}\""));
    }
    Ok(())
}

fn file(section: &str, index: usize, entry: &FileEntry, before: &[FileEntry]) -> Result<(), Fault> {
    let mut components = Path::new(&entry.path).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    let Some(text) = entry.path.to_str().filter(|text| plain && !text.contains(['/', '\\'])) else {
        return fault(format!("{section}[{index}].path"), format!("{:?}; expected a plain file name", entry.path));
    };
    if before.iter().any(|other| other.role == entry.role) {
        return fault(format!("{section}[{index}].role"), format!("a second {} file", entry.role));
    }
    if before.iter().any(|other| other.path == entry.path) {
        return fault(format!("{section}[{index}].path"), format!("{text} is listed twice"));
    }
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if entry.sha256.len() != 64 || !entry.sha256.bytes().all(digit) {
        return fault(
            format!("{section}[{index}].sha256"),
            format!("{:?}; expected 64 lower-case hexadecimal digits", entry.sha256),
        );
    }
    Ok(())
}

fn placement(placement: &Placement) -> Result<(), Fault> {
    let kinds: BTreeSet<_> = placement.devices.iter().map(|kind| *kind as u8).collect();
    if kinds.is_empty() || kinds.len() != placement.devices.len() {
        return fault("placement.devices", "expected one or more kinds of device, each once");
    }
    within("placement.batch_max", placement.batch_max, 1..=64)?;
    within("placement.run_ms_max", placement.run_ms_max, 1..=600_000)?;
    let bytes = u64::from(placement.output_bytes_max);
    within("placement.output_bytes_max", bytes, 0..=limits::PAYLOAD_BYTES_MAX)?;
    within("placement.threads", placement.threads, 1..=64)?;
    if placement.graphs && placement.compute != Compute::Gpu {
        return fault("placement.graphs", "true; expected false, or compute = \"gpu\" with it");
    }
    if placement.graphs && placement.batch_max > GRAPH_ROWS_MAX {
        let batch_max = placement.batch_max;
        return fault(
            "placement.graphs",
            format!("true with a batch_max of {batch_max}; at most {GRAPH_ROWS_MAX} work"),
        );
    }
    let pinned: BTreeSet<_> = placement.pin.iter().collect();
    if pinned.len() != placement.pin.len() || placement.pin.iter().any(|name| name.is_empty() || name.len() > 16) {
        return fault("placement.pin", "expected different names of devices, 1 to 16 bytes each");
    }
    match placement.slice_ms {
        0 | 5..=1000 => Ok(()),
        other => fault("placement.slice_ms", format!("{other}; expected 0 (all in one go) or 5 to 1000")),
    }
}

fn prepare(prepare: &Prepare) -> Result<(), Fault> {
    match prepare {
        Prepare::Image { width, height, mean, std, fit: _, channels: _, layout: _ } => {
            within("prepare.width", *width, 1..=4096)?;
            within("prepare.height", *height, 1..=4096)?;
            if !mean.iter().all(|value| value.is_finite()) {
                return fault("prepare.mean", format!("{mean:?}; expected finite numbers"));
            }
            if !std.iter().all(|value| value.is_normal()) {
                return fault("prepare.std", format!("{std:?}; expected finite numbers other than 0"));
            }
            Ok(())
        }
        Prepare::Windows { sample_rate_hz, window_samples, hop_samples, context_samples } => {
            within("prepare.sample_rate_hz", *sample_rate_hz, 1_000..=384_000)?;
            within("prepare.window_samples", *window_samples, 1..=1 << 20)?;
            within("prepare.hop_samples", *hop_samples, 1..=*window_samples)?;
            within("prepare.context_samples", *context_samples, 0..=*window_samples)
        }
        Prepare::Utterance { sample_rate_hz, seconds_max } => {
            within("prepare.sample_rate_hz", *sample_rate_hz, 1_000..=384_000)?;
            within("prepare.seconds_max", *seconds_max, 1..=600)
        }
        Prepare::Stage { width, height } => {
            within("prepare.width", *width, 0..=4096)?;
            within("prepare.height", *height, 0..=4096)?;
            if (*width == 0) != (*height == 0) {
                return fault("prepare.height", format!("{height} with a width of {width}; expected both, or neither"));
            }
            Ok(())
        }
        Prepare::Tensor {} => Ok(()),
    }
}

fn interpret(interpret: &Interpret) -> Result<(), Fault> {
    let items = 1..=u32::try_from(limits::RESULT_ITEMS_MAX).unwrap_or(u32::MAX);
    let detections = |score_min: f32, iou_max: f32, detections_max: u32| {
        within("interpret.score_min", score_min, 0.0..=1.0)?;
        within("interpret.iou_max", iou_max, 0.0..=1.0)?;
        within("interpret.detections_max", detections_max, items.clone())
    };
    match interpret {
        Interpret::DetectionsDfl { strides, bins, score_min, iou_max, detections_max } => {
            within("interpret.strides", strides.len(), 1..=8)?;
            if let Some(stride) = strides.iter().find(|stride| !(1..=1024).contains(*stride)) {
                return fault("interpret.strides", format!("{stride}; expected 1 to 1024"));
            }
            within("interpret.bins", *bins, 2..=64)?;
            detections(*score_min, *iou_max, *detections_max)
        }
        Interpret::DetectionRows { score_min, iou_max, detections_max } => {
            detections(*score_min, *iou_max, *detections_max)
        }
        Interpret::Classes { score_min, classes_max } => {
            within("interpret.score_min", *score_min, 0.0..=1.0)?;
            within("interpret.classes_max", *classes_max, items)
        }
        Interpret::Transcript {
            tokens_per_second_max,
            tokens_min,
            layers,
            heads,
            head_size,
            start_token: _,
            end_token: _,
        } => {
            within("interpret.tokens_per_second_max", *tokens_per_second_max, 0.1..=100.0)?;
            within("interpret.tokens_min", *tokens_min, 1..=4096)?;
            within("interpret.layers", *layers, 1..=64)?;
            within("interpret.heads", *heads, 1..=64)?;
            within("interpret.head_size", *head_size, 1..=512)
        }
        Interpret::Fusion { events } => {
            within("interpret.events", events.len(), 1..=256)?;
            let names: BTreeSet<_> = events.iter().collect();
            if names.len() != events.len() || events.iter().any(|name| name.is_empty() || name.len() > 32) {
                return fault("interpret.events", "expected different names of 1 to 32 bytes");
            }
            Ok(())
        }
        Interpret::Speech {}
        | Interpret::Pose {}
        | Interpret::Tensor {}
        | Interpret::Stage {}
        | Interpret::Identity { .. } => Ok(()),
    }
}

/// Rules that tie the steps, the files and the tensors to each other.
fn together(manifest: &Manifest) -> Result<(), Fault> {
    let step = manifest.interpret.name();
    let prepares: &[&str] = match manifest.interpret {
        Interpret::DetectionsDfl { .. } | Interpret::DetectionRows { .. } | Interpret::Pose {} => &["image", "stage"],
        Interpret::Classes { .. } => &["windows", "image", "stage"],
        Interpret::Speech {} => &["windows"],
        Interpret::Transcript { .. } => &["utterance"],
        Interpret::Fusion { .. } => &["tensor", "stage"],
        Interpret::Identity { .. } => &["tensor"],
        Interpret::Tensor {} | Interpret::Stage {} => &["tensor", "image", "windows", "stage"],
    };
    if !prepares.contains(&manifest.prepare.name()) {
        let name = manifest.prepare.name();
        return fault("prepare.step", format!("{name}; interpret step {step} works with {}", prepares.join(" or ")));
    }
    let places = matches!(manifest.interpret, Interpret::DetectionsDfl { .. } | Interpret::DetectionRows { .. })
        || matches!(manifest.interpret, Interpret::Pose {});
    if places && manifest.prepare.image_size().is_none() {
        return fault("prepare.width", format!("0; interpret step {step} needs the size of the row's image"));
    }
    match (&manifest.next, &manifest.interpret) {
        (None, Interpret::Stage {}) => {
            return fault("next", "expected the model that goes on, with interpret step stage");
        }
        (Some(next), Interpret::Stage {}) if *next == manifest.name => {
            return fault("next", format!("{next}, which is this model"));
        }
        (Some(_), Interpret::Stage {}) | (None, _) => {}
        (Some(next), _) => {
            return fault("next", format!("{next}; interpret step {step} ends here, expected interpret step stage"));
        }
    }
    let slice_ms = manifest.placement.slice_ms;
    if slice_ms != 0 && !manifest.interpret.sliceable() {
        return fault(
            "placement.slice_ms",
            format!("{slice_ms}; jobs of interpret step {step} cannot be cut into slices; expected 0"),
        );
    }
    for role in manifest.interpret.roles() {
        if !manifest.files.iter().any(|entry| entry.role == *role) {
            return fault("file", format!("no {role} file; interpret step {step} needs one"));
        }
    }
    let surplus = |entry: &&FileEntry| {
        let needed = manifest.interpret.roles();
        (entry.role.is_network() || needed.is_empty()) && !needed.contains(&entry.role)
    };
    if let Some(entry) = manifest.files.iter().find(surplus) {
        return fault("file", format!("a {} file; interpret step {step} has no use for it", entry.role));
    }
    let networks = manifest.interpret.roles().iter().filter(|role| role.is_network());
    for role in networks {
        for (section, entries) in [("input", &manifest.inputs), ("output", &manifest.outputs)] {
            if !entries.iter().any(|entry| entry.of == *role) {
                return fault(section, format!("none of the {role} network; at least one is needed"));
            }
        }
    }
    let wanted = match manifest.interpret {
        Interpret::DetectionsDfl { ref strides, .. } => 2 * strides.len(),
        Interpret::Speech {} | Interpret::Fusion { .. } => 2,
        _ => 0,
    };
    let outputs = manifest.outputs.len();
    if outputs < wanted {
        return fault("output", format!("{outputs} outputs; interpret step {step} needs {wanted}"));
    }
    Ok(())
}

fn tensor(
    section: &str,
    index: usize,
    entry: &TensorEntry,
    before: &[TensorEntry],
    manifest: &Manifest,
) -> Result<(), Fault> {
    let field = |part: &str| format!("{section}[{index}].{part}");
    if entry.name.is_empty() || entry.name.len() > 256 {
        return fault(field("name"), format!("{} bytes; expected 1 to 256", entry.name.len()));
    }
    if before.iter().any(|other| other.of == entry.of && other.name == entry.name) {
        return fault(field("name"), format!("{} is listed twice", entry.name));
    }
    if !entry.of.is_network() || !manifest.files.iter().any(|file| file.role == entry.of) {
        return fault(field("of"), format!("{}; expected the role of a network that the manifest lists", entry.of));
    }
    if entry.shape.len() > limits::RANK_MAX {
        return fault(field("shape"), format!("rank {}; at most {}", entry.shape.len(), limits::RANK_MAX));
    }
    for dim in &entry.shape {
        match dim {
            Dim::Fixed(0) => return fault(field("shape"), "a dimension of 0; expected 1 or more, or a name"),
            Dim::Named(name) if name.is_empty() => return fault(field("shape"), "a dimension without a name"),
            Dim::Fixed(_) | Dim::Named(_) => {}
        }
    }
    let batched = section == "input" && manifest.placement.batch_max > 1;
    if let (true, Some(Dim::Fixed(size))) = (batched && before.is_empty(), entry.shape.first()) {
        let batch_max = manifest.placement.batch_max;
        return fault(
            "placement.batch_max",
            format!("{batch_max}; the first dimension of input {} is always {size}, so only 1 can run", entry.name),
        );
    }
    Ok(())
}

/// Recorded launches have one shape for each batch size.
fn recordable(manifest: &Manifest) -> Result<(), Fault> {
    if !manifest.placement.graphs {
        return Ok(());
    }
    for (index, entry) in manifest.inputs.iter().enumerate() {
        if let Some(Dim::Named(name)) = entry.shape.iter().skip(1).find(|dim| matches!(dim, Dim::Named(_))) {
            let problem = format!("dimension {name} varies, and placement.graphs is true; only the first may");
            return fault(format!("input[{index}].shape"), problem);
        }
    }
    Ok(())
}

/// An image step fixes the shape of the first input.
fn image_input(manifest: &Manifest) -> Result<(), Fault> {
    let (Prepare::Image { width, height, layout, .. }, Some(input)) = (&manifest.prepare, manifest.inputs.first())
    else {
        return Ok(());
    };
    let expected = match layout {
        Layout::Nchw => [3, *height, *width],
        Layout::Nhwc => [*height, *width, 3],
    };
    let agrees = |dim: &Dim, size: u32| matches!(dim, Dim::Named(_)) || *dim == Dim::Fixed(size);
    if input.shape.len() == 4 && input.shape[1..].iter().zip(expected).all(|(dim, size)| agrees(dim, size)) {
        return Ok(());
    }
    fault("input[0].shape", format!("the prepare step makes [N, {}, {}, {}]", expected[0], expected[1], expected[2]))
}
