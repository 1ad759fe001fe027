//! HTTP/2 connections to dynos: each carries many requests at once, and knows how many. All options of the h2 library
//! towards dynos are set here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, SendStream};
use router_model::failure::Failure;
use router_model::limits::Limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use crate::clock::{self, Instant};
use crate::stall::Stall;
use crate::tasks;

/// A connection. When it is dropped, and with it the last of its slots, the connection closes.
#[derive(Debug)]
pub(crate) struct H2Conn {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    used: Arc<Use>,
}

/// The right to one stream of a connection, given back when dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct H2Slot {
    sender: SendRequest<Bytes>,
    scheme: &'static str,
    /// The connection has carried other requests.
    reused: bool,
    used: Arc<Use>,
}

/// What is known of a connection's use.
#[derive(Debug)]
struct Use {
    began: Instant,
    /// Slots that are out.
    streams: AtomicUsize,
    /// Since when there are none. No `.await` happens under the lock.
    idle_since: Mutex<Instant>,
    reused: AtomicBool,
    /// When the dyno last sent anything, in milliseconds since `began`.
    heard: AtomicU64,
    has_spoken: AtomicBool,
    /// It is not known whether the dyno is still there; until it answers a PING, it gets no more requests.
    doubted: AtomicBool,
    doubt: Notify,
}

impl H2Conn {
    /// Begins to speak HTTP/2 and waits for the dyno's SETTINGS, so that a dyno which speaks something else is found out
    /// before it gets a request. `scheme`: `http` or `https`; `idle`: how long the dyno may take nothing of what is sent.
    ///
    /// # Errors
    /// [`Failure::ConnectTimeout`] (H19) at `deadline`, [`Failure::ConnectRefused`] (H21) when the dyno closes the
    /// connection, [`Failure::DynoProtocol`] (H17) when it sends something else.
    pub(crate) async fn open<IO>(
        io: IO,
        scheme: &'static str,
        limits: &Limits,
        idle: Duration,
        deadline: Instant,
        owner: &TaskTracker,
    ) -> Result<Self, Failure>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let used = Arc::new(Use::new(clock::now()));
        let io = Heard {
            io: Stall::new(io, idle),
            used: Arc::clone(&used),
        };
        let begun = tokio::time::timeout_at(deadline, begin(io, options(limits)));
        let (sender, conn) = match begun.await {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a dyno speaks no HTTP/2");
                return Err(used.why_not_begun());
            }
            Err(_elapsed) => return Err(Failure::ConnectTimeout),
        };
        tasks::spawn(owner, drive(conn, Arc::clone(&used)));
        Ok(Self {
            sender,
            scheme,
            used,
        })
    }

    /// A stream, if there is room for one.
    pub(crate) fn slot(&self) -> Option<H2Slot> {
        if self.used.doubted.load(Ordering::Acquire) {
            return None;
        }
        // Slots are taken by one request at a time, and given back at any time.
        if self.used.streams.load(Ordering::Acquire) >= self.most_streams() {
            return None;
        }
        self.used.streams.fetch_add(1, Ordering::AcqRel);
        Some(H2Slot {
            sender: self.sender.clone(),
            scheme: self.scheme,
            reused: self.used.reused.swap(true, Ordering::AcqRel),
            used: Arc::clone(&self.used),
        })
    }

    /// How many streams it can carry at once.
    pub(crate) fn most_streams(&self) -> usize {
        self.sender.current_max_send_streams().min(STREAMS)
    }

    /// Whether it takes no more requests: it is closed, or the dyno said that it will be.
    pub(crate) fn is_over(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
    }

    /// Since when it has carried nothing; `None` while it carries something.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let since = self.used.idle_since();
        (self.used.streams.load(Ordering::Acquire) == 0).then_some(since)
    }
}

impl H2Slot {
    /// Sends the head of a request; `whole` if that is all of it.
    ///
    /// # Errors
    /// Nothing has been sent.
    pub(crate) fn send(
        &mut self,
        request: http::Request<()>,
        whole: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.send_request(request, whole)
    }

    pub(crate) fn scheme(&self) -> &'static str {
        self.scheme
    }

    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }
}

impl Drop for H2Slot {
    fn drop(&mut self) {
        let now = clock::now();
        // An exchange that ends in silence: others on this connection might wait in vain as well.
        if self.used.is_silent(now) {
            self.used.doubt.notify_one();
        }
        *self
            .used
            .idle_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = now;
        self.used.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Use {
    fn new(now: Instant) -> Self {
        Self {
            began: now,
            streams: AtomicUsize::new(0),
            idle_since: Mutex::new(now),
            reused: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            has_spoken: AtomicBool::new(false),
            doubted: AtomicBool::new(false),
            doubt: Notify::new(),
        }
    }

    fn idle_since(&self) -> Instant {
        *self
            .idle_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a connection came to nothing: the dyno closed it, or had something else to say first.
    fn why_not_begun(&self) -> Failure {
        if self.has_spoken.load(Ordering::Relaxed) {
            Failure::DynoProtocol
        } else {
            Failure::ConnectRefused
        }
    }

    fn heard(&self, now: Instant) {
        let since = now.saturating_duration_since(self.began).as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.heard.store(since, Ordering::Relaxed);
    }

    /// Whether the dyno may be gone without a word.
    fn is_silent(&self, now: Instant) -> bool {
        const SILENCE: Duration = Duration::from_secs(5);
        let heard = self.began + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        now.saturating_duration_since(heard) >= SILENCE
    }
}

/// Streams of one connection, however many more the dyno allows: one lost packet holds up all of them.
const STREAMS: usize = 100;
/// What a dyno may send of one response before the router has passed it on.
const STREAM_WINDOW: u32 = 256 * 1024;

fn options(limits: &Limits) -> Builder {
    /// Room for every stream at once: a client that does not read must not hold up the others.
    const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS as u32;
    const FRAME: u32 = 16 * 1024;
    /// For the 32 bytes per field that HTTP/2 counts in addition: our own limit is to be met first, and has its code.
    const OVERHEAD: usize = 64 * 1024;
    /// Streams whose clients left and whose frames are still coming: so many, for so long, are ignored.
    const LEFT: usize = 1000;
    const LEFT_FOR: Duration = Duration::from_secs(10);
    let header_list = limits.response_head.saturating_add(OVERHEAD);
    let mut options = Builder::new();
    options
        .enable_push(false)
        // None before the dyno's SETTINGS are there.
        .initial_max_send_streams(0)
        .max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(limits.request_buffer)
        .max_concurrent_reset_streams(LEFT)
        .reset_stream_duration(LEFT_FOR)
        // It is the router's clients who leave; that must not end the connection for all others.
        .max_local_error_reset_streams(None)
        // Small messages may fill every window.
        .data_frame_budget(CONNECTION_WINDOW as usize);
    options
}

/// Up to the dyno's SETTINGS.
async fn begin<IO>(
    io: IO,
    options: Builder,
) -> Result<(SendRequest<Bytes>, Connection<IO, Bytes>), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (sender, mut conn) = options.handshake(io).await?;
    std::future::poll_fn(|cx| match Pin::new(&mut conn).poll(cx) {
        // Whoever does not say how many allows any number.
        Poll::Pending if sender.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) => Poll::Ready(Err(Reason::NO_ERROR.into())),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
    })
    .await?;
    Ok((sender, conn))
}

/// Runs a connection to its end.
async fn drive<IO>(mut conn: Connection<IO, Bytes>, used: Arc<Use>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let ping = conn.ping_pong();
    let gone = async {
        match ping {
            Some(ping) => until_gone(ping, &used).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // Dropping either ends the connection, which is the point.
        ended = conn => if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP/2 connection to a dyno failed");
        },
        () = gone => tracing::debug!("a dyno does not answer any more"),
    }
}

/// Waits for doubts, and asks; returns when the dyno does not answer.
async fn until_gone(mut ping: PingPong, used: &Use) {
    const ANSWER_WITHIN: Duration = Duration::from_secs(5);
    /// gRPC servers close connections that ping too much while they have nothing to say.
    const AT_MOST_EVERY: Duration = Duration::from_secs(30);
    loop {
        used.doubt.notified().await;
        if !used.is_silent(clock::now()) {
            continue;
        }
        used.doubted.store(true, Ordering::Release);
        let ask = ping.ping(Ping::opaque());
        match tokio::time::timeout(ANSWER_WITHIN, ask).await {
            Ok(Ok(_pong)) => used.doubted.store(false, Ordering::Release),
            Ok(Err(_)) | Err(_) => return,
        }
        tokio::time::sleep(AT_MOST_EVERY).await;
    }
}

/// Whether the dyno has certainly not acted on a request that failed: it refused the stream, or its GOAWAY does not
/// count it in (RFC 9113 §8.7). The library tells of a GOAWAY only those streams that it does not count in.
pub(crate) fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// Notes when a dyno was heard of.
struct Heard<IO> {
    io: IO,
    used: Arc<Use>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Heard<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.used.has_spoken.store(true, Ordering::Relaxed);
        }
        self.used.heard(clock::now());
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Heard<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
