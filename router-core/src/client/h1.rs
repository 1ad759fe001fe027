//! An HTTP/1 client connection: its bytes in and out, and its one timer.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use router_model::failure::Failure;
use router_model::forward::{self, ResponseFields};
use router_model::h1::chunked::ChunkLimits;
use router_model::h1::{BodyDecoder, Framing, ResponseHead};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Came, Client, Reply, Timer};
use crate::clock::{self, Instant};
use crate::peer::Peer;
use crate::queue::{
    BodySink, OutQueue, Outlet, Pumped, poll_pass, poll_read_some, poll_write_queue, pump,
    write_or_queue,
};

/// What a client connection runs over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// Ready when a read may give something; lets an idle connection do without a buffer.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether the peer has ended its side, even if unread bytes stand before that end.
    fn is_read_closed(&self) -> bool;

    /// See [`Client::end_with_error`].
    fn end_with_error(&self, yes: bool);
}

impl Transport for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_read_ready(cx).map(|_| ())
    }

    fn is_read_closed(&self) -> bool {
        let ready = self.ready(tokio::io::Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
    }

    fn end_with_error(&self, yes: bool) {
        // A socket that refuses the option is closed in the ordinary way, which is no worse.
        let linger = yes.then_some(Duration::ZERO);
        if let Err(error) = socket2::SockRef::from(self).set_linger(linger) {
            tracing::debug!(%error, "cannot set SO_LINGER");
        }
    }
}

/// An HTTP/1 client's connection.
pub(crate) struct H1Client<IO> {
    pub(crate) io: IO,
    /// Bytes read and not yet understood.
    pub(crate) buffer: BytesMut,
    /// Bytes to be written.
    out: OutQueue,
    timer: Timer,
    peer: Arc<Peer>,
    body: BodyDecoder,
    /// When the client's FIN came. It may have closed, or it may only have finished sending and still be reading.
    half_closed_at: Option<Instant>,
    /// A read has shown that much is coming.
    long: bool,
}

impl<IO: Transport> H1Client<IO> {
    pub(crate) fn new(io: IO, peer: Arc<Peer>) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            out: OutQueue::default(),
            timer: Timer::new(),
            peer,
            body: BodyDecoder::Length(0),
            half_closed_at: None,
            long: false,
        }
    }

    /// Reads more bytes; 0 is the end of the connection.
    pub(crate) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A large read takes its memory before it knows whether something comes.
        if self.buffer.is_empty() && self.long {
            ready!(self.io.poll_readable(cx));
        }
        poll_read_some(&mut self.io, cx, &mut self.buffer, &mut self.long)
    }

    /// Makes ready for the next request.
    pub(crate) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        self.long = false;
    }
}

/// What a read of so many bytes means.
fn came(read: io::Result<usize>) -> Result<Came, Failure> {
    match read {
        Ok(0) => Ok(Came::End),
        Ok(_) => Ok(Came::More),
        Err(_) => Err(Failure::ClientInterrupted),
    }
}

impl<IO: Transport> Outlet for H1Client<IO> {
    fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        write_or_queue(&mut self.io, cx, &mut self.out, bytes)
    }

    fn sink(&mut self) -> &mut dyn BodySink {
        &mut self.out
    }
}

impl<IO: Transport> Client for H1Client<IO> {
    fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn begin_body(&mut self, framing: Framing, limits: ChunkLimits) {
        self.body = BodyDecoder::new(framing, limits);
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Came, Failure>> {
        self.poll_bytes(cx).map(came)
    }

    fn pump_body(&mut self, to: &mut dyn BodySink, room: usize) -> Result<Pumped, Failure> {
        let mut content = 0;
        pump(&mut self.body, &mut self.buffer, to, room, &mut content)
            .map_err(|_| Failure::BadChunk)
    }

    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut dyn Outlet,
    ) -> Poll<Result<Came, Failure>> {
        poll_pass(&mut self.io, cx, &mut self.buffer, to).map(came)
    }

    fn discard_body(&mut self) -> bool {
        let mut nowhere = OutQueue::default();
        self.pump_body(&mut nowhere, usize::MAX) == Ok(Pumped::Done)
    }

    fn has_unread(&self) -> bool {
        !self.buffer.is_empty()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Failure> {
        while self.half_closed_at.is_none() && self.buffer.len() < most {
            match ready!(self.poll_bytes(cx)) {
                Ok(0) => self.half_closed_at = Some(clock::now()),
                Ok(_) => {}
                Err(_) => return Poll::Ready(Failure::ClientInterrupted),
            }
        }
        Poll::Pending
    }

    fn poll_gone_unread(&mut self, _: &mut Context<'_>) -> Poll<Failure> {
        Poll::Pending
    }

    /// Those who half-close (`nc`, scripts) wait for an answer, and most answers come within the grace.
    fn given_up_at(&self) -> Option<Instant> {
        const GRACE: Duration = Duration::from_millis(200);
        self.half_closed_at.map(|at| at + GRACE)
    }

    fn is_full(&self, most: usize) -> bool {
        self.buffer.len() >= most
    }

    fn reads_after_its_end(&self) -> bool {
        false
    }

    fn is_read_closed(&self) -> bool {
        self.io.is_read_closed()
    }

    fn put_interim(&mut self, head: &ResponseHead) {
        self.out.push_head(|out| forward::write_interim(head, out));
    }

    fn put_continue(&mut self) {
        self.out.push(Bytes::from_static(forward::CONTINUE));
    }

    fn put_head(&mut self, head: &ResponseHead, ours: &ResponseFields<'_>) {
        self.out
            .push_head(|out| forward::write_response(head, ours, out));
        self.out
            .begin_body(ours.framing == Framing::Chunked && !ours.to_http10);
    }

    fn put_reply(&mut self, reply: &Reply<'_>) {
        let reason = match reply.status {
            // nginx's, and used by nobody else.
            495 => "SSL Certificate Error",
            status => http::StatusCode::from_u16(status)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("Error"),
        };
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\nConnection: {}\r\nServer: {}\r\nDate: {}\r\nContent-Length: {}\r\n",
            reply.status,
            if reply.keep_alive {
                "keep-alive"
            } else {
                "close"
            },
            reply.server,
            reply.date,
            reply.body.len(),
        );
        for (name, value) in reply.fields {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        }
        head.push_str("\r\n");
        self.out.push(Bytes::from(head));
        self.out.begin_body(false);
        if !reply.to_head {
            self.out.put(reply.body.clone());
        }
    }

    fn queued(&self) -> usize {
        self.out.queued()
    }

    fn take_back(&mut self, length: usize) {
        self.out.truncate(length);
    }

    fn unsent_content(&self) -> usize {
        self.out.unsent_content()
    }

    fn is_flushed(&self) -> bool {
        self.out.is_flushed()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        poll_write_queue(&mut self.io, cx, &mut self.out)
            .map(|written| written.map_err(|_| Failure::ClientInterrupted))
    }

    fn end_with_error(&self, yes: bool) {
        self.io.end_with_error(yes);
    }
}
