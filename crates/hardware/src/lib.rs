//! sensorium-hardware
