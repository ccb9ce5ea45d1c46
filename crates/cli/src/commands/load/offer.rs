//! The open loop: jobs leave by the schedule over several connections, and each comes to exactly one ending here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sensorium_client::{Answer, Client, ClientError, Job};
use sensorium_models::manifest::{Manifest, Prepare};
use sensorium_wire::ids::ShortName;
use sensorium_wire::{BodyKind, JobId, Outcome, Urgency};
use tokio::sync::{Mutex, Semaphore, mpsc};

use super::mix::Part;
use super::plan::Due;
use super::record::Record;
use super::tally::Tally;
use crate::arguments::Reach;
use crate::commands::sample::Sample;
use crate::paths::Paths;

/// Most jobs without an ending. When there are as many the schedule waits, and the waiting counts as the jobs' lag.
const OUTSTANDING_JOBS_MAX: usize = 16_384;
/// Payload bytes of a model that takes any tensor, when the mix names none.
const ANY_TENSOR_BYTES: u32 = 1024;
/// How long a connection that was lost for good is dialled again, in milliseconds, and the pause between two attempts.
const DIAL_MS_MAX: u64 = 60_000;
const DIAL_PAUSE_MS: u64 = 200;
/// Bytes at the front of a payload that tell it from all others: the job's id.
const MARK_BYTES: usize = 16;

/// What one part of the mix sends.
pub(super) struct Shape {
    /// As the mix names it.
    pub(super) kind: String,
    model: String,
    urgency: Urgency,
    sample: Sample,
    /// The model gives the payload back, so that an answer can be told to be somebody else's.
    echoes: bool,
}

impl Shape {
    pub(super) fn new(part: &Part, manifest: &Manifest) -> anyhow::Result<Self> {
        let any = matches!(manifest.prepare, Prepare::Tensor {}) && manifest.inputs.is_empty();
        if part.bytes.is_some() && !any {
            anyhow::bail!("--mix {part}: the payload of {} has a size of its own; leave the bytes away", part.model);
        }
        let sample = match &manifest.prepare {
            // The network's own size: the load is to be of jobs, not of resizing pictures.
            Prepare::Image { width, height, .. } => Sample::frame(*width, *height),
            _ => Sample::new(manifest, part.bytes.unwrap_or(ANY_TENSOR_BYTES))?,
        };
        let echoes = any && part.model == "identity";
        Ok(Self { kind: part.to_string(), model: part.model.clone(), urgency: part.urgency, sample, echoes })
    }

    fn job(&self, job: JobId) -> (Job, Bytes) {
        let described = self.sample.job(&self.model).urgency(self.urgency).job_id(job);
        if !self.echoes {
            return (described, self.sample.bytes.clone());
        }
        let mut payload = self.sample.bytes.to_vec();
        let marked = payload.len().min(MARK_BYTES);
        payload[..marked].copy_from_slice(&job.0[MARK_BYTES - marked..]);
        (described, payload.into())
    }
}

/// How a job ended, as its sender sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Answered(Outcome),
    /// No answer: the SDK gave it up.
    Lost,
}

impl End {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Answered(outcome) => outcome.name(),
            Self::Lost => "lost",
        }
    }
}

/// One job's ending.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) job: JobId,
    pub(super) part: usize,
    pub(super) client: usize,
    /// Hand-over to the SDK and ending, in microseconds after the start.
    pub(super) sent_us: u64,
    pub(super) ended_us: u64,
    /// From the place in the schedule to the ending.
    pub(super) latency_us: u64,
    /// From the place in the schedule to the hand-over.
    pub(super) lag_us: u64,
    pub(super) end: End,
    /// Why it is not a result: the reason's name, or the SDK's words.
    pub(super) reason: String,
    /// Who ran it.
    pub(super) node: ShortName,
    /// A result within the deadline, from the place in the schedule.
    pub(super) on_time: bool,
    /// The answer is another job's: another id, or another payload.
    pub(super) wrong: bool,
}

/// Answers that no job waited for, and how often a client went to another connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Strays {
    /// On the only connection that a client ever had: a node answered a job twice.
    pub(super) twice: u64,
    /// After a change of connection: two nodes may both have answered, and the application has seen one of them.
    pub(super) stray: u64,
    pub(super) reconnects: u64,
}

impl Strays {
    fn of(client: &Client) -> Self {
        let (stray, reconnects) = (client.stray_answers(), u64::from(client.reconnects()));
        let (twice, stray) = if reconnects == 0 { (stray, 0) } else { (0, stray) };
        Self { twice, stray, reconnects }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            twice: self.twice + other.twice,
            stray: self.stray + other.stray,
            reconnects: self.reconnects + other.reconnects,
        }
    }
}

/// A connection, which is replaced when it is lost for good.
struct Seat {
    client: Client,
    generation: u32,
}

/// What is offered, and over what.
pub(super) struct Load {
    pub(super) paths: Paths,
    pub(super) reach: Reach,
    pub(super) shapes: Vec<Shape>,
    pub(super) deadline: Duration,
}

/// What the tasks of a run share.
struct Run {
    load: Load,
    seats: Vec<Mutex<Seat>>,
    began: Instant,
    /// The first half of every job id of this run.
    marker: [u8; 8],
    /// Connections that had to be made anew.
    replaced: AtomicU32,
    /// What clients that are gone had seen.
    gone: std::sync::Mutex<Strays>,
}

impl Load {
    /// Sends every job at its time over `clients` connections and waits for all endings.
    ///
    /// # Errors
    /// When the first connections cannot be made or the record cannot be written.
    pub(super) async fn run(
        self,
        clients: usize,
        schedule: Vec<Due>,
        mut record: Option<Record>,
    ) -> anyhow::Result<Tally> {
        let mut seats = Vec::with_capacity(clients);
        for _ in 0..clients {
            let client = self.paths.connect(&self.reach).await?;
            seats.push(Mutex::new(Seat { client, generation: 0 }));
        }
        let kinds = self.shapes.iter().map(|shape| shape.kind.clone()).collect();
        let mut tally = Tally::new(kinds, self.deadline, schedule.len());
        let run = Arc::new(Run {
            load: self,
            seats,
            began: Instant::now(),
            marker: rand::random(),
            replaced: AtomicU32::new(0),
            gone: std::sync::Mutex::default(),
        });
        let (endings_in, mut endings) = mpsc::channel(OUTSTANDING_JOBS_MAX);
        // A task of its own: what endings need does not make it wait.
        let sending = tokio::spawn(Arc::clone(&run).send(schedule, endings_in));
        while let Some(ending) = endings.recv().await {
            if let Some(record) = &mut record {
                record.add(tally.kind(ending.part), &ending)?;
            }
            tally.add(&ending);
        }
        sending.await?;
        if let Some(record) = record {
            record.finish()?;
        }
        for seat in &run.seats {
            let seat = seat.lock().await;
            tally.add_strays(Strays::of(&seat.client));
            seat.client.clone().close().await;
        }
        tally.add_strays(run.gone.lock().map(|gone| *gone).unwrap_or_default());
        tally.add_replaced(run.replaced.load(Ordering::Relaxed));
        Ok(tally)
    }
}

impl Run {
    async fn send(self: Arc<Self>, schedule: Vec<Due>, endings: mpsc::Sender<Ending>) {
        let outstanding = Arc::new(Semaphore::new(OUTSTANDING_JOBS_MAX));
        for (number, due) in (0_u64..).zip(schedule) {
            let at = self.began + Duration::from_micros(due.offset_us);
            if at > Instant::now() {
                tokio::time::sleep_until(at.into()).await;
            } else {
                // Behind the schedule: the connections still get their turn after each job.
                tokio::task::yield_now().await;
            }
            let Ok(permit) = Arc::clone(&outstanding).acquire_owned().await else { return };
            let (run, endings) = (Arc::clone(&self), endings.clone());
            tokio::spawn(async move {
                let ending = run.one(number, due).await;
                let _ = endings.send(ending).await;
                drop(permit);
            });
        }
    }

    /// One job from its place in the schedule to its ending.
    async fn one(&self, number: u64, due: Due) -> Ending {
        let shape = &self.load.shapes[due.part];
        let mut job = JobId([0; 16]);
        job.0[..8].copy_from_slice(&self.marker);
        job.0[8..].copy_from_slice(&number.to_be_bytes());
        let seat = usize::try_from(number).unwrap_or(0) % self.seats.len();
        let (client, generation) = {
            let seat = self.seats[seat].lock().await;
            (seat.client.clone(), seat.generation)
        };
        let (described, payload) = shape.job(job);
        let sent_us = self.elapsed_us();
        let lag_us = sent_us.saturating_sub(due.offset_us);
        let deadline_us = u64::try_from(self.load.deadline.as_micros()).unwrap_or(u64::MAX);
        let described = described.deadline_us(deadline_us.saturating_sub(lag_us));
        let answer = client.submit(described, payload.clone()).await;
        let ended_us = self.elapsed_us();
        let latency_us = ended_us.saturating_sub(due.offset_us);
        let mut ending = Ending {
            job,
            part: due.part,
            client: seat,
            sent_us,
            ended_us,
            latency_us,
            lag_us,
            end: End::Lost,
            reason: String::new(),
            node: ShortName::default(),
            on_time: false,
            wrong: false,
        };
        match answer {
            Ok(answer) => {
                ending.end = End::Answered(answer.header.outcome);
                ending.reason = answer.rejection().map_or_else(String::new, |why| why.reason.name().to_owned());
                ending.node = answer.header.receipt.node;
                ending.on_time = answer.is_result() && latency_us <= deadline_us;
                ending.wrong = answer.header.job_id != job || (shape.echoes && is_of_another(&answer, &payload));
            }
            // The SDK ends what it could bring to no node in time; as far as the job is concerned this is an ending.
            Err(ClientError::Expired { .. }) => {
                ending.end = End::Answered(Outcome::Expired);
                "no_node".clone_into(&mut ending.reason);
            }
            Err(error) => {
                ending.reason = error.to_string();
                if matches!(error, ClientError::Lost { .. } | ClientError::Closed) {
                    self.replace(seat, generation).await;
                }
            }
        }
        ending
    }

    /// Makes a connection that was lost for good anew, once for all jobs that saw it end. Jobs that are due meanwhile wait.
    async fn replace(&self, seat: usize, generation: u32) {
        let mut seat = self.seats[seat].lock().await;
        if seat.generation != generation {
            return;
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(DIAL_MS_MAX) {
            match self.load.paths.connect(&self.load.reach).await {
                Ok(client) => {
                    if let Ok(mut gone) = self.gone.lock() {
                        *gone = gone.and(Strays::of(&seat.client));
                    }
                    self.replaced.fetch_add(1, Ordering::Relaxed);
                    *seat = Seat { client, generation: generation.wrapping_add(1) };
                    return;
                }
                Err(error) => tracing::debug!(%error, "dialling again"),
            }
            tokio::time::sleep(Duration::from_millis(DIAL_PAUSE_MS)).await;
        }
        // The next job that fails tries again.
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Whether an echo is not what was sent.
fn is_of_another(answer: &Answer, payload: &Bytes) -> bool {
    answer.is_result() && (answer.header.body != BodyKind::Tensor || answer.payload != *payload)
}
