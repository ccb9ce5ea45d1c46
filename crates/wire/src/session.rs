//! Opening a session, and the grants that a server announces.

use rkyv::{Archive, Deserialize, Serialize};

use crate::ids::ShortName;

/// What a server grants to a connection, on a unidirectional stream of its own as soon as the connection is up. Every
/// final answer gives its job's credits back.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct GrantHeader {
    pub jobs_in_flight_max: u32,
    pub sessions_max: u32,
    pub bytes_in_flight_max: u64,
    pub node: ShortName,
}

/// Takes a job back. The job then ends as `cancelled`, or with the outcome it had already.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct CancelHeader {
    pub job_id: crate::ids::JobId,
}

/// Opens a session over a media file; the payload is the file.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Default)]
pub struct SessionHeader {
    /// Chosen by the client, at random: under this number the session is taken up again.
    pub session: u64,
    /// Time that a frame or audio chunk may take from capture to answer, in microseconds; used at real speed.
    pub budget_us: u64,
    /// 1 = as fast as it goes without dropping; 0 = at the source's own speed, dropping what would be late.
    pub fast: u8,
    /// 1 = the session was open before, and its node or the connection was lost: go on where its last checkpoint says.
    pub resume: u8,
    pub reserved: [u8; 6],
    /// What the source is called in logs and events: the file's name without its folder.
    pub name: ShortName,
    /// With `resume`: the number that the next event is to have.
    pub next_event: u64,
    /// With `resume`: the latest session time that the client has heard of, in milliseconds. At real speed everything
    /// up to here is done again as fast as it goes.
    pub seen_ms: u64,
}
