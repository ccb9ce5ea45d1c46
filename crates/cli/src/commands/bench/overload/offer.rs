//! The open loop: jobs leave by the schedule, whatever becomes of those before them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::bail;
use sensorium_client::{Answer, Client, ClientError};
use sensorium_wire::Outcome;
use sensorium_wire::receipt::{Receipt, Stage};
use tokio::sync::{Semaphore, mpsc};

use super::nanos;
use crate::commands::sample::Sample;

/// Most jobs without an ending. The SDK sends no more than the node's credits allow and holds the rest; a run in which this
/// many wait would measure the client.
const OUTSTANDING_JOBS_MAX: usize = 8_192;

/// How a job ended, as its sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A result within the deadline, counted from the scheduled arrival.
    OnTime,
    /// A result that reached the client after its deadline.
    Late,
    Refused,
    Expired,
    /// Failed, or taken back by somebody.
    Failed,
    /// Nothing came, for long after the deadline.
    Lost,
}

impl End {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OnTime => "on_time",
            Self::Late => "late",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }
}

/// One job's way through the run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// Its arrival in the schedule, in microseconds after the start.
    pub(super) offset_us: u64,
    pub(super) end: End,
    /// From the scheduled arrival to the ending.
    pub(super) latency_ns: u64,
    /// From the scheduled arrival to the hand-over to the SDK.
    pub(super) lag_ns: u64,
    /// Time in the worker, for results.
    pub(super) service_ns: Option<u64>,
    /// Time in the node, by the receipt.
    pub(super) node_ns: u64,
}

/// What is offered.
pub(super) struct Offer<'a> {
    pub(super) client: &'a Client,
    pub(super) model: &'a str,
    /// Every job has this payload, made once.
    pub(super) sample: &'a Arc<Sample>,
    /// Counted from the scheduled arrival.
    pub(super) deadline: Duration,
}

impl Offer<'_> {
    /// Offers jobs at these times (microseconds from now) and waits for every ending. They come in the order of the schedule.
    ///
    /// # Errors
    /// When more than [`OUTSTANDING_JOBS_MAX`] jobs are without an ending.
    pub(super) async fn run(&self, arrivals: &[u64]) -> anyhow::Result<Vec<Ending>> {
        let began = Instant::now();
        let (endings_in, mut endings_out) = mpsc::channel(OUTSTANDING_JOBS_MAX);
        let sender = Sender {
            client: self.client.clone(),
            model: self.model.to_owned(),
            sample: Arc::clone(self.sample),
            deadline: self.deadline,
            began,
            endings: endings_in,
        };
        // A task of its own: what answers need does not make it wait.
        let sending = tokio::spawn(sender.run(arrivals.to_vec()));
        let mut endings = Vec::with_capacity(arrivals.len());
        while let Some(ending) = endings_out.recv().await {
            endings.push(ending);
        }
        sending.await??;
        endings.sort_by_key(|ending: &Ending| ending.offset_us);
        Ok(endings)
    }
}

#[derive(Clone)]
struct Sender {
    client: Client,
    model: String,
    sample: Arc<Sample>,
    deadline: Duration,
    began: Instant,
    endings: mpsc::Sender<Ending>,
}

impl Sender {
    async fn run(self, arrivals: Vec<u64>) -> anyhow::Result<()> {
        let outstanding = Arc::new(Semaphore::new(OUTSTANDING_JOBS_MAX));
        for offset_us in arrivals {
            let at = self.began + Duration::from_micros(offset_us);
            if at > Instant::now() {
                tokio::time::sleep_until(at.into()).await;
            } else {
                // Behind the schedule: the connection still gets its turn after each job.
                tokio::task::yield_now().await;
            }
            let Ok(permit) = Arc::clone(&outstanding).try_acquire_owned() else {
                bail!(
                    "{OUTSTANDING_JOBS_MAX} jobs are without an answer: this client cannot offer so much; give a lower --load or a slower model"
                );
            };
            let sender = self.clone();
            tokio::spawn(async move {
                let ending = sender.one(offset_us).await;
                let _ = sender.endings.send(ending).await;
                drop(permit);
            });
        }
        Ok(())
    }

    /// One job from hand-over to ending.
    async fn one(&self, offset_us: u64) -> Ending {
        let scheduled = self.began + Duration::from_micros(offset_us);
        let lag = scheduled.elapsed();
        // What the way takes is kept back by the SDK.
        let budget = self.deadline.saturating_sub(lag);
        let job = self.sample.job(&self.model).deadline_us(nanos(budget) / 1000);
        let answer = self.client.submit(job, self.sample.bytes.clone()).await;
        let latency = scheduled.elapsed();
        let end = judge(&answer, latency <= self.deadline);
        let node_ns = answer.as_ref().map_or(0, |answer| answer.header.receipt.node_ns);
        let result = answer.ok().filter(Answer::is_result);
        Ending {
            offset_us,
            end,
            latency_ns: nanos(latency),
            lag_ns: nanos(lag),
            node_ns,
            service_ns: result.as_ref().map(|answer| service_ns(&answer.header.receipt)),
        }
    }
}

fn judge(answer: &Result<Answer, ClientError>, in_time: bool) -> End {
    let Ok(answer) = answer else { return End::Lost };
    match answer.header.outcome {
        Outcome::Result if in_time => End::OnTime,
        Outcome::Result => End::Late,
        Outcome::Refused => End::Refused,
        Outcome::Expired => End::Expired,
        Outcome::Failed | Outcome::Cancelled | Outcome::Partial => End::Failed,
    }
}

/// What the worker spent from a job's receipt to its result.
fn service_ns(receipt: &Receipt) -> u64 {
    [Stage::Batch, Stage::Prepare, Stage::Infer, Stage::Interpret]
        .iter()
        .map(|stage| receipt.stage_ns[*stage as usize])
        .fold(0, u64::saturating_add)
}
