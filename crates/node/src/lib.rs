//! Everything that lives in a node: actors, the data path, endpoints, sessions.
//!
//! Decisions about jobs are the pure scheduler's; this crate carries them out. It deliberately keeps no work on disk
//! (what a client is owed it asks for again under the same job id), talks to no external service, and reads no
//! environment: the binary hands in all it needs.

pub mod actors;
mod board;
pub mod cluster;
pub mod config;
pub mod data;
mod desk;
pub mod engine;
mod gateway;
pub mod group;
pub mod guard;
mod health;
mod lane_reader;
mod machine;
mod monitor;
mod node;
mod pins;
pub mod restart;
mod session;
mod source;
mod status;
mod threads;

pub use cluster::Membership;
pub use config::{ConfigError, NodeConfig};
pub use data::{DataDirectory, DataError, NodeFile};
pub use node::{Node, NodeError, NodeOptions};
pub use source::SourceStatus;
pub use status::NodeStatus;
