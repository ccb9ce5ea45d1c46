//! sensorium-node
