//! State over time: what a stream or session remembers between the answers of its models.
//!
//! Tracks of objects, segments of speech, sounds that come and go, windows of evidence for fusion, the mapping of
//! capture times to the session's clock, subtitles, and rules over all of that. Everything takes results with their times and gives events or
//! rows. Nothing here runs a model, reads a clock or does I/O, so the same evidence always gives the same events. What a
//! stream must not lose when its owner moves can be written to flat bytes and read back ([`checkpoint`]).

pub mod checkpoint;
pub mod clock;
pub mod fusion;
pub mod rules;
pub mod session;
pub mod sound;
pub mod speech;
pub mod srt;
pub mod track;

pub use checkpoint::CheckpointError;
pub use clock::StreamClock;
pub use fusion::{EvidenceSpec, FusionRow, FusionWindows};
pub use rules::{RuleError, RuleSet, RuleSpec, StreamState, StreamStates};
pub use session::SessionState;
pub use sound::SoundEvents;
pub use speech::{SpeechEvent, SpeechSegment, SpeechSegmenter};
pub use track::Tracker;
