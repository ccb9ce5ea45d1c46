//! Lanes as the data path sees them: a socket to a worker thread, and the models behind it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use sensorium_device::clock::now_ns;
use sensorium_device::protocol::{AnswerEntry, AnswerHead, PlacementReport, read_packet};
use sensorium_models::profile::ServiceProfile;
use sensorium_scheduler::{
    BatchId, DeviceId, DeviceKind, Event, Handled, JobKey, LaneId, ModelKey, ModelPolicy, Unfinished,
};
use sensorium_wire::Modality;
use sensorium_wire::ids::Name;
use sensorium_wire::receipt::Stage;
use thiserror::Error;

use super::Engine;

/// One incarnation of a lane.
pub struct LaneLink {
    pub(super) socket: Arc<OwnedFd>,
    pub(super) device: DeviceId,
    pub(super) device_name: Name<16>,
    pub(super) modality: Modality,
    pub(super) models: Vec<LaneModel>,
    /// Batches sent and not answered, oldest first.
    pub(super) committed: VecDeque<SentBatch>,
}

/// A model that a lane has ready.
#[derive(Clone, Debug)]
pub struct LaneModel {
    pub key: ModelKey,
    /// Its number in the worker.
    pub index: u32,
    pub load_ms: u64,
    /// What of it runs: its precision, and who compiled it.
    pub variant: Name<16>,
    pub profile: ServiceProfile,
    /// Where its operators are.
    pub placement: PlacementReport,
}

pub(super) struct SentBatch {
    pub(super) batch: BatchId,
    /// Its model's number in the worker.
    pub(super) model: u32,
    pub(super) sent_ns: u64,
    /// Its jobs may come back unfinished.
    pub(super) sliced: bool,
    pub(super) jobs: Vec<(JobKey, u64)>,
}

/// A worker said something that no sound worker says.
#[derive(Debug, Error)]
pub enum Nonsense {
    #[error("a packet of {0} bytes that is no answer")]
    Packet(usize),
    #[error("an answer to batch {got}, where batch {expected} is due")]
    Order { got: u64, expected: u64 },
    #[error("an answer to {got} jobs of batch {batch}, which has {expected}")]
    Jobs { batch: u64, got: usize, expected: usize },
    #[error("run {run} is not of batch {batch}")]
    Run { batch: u64, run: u64 },
    #[error("run {run}: {what}")]
    Answer { run: u64, what: &'static str },
}

impl Engine {
    /// A device exists that can run so many lanes at once without slowing them.
    pub fn add_device(&self, device: DeviceId, kind: DeviceKind, lanes_at_once_max: u16) {
        let mut core = self.core.lock();
        let _ = self.handle(&mut core, Event::DeviceAdded { device, kind, lanes_at_once_max });
    }

    /// A worker's lane is ready: jobs go to it from now on.
    pub fn open_lane(
        &self,
        device: DeviceId,
        device_name: &str,
        modality: Modality,
        socket: Arc<OwnedFd>,
        models: Vec<LaneModel>,
    ) -> LaneId {
        let mut core = self.core.lock();
        let lane = LaneId(core.next_lane);
        core.next_lane += 1;
        let policies = models.iter().filter_map(|model| {
            let info = self.models.get(model.key)?;
            let quantile = |pick: fn(&sensorium_models::profile::BatchProfile) -> u64| {
                model.profile.batches.iter().map(|batch| (batch.jobs, pick(batch))).collect()
            };
            let run_ns_max = u64::from(info.run_ms_max) * 1_000_000;
            let learned = core.learned.find(device_name, info, model);
            let policy = ModelPolicy::new(
                info.batch_max,
                run_ns_max,
                quantile(|batch| batch.total.p50_ns),
                quantile(|batch| batch.total.p99_ns),
            );
            let slice_ns = u64::from(info.slice_ms) * 1_000_000;
            Some((model.key, ModelPolicy { slice_ns, learned, ..policy }))
        });
        let policies = policies.collect();
        let device_name = Name::cut(device_name);
        let committed = VecDeque::new();
        core.lanes.insert(lane, LaneLink { socket, device, device_name, modality, models, committed });
        let _ = self.handle(&mut core, Event::LaneOpened { lane, device, modality, models: policies });
        lane
    }

    /// The device's worker is dead and reaped: what it held runs again elsewhere or later.
    pub fn lose_device(&self, device: DeviceId) {
        let mut guard = self.core.lock();
        let core = &mut *guard;
        self.keep_learned(core);
        // Jobs that were taken back while they ran are not run again; only now is their memory free.
        for (_, lane) in core.lanes.extract_if(|_, lane| lane.device == device) {
            for (key, _) in lane.committed.iter().flat_map(|sent| &sent.jobs) {
                if core.records.get_mut(*key).is_some_and(|record| record.reply.is_none()) {
                    core.records.remove(*key);
                }
            }
        }
        let _ = self.handle(core, Event::DeviceLost { device });
    }

    /// A packet came from a lane's worker.
    ///
    /// # Errors
    /// [`Nonsense`]: the worker must be replaced. Packets of lanes that are gone are dropped without a word.
    pub fn lane_packet(&self, lane: LaneId, packet: &[u8]) -> Result<(), Nonsense> {
        self.injection.pause(Stage::Collect);
        let collected_ns = now_ns();
        let (head, entries) =
            read_packet::<AnswerHead, AnswerEntry>(packet, |head| head.jobs).ok_or(Nonsense::Packet(packet.len()))?;
        let mut guard = self.core.lock();
        let core = &mut *guard;
        let Some(link) = core.lanes.get_mut(&lane) else {
            self.counters.stale_answers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return Ok(());
        };
        let expected = link.committed.front().map_or(0, |sent| sent.batch.0);
        if head.batch != expected {
            return Err(Nonsense::Order { got: head.batch, expected });
        }
        let sent = link.committed.front().expect("its number was just read");
        if entries.len() != sent.jobs.len() {
            return Err(Nonsense::Jobs { batch: head.batch, got: entries.len(), expected: sent.jobs.len() });
        }
        let entries: smallvec::SmallVec<[AnswerEntry; 8]> = entries.collect();
        for (entry, (key, run)) in entries.iter().zip(&sent.jobs) {
            if entry.run != *run {
                return Err(Nonsense::Run { batch: head.batch, run: entry.run });
            }
            let capacity = core.records.get_mut(*key).map_or(u64::MAX, |record| record.output.capacity());
            if let Some(what) = super::run::implausible(&head, entry, capacity, sent.sent_ns, collected_ns, sent.sliced)
            {
                return Err(Nonsense::Answer { run: entry.run, what });
            }
        }
        let (device_name, modality) = (link.device_name, link.modality);
        let model = link.committed.front().map_or(0, |sent| sent.model);
        let variant =
            link.models.iter().find(|known| known.index == model).map_or_else(Name::default, |known| known.variant);
        let sent = link.committed.pop_front().expect("its number was just read");
        let service_ns = head.finished_ns.saturating_sub(head.received_ns);
        let ran = super::run::Ran {
            head,
            sent_ns: sent.sent_ns,
            collected_ns,
            device_name,
            modality,
            variant,
            jobs: entries.len(),
        };
        // Before the scheduler hears, for it may send the next slice at once.
        let mut unfinished = Unfinished::new();
        for (entry, (key, _)) in entries.iter().zip(&sent.jobs).filter(|(entry, _)| entry.unfinished > 0) {
            // One that was taken back meanwhile ends here.
            if let Some(record) = core.records.get_mut(*key).filter(|record| record.reply.is_some()) {
                record.add_slice(entry, &ran);
                unfinished.push(*key);
            }
        }
        // The scheduler hears first: the worker gets its next batch before the answers of this one are written.
        let done = Event::BatchDone { lane, batch: sent.batch, service_ns, unfinished: unfinished.clone() };
        let handled = self.handle(core, done);
        debug_assert_eq!(handled, Handled::Applied);
        let mut evidence: smallvec::SmallVec<[_; 8]> = smallvec::SmallVec::new();
        for (entry, (key, _)) in entries.iter().zip(&sent.jobs) {
            if unfinished.contains(key) || self.hand_over(core, *key, entry, &ran) {
                continue;
            }
            if let Some(record) = core.records.remove(*key) {
                evidence.extend(self.finish_run(record, entry, &ran));
            }
        }
        // Rules come after the answers, and hold up nobody who waits for the scheduler.
        drop(guard);
        evidence.iter().for_each(|evidence| self.conclude(evidence));
        Ok(())
    }
}
