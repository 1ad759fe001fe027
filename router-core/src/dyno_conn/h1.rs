//! One HTTP/1.1 connection to a dyno.

use std::task::{Context, Poll};

use bytes::BytesMut;
use router_model::failure::Failure;
use router_model::h1::chunked::BadChunk;
use router_model::h1::{BodyDecoder, HeadLimits, HeadParser, ResponseHead};
use router_model::response;

use super::{DynoStream, Terms};
use crate::clock::Instant;
use crate::queue::{
    BodySink, OutQueue, Outlet, Pumped, poll_pass, poll_read_some, poll_write_queue, pump,
    write_or_queue,
};

/// A connection that carries one request after the other.
#[derive(Debug)]
pub(crate) struct H1Conn {
    pub(super) terms: Terms,
    pub(super) stream: DynoStream,
    /// Bytes read and not yet understood.
    pub(super) buffer: BytesMut,
    /// Bytes to be written.
    pub(super) out: OutQueue,
    pub(super) parser: HeadParser,
    pub(super) body: BodyDecoder,
    /// A request has been served on it before this one.
    pub(super) reused: bool,
    pub(super) idle_since: Instant,
    pub(super) idle_until: Instant,
    /// A read has shown that much is coming.
    long: bool,
}

impl H1Conn {
    pub(crate) fn new(stream: DynoStream, terms: Terms, limits: HeadLimits, now: Instant) -> Self {
        Self {
            terms,
            stream,
            buffer: BytesMut::new(),
            out: OutQueue::default(),
            parser: HeadParser::response(limits),
            body: BodyDecoder::Length(0),
            reused: false,
            idle_since: now,
            idle_until: now,
            long: false,
        }
    }

    pub(super) fn rest(&mut self, now: Instant, until: Instant) {
        self.reused = true;
        self.idle_since = now;
        self.idle_until = until;
        // An idle connection costs no buffer.
        self.buffer = BytesMut::new();
        self.long = false;
    }

    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        poll_read_some(&mut self.stream, cx, &mut self.buffer, &mut self.long)
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        poll_write_queue(&mut self.stream, cx, &mut self.out)
    }

    pub(super) fn take_head(&mut self) -> Result<Option<ResponseHead>, Failure> {
        self.parser
            .take_response(&mut self.buffer)
            .map_err(response::head_failure)
    }

    pub(super) fn pump_body(
        &mut self,
        to: &mut dyn BodySink,
        room: usize,
        content: &mut u64,
    ) -> Result<Pumped, BadChunk> {
        pump(&mut self.body, &mut self.buffer, to, room, content)
    }

    /// Reads what a switched connection brings, and passes it to `to`.
    pub(super) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut dyn Outlet,
    ) -> Poll<std::io::Result<usize>> {
        poll_pass(&mut self.stream, cx, &mut self.buffer, to)
    }

    pub(super) fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> std::io::Result<()> {
        write_or_queue(&mut self.stream, cx, &mut self.out, bytes)
    }
}
