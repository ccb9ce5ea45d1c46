//! sensorium-scheduler
