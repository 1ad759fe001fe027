//! The client's side of an exchange, whatever it speaks: an HTTP/1 connection or one stream of an HTTP/2 connection.
//! What the bytes mean is the proxy's business.

mod h1;
mod h2;
mod timer;

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use router_model::failure::Failure;
use router_model::forward::ResponseFields;
use router_model::h1::chunked::ChunkLimits;
use router_model::h1::{Framing, ResponseHead};

pub(crate) use self::h1::{H1Client, Transport};
pub(crate) use self::h2::{H2Client, Stalled};
pub(crate) use self::timer::Timer;
use crate::clock::{self, Instant};
use crate::peer::Peer;
use crate::queue::{BodySink, Outlet, Pumped};

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// Something to look at.
    More,
    /// The end of the connection.
    End,
}

/// One client in one exchange.
pub(crate) trait Client: Outlet + Send {
    /// Who it is.
    fn peer(&self) -> &Arc<Peer>;

    /// The timer that the exchange waits by.
    fn timer(&mut self) -> &mut Timer;

    /// The head has been read; its body ends like this.
    fn begin_body(&mut self, framing: Framing, limits: ChunkLimits);

    /// Reads more of the body.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Came, Failure>>;

    /// Moves what has been read of the body to `to`, until `to` holds `room` bytes.
    ///
    /// # Errors
    /// [`Failure::BadChunk`] (H26).
    fn pump_body(&mut self, to: &mut dyn BodySink, room: usize) -> Result<Pumped, Failure>;

    /// Reads what a tunnel brings, and passes it to `to`.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut dyn Outlet,
    ) -> Poll<Result<Came, Failure>>;

    /// Throws away what has been read of the body; whether that was the rest of it, so that the next request can follow.
    fn discard_body(&mut self) -> bool;

    /// Whether bytes behind this request have been read.
    fn has_unread(&self) -> bool;

    /// Ready when the client has gone for sure, with how it went; keeps at most `most` bytes of what it sends meanwhile.
    /// A half-close is only noted: see [`Client::given_up_at`].
    fn poll_gone(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Failure>;

    /// The same without reading, for as long as the body has to wait; not every kind of client can tell.
    fn poll_gone_unread(&mut self, cx: &mut Context<'_>) -> Poll<Failure>;

    /// When a client that has closed its sending side is taken to have gone. A close and a half-close look the same
    /// until something is written.
    fn given_up_at(&self) -> Option<Instant>;

    /// Whether `most` bytes wait to be understood, so that none is read behind which an end could show.
    fn is_full(&self, most: usize) -> bool;

    /// Whether a client that has ended its sending side of a tunnel goes on reading. Over HTTP/2 browsers end their side
    /// together with a WebSocket's Close frame, and wait for the answer to it.
    fn reads_after_its_end(&self) -> bool;

    /// Whether its side of the connection has ended, seen past bytes that nobody reads.
    fn is_read_closed(&self) -> bool;

    /// Queues an interim response.
    fn put_interim(&mut self, head: &ResponseHead);

    /// Queues the router's own 100.
    fn put_continue(&mut self);

    /// Queues the head of the response; its body goes to [`Client::sink`].
    fn put_head(&mut self, head: &ResponseHead, ours: &ResponseFields<'_>);

    /// Queues a whole answer of the router's own.
    fn put_reply(&mut self, reply: &Reply<'_>);

    /// Bytes queued.
    fn queued(&self) -> usize;

    /// Takes back what was queued last, until `length` bytes are left; nothing of it must be out.
    fn take_back(&mut self, length: usize);

    /// Body bytes queued.
    fn unsent_content(&self) -> usize;

    /// Whether all that was queued is out.
    fn is_flushed(&self) -> bool;

    /// Writes some of what is queued.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>;

    /// Whether the connection, when it ends by whatever cause, ends with an error. While a response is under way that
    /// ends with the connection, an orderly close would make a cut one look whole.
    fn end_with_error(&self, yes: bool);
}

/// An answer that the router makes itself.
pub(crate) struct Reply<'r> {
    pub(crate) status: u16,
    pub(crate) server: &'r str,
    pub(crate) date: &'r str,
    /// Further fields, in order.
    pub(crate) fields: &'r [(&'r str, &'r str)],
    pub(crate) body: Bytes,
    /// Only the head is sent.
    pub(crate) to_head: bool,
    /// Whether another request may follow on an HTTP/1 connection.
    pub(crate) keep_alive: bool,
}

/// Writes all that is queued, unless the client takes nothing for `idle`.
pub(crate) async fn flush(client: &mut impl Client, idle: Duration) -> Result<(), Failure> {
    while !client.is_flushed() {
        let deadline = clock::now() + idle;
        let written = std::future::poll_fn(|cx| match client.poll_write(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => client
                .timer()
                .poll_until(cx, deadline)
                .map(|()| Err(Failure::ClientIdle)),
        });
        written.await?;
    }
    Ok(())
}

/// Waits for the client to go away, and says how it went. Behind `most` unread bytes its end cannot be read, so it is
/// looked for once a second.
pub(crate) async fn gone(client: &mut impl Client, most: usize) -> Failure {
    const LOOK: Duration = Duration::from_secs(1);
    let mut look_at = clock::now() + LOOK;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(failure) = client.poll_gone(cx, most) {
            return Poll::Ready(failure);
        }
        if let Some(given_up_at) = client.given_up_at() {
            return client
                .timer()
                .poll_until(cx, given_up_at)
                .map(|()| Failure::ClientInterrupted);
        }
        while client.is_full(most) {
            ready!(client.timer().poll_until(cx, look_at));
            if client.is_read_closed() {
                return Poll::Ready(Failure::ClientInterrupted);
            }
            look_at = clock::now() + LOOK;
        }
        Poll::Pending
    })
    .await
}
