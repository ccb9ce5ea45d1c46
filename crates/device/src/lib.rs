//! sensorium-device

pub mod backend;
