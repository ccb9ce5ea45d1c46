//! Reads a lane's socket: packets of answers from the worker, as they come.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::sync::Arc;

use sensorium_device::protocol::PACKET_BYTES_MAX;
use sensorium_scheduler::LaneId;
use tokio::net::UnixDatagram;

use crate::engine::Engine;

/// Reads until the worker is gone.
///
/// # Errors
/// Why the worker must be replaced: it talks nonsense, or its socket fails.
pub(crate) async fn read(engine: &Engine, lane: LaneId, socket: Arc<OwnedFd>) -> Result<(), String> {
    let problem = |error: std::io::Error| format!("lane socket: {error}");
    // A sequenced-packet socket is read like a datagram socket that also knows an end.
    let socket = StdDatagram::from(socket.try_clone().map_err(problem)?);
    socket.set_nonblocking(true).map_err(problem)?;
    let socket = UnixDatagram::from_std(socket).map_err(problem)?;
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        match socket.recv(&mut packet).await {
            // The end: its death is reported by the supervising thread, once it has been reaped.
            Ok(0) => return Ok(()),
            Ok(bytes) => engine.lane_packet(lane, &packet[..bytes]).map_err(|error| error.to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(problem(error)),
        }
    }
}
