//! What is sent, and how often: `identity:1k=12,movenet=2,silero-vad@high=3`.

use std::fmt;
use std::str::FromStr;

use sensorium_wire::{Urgency, limits};

/// Most parts of a mix.
const PARTS_MAX: usize = 64;
/// Highest weight of a part.
const WEIGHT_MAX: u32 = 1_000_000;

/// The parts of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    pub(super) parts: Vec<Part>,
}

/// One kind of job: `MODEL[:BYTES][@URGENCY][=WEIGHT]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) model: String,
    /// Payload bytes, for models that take any tensor.
    pub(super) bytes: Option<u32>,
    pub(super) urgency: Urgency,
    /// How often, in relation to the others.
    pub(super) weight: u32,
}

impl Mix {
    pub(super) fn weights(&self) -> Vec<u32> {
        self.parts.iter().map(|part| part.weight).collect()
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<Part> = text.split(',').map(str::trim).map(part).collect::<Result<_, _>>()?;
        if parts.len() > PARTS_MAX {
            return Err(format!("{} parts; at most {PARTS_MAX} are expected", parts.len()));
        }
        Ok(Self { parts })
    }
}

fn part(text: &str) -> Result<Part, String> {
    let wrong = |what: &str| format!("{text:?}: {what}; expected is MODEL[:BYTES][@URGENCY][=WEIGHT]");
    let (kind, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight: u32 = weight.parse().map_err(|_| wrong("the weight is not a number"))?;
    if !(1..=WEIGHT_MAX).contains(&weight) {
        return Err(wrong(&format!("the weight is not from 1 to {WEIGHT_MAX}")));
    }
    let (kind, urgency) = match kind.split_once('@') {
        Some((kind, name)) => {
            let urgency = Urgency::ALL.into_iter().find(|urgency| urgency.name() == name);
            (kind, urgency.ok_or_else(|| wrong("the urgency is none of critical, high, standard and batch"))?)
        }
        None => (kind, Urgency::Standard),
    };
    let (model, size) = kind.split_once(':').map_or((kind, None), |(model, size)| (model, Some(size)));
    if model.is_empty() {
        return Err(wrong("the model has no name"));
    }
    let bytes = size.map(|size| bytes(size).ok_or_else(|| wrong("the size is not bytes, or bytes in units of k or m")));
    let bytes = bytes.transpose()?;
    if bytes.is_some_and(|bytes| bytes == 0 || u64::from(bytes) > limits::PAYLOAD_BYTES_MAX) {
        return Err(wrong(&format!("the size is not from 1 to {} bytes", limits::PAYLOAD_BYTES_MAX)));
    }
    Ok(Part { model: model.to_owned(), bytes, urgency, weight })
}

/// `200`, `200k` (of 1,024) or `2m`.
fn bytes(text: &str) -> Option<u32> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1_u32 << 10),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<u32>().ok()?.checked_mul(unit)
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        match self.bytes {
            Some(bytes) if bytes % (1 << 20) == 0 => write!(f, ":{}m", bytes >> 20)?,
            Some(bytes) if bytes % (1 << 10) == 0 => write!(f, ":{}k", bytes >> 10)?,
            Some(bytes) => write!(f, ":{bytes}")?,
            None => {}
        }
        match self.urgency {
            Urgency::Standard => Ok(()),
            urgency => write!(f, "@{}", urgency.name()),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.parts.iter().enumerate() {
            write!(f, "{}{part}={}", if at == 0 { "" } else { "," }, part.weight)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mix_is_read_and_written() {
        let mix: Mix = "identity:1k=12, identity:204800@batch=3,movenet,silero-vad@high=2".parse().unwrap();
        assert_eq!(mix.to_string(), "identity:1k=12,identity:200k@batch=3,movenet=1,silero-vad@high=2");
        assert_eq!(mix.weights(), [12, 3, 1, 2]);
        assert_eq!(mix.parts[1].bytes, Some(204_800));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, what) in [
            ("", "no name"),
            ("a,,b", "no name"),
            ("a=0", "from 1 to"),
            ("a=x", "not a number"),
            ("a@urgent", "none of critical"),
            ("a:1g", "the size is not bytes"),
            ("a:0", "the size is not from 1"),
            ("a:4096m", "the size is not bytes"),
        ] {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.contains(what), "{text:?}: {error}");
        }
        assert!(vec!["a"; 65].join(",").parse::<Mix>().unwrap_err().contains("65 parts"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_mix_or_an_error(text in "[a-z0-9:@=,km .-]{0,40}") {
            if let Ok(mix) = text.parse::<Mix>() {
                prop_assert_eq!(mix.to_string().parse::<Mix>().unwrap(), mix);
            }
        }
    }
}
