//! sensorium-pipelines
