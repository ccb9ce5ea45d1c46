//! Pools of interchangeable lanes, and who wants how much of them.

use std::collections::BTreeMap;

use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};

use crate::decay::{MEMORY_NS, decayed};
use crate::fairness::Principals;
use crate::lane::{CLASSES, LaneSlot};
use crate::ranking::Ranking;
use crate::types::ModelKey;

/// What was offered lately by class of urgency.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ClassLoad {
    offered_ns: [u64; CLASSES],
    at_ns: u64,
}

impl ClassLoad {
    pub(crate) fn note(&mut self, now_ns: u64, class: usize, time_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns);
        // Small steps would be lost in rounding.
        if elapsed_ns >= MEMORY_NS / 1_000 {
            self.offered_ns = self.offered_ns.map(|offered_ns| decayed(offered_ns, elapsed_ns));
            self.at_ns = now_ns;
        }
        self.offered_ns[class] = self.offered_ns[class].saturating_add(time_ns);
    }

    /// The part of so many lanes that more urgent classes ask for, in thousandths.
    pub(crate) fn above_permille(&self, now_ns: u64, class: usize, lanes: usize) -> u64 {
        let offered_ns: u64 = self.offered_ns[..class].iter().sum();
        if offered_ns == 0 {
            return 0;
        }
        let offered_ns = decayed(offered_ns, now_ns.saturating_sub(self.at_ns));
        offered_ns.saturating_mul(1000) / MEMORY_NS.saturating_mul(lanes.max(1) as u64)
    }
}

/// Lanes of one modality that serve the same models.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// By place; `None` = free.
    places: Vec<Option<LaneSlot>>,
    free: Vec<usize>,
    open: usize,
    /// Of these, with a share of their device.
    serving: usize,
    /// By the time at which a lane has done what it has.
    pub(crate) ranking: Ranking,
    pub(crate) principals: Principals,
    pub(crate) classes: ClassLoad,
}

impl Pool {
    pub(crate) fn enter(&mut self, lane: LaneSlot) -> usize {
        self.open += 1;
        let place = self.free.pop().unwrap_or(self.places.len());
        if place == self.places.len() {
            self.places.push(None);
        }
        self.places[place] = Some(lane);
        place
    }

    pub(crate) fn leave(&mut self, place: usize) {
        if self.places[place].take().is_some() {
            self.open -= 1;
            self.free.push(place);
            self.ranking.clear(place);
        }
    }

    /// Lanes among which its work is spread: those with a share, or all when none has one.
    pub(crate) fn serving_lanes(&self) -> usize {
        if self.serving > 0 { self.serving } else { self.open }
    }

    pub(crate) fn set_serving(&mut self, lanes: usize) {
        self.serving = lanes;
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = LaneSlot> {
        self.places.iter().flatten().copied()
    }

    /// The lane that is free first, and when.
    pub(crate) fn first(&self) -> Option<(LaneSlot, u64)> {
        let (place, free_ns) = self.ranking.first()?;
        Some((self.places[place]?, free_ns))
    }
}

/// All pools, found by what their lanes serve.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
    #[serde(with = "crate::pairs")]
    by_models: BTreeMap<(Modality, Vec<ModelKey>), usize>,
}

impl Pools {
    /// The pool for lanes that serve these models; made when there is none.
    pub(crate) fn find(&mut self, modality: Modality, models: Vec<ModelKey>) -> usize {
        let pools = &mut self.pools;
        *self.by_models.entry((modality, models)).or_insert_with(|| {
            pools.push(Pool::default());
            pools.len() - 1
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.pools.len()
    }

    pub(crate) fn get(&self, pool: usize) -> &Pool {
        &self.pools[pool]
    }

    pub(crate) fn get_mut(&mut self, pool: usize) -> &mut Pool {
        &mut self.pools[pool]
    }
}
