//! sensorium-cli
