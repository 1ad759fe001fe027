//! Connections from the router to dynos: dialling, and keeping them for the next request. The sweeping rule: a kept
//! connection is used only while nothing has come in on it, for a dyno that closed it or sent bytes nobody asked for is
//! not to be trusted with a request.

mod authorities;
mod dial;
mod h1;
mod h2;
mod h2_conns;
mod h2_exchange;
mod idle;
mod stream;
mod tls;

use std::io;
use std::task::{Context, Poll, ready};

use router_model::admission::Admitted;
use router_model::failure::Failure;
use router_model::forward::{self, RequestFields};
use router_model::h1::chunked::ChunkLimits;
use router_model::h1::{BodyDecoder, Framing, RequestHead, ResponseHead};

pub(crate) use authorities::Authorities;
pub(crate) use dial::dial;
pub(crate) use h1::H1Conn;
pub(crate) use h2::{H2Conn, H2Slot};
pub(crate) use h2_conns::{Answer, H2Conns};
pub(crate) use h2_exchange::H2Exchange;
pub(crate) use idle::IdleConns;
pub(crate) use stream::DynoStream;
pub(crate) use tls::{DynoTls, Terms};

use crate::queue::{BodySink, OutQueue, Outlet, Pumped};

/// The dyno's side of one exchange: a connection of its own, or a stream of a shared one.
pub(crate) enum DynoConn {
    /// HTTP/1.1.
    H1(Box<H1Conn>),
    /// HTTP/2.
    H2(Box<H2Exchange>),
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Something to look at.
    More,
    /// The end of the connection, in order.
    End,
}

impl DynoConn {
    /// Whether it has served a request before this one.
    pub(crate) fn reused(&self) -> bool {
        match self {
            Self::H1(conn) => conn.reused,
            Self::H2(exchange) => exchange.reused(),
        }
    }

    /// Queues the head of the request.
    pub(crate) fn put_head(
        &mut self,
        head: &RequestHead,
        admitted: &Admitted<'_>,
        ours: &RequestFields<'_>,
    ) {
        match self {
            Self::H1(conn) => {
                conn.out
                    .push_head(|out| forward::write_request(head, admitted, ours, out));
                conn.out.begin_body(admitted.framing == Framing::Chunked);
            }
            Self::H2(exchange) => exchange.put_head(head, admitted, ours),
        }
    }

    /// Whether the head of the request has left the router's hands already when it was queued.
    pub(crate) fn is_head_out(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(exchange) => exchange.is_head_out(),
        }
    }

    /// What no byte of has been taken by the connection, to be sent on another.
    pub(crate) fn take_unsent(&mut self) -> Option<OutQueue> {
        match self {
            Self::H1(conn) => Some(std::mem::take(&mut conn.out)),
            Self::H2(_) => None,
        }
    }

    /// Queues what [`DynoConn::take_unsent`] gave; gives it back if this is another kind of connection.
    pub(crate) fn put_unsent(&mut self, out: OutQueue) -> bool {
        match self {
            Self::H1(conn) => {
                conn.out = out;
                true
            }
            Self::H2(_) => false,
        }
    }

    /// Bytes queued.
    pub(crate) fn queued(&self) -> usize {
        match self {
            Self::H1(conn) => conn.out.queued(),
            Self::H2(exchange) => exchange.out.queued(),
        }
    }

    /// Whether all that was queued is out.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::H1(conn) => conn.out.is_flushed(),
            Self::H2(exchange) => exchange.is_flushed(),
        }
    }

    /// Writes some of what is queued. An error says nothing more than that the dyno takes no more.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ()>> {
        match self {
            Self::H1(conn) => conn.poll_write(cx).map_err(|_| ()),
            Self::H2(exchange) => exchange.poll_write(cx).map_err(|_| ()),
        }
    }

    /// Reads more of the response.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arrived, Failure>> {
        match self {
            Self::H1(conn) => Poll::Ready(match ready!(conn.poll_bytes(cx)) {
                Ok(0) => Ok(Arrived::End),
                Ok(_) => Ok(Arrived::More),
                // RST: unlike FIN, never a good end (spec §10-27).
                Err(_) => Err(Failure::DynoInterrupted),
            }),
            Self::H2(exchange) => exchange
                .poll_read(cx)
                .map(|read| read.map(|()| Arrived::More)),
        }
    }

    /// The next head, if it has been read.
    ///
    /// # Errors
    /// H17, H25.
    pub(crate) fn take_head(&mut self) -> Result<Option<ResponseHead>, Failure> {
        match self {
            Self::H1(conn) => conn.take_head(),
            Self::H2(exchange) => Ok(exchange.take_head()),
        }
    }

    /// Whether something has been read that is not understood yet.
    pub(crate) fn has_unread(&self) -> bool {
        match self {
            Self::H1(conn) => !conn.buffer.is_empty(),
            Self::H2(exchange) => exchange.has_unread(),
        }
    }

    /// The final head has been taken; its body ends like this.
    pub(crate) fn begin_body(&mut self, framing: Framing, limits: ChunkLimits) {
        match self {
            Self::H1(conn) => conn.body = BodyDecoder::new(framing, limits),
            Self::H2(exchange) => exchange.begin_body(framing),
        }
    }

    /// Moves what has been read of the body to `to`, until `to` holds `room` bytes. Adds to `content` the bytes that
    /// are content.
    ///
    /// # Errors
    /// A broken chunk.
    pub(crate) fn pump_body(
        &mut self,
        to: &mut dyn BodySink,
        room: usize,
        content: &mut u64,
    ) -> Result<Pumped, router_model::h1::chunked::BadChunk> {
        match self {
            Self::H1(conn) => conn.pump_body(to, room, content),
            Self::H2(exchange) => Ok(exchange.pump_body(to, room, content)),
        }
    }

    /// Whether the dyno said that it has not looked at the request.
    pub(crate) fn refused(&self) -> bool {
        match self {
            Self::H1(_) => false,
            Self::H2(exchange) => exchange.refused(),
        }
    }

    /// The connection, to be kept for another request; a stream ends with its exchange.
    pub(crate) fn into_kept(self) -> Option<Box<H1Conn>> {
        match self {
            Self::H1(conn) => Some(conn),
            Self::H2(_) => None,
        }
    }

    /// Reads what a tunnel brings, and passes it to `to`; how many bytes that were, and 0 at the end of the connection.
    /// An error is the end too.
    pub(crate) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut dyn Outlet,
    ) -> Poll<Result<usize, ()>> {
        match self {
            Self::H1(conn) => conn.poll_pass(cx, to).map_err(|_| ()),
            // Upgrades are asked for over HTTP/1.1 only.
            Self::H2(_) => Poll::Ready(Err(())),
        }
    }
}

impl Outlet for DynoConn {
    fn pass(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::H1(conn) => conn.pass(cx, bytes),
            Self::H2(exchange) => {
                exchange.out.put_copy(bytes, bytes.len());
                Ok(())
            }
        }
    }

    fn sink(&mut self) -> &mut dyn BodySink {
        match self {
            Self::H1(conn) => &mut conn.out,
            Self::H2(exchange) => &mut exchange.out,
        }
    }
}
