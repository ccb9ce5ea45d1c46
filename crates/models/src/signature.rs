//! What a network takes and gives, and whether a manifest agrees.

use std::fmt;
use std::path::Path;

use sensorium_wire::tensor::Dtype;

use crate::error::ModelError;
use crate::manifest::{Dim, FileRole, Interpret, Manifest, TensorEntry};

/// Inputs and outputs of a network, as the backend that loaded it found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

/// One tensor of a network; a dimension of `None` varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub dtype: Dtype,
    pub dims: Vec<Option<u32>>,
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims = self.dims.iter().map(|dim| dim.map_or_else(|| "?".to_owned(), |size| size.to_string()));
        write!(f, "{}[{}]", self.dtype.name(), dims.collect::<Vec<_>>().join(","))
    }
}

/// Inputs of a decoder that hold its key-value cache start so; they follow from the `transcript` step's numbers, and a
/// manifest does not list them one by one.
pub const CACHE_PREFIX: &str = "past_key_values.";

/// Checks the tensors that `manifest` lists for `role` against `signature`.
///
/// Every listed tensor must exist with that type and rank. A number must be the network's number or stand where the
/// network's dimension varies; a named dimension of an input must vary in the network. Every input of the network must
/// be listed, except a decoder's cache.
///
/// # Errors
/// [`ModelError::Signature`] with the first difference.
pub fn check(
    manifest: &Manifest,
    manifest_file: &Path,
    network_file: &Path,
    role: FileRole,
    signature: &Signature,
) -> Result<(), ModelError> {
    let differs = |(field, expected, found): Difference| ModelError::Signature {
        file: manifest_file.to_owned(),
        network: network_file.to_owned(),
        field,
        expected,
        found,
    };
    for (section, entries, specs) in
        [("input", &manifest.inputs, &signature.inputs), ("output", &manifest.outputs, &signature.outputs)]
    {
        for entry in entries.iter().filter(|entry| entry.of == role) {
            compare(section, entry, specs).map_err(differs)?;
        }
    }
    let decoder = matches!(manifest.interpret, Interpret::Transcript { .. }) && role == FileRole::Decoder;
    let listed = |spec: &TensorSpec| manifest.inputs.iter().any(|entry| entry.of == role && entry.name == spec.name);
    let known = |spec: &TensorSpec| listed(spec) || (decoder && spec.name.starts_with(CACHE_PREFIX));
    match signature.inputs.iter().find(|spec| !known(spec)) {
        None => Ok(()),
        Some(spec) => {
            let count = manifest.inputs.iter().filter(|entry| entry.of == role).count();
            Err(differs((
                "input".to_owned(),
                format!("{count} inputs of {role}"),
                format!("also {} {spec}", spec.name),
            )))
        }
    }
}

/// Field, what the manifest says, what the network has.
type Difference = (String, String, String);

fn compare(section: &str, entry: &TensorEntry, specs: &[TensorSpec]) -> Result<(), Difference> {
    let field = |part: &str| format!("{section} {}.{part}", entry.name);
    let Some(spec) = specs.iter().find(|spec| spec.name == entry.name) else {
        let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err((field("name"), entry.name.clone(), names));
    };
    if spec.dtype != entry.dtype {
        return Err((field("dtype"), entry.dtype.name().to_owned(), spec.dtype.name().to_owned()));
    }
    let shape: Vec<_> = entry.shape.iter().map(ToString::to_string).collect();
    if spec.dims.len() != entry.shape.len() {
        let expected = format!("rank {} [{}]", entry.shape.len(), shape.join(","));
        return Err((field("shape"), expected, format!("rank {} {spec}", spec.dims.len())));
    }
    for (axis, (dim, real)) in entry.shape.iter().zip(&spec.dims).enumerate() {
        let agrees = match (dim, real) {
            (Dim::Fixed(size), Some(real)) => size == real,
            (Dim::Fixed(_), None) | (Dim::Named(_), None) => true,
            // A network may promise more about its outputs than the manifest asks for.
            (Dim::Named(_), Some(_)) => section == "output",
        };
        if !agrees {
            let expected = match dim {
                Dim::Fixed(size) => format!("{size}"),
                Dim::Named(name) => format!("{name}, which varies,"),
            };
            let found = real.map_or_else(|| "one that varies".to_owned(), |real| real.to_string());
            return Err((field(&format!("shape[{axis}]")), expected, found));
        }
    }
    Ok(())
}
