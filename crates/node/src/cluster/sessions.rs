//! Sessions that move: checkpoints to a neighbour, taking up a session whose owner is lost, refusing an old owner.
//!
//! A session's owner sends its state to one neighbour, its fallback, over the connection that carries jobs. Nothing here
//! knows what is in a state. A node keeps the states of its own sessions, too: a client that lost only its connection
//! comes back to the same node. A node that is alone keeps none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use sensorium_cluster::{CheckpointStore, NodeId, StaleEpoch, Standing};
use sensorium_device::clock::now_ns;
use sensorium_wire::peer::{CheckpointAct, CheckpointHeader};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::Cluster;
use super::link::Link;

/// How long neighbours are asked for a session's state, in milliseconds.
const CHECKPOINT_ASK_MS_MAX: u64 = 200;
/// A state of this node that is no older was sent here last, and nobody else is asked, in milliseconds.
const CHECKPOINT_FRESH_MS: u64 = 3_000;

/// The sessions of this node and what is kept of others.
#[derive(Default)]
pub(super) struct Sessions {
    store: Mutex<CheckpointStore>,
    /// Epochs of the sessions that run here, by stream; told when a newer one is heard of.
    running: DashMap<u64, (u64, watch::Sender<u64>)>,
    pub(super) sent: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) resumed: AtomicU64,
}

impl Sessions {
    /// States that are kept, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        self.store.lock().size()
    }

    /// A newer epoch of a session was heard of.
    fn supersede(&self, stream: u64, header: &CheckpointHeader, node: &str) {
        if let Some(running) = self.running.get(&stream)
            && running.0 < header.epoch
        {
            let (session, epoch) = (header.session, header.epoch);
            tracing::info!(session, epoch, node, "a session of this node moved to another node (epoch {epoch})");
            running.1.send_replace(epoch);
        }
    }
}

/// Whose session it is, and which.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionKey {
    /// As in forwarded jobs.
    pub(crate) principal: [u8; 16],
    pub(crate) session: u64,
}

/// The session number of every source; their principals differ, and no client's principal is one of them.
const SOURCE_SESSION: u64 = 0;

impl SessionKey {
    /// Of a source. A certificate's tenant and name hold no space, so no client's session has this key.
    pub(crate) fn of_source(cluster: &str, source: &str) -> Self {
        let digest = Sha256::digest(format!("source of {cluster}/{source}"));
        Self { principal: digest.first_chunk().copied().unwrap_or_default(), session: SOURCE_SESSION }
    }

    fn of(header: &CheckpointHeader) -> Self {
        Self { principal: header.principal, session: header.session }
    }

    /// One number for both: nobody can choose a session number that meets another principal's session.
    fn stream(&self) -> u64 {
        let digest = Sha256::new().chain_update(self.principal).chain_update(self.session.to_le_bytes()).finalize();
        digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn header(&self, epoch: u64, number: u64, act: CheckpointAct) -> CheckpointHeader {
        let header =
            CheckpointHeader { principal: self.principal, session: self.session, epoch, number, ..Default::default() };
        header.with(act)
    }
}

/// A state that was kept of a session.
pub(crate) struct KeptState {
    /// In which it was made, and its number there.
    pub(crate) epoch: u64,
    number: u64,
    /// How long ago whoever kept it got it, on their clock.
    pub(crate) age_ms: u64,
    pub(crate) state: Vec<u8>,
}

/// A session that this node owns. Ownership ends when this is dropped.
pub(crate) struct Owned {
    cluster: Arc<Cluster>,
    key: SessionKey,
    pub(crate) epoch: u64,
    number: u64,
    superseded: watch::Receiver<u64>,
    /// Who has had a state of this epoch.
    told: Vec<NodeId>,
}

impl Owned {
    /// Resolves with the newer epoch when another node owns the session, or a newer run here.
    pub(crate) fn superseded(&self) -> impl Future<Output = u64> + use<> {
        let (mut superseded, own) = (self.superseded.clone(), self.epoch);
        async move {
            let newer = superseded.wait_for(|epoch| *epoch > own).await.map(|epoch| *epoch);
            match newer {
                Ok(epoch) => epoch,
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Keeps a state here and sends it to the fallback. Never waits: what a slow neighbour does not take is followed by
    /// the next.
    pub(crate) fn checkpoint(&mut self, state: Vec<u8>) {
        self.number += 1;
        let sessions = &self.cluster.sessions;
        let header = self.key.header(self.epoch, self.number, CheckpointAct::State);
        if let Some(link) = self.cluster.fallback()
            && link.checkpoint(&header, Bytes::copy_from_slice(&state)).is_ok()
        {
            sessions.sent.fetch_add(1, Ordering::Relaxed);
            if !self.told.contains(&link.peer) {
                tracing::debug!(session = self.key.session, node = self.cluster.name_of(link.peer), "fallback chosen");
                self.told.push(link.peer);
            }
        }
        let _ = sessions.store.lock().keep(now_ms(), self.key.stream(), self.epoch, self.number, state);
    }

    /// Whether some neighbour could keep its state now.
    pub(crate) fn has_fallback(&self) -> bool {
        self.cluster.fallback().is_some()
    }

    /// The session is complete: nobody has to keep anything of it.
    pub(crate) fn ended(&self) {
        let header = self.key.header(self.epoch, self.number, CheckpointAct::Ended);
        for link in self.told.iter().filter_map(|node| self.cluster.links.get(node)) {
            let _ = link.checkpoint(&header, Bytes::new());
        }
        let _ = self.cluster.sessions.store.lock().end(self.key.stream(), self.epoch);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let epoch = self.epoch;
        self.cluster.sessions.running.remove_if(&self.key.stream(), |_, running| running.0 == epoch);
    }
}

impl Cluster {
    /// Makes this node the owner of a session, in a new epoch. With `resume` the newest state that is kept of it, here or
    /// by a neighbour, comes along.
    pub(crate) async fn take_up(self: &Arc<Self>, key: SessionKey, resume: bool) -> (Owned, Option<KeptState>) {
        let found = if resume { self.find_state(key, true).await } else { None };
        let epoch = self.sessions.store.lock().newest(key.stream()).saturating_add(1);
        (self.owned(key, epoch, resume), found)
    }

    /// The same for a source, in the epoch of its lease.
    pub(crate) async fn take_up_in(self: &Arc<Self>, key: SessionKey, epoch: u64) -> (Owned, Option<KeptState>) {
        let found = self.find_state(key, false).await;
        (self.owned(key, epoch, true), found)
    }

    /// The newest state that is kept, here or, unless the one here is `fresh` enough, by a neighbour.
    async fn find_state(&self, key: SessionKey, fresh_is_enough: bool) -> Option<KeptState> {
        let stream = key.stream();
        let kept = self.sessions.store.lock().find(now_ms(), stream).map(|kept| KeptState {
            epoch: kept.epoch,
            number: kept.number,
            age_ms: kept.age_ms(now_ms()),
            state: kept.state.clone(),
        });
        if fresh_is_enough && kept.as_ref().is_some_and(|kept| kept.age_ms <= CHECKPOINT_FRESH_MS) {
            return kept;
        }
        let (epoch, theirs) = self.ask(key).await;
        // Whoever knows a newer epoch is believed.
        let _ = self.sessions.store.lock().claim(stream, epoch);
        kept.into_iter().chain(theirs).max_by_key(|kept| (kept.epoch, kept.number))
    }

    fn owned(self: &Arc<Self>, key: SessionKey, epoch: u64, tell: bool) -> Owned {
        let stream = key.stream();
        let (sender, superseded) = watch::channel(epoch);
        match self.sessions.running.entry(stream) {
            Entry::Occupied(mut running) => {
                // Its client has come back on another connection.
                running.get().1.send_replace(epoch);
                running.insert((epoch, sender));
            }
            Entry::Vacant(free) => drop(free.insert((epoch, sender))),
        }
        let _ = self.sessions.store.lock().claim(stream, epoch);
        if tell {
            self.sessions.resumed.fetch_add(1, Ordering::Relaxed);
            let header = key.header(epoch, 0, CheckpointAct::Claim);
            for link in &self.links {
                let _ = link.checkpoint(&header, Bytes::new());
            }
        }
        Owned { cluster: Arc::clone(self), key, epoch, number: 0, superseded, told: Vec::new() }
    }

    /// A neighbour's checkpoint; gives the refusal to send, if it is refused.
    pub(crate) fn checkpointed(&self, from: &str, header: &CheckpointHeader, state: &[u8]) -> Option<CheckpointHeader> {
        let stream = SessionKey::of(header).stream();
        let accepted = {
            let mut store = self.sessions.store.lock();
            match header.act()? {
                CheckpointAct::State => store.keep(now_ms(), stream, header.epoch, header.number, state.to_vec()),
                CheckpointAct::Ended => store.end(stream, header.epoch),
                CheckpointAct::Claim => store.claim(stream, header.epoch),
                CheckpointAct::Ask | CheckpointAct::Refused => return None,
            }
        };
        match accepted {
            Ok(()) => {
                self.sessions.supersede(stream, header, from);
                None
            }
            Err(StaleEpoch { epoch, newest, .. }) => {
                self.sessions.refused.fetch_add(1, Ordering::Relaxed);
                tracing::info!(
                    session = header.session,
                    node = from,
                    epoch,
                    newest,
                    "an old owner's checkpoint was refused"
                );
                Some(CheckpointHeader { epoch: newest, ..header.with(CheckpointAct::Refused) })
            }
        }
    }

    /// What is kept of a session, for a neighbour that asks.
    pub(crate) fn kept(&self, asked: &CheckpointHeader) -> (CheckpointHeader, Vec<u8>) {
        let key = SessionKey::of(asked);
        let store = self.sessions.store.lock();
        let newest = store.newest(key.stream());
        match store.find(now_ms(), key.stream()) {
            Some(kept) => {
                let age_ms = u32::try_from(kept.age_ms(now_ms())).unwrap_or(u32::MAX);
                let header = key.header(kept.epoch, kept.number, CheckpointAct::State);
                (CheckpointHeader { age_ms, ..header }, kept.state.clone())
            }
            None => (key.header(newest, 0, CheckpointAct::State), Vec::new()),
        }
    }

    /// A neighbour did not take a checkpoint.
    pub(super) fn checkpoint_refused(&self, from: NodeId, header: &CheckpointHeader) {
        if header.act() != Some(CheckpointAct::Refused) {
            return;
        }
        let stream = SessionKey::of(header).stream();
        let _ = self.sessions.store.lock().claim(stream, header.epoch);
        self.sessions.supersede(stream, header, &self.name_of(from));
    }

    /// The neighbour that keeps this node's sessions: the first one that is alive and connected, parents first.
    fn fallback(&self) -> Option<Arc<Link>> {
        let view = self.view.load();
        let alive = |parent: bool| {
            let neighbours = view.neighbours.iter();
            let alive = neighbours.filter(move |other| other.parent == parent && other.standing == Standing::Alive);
            alive.filter_map(|other| self.links.get(&other.spec.id()).map(|link| Arc::clone(&link)))
        };
        alive(true).chain(alive(false)).next()
    }

    /// Asks the neighbours for a session's state: the newest epoch that one knows, and the newest state.
    async fn ask(&self, key: SessionKey) -> (u64, Option<KeptState>) {
        let header = key.header(0, 0, CheckpointAct::Ask);
        let links = self.links.iter().filter(|link| self.stands(link.peer, Standing::Alive));
        let links: Vec<_> = links.map(|link| Arc::clone(&link)).collect();
        let mut asking: FuturesUnordered<_> =
            links.iter().map(|link| async { (link.peer, link.ask_checkpoint(&header).await) }).collect();
        let (mut newest, mut found): (_, Option<KeptState>) = (0, None);
        let all = async {
            while let Some((peer, answer)) = asking.next().await {
                let Some((header, state)) = answer else { continue };
                newest = header.epoch.max(newest);
                let CheckpointHeader { epoch, number, .. } = header;
                let better = found.as_ref().is_none_or(|best| (epoch, number) > (best.epoch, best.number));
                if !state.is_empty() && better {
                    tracing::debug!(session = key.session, node = self.name_of(peer), "has a state");
                    found = Some(KeptState { epoch, number, age_ms: u64::from(header.age_ms), state });
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(CHECKPOINT_ASK_MS_MAX), all).await;
        (newest, found)
    }

    /// Lets old states go. Called every few milliseconds.
    pub(super) fn expire_checkpoints(&self) {
        self.sessions.store.lock().expire(now_ms());
    }
}

fn now_ms() -> u64 {
    now_ns() / 1_000_000
}
