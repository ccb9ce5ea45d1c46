//! Owning a source: the lease is asked for, renewed, and given up, and the live session runs while it is valid.
//!
//! The pure part is `sensorium_cluster::Holding`. This runs on the actors' thread, apart from media, so that a busy
//! session does not delay its own lease.

use std::sync::Arc;
use std::time::Duration;

use sensorium_cluster::{Holding, LEASE_TTL_MS_MAX, Lease, NodeId, NodeSpec};
use sensorium_device::clock::now_ns;
use sensorium_wire::source::{LeaseAct, LeaseAnswerHeader, LeaseVerdict};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::{Place, Ring, Source};
use crate::cluster::Cluster;
use crate::session::SessionLimits;
use crate::session::live::{self, LiveEnd, LiveSetting, Tools};

/// Each preferred node before this one in the list has so much of a head start, in milliseconds: longer than a grantor that was
/// started with them gives nothing.
const HEAD_START_MS: u64 = 2_500;
/// Between two looks for a grantor that is out of reach, in milliseconds.
const REACH_PAUSE_MS: u64 = 100;
/// Between two tries to renew a lease that was not renewed, in milliseconds.
const RENEW_PAUSE_MS: u64 = 50;
/// Longest wait for a question's answer, in milliseconds.
const ASK_MS_MAX: u64 = 300;
/// Between two questions for a lease that is not to be had, in milliseconds: at least, and at most.
const ASK_PAUSE_MS_MIN: u64 = 20;
const ASK_PAUSE_MS_MAX: u64 = 1_000;
/// How long the end of ffmpeg is waited for, in milliseconds.
const CLOSE_MS_MAX: u64 = 2_000;

/// What sources are opened with.
#[derive(Clone)]
pub(crate) struct OwnSetting {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) limits: SessionLimits,
    pub(crate) tools: Tools,
    /// Where sessions run.
    pub(crate) media: Handle,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Why a session ended.
enum End {
    Session(LiveEnd),
    Lapsed,
    Stopping,
}

/// Owns a source whenever it can, until the node stops.
///
/// # Errors
/// A failure inside the node; whoever runs this starts it again.
pub(crate) async fn own(source: Arc<Source>, mut setting: OwnSetting) -> Result<(), String> {
    let mut stopping = setting.stopping.clone();
    let Place::Candidate { grantor, rank } = source.place.clone() else {
        return alone(&source, &setting, &mut stopping).await;
    };
    let candidate = Candidate { source: &source, grantor: &grantor, rank };
    tokio::select! {
        () = candidate.wait_for_turn(&setting.cluster) => {}
        _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
    }
    candidate.hold(&mut setting, &mut stopping).await
}

/// A node that is alone owns its sources for as long as it runs.
async fn alone(source: &Arc<Source>, setting: &OwnSetting, stopping: &mut watch::Receiver<bool>) -> Result<(), String> {
    let (lease, valid) = watch::channel(u64::MAX);
    let epoch = setting.cluster.epoch_above_all();
    let mut session = Running::start(source, setting, Arc::new(Ring::new(epoch, u64::MAX)), valid);
    let end = tokio::select! {
        end = session.ended() => End::Session(end),
        _ = stopping.wait_for(|stopping| *stopping) => End::Stopping,
    };
    session.close(source, Duration::from_millis(CLOSE_MS_MAX)).await;
    drop(lease);
    match end {
        End::Session(LiveEnd::Failed(reason)) => Err(reason),
        End::Session(LiveEnd::Moved(epoch)) => Err(format!("a newer epoch {epoch}")),
        End::Lapsed | End::Stopping => Ok(()),
    }
}

/// A session on the media threads, and the processes that it has open. Dropping it stops both.
struct Running {
    task: tokio::task::JoinHandle<LiveEnd>,
    ring: Arc<Ring>,
    /// Ends when no process has the source open any more.
    open: mpsc::Receiver<()>,
}

impl Running {
    fn start(source: &Arc<Source>, setting: &OwnSetting, ring: Arc<Ring>, lease: watch::Receiver<u64>) -> Self {
        let (sender, open) = mpsc::channel(1);
        source.owned(&ring);
        let live = LiveSetting {
            source: Arc::clone(source),
            cluster: Arc::clone(&setting.cluster),
            limits: setting.limits.clone(),
            tools: setting.tools.clone(),
            ring: Arc::clone(&ring),
            lease,
            open: sender,
        };
        Self { task: setting.media.spawn(live::run(live)), ring, open }
    }

    async fn ended(&mut self) -> LiveEnd {
        match (&mut self.task).await {
            Ok(end) => end,
            Err(error) => LiveEnd::Failed(error.to_string()),
        }
    }

    /// Ends it, and waits until the source is closed; whether it is.
    async fn close(mut self, source: &Source, wait: Duration) -> bool {
        self.ring.close();
        self.task.abort();
        source.disowned(None, "");
        tokio::time::timeout(wait, self.open.recv()).await.is_ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.ring.close();
    }
}

/// A node that may own a source.
struct Candidate<'a> {
    source: &'a Arc<Source>,
    grantor: &'a NodeSpec,
    rank: usize,
}

impl Candidate<'_> {
    /// When all nodes start together, the preferred one is to have it.
    async fn wait_for_turn(&self, cluster: &Cluster) {
        let mut told = false;
        while !cluster.can_ask(self.grantor) {
            if !told {
                told = true;
                self.source.disowned(None, &format!("its grantor {} is out of reach", self.grantor.name));
            }
            tokio::time::sleep(Duration::from_millis(REACH_PAUSE_MS)).await;
        }
        tokio::time::sleep(Duration::from_millis(HEAD_START_MS * self.rank as u64)).await;
    }

    /// Asks for the lease again and again, and uses it.
    async fn hold(&self, setting: &mut OwnSetting, stopping: &mut watch::Receiver<bool>) -> Result<(), String> {
        let cluster = Arc::clone(&setting.cluster);
        let mut holding = Holding::new();
        loop {
            let asked_ns = now_ns();
            let answer = self.ask(&cluster, holding.claim(asked_ns), Duration::from_millis(ASK_MS_MAX)).await;
            let granted = answer.filter(|answer| answer.verdict() == Some(LeaseVerdict::Granted));
            if let Some(LeaseAnswerHeader { epoch, ttl_ms, .. }) = granted
                && holding.granted(now_ns(), asked_ns, Lease { epoch, ttl_ms })
            {
                match self.work(setting, &mut holding, stopping).await {
                    End::Stopping => return Ok(()),
                    End::Session(LiveEnd::Failed(reason)) => return Err(reason),
                    End::Session(LiveEnd::Moved(epoch)) => {
                        tracing::info!(source = self.source.spec.name, epoch, "another node owns the source");
                    }
                    End::Lapsed => {
                        let name = &self.source.spec.name;
                        tracing::warn!(source = name, "the lease has lapsed: the source is given up");
                    }
                }
                continue;
            }
            let pause = self.refused(&cluster, answer);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return Ok(()),
            }
        }
    }

    async fn ask(&self, cluster: &Cluster, held: Option<u64>, wait: Duration) -> Option<LeaseAnswerHeader> {
        let asking = cluster.ask_lease(&self.source.spec.name, self.grantor, LeaseAct::Ask, held);
        tokio::time::timeout(wait, asking).await.ok().flatten()
    }

    /// There is no lease now. Gives when to ask again; a node that is less preferred asks a little later.
    fn refused(&self, cluster: &Cluster, answer: Option<LeaseAnswerHeader>) -> Duration {
        let verdict = answer.as_ref().and_then(LeaseAnswerHeader::verdict);
        let answer = answer.unwrap_or_default();
        let (other, reason) = match verdict {
            Some(LeaseVerdict::Held) => {
                let owner = NodeId(answer.holder);
                match cluster.id() == owner {
                    true => (None, "this node's earlier lease has not run out".to_owned()),
                    false => (Some((owner, answer.epoch)), "another node owns it".to_owned()),
                }
            }
            Some(LeaseVerdict::Starting) => (None, "its grantor was started a moment ago".to_owned()),
            Some(LeaseVerdict::Full) => (None, "its grantor has too many sources".to_owned()),
            Some(LeaseVerdict::Stranger) => {
                (None, format!("{} does not give this node its lease: the cluster files differ", self.grantor.name))
            }
            Some(LeaseVerdict::Granted | LeaseVerdict::Released) | None => {
                (None, format!("its grantor {} does not answer", self.grantor.name))
            }
        };
        self.source.disowned(other, &reason);
        let rank = self.rank as u64;
        let behind_ms = ASK_PAUSE_MS_MIN * (rank + 1);
        let pause_ms = match verdict {
            // Nobody has it: the preferred one first, as at the start.
            Some(LeaseVerdict::Starting) => {
                let left_ms = answer.left_ms.min(LEASE_TTL_MS_MAX);
                return Duration::from_millis(left_ms + behind_ms + HEAD_START_MS * rank);
            }
            Some(LeaseVerdict::Held) => answer.left_ms,
            Some(LeaseVerdict::Full | LeaseVerdict::Stranger) => ASK_PAUSE_MS_MAX,
            _ => REACH_PAUSE_MS,
        };
        Duration::from_millis(pause_ms.min(ASK_PAUSE_MS_MAX) + behind_ms)
    }

    /// Runs the session while the lease is valid, and gives the lease back after that.
    async fn work(&self, setting: &OwnSetting, holding: &mut Holding, stopping: &mut watch::Receiver<bool>) -> End {
        let Some(epoch) = holding.epoch(now_ns()) else { return End::Lapsed };
        let ring = Arc::new(Ring::new(epoch, holding.until_ns()));
        let (lease, valid) = watch::channel(holding.until_ns());
        let mut session = Running::start(self.source, setting, Arc::clone(&ring), valid);
        let end = tokio::select! {
            end = session.ended() => End::Session(end),
            () = self.renew(&setting.cluster, holding, &ring, &lease) => End::Lapsed,
            _ = stopping.wait_for(|stopping| *stopping) => End::Stopping,
        };
        let closed = session.close(self.source, Duration::from_millis(CLOSE_MS_MAX)).await;
        // Only what is closed is given back; else the lease runs out, and the guard sees to the rest.
        if let Some(held) = holding.give_up(now_ns())
            && closed
        {
            let releasing =
                setting.cluster.ask_lease(&self.source.spec.name, self.grantor, LeaseAct::Release, Some(held));
            let _ = tokio::time::timeout(Duration::from_millis(ASK_MS_MAX), releasing).await;
        }
        end
    }

    /// Renews the lease; ends when it is not valid any more, or is another.
    async fn renew(&self, cluster: &Cluster, holding: &mut Holding, ring: &Ring, lease: &watch::Sender<u64>) {
        loop {
            let now = now_ns();
            let Some(epoch) = holding.epoch(now).filter(|epoch| *epoch == ring.epoch) else { return };
            let until_ns = holding.until_ns();
            if now < holding.renew_ns() {
                let wait_ns = holding.renew_ns().min(until_ns) - now;
                tokio::time::sleep(Duration::from_nanos(wait_ns)).await;
                continue;
            }
            let wait = Duration::from_nanos(until_ns - now).min(Duration::from_millis(ASK_MS_MAX));
            let answer = self.ask(cluster, Some(epoch), wait).await;
            let granted = answer.filter(|answer| answer.verdict() == Some(LeaseVerdict::Granted));
            let renewed = granted.is_some_and(|LeaseAnswerHeader { epoch, ttl_ms, .. }| {
                holding.granted(now_ns(), now, Lease { epoch, ttl_ms })
            });
            if renewed && holding.epoch(now_ns()) == Some(ring.epoch) {
                ring.extend(holding.until_ns());
                lease.send_replace(holding.until_ns());
            } else {
                tokio::time::sleep(Duration::from_millis(RENEW_PAUSE_MS)).await;
            }
        }
    }
}
