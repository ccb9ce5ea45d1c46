//! Decoders against what the installed ffmpeg writes. Without ffmpeg these tests fail and say so.

#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic")]

#[path = "media/ffmpeg.rs"]
mod ffmpeg;
#[path = "media/images.rs"]
mod images;
#[path = "media/models.rs"]
mod models;
#[path = "media/nut.rs"]
mod nut;
#[path = "media/sound.rs"]
mod sound;
