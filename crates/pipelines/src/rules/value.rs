//! What conditions compute with: borrowed from the facts or from the program, copied freely.

use std::cmp::Ordering;

use sensorium_wire::ids::ShortName;
use sensorium_wire::result::{ClassScore, Detection, Keypoint};

use super::Fault;

/// A value of a condition.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(&'a str),
    /// A text too; kept as it lies so that comparing labels reads no UTF-8.
    Name(&'a ShortName),
    List(List<'a>),
    Map(Map<'a>),
    /// `job`, `stream` or `result`: which one, the field says.
    Root,
    Detection(&'a Detection),
    Class(&'a ClassScore),
    Keypoint(&'a Keypoint),
}

/// A list of a result, or one written in the condition.
#[derive(Clone, Copy, Debug)]
pub(super) enum List<'a> {
    Detections(&'a [Detection]),
    Classes(&'a [ClassScore]),
    Keypoints(&'a [Keypoint]),
    Floats(&'a [f32]),
    Constants(&'a [Constant]),
}

/// Labels with numbers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Map<'a> {
    Counts(&'a [(ShortName, u32)]),
    Scores(&'a [(ShortName, f32)]),
}

/// A value written in a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Constant {
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
}

impl Constant {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Double(value) => Value::Double(*value),
            Self::Text(value) => Value::Text(value),
        }
    }
}

impl<'a> List<'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Detections(items) => items.len(),
            Self::Classes(items) => items.len(),
            Self::Keypoints(items) => items.len(),
            Self::Floats(items) => items.len(),
            Self::Constants(items) => items.len(),
        }
    }

    pub(super) fn get(self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Detections(items) => items.get(index).map(Value::Detection),
            Self::Classes(items) => items.get(index).map(Value::Class),
            Self::Keypoints(items) => items.get(index).map(Value::Keypoint),
            Self::Floats(items) => items.get(index).map(|item| Value::Double(f64::from(*item))),
            Self::Constants(items) => items.get(index).map(Constant::value),
        }
    }

    pub(super) fn contains(self, wanted: Value<'_>) -> bool {
        (0..self.len()).filter_map(|index| self.get(index)).any(|item| item.equals(wanted))
    }
}

impl<'a> Map<'a> {
    pub(super) fn len(self) -> usize {
        match self {
            Self::Counts(entries) => entries.len(),
            Self::Scores(entries) => entries.len(),
        }
    }

    pub(super) fn get(self, key: Value<'_>) -> Option<Value<'a>> {
        match self {
            Self::Counts(entries) => {
                let (_, count) = entries.iter().find(|(label, _)| Value::Name(label).equals(key))?;
                Some(Value::Int(i64::from(*count)))
            }
            Self::Scores(entries) => {
                let (_, score) = entries.iter().find(|(label, _)| Value::Name(label).equals(key))?;
                Some(Value::Double(f64::from(*score)))
            }
        }
    }
}

/// Whether a name is this text, which is not empty.
pub(super) fn is_name(name: &ShortName, text: &str) -> bool {
    name.0.get(..text.len()).is_some_and(|start| start == text.as_bytes())
        && name.0.get(text.len()).is_none_or(|next| *next == 0)
        // A name ends at its first zero byte.
        && !text.contains('\0')
}

/// An integer as the double nearest to it, as CEL compares the two.
#[expect(clippy::cast_precision_loss, reason = "comparing them as doubles is what is meant")]
fn as_double(value: i64) -> f64 {
    value as f64
}

impl<'a> Value<'a> {
    pub(super) fn bool(self) -> Result<bool, Fault> {
        match self {
            Self::Bool(value) => Ok(value),
            _ => Err(Fault::Type),
        }
    }

    pub(super) fn text(self) -> Result<&'a str, Fault> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Name(name) => Ok(name.as_str()),
            _ => Err(Fault::Type),
        }
    }

    pub(super) fn list(self) -> Result<List<'a>, Fault> {
        match self {
            Self::List(list) => Ok(list),
            _ => Err(Fault::Type),
        }
    }

    pub(super) fn map(self) -> Result<Map<'a>, Fault> {
        match self {
            Self::Map(map) => Ok(map),
            _ => Err(Fault::Type),
        }
    }

    /// Numbers are equal when they are the same number; nothing equals NaN.
    pub(super) fn equals(self, other: Value<'_>) -> bool {
        match (self, other) {
            (Self::Name(a), Value::Name(b)) if a.0 == b.0 => true,
            (Self::Name(name), Value::Text(text)) if !text.is_empty() => is_name(name, text),
            (Self::Text(text), Value::Name(name)) if !text.is_empty() => is_name(name, text),
            (Self::Bool(a), Value::Bool(b)) => a == b,
            _ => self.compare(other).is_ok_and(|order| order == Some(Ordering::Equal)),
        }
    }

    /// The order of two numbers or texts; `None` beside NaN.
    pub(super) fn compare(self, other: Value<'_>) -> Result<Option<Ordering>, Fault> {
        Ok(match (self, other) {
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(&b)),
            (Self::Double(a), Value::Double(b)) => a.partial_cmp(&b),
            (Self::Int(a), Value::Double(b)) => as_double(a).partial_cmp(&b),
            (Self::Double(a), Value::Int(b)) => a.partial_cmp(&as_double(b)),
            (Self::Text(_) | Self::Name(_), Value::Text(_) | Value::Name(_)) => {
                Some(self.text()?.cmp(other.text().unwrap_or("")))
            }
            _ => return Err(Fault::Type),
        })
    }

    pub(super) fn to_double(self) -> Result<f64, Fault> {
        match self {
            Self::Int(value) => Ok(as_double(value)),
            Self::Double(value) => Ok(value),
            _ => Err(Fault::Type),
        }
    }

    /// Towards zero.
    pub(super) fn to_int(self) -> Result<i64, Fault> {
        const LIMIT: f64 = 9_223_372_036_854_775_808.0;
        match self {
            Self::Int(value) => Ok(value),
            #[expect(clippy::cast_possible_truncation, reason = "within the limits, and cutting the fraction is meant")]
            Self::Double(value) if value > -LIMIT && value < LIMIT => Ok(value as i64),
            Self::Double(_) => Err(Fault::Overflow),
            _ => Err(Fault::Type),
        }
    }
}
