//! Models that are split by stages: one job, several models in a row.
//!
//! To the scheduler each stage is a job of its own, under one key, one after the other. A job is let in when each stage could
//! be done by the time that those behind it leave, and memory for what each gives is set aside then; after that no stage is
//! refused. What a stage gives stays in payload memory, where the next one's worker finds it: the node copies nothing.

use sensorium_device::protocol::{AnswerEntry, JobEntry};
use sensorium_device::slab::Slot;
use sensorium_models::stages::{HEAD_BYTES, STAGES_MAX};
use sensorium_scheduler::{Event, Job, JobKey, JobStage, ModelKey, Outlook, Refusal, Scheduler};
use sensorium_wire::ids::Name;
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::PayloadKind;
use smallvec::{SmallVec, smallvec};

use super::models::ModelTable;
use super::records::Records;
use super::run::{Ran, stages_of_run};
use super::{Core, Engine};

/// A job's stages in their order, each with the time by which it must be done.
pub(super) struct Promise(SmallVec<[JobStage; 1]>);

/// How far a job of a split model is.
pub(super) struct Row {
    /// The stages to come, the next one last, each with the room for what it gives.
    pub(super) later: Vec<(Job, Slot)>,
    /// What a worker is told of the input of the stage that is due; `None` = the payload as it came.
    pub(super) fed: Option<JobEntry>,
    /// Length of that payload.
    pub(super) payload_bytes: u64,
    /// Time that earlier models took, by stage of the receipt.
    pub(super) done_ns: [u64; Stage::COUNT],
    /// Where they ran.
    devices: Name<16>,
    /// Most attempts that one of them took.
    pub(super) attempt: u32,
}

impl ModelTable {
    /// What would become of a job that arrived now.
    ///
    /// # Errors
    /// The stage that would be refused, and why.
    pub(super) fn promise(
        &self,
        (scheduler, records): (&Scheduler, &Records),
        now_ns: u64,
        job: &Job,
    ) -> Result<Promise, (Job, Refusal)> {
        let mut stages = smallvec![JobStage { job: *job, coming: 0 }];
        let mut stage = self.get(job.model);
        for _ in 1..STAGES_MAX {
            let Some(info) = stage.and_then(|info| info.next).and_then(|next| self.get(next)) else { break };
            let job = Job { model: info.key, payload_bytes: info.input_bytes, work: info.input_bytes, ..*job };
            stages.push(JobStage { job, coming: records.coming(info.key) });
            stage = Some(info);
        }
        scheduler.promise(now_ns, &mut stages)?;
        Ok(Promise(stages))
    }
}

impl Promise {
    pub(super) fn first(&self) -> Job {
        self.0[0].job
    }

    /// When all stages would be done; `None` when a lane is missing or full.
    pub(super) fn outlook(&self, scheduler: &Scheduler, now_ns: u64) -> Option<Outlook> {
        scheduler.outlook_of_stages(now_ns, &self.0)
    }

    /// Takes memory for what the later stages give; `None` when there are none.
    ///
    /// # Errors
    /// That of `allocate`, which is given their models.
    pub(super) fn row<E>(&self, allocate: impl Fn(ModelKey) -> Result<Slot, E>) -> Result<Option<Box<Row>>, E> {
        let [first, later @ ..] = &self.0[..] else { return Ok(None) };
        if later.is_empty() {
            return Ok(None);
        }
        let later =
            later.iter().rev().map(|stage| Ok((stage.job, allocate(stage.job.model)?))).collect::<Result<_, E>>()?;
        let (done_ns, devices) = ([0; Stage::COUNT], Name::default());
        Ok(Some(Box::new(Row {
            later,
            fed: None,
            payload_bytes: first.job.payload_bytes,
            done_ns,
            devices,
            attempt: 0,
        })))
    }
}

impl Row {
    /// The devices of all stages, in their order, each named once in a row: `cuda:0>cuda:1`.
    pub(super) fn devices_with(&self, device: Name<16>) -> Name<16> {
        let before = self.devices.as_str();
        match before.rsplit('>').next() {
            Some("") | None => device,
            Some(last) if last == device.as_str() => self.devices,
            Some(_) => Name::cut(&format!("{before}>{}", device.as_str())),
        }
    }
}

impl Engine {
    /// Gives a job to its next stage; `false` when this run was its last, or its answer is final for another reason.
    pub(super) fn hand_over(&self, core: &mut Core, key: JobKey, entry: &AnswerEntry, ran: &Ran) -> bool {
        let Some(record) = core.records.get_mut(key) else { return false };
        if entry.reason != 0 || record.reply.is_none() || ran.collected_ns > record.deadline_ns {
            return false;
        }
        let Some((job, output)) = core.records.next_stage(key) else { return false };
        let Some(record) = core.records.get_mut(key) else { return false };
        let Some(row) = record.row.as_mut() else { return false };
        let done_ns = stages_of_run(&record.times, entry, ran);
        for ((all_ns, before_ns), run_ns) in row.done_ns.iter_mut().zip(&mut record.before_ns).zip(done_ns) {
            *all_ns += std::mem::take(before_ns) + run_ns;
        }
        row.devices = row.devices_with(ran.device_name);
        row.attempt = row.attempt.max(record.attempt);
        row.fed = Some(JobEntry {
            state_bytes: HEAD_BYTES,
            shape: entry.shape,
            payload: PayloadKind::Tensor as u8,
            dtype: entry.dtype,
            rank: entry.rank,
            ..JobEntry::default()
        });
        record.input = std::mem::replace(&mut record.output, output);
        record.input_bytes = entry.output_bytes;
        record.model = job.model;
        record.times.queued_ns = ran.collected_ns;
        let _ = self.handle(core, Event::JobContinued(Job { key, ..job }));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_a_row_are_named_in_their_order() {
        let row = |devices: &str| Row {
            later: Vec::new(),
            fed: None,
            payload_bytes: 0,
            done_ns: [0; Stage::COUNT],
            devices: Name::cut(devices),
            attempt: 0,
        };
        let named = |before, device| row(before).devices_with(Name::cut(device)).to_string();
        assert_eq!(named("", "cpu:0"), "cpu:0");
        assert_eq!(named("cpu:0", "cpu:0"), "cpu:0");
        assert_eq!(named("cuda:0", "cuda:1"), "cuda:0>cuda:1");
        assert_eq!(named("cuda:0>cuda:1", "cuda:1"), "cuda:0>cuda:1");
        assert_eq!(named("cuda:0>cuda:1", "cuda:0"), "cuda:0>cuda:1>cu", "there is no more room");
    }
}
