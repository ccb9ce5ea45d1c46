//! What earlier results of a stream left for the conditions of later ones, for a bounded number of streams.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sensorium_wire::ids::ShortName;
use sensorium_wire::result::ModelResult;

use super::{STREAM_LABELS_MAX, STREAM_TEXT_BYTES_MAX, STREAMS_MAX};

/// A probability of speech from here on counts as speech.
const SPEECH_MIN: f32 = 0.5;

/// The latest of what a stream's results said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamState {
    /// Results so far.
    pub results: u64,
    /// When the last result came, in milliseconds of the caller's monotonic clock.
    pub last_ms: u64,
    /// Objects in the last detections, by label.
    pub count: Vec<(ShortName, u32)>,
    /// Scores of the last classes.
    pub sound: Vec<(ShortName, f32)>,
    /// Scores of the last fusion's events.
    pub event: Vec<(ShortName, f32)>,
    pub intensity: Option<f32>,
    /// Whether the last look for speech found any.
    pub speech: Option<bool>,
    /// The last transcript's beginning.
    pub text: Option<String>,
}

impl StreamState {
    /// Takes a result in.
    pub fn note(&mut self, now_ms: u64, result: Option<&ModelResult>) {
        self.results = self.results.saturating_add(1);
        self.last_ms = now_ms;
        let Some(result) = result else { return };
        match result {
            ModelResult::Detections { detections } => {
                self.count.clear();
                for found in detections {
                    if let Some((_, count)) = self.count.iter_mut().find(|(label, _)| *label == found.label) {
                        *count = count.saturating_add(1);
                    } else if self.count.len() < STREAM_LABELS_MAX {
                        self.count.push((found.label, 1));
                    }
                }
            }
            ModelResult::Classes { classes, .. } => self.sound = scores(classes),
            ModelResult::Speech { probabilities, .. } => {
                self.speech = Some(probabilities.iter().any(|probability| *probability >= SPEECH_MIN));
            }
            ModelResult::Transcript { text, .. } => self.text = Some(beginning(text)),
            ModelResult::Fusion { events, intensity } => {
                self.event = scores(events);
                self.intensity = Some(*intensity);
            }
            ModelResult::Pose { .. } => {}
        }
    }
}

fn scores(classes: &[sensorium_wire::result::ClassScore]) -> Vec<(ShortName, f32)> {
    classes.iter().take(STREAM_LABELS_MAX).map(|class| (class.label, class.score)).collect()
}

fn beginning(text: &str) -> String {
    let mut end = text.len().min(STREAM_TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Which stream: the principal's number, its session and its stream.
pub type StreamKey = (u32, u64, u64);

/// The states of the streams that spoke last.
#[derive(Debug, Default)]
pub struct StreamStates {
    states: HashMap<StreamKey, (u64, Arc<StreamState>)>,
    /// Turn of the last result → stream.
    order: BTreeMap<u64, StreamKey>,
    turn: u64,
}

impl StreamStates {
    /// What is known about a stream; nothing, when it has had no result or was forgotten.
    #[must_use]
    pub fn get(&self, key: StreamKey) -> Arc<StreamState> {
        self.states.get(&key).map_or_else(Arc::default, |(_, state)| Arc::clone(state))
    }

    /// Takes a result of a stream in.
    pub fn note(&mut self, key: StreamKey, now_ms: u64, result: Option<&ModelResult>) {
        self.turn += 1;
        let (turn, state) = self.states.entry(key).or_default();
        self.order.remove(turn);
        *turn = self.turn;
        self.order.insert(self.turn, key);
        Arc::make_mut(state).note(now_ms, result);
        while self.states.len() > STREAMS_MAX {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.states.remove(&oldest);
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.states.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }
}
