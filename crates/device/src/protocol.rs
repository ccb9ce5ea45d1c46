//! What node and worker say to each other.
//!
//! Two kinds of sockets, both made by the node and inherited by the worker:
//! - one control stream: JSON lines, a [`WorkerSetup`] down, a [`WorkerReport`] up, then silence; its end means that the
//!   other side is gone;
//! - one sequenced-packet socket per lane: a batch is one packet down ([`BatchHead`] and a [`JobEntry`] per job) and one
//!   packet up ([`AnswerHead`] and an [`AnswerEntry`] per job). Payloads stay in the slab; packets carry offsets;
//! - one sequenced-packet socket per group of devices: orders down, reports up ([`crate::group::orders`]).
//!
//! Both run the same binary, so the packets are the structs' bytes; lengths, offsets and codes are checked all the same.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytemuck::{Pod, Zeroable};
use sensorium_models::manifest::{Compute, Precision};
use sensorium_models::profile::ServiceProfile;
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::Modality;
use serde::{Deserialize, Serialize};

use crate::backend::cuda::GpuSetup;

/// Most jobs in one batch.
pub const BATCH_JOBS_MAX: usize = 64;
/// Longest packet, in bytes.
pub const PACKET_BYTES_MAX: usize = size_of::<BatchHead>() + BATCH_JOBS_MAX * size_of::<JobEntry>();
/// Longest line on the control stream, in bytes.
pub const CONTROL_LINE_BYTES_MAX: u64 = 4 << 20;

/// Start of a batch's packet.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct BatchHead {
    pub batch: u64,
    /// When the node sent it, by the shared monotonic clock.
    pub sent_ns: u64,
    /// Index into the lane's models.
    pub model: u32,
    pub jobs: u32,
}

/// One job of a batch.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct JobEntry {
    /// Number of this run: job, attempt and slice in one, from 1, never used twice by a node.
    pub run: u64,
    /// Number of the run whose answer was that the job is unfinished, and which this one continues; 0 = it starts.
    pub continues: u64,
    pub input_offset: u64,
    /// State and payload together.
    pub input_bytes: u64,
    pub output_offset: u64,
    pub output_bytes_max: u64,
    pub state_bytes: u32,
    pub sample_rate_hz: u32,
    pub shape: [u32; 6],
    pub payload: u8,
    pub dtype: u8,
    pub pixels: u8,
    pub rank: u8,
    /// After about how long the job is to stop unfinished, in microseconds; 0 = it runs to its end. Jobs that cannot be
    /// sliced run to their end all the same.
    pub slice_us: u32,
}

/// Start of an answer packet.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AnswerHead {
    pub batch: u64,
    /// When the worker held the batch, and when it had all answers, by the shared monotonic clock.
    pub received_ns: u64,
    pub finished_ns: u64,
    pub jobs: u32,
    pub reserved: u32,
}

/// The answer to one job.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AnswerEntry {
    pub run: u64,
    /// Bytes written to the output slot: the body, or the sentence that explains a failure.
    pub output_bytes: u64,
    pub prepare_ns: u64,
    pub infer_ns: u64,
    pub interpret_ns: u64,
    pub shape: [u32; 6],
    /// Code of the [`sensorium_wire::Reason`]; 0 = a result.
    pub reason: u8,
    pub body: u8,
    pub dtype: u8,
    pub rank: u8,
    /// 1 = the slice ended before the job: there is no output yet, and the job wants another run that continues this one.
    /// Stage times are this slice's alone.
    pub unfinished: u8,
    pub reserved: [u8; 3],
}

/// Writes a packet: head, then entries.
pub fn put_packet<H: Pod, E: Pod>(out: &mut Vec<u8>, head: &H, entries: impl IntoIterator<Item = E>) {
    out.clear();
    out.extend_from_slice(bytemuck::bytes_of(head));
    for entry in entries {
        out.extend_from_slice(bytemuck::bytes_of(&entry));
    }
}

/// Reads a packet's head and gives an iterator over its entries; `None` when the length does not fit `count(head)`
/// entries or there are more than [`BATCH_JOBS_MAX`].
pub fn read_packet<H: Pod, E: Pod>(
    packet: &[u8],
    count: impl Fn(&H) -> u32,
) -> Option<(H, impl ExactSizeIterator<Item = E> + '_)> {
    let (head, rest) = packet.split_at_checked(size_of::<H>())?;
    let head: H = bytemuck::pod_read_unaligned(head);
    let jobs = usize::try_from(count(&head)).ok()?;
    if jobs == 0 || jobs > BATCH_JOBS_MAX || rest.len() != jobs * size_of::<E>() {
        return None;
    }
    Some((head, rest.chunks_exact(size_of::<E>()).map(bytemuck::pod_read_unaligned)))
}

/// What a worker is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerSetup {
    /// For example `cpu:0`.
    pub device: String,
    /// The GPU that it drives; `None` = the processor.
    pub gpu: Option<GpuSetup>,
    /// Cores to stay on; empty = any.
    pub cpus: Vec<u32>,
    /// Added to the process's niceness, so that the node's network threads come first.
    pub nice: i32,
    /// ONNX Runtime's library: for a GPU the one with a CUDA provider beside it.
    pub onnxruntime: PathBuf,
    pub repositories: Vec<PathBuf>,
    pub weights: PathBuf,
    pub slab_bytes: u64,
    pub lanes: Vec<LaneSetup>,
    /// Names of the groups that it is a member of; their sockets come after those of the lanes.
    #[serde(default)]
    pub groups: Vec<String>,
    pub injection: Option<Injection>,
    /// Another worker serves meanwhile: this one loads in its shadow, one model after the other.
    #[serde(default)]
    pub standby: bool,
}

/// One lane and the models that it keeps ready, in the order of their indices.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneSetup {
    pub modality: Modality,
    pub models: Vec<ModelSetup>,
}

/// A model to keep ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelSetup {
    pub name: String,
    /// What its networks are to compute in; see [`crate::executor::chosen`].
    pub precision: Precision,
    /// What an earlier worker of this device measured: a successor that runs the same only warms the model, and is back
    /// sooner.
    pub known: Option<Measured>,
}

/// What was measured of a model, and of what of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// See [`crate::executor::variant_name`].
    pub variant: String,
    pub profile: ServiceProfile,
}

/// What a worker says once, when it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerReport {
    pub lanes: Vec<LaneReport>,
    /// What is not as it was asked for and works all the same, one line each.
    pub notes: Vec<String>,
}

/// A lane's models, in the order of the setup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneReport {
    pub modality: Modality,
    pub models: Vec<ModelReport>,
}

/// How loading a model went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelReport {
    pub name: String,
    pub version: u32,
    pub load_ms: u64,
    /// Measured service times and memory, or why it could not be loaded.
    pub outcome: Result<Measured, String>,
    /// Why something else of it runs than was asked for.
    pub note: Option<String>,
    /// Where its operators are computed.
    #[serde(default)]
    pub placement: PlacementReport,
}

/// Where the operators of a model's networks are computed, as the runtime said at load. Empty for a model without networks,
/// and for one that could not be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementReport {
    /// What the manifest promises of a GPU.
    pub compute: Compute,
    /// Operators by the runtime's name for who computes them, for example `CPUExecutionProvider`.
    pub operators: BTreeMap<String, usize>,
    /// Kinds of operator that a GPU does not compute, the most frequent first: at most [`Self::KINDS_MAX`].
    pub off_gpu: Vec<(String, usize)>,
    /// Kinds beyond those.
    pub off_gpu_kinds_left_out: usize,
}

impl PlacementReport {
    /// Most providers, and most kinds of operator, that are told.
    pub const KINDS_MAX: usize = 32;
    /// Longest name that is told, in bytes.
    const NAME_BYTES_MAX: usize = 128;

    /// The same within its bounds: a worker's word is not trusted.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        let short = |name: &str| name.len() <= Self::NAME_BYTES_MAX;
        self.operators = self.operators.into_iter().filter(|(name, _)| short(name)).take(Self::KINDS_MAX).collect();
        let kinds = self.off_gpu.len();
        self.off_gpu.retain(|(name, _)| short(name));
        self.off_gpu.truncate(Self::KINDS_MAX);
        self.off_gpu_kinds_left_out = self.off_gpu_kinds_left_out.saturating_add(kinds - self.off_gpu.len());
        self
    }
}

/// Faults put in on purpose, for tests: `[inject]` in the node's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Injection {
    /// Stage that is made slower.
    pub delay_stage: Option<Stage>,
    /// By how much, in microseconds.
    pub delay_us: u64,
    /// A worker exits at once when it is given a payload that starts with these bytes.
    pub exit_on_prefix: Option<String>,
    /// A worker stops answering when it is given a payload that starts with these bytes.
    pub hang_on_prefix: Option<String>,
    /// A worker answers with a packet of random bytes when it is given a payload that starts with these bytes.
    pub nonsense_on_prefix: Option<String>,
    /// A worker on a GPU writes to memory that is not there, with a kernel, when it is given a payload that starts with these
    /// bytes. On a processor nothing happens, and the worker says so when it starts.
    pub illegal_on_prefix: Option<String>,
    /// The node takes its first device for lost, as a GPU that has left the bus, from so many milliseconds after its start;
    /// counts only with the next.
    pub lose_device_after_ms: u64,
    /// For how long, in milliseconds; 0 = it does not.
    pub lose_device_for_ms: u64,
    /// So many devices of the processor in place of each, on the same cores; 0 and 1 = as it is.
    pub cpu_devices: u32,
}

impl Injection {
    /// Sleeps if `stage` is the one to delay. Called inside the stage's own measurement.
    pub fn pause(&self, stage: Stage) {
        if self.delay_stage == Some(stage) {
            std::thread::sleep(std::time::Duration::from_micros(self.delay_us));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_a_round_trip_and_wrong_lengths_do_not() {
        let head = BatchHead { batch: 7, sent_ns: 9, model: 1, jobs: 2 };
        let entries = [JobEntry { run: 1, ..Default::default() }, JobEntry { run: 2, ..Default::default() }];
        let mut packet = Vec::new();
        put_packet(&mut packet, &head, entries);
        let (read, jobs) = read_packet::<BatchHead, JobEntry>(&packet, |head| head.jobs).unwrap();
        assert_eq!((read.batch, read.sent_ns, read.model), (7, 9, 1));
        assert_eq!(jobs.map(|job| job.run).collect::<Vec<_>>(), [1, 2]);
        for end in 0..packet.len() {
            assert!(read_packet::<BatchHead, JobEntry>(&packet[..end], |head| head.jobs).is_none(), "{end}");
        }
        let many = BatchHead { jobs: 65, ..head };
        put_packet(&mut packet, &many, vec![JobEntry::default(); 65]);
        assert!(read_packet::<BatchHead, JobEntry>(&packet, |head| head.jobs).is_none());
    }

    #[test]
    fn a_placement_is_cut_to_its_bounds() {
        let many = PlacementReport {
            operators: (0..100).map(|number| (format!("provider {number}"), 1)).collect(),
            off_gpu: (0..100).map(|number| (format!("Op{number}"), 1)).chain([("x".repeat(1_000), 1)]).collect(),
            off_gpu_kinds_left_out: usize::MAX,
            ..PlacementReport::default()
        };
        let cut = many.bounded();
        assert_eq!((cut.operators.len(), cut.off_gpu.len(), cut.off_gpu_kinds_left_out), (32, 32, usize::MAX));
        let few = PlacementReport { off_gpu: vec![("If".to_owned(), 2)], ..PlacementReport::default() };
        assert_eq!(few.clone().bounded(), few);
    }

    #[test]
    fn slices_survive_a_round_trip_next_to_their_neighbours() {
        let mut packet = Vec::new();
        let head = BatchHead { batch: 1, jobs: 1, ..Default::default() };
        let job = JobEntry {
            run: 8,
            continues: 0x0102_0304_0506_0708,
            input_offset: 3,
            rank: 2,
            slice_us: 40_000,
            ..Default::default()
        };
        put_packet(&mut packet, &head, [job]);
        let read = {
            let (_, mut jobs) = read_packet::<BatchHead, JobEntry>(&packet, |head| head.jobs).unwrap();
            jobs.next().unwrap()
        };
        assert_eq!((read.run, read.continues, read.input_offset), (8, 0x0102_0304_0506_0708, 3));
        assert_eq!((read.rank, read.slice_us), (2, 40_000));

        let head = AnswerHead { batch: 1, jobs: 2, ..Default::default() };
        let unfinished = AnswerEntry { run: 8, infer_ns: 9, unfinished: 1, ..Default::default() };
        let finished = AnswerEntry { run: 9, rank: 6, ..Default::default() };
        put_packet(&mut packet, &head, [unfinished, finished]);
        let (_, answers) = read_packet::<AnswerHead, AnswerEntry>(&packet, |head| head.jobs).unwrap();
        let read: Vec<_> = answers.map(|answer| (answer.run, answer.rank, answer.unfinished)).collect();
        assert_eq!(read, [(8, 0, 1), (9, 6, 0)]);
        assert!(packet.len() <= PACKET_BYTES_MAX);
    }
}
