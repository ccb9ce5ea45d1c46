//! Watching a source: its events from whichever node owns it, without an end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sensorium_wire::codec::{FrameWriter, decode_header};
use sensorium_wire::source::{OwnerHeader, SourceName, WatchHeader, is_source_name};
use sensorium_wire::{Event, EventBody, Kind, Name};

use crate::dial;
use crate::frames::{self, Frames};
use crate::inner::{ConnectedNode, Inner};
use crate::seen::Seen;
use crate::{Client, ClientError};

/// Pause before asking again after nothing came of it, in milliseconds; it doubles up to [`PAUSE_MS_MAX`].
const PAUSE_MS: u64 = 50;
const PAUSE_MS_MAX: u64 = 400;
/// An owner that was lost is dialled again only every so many times that others still name it: they know less.
const NAMED_AGAIN: u32 = 8;
/// How long a node that is said to own the source is dialled, in milliseconds.
const FOLLOW_MS_MAX: u64 = 1_000;
/// How long a node may take to say who owns the source, in milliseconds.
const ANSWER_MS_MAX: u64 = 5_000;

/// The events of a source. When its owner changes, this goes on by itself at the next one.
pub struct Watch {
    /// Keeps the client's connection.
    client: Client,
    source: SourceName,
    stream: Option<Stream>,
    /// A connection of its own, to an owner that is not the node of the client.
    own: Option<(ConnectedNode, quinn::Connection)>,
    /// A node that owns the source, as another said.
    hint: Option<(String, SocketAddr)>,
    /// The epoch of the owner that is hinted at.
    hinted_epoch: u64,
    /// Where the owner of this epoch was lost, and how often it was named since.
    gone: Option<(SocketAddr, u64, u32)>,
    /// The client's connection that broke last.
    broken: Option<quinn::Connection>,
    seen: Seen,
    /// Of the events that came last, and what to ask for next.
    epoch: u64,
    next_event: u64,
    pause_ms: u64,
    /// Nothing of the epoch has come yet, and it is not the first.
    new_epoch: bool,
    /// It was told that nobody owns the source.
    orphaned: bool,
}

/// What comes from one node.
struct Stream {
    frames: Frames,
    /// A word that was heard and not told yet.
    owner: Option<OwnerHeader>,
    connection: quinn::Connection,
    node: ConnectedNode,
}

enum Item {
    Owner(OwnerHeader),
    Event(Event),
}

/// Why nothing more comes from a node.
enum Broken {
    /// It is gone, or has nothing more to say.
    Ended,
    Fatal(ClientError),
}

impl From<ClientError> for Broken {
    fn from(error: ClientError) -> Self {
        Self::Fatal(error)
    }
}

pub(crate) fn watch(client: &Client, source: &str) -> Result<Watch, ClientError> {
    let name = Name::new(source).filter(|_| is_source_name(source)).ok_or_else(|| {
        ClientError::Invalid(format!("{source:?} is no source: 1 to 128 of a-z A-Z 0-9 . _ - are expected"))
    })?;
    Ok(Watch {
        client: client.clone(),
        source: name,
        stream: None,
        own: None,
        hint: None,
        hinted_epoch: 0,
        gone: None,
        broken: None,
        seen: Seen::default(),
        epoch: 0,
        next_event: 0,
        pause_ms: PAUSE_MS,
        new_epoch: false,
        orphaned: false,
    })
}

impl Watch {
    /// The node that events come from; `None` while one is looked for.
    #[must_use]
    pub fn node(&self) -> Option<&ConnectedNode> {
        self.stream.as_ref().map(|stream| &stream.node)
    }

    /// The epoch of the owner whose events came last; it rises whenever the source changes hands. 0 = none yet.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next event. Numbers go on without holes, also when the owner changes; what was had does not come again. An owner
    /// of an epoch that has passed is not heard. While no node owns the source this waits, after one notice of its own.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there is no such source or it must not be watched; [`ClientError::Closed`] when no node of
    /// the client's list can be reached any more. Also when a node breaks the protocol.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await?;
                continue;
            };
            match stream.next().await {
                Ok(Item::Event(event)) => {
                    self.pause_ms = PAUSE_MS;
                    self.next_event = self.next_event.max(event.number + 1);
                    // An owner that goes on from a state says so first; another one begins anew.
                    let first = std::mem::take(&mut self.new_epoch);
                    if first && !matches!(event.body, EventBody::Resumed { .. }) {
                        self.seen.begins_anew();
                    }
                    if let Some(event) = self.seen.admit(event) {
                        return Ok(event);
                    }
                }
                Ok(Item::Owner(owner)) => {
                    self.follow(&owner);
                    if owner.api.is_empty()
                        && let Some(event) = self.tell_orphaned()
                    {
                        return Ok(event);
                    }
                    self.pause().await;
                }
                Err(Broken::Ended) => {
                    self.lost();
                    self.pause().await;
                }
                Err(Broken::Fatal(error)) => return Err(error),
            }
        }
    }

    /// Nobody owns the source: told once.
    fn tell_orphaned(&mut self) -> Option<Event> {
        if std::mem::replace(&mut self.orphaned, true) {
            return None;
        }
        let text = format!("no node owns {} now; waiting for one (after epoch {})", self.source, self.epoch);
        let body = EventBody::Notice { text };
        self.seen.admit(Event { t_ms: self.seen.latest_ms, number: 0, body, receipt: None })
    }

    async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.pause_ms)).await;
        self.pause_ms = (self.pause_ms * 2).min(PAUSE_MS_MAX);
    }

    async fn paused(&mut self) -> Result<(), ClientError> {
        self.pause().await;
        Ok(())
    }

    /// Another node owns the source, or nobody does.
    fn follow(&mut self, owner: &OwnerHeader) {
        self.stream = None;
        let api: Option<SocketAddr> = owner.api.as_str().parse().ok();
        // Who says that an epoch goes on that has passed knows less than this.
        let old = owner.epoch != 0 && owner.epoch < self.epoch;
        self.hinted_epoch = owner.epoch;
        let lost = match &mut self.gone {
            Some((address, epoch, named)) if Some(*address) == api && *epoch == owner.epoch => {
                *named += 1;
                *named % NAMED_AGAIN != 0
            }
            _ => false,
        };
        self.hint = api.filter(|_| !old && !lost).map(|api| (owner.node.as_str().to_owned(), api));
    }

    /// What was heard last is gone.
    fn lost(&mut self) {
        if let Some(stream) = self.stream.take() {
            if stream.connection.close_reason().is_some() {
                self.gone = Some((stream.node.address, self.epoch, 0));
            }
            if self.own.as_ref().is_some_and(|(_, own)| own.stable_id() == stream.connection.stable_id()) {
                if stream.connection.close_reason().is_some() {
                    self.own = None;
                }
            } else if stream.connection.close_reason().is_some() {
                self.broken = Some(stream.connection);
            }
        }
        self.hint = None;
    }

    /// Asks for the source's events, where they are thought to be.
    async fn open(&mut self) -> Result<(), ClientError> {
        let Some((connection, node)) = self.connect().await? else { return self.paused().await };
        let header = WatchHeader { source: self.source, epoch: self.epoch, next_event: self.next_event };
        let asking = Stream::open(connection, node, &header);
        let answer = tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), asking).await;
        let (stream, owner) = match answer {
            Ok(Ok(answered)) => answered,
            Ok(Err(Broken::Fatal(error))) => return Err(error),
            Ok(Err(Broken::Ended)) | Err(_) => {
                self.own = None;
                self.hint = None;
                return self.paused().await;
            }
        };
        if owner.here == 0 {
            self.follow(&owner);
            // The first word about where to go is followed at once.
            if self.hint.is_none() || self.pause_ms > PAUSE_MS {
                self.pause().await;
            } else {
                self.pause_ms = PAUSE_MS * 2;
            }
            // Told by `next` through a stream that has nothing but this.
            if owner.api.is_empty() && !self.orphaned {
                self.stream = Some(Stream { owner: Some(owner), ..stream });
            }
            return Ok(());
        }
        if owner.epoch < self.epoch {
            tracing::debug!(epoch = owner.epoch, newest = self.epoch, "an owner of an epoch that has passed");
            self.hint = None;
            return self.paused().await;
        }
        if self.epoch != 0 {
            self.seen.goes_on();
        }
        if owner.epoch > self.epoch {
            self.new_epoch = self.epoch != 0;
            (self.epoch, self.next_event) = (owner.epoch, 0);
        }
        self.orphaned = false;
        self.gone = None;
        self.stream = Some(stream);
        Ok(())
    }

    /// A connection to the owner as far as it is known, else to the client's node. `None` = the owner cannot be reached.
    async fn connect(&mut self) -> Result<Option<(quinn::Connection, ConnectedNode)>, ClientError> {
        let inner: &Arc<Inner> = &self.client.inner;
        let Some((name, address)) = self.hint.clone() else {
            self.own = None;
            let connected = match self.broken.take() {
                Some(broken) => inner.connected_after(&broken).await?,
                None => inner.connected().await?,
            };
            return Ok(Some(connected));
        };
        if let Some(node) = inner.node().filter(|node| node.address == address)
            && let Some(connection) = inner.connection()
        {
            return Ok(Some((connection, node)));
        }
        if let Some((node, connection)) = &self.own
            && node.address == address
            && connection.close_reason().is_none()
        {
            return Ok(Some((connection.clone(), node.clone())));
        }
        match dial::first_of(&inner.dialer, &[address], Duration::from_millis(FOLLOW_MS_MAX)).await {
            Ok(dialled) => {
                let node = ConnectedNode { name, address };
                self.own = Some((node.clone(), dialled.connection.clone()));
                Ok(Some((dialled.connection, node)))
            }
            Err(failed) => {
                tracing::debug!(?failed, "the owner cannot be reached");
                self.gone = Some((address, self.hinted_epoch, 0));
                self.hint = None;
                Ok(None)
            }
        }
    }
}

impl Stream {
    /// Asks, and waits for the first word: who owns the source.
    async fn open(
        connection: quinn::Connection,
        node: ConnectedNode,
        header: &WatchHeader,
    ) -> Result<(Self, OwnerHeader), Broken> {
        let (mut send, recv) = connection.open_bi().await.map_err(|_| Broken::Ended)?;
        let mut frame = Vec::new();
        FrameWriter::default().put(&mut frame, Kind::Watch, 1, header, 0);
        send.write_all(&frame).await.map_err(|_| Broken::Ended)?;
        let _ = send.finish();
        let mut stream = Self { frames: Frames::new(recv), owner: None, connection, node };
        match stream.next().await? {
            Item::Owner(owner) => Ok((stream, owner)),
            Item::Event(_) => Err(ClientError::Protocol("events came before their owner".to_owned()).into()),
        }
    }

    async fn next(&mut self) -> Result<Item, Broken> {
        if let Some(owner) = self.owner.take() {
            return Ok(Item::Owner(owner));
        }
        let mut owner = None;
        let frame = self.frames.next(|kind, header| {
            if kind == Kind::Owner {
                let decoded = decode_header(Kind::Owner, header);
                owner = Some(decoded.map_err(|error| ClientError::Protocol(error.to_string()))?);
            }
            Ok(())
        });
        let frame = match frame.await {
            Ok(Some(frame)) => frame,
            Err(frames::Broken::Content(error)) => return Err(error.into()),
            Ok(None) | Err(frames::Broken::Connection(_) | frames::Broken::Stream(_)) => return Err(Broken::Ended),
        };
        match owner {
            Some(owner) => Ok(Item::Owner(owner)),
            None => Ok(Item::Event(frame.event()?)),
        }
    }
}
