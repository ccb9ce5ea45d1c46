//! Reads a lane's socket: packets of answers from the worker, as they come.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::RecvFlags;
use sensorium_device::protocol::PACKET_BYTES_MAX;
use sensorium_scheduler::LaneId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::engine::Engine;

/// Reads until the worker is gone.
///
/// # Errors
/// Why the worker must be replaced: it talks nonsense, or its socket fails.
pub async fn read(engine: &Engine, lane: LaneId, socket: Arc<OwnedFd>) -> Result<(), String> {
    let socket = AsyncFd::with_interest(socket, Interest::READABLE).map_err(|error| error.to_string())?;
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        let mut ready = socket.readable().await.map_err(|error| error.to_string())?;
        let received = ready.try_io(|socket| {
            rustix::net::recv(socket.get_ref(), &mut packet[..], RecvFlags::DONTWAIT)
                .map(|(bytes, _)| bytes)
                .map_err(io::Error::from)
        });
        match received {
            Err(_would_block) => {}
            // The end: its death is reported by the supervising thread, once it has been reaped.
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(bytes)) => engine.lane_packet(lane, &packet[..bytes]).map_err(|error| error.to_string())?,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Ok(Err(error)) => return Err(format!("lane socket: {error}")),
        }
    }
}
