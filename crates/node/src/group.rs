//! Groups of devices in a node: what the configuration says of them, and what is known about each.
//!
//! A group is opt-in: no job needs one. [`GroupTable`] is where the actors of devices and of groups meet; what a group does
//! is decided by [`sensorium_device::group::lifecycle`].

mod spec;
mod table;

pub use spec::{GroupLink, GroupPlan, GroupSpec, GroupSpecError};
pub use table::{GroupStatus, GroupTable, Seat};

pub(crate) use spec::{check, plan};
