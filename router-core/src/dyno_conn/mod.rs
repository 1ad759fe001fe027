//! Connections from the router to dynos: dialling, and keeping them for the next request. The sweeping rule: a kept
//! connection is used only while nothing has come in on it, for a dyno that closed it or sent bytes nobody asked for is
//! not to be trusted with a request.

mod dial;
mod idle;

pub(crate) use dial::dial;
pub(crate) use idle::IdleConns;

use std::mem::MaybeUninit;

use bytes::BytesMut;
use router_model::h1::{HeadLimits, HeadParser};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::clock::Instant;
use crate::queue::OutQueue;

/// One connection to a dyno.
#[derive(Debug)]
pub(crate) struct DynoConn {
    pub(crate) stream: TcpStream,
    /// Bytes read and not yet understood.
    pub(crate) buffer: BytesMut,
    /// Bytes to be written.
    pub(crate) out: OutQueue,
    pub(crate) parser: HeadParser,
    /// A request has been served on it before this one.
    pub(crate) reused: bool,
    idle_since: Instant,
    idle_until: Instant,
}

impl DynoConn {
    pub(crate) fn new(stream: TcpStream, limits: HeadLimits, now: Instant) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            out: OutQueue::default(),
            parser: HeadParser::response(limits),
            reused: false,
            idle_since: now,
            idle_until: now,
        }
    }

    /// [`DynoConn::is_quiet`] by the system's word of this moment, which costs a call: tokio has seen only what its
    /// last turn brought.
    fn is_quiet_now(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(&self.stream).peek(&mut byte);
        self.buffer.is_empty()
            && matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Whether nothing has come in since the last response ended: no close, no stray bytes.
    fn is_quiet(&self) -> bool {
        let mut byte = [0u8; 1];
        self.buffer.is_empty()
            && matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}
