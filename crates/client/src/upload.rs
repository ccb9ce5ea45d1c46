//! A large job on a stream of its own.

use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use sensorium_wire::codec::FrameWriter;
use sensorium_wire::{Kind, SubmitHeader};
use tokio::sync::Notify;

use crate::connection::read_answers;
use crate::inner::{Inner, priority};

pub(crate) struct Upload {
    /// The connection's number.
    pub(crate) number: u64,
    pub(crate) correlation: u64,
    pub(crate) header: SubmitHeader,
    pub(crate) payload: Bytes,
    pub(crate) taken_back: Arc<Notify>,
}

impl Upload {
    /// Sends the job and reads its answer on the same stream.
    pub(crate) async fn run(self, inner: Weak<Inner>, connection: quinn::Connection) {
        let Ok((mut send, recv)) = connection.open_bi().await else { return };
        let _ = send.set_priority(priority(self.header.urgency));
        let reading = tokio::spawn(read_answers(inner, self.number, recv));
        let mut head = BytesMut::new();
        let bytes = self.payload.len() as u64;
        FrameWriter::default().put(&mut head, Kind::Submit, self.correlation, &self.header, bytes);
        // A node that refuses stops the stream; its answer says why.
        let mut pieces = [head.freeze(), self.payload];
        let upload = async {
            if send.write_all_chunks(&mut pieces).await.is_ok() && send.finish().is_ok() {
                let _ = send.stopped().await;
            }
        };
        tokio::select! {
            () = upload => {}
            // The node drops what it has of the payload.
            () = self.taken_back.notified() => {
                let _ = send.reset(0_u32.into());
            }
        }
        let _ = reading.await;
    }
}
