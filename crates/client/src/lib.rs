//! The SDK that applications use: submit jobs, open sessions, read the status.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use sensorium_client::{Client, ClientConfig, Job};
//! let client = Client::connect(ClientConfig::from_bundle("client".as_ref(), "127.0.0.1:7401".parse()?)?).await?;
//! let picture = std::fs::read("street.jpg")?;
//! let answer = client.submit(Job::image("nanodet").deadline_ms(100), client.loan_from(&picture)).await?;
//! println!("{:?} after {} µs", answer.result()?, answer.total_ns / 1000);
//! # Ok(()) }
//! ```
//!
//! A client keeps a connection to one of the nodes it is given, and opens another when it breaks or its node is stopping:
//! at once to the next of the list, and around it again for `reconnect_ms_max`. What was unanswered is sent again under the
//! same job id, with what is left of its budget. The application sees exactly one answer or one error of each job:
//!
//! - an [`Answer`], whatever node gave it; another node's answer to the same job is dropped and counted;
//! - [`ClientError::Expired`] when its deadline passed while no node could be reached;
//! - [`ClientError::Lost`] when no node came back, [`ClientError::Silent`] when a node that has the job does not answer.
//!
//! A client stays with the node that it has, also when one that stands before it in the list comes back. When its own
//! address changes, [`Client::rebind`] keeps connection, jobs and sessions. A session whose node is lost goes on by itself at
//! the next one ([`Session::next`]).
//!
//! It holds no more in flight than the node granted: `submit` waits for credits. Best latency is had on a
//! `current_thread` runtime that is not kept busy: with several nodes, one that does not run for 0.7 s loses its connection.

mod answer;
mod config;
mod connection;
mod credits;
mod dial;
mod error;
mod frames;
mod inner;
mod job;
mod loan;
mod pending;
mod query;
mod seen;
mod session;
mod submit;
mod transit;
mod upload;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

pub use answer::Answer;
pub use config::{ClientConfig, NODES_MAX};
pub use error::{ClientError, FailedDial};
pub use inner::ConnectedNode;
pub use job::Job;
pub use loan::Loan;
pub use session::{Session, SessionOptions};
pub use watch::Watch;

use inner::Inner;

/// A connection to one of the nodes. Cheap to clone; the last clone that is dropped closes it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// Connects to the first node that answers, and waits for its grant. Nodes in front of the list have a head start of a
    /// quarter of a second each.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for no address or more than [`NODES_MAX`]. For one node: [`ClientError::Unreachable`] when
    /// nothing answers in `connect_ms_max`, [`ClientError::Rejected`] when the node does not accept our certificate. For
    /// several: [`ClientError::NoNode`] with the reason of each.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        Ok(Self { inner: connection::open(config).await? })
    }

    /// A buffer of `bytes` bytes to fill with a payload. Buffers are reused, so a steady stream allocates nothing.
    #[must_use]
    pub fn loan(&self, bytes: usize) -> Loan {
        self.inner.pool.loan(bytes)
    }

    /// A loaned buffer that holds a copy of `data`.
    #[must_use]
    pub fn loan_from(&self, data: &[u8]) -> Loan {
        let mut loan = self.loan(data.len());
        loan.copy_from_slice(data);
        loan
    }

    /// Runs one job and waits for its one final answer, whatever its outcome. Waits for credits first. Dropping the
    /// future takes the job back.
    ///
    /// # Errors
    /// Only when there is no answer: no node can be reached, or nothing came long after the deadline.
    pub async fn submit(&self, job: Job, payload: impl Into<Bytes>) -> Result<Answer, ClientError> {
        submit::submit(&self.inner, job, payload.into()).await
    }

    /// Opens a session over a media file.
    ///
    /// # Errors
    /// When the file cannot be read or the node does not take it.
    pub async fn session(&self, options: SessionOptions, file: &Path) -> Result<Session, ClientError> {
        session::open(&self.inner, options, file).await
    }

    /// Watches a source: a camera or microphone that the nodes have open. Asks nothing before [`Watch::next`].
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when `source` cannot be a source's name.
    pub fn watch(&self, source: &str) -> Result<Watch, ClientError> {
        watch::watch(self, source)
    }

    /// Asks the node something (`status` or `models`); the answer is JSON.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub async fn query(&self, question: &str) -> Result<String, ClientError> {
        query::query(&self.inner, question).await
    }

    /// The node now in use; `None` while nodes are being dialled.
    #[must_use]
    pub fn node(&self) -> Option<ConnectedNode> {
        self.inner.node()
    }

    /// How often another connection took the place of one that broke or whose node was stopping.
    #[must_use]
    pub fn reconnects(&self) -> u32 {
        self.inner.reconnects.load(Ordering::Relaxed)
    }

    /// Answers that nobody waited for any more: to jobs that another node had answered, or that were taken back.
    #[must_use]
    pub fn stray_answers(&self) -> u64 {
        self.inner.stray_answers.load(Ordering::Relaxed)
    }

    /// The nodes that were dialled before the one in use and could not be used, with the reasons.
    #[must_use]
    pub fn skipped(&self) -> Vec<FailedDial> {
        self.inner.skipped()
    }

    /// What is kept back of each deadline for the way to the node and back, at most half of the deadline: first the
    /// connection's round trip, then what receipts say of the network, with a margin.
    #[must_use]
    pub fn expected_transit(&self) -> Duration {
        self.inner.expected_transit()
    }

    /// The network has changed: goes on from `local`, a local address with port 0 for any, on a new socket. Connection,
    /// jobs and sessions stay; the node verifies the new path by itself. Without it a change of network ends in a lost
    /// connection and the jobs are sent again.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when there is no such local address; the old socket is kept then.
    pub fn rebind(&self, local: SocketAddr) -> Result<(), ClientError> {
        self.inner.dialer.rebind(local).map_err(|error| ClientError::Invalid(error.to_string()))
    }

    /// The QUIC connection now in use, for diagnostics; `None` while it is being opened again.
    #[must_use]
    pub fn connection(&self) -> Option<quinn::Connection> {
        self.inner.connection()
    }

    /// Sends what is queued, such as jobs taken back, closes the connection and waits, for at most a second each, until the
    /// node knows. What is unanswered fails with [`ClientError::Closed`].
    pub async fn close(self) {
        self.inner.close().await;
    }
}
