//! One client connection: its bytes in and out, and its one timer. What the bytes mean is the proxy's business.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::io::{poll_read_buf, poll_write_buf};

use crate::clock::{self, Instant};
use crate::peer::Peer;
use crate::queue::OutQueue;

/// What a client connection runs over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// Ready when a read may give something; lets an idle connection do without a buffer.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether the peer has ended its side, even if unread bytes stand before that end.
    fn is_read_closed(&self) -> bool;

    /// Whether the connection, when it ends by whatever cause, ends with an error (RST). While a response is under way
    /// that ends with the connection, an orderly close would make a cut one look whole.
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

/// A client's connection.
pub(crate) struct Client<IO> {
    pub(crate) io: IO,
    /// Bytes read and not yet understood.
    pub(crate) buffer: BytesMut,
    /// Bytes to be written.
    pub(crate) out: OutQueue,
    pub(crate) timer: Timer,
    /// Who the client is.
    pub(crate) peer: Arc<Peer>,
    /// When the client's FIN came. It may have closed, or it may only have finished sending and still be reading.
    half_closed_at: Option<Instant>,
    /// It came when as many connections as are allowed were open (H22).
    pub(crate) above_limit: bool,
    read_size: usize,
}

/// A head fits in the first; a body makes reads grow to the second.
const SMALL_READ: usize = 4 * 1024;
const LARGE_READ: usize = 64 * 1024;

impl<IO: Transport> Client<IO> {
    pub(crate) fn new(io: IO, peer: Peer) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            out: OutQueue::default(),
            timer: Timer::new(),
            peer: Arc::new(peer),
            half_closed_at: None,
            above_limit: false,
            read_size: SMALL_READ,
        }
    }

    /// Reads more bytes; 0 is the end of the connection.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            ready!(self.io.poll_readable(cx));
        }
        poll_read_grown(&mut self.io, cx, &mut self.buffer, &mut self.read_size)
    }

    /// Writes some of what is queued.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_write_queue(&mut self.io, cx, &mut self.out)
    }

    /// Ready when the client has gone for sure; keeps at most `most` bytes of what it sends meanwhile. A FIN is only
    /// noted: see [`Client::given_up_at`].
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<()> {
        while self.half_closed_at.is_none() && self.buffer.len() < most {
            match ready!(self.poll_read(cx)) {
                Ok(0) => self.half_closed_at = Some(clock::now()),
                Ok(_) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// When a client that sent a FIN is taken to have gone. A close and a half-close look the same until something is
    /// written; those who half-close (`nc`, scripts) wait for an answer, and most answers come within the grace.
    pub(crate) fn given_up_at(&self) -> Option<Instant> {
        const GRACE: Duration = Duration::from_millis(200);
        self.half_closed_at.map(|at| at + GRACE)
    }

    /// Waits for the client to go away. Behind a full buffer its end cannot be read, so it is looked for once a second.
    pub(crate) async fn gone(&mut self, most: usize) {
        const LOOK: Duration = Duration::from_secs(1);
        let mut look_at = clock::now() + LOOK;
        std::future::poll_fn(|cx| {
            if self.poll_reset(cx, most).is_ready() {
                return Poll::Ready(());
            }
            if let Some(given_up_at) = self.given_up_at() {
                return self.timer.poll_until(cx, given_up_at);
            }
            while self.buffer.len() >= most {
                ready!(self.timer.poll_until(cx, look_at));
                if self.io.is_read_closed() {
                    return Poll::Ready(());
                }
                look_at = clock::now() + LOOK;
            }
            Poll::Pending
        })
        .await;
    }

    /// Writes all that is queued, unless the client takes nothing for `idle`.
    pub(crate) async fn flush(&mut self, idle: Duration) -> io::Result<()> {
        while !self.out.is_empty() {
            let deadline = clock::now() + idle;
            let written = std::future::poll_fn(|cx| match self.poll_write(cx) {
                Poll::Ready(result) => Poll::Ready(result),
                Poll::Pending => self
                    .timer
                    .poll_until(cx, deadline)
                    .map(|()| Err(io::ErrorKind::TimedOut.into())),
            });
            written.await?;
        }
        Ok(())
    }

    /// Gives memory back before a wait that may be long.
    pub(crate) fn release_buffer(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Makes ready for the next request.
    pub(crate) fn rest(&mut self) {
        self.release_buffer();
        self.read_size = SMALL_READ;
    }
}

/// Reads into `buffer`, a larger piece next time whenever a read fills what it was given.
pub(crate) fn poll_read_grown<R: AsyncRead + Unpin>(
    io: &mut R,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    size: &mut usize,
) -> Poll<io::Result<usize>> {
    if buffer.capacity() - buffer.len() < *size / 4 {
        buffer.reserve(*size);
    }
    let offered = buffer.capacity() - buffer.len();
    let read = ready!(poll_read_buf(Pin::new(io), cx, buffer))?;
    if read == offered && *size < LARGE_READ {
        *size *= 2;
    }
    Poll::Ready(Ok(read))
}

/// Writes some of `queue`; a peer that takes nothing of something is gone.
pub(crate) fn poll_write_queue<W: AsyncWrite + Unpin>(
    io: &mut W,
    cx: &mut Context<'_>,
    queue: &mut OutQueue,
) -> Poll<io::Result<usize>> {
    match ready!(poll_write_buf(Pin::new(io), cx, queue))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(Ok(written)),
    }
}

/// The one timer of a connection. Deadlines mostly move later, so it is set again only when it would fire too late;
/// when it fires too early it looks at the deadline anew.
pub(crate) struct Timer {
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    fn new() -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep_until(clock::now())),
        }
    }

    /// Ready once `deadline` has passed.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if self.sleep.is_elapsed() || self.sleep.deadline() > deadline {
            self.sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(deadline);
        }
    }
}
