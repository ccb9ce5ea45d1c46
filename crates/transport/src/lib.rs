//! sensorium-transport
