//! Pools of interchangeable lanes, and who wants how much of them.

use std::collections::BTreeMap;

use sensorium_wire::Modality;
use serde::{Deserialize, Serialize};

use crate::fairness::Principals;
use crate::lane::LaneSlot;
use crate::ranking::Ranking;
use crate::types::ModelKey;

/// Lanes of one modality that serve the same models.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// By place; `None` = free.
    places: Vec<Option<LaneSlot>>,
    free: Vec<usize>,
    open: usize,
    /// By the time at which a lane has done what it has.
    pub(crate) ranking: Ranking,
    pub(crate) principals: Principals,
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

    pub(crate) fn open_lanes(&self) -> usize {
        self.open
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

    pub(crate) fn get(&self, pool: usize) -> &Pool {
        &self.pools[pool]
    }

    pub(crate) fn get_mut(&mut self, pool: usize) -> &mut Pool {
        &mut self.pools[pool]
    }
}
