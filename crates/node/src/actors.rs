//! The actors that own things and restart what fails. Jobs never pass through their mailboxes.
//!
//! ```text
//! node supervisor            stops the node when a part that it cannot do without is beyond repair
//! ├─ device supervisor
//! │  └─ device actor         one per device: its worker process, its lanes
//! ├─ group supervisor
//! │  └─ group actor          one per group of devices: its members' coming together and its exercises
//! ├─ scheduler actor         time for the pure scheduler
//! ├─ session supervisor
//! │  └─ session actor        one per session: its source, its streams, its events
//! ├─ source supervisor
//! │  └─ source actor         one per camera or microphone: its lease, and its session while that is valid
//! ├─ monitor actor           what is wrong, for status pages and the log
//! ├─ gateway actor           the API endpoint
//! ├─ cluster actor           who is there; remote actors
//! └─ cluster listener        the cluster endpoint
//! ```

pub mod device;
pub mod devices;
pub mod endpoint;
pub mod group;
pub mod groups;
pub mod monitor;
pub mod node;
pub mod scheduler;
pub mod session;
pub mod sessions;
pub mod source;
pub mod sources;

use ractor::{ActorCell, SupervisionEvent};

/// The child that an event says has ended, and why; `None` for other events.
pub(crate) fn ended(event: SupervisionEvent) -> Option<(ActorCell, String)> {
    match event {
        SupervisionEvent::ActorFailed(cell, error) => Some((cell, error.to_string())),
        SupervisionEvent::ActorTerminated(cell, _, reason) => {
            Some((cell, reason.unwrap_or_else(|| "stopped".to_owned())))
        }
        SupervisionEvent::ActorStarted(_)
        | SupervisionEvent::ProcessGroupChanged(_)
        | SupervisionEvent::PidLifecycleEvent(_) => None,
    }
}
