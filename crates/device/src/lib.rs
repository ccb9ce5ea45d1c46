//! sensorium-device
