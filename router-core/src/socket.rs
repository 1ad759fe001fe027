//! Options of every connected socket, on both sides.

use socket2::SockRef;
use tokio::net::TcpStream;

/// Unsent bytes that the system may hold for a peer. Without this bound its buffer grows to megabytes, and a peer that
/// steadily takes a few kilobytes a second looks idle to us for longer than the idle timeout, because only a large part
/// of that buffer becoming free is an event.
const UNSENT: u32 = 128 * 1024;

/// Sets them. A system that refuses one still works, so this only says so.
pub(crate) fn tune(stream: &TcpStream) {
    // Small writes must not wait for acknowledgements.
    let nodelay = stream.set_nodelay(true);
    let unsent = SockRef::from(stream).set_tcp_notsent_lowat(UNSENT);
    if let Err(error) = nodelay.and(unsent) {
        tracing::debug!(%error, "cannot set a socket option");
    }
}
