//! Sending a body over an HTTP/2 stream as its windows allow.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;

/// Sends all of it, waiting for room.
pub(crate) async fn send(
    stream: &mut SendStream<Bytes>,
    mut bytes: Bytes,
    end: bool,
) -> Result<(), h2::Error> {
    if bytes.is_empty() {
        return stream.send_data(bytes, end);
    }
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await;
        let room = match room {
            Some(room) => room?,
            // Nothing can be sent any more; sending says why.
            None => return stream.send_data(bytes, end),
        };
        let piece = bytes.split_to(room.min(bytes.len()));
        let last = bytes.is_empty();
        stream.send_data(piece, end && last)?;
    }
    Ok(())
}

/// Sends until the peer's windows are full and stay full for a while; how much was taken.
pub(crate) async fn send_what_fits(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> usize {
    const PATIENCE: Duration = Duration::from_millis(200);
    let whole = bytes.len();
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = tokio::time::timeout(PATIENCE, poll_fn(|cx| stream.poll_capacity(cx))).await;
        let Ok(Some(Ok(room))) = room else { break };
        let piece = bytes.split_to(room.min(bytes.len()));
        if stream.send_data(piece, false).is_err() {
            break;
        }
    }
    stream.reserve_capacity(0);
    whole - bytes.len()
}
