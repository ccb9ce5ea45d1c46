//! sensorium-client
