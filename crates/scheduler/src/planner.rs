//! The plan follows the load: which row of the policy holds, and what shares that means for the devices there are.

use sensorium_wire::{Modality, Urgency};
use serde::{Deserialize, Serialize};

use crate::decay::{MEMORY_NS, decayed};
use crate::device::Device;
use crate::event::Command;
use crate::jobs::Place;
use crate::lane::LaneSlot;
use crate::plan::{
    Amount, DeviceKind, OnCpu, Plan, PlanPolicy, PlanRow, PolicyKind, SHARE_PERMILLE_MAX, Shares, split_cpus,
};
use crate::queue::Entry;
use crate::scheduler::Scheduler;
use crate::types::DeviceId;

/// How often the load is looked at, in nanoseconds.
const LOOK_EVERY_NS: u64 = 100_000_000;
/// Proportional shares change in steps of this many thousandths, and by two steps at least.
const STEP_PERMILLE: u16 = 50;
/// Least that a modality keeps under proportional shares, in thousandths, so that its work can show that it is there.
const KEPT_PERMILLE: u64 = 100;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Planner {
    policy: PlanPolicy,
    pub(crate) critical_until_ns: u64,
    /// Whether the moment was critical when the load was last looked at.
    critical: bool,
    epoch: u64,
    /// Index of the row in force.
    row: usize,
    proportions: Shares,
    changed_ns: u64,
    looked_ns: u64,
    /// Devices came or went: shares are dealt again at the next tick.
    devices_changed: bool,
    /// Service time offered by modality, weighted by urgency, decayed.
    offered_ns: [u64; 3],
    offered_at_ns: u64,
}

impl Planner {
    pub(crate) fn new(policy: PlanPolicy) -> Self {
        let row = policy.rows.len().saturating_sub(1);
        Self {
            policy,
            critical_until_ns: 0,
            critical: false,
            epoch: 0,
            row,
            proportions: Shares::default(),
            changed_ns: 0,
            looked_ns: 0,
            devices_changed: false,
            offered_ns: [0; 3],
            offered_at_ns: 0,
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// 0 = the calmest row.
    pub(crate) fn level(&self) -> u8 {
        u8::try_from(self.policy.rows.len().saturating_sub(1 + self.row)).unwrap_or(u8::MAX)
    }

    pub(crate) fn set_policy(&mut self, policy: PlanPolicy) {
        self.row = policy.rows.len().saturating_sub(1);
        self.policy = policy;
        self.devices_changed = true;
    }

    pub(crate) fn devices_changed(&mut self) {
        self.devices_changed = true;
    }

    /// So much work was offered.
    pub(crate) fn note(&mut self, now_ns: u64, modality: Modality, urgency: Urgency, time_ns: u64) {
        self.decay(now_ns);
        // More urgent work raises the intensity above what its time alone would.
        let weight_percent = match urgency {
            Urgency::Critical => 200,
            Urgency::High => 125,
            Urgency::Standard => 100,
            Urgency::Batch => 50,
        };
        let offered_ns = &mut self.offered_ns[modality as usize];
        *offered_ns = offered_ns.saturating_add(time_ns.saturating_mul(weight_percent) / 100);
    }

    fn decay(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.offered_at_ns);
        // Small steps would be lost in rounding.
        if elapsed_ns < 1_000_000 {
            return;
        }
        self.offered_ns = self.offered_ns.map(|offered_ns| decayed(offered_ns, elapsed_ns));
        self.offered_at_ns = now_ns;
    }

    /// Offered work divided by what the lanes can do, by modality, in thousandths.
    pub(crate) fn intensities(&self, capacity_permille: [u64; 3]) -> [u64; 3] {
        std::array::from_fn(|modality| {
            // Without a lane there is nothing that a plan could change.
            if capacity_permille[modality] == 0 {
                return 0;
            }
            let offered = u128::from(self.offered_ns[modality]) * 1_000_000;
            let capacity = u128::from(MEMORY_NS) * u128::from(capacity_permille[modality]);
            u64::try_from(offered / capacity).unwrap_or(u64::MAX)
        })
    }

    /// Which row the load calls for now.
    fn wanted_row(&self, now_ns: u64, intensities: [u64; 3]) -> usize {
        let critical = now_ns < self.critical_until_ns;
        let highest = intensities.iter().copied().max().unwrap_or(0);
        let last = self.policy.rows.len() - 1;
        let holds = |(index, row): &(usize, &PlanRow)| {
            let by_load = row.intensity_above_permille.is_some_and(|above| {
                // A row that is left must be left by a margin.
                let margin = if *index >= self.row { self.policy.hysteresis_permille } else { 0 };
                highest > u64::from(above.saturating_sub(if *index == self.row { margin } else { 0 }))
            });
            by_load || (row.critical_moment && critical)
        };
        self.policy.rows.iter().enumerate().find(holds).map_or(last, |(index, _)| index)
    }

    /// Proportional shares of a device that serves everything.
    fn proportional(&self) -> Shares {
        let total: u64 = self.offered_ns.iter().sum();
        if total == 0 {
            return self.proportions;
        }
        let free = u64::from(SHARE_PERMILLE_MAX) - 3 * KEPT_PERMILLE;
        Shares(self.offered_ns.map(|offered_ns| {
            let part = u128::from(free) * u128::from(offered_ns) / u128::from(total);
            let share = u16::try_from(part).unwrap_or(0) + u16::try_from(KEPT_PERMILLE).unwrap_or(0);
            share / STEP_PERMILLE * STEP_PERMILLE
        }))
    }

    /// The row or the proportions that are to be in force; `None` when nothing changes.
    fn decide(&mut self, now_ns: u64, capacity_permille: [u64; 3]) -> Option<()> {
        self.decay(now_ns);
        let rested = now_ns.saturating_sub(self.changed_ns) >= u64::from(self.policy.dwell_ms) * 1_000_000;
        match self.policy.kind {
            PolicyKind::Fixed => None,
            PolicyKind::Table => {
                let wanted = self.wanted_row(now_ns, self.intensities(capacity_permille));
                // Upwards at once, downwards after a while.
                let changes = wanted < self.row || (wanted > self.row && rested);
                changes.then(|| self.row = wanted)
            }
            PolicyKind::Proportional => {
                let wanted = self.proportional();
                let moved =
                    wanted.0.iter().zip(self.proportions.0).any(|(new, old)| new.abs_diff(old) >= 2 * STEP_PERMILLE);
                (moved && rested).then(|| self.proportions = wanted)
            }
        }
    }

    /// What the policy means for these devices.
    fn deal<'a>(&self, devices: impl Iterator<Item = (&'a DeviceId, &'a Device)>) -> Vec<(DeviceId, Shares)> {
        let live: Vec<(DeviceId, DeviceKind)> =
            devices.filter(|(_, device)| !device.lanes.is_empty()).map(|(id, device)| (*id, device.kind)).collect();
        match self.policy.kind {
            PolicyKind::Proportional => live.into_iter().map(|(device, _)| (device, self.proportions)).collect(),
            PolicyKind::Fixed => deal_row(&self.policy.rows[0], &live),
            PolicyKind::Table => deal_row(&self.policy.rows[self.row], &live),
        }
    }
}

/// Deals a row's amounts to the devices: accelerators in order, in the row's proportions whatever their number; what is
/// to be on the CPU shares the CPU devices evenly.
fn deal_row(row: &PlanRow, devices: &[(DeviceId, DeviceKind)]) -> Vec<(DeviceId, Shares)> {
    let accelerators = devices.iter().filter(|(_, kind)| *kind == DeviceKind::Accelerator).count();
    let cpus = devices.len() - accelerators;
    let amounts: [Amount; 3] = Modality::ALL.map(|modality| row.amount(modality));
    if accelerators == 0 {
        return devices.iter().map(|(device, _)| (*device, split_cpus(amounts))).collect();
    }
    let on_accelerators = amounts.map(|amount| match amount {
        Amount::Cpu(OnCpu::Cpu) if cpus > 0 => 0.0,
        amount => amount.parts(),
    });
    let total: f64 = on_accelerators.iter().sum();
    // Everything on the CPU: accelerators help with all of it.
    let on_accelerators = if total > 0.0 { on_accelerators } else { [1.0; 3] };
    let total: f64 = on_accelerators.iter().sum();
    let mut left = on_accelerators.map(|amount| thousandths(amount * 1000.0 * count(accelerators) / total));
    let on_cpu = amounts.map(|amount| matches!(amount, Amount::Cpu(OnCpu::Cpu)));
    let helpers = if on_cpu.contains(&true) { on_cpu } else { [true; 3] };
    let parts = u16::try_from(helpers.iter().filter(|helps| **helps).count()).unwrap_or(3);
    let cpu = Shares(helpers.map(|helps| if helps { SHARE_PERMILLE_MAX / parts } else { 0 }));
    let deal = |(device, kind): &(DeviceId, DeviceKind)| match kind {
        DeviceKind::Cpu => (*device, cpu),
        DeviceKind::Accelerator => {
            let mut room = u32::from(SHARE_PERMILLE_MAX);
            let shares = Shares(std::array::from_fn(|modality| {
                let taken = left[modality].min(room);
                left[modality] -= taken;
                room -= taken;
                u16::try_from(taken).unwrap_or(SHARE_PERMILLE_MAX)
            }));
            (*device, shares)
        }
    };
    devices.iter().map(deal).collect()
}

#[expect(clippy::cast_precision_loss, reason = "device counts are far below 2^52")]
fn count(devices: usize) -> f64 {
    devices as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "amounts are checked to be 0 to 1000 devices; the conversion saturates"
)]
fn thousandths(amount: f64) -> u32 {
    amount.round() as u32
}

impl Scheduler {
    /// The plan that is in force; `None` before the first.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let devices = self.devices.iter().filter(|(_, device)| !device.lanes.is_empty());
        Plan {
            epoch: self.planner.epoch,
            level: self.planner.level(),
            devices: devices.map(|(device, state)| (*device, state.shares)).collect(),
        }
    }

    /// Offered work divided by what lanes can do, by modality (visual, audio, fusion), in thousandths.
    #[must_use]
    pub fn intensities(&self) -> [u64; 3] {
        self.planner.intensities(self.capacity_permille())
    }

    /// Lanes that can work at once for each modality, in thousandths of a lane.
    fn capacity_permille(&self) -> [u64; 3] {
        let mut capacity = [0; 3];
        for device in self.devices.values() {
            let crowded = device.lanes.len() > device.lanes_at_once_max;
            let at_once = device.lanes_at_once_max as u64;
            for slot in &device.lanes {
                let lane = self.lane(*slot);
                let share = u64::from(lane.share_permille);
                if share > 0 && !lane.closing {
                    let part = if crowded { share.saturating_mul(at_once).min(1000) } else { 1000 };
                    capacity[lane.modality as usize] += part;
                }
            }
        }
        capacity
    }

    /// Looks at the load, now and then, and changes the plan if that calls for it.
    pub(crate) fn replan(&mut self, out: &mut Vec<Command>) {
        let now_ns = self.now_ns;
        let critical = now_ns < self.planner.critical_until_ns;
        let critical_changes = critical != self.planner.critical;
        let due = now_ns.saturating_sub(self.planner.looked_ns) >= LOOK_EVERY_NS;
        let again = self.planner.devices_changed;
        if !due && !again && !critical_changes {
            return;
        }
        self.planner.looked_ns = now_ns;
        self.planner.critical = critical;
        let capacity = self.capacity_permille();
        if capacity == [0; 3] {
            return;
        }
        let changed = self.planner.decide(now_ns, capacity).is_some();
        if !changed && !again {
            return;
        }
        if changed {
            self.planner.changed_ns = now_ns;
        }
        self.planner.devices_changed = false;
        let shares = self.planner.deal(self.devices.iter());
        let same = |(device, shares): &(DeviceId, Shares)| self.devices[device].shares == *shares;
        if shares.iter().all(same) && !changed {
            self.count_serving();
            return;
        }
        self.planner.epoch += 1;
        out.push(Command::PlanChanged(Plan {
            epoch: self.planner.epoch,
            level: self.planner.level(),
            devices: shares.clone(),
        }));
        let mut without: Vec<LaneSlot> = Vec::new();
        for (device, shares) in &shares {
            self.device_mut(*device).shares = *shares;
            for slot in self.devices[device].lanes.clone() {
                let lane = self.lane_mut(slot);
                lane.share_permille = shares.of(lane.modality);
                // What was used under the old shares does not count against the new ones.
                lane.spent_ns = 0;
                if lane.share_permille == 0 && lane.queued > 0 {
                    without.push(slot);
                }
            }
        }
        self.count_serving();
        for slot in without {
            self.move_elsewhere(slot);
        }
        self.dispatch_all(out);
    }

    /// Lanes came, went, or have other shares.
    fn count_serving(&mut self) {
        for pool in 0..self.pools.len() {
            let lanes = self.pools.get(pool).lanes();
            let serving = lanes.filter(|slot| self.lane(*slot).share_permille > 0).count();
            self.pools.get_mut(pool).set_serving(serving);
        }
    }

    /// Queued jobs of a lane that lost its share go where they are on time; the others stay, for they were promised.
    fn move_elsewhere(&mut self, slot: LaneSlot) {
        let lane = self.lane(slot);
        let mut entries: Vec<Entry> =
            lane.models.iter().flat_map(|model| model.queues.iter().flat_map(|queue| queue.iter().copied())).collect();
        entries.sort_unstable();
        for entry in entries {
            let record = self.jobs.get(entry.slot);
            // A stream stays together, and what was begun stays where it was begun.
            if record.job.stream.is_some() || record.slices > 0 {
                continue;
            }
            let (model, class) = (record.job.model, usize::from(record.class));
            if let Some(other) = self.lane_elsewhere(entry.slot, slot) {
                self.lane_mut(slot).dequeue(model, class, &entry);
                self.jobs.get_mut(entry.slot).place = Place::Waiting;
                self.enqueue(entry.slot, other);
            }
        }
    }
}

#[cfg(test)]
mod tests;
