//! One model on one device: backends that run networks, executors that turn payloads into answers, the payload memory
//! that node and workers share, the worker process, and groups in which workers exchange values.
//!
//! It knows nothing of queues, deadlines or connections: a worker runs the batches it is given, in the order it is given
//! them, and holds nothing that cannot be rebuilt. Of other devices it knows only the groups that it is told to join.

pub mod backend;
pub mod clock;
pub mod cuda;
pub mod executor;
pub mod group;
mod leave;
pub mod protocol;
pub mod slab;
pub mod supervise;
pub mod worker;

pub use leave::leave;
