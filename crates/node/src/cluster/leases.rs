//! Leases of sources: this node as their grantor, and its questions to others.
//!
//! What is decided is in the pure `sensorium_cluster::LeaseTable`; here questions come in and go out. Each source has a
//! table of its own, because each may have another length of lease.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use sensorium_cluster::{LeaseRefusal, LeaseTable, NodeId, NodeSpec, Standing};
use sensorium_device::clock::now_ns;
use sensorium_wire::Name;
use sensorium_wire::source::{LeaseAct, LeaseAnswerHeader, LeaseAskHeader, LeaseVerdict};

use super::{Cluster, Membership};

/// Bits below the seconds of the wall clock in an epoch: changes of owner in one second.
const EPOCH_BITS: u32 = 20;

/// The sources whose lease this node gives.
pub(super) struct Leases {
    tables: Mutex<BTreeMap<String, LeaseTable>>,
    /// The last epoch of a source of a node that is alone.
    alone: AtomicU64,
}

impl Leases {
    pub(super) fn new(membership: Option<&Membership>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let floor = since.as_secs() << EPOCH_BITS;
        let mut tables = BTreeMap::new();
        if let Some(Membership { topology, name }) = membership {
            let mine = |source: &&sensorium_cluster::SourceSpec| {
                topology.grantor_of(source).is_some_and(|grantor| grantor.name == *name)
            };
            for source in topology.sources.iter().filter(mine) {
                tables.insert(source.name.clone(), LeaseTable::new(now_ns(), source.lease_ms, floor));
            }
        }
        Self { tables: Mutex::new(tables), alone: AtomicU64::new(floor) }
    }
}

impl Cluster {
    /// An epoch above those of any earlier life of this node, for one that is alone.
    pub(crate) fn epoch_above_all(&self) -> u64 {
        self.leases.alone.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Who holds a source's lease, where this node gives it.
    pub(crate) fn lease_holder(&self, source: &str) -> Option<(NodeId, u64)> {
        let tables = self.leases.tables.lock();
        tables.get(source)?.holder(now_ns(), source).map(|held| (held.by, held.epoch))
    }

    /// A node asks for a lease. It is who its certificate says.
    pub(crate) fn lease_asked(&self, by: NodeId, asked: &LeaseAskHeader) -> LeaseAnswerHeader {
        let stranger = LeaseAnswerHeader::default().with(LeaseVerdict::Stranger);
        let name = asked.source.as_str();
        let listed = self.membership.as_ref().and_then(|membership| membership.topology.source(name));
        let listed = listed.is_some_and(|source| source.nodes.iter().any(|node| NodeId::of(node) == by));
        let mut tables = self.leases.tables.lock();
        let (Some(table), true, Some(act)) = (tables.get_mut(name), listed, asked.act()) else { return stranger };
        let now = now_ns();
        match act {
            LeaseAct::Release => {
                table.release(now, name, by, asked.epoch);
                LeaseAnswerHeader::default().with(LeaseVerdict::Released)
            }
            LeaseAct::Ask => {
                let before = table.holder(now, name).map(|held| held.by);
                let answer = table.ask(now, name, by, (asked.epoch > 0).then_some(asked.epoch));
                if let Ok(lease) = &answer
                    && before != Some(by)
                {
                    let (node, epoch) = (self.name_of(by), lease.epoch);
                    tracing::info!(source = name, node, epoch, "lease given");
                }
                let held = table.holder(now, name);
                decided(answer, held.map_or(0, |held| held.epoch))
            }
        }
    }

    /// Whether a question would reach a source's grantor.
    pub(crate) fn can_ask(&self, grantor: &NodeSpec) -> bool {
        let id = grantor.id();
        id == self.id || (self.stands(id, Standing::Alive) && self.links.contains_key(&id))
    }

    /// Asks a source's grantor, which may be this node. `None` when there is no answer.
    pub(crate) async fn ask_lease(
        &self,
        source: &str,
        grantor: &NodeSpec,
        act: LeaseAct,
        held: Option<u64>,
    ) -> Option<LeaseAnswerHeader> {
        let header = LeaseAskHeader {
            source: Name::new(source)?,
            epoch: held.unwrap_or(0),
            act: act as u8,
            ..LeaseAskHeader::default()
        };
        if grantor.id() == self.id {
            return Some(self.lease_asked(self.id, &header));
        }
        let link = std::sync::Arc::clone(&*self.links.get(&grantor.id())?);
        link.ask_lease(&header).await
    }
}

fn decided(answer: Result<sensorium_cluster::Lease, LeaseRefusal>, held_epoch: u64) -> LeaseAnswerHeader {
    let none = LeaseAnswerHeader::default();
    match answer {
        Ok(lease) => LeaseAnswerHeader { epoch: lease.epoch, ttl_ms: lease.ttl_ms, ..none }.with(LeaseVerdict::Granted),
        Err(LeaseRefusal::Held { by, left_ms }) => {
            LeaseAnswerHeader { epoch: held_epoch, holder: by.0, left_ms, ..none }.with(LeaseVerdict::Held)
        }
        Err(LeaseRefusal::Starting { left_ms }) => LeaseAnswerHeader { left_ms, ..none }.with(LeaseVerdict::Starting),
        Err(LeaseRefusal::Full) => none.with(LeaseVerdict::Full),
        Err(LeaseRefusal::Name { .. }) => none.with(LeaseVerdict::Stranger),
    }
}
