//! One model on one device: backends that run networks, executors that turn payloads into answers, the payload memory
//! that node and workers share, and the worker process.
//!
//! It knows nothing of queues, deadlines, connections or other devices: a worker runs the batches it is given, in the
//! order it is given them, and holds nothing that cannot be rebuilt.

pub mod backend;
pub mod clock;
pub mod cuda;
pub mod executor;
pub mod protocol;
pub mod slab;
pub mod supervise;
pub mod worker;
