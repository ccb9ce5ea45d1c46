//! From the text of a `model.toml` to a manifest, with errors that name the field.
//!
//! The TOML reader loses the place of an error inside tagged tables (`[prepare]`, `[interpret]`), so the field is found
//! afterwards: by taking one field out at a time and looking whether the complaint changes.

use std::path::Path;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::error::ModelError;
use crate::manifest::{FileEntry, Interpret, Manifest, Placement, Prepare, TensorEntry, VariantEntry};

/// How alike two keys must be for one to be suggested for the other, from 0 to 1.
const ALIKE_MIN: f64 = 0.6;

pub(crate) fn parse(text: &str, file: &Path) -> Result<Manifest, ModelError> {
    let table: Table = toml::from_str(text).map_err(|error| ModelError::Syntax {
        file: file.to_owned(),
        line: error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1)),
        message: error.message().to_owned(),
    })?;
    complaint(&table).map_err(|_| explain(&table, file))
}

fn complaint<T: DeserializeOwned>(table: &Table) -> Result<T, String> {
    T::deserialize(table.clone()).map_err(|error| error.message().to_owned())
}

fn explain(table: &Table, file: &Path) -> ModelError {
    let file = file.to_owned();
    let sections = table.iter().flat_map(|(key, value)| sections_of(key, value));
    let (section, section_table, message, check) = sections
        .filter_map(|(place, inner, check)| Some((format!("{place}."), inner, check(inner)?, check)))
        .next()
        .unwrap_or_else(|| {
            let check: Check = |root| complaint::<Manifest>(root).err();
            (String::new(), table, check(table).unwrap_or_default(), check)
        });
    if let Some(key) = message.strip_prefix("missing field ").map(|rest| rest.trim_matches('`')) {
        return ModelError::Field { file, field: format!("{section}{key}"), problem: "missing".to_owned() };
    }
    let field = match culprit(section_table, &message, check) {
        Some(key) => format!("{section}{key}"),
        None => section.trim_end_matches('.').to_owned(),
    };
    let Some((key, known)) = names(&message, "unknown field ") else {
        let problem = match names(&message, "unknown variant ") {
            Some((name, known)) => {
                let hint = nearest(&name, &known).map_or_else(String::new, |near| format!("; did you mean {near}?"));
                format!("{name} is not known; expected one of {}{hint}", known.join(", "))
            }
            None => message,
        };
        return ModelError::Field { file, field, problem };
    };
    ModelError::UnknownKey { file, field, nearest: nearest(&key, &known).map(str::to_owned) }
}

/// Reads a table as what it should be and gives the complaint, if there is one.
type Check = fn(&Table) -> Option<String>;

/// The tables under a key of the document, each with its written place and its check.
fn sections_of<'a>(key: &str, value: &'a Value) -> Vec<(String, &'a Table, Check)> {
    let check: Check = match key {
        "file" => |table| complaint::<FileEntry>(table).err(),
        "variant" => |table| complaint::<VariantEntry>(table).err(),
        "input" | "output" => |table| complaint::<TensorEntry>(table).err(),
        "placement" => |table| complaint::<Placement>(table).err(),
        "prepare" => |table| complaint::<Prepare>(table).err(),
        "interpret" => |table| complaint::<Interpret>(table).err(),
        _ => return Vec::new(),
    };
    match value {
        Value::Table(table) => vec![(key.to_owned(), table, check)],
        Value::Array(items) => {
            let tables = items.iter().enumerate().filter_map(|(index, item)| Some((index, item.as_table()?)));
            tables.map(|(index, table)| (format!("{key}[{index}]"), table, check)).collect()
        }
        _ => Vec::new(),
    }
}

/// The field without which the complaint is another one, or none. The tag comes last: without it nothing is read.
fn culprit<'a>(table: &'a Table, message: &str, check: Check) -> Option<&'a str> {
    let keys = table.keys().filter(|key| *key != "step").chain(table.keys().filter(|key| *key == "step"));
    keys.map(String::as_str).find(|key| {
        let mut without = table.clone();
        without.remove(*key);
        check(&without).is_none_or(|other| other != message)
    })
}

/// The names between backquotes of a serde message that starts with `prefix`: the offending one and the known ones.
fn names(message: &str, prefix: &str) -> Option<(String, Vec<String>)> {
    let mut quoted = message.strip_prefix(prefix)?.split('`').skip(1).step_by(2).map(str::to_owned);
    Some((quoted.next()?, quoted.collect()))
}

fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let alike = |name: &str| strsim::jaro_winkler(key, name);
    let best = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(best) >= ALIKE_MIN).then_some(best)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NANODET: &str = r#"
name = "nanodet"
version = 1
modality = "visual"
description = "Objects"
source = "a package"
licence = "MIT"

[[file]]
role = "network"
path = "nanodet.onnx"
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

[[input]]
name = "input_1"
dtype = "f32"
shape = ["N", 3, 416, 416]

[prepare]
step = "image"
width = 416
height = 416
channels = "bgr"
layout = "nchw"
mean = [103.53, 116.28, 123.675]
std = [57.375, 57.12, 58.395]

[interpret]
step = "detections_dfl"
strides = [8, 16, 32]
bins = 11
score_min = 0.4
iou_max = 0.55
detections_max = 100
"#;

    fn error(from: &str, to: &str) -> String {
        assert!(NANODET.contains(from), "{from}");
        parse(&NANODET.replace(from, to), Path::new("m/model.toml")).unwrap_err().to_string()
    }

    #[test]
    fn a_good_one_is_read() {
        let manifest = parse(NANODET, Path::new("model.toml")).unwrap();
        assert_eq!((manifest.version, manifest.placement.batch_max), (1, 1));
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        assert_eq!(error("width", "widht"), "m/model.toml: prepare.widht: unknown key; did you mean width?");
        assert_eq!(error("sha256", "sha25"), "m/model.toml: file[0].sha25: unknown key; did you mean sha256?");
        assert_eq!(error("licence", "license"), "m/model.toml: license: unknown key; did you mean licence?");
        assert_eq!(error("bins = 11", "zzz = 1\nbins = 11"), "m/model.toml: interpret.zzz: unknown key");
    }

    #[test]
    fn wrong_values_name_the_field() {
        let message = error("width = 416", "width = \"416\"");
        assert!(
            message.starts_with("m/model.toml: prepare.width: invalid type: string \"416\", expected u32"),
            "{message}"
        );
        let message = error("version = 1", "version = -1");
        assert!(message.starts_with("m/model.toml: version: invalid value: integer `-1`"), "{message}");
        let message = error("mean = [103.53, 116.28, 123.675]", "mean = [1.0, 2.0]");
        assert!(message.starts_with("m/model.toml: prepare.mean: invalid length 2"), "{message}");
        let message = error("dtype = \"f32\"", "dtype = \"float32\"");
        assert!(
            message.starts_with("m/model.toml: input[0].dtype: float32 is not known; expected one of u8,"),
            "{message}"
        );
        let message = error("step = \"image\"", "step = \"imago\"");
        assert!(
            message.contains("prepare.step: imago is not known") && message.ends_with("did you mean image?"),
            "{message}"
        );
    }

    #[test]
    fn missing_fields_are_placed() {
        assert_eq!(error("width = 416\n", ""), "m/model.toml: prepare.width: missing");
        assert_eq!(error("version = 1\n", ""), "m/model.toml: version: missing");
        assert_eq!(error("dtype = \"f32\"\n", ""), "m/model.toml: input[0].dtype: missing");
        assert!(error("[prepare]", "[prepare").starts_with("m/model.toml:19: not valid TOML"));
    }

    proptest! {
        #[test]
        fn any_damage_is_an_error_or_a_manifest(at in 0..NANODET.len(), byte in 32_u8..127) {
            let mut text = NANODET.as_bytes().to_vec();
            text[at] = byte;
            if let Err(error) = parse(&String::from_utf8(text).unwrap(), Path::new("model.toml")) {
                prop_assert!(error.to_string().starts_with("model.toml:"));
            }
        }
    }
}
