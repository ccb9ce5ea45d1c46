//! What was not looked at, told in as few events as possible.

use sensorium_wire::{EventBody, Modality, Name};

use super::Events;

/// Adds neighbouring losses up and tells of them when they end.
pub(super) struct Gaps {
    modality: Modality,
    events: Events,
    open: Option<Gap>,
}

struct Gap {
    start_ms: u64,
    end_ms: u64,
    units: u64,
    reason: String,
}

impl Gaps {
    pub(super) fn new(modality: Modality, events: Events) -> Self {
        Self { modality, events, open: None }
    }

    /// Something between the two times was lost.
    pub(super) fn lose(&mut self, start_ms: u64, end_ms: u64, reason: &str) {
        match &mut self.open {
            Some(gap) if gap.reason == reason => {
                gap.end_ms = end_ms;
                gap.units += 1;
            }
            _ => {
                self.end();
                self.open = Some(Gap { start_ms, end_ms, units: 1, reason: reason.to_owned() });
            }
        }
    }

    /// What follows was looked at again.
    pub(super) fn end(&mut self) {
        let Some(gap) = self.open.take() else { return };
        let Gap { start_ms, end_ms, units, reason } = gap;
        let modality = Name::cut(self.modality.name());
        self.events.emit(start_ms, EventBody::Gap { modality, start_ms, end_ms, units, reason }, None);
    }
}

impl Drop for Gaps {
    fn drop(&mut self) {
        self.end();
    }
}
