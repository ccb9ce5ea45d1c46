//! Tells a service manager how a node is doing: systemd's `sd_notify`, as far as a node needs it.
//!
//! Only what stands in `NOTIFY_SOCKET` is spoken to, and nothing depends on its being there or listening.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The variable in which a service manager says where it listens.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// `READY=1` when a node has loaded its models, `STOPPING=1` when it is on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State {
    Ready,
    Stopping,
}

/// Tells the service manager, if there is one. A failure is logged: the node is none the worse for it.
pub(crate) fn tell(state: State) {
    let Some(target) = std::env::var_os(VARIABLE) else { return };
    if let Err(error) = send(&target, state) {
        tracing::warn!(socket = %target.display(), %error, "the service manager was not told");
    }
}

fn send(target: &OsString, state: State) -> io::Result<()> {
    let text: &[u8] = match state {
        State::Ready => b"READY=1",
        State::Stopping => b"STOPPING=1",
    };
    let bytes = target.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(target)?,
    };
    UnixDatagram::unbound()?.send_to_addr(text, &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_sockets_hear_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let abstract_name = format!("sensorium-test-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap();
        for (socket, target) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (UnixDatagram::bind_addr(&by_name).unwrap(), format!("@{abstract_name}").into()),
        ] {
            send(&target, State::Ready).unwrap();
            let mut heard = [0; 32];
            let bytes = socket.recv(&mut heard).unwrap();
            assert_eq!(&heard[..bytes], b"READY=1");
        }
    }

    #[test]
    fn nobody_there_is_an_error_and_no_more() {
        assert!(send(&"/nonexistent/socket".into(), State::Stopping).is_err());
        assert!(send(&OsString::from(format!("/{}", "x".repeat(200))), State::Stopping).is_err());
    }
}
