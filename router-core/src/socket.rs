//! Options of every connected socket, on both sides.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Unsent bytes that the system may hold for a peer. Without this bound its buffer grows to megabytes, and a peer that
/// steadily takes a few kilobytes a second looks idle to us for longer than the idle timeout, because only a large part
/// of that buffer becoming free is an event: half of what is bounded here, so that a client may take as little as 2.4 KB/s
/// in the 55 seconds. It is as much as one read of a long body brings, which then leaves in one write.
const UNSENT: u32 = 256 * 1024;

/// Sets them. A system that refuses one still works, so this only says so.
pub(crate) fn tune(stream: &TcpStream) {
    // Small writes must not wait for acknowledgements.
    let nodelay = stream.set_nodelay(true);
    let unsent = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
    if let Err(error) = nodelay.and(unsent) {
        tracing::debug!(%error, "cannot set a socket option");
    }
}

/// For a connection on which nothing may be said for long: a peer that is gone without a word is noticed all the same.
pub(crate) fn notice_death(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let keepalive = socket.set_tcp_keepalive(&probes);
    // The same for what was sent and never taken.
    let unanswered = socket.set_tcp_user_timeout(Some(Duration::from_secs(25)));
    if let Err(error) = keepalive.and(unanswered) {
        tracing::debug!(%error, "cannot set a socket option");
    }
}
