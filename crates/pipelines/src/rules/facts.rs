//! What conditions are about, and how each field is read from it.

use sensorium_wire::result::ModelResult;
use sensorium_wire::submit::{PayloadKind, SubmitHeader};

use super::schema::Field;
use super::state::StreamState;
use super::value::{List, Map, Value};
use super::{Fault, FieldName, RULE_ITEMS_MAX};

/// Everything that conditions may ask about one job.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub tenant: &'a str,
    pub header: &'a SubmitHeader,
    pub payload_bytes: u64,
    /// What the results before this job's left.
    pub stream: &'a StreamState,
    /// Now, on the clock that `stream.last_ms` counts.
    pub now_ms: u64,
    /// The job's result; `None` before there is one, and for a plain tensor.
    pub result: Option<&'a ModelResult>,
}

/// Numbers above the largest int read as that.
fn int(value: u64) -> Value<'static> {
    Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

fn double(value: f32) -> Value<'static> {
    Value::Double(f64::from(value))
}

/// The items that rules look at.
fn seen<T>(items: &[T]) -> &[T] {
    &items[..items.len().min(RULE_ITEMS_MAX)]
}

impl<'a> Facts<'a> {
    /// The value of a field of `base`.
    pub(super) fn read(&self, field: Field, base: Value<'a>) -> Result<Value<'a>, Fault> {
        match base {
            Value::Root => self.read_root(field),
            Value::Detection(found) => Ok(match field {
                Field::DetectionLabel => Value::Name(&found.label),
                Field::DetectionClass => Value::Int(i64::from(found.class)),
                Field::DetectionScore => double(found.score),
                Field::DetectionBox => Value::List(List::Floats(&found.bbox)),
                _ => return Err(Fault::Type),
            }),
            Value::Class(class) => Ok(match field {
                Field::ClassLabel => Value::Name(&class.label),
                Field::ClassClass => Value::Int(i64::from(class.class)),
                Field::ClassScore => double(class.score),
                _ => return Err(Fault::Type),
            }),
            Value::Keypoint(point) => Ok(match field {
                Field::KeypointLabel => Value::Name(&point.label),
                Field::KeypointX => double(point.x),
                Field::KeypointY => double(point.y),
                Field::KeypointScore => double(point.score),
                _ => return Err(Fault::Type),
            }),
            _ => Err(Fault::Type),
        }
    }

    fn read_root(&self, field: Field) -> Result<Value<'a>, Fault> {
        let (header, stream, missing) = (self.header, self.stream, Fault::Missing(FieldName(field)));
        Ok(match field {
            Field::JobModel => Value::Name(&header.model),
            Field::JobVersion => Value::Int(i64::from(header.model_version)),
            Field::JobUrgency => Value::Text(header.urgency.name()),
            Field::JobPayload => Value::Text(payload_name(header.payload)),
            Field::JobPayloadBytes => int(self.payload_bytes),
            Field::JobDtype => Value::Text(header.dtype.name()),
            Field::JobSession => int(header.session),
            Field::JobStream => int(header.stream),
            Field::JobSequence => int(header.sequence),
            Field::JobAttempt => Value::Int(i64::from(header.attempt)),
            #[expect(clippy::cast_precision_loss, reason = "budgets are at most an hour")]
            Field::JobBudgetMs => Value::Double(header.budget_us as f64 / 1000.0),
            Field::JobHeight => self.dimension(PayloadKind::RawFrame, 0).ok_or(missing)?,
            Field::JobWidth => self.dimension(PayloadKind::RawFrame, 1).ok_or(missing)?,
            Field::JobSamples => self.dimension(PayloadKind::Pcm, 0).ok_or(missing)?,
            Field::JobChannels => self.dimension(PayloadKind::Pcm, 1).ok_or(missing)?,
            Field::JobSampleRateHz if header.payload == PayloadKind::Pcm => {
                Value::Int(i64::from(header.sample_rate_hz))
            }
            Field::JobSampleRateHz => return Err(missing),
            Field::StreamResults => int(stream.results),
            Field::StreamAgeMs if stream.results > 0 => int(self.now_ms.saturating_sub(stream.last_ms)),
            Field::StreamAgeMs => return Err(missing),
            Field::StreamCount => Value::Map(Map::Counts(&stream.count)),
            Field::StreamSound => Value::Map(Map::Scores(&stream.sound)),
            Field::StreamEvent => Value::Map(Map::Scores(&stream.event)),
            Field::StreamIntensity => stream.intensity.map(double).ok_or(missing)?,
            Field::StreamSpeech => stream.speech.map(Value::Bool).ok_or(missing)?,
            Field::StreamText => stream.text.as_deref().map(Value::Text).ok_or(missing)?,
            _ => return self.read_result(field),
        })
    }

    fn dimension(&self, of: PayloadKind, at: usize) -> Option<Value<'a>> {
        let dim = self.header.dims().get(at).filter(|_| self.header.payload == of)?;
        Some(Value::Int(i64::from(*dim)))
    }

    fn read_result(&self, field: Field) -> Result<Value<'a>, Fault> {
        use ModelResult as R;
        Ok(match (field, self.result) {
            (Field::ResultType, result) => Value::Text(type_name(result)),
            (Field::ResultDetections, Some(R::Detections { detections })) => {
                Value::List(List::Detections(seen(detections)))
            }
            (Field::ResultClasses, Some(R::Classes { classes, .. })) => Value::List(List::Classes(seen(classes))),
            (Field::ResultWindows, Some(R::Classes { windows, .. })) => Value::Int(i64::from(*windows)),
            (Field::ResultProbabilities, Some(R::Speech { probabilities, .. })) => {
                Value::List(List::Floats(seen(probabilities)))
            }
            (Field::ResultWindowMs, Some(R::Speech { window_ms, .. })) => Value::Int(i64::from(*window_ms)),
            (Field::ResultText, Some(R::Transcript { text, .. })) => Value::Text(text),
            (Field::ResultTokens, Some(R::Transcript { tokens, .. })) => Value::Int(i64::from(*tokens)),
            (Field::ResultEvents, Some(R::Fusion { events, .. })) => Value::List(List::Classes(seen(events))),
            (Field::ResultIntensity, Some(R::Fusion { intensity, .. })) => double(*intensity),
            (Field::ResultKeypoints, Some(R::Pose { keypoints })) => Value::List(List::Keypoints(seen(keypoints))),
            _ => return Err(Fault::Missing(FieldName(field))),
        })
    }
}

fn payload_name(payload: PayloadKind) -> &'static str {
    match payload {
        PayloadKind::Tensor => "tensor",
        PayloadKind::EncodedImage => "encoded_image",
        PayloadKind::RawFrame => "raw_frame",
        PayloadKind::Pcm => "pcm",
        PayloadKind::EncodedAudio => "encoded_audio",
    }
}

fn type_name(result: Option<&ModelResult>) -> &'static str {
    match result {
        None => "tensor",
        Some(ModelResult::Detections { .. }) => "detections",
        Some(ModelResult::Classes { .. }) => "classes",
        Some(ModelResult::Speech { .. }) => "speech",
        Some(ModelResult::Transcript { .. }) => "transcript",
        Some(ModelResult::Fusion { .. }) => "fusion",
        Some(ModelResult::Pose { .. }) => "pose",
    }
}
