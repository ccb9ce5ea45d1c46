//! The control connection between two neighbours: greetings, load reports, remote actors.
//!
//! The child dials. Both sides say hello on the first stream and judge what they hear; the second stream belongs to
//! ractor_cluster; load reports are datagrams. What all this means is for the cluster actor to decide.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::{ActorRef, call_t};
use ractor_cluster::{BoxRead, BoxWrite, ClusterBidiStream, NodeServerMessage};
use sensorium_cluster::{DIAL_MS_MAX, LoadReport, NodeId, NodeSpec};
use sensorium_transport::{Dialer, FrameReader, Step, peer_principal};
use sensorium_wire::codec::{FrameWriter, decode_header, put_frame};
use sensorium_wire::peer::HelloHeader;
use sensorium_wire::{Kind, Principal, Role, limits};

use super::actor::ClusterMessage;

/// How long connecting and greeting may take, in milliseconds: soon after a network is whole again, a new try is made.
const GREETING_MS_MAX: u64 = 500;
/// Longest greeting or refusal, in bytes.
const GREETING_BYTES_MAX: usize = limits::HEADER_BYTES_MAX + limits::DETAIL_BYTES_MAX;
/// How long the cluster actor may take to judge a greeting, in milliseconds.
const JUDGEMENT_MS_MAX: u64 = 1_000;
/// Reports that one neighbour may send in a tenth of a second; more are dropped unread.
const REPORTS_PER_100_MS_MAX: u32 = 50;
/// The close code of a greeting that was refused.
const CLOSE_REFUSED: u32 = 4;

/// A control connection whose greetings were accepted.
#[derive(Clone)]
pub struct Control {
    pub(super) peer: NodeId,
    pub(super) instance: u64,
    pub(super) connection: quinn::Connection,
}

impl Control {
    /// Sends a load report; one that is lost is followed by the next.
    pub(super) fn report(&self, report: &LoadReport) {
        let mut bytes = Vec::new();
        report.encode(&mut bytes);
        if let Err(error) = self.connection.send_datagram(bytes.into()) {
            tracing::debug!(%error, "load report not sent");
        }
    }
}

/// A QUIC stream as ractor_cluster wants it.
struct Stream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    peer: String,
}

impl ClusterBidiStream for Stream {
    fn split(self: Box<Self>) -> (BoxRead, BoxWrite) {
        (Box::new(self.recv), Box::new(self.send))
    }

    fn peer_label(&self) -> Option<String> {
        Some(self.peer.clone())
    }
}

/// Both ends of the control plane in this node.
#[derive(Clone)]
pub struct ControlPlane {
    pub(super) actor: ActorRef<ClusterMessage>,
    pub(super) remote_actors: ActorRef<NodeServerMessage>,
    pub(super) hello: HelloHeader,
}

impl ControlPlane {
    /// Dials a parent; the outcome goes to the cluster actor.
    pub(super) async fn dial(self, dialer: Dialer, to: NodeSpec) {
        let peer = to.id();
        let wait = Duration::from_millis(DIAL_MS_MAX);
        let reason = match tokio::time::timeout(wait, self.greet_parent(&dialer, &to)).await {
            Ok(Ok(control)) => return self.connected(control),
            Ok(Err(reason)) => reason,
            Err(_) => format!("no answer from {} within {DIAL_MS_MAX} ms", to.peer),
        };
        let _ = self.actor.cast(ClusterMessage::DialFailed { peer, reason });
    }

    async fn greet_parent(&self, dialer: &Dialer, to: &NodeSpec) -> Result<Control, String> {
        let connecting = dialer.dial(to.peer).map_err(|error| error.to_string())?;
        let connection = connecting.await.map_err(|error| explain(&error))?;
        let principal = peer_principal(&connection).map_err(|error| error.to_string())?;
        let (mut send, recv) = connection.open_bi().await.map_err(|error| explain(&error))?;
        send.write_all(&self.greeting()).await.map_err(|_| closed_by(&connection))?;
        let _ = send.finish();
        let hello = read_greeting(recv).await.map_err(|reason| reason.unwrap_or_else(|| closed_by(&connection)))?;
        let control = self.judge(hello, &principal, &connection).await?;
        // Who dialled opens the stream and speaks first; that is how ractor_cluster's protocol goes.
        let (send, recv) = connection.open_bi().await.map_err(|error| explain(&error))?;
        let stream = Box::new(Stream { send, recv, peer: to.name.clone() });
        ractor_cluster::client_connect_external(&self.remote_actors, stream)
            .await
            .map_err(|error| error.to_string())?;
        Ok(control)
    }

    /// Answers a child that has dialled. Gives the reason when it is turned away.
    ///
    /// # Errors
    /// A line for the operator; the child has been told.
    pub(super) async fn accept(&self, connection: quinn::Connection, principal: &Principal) -> Result<(), String> {
        let greeting = async {
            let (send, recv) = connection.accept_bi().await.map_err(|error| explain(&error))?;
            let hello = read_greeting(recv).await.map_err(|reason| reason.unwrap_or_else(|| closed_by(&connection)))?;
            Ok::<_, String>((send, hello))
        };
        let (mut send, hello) = tokio::time::timeout(Duration::from_millis(GREETING_MS_MAX), greeting)
            .await
            .map_err(|_| format!("no greeting within {GREETING_MS_MAX} ms"))??;
        let control = match self.judge(hello, principal, &connection).await {
            Ok(control) => control,
            Err(reason) => {
                let mut frame = Vec::new();
                put_frame(&mut frame, Kind::Error, 0, &[], reason.len() as u64);
                frame.extend_from_slice(reason.as_bytes());
                let _ = send.write_all(&frame).await;
                let _ = send.finish();
                let _ = tokio::time::timeout(Duration::from_millis(GREETING_MS_MAX), send.stopped()).await;
                connection.close(CLOSE_REFUSED.into(), reason.as_bytes());
                return Err(reason);
            }
        };
        send.write_all(&self.greeting()).await.map_err(|error| error.to_string())?;
        let _ = send.finish();
        let (actors, peer) = (self.remote_actors.clone(), hello.name.to_string());
        let accepting = connection.clone();
        tokio::spawn(async move {
            if let Ok((send, recv)) = accepting.accept_bi().await {
                let stream = Box::new(Stream { send, recv, peer });
                let _ = actors.cast(NodeServerMessage::ConnectionOpenedExternal { stream, is_server: true });
            }
        });
        self.connected(control);
        Ok(())
    }

    fn greeting(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        FrameWriter::default().put(&mut frame, Kind::Hello, 0, &self.hello, 0);
        frame
    }

    async fn judge(
        &self,
        hello: HelloHeader,
        principal: &Principal,
        connection: &quinn::Connection,
    ) -> Result<Control, String> {
        if !principal.has(Role::Peer) {
            return Err(format!(
                "{}'s certificate ({}/{}) lacks the role peer",
                hello.name, principal.tenant, principal.name
            ));
        }
        let judge = |reply| ClusterMessage::Judge { hello: Box::new(hello), principal: principal.clone(), reply };
        let peer = call_t!(self.actor, judge, JUDGEMENT_MS_MAX)
            .map_err(|error| format!("the cluster actor does not answer: {error}"))??;
        Ok(Control { peer, instance: hello.instance, connection: connection.clone() })
    }

    /// Tells the actor, and listens for reports until the connection ends.
    fn connected(&self, control: Control) {
        let actor = self.actor.clone();
        if actor.cast(ClusterMessage::Connected(control.clone())).is_err() {
            return;
        }
        tokio::spawn(async move {
            let mut window = tokio::time::Instant::now();
            let mut reports = 0;
            let reason = loop {
                match control.connection.read_datagram().await {
                    Ok(bytes) => {
                        if window.elapsed() > Duration::from_millis(100) {
                            (window, reports) = (tokio::time::Instant::now(), 0);
                        }
                        reports += 1;
                        if reports <= REPORTS_PER_100_MS_MAX {
                            hear(&actor, control.peer, &bytes);
                        }
                    }
                    Err(error) => break explain(&error),
                }
            };
            let _ = actor.cast(ClusterMessage::Disconnected { control, reason });
        });
    }
}

fn hear(actor: &ActorRef<ClusterMessage>, peer: NodeId, bytes: &Bytes) {
    match LoadReport::decode(bytes) {
        Some(report) => drop(actor.cast(ClusterMessage::Report { peer, report })),
        None => tracing::debug!(bytes = bytes.len(), "a datagram that is no load report"),
    }
}

/// The other side's hello; `Err(Some)` when it refused ours, `Err(None)` when the connection ended.
async fn read_greeting(mut stream: quinn::RecvStream) -> Result<HelloHeader, Option<String>> {
    let bytes = stream.read_to_end(GREETING_BYTES_MAX).await.map_err(|_| None)?;
    let (mut reader, mut input, mut refusal) = (FrameReader::default(), &bytes[..], None);
    loop {
        match reader.step(&mut input).map_err(|error| Some(error.to_string()))? {
            Step::Head(prelude) if prelude.kind == Kind::Hello => {
                return decode_header(Kind::Hello, reader.header()).map_err(|error| Some(error.to_string()));
            }
            Step::Head(prelude) if prelude.kind == Kind::Error => refusal = Some(String::new()),
            Step::Head(prelude) => return Err(Some(format!("a greeting was expected, not {:?}", prelude.kind))),
            Step::Payload(text) => {
                if let Some(refusal) = &mut refusal {
                    refusal.push_str(&String::from_utf8_lossy(text));
                }
            }
            Step::End | Step::More => return Err(refusal.or_else(|| Some("the greeting breaks off".to_owned()))),
        }
    }
}

/// Why a connection was not made or has ended, in words.
fn explain(error: &quinn::ConnectionError) -> String {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) if !close.reason.is_empty() => {
            String::from_utf8_lossy(&close.reason).into_owned()
        }
        quinn::ConnectionError::TimedOut => "it has been silent for too long".to_owned(),
        other => other.to_string(),
    }
}

fn closed_by(connection: &quinn::Connection) -> String {
    connection.close_reason().map_or_else(|| "the connection broke".to_owned(), |error| explain(&error))
}

/// Shared by those who need it to reach the plane once it is up.
pub type Plane = Arc<parking_lot::Mutex<Option<ControlPlane>>>;
