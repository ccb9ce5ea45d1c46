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
//! A client keeps one connection, opens it again when it breaks, and sends what was unanswered again under the same job
//! id; the application sees each answer once. It holds no more in flight than the node granted: `submit` waits for
//! credits. Best latency is had on a `current_thread` runtime.

mod answer;
mod connection;
mod error;
mod inner;
mod job;
mod loan;
mod session;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use sensorium_transport::pki::Bundle;

pub use answer::Answer;
pub use error::ClientError;
pub use job::Job;
pub use loan::Loan;
pub use session::{Session, SessionOptions};

use inner::Inner;

/// Where the node is and who we are.
#[derive(Clone)]
pub struct ClientConfig {
    pub address: SocketAddr,
    pub bundle: Bundle,
    /// How long the first connection may take, in milliseconds. Default 5,000.
    pub connect_ms_max: u64,
    /// How long a broken connection is tried again before what is unanswered fails, in milliseconds. Default 10,000.
    pub reconnect_ms_max: u64,
}

impl ClientConfig {
    /// Reads the certificate bundle in `folder` (`ca.pem`, `cert.pem`, `key.pem`).
    ///
    /// # Errors
    /// When a file is missing or is not what it should be.
    pub fn from_bundle(folder: &Path, address: SocketAddr) -> Result<Self, ClientError> {
        let bundle = Bundle::read(folder).map_err(|error| ClientError::Certificates(error.to_string()))?;
        Ok(Self { address, bundle, connect_ms_max: 5_000, reconnect_ms_max: 10_000 })
    }
}

/// A connection to a node. Cheap to clone; the last clone that is dropped closes it.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// Connects and waits for the node's grant.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when nothing answers in `connect_ms_max`, [`ClientError::Rejected`] when the node
    /// does not accept our certificate.
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
    /// Only when there is no answer: the connection is lost for good, or nothing came long after the deadline.
    pub async fn submit(&self, job: Job, payload: impl Into<Bytes>) -> Result<Answer, ClientError> {
        connection::submit(&self.inner, job, payload.into()).await
    }

    /// Opens a session over a media file.
    ///
    /// # Errors
    /// When the file cannot be read or the node does not take it.
    pub async fn session(&self, options: SessionOptions, file: &Path) -> Result<Session, ClientError> {
        session::open(&self.inner, options, file).await
    }

    /// Asks the node something (`status` or `models`); the answer is JSON.
    ///
    /// # Errors
    /// When the node does not answer or refuses.
    pub async fn query(&self, question: &str) -> Result<String, ClientError> {
        connection::query(&self.inner, question).await
    }

    /// The address of the node.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.inner.config.address
    }

    /// How often the connection was opened again.
    #[must_use]
    pub fn reconnects(&self) -> u32 {
        self.inner.reconnects.load(Ordering::Relaxed)
    }

    /// Final answers that came for jobs which nobody waited for: answered already, or taken back. Without the latter, more
    /// than 0 means that a node answered a job twice; the application never sees the second answer.
    #[must_use]
    pub fn unexpected_answers(&self) -> u64 {
        self.inner.unexpected.load(Ordering::Relaxed)
    }

    /// The QUIC connection now in use, for diagnostics; `None` while it is being opened again.
    #[must_use]
    pub fn connection(&self) -> Option<quinn::Connection> {
        self.inner.connection()
    }

    /// Closes the connection and waits, for at most a second, until the node knows.
    pub async fn close(self) {
        self.inner.close();
        self.inner.dialer.settle().await;
    }
}
