//! The load report: what a node tells each neighbour many times a second, in one datagram.
//!
//! ```text
//! offset  length  field (integers are little-endian)
//!      0       4  magic "SNLR"
//!      4       1  version, 1
//!      5       1  number of entries, at most 32
//!      6       8  instance      14  8  number
//!     22       8  sent_us       30  8  echo_us      38  4  echo_delay_us
//!     42      34  each entry:
//!                  0  8 model    8  8 node   16  1 tier (0 edge, 1 regional, 2 central)   17  1 hops
//!                 18  4 service_us   22  4 typical_us   26  4 queue_us   30  4 way_us
//! ```
//!
//! A report is complete in itself: a lost one costs freshness only, so nothing is acknowledged or sent again.

use sensorium_wire::Tier;

use crate::{HOPS_MAX, ModelId, NodeId};

/// Longest report, in bytes: it fits into one datagram of the smallest packet that QUIC allows. Reports with
/// [`ENTRIES_MAX`] entries have 1,130.
pub const REPORT_BYTES_MAX: usize = 1_200;
/// Most entries of a report.
pub const ENTRIES_MAX: usize = 32;

const MAGIC: [u8; 4] = *b"SNLR";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 42;
const ENTRY_BYTES: usize = 34;
const _: () = assert!(HEAD_BYTES + ENTRIES_MAX * ENTRY_BYTES <= REPORT_BYTES_MAX);

/// What one node offers for one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadEntry {
    pub model: ModelId,
    /// Who would run it.
    pub node: NodeId,
    pub tier: Tier,
    /// From the sender of the report; 0 = the sender itself. Below [`HOPS_MAX`].
    pub hops: u8,
    /// 99th percentile of one job alone, in microseconds.
    pub service_us: u32,
    /// Median of one job alone, in microseconds.
    pub typical_us: u32,
    /// How long a fresh `standard` job would wait, in microseconds.
    pub queue_us: u32,
    /// Round trip between the sender of the report and `node`, in microseconds.
    pub way_us: u32,
}

/// What a node tells a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LoadReport {
    /// The sender's life: another one after every start.
    pub instance: u64,
    /// Rises with every report that the sender sends to this receiver.
    pub number: u64,
    /// The sender's monotonic clock, in microseconds. Means nothing to the receiver, which only sends it back.
    pub sent_us: u64,
    /// The newest `sent_us` that the sender had from the receiver; 0 = none yet.
    pub echo_us: u64,
    /// How long before `sent_us` the sender had received that, in microseconds.
    pub echo_delay_us: u32,
    /// At most [`ENTRIES_MAX`] of them are sent, the first ones.
    pub entries: Vec<LoadEntry>,
}

impl LoadReport {
    /// Appends the report's bytes, at most [`REPORT_BYTES_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let entries = &self.entries[..self.entries.len().min(ENTRIES_MAX)];
        out.reserve(HEAD_BYTES + entries.len() * ENTRY_BYTES);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(u8::try_from(entries.len()).unwrap_or(0));
        for number in [self.instance, self.number, self.sent_us, self.echo_us] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.echo_delay_us.to_le_bytes());
        for entry in entries {
            out.extend_from_slice(&entry.model.0.to_le_bytes());
            out.extend_from_slice(&entry.node.0.to_le_bytes());
            out.push(match entry.tier {
                Tier::Edge => 0,
                Tier::Regional => 1,
                Tier::Central => 2,
            });
            out.push(entry.hops);
            for us in [entry.service_us, entry.typical_us, entry.queue_us, entry.way_us] {
                out.extend_from_slice(&us.to_le_bytes());
            }
        }
    }

    /// Reads [`Self::encode`]'s form; `None` for anything else, also when bytes are left over.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Reader(bytes);
        if bytes.take()? != MAGIC || bytes.take()? != [VERSION] {
            return None;
        }
        let [count] = bytes.take()?;
        let count = usize::from(count);
        if count > ENTRIES_MAX {
            return None;
        }
        let mut report = Self {
            instance: bytes.u64()?,
            number: bytes.u64()?,
            sent_us: bytes.u64()?,
            echo_us: bytes.u64()?,
            echo_delay_us: bytes.u32()?,
            entries: Vec::with_capacity(count),
        };
        for _ in 0..count {
            report.entries.push(bytes.entry()?);
        }
        bytes.0.is_empty().then_some(report)
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, left) = self.0.split_first_chunk()?;
        self.0 = left;
        Some(*taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn entry(&mut self) -> Option<LoadEntry> {
        let (model, node) = (ModelId(self.u64()?), NodeId(self.u64()?));
        let [tier, hops] = self.take()?;
        let tier = *Tier::ALL.get(usize::from(tier))?;
        if hops >= HOPS_MAX {
            return None;
        }
        let (service_us, typical_us) = (self.u32()?, self.u32()?);
        let (queue_us, way_us) = (self.u32()?, self.u32()?);
        Some(LoadEntry { model, node, tier, hops, service_us, typical_us, queue_us, way_us })
    }
}

#[cfg(test)]
mod tests;
