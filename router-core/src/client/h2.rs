//! One stream of an HTTP/2 client connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, StatusCode};
use router_model::failure::Failure;
use router_model::forward::{self, ResponseFields};
use router_model::h1::chunked::ChunkLimits;
use router_model::h1::{Framing, ResponseHead};

use super::{Came, Client, Reply, Timer};
use crate::clock::Instant;
use crate::peer::Peer;
use crate::queue::{BodySink, OutQueue, Outlet, Pumped};
use crate::stream::{StreamIn, StreamOut, client_failure, client_reset};

/// Whether the client of a connection has taken nothing for too long. The library tells its streams only that the
/// connection is gone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stalled(Arc<AtomicBool>);

impl Stalled {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// An HTTP/2 client's stream.
pub(crate) struct H2Client {
    peer: Arc<Peer>,
    timer: Timer,
    body: StreamIn,
    respond: SendResponse<Bytes>,
    /// There once the head is out.
    stream: Option<SendStream<Bytes>>,
    interims: Vec<http::Response<()>>,
    interim_bytes: usize,
    head: Option<http::Response<()>>,
    out: StreamOut,
    stalled: Stalled,
}

impl H2Client {
    pub(crate) fn new(
        peer: Arc<Peer>,
        body: RecvStream,
        respond: SendResponse<Bytes>,
        stalled: Stalled,
    ) -> Self {
        Self {
            peer,
            timer: Timer::new(),
            body: StreamIn::new(body),
            respond,
            stream: None,
            interims: Vec::new(),
            interim_bytes: 0,
            head: None,
            out: StreamOut::default(),
            stalled,
        }
    }

    /// Ends the stream at once.
    pub(crate) fn reset(&mut self, reason: Reason) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    /// Whether the response is whole, if not yet with the client.
    pub(crate) fn is_complete(&self) -> bool {
        self.out.is_ended()
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let reset = match &mut self.stream {
            Some(stream) => stream.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        match ready!(reset) {
            Ok(reason) => Poll::Ready(client_reset(reason)),
            Err(error) => Poll::Ready(self.failure(&error)),
        }
    }

    fn failure(&self, error: &h2::Error) -> Failure {
        if self.stalled.is_set() {
            Failure::ClientIdle
        } else {
            client_failure(error)
        }
    }

    fn send_heads(&mut self) -> Result<(), h2::Error> {
        for interim in self.interims.drain(..) {
            self.respond.send_informational(interim)?;
        }
        if let Some(head) = self.head.take() {
            let whole = self.out.is_only_end();
            self.stream = Some(self.respond.send_response(head, whole)?);
            if whole {
                self.out.end_is_sent();
            }
        }
        Ok(())
    }
}

impl Outlet for H2Client {
    fn sink(&mut self) -> &mut dyn BodySink {
        &mut self.out
    }
}

impl Client for H2Client {
    fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn begin_body(&mut self, framing: Framing, _: ChunkLimits) {
        self.body.begin(framing);
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Came, Failure>> {
        match ready!(self.body.poll_read(cx)) {
            Ok(()) => Poll::Ready(Ok(Came::More)),
            Err(error) => Poll::Ready(Err(self.failure(&error))),
        }
    }

    fn pump_body(&mut self, to: &mut dyn BodySink, room: usize) -> Result<Pumped, Failure> {
        let mut content = 0;
        Ok(self.body.pump(to, room, &mut content))
    }

    /// Its pieces have memory of their own, so they are queued, and written by whoever writes next.
    fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut dyn Outlet,
    ) -> Poll<Result<Came, Failure>> {
        loop {
            let before = to.sink().queued();
            let pumped = self.pump_body(to.sink(), usize::MAX)?;
            if to.sink().queued() > before {
                return Poll::Ready(Ok(Came::More));
            }
            if pumped == Pumped::Done {
                return Poll::Ready(Ok(Came::End));
            }
            if let Came::End = ready!(self.poll_read(cx))? {
                return Poll::Ready(Ok(Came::End));
            }
        }
    }

    fn discard_body(&mut self) -> bool {
        let mut nowhere = OutQueue::default();
        self.pump_body(&mut nowhere, usize::MAX) == Ok(Pumped::Done)
    }

    fn has_unread(&self) -> bool {
        self.body.has_unread()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>, _: usize) -> Poll<Failure> {
        self.poll_reset(cx)
    }

    fn poll_gone_unread(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        self.poll_reset(cx)
    }

    fn given_up_at(&self) -> Option<Instant> {
        None
    }

    fn is_full(&self, _: usize) -> bool {
        false
    }

    fn reads_after_its_end(&self) -> bool {
        true
    }

    fn is_read_closed(&self) -> bool {
        false
    }

    /// The library takes any number of them, window or not; what is more than a page of hints is left out.
    fn put_interim(&mut self, head: &ResponseHead) {
        const MOST: usize = 64 * 1024;
        self.interim_bytes = self.interim_bytes.saturating_add(head.fields().size());
        if self.interim_bytes <= MOST {
            self.interims.push(forward::h2_interim(head));
        }
    }

    fn put_continue(&mut self) {
        let mut interim = http::Response::new(());
        *interim.status_mut() = StatusCode::CONTINUE;
        self.interims.push(interim);
    }

    fn put_head(&mut self, head: &ResponseHead, ours: &ResponseFields<'_>) {
        self.head = Some(forward::h2_response(head, ours));
    }

    fn put_reply(&mut self, reply: &Reply<'_>) {
        let mut response = http::Response::new(());
        *response.status_mut() =
            StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let length = reply.body.len().to_string();
        let fields = [
            ("server", reply.server),
            ("date", reply.date),
            ("content-length", &length),
        ];
        for (name, value) in fields.iter().chain(reply.fields) {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                response.headers_mut().append(name, value);
            }
        }
        self.head = Some(response);
        if !reply.to_head {
            self.out.put(reply.body.clone());
        }
        self.out.end();
    }

    fn queued(&self) -> usize {
        self.out.queued()
    }

    fn take_back(&mut self, _: usize) {
        self.head = None;
        self.out.clear();
    }

    fn unsent_content(&self) -> usize {
        self.out.queued()
    }

    fn is_flushed(&self) -> bool {
        self.interims.is_empty() && self.head.is_none() && self.out.is_flushed()
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let sent = if self.interims.is_empty() && self.head.is_none() {
            match &mut self.stream {
                Some(stream) => ready!(self.out.poll_send(stream, cx)),
                None => Ok(()),
            }
        } else {
            self.send_heads()
        };
        Poll::Ready(sent.map_err(|error| self.failure(&error)))
    }

    /// A stream that is not ended is reset when it is dropped.
    fn end_with_error(&self, _: bool) {}
}
