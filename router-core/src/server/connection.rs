//! One client connection: heads in, one after the other, until either side has had enough. What is done about a request
//! is the proxy's business.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use router_model::admission;
use router_model::failure::Failure;
use router_model::h1::{HeadLimits, HeadParser, RequestHead};
use tokio::io::AsyncReadExt as _;

use super::h2;
pub(crate) use super::h2::serve as serve_h2;
use super::prefixed::Prefixed;
use crate::client::{self, Client, H1Client, Transport};
use crate::clock::{self, Turn};
use crate::peer::Peer;
use crate::proxy::{self, After};
use crate::worker::{Counted, Watch, Worker};

/// Serves a connection to its end, or until the router cuts it.
pub(crate) async fn serve<IO: Transport>(worker: &Worker, io: IO, peer: Peer) {
    let (_counted, peer) = enter(worker, peer);
    let mut client = H1Client::new(io, peer);
    let mut serving = pin!(serve_requests(worker, &mut client));
    let cut = pin!(worker.cut.cancelled());
    let mut cut = Watch::new(cut);
    let ended = std::future::poll_fn(|cx| {
        let _turn = Turn::begin();
        match serving.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            // Dropping the connection is the point of a cut: its exchange then logs H24.
            Poll::Pending => cut.poll(cx, worker.shared.is_cut()),
        }
    });
    ended.await;
}

/// Counts a connection in. Those who were here before keep being served when it is one too many.
pub(super) fn enter(worker: &Worker, mut peer: Peer) -> (Counted<'_>, Arc<Peer>) {
    let counted = Counted::new(worker.shared.connections());
    peer.above_limit =
        worker.shared.client_connections() > worker.shared.limits.client_connections as u64;
    (counted, Arc::new(peer))
}

/// Serves a connection in the clear that may begin with HTTP/2 (RFC 9113 §3.3): the first bytes tell.
pub(crate) async fn serve_either<IO>(worker: &Arc<Worker>, mut io: IO, peer: Peer)
where
    IO: Transport + 'static,
{
    let begun = tokio::time::timeout(worker.shared.timeouts.client_header, sniff(&mut io));
    let begun = tokio::select! {
        begun = begun => begun,
        () = worker.drain.cancelled() => return,
    };
    // One that sends nothing, and one that closes, is not worth an answer.
    let Ok(Some((bytes, is_h2))) = begun else {
        return;
    };
    let io = Prefixed::new(bytes.freeze(), io);
    if is_h2 {
        h2::serve(worker, io, peer).await;
    } else {
        serve(worker, io, peer).await;
    }
}

/// Reads until it is clear whether this is the preface of HTTP/2.
async fn sniff<IO: Transport>(io: &mut IO) -> Option<(BytesMut, bool)> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut bytes = BytesMut::with_capacity(PREFACE.len());
    while bytes.len() < PREFACE.len() {
        if io.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        if !PREFACE.starts_with(bytes.get(..PREFACE.len()).unwrap_or(&bytes)) {
            return Some((bytes, false));
        }
    }
    Some((bytes, true))
}

async fn serve_requests<IO: Transport>(worker: &Worker, client: &mut H1Client<IO>) {
    let mut parser = HeadParser::request(HeadLimits::request(&worker.shared.limits));
    let mut first = true;
    let draining = pin!(worker.drain.cancelled());
    let mut draining = Watch::new(draining);
    loop {
        let next = next_head(worker, client, &mut parser, &mut draining, first);
        let after = match next.await {
            Head::Request(head) => proxy::handle(worker, client, &head).await,
            Head::Refused(failure) => proxy::refuse(worker, client, failure, false, false),
            Head::TooSlow => {
                proxy::refuse(worker, client, Failure::HeaderTimeout, false, false);
                // It may go on dripping bytes for ever; waiting for their end is what it wants.
                client::flush(client, worker.shared.timeouts.idle)
                    .await
                    .ok();
                return;
            }
            Head::Over => return,
        };
        first = false;
        let flushed = match after {
            After::KeepAlive | After::Close | After::Linger => {
                client::flush(client, worker.shared.timeouts.idle)
                    .await
                    .is_ok()
            }
            After::Drop | After::Abort => false,
        };
        match after {
            After::KeepAlive if flushed => client.rest(),
            After::Linger if flushed => return linger(worker, client).await,
            After::Abort => return client.io.end_with_error(true),
            After::KeepAlive | After::Linger | After::Close | After::Drop => return,
        }
    }
}

enum Head {
    Request(RequestHead),
    Refused(Failure),
    /// Part of a head came, and not the rest of it (408).
    TooSlow,
    /// The client closed, fell silent before it began, or the router drains.
    Over,
}

/// Waits for the next head. Until its first byte the connection is idle; from then on the whole head has one deadline
/// (spec §1.6). The first request's deadline starts with the connection.
async fn next_head<IO: Transport>(
    worker: &Worker,
    client: &mut H1Client<IO>,
    parser: &mut HeadParser,
    draining: &mut Watch<'_, '_>,
    first: bool,
) -> Head {
    let timeouts = &worker.shared.timeouts;
    let waiting_since = clock::now();
    let idle = if first {
        timeouts.client_header
    } else {
        timeouts.client_idle
    };
    let mut deadline = waiting_since + idle;
    let mut begun = false;
    const HURRY: Duration = Duration::from_secs(1);
    let mut hurried = false;
    loop {
        if !client.buffer.is_empty() {
            match parser.take_request(&mut client.buffer) {
                Ok(Some(head)) => return Head::Request(head),
                Ok(None) => {}
                Err(error) => return Head::Refused(admission::head_failure(error)),
            }
            let was_idle = !begun;
            begun = parser.has_begun(client.buffer.len());
            if was_idle && begun && !first {
                deadline = clock::now() + timeouts.client_header;
            }
        }
        let came = std::future::poll_fn(|cx| {
            if let Poll::Ready(read) = client.poll_bytes(cx) {
                return Poll::Ready(read.map_or(Came::End, |read| {
                    if read == 0 { Came::End } else { Came::Bytes }
                }));
            }
            // A drain ends idle connections at once, and has a moment for a head that has begun.
            if !hurried && draining.poll(cx, worker.is_draining()).is_ready() {
                if !begun {
                    return Poll::Ready(Came::End);
                }
                hurried = true;
                deadline = deadline.min(clock::now() + HURRY);
            }
            client
                .timer()
                .poll_until(cx, deadline)
                .map(|()| Came::Nothing)
        });
        match came.await {
            Came::Bytes => {}
            Came::End => return Head::Over,
            Came::Nothing if parser.has_start_line() => return Head::TooSlow,
            Came::Nothing => return Head::Over,
        }
    }
}

enum Came {
    Bytes,
    End,
    Nothing,
}

/// Lets a client that may still be sending read its answer: closing at once would reset the connection, and the answer
/// with it (RFC 9112 §9.6). A drain shortens the wait.
async fn linger<IO: Transport>(worker: &Worker, client: &mut H1Client<IO>) {
    const SILENCE: Duration = Duration::from_secs(5);
    const TOTAL: Duration = Duration::from_secs(30);
    const DRAINING: Duration = Duration::from_secs(1);
    let wait = async {
        // Over TLS the last word has to be taken too, and may wait behind all that was said before.
        let shutdown = std::future::poll_fn(|cx| Pin::new(&mut client.io).poll_shutdown(cx));
        if !matches!(tokio::time::timeout(SILENCE, shutdown).await, Ok(Ok(()))) {
            return;
        }
        let end = clock::now() + TOTAL;
        loop {
            client.buffer.clear();
            let deadline = end.min(clock::now() + SILENCE);
            let read = std::future::poll_fn(|cx| match client.poll_bytes(cx) {
                Poll::Ready(read) => Poll::Ready(read.unwrap_or(0)),
                Poll::Pending => client.timer().poll_until(cx, deadline).map(|()| 0),
            });
            if read.await == 0 || clock::now() >= end {
                return;
            }
        }
    };
    tokio::select! {
        // Nothing is lost by dropping either: what is read here is thrown away.
        () = wait => {}
        () = async { worker.drain.cancelled().await; tokio::time::sleep(DRAINING).await } => {}
    }
}
