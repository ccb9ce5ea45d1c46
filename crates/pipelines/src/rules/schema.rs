//! The variables that conditions may name: what they are called, what type they have, and when they are there.

use std::fmt;

use super::On;

/// The type of a part of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int,
    Double,
    Text,
    List(Item),
    /// From text to int or double.
    Map(Item),
    Object(Object),
}

/// The type of a list's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Bool,
    Int,
    Double,
    Text,
    Object(Object),
}

/// Things that have fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Job,
    Stream,
    Result,
    Detection,
    Class,
    Keypoint,
}

impl From<Item> for Type {
    fn from(item: Item) -> Self {
        match item {
            Item::Bool => Self::Bool,
            Item::Int => Self::Int,
            Item::Double => Self::Double,
            Item::Text => Self::Text,
            Item::Object(object) => Self::Object(object),
        }
    }
}

impl Type {
    /// As the items of a list that is written in a condition.
    pub(super) fn as_item(self) -> Option<Item> {
        match self {
            Self::Bool => Some(Item::Bool),
            Self::Int => Some(Item::Int),
            Self::Double => Some(Item::Double),
            Self::Text => Some(Item::Text),
            Self::List(_) | Self::Map(_) | Self::Object(_) => None,
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Double)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::List(item) => write!(f, "list of {}", Self::from(*item)),
            Self::Map(item) => write!(f, "map from string to {}", Self::from(*item)),
            Self::Object(object) => f.write_str(object.name()),
        }
    }
}

impl Object {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Stream => "stream",
            Self::Result => "result",
            Self::Detection => "detection",
            Self::Class => "class",
            Self::Keypoint => "keypoint",
        }
    }

    /// The fields by name.
    pub(super) fn fields(self) -> impl Iterator<Item = (&'static str, Field, Type)> {
        FIELDS.into_iter().filter(move |field| field.0 == self).map(|(_, name, field, of)| (name, field, of))
    }
}

/// The variables of rules of one kind.
pub(super) fn variables(on: On) -> &'static [(&'static str, Type)] {
    const ALL: [(&str, Type); 4] = [
        ("job", Type::Object(Object::Job)),
        ("tenant", Type::Text),
        ("stream", Type::Object(Object::Stream)),
        ("result", Type::Object(Object::Result)),
    ];
    match on {
        On::Job => &ALL[..3],
        On::Result => &ALL,
    }
}

/// Every field that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    JobModel,
    JobVersion,
    JobUrgency,
    JobPayload,
    JobPayloadBytes,
    JobDtype,
    JobSession,
    JobStream,
    JobSequence,
    JobAttempt,
    JobBudgetMs,
    JobWidth,
    JobHeight,
    JobSamples,
    JobChannels,
    JobSampleRateHz,
    StreamResults,
    StreamAgeMs,
    StreamCount,
    StreamSound,
    StreamEvent,
    StreamIntensity,
    StreamSpeech,
    StreamText,
    ResultType,
    ResultDetections,
    ResultClasses,
    ResultWindows,
    ResultProbabilities,
    ResultWindowMs,
    ResultText,
    ResultTokens,
    ResultEvents,
    ResultIntensity,
    ResultKeypoints,
    DetectionLabel,
    DetectionClass,
    DetectionScore,
    DetectionBox,
    ClassLabel,
    ClassClass,
    ClassScore,
    KeypointLabel,
    KeypointX,
    KeypointY,
    KeypointScore,
}

const FIELDS: [(Object, &str, Field, Type); 46] = {
    use Field as F;
    use Object::{Class, Detection, Job, Keypoint, Result, Stream};
    use Type::{Bool, Double, Int, List, Map, Text};
    [
        (Job, "model", F::JobModel, Text),
        (Job, "version", F::JobVersion, Int),
        (Job, "urgency", F::JobUrgency, Text),
        (Job, "payload", F::JobPayload, Text),
        (Job, "payload_bytes", F::JobPayloadBytes, Int),
        (Job, "dtype", F::JobDtype, Text),
        (Job, "session", F::JobSession, Int),
        (Job, "stream", F::JobStream, Int),
        (Job, "sequence", F::JobSequence, Int),
        (Job, "attempt", F::JobAttempt, Int),
        (Job, "budget_ms", F::JobBudgetMs, Double),
        (Job, "width", F::JobWidth, Int),
        (Job, "height", F::JobHeight, Int),
        (Job, "samples", F::JobSamples, Int),
        (Job, "channels", F::JobChannels, Int),
        (Job, "sample_rate_hz", F::JobSampleRateHz, Int),
        (Stream, "results", F::StreamResults, Int),
        (Stream, "age_ms", F::StreamAgeMs, Int),
        (Stream, "count", F::StreamCount, Map(Item::Int)),
        (Stream, "sound", F::StreamSound, Map(Item::Double)),
        (Stream, "event", F::StreamEvent, Map(Item::Double)),
        (Stream, "intensity", F::StreamIntensity, Double),
        (Stream, "speech", F::StreamSpeech, Bool),
        (Stream, "text", F::StreamText, Text),
        (Result, "type", F::ResultType, Text),
        (Result, "detections", F::ResultDetections, List(Item::Object(Detection))),
        (Result, "classes", F::ResultClasses, List(Item::Object(Class))),
        (Result, "windows", F::ResultWindows, Int),
        (Result, "probabilities", F::ResultProbabilities, List(Item::Double)),
        (Result, "window_ms", F::ResultWindowMs, Int),
        (Result, "text", F::ResultText, Text),
        (Result, "tokens", F::ResultTokens, Int),
        (Result, "events", F::ResultEvents, List(Item::Object(Class))),
        (Result, "intensity", F::ResultIntensity, Double),
        (Result, "keypoints", F::ResultKeypoints, List(Item::Object(Keypoint))),
        (Detection, "label", F::DetectionLabel, Text),
        (Detection, "class", F::DetectionClass, Int),
        (Detection, "score", F::DetectionScore, Double),
        (Detection, "box", F::DetectionBox, List(Item::Double)),
        (Class, "label", F::ClassLabel, Text),
        (Class, "class", F::ClassClass, Int),
        (Class, "score", F::ClassScore, Double),
        (Keypoint, "label", F::KeypointLabel, Text),
        (Keypoint, "x", F::KeypointX, Double),
        (Keypoint, "y", F::KeypointY, Double),
        (Keypoint, "score", F::KeypointScore, Double),
    ]
};

/// Items that a list of this field can have.
pub(super) fn items_max(field: Field) -> usize {
    if field == Field::DetectionBox { 4 } else { super::RULE_ITEMS_MAX }
}

impl Field {
    /// Whose it is and what it is called.
    pub(super) fn place(self) -> (Object, &'static str) {
        let found = FIELDS.iter().find(|(_, _, field, _)| *field == self);
        found.map_or((Object::Job, ""), |(object, name, ..)| (*object, *name))
    }
}
