//! One file per command.

pub(crate) mod bench;
pub(crate) mod ca;
pub(crate) mod gpu_check;
pub(crate) mod guard;
pub(crate) mod hardware;
pub(crate) mod load;
pub(crate) mod models;
pub(crate) mod node;
mod picture;
pub(crate) mod plan;
pub(crate) mod prove;
pub(crate) mod replay;
pub(crate) mod run;
mod sample;
pub(crate) mod simulate;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod topology;
pub(crate) mod watch;
pub(crate) mod worker;

use std::future::Future;

/// Runs a future on this thread: QUIC is quickest without others.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}
