//! Preparation and interpretation, pure and stateless: from the bytes that clients send to what networks take (decode,
//! resize, resample, cut into windows), and from what networks give to what applications use (boxes, classes, text);
//! and the containers that media and tensors come in (NUT, NPY).
//!
//! This crate does no I/O, runs no network, starts no thread and keeps nothing between calls. Everything it reads came
//! from outside: every size is bounded before memory is asked for, and bad bytes give a typed error that says what is
//! wrong. What lasts over time (tracks, voice segments, clocks) belongs to `pipelines`.

pub mod classes;
pub mod detections;
pub mod error;
pub mod image;
pub mod npy;
pub mod nut;
pub mod pose;
pub mod sound;
pub mod tokens;

pub use error::ProcessingError;
