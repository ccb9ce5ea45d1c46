//! Every limit of the protocol, with its unit last. Both sides check them; nothing from outside is unbounded.

/// Longest header a frame may carry, in bytes. The largest header in use is below a kilobyte.
pub const HEADER_BYTES_MAX: usize = 4 << 10;
/// Longest payload of one job, in bytes: an uncompressed 4K RGB frame (24.9 MB) fits.
pub const PAYLOAD_BYTES_MAX: u64 = 32 << 20;
/// Payloads up to this size share one coalesced stream per urgency; larger ones get a stream of their own.
pub const COALESCED_PAYLOAD_BYTES_MAX: u64 = 64 << 10;
/// Longest media file that a session may upload, in bytes.
pub const MEDIA_BYTES_MAX: u64 = 8 << 30;
/// Longest single event of a session, in bytes.
pub const EVENT_BYTES_MAX: u64 = 256 << 10;
/// Longest status or model list answer, in bytes.
pub const QUERY_BYTES_MAX: u64 = 4 << 20;
/// Longest text that explains an error, in bytes.
pub const DETAIL_BYTES_MAX: usize = 1 << 10;
/// Longest model state that travels with a job, in bytes.
pub const STATE_BYTES_MAX: u32 = 64 << 10;
/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 6;
/// Most detections, classes or probabilities in one result.
pub const RESULT_ITEMS_MAX: usize = 4096;
/// Longest deadline a job may ask for, in microseconds (one hour).
pub const BUDGET_US_MAX: u64 = 3_600_000_000;
/// Jobs that one connection may have in flight; the server announces what it grants, never more than this.
pub const JOBS_IN_FLIGHT_MAX: u32 = 1024;
/// Payload bytes that one connection may have in flight; announced likewise.
pub const BYTES_IN_FLIGHT_MAX: u64 = 128 << 20;
/// Sessions that one connection may have open.
pub const SESSIONS_MAX: u32 = 16;
/// Answers kept for resubmission under the same job id, per node.
pub const RETAINED_ANSWERS_MAX: usize = 16_384;
/// Payload bytes of answers kept for resubmission, per node.
pub const RETAINED_BYTES_MAX: usize = 64 << 20;
/// Longest critical moment that one call may announce, in milliseconds (ten minutes).
pub const CRITICAL_MOMENT_MS_MAX: u64 = 600_000;
/// Nodes that a job may pass on its way to the one that runs it, the first included.
pub const HOPS_MAX: usize = 3;
/// Longest checkpoint of a session, in bytes.
pub const CHECKPOINT_BYTES_MAX: u64 = 64 << 10;
/// Longest name of a source (a camera, a microphone), in bytes.
pub const SOURCE_NAME_BYTES_MAX: usize = 128;
