//! Keeping a connection, and what goes over its streams.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sensorium_transport::{ALPN_API, Dialer, FrameReader, Liveness, Outbox, Step};
use sensorium_wire::codec::{FrameWriter, decode_header, put_frame};
use sensorium_wire::session::GrantHeader;
use sensorium_wire::{AnswerHeader, Kind, Urgency, limits};

use crate::inner::{Inner, Live, is_large, priority};
use crate::{Answer, ClientConfig, ClientError, Job};

/// How long after its deadline a job's answer is still waited for, in milliseconds.
const SILENCE_MS_MAX: u64 = 10_000;
/// First pause before dialling again, in milliseconds; it doubles up to [`BACKOFF_MS_MAX`].
const BACKOFF_MS: u64 = 20;
const BACKOFF_MS_MAX: u64 = 1_000;

/// Dials, waits for the grant, and leaves a task behind that keeps the connection.
pub(crate) async fn open(config: ClientConfig) -> Result<Arc<Inner>, ClientError> {
    let dialer = Dialer::new(&config.bundle, ALPN_API, Liveness::API, config.address.is_ipv6())
        .map_err(|error| ClientError::Certificates(error.to_string()))?;
    let inner = Arc::new(Inner::new(config, dialer));
    let wait = Duration::from_millis(inner.config.connect_ms_max);
    let first = dial(&inner, wait).await?;
    install(&inner, first.clone());
    tokio::spawn(keep(Arc::downgrade(&inner), first));
    Ok(inner)
}

/// One handshake, with the grant that follows it.
async fn dial(inner: &Inner, wait: Duration) -> Result<quinn::Connection, ClientError> {
    let address = inner.config.address;
    let unreachable = |reason: String| ClientError::Unreachable { address, reason };
    let attempt = async {
        let connection = inner.dialer.dial(address).map_err(|error| unreachable(error.to_string()))?.await;
        let connection = connection.map_err(|error| explain(address, &error))?;
        // With TLS 1.3 the node judges our certificate after our side of the handshake is done: the grant is the proof.
        let mut stream = connection.accept_uni().await.map_err(|error| explain(address, &error))?;
        let grant = read_grant(&mut stream).await?;
        apply(inner, &grant);
        Ok(connection)
    };
    tokio::time::timeout(wait, attempt)
        .await
        .map_err(|_| unreachable(format!("no answer within {} ms", wait.as_millis())))?
}

fn explain(address: std::net::SocketAddr, error: &quinn::ConnectionError) -> ClientError {
    let reason = error.to_string();
    match error {
        quinn::ConnectionError::TransportError(_) | quinn::ConnectionError::ConnectionClosed(_) => {
            ClientError::Rejected { address, reason }
        }
        quinn::ConnectionError::ApplicationClosed(close) => {
            ClientError::Rejected { address, reason: String::from_utf8_lossy(&close.reason).into_owned() }
        }
        _ => ClientError::Unreachable { address, reason },
    }
}

async fn read_grant(stream: &mut quinn::RecvStream) -> Result<GrantHeader, ClientError> {
    let protocol = |text: String| ClientError::Protocol(text);
    let bytes = stream.read_to_end(limits::HEADER_BYTES_MAX).await.map_err(|error| protocol(error.to_string()))?;
    let (mut reader, mut input) = (FrameReader::default(), &bytes[..]);
    match reader.step(&mut input).map_err(|error| protocol(error.to_string()))? {
        Step::Head(prelude) if prelude.kind == Kind::Grant => {
            decode_header(Kind::Grant, reader.header()).map_err(|error| protocol(error.to_string()))
        }
        step => Err(protocol(format!("a grant was expected, not {step:?}"))),
    }
}

/// Fills the credits up to what is granted. A later grant can only raise them: what is out stays out.
fn apply(inner: &Inner, grant: &GrantHeader) {
    let jobs = grant.jobs_in_flight_max.min(limits::JOBS_IN_FLIGHT_MAX);
    let bytes = grant.bytes_in_flight_max.min(limits::BYTES_IN_FLIGHT_MAX);
    let mut granted = inner.granted.lock();
    inner.jobs.add_permits(jobs.saturating_sub(granted.0) as usize);
    inner.bytes.add_permits(usize::try_from(bytes.saturating_sub(granted.1)).unwrap_or(0));
    *granted = (granted.0.max(jobs), granted.1.max(bytes));
}

/// Starts the streams of a fresh connection and sends what is unanswered.
fn install(inner: &Arc<Inner>, connection: quinn::Connection) {
    let outboxes = Inner::outboxes();
    for urgency in Urgency::ALL {
        let outbox = outboxes[urgency as usize].clone();
        tokio::spawn(coalesced(Arc::downgrade(inner), connection.clone(), urgency, outbox));
    }
    let weak = Arc::downgrade(inner);
    let accepting = connection.clone();
    tokio::spawn(async move {
        // Large answers to small jobs come on streams of their own.
        while let Ok(stream) = accepting.accept_uni().await {
            tokio::spawn(read_answers(weak.clone(), stream));
        }
    });
    for correlation in inner.install(Live { connection: connection.clone(), outboxes }) {
        tokio::spawn(large(Arc::clone(inner), connection.clone(), correlation));
    }
}

/// Watches the connection and opens it again when it breaks.
async fn keep(inner: Weak<Inner>, mut connection: quinn::Connection) {
    loop {
        let reason = connection.closed().await;
        let Some(strong) = inner.upgrade() else { return };
        strong.uninstall();
        if strong.is_closed() {
            return;
        }
        tracing::debug!(%reason, "connection lost");
        let limit = Duration::from_millis(strong.config.reconnect_ms_max);
        let (lost, mut backoff_ms) = (Instant::now(), BACKOFF_MS);
        connection = loop {
            let left = limit.saturating_sub(lost.elapsed());
            if left.is_zero() {
                let (address, waited_ms) = (strong.config.address, strong.config.reconnect_ms_max);
                strong.give_up(|| ClientError::Lost { address, waited_ms, reason: reason.to_string() });
                return;
            }
            match dial(&strong, left.min(Duration::from_secs(2))).await {
                Ok(connection) => break connection,
                Err(error) => tracing::debug!(%error, "dialling again"),
            }
            if strong.is_closed() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(backoff_ms).min(left)).await;
            backoff_ms = (backoff_ms * 2).min(BACKOFF_MS_MAX);
        };
        strong.reconnects.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        install(&strong, connection.clone());
    }
}

/// Opens the coalesced stream of one urgency when it is first needed, then writes and reads it.
async fn coalesced(inner: Weak<Inner>, connection: quinn::Connection, urgency: Urgency, outbox: Outbox) {
    outbox.wait_for_first().await;
    let Ok((mut send, recv)) = connection.open_bi().await else { return };
    let _ = send.set_priority(priority(urgency));
    tokio::spawn(read_answers(inner, recv));
    outbox.write_to(&mut send).await;
}

/// Sends a large job on a stream of its own and reads its answer there.
async fn large(inner: Arc<Inner>, connection: quinn::Connection, correlation: u64) {
    let Some((header, payload, taken_back)) = inner.job(correlation) else { return };
    let Ok((mut send, recv)) = connection.open_bi().await else { return };
    let _ = send.set_priority(priority(header.urgency));
    let reading = tokio::spawn(read_answers(Arc::downgrade(&inner), recv));
    let mut head = bytes::BytesMut::new();
    FrameWriter::default().put(&mut head, Kind::Submit, correlation, &header, payload.len() as u64);
    drop(inner);
    // A node that refuses stops the stream; its answer says why.
    let mut pieces = [head.freeze(), payload];
    let upload = async {
        if send.write_all_chunks(&mut pieces).await.is_ok() && send.finish().is_ok() {
            let _ = send.stopped().await;
        }
    };
    tokio::select! {
        () = upload => {}
        // The node drops what it has of the payload.
        () = taken_back.notified() => {
            let _ = send.reset(0_u32.into());
        }
    }
    let _ = reading.await;
}

/// Reads answers from one stream until it ends.
async fn read_answers(inner: Weak<Inner>, mut stream: quinn::RecvStream) {
    let mut reader = FrameReader::default();
    let mut chunks: [Bytes; 32] = std::array::from_fn(|_| Bytes::new());
    let mut current: Option<(u64, AnswerHeader, Vec<u8>)> = None;
    while let Ok(Some(count)) = stream.read_chunks(&mut chunks).await {
        let Some(inner) = inner.upgrade() else { return };
        for chunk in &mut chunks[..count] {
            let chunk = std::mem::take(chunk);
            let mut input = &chunk[..];
            loop {
                match reader.step(&mut input) {
                    Ok(Step::More) => break,
                    Ok(Step::Head(prelude)) if prelude.kind == Kind::Answer => {
                        match decode_header::<AnswerHeader>(Kind::Answer, reader.header()) {
                            Ok(header) => {
                                let bytes = usize::try_from(prelude.payload_bytes).unwrap_or(0);
                                current = Some((prelude.correlation, header, Vec::with_capacity(bytes)));
                            }
                            Err(error) => return tracing::warn!(%error, "answer"),
                        }
                    }
                    Ok(Step::Head(prelude)) => tracing::warn!(kind = ?prelude.kind, "unexpected frame from the node"),
                    Ok(Step::Payload(bytes)) => {
                        if let Some((_, _, payload)) = &mut current {
                            payload.extend_from_slice(bytes);
                        }
                    }
                    Ok(Step::End) => {
                        if let Some((correlation, header, payload)) = current.take() {
                            inner.complete(correlation, header, payload.into());
                        }
                    }
                    Err(error) => return tracing::warn!(%error, "answers"),
                }
            }
        }
    }
}

/// Takes a job back when its future is dropped.
struct Waiting<'a> {
    inner: &'a Inner,
    correlation: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.abandon(self.correlation);
    }
}

pub(crate) async fn submit(inner: &Arc<Inner>, job: Job, payload: Bytes) -> Result<Answer, ClientError> {
    let began = Instant::now();
    let mut header = job.into_header()?;
    // A payload that could never be sent is not worth waiting for credits: the node would refuse it by its header.
    let bytes = u32::try_from(payload.len().min(usize::try_from(limits::BYTES_IN_FLIGHT_MAX).unwrap_or(usize::MAX)))
        .map_err(|_| ClientError::Invalid("payload of more than 4 GiB".to_owned()))?;
    let bytes = bytes.min(u32::try_from(inner.granted.lock().1).unwrap_or(u32::MAX));
    let credits = async {
        let jobs = inner.jobs.acquire().await.map_err(|_| ClientError::Closed)?;
        let bytes = inner.bytes.acquire_many(bytes).await.map_err(|_| ClientError::Closed)?;
        Ok::<_, ClientError>((jobs, bytes))
    };
    if header.freshness_us > 0 {
        header.digest = digest(&payload).await;
    }
    let wait = Duration::from_micros(header.budget_us) + Duration::from_millis(SILENCE_MS_MAX);
    let exchange = async {
        let _credits = credits.await?;
        // The deadline counts from the call: what was spent waiting for credits is gone.
        let waited_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        header.budget_us = header.budget_us.saturating_sub(waited_us);
        let (correlation, stream, answer) = inner.register(header, payload.clone())?;
        let _waiting = Waiting { inner, correlation };
        if let Some(connection) = stream {
            debug_assert!(is_large(&payload));
            tokio::spawn(large(Arc::clone(inner), connection, correlation));
        }
        answer.await.map_err(|_| ClientError::Closed)?
    };
    tokio::time::timeout(wait, exchange).await.map_err(|_| ClientError::Silent { waited_ms: SILENCE_MS_MAX })?
}

/// SHA-256 of a payload; a long one is hashed on another thread.
async fn digest(payload: &Bytes) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    if !is_large(payload) {
        return Sha256::digest(payload).into();
    }
    let shared = payload.clone();
    let hashed = tokio::task::spawn_blocking(move || Sha256::digest(&shared).into()).await;
    hashed.unwrap_or_else(|_| Sha256::digest(payload).into())
}

pub(crate) async fn query(inner: &Inner, question: &str) -> Result<String, ClientError> {
    let connection = inner.connection().ok_or(ClientError::Closed)?;
    let lost = |reason: String| ClientError::Lost { address: inner.config.address, waited_ms: 0, reason };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(error.to_string()))?;
    let mut frame = Vec::new();
    put_frame(&mut frame, Kind::Query, 1, &[], question.len() as u64);
    frame.extend_from_slice(question.as_bytes());
    send.write_all(&frame).await.map_err(|error| lost(error.to_string()))?;
    let _ = send.finish();
    let limit = usize::try_from(limits::QUERY_BYTES_MAX).unwrap_or(usize::MAX) + limits::HEADER_BYTES_MAX;
    let bytes = tokio::time::timeout(Duration::from_millis(SILENCE_MS_MAX), recv.read_to_end(limit))
        .await
        .map_err(|_| ClientError::Silent { waited_ms: SILENCE_MS_MAX })?
        .map_err(|error| ClientError::Protocol(error.to_string()))?;
    let (mut reader, mut input, mut kind, mut text) = (FrameReader::default(), &bytes[..], None, Vec::new());
    loop {
        match reader.step(&mut input).map_err(|error| ClientError::Protocol(error.to_string()))? {
            Step::Head(prelude) => kind = Some(prelude.kind),
            Step::Payload(bytes) => text.extend_from_slice(bytes),
            Step::End | Step::More => break,
        }
    }
    let text = String::from_utf8(text).map_err(|_| ClientError::Protocol("the reply is not UTF-8".to_owned()))?;
    match kind {
        Some(Kind::Reply) => Ok(text),
        Some(Kind::Error) => Err(ClientError::Refused(text)),
        other => Err(ClientError::Protocol(format!("a reply was expected, not {other:?}"))),
    }
}
