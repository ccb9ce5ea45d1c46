//! Names of things, as small numbers that the caller chooses, and the job.

use sensorium_wire::Urgency;
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub $inner);
    };
}

number!(
    /// The caller's name for a job; unique among the jobs that have not ended.
    JobKey(u64)
);
number!(
    /// One incarnation of a lane. A lane that comes back after its worker died has a new number, so that late answers
    /// of the dead one are recognised.
    LaneId(u32)
);
number!(
    /// A device; keeps its number when its worker is replaced.
    DeviceId(u32)
);
number!(
    /// A model (name, version and variant) as the caller numbers them.
    ModelKey(u32)
);
number!(
    /// A batch, numbered by the scheduler from 1 and never reused.
    BatchId(u64)
);
number!(
    /// An ordered sequence of frames or sound; its jobs for one model run in the order of their arrival.
    StreamKey(u64)
);
number!(
    /// Who submits; capacity is shared fairly among them.
    PrincipalKey(u32)
);

/// One unit of work for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub key: JobKey,
    pub model: ModelKey,
    /// On the caller's monotonic clock; `u64::MAX` = none.
    pub deadline_ns: u64,
    pub urgency: Urgency,
    pub payload_bytes: u64,
    /// How much there is to do, in a unit of the model's (pixels, samples, bytes); 0 = not known. Service times are
    /// learned by its power of two.
    pub work: u64,
    pub stream: Option<StreamKey>,
    pub principal: PrincipalKey,
}

impl Job {
    /// A `standard` job of principal 0, of unknown size and in no stream.
    #[must_use]
    pub const fn new(key: JobKey, model: ModelKey, deadline_ns: u64) -> Self {
        Self {
            key,
            model,
            deadline_ns,
            urgency: Urgency::Standard,
            payload_bytes: 0,
            work: 0,
            stream: None,
            principal: PrincipalKey(0),
        }
    }
}

const SECOND_NS: u64 = 1_000_000_000;

/// When a job without a deadline counts as due, for ordering only: it never expires at this time.
#[must_use]
pub const fn virtual_deadline_ns(arrival_ns: u64, urgency: Urgency) -> u64 {
    arrival_ns.saturating_add(match urgency {
        Urgency::Critical => SECOND_NS / 10,
        Urgency::High => SECOND_NS,
        Urgency::Standard => 10 * SECOND_NS,
        Urgency::Batch => 60 * SECOND_NS,
    })
}
