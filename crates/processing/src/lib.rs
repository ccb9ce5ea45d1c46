//! sensorium-processing
