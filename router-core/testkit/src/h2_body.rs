//! Bodies over HTTP/2 streams, the same for clients and dynos: sent as the windows allow, read piece by piece.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

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

/// The next bytes of a body, none at its end; or the code of the reset that came. Frames without bytes are passed over.
pub(crate) async fn piece(body: &mut RecvStream) -> Result<Option<Bytes>, u32> {
    loop {
        match body.data().await {
            None => return Ok(None),
            Some(Ok(piece)) if piece.is_empty() => {}
            Some(Ok(piece)) => return Ok(Some(piece)),
            Some(Err(error)) => return Err(reset_code(&error)),
        }
    }
}

/// The code of a reset (or a GOAWAY); a connection that broke is told as [`u32::MAX`].
pub(crate) fn reset_code(error: &h2::Error) -> u32 {
    error.reason().map_or(u32::MAX, u32::from)
}
