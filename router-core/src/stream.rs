//! The two halves of an HTTP/2 stream, the same towards clients and towards dynos: what has been received of a body and
//! not yet been passed on, and what waits to be sent. Both are bounded: the receiving side gives flow-control capacity
//! back only as the body moves on, the sending side takes what the peer's window has room for.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use router_model::failure::Failure;
use router_model::h1::Framing;
use router_model::h2 as messages;

use crate::queue::{BodySink, MOST_TRAILERS, Pumped, is_small};

/// The receiving half.
#[derive(Debug)]
pub(crate) struct StreamIn {
    stream: RecvStream,
    pieces: VecDeque<Bytes>,
    trailers: Bytes,
    /// The peer has sent all of it.
    ended: bool,
    /// The message has no body, whatever the stream carries: a WebSocket's bytes are none (RFC 8441), and what a dyno
    /// sends after a 204 is not even that.
    bodiless: bool,
}

impl StreamIn {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self {
            ended: stream.is_end_stream(),
            stream,
            pieces: VecDeque::new(),
            trailers: Bytes::new(),
            bodiless: false,
        }
    }

    /// The head has been understood; its body ends with the stream, unless there is none.
    pub(crate) fn begin(&mut self, framing: Framing) {
        self.bodiless = framing == Framing::None;
    }

    /// Receives more. Pending for ever once all has been received.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if self.ended {
            return Poll::Pending;
        }
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(bytes)) if bytes.is_empty() => self.ended = self.stream.is_end_stream(),
            // A small piece would hold on to the large buffer that it was read into.
            Some(Ok(bytes)) if bytes.len() < SMALL => {
                self.pieces.push_back(Bytes::copy_from_slice(&bytes));
            }
            Some(Ok(bytes)) => self.pieces.push_back(bytes),
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => {
                if let Some(map) = ready!(self.stream.poll_trailers(cx))? {
                    self.trailers = messages::trailers(&map);
                }
                self.ended = true;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Moves what has been received to `to`, until `to` holds `room` bytes. Adds to `content` the bytes of it.
    pub(crate) fn pump(&mut self, to: &mut dyn BodySink, room: usize, content: &mut u64) -> Pumped {
        if self.bodiless {
            to.end();
            return Pumped::Done;
        }
        while let Some(piece) = self.pieces.pop_front() {
            if to.queued() >= room {
                self.pieces.push_front(piece);
                return Pumped::Full;
            }
            *content += piece.len() as u64;
            // It can only fail for more than was received.
            self.stream
                .flow_control()
                .release_capacity(piece.len())
                .ok();
            to.put(piece);
        }
        if !self.ended {
            return Pumped::NeedMore;
        }
        if !self.trailers.is_empty() {
            // They came in one header list, which is bounded.
            to.put_trailers(std::mem::take(&mut self.trailers));
        }
        to.end();
        Pumped::Done
    }

    /// Whether the peer has sent all of it.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether something has been received that was not passed on.
    pub(crate) fn has_unread(&self) -> bool {
        !self.pieces.is_empty()
    }
}

const SMALL: usize = 1024;

/// The sending half's queue. The head of the message is its owner's business.
#[derive(Debug, Default)]
pub(crate) struct StreamOut {
    pieces: VecDeque<Bytes>,
    /// Small pieces that came when there were many.
    tail: BytesMut,
    /// Of both.
    length: usize,
    trailers: BytesMut,
    /// Nothing more will be queued.
    ended: bool,
    end_sent: bool,
}

impl StreamOut {
    /// Whether all of it is with the h2 library.
    pub(crate) fn is_flushed(&self) -> bool {
        self.length == 0 && (self.end_sent || !self.ended)
    }

    /// Whether nothing but the end is left to be sent: then the head can say so.
    pub(crate) fn is_only_end(&self) -> bool {
        self.ended && self.length == 0 && self.trailers.is_empty()
    }

    /// Whether nothing more will be queued.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The head has said that the stream ends.
    pub(crate) fn end_is_sent(&mut self) {
        (self.ended, self.end_sent) = (true, true);
    }

    /// Forgets all that is queued.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends some of what is queued, as far as the peer's window has room.
    pub(crate) fn poll_send(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), h2::Error>> {
        if self.pieces.is_empty() && !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
        let Some(front) = self.pieces.front_mut() else {
            if self.ended && !self.end_sent {
                self.end_sent = true;
                let trailers = messages::trailer_map(&self.trailers);
                if trailers.is_empty() {
                    stream.send_data(Bytes::new(), true)?;
                } else {
                    stream.send_trailers(trailers)?;
                }
            }
            return Poll::Ready(Ok(()));
        };
        // The library keeps no more than its send buffer for a stream, whatever is asked for.
        stream.reserve_capacity(self.length);
        while stream.capacity() == 0 {
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
        let piece = front.split_to(stream.capacity().min(front.len()));
        if !front.has_remaining() {
            self.pieces.pop_front();
        }
        self.length -= piece.len();
        let last = self.is_only_end();
        stream.send_data(piece, last)?;
        self.end_sent = last;
        Poll::Ready(Ok(()))
    }
}

impl BodySink for StreamOut {
    fn queued(&self) -> usize {
        self.length
    }

    fn takes_framing(&self) -> bool {
        false
    }

    fn put_framed(&mut self, bytes: Bytes, _: usize) {
        self.put(bytes);
    }

    fn put(&mut self, content: Bytes) {
        self.length += content.len();
        if is_small(&content, self.pieces.len()) {
            self.tail.extend_from_slice(&content);
            return;
        }
        for piece in [self.tail.split().freeze(), content] {
            if !piece.is_empty() {
                self.pieces.push_back(piece);
            }
        }
    }

    fn put_trailers(&mut self, lines: Bytes) -> bool {
        self.trailers.extend_from_slice(&lines);
        self.trailers.len() <= MOST_TRAILERS
    }

    fn end(&mut self) {
        self.ended = true;
    }
}

/// What an error of a client's stream means. A reset that accuses us of breaking the protocol, and a stream that the
/// library itself had to end, are broken streams; every other end is the client's leave.
pub(crate) fn client_failure(error: &h2::Error) -> Failure {
    match error.reason() {
        _ if error.is_library() => Failure::StreamBroken,
        Some(reason) => client_reset(reason),
        None => Failure::ClientInterrupted,
    }
}

/// What a client's RST_STREAM means.
pub(crate) fn client_reset(reason: Reason) -> Failure {
    if [
        Reason::PROTOCOL_ERROR,
        Reason::FLOW_CONTROL_ERROR,
        Reason::FRAME_SIZE_ERROR,
        Reason::COMPRESSION_ERROR,
    ]
    .contains(&reason)
    {
        Failure::StreamBroken
    } else {
        Failure::ClientInterrupted
    }
}
