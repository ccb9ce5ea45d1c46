//! Models that are split by stages: one job, several models in a row.
//!
//! To the scheduler each stage is a job of its own, under one key, one after the other. A job is let in when each stage could
//! be done by the time that those behind it leave, and memory for what each gives is set aside then; after that no stage is
//! refused. What a stage gives stays in payload memory, where the next one's worker finds it: the node copies nothing.

use sensorium_device::protocol::{AnswerEntry, JobEntry};
use sensorium_device::slab::Slot;
use sensorium_models::stages::HEAD_BYTES;
use sensorium_scheduler::{Event, Job, JobKey, Outlook, Refusal, Scheduler};
use sensorium_wire::ids::Name;
use sensorium_wire::receipt::Stage;
use sensorium_wire::submit::PayloadKind;

use super::models::{ModelInfo, ModelTable};
use super::run::{Ran, stages_of_run};
use super::{Core, Engine};

/// A job's stages, each with the time by which it must be done.
pub(super) struct Promise<'a> {
    pub(super) first: Job,
    /// In their order.
    later: Vec<(&'a ModelInfo, Job)>,
}

/// How far a job of a split model is.
pub(super) struct Row {
    /// The stages to come, the next one last, each with the room for what it gives.
    later: Vec<(Job, Slot)>,
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
    pub(super) fn promise(&self, scheduler: &Scheduler, now_ns: u64, job: &Job) -> Result<Promise<'_>, (Job, Refusal)> {
        let mut later = Vec::new();
        let mut stage = self.get(job.model);
        while let Some(info) = stage.and_then(|info| info.next).and_then(|next| self.get(next)) {
            later
                .push((info, Job { model: info.key, payload_bytes: info.input_bytes, work: info.input_bytes, ..*job }));
            stage = Some(info);
        }
        let mut deadline_ns = job.deadline_ns;
        for (_, stage) in later.iter_mut().rev() {
            stage.deadline_ns = deadline_ns;
            if let Some(refusal) = scheduler.refusal(now_ns, stage) {
                return Err((*stage, refusal));
            }
            if let (Some(outlook), true) = (scheduler.outlook(now_ns, stage), deadline_ns < u64::MAX) {
                // As at admission: at most half of the time beyond what is expected is kept for a bad spell.
                let spare_ns = deadline_ns.saturating_sub(now_ns).saturating_sub(outlook.expected_ns);
                let margin_ns = outlook.sure_ns.saturating_sub(outlook.expected_ns).min(spare_ns / 2);
                deadline_ns = deadline_ns.saturating_sub(outlook.expected_ns + margin_ns);
            }
        }
        let first = Job { deadline_ns, ..*job };
        match scheduler.refusal(now_ns, &first) {
            Some(refusal) => Err((first, refusal)),
            None => Ok(Promise { first, later }),
        }
    }
}

impl Promise<'_> {
    /// When all stages would be done; `None` when a lane is missing or full.
    pub(super) fn outlook(&self, scheduler: &Scheduler, now_ns: u64) -> Option<Outlook> {
        let first = scheduler.outlook(now_ns, &self.first)?;
        self.later.iter().try_fold(first, |sum, (_, stage)| {
            let outlook = scheduler.outlook(now_ns, stage)?;
            Some(Outlook {
                expected_ns: sum.expected_ns.saturating_add(outlook.expected_ns),
                sure_ns: sum.sure_ns.saturating_add(outlook.sure_ns),
                own_ns: sum.own_ns.saturating_add(outlook.own_ns),
            })
        })
    }

    /// Sets memory aside for what the later stages give; `None` when there are none.
    ///
    /// # Errors
    /// That of `allocate`.
    pub(super) fn row<E>(&self, allocate: impl Fn(&ModelInfo) -> Result<Slot, E>) -> Result<Option<Box<Row>>, E> {
        if self.later.is_empty() {
            return Ok(None);
        }
        let later = self.later.iter().rev().map(|(info, job)| Ok((*job, allocate(info)?)));
        let later = later.collect::<Result<_, E>>()?;
        let payload_bytes = self.first.payload_bytes;
        let (done_ns, devices) = ([0; Stage::COUNT], Name::default());
        Ok(Some(Box::new(Row { later, fed: None, payload_bytes, done_ns, devices, attempt: 0 })))
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
        let ended = entry.reason != 0 || record.reply.is_none() || ran.collected_ns > record.deadline_ns;
        let Some(row) = record.row.as_mut().filter(|_| !ended) else { return false };
        let Some((job, output)) = row.later.pop() else { return false };
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
