//! What this node could promise, for whoever chooses between nodes. Nothing is changed by asking.

use std::sync::atomic::Ordering;

use sensorium_device::clock::now_ns;
use sensorium_scheduler::{Job, Outlook, StreamKey};
use sensorium_wire::SubmitHeader;

use super::admit::{NO_RECORD, scheduled, stream_key};
use super::{Caller, Engine, ModelInfo};

/// A load report looks no further ahead than this, in nanoseconds.
const HORIZON_NS: u64 = 60_000_000_000;

/// What one job can expect here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// Until it is done, even in a bad spell, in microseconds.
    pub sure_us: u64,
    /// Its own work, in microseconds.
    pub own_us: u64,
}

/// How a model does here, for a job that comes now.
#[derive(Clone, Copy, Debug)]
pub struct ModelLoad<'a> {
    pub model: &'a ModelInfo,
    pub outlook: Outlook,
}

impl Engine {
    /// What a job can expect; `None` when it would be refused.
    pub fn prospect(&self, caller: Caller, header: &SubmitHeader, payload_bytes: u64) -> Option<Prospect> {
        let model = self.models.find(header.model.as_str()).filter(|model| !model.is_stage)?;
        if header.model_version != 0 && header.model_version != model.version {
            return None;
        }
        let now_ns = now_ns();
        let deadline_ns = now_ns.saturating_add(header.budget_us.saturating_mul(1000));
        let job = scheduled(caller.id, header, payload_bytes, model.key, deadline_ns);
        let core = self.core.lock();
        let promise = self.models.promise((&core.scheduler, &core.records), now_ns, &job).ok()?;
        let outlook = promise.outlook(&core.scheduler, now_ns);
        drop(core);
        // Accepted without an outlook: its worker is coming back, or the stream's job before it is waited for.
        Some(outlook.map_or(Prospect { sure_us: header.budget_us, own_us: 0 }, |outlook| Prospect {
            sure_us: outlook.sure_ns / 1000,
            own_us: outlook.own_ns / 1000,
        }))
    }

    /// The stream of a job, if it belongs to one, and whether jobs of it are in flight here.
    pub fn stream(&self, caller: Caller, header: &SubmitHeader) -> Option<(StreamKey, bool)> {
        if header.stream == 0 {
            return None;
        }
        let stream = stream_key(caller.id, header);
        let model = self.models.find(header.model.as_str());
        let here = model.is_some_and(|model| self.core.lock().scheduler.has_stream(stream, model.key));
        Some((stream, here))
    }

    /// How every model would do now that a lane serves, for a job of standard urgency and the size last seen.
    pub fn load(&self) -> Vec<ModelLoad<'_>> {
        let now_ns = now_ns();
        let core = self.core.lock();
        let loads = self.models.iter().filter(|model| !model.is_stage).filter_map(|model| {
            let work = self.works.get(model.key.0 as usize).map_or(0, |work| work.load(Ordering::Relaxed));
            let job = Job { work, ..Job::new(NO_RECORD, model.key, now_ns.saturating_add(HORIZON_NS)) };
            let promise = self.models.promise((&core.scheduler, &core.records), now_ns, &job).ok()?;
            Some(ModelLoad { model, outlook: promise.outlook(&core.scheduler, now_ns)? })
        });
        loads.collect()
    }
}
