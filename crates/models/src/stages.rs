//! Networks that are split by stages: models in a row, each of which names the one that goes on (`next`).
//!
//! Each is a model of its own, with files, batches and devices of its own; together they answer as one, under the name of
//! the first. Here is checked that what one gives is what the next takes; who runs them when is for the node to say.

use std::collections::BTreeMap;

use crate::error::ModelError;
use crate::manifest::{Dim, Manifest, Prepare};
use crate::repository::ModelPackage;

/// Most models in a row.
pub const STAGES_MAX: usize = 8;
/// What stands before the tensor that one stage gives to the next: the image's size and the size that it was fitted to, four
/// numbers of 32 bits, in bytes.
pub const HEAD_BYTES: u32 = 16;

/// Why a row of models does not hold together, seen from its first, or from one that nothing else begins.
pub(crate) fn check(first: &ModelPackage, models: &BTreeMap<String, ModelPackage>) -> Result<(), ModelError> {
    let mut stage = first;
    for _ in 0..STAGES_MAX {
        let Some(name) = &stage.manifest.next else { return Ok(()) };
        let wrong =
            |problem: String| Err(ModelError::Field { file: stage.manifest_file(), field: "next".to_owned(), problem });
        let Some(next) = models.get(name) else {
            return wrong(format!("{name}; there is no such model, or it cannot be used"));
        };
        if let Some(problem) = misfit(&stage.manifest, &next.manifest) {
            return wrong(problem);
        }
        stage = next;
    }
    let problem = format!("a row of more than {STAGES_MAX} models, or one without an end");
    Err(ModelError::Field { file: first.manifest_file(), field: "next".to_owned(), problem })
}

/// Why what `stage` gives is not what `next` takes.
fn misfit(stage: &Manifest, next: &Manifest) -> Option<String> {
    let name = &next.name;
    let Prepare::Stage { .. } = next.prepare else {
        return Some(format!("{name}, whose prepare step is {}; expected stage", next.prepare.name()));
    };
    let (gives, takes) = (stage.outputs.first()?, next.inputs.first()?);
    let dims = |shape: &[Dim]| shape.iter().skip(1).cloned().collect::<Vec<_>>();
    if gives.dtype != takes.dtype || dims(&gives.shape) != dims(&takes.shape) {
        let say = |dtype: &str, shape: &[Dim]| {
            let shape: Vec<_> = shape.iter().map(ToString::to_string).collect();
            format!("{dtype} [{}]", shape.join(","))
        };
        let (gives, takes) = (say(gives.dtype.name(), &gives.shape), say(takes.dtype.name(), &takes.shape));
        return Some(format!("{name} takes {takes}, and output {} is {gives}", stage.outputs[0].name));
    }
    let (before, after) = (stage.prepare.image_size(), next.prepare.image_size());
    if after.is_some() && before != after {
        let say = |size: Option<(u32, u32)>| {
            size.map_or_else(|| "none".to_owned(), |(width, height)| format!("{width} × {height}"))
        };
        return Some(format!("{name} says that the row's image is {}; here it is {}", say(after), say(before)));
    }
    let needed = gives.row_bytes().saturating_add(u64::from(HEAD_BYTES));
    let room = u64::from(stage.placement.output_bytes_max);
    (room < needed).then(|| format!("{name} takes {needed} bytes, and placement.output_bytes_max is {room}"))
}
