//! One stream of a connection: frames in, answers out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use sensorium_cluster::NodeId;
use sensorium_device::clock::now_ns;
use sensorium_transport::{FrameReader, Outbox, Payload, Step};
use sensorium_wire::codec::{FrameWriter, decode_header, decode_submit, put_frame};
use sensorium_wire::frame::FrameError;
use sensorium_wire::peer::{CheckpointAct, CheckpointHeader, ForwardHeader, RecallHeader};
use sensorium_wire::session::{CancelHeader, SessionHeader};
use sensorium_wire::source::{LeaseAskHeader, WatchHeader};
use sensorium_wire::{Kind, Prelude, Principal, Reason, Rejection, Role, SubmitHeader, limits};

use super::upload::Upload;
use super::{Gateway, SessionRequest};
use crate::cluster::{Accepted, Departure, Origin, Passing};
use crate::engine::{Admitted, Caller, CallerId, InFlight, Reply};
use crate::source;

/// Bytes of answers that may wait for one stream. A client that reads nothing is cut off there.
const OUTBOX_BYTES_MAX: usize = 192 << 20;

/// The client at the other end.
pub(super) struct Peer {
    pub(super) gateway: Arc<Gateway>,
    pub(super) connection: quinn::Connection,
    pub(super) principal: Principal,
    pub(super) caller: Caller,
    /// What other nodes are told about this client's jobs.
    pub(super) origin: Origin,
    /// A neighbour, which hands on the jobs of its clients.
    pub(super) is_node: bool,
    pub(super) in_flight: Arc<InFlight>,
    /// Cloned by each session.
    pub(super) sessions: Arc<()>,
}

/// Where the payload of the current frame goes.
enum Sink {
    /// Nowhere: there is none, or the job was refused.
    Discard,
    Job {
        admitted: Box<Admitted>,
        written: u64,
        reply: Reply,
    },
    /// Another node does it; the payload goes there when it is complete.
    Away {
        departure: Box<Departure>,
        pieces: Vec<Bytes>,
        reply: Reply,
    },
    /// Another node does it; the payload goes there as it comes.
    Passing {
        passing: Box<Passing>,
        written: u64,
    },
    Question(Vec<u8>),
    /// A neighbour's checkpoint.
    Checkpoint {
        header: CheckpointHeader,
        state: Vec<u8>,
    },
    Upload(Box<Upload>),
}

/// Reads one stream until it ends.
pub(super) async fn serve(peer: Arc<Peer>, mut send: quinn::SendStream, mut recv: quinn::RecvStream) {
    let outbox = Outbox::new(OUTBOX_BYTES_MAX);
    let writing = {
        let (outbox, connection) = (outbox.clone(), peer.connection.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = outbox.write_to(&mut send) => {}
                _ = connection.closed() => outbox.close(),
            }
        })
    };
    let mut stream = Stream { peer, outbox, sink: Sink::Discard, answers_pending: false };
    match stream.read(&mut recv).await {
        Ok(()) => {}
        Err(StreamEnd::Frame(error)) => {
            stream.fail(&error.to_string());
            let _ = recv.stop(1_u32.into());
        }
        Err(StreamEnd::Stopped) => {
            let _ = recv.stop(0_u32.into());
        }
    }
    // Streams that carry no jobs (questions, sessions, errors) end by themselves; those that do stay open for answers
    // until the connection closes.
    let _ = writing.await;
}

/// Why reading a stream ends before the client ends it.
enum StreamEnd {
    Frame(FrameError),
    /// We do not want the rest.
    Stopped,
}

impl From<FrameError> for StreamEnd {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

struct Stream {
    peer: Arc<Peer>,
    outbox: Outbox,
    sink: Sink,
    answers_pending: bool,
}

impl Stream {
    async fn read(&mut self, recv: &mut quinn::RecvStream) -> Result<(), StreamEnd> {
        let mut reader = FrameReader::default();
        let mut chunks: [Bytes; 64] = std::array::from_fn(|_| Bytes::new());
        loop {
            let Ok(Some(count)) = recv.read_chunks(&mut chunks).await else {
                self.cut_off();
                return Ok(());
            };
            for chunk in &mut chunks[..count] {
                let chunk = std::mem::take(chunk);
                let mut input = &chunk[..];
                loop {
                    match reader.step(&mut input)? {
                        Step::More => break,
                        Step::Head(prelude) => self.head(prelude, reader.header()).await?,
                        Step::Payload(bytes) => self.payload(&chunk, bytes).await?,
                        Step::End => self.end().await,
                    }
                }
            }
        }
    }

    /// Nothing more comes. A client that vanishes or ends inside a frame leaves nothing behind: the sink's memory is
    /// freed here, and the answer ends the job's own stream. A client that still listens hears what was wrong.
    fn cut_off(&mut self) {
        let broken_off = |written: u64| {
            let detail = format!("the stream ended inside the payload, after {written} bytes");
            Rejection::new(Reason::InvalidPayload, detail)
        };
        let Gateway { engine, cluster, .. } = &*self.peer.gateway;
        match std::mem::replace(&mut self.sink, Sink::Discard) {
            Sink::Job { admitted, written, reply } => {
                engine.refuse(&admitted.header, reply, broken_off(written), admitted.header_ns());
            }
            Sink::Away { departure, pieces, reply } => {
                let written = pieces.iter().map(|piece| piece.len() as u64).sum();
                engine.refuse(departure.header(), reply, broken_off(written), departure.header_ns());
            }
            Sink::Passing { passing, written, .. } => cluster.broken_off(&passing, broken_off(written)),
            Sink::Discard | Sink::Question(_) | Sink::Upload(_) | Sink::Checkpoint { .. } => {}
        }
        if !self.answers_pending {
            self.outbox.finish();
        }
    }

    async fn head(&mut self, prelude: Prelude, header: &[u8]) -> Result<(), StreamEnd> {
        let peer = &self.peer;
        match prelude.kind {
            Kind::Forward if peer.is_node => {
                let header: ForwardHeader = decode_header(Kind::Forward, header)?;
                return self.forwarded(prelude, &header).await;
            }
            Kind::Recall if peer.is_node => {
                let recall: RecallHeader = decode_header(Kind::Recall, header)?;
                if let Some(caller) = self.caller_behind(&recall.principal) {
                    peer.gateway.cluster.cancel(caller, recall.job_id);
                }
            }
            Kind::Checkpoint if peer.is_node => {
                let header: CheckpointHeader = decode_header(Kind::Checkpoint, header)?;
                if header.act() == Some(CheckpointAct::Ask) {
                    let (header, state) = peer.gateway.cluster.kept(&header);
                    self.tell_checkpoint(&header, &state);
                    self.outbox.finish();
                } else {
                    self.sink = Sink::Checkpoint { header, state: Vec::new() };
                }
            }
            Kind::LeaseAsk if peer.is_node => {
                let asked: LeaseAskHeader = decode_header(Kind::LeaseAsk, header)?;
                let answer = peer.gateway.cluster.lease_asked(NodeId::of(&peer.principal.name), &asked);
                let _ = self.outbox.push(
                    |out| FrameWriter::default().put(out, Kind::LeaseAnswer, prelude.correlation, &answer, 0),
                    Payload::EMPTY,
                );
                self.outbox.finish();
            }
            kind if peer.is_node => return Err(FrameError::Unexpected(kind).into()),
            Kind::Submit => {
                let (caller, origin) = (Some(peer.caller), peer.origin.clone());
                return self.submit(prelude, &decode_submit(prelude.version, header)?, caller, &origin).await;
            }
            Kind::Cancel => {
                let cancel: CancelHeader = decode_header(Kind::Cancel, header)?;
                peer.gateway.cluster.cancel(peer.caller.id, cancel.job_id);
            }
            Kind::Query => self.sink = Sink::Question(Vec::new()),
            Kind::Watch => {
                let header: WatchHeader = decode_header(Kind::Watch, header)?;
                self.watch(header);
            }
            Kind::Session => {
                let header: SessionHeader = decode_header(Kind::Session, header)?;
                return self.session(header, prelude.payload_bytes).await;
            }
            kind => return Err(FrameError::Unexpected(kind).into()),
        }
        Ok(())
    }

    /// A job of a neighbour's client. The neighbour's word counts no further than its own certificate reaches.
    async fn forwarded(&mut self, prelude: Prelude, header: &ForwardHeader) -> Result<(), StreamEnd> {
        let critical = header.critical == 1 && self.peer.principal.has(Role::Critical);
        let caller = self.caller_behind(&header.principal).map(|id| Caller { id, critical });
        let visited = header.visited().map(NodeId).collect();
        let origin = Origin { visited, principal: header.principal, critical };
        self.submit(prelude, &header.submit, caller, &origin).await
    }

    /// The number of a principal that a neighbour speaks for: the same job ids through two neighbours are two jobs. `None`
    /// when too many are known.
    fn caller_behind(&self, principal: &[u8; 16]) -> Option<CallerId> {
        let principal = u128::from_le_bytes(*principal);
        self.peer.gateway.engine.caller_id(&format!("{}>{principal:x}", self.peer.principal.name))
    }

    /// Judges a job by its header; `caller` is `None` where principals are too many. A refused large job's payload is not taken: its stream is stopped.
    async fn submit(
        &mut self,
        prelude: Prelude,
        header: &SubmitHeader,
        caller: Option<Caller>,
        origin: &Origin,
    ) -> Result<(), StreamEnd> {
        let header_ns = now_ns();
        let peer = Arc::clone(&self.peer);
        let own_stream = prelude.payload_bytes > limits::COALESCED_PAYLOAD_BYTES_MAX;
        let in_flight = &peer.in_flight;
        let jobs = in_flight.jobs.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = in_flight.bytes.fetch_add(prelude.payload_bytes, Ordering::Relaxed) + prelude.payload_bytes;
        let reply = Reply::Stream {
            outbox: self.outbox.clone(),
            correlation: prelude.correlation,
            own_stream,
            connection: peer.connection.clone(),
            credits: Some((Arc::clone(in_flight), prelude.payload_bytes)),
        };
        self.answers_pending = true;
        let Gateway { engine, cluster, .. } = &*peer.gateway;
        let Some(caller) = caller else {
            let rejection = Rejection::new(Reason::Overloaded, "too many principals are known here; try another node");
            engine.refuse(header, reply, rejection, header_ns);
            self.sink = Sink::Discard;
            return if own_stream { Err(StreamEnd::Stopped) } else { Ok(()) };
        };
        let Err(reply) = cluster.rejoin(caller.id, header.job_id, reply) else {
            self.sink = Sink::Discard;
            return if own_stream { Err(StreamEnd::Stopped) } else { Ok(()) };
        };
        let accepted = if !peer.is_node && !peer.principal.has(Role::Submit) {
            Err(Rejection::new(Reason::Forbidden, "submitting jobs needs a certificate with the role submit"))
        } else if jobs > limits::JOBS_IN_FLIGHT_MAX || bytes > limits::BYTES_IN_FLIGHT_MAX {
            Err(Rejection::new(
                Reason::CreditsExceeded,
                format!("{jobs} jobs and {bytes} payload bytes in flight on this connection; the grant is smaller"),
            ))
        } else if let Some(answer) = engine.at_once(caller, header, prelude.payload_bytes, header_ns) {
            engine.send(reply, answer);
            self.sink = Sink::Discard;
            return if own_stream { Err(StreamEnd::Stopped) } else { Ok(()) };
        } else {
            cluster.accept(caller, origin, header, prelude.payload_bytes)
        };
        match accepted {
            Ok(Accepted::Here(admitted)) => self.sink = Sink::Job { admitted, written: 0, reply },
            Ok(Accepted::Away(departure)) if own_stream => {
                let passing = Box::new(cluster.pass(&departure, reply).await);
                self.sink = Sink::Passing { passing, written: 0 };
            }
            Ok(Accepted::Away(departure)) => self.sink = Sink::Away { departure, pieces: Vec::new(), reply },
            Err(rejection) => {
                engine.refuse(header, reply, rejection, header_ns);
                self.sink = Sink::Discard;
                if own_stream {
                    return Err(StreamEnd::Stopped);
                }
            }
        }
        Ok(())
    }

    fn watch(&mut self, header: WatchHeader) {
        let gateway = &self.peer.gateway;
        match gateway.sources.admit(header.source.as_str(), &self.peer.principal) {
            Ok((source, place)) => {
                self.answers_pending = true;
                let cluster = Arc::clone(&gateway.cluster);
                tokio::spawn(source::serve(cluster, source, header, self.outbox.clone(), place));
            }
            Err(reason) => self.fail(&reason),
        }
    }

    async fn session(&mut self, header: SessionHeader, bytes: u64) -> Result<(), StreamEnd> {
        if !self.peer.principal.has(Role::Submit) {
            self.fail("opening a session needs a certificate with the role submit");
            return Err(StreamEnd::Stopped);
        }
        match self.peer.gateway.spool.open(header, bytes, &self.peer.sessions).await {
            Ok(upload) => {
                self.sink = Sink::Upload(Box::new(upload));
                Ok(())
            }
            Err(reason) => {
                self.fail(&reason);
                Err(StreamEnd::Stopped)
            }
        }
    }

    /// Takes a piece of the payload, `bytes`, which lies in `chunk`.
    async fn payload(&mut self, chunk: &Bytes, bytes: &[u8]) -> Result<(), StreamEnd> {
        match &mut self.sink {
            Sink::Discard => {}
            Sink::Away { pieces, .. } => pieces.push(chunk.slice_ref(bytes)),
            Sink::Passing { passing, written, .. } => {
                *written += bytes.len() as u64;
                passing.write(chunk.slice_ref(bytes)).await;
            }
            Sink::Job { admitted, written, .. } => {
                // The slot has room for what the prelude announced, and the reader passes no more than that.
                let fits = admitted.input.write(*written, bytes);
                debug_assert!(fits);
                *written += bytes.len() as u64;
            }
            Sink::Question(question) => question.extend_from_slice(bytes),
            Sink::Checkpoint { state, .. } => state.extend_from_slice(bytes),
            Sink::Upload(upload) => {
                if let Err(reason) = upload.write(bytes).await {
                    self.sink = Sink::Discard;
                    self.fail(&reason);
                    return Err(StreamEnd::Stopped);
                }
            }
        }
        Ok(())
    }

    async fn end(&mut self) {
        let peer = &self.peer;
        match std::mem::replace(&mut self.sink, Sink::Discard) {
            Sink::Discard => {}
            Sink::Job { admitted, reply, .. } => peer.gateway.engine.verify_and_submit(admitted, reply).await,
            Sink::Away { departure, pieces, reply } => peer.gateway.cluster.depart(*departure, pieces, reply),
            Sink::Passing { passing, .. } => peer.gateway.cluster.passed(*passing),
            Sink::Checkpoint { header, state } => {
                if let Some(refusal) = peer.gateway.cluster.checkpointed(&peer.principal.name, &header, &state) {
                    self.tell_checkpoint(&refusal, &[]);
                }
            }
            Sink::Question(question) => self.answer(&String::from_utf8_lossy(&question)),
            Sink::Upload(upload) => match upload.finish().await {
                Ok((header, media)) => {
                    self.answers_pending = true;
                    peer.gateway.desk.open_session(SessionRequest {
                        header,
                        principal: peer.principal.clone(),
                        caller: peer.caller,
                        media,
                        events: self.outbox.clone(),
                    });
                }
                Err(reason) => self.fail(&reason),
            },
        }
    }

    fn tell_checkpoint(&self, header: &CheckpointHeader, state: &[u8]) {
        let (mut writer, bytes) = (FrameWriter::default(), state.len() as u64);
        let _ = self.outbox.push(|out| writer.put(out, Kind::Checkpoint, 0, header, bytes), Payload::Copied(state));
    }

    fn answer(&self, question: &str) {
        if let Some(for_ms) = question.strip_prefix("critical-moment ") {
            return self.critical_moment(for_ms);
        }
        if !self.peer.principal.has(Role::Operate) {
            return self.fail("asking for the status needs a certificate with the role operate");
        }
        let Some(json) = self.peer.gateway.desk.answer(question) else {
            return self.fail(&format!("no question {question:?}; status and models are known"));
        };
        self.reply(json);
    }

    /// A client says that the next moments matter.
    fn critical_moment(&self, for_ms: &str) {
        if !self.peer.principal.has(Role::Critical) && !self.peer.principal.has(Role::Operate) {
            return self.fail("calling a critical moment needs a certificate with the role critical or operate");
        }
        let Some(for_ms) = for_ms.parse().ok().filter(|ms| *ms <= limits::CRITICAL_MOMENT_MS_MAX) else {
            return self.fail(&format!("a critical moment of {for_ms:?}; 0 to {} ms", limits::CRITICAL_MOMENT_MS_MAX));
        };
        let engine = &self.peer.gateway.engine;
        engine.critical_moment(for_ms);
        match serde_json::to_string(&engine.plan()) {
            Ok(json) => self.reply(json),
            Err(error) => self.fail(&error.to_string()),
        }
    }

    fn reply(&self, json: String) {
        let bytes = json.len() as u64;
        let _ = self.outbox.push(|out| put_frame(out, Kind::Reply, 1, &[], bytes), Payload::Shared(json.into()));
        self.outbox.finish();
    }

    /// A typed error on this stream; the connection and its other streams live on.
    fn fail(&self, reason: &str) {
        let mut end = reason.len().min(limits::DETAIL_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let reason = &reason.as_bytes()[..end];
        let _ =
            self.outbox.push(|out| put_frame(out, Kind::Error, 0, &[], reason.len() as u64), Payload::Copied(reason));
        self.outbox.finish();
    }
}
