//! Watches the node's GPUs once a second: what they say is shown, and a device whose GPU went bad is told.
//!
//! NVML's calls may block, so this has a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sensorium_device::protocol::Injection;
use sensorium_hardware::{DeviceKind, GpuSample, Health, HealthJudge, Plan, Reading};

use crate::actors::device::DeviceMessage;
use crate::board::Board;

/// Between two looks, in milliseconds; and where the loss of a device is played.
const LOOK_MS: u64 = 1_000;
const PLAYED_LOOK_MS: u64 = 50;

/// The watching thread; it ends when this goes.
pub(crate) struct Watch {
    /// Dropped first, which ends the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches the GPUs of `plan`; `None` where there is none and no loss is to be played.
    pub(crate) fn start(plan: &Plan, injection: &Injection, board: &Arc<Board>) -> io::Result<Option<Self>> {
        let gpus = (0_u32..).zip(&plan.devices).filter_map(|(number, device)| match &device.kind {
            DeviceKind::Cuda { uuid, .. } => Some((number, uuid.clone())),
            DeviceKind::Cpu => None,
        });
        let (devices, uuids): (Vec<u32>, Vec<String>) = gpus.unzip();
        let played = (injection.lose_device_for_ms > 0).then(|| injection.clone());
        if devices.is_empty() && played.is_none() {
            return Ok(None);
        }
        let (stop, stopped) = mpsc::channel();
        let board = Arc::clone(board);
        let wait = move |ms| matches!(stopped.recv_timeout(Duration::from_millis(ms)), Err(RecvTimeoutError::Timeout));
        let thread = std::thread::Builder::new().name("gpu health".to_owned()).spawn(move || match played {
            Some(injection) => play(&injection, || wait(PLAYED_LOOK_MS), &board),
            None => {
                let mut judges = vec![HealthJudge::default(); devices.len()];
                sensorium_hardware::watch(
                    &uuids,
                    || wait(LOOK_MS),
                    |gpu, reading| {
                        tell(&board, devices[gpu], judges[gpu].judge(&reading));
                        let sample = match reading {
                            Reading::Sample(sample) => Some(sample),
                            Reading::Lost | Reading::Silent(_) => None,
                        };
                        board.set_sample(devices[gpu], sample);
                    },
                );
            }
        })?;
        Ok(Some(Self { stop: Some(stop), thread: Some(thread) }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Tells a verdict to the device's actor, which keeps in mind what it was told.
fn tell(board: &Board, device: u32, health: Health) {
    if let Health::Bad(reason) = &health {
        // At once, and not only when the actor has its turn: nobody should take the device for ready.
        board.quarantine(device, reason);
    }
    if let Some(actor) = board.address(device) {
        let _ = actor.cast(DeviceMessage::Health(health));
    }
}

/// Plays that the first device is lost for a while, for tests: `[inject]` in the node's configuration.
fn play(injection: &Injection, mut wait: impl FnMut() -> bool, board: &Board) {
    let mut judge = HealthJudge::default();
    let began = Instant::now();
    let from = Duration::from_millis(injection.lose_device_after_ms);
    let until = from + Duration::from_millis(injection.lose_device_for_ms);
    while wait() {
        let lost = (from..until).contains(&began.elapsed());
        let reading = if lost { Reading::Lost } else { Reading::Sample(GpuSample::default()) };
        // Only the verdict: no reading that was made up is ever shown.
        tell(board, 0, judge.judge(&reading));
    }
}
