//! HTTP/2 client connections (RFC 9113): each stream is an exchange of its own and a task of its own. All options of the
//! h2 library are set here.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use h2::{Reason, RecvStream};
use router_model::h1::HeadLimits;
use router_model::h2 as messages;
use router_model::h2::websocket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::connection::enter;
use super::h2_guard::Guard;
use crate::client::{self, Client, H2Client, Timer};
use crate::clock::{self, Instant, Turn};
use crate::observe::Event;
use crate::peer::Peer;
use crate::proxy::{self, After};
use crate::tasks;
use crate::worker::{Counted, Watch, Worker};

/// Serves a connection to its end, or until the router cuts it.
pub(crate) async fn serve<IO>(worker: &Arc<Worker>, io: IO, peer: Peer)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (_counted, peer) = enter(worker, peer);
    let _counted_h2 = Counted::new(&worker.gauges.h2_connections);
    let streams = TaskTracker::new();
    tokio::select! {
        () = serve_streams(worker, io, peer, &streams) => {}
        () = worker.cut.cancelled() => {}
    }
    // The connection is gone, so those that are left end by themselves, each with its log line.
    streams.close();
    streams.wait().await;
}

async fn serve_streams<IO>(worker: &Arc<Worker>, io: IO, peer: Arc<Peer>, streams: &TaskTracker)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timeouts = &worker.shared.timeouts;
    let io = Guard::new(io, &worker.shared.limits.http2, timeouts.idle);
    let flood = io.flood_seen();
    let stalled = io.stalled();
    let handshake = tokio::time::timeout(timeouts.client_header, options(worker).handshake(io));
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        // A client that has sent its preface gets its GOAWAY; one that has not has nothing to lose.
        () = async { worker.drain.cancelled().await; tokio::time::sleep(LAST_WORD).await } => return,
    };
    let Ok(Ok(mut connection)) = handshake else {
        return;
    };
    let activity = Arc::new(Activity::new(clock::now()));
    let mut idle_at = clock::now() + timeouts.client_idle;
    let mut end = End::NotYet;
    // Made once: what is awaited anew with each stream puts itself on a list that all workers share, and into the wheel of
    // timers.
    let mut drained = pin!(worker.drain.cancelled());
    let mut idle = Timer::new();
    loop {
        tokio::select! {
            // Cancel-safe: the connection keeps what it has read, and the others hold nothing.
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    if let End::Written(_) = end {
                        end = End::Announced;
                    }
                    // It gets its answer (H22), and is not kept.
                    if peer.above_limit && end == End::NotYet {
                        connection.graceful_shutdown();
                        end = End::Announced;
                    }
                    let open = Open::new(&activity);
                    let (worker, peer, stalled) =
                        (Arc::clone(worker), Arc::clone(&peer), stalled.clone());
                    // It is large, and on its way into a task it is moved many times.
                    let stream = Box::pin(async move {
                        let _open = open;
                        let client = |body| H2Client::new(peer, body, respond, stalled);
                        serve_stream(&worker, request, client).await;
                    });
                    tasks::spawn(streams, stream);
                }
                Some(Err(error)) => {
                    if let Some(flood) = flood.get() {
                        worker.event(Event::Http2Flood(flood));
                    }
                    return tracing::debug!(%error, "an HTTP/2 connection failed");
                }
                None => return,
            },
            () = &mut drained, if end == End::NotYet => {
                // Streams that are open finish, new ones go elsewhere (RFC 9113 §6.8).
                connection.graceful_shutdown();
                end = End::Announced;
            }
            // An announced end waits for the client's PING too; that is not worth waiting for alone.
            () = activity.idle(), if end == End::Announced => end = End::Written(clock::now()),
            () = end.written(), if matches!(end, End::Written(_)) => {
                // A stream whose task is over may have frames that are not written yet.
                if connection.has_streams() {
                    end = End::Written(clock::now() + LOOK);
                } else {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    end = End::By(clock::now() + LAST_WORD);
                }
            }
            () = idle.until(idle_at), if end == End::NotYet => match activity.idle_since() {
                Some(since) if since + timeouts.client_idle <= clock::now() => {
                    connection.graceful_shutdown();
                    end = End::Announced;
                }
                Some(since) => idle_at = since + timeouts.client_idle,
                None => idle_at = clock::now() + timeouts.client_idle,
            },
            () = end.passed() => return,
        }
    }
}

/// How far a connection's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    /// No new streams; it ends when none is open.
    Announced,
    /// None is open; whether all has been written is looked at then.
    Written(Instant),
    /// The last GOAWAY is on its way, for as long as this.
    By(Instant),
}

/// How long a client has to take the last GOAWAY.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How often an ending connection is asked whether it has written everything.
const LOOK: Duration = Duration::from_millis(5);

impl End {
    async fn passed(self) {
        match self {
            Self::By(deadline) => tokio::time::sleep_until(deadline).await,
            Self::NotYet | Self::Announced | Self::Written(_) => std::future::pending().await,
        }
    }

    async fn written(self) {
        if let Self::Written(look_at) = self {
            tokio::time::sleep_until(look_at).await;
        }
    }
}

fn options(worker: &Worker) -> h2::server::Builder {
    /// What one stream may leave with the library before the client has taken it.
    const SEND_BUFFER: usize = 64 * 1024;
    /// Frames of the smallest size allowed: a large one of one stream would hold up all others.
    const FRAME: u32 = 16 * 1024;
    /// What the small DATA frames that wait to be read may cost, each counted as 256 bytes: a burst of gRPC messages is no
    /// attack.
    const SMALL_FRAMES: usize = 2 * 1024 * 1024;
    /// Streams that had to be reset because the client broke a rule, in a connection's life (CVE-2025-8671).
    const PROVOKED: usize = 1024;
    let limits = &worker.shared.limits.http2;
    let resets = limits.resets as usize;
    let mut options = h2::server::Builder::new();
    options
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_list)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES)
        // Streams that the client reset before they were looked at.
        .max_pending_accept_reset_streams(resets)
        .max_local_error_reset_streams(Some(PROVOKED))
        .enable_connect_protocol();
    options
}

/// When a connection was last of use.
struct Activity {
    open: AtomicUsize,
    last_end: Mutex<Instant>,
    ended: Notify,
}

impl Activity {
    fn new(now: Instant) -> Self {
        Self {
            open: AtomicUsize::new(0),
            last_end: Mutex::new(now),
            ended: Notify::new(),
        }
    }

    /// Waits until no stream is open.
    async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Since when no stream has been open; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        let last_end = *self.last_end.lock().unwrap_or_else(PoisonError::into_inner);
        (self.open.load(Ordering::Acquire) == 0).then_some(last_end)
    }
}

/// One stream that is open.
struct Open(Arc<Activity>);

impl Open {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        *self
            .0
            .last_end
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = clock::now();
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}

async fn serve_stream(
    worker: &Worker,
    request: http::Request<RecvStream>,
    client: impl FnOnce(RecvStream) -> H2Client,
) {
    let _counted = Counted::new(&worker.gauges.h2_streams);
    let mut serving = pin!(serve_request(worker, request, client));
    let cut = pin!(worker.cut.cancelled());
    let mut cut = Watch::new(cut);
    let ended = std::future::poll_fn(|cx| {
        // A cut ends the connection too, and an exchange that saw that first would blame the client.
        if cut.poll(cx, worker.shared.is_cut()).is_ready() {
            // Dropping the stream is the point of a cut: its exchange then logs H24.
            return Poll::Ready(());
        }
        let _turn = Turn::begin();
        serving.as_mut().poll(cx)
    });
    ended.await;
}

async fn serve_request(
    worker: &Worker,
    request: http::Request<RecvStream>,
    client: impl FnOnce(RecvStream) -> H2Client,
) {
    let (parts, body) = request.into_parts();
    let protocol = parts.extensions.get::<h2::ext::Protocol>();
    let key = protocol.map(|_| websocket::key(fastrand::u128(..).to_le_bytes()));
    let head = messages::request_head(
        &parts,
        body.is_end_stream(),
        protocol.map(h2::ext::Protocol::as_str),
        key.as_deref().unwrap_or_default(),
        &HeadLimits::request(&worker.shared.limits),
    );
    let mut client = client(body);
    let after = match head {
        Ok(head) => proxy::handle(worker, &mut client, &head).await,
        Err(failure) => {
            let to_head = parts.method == http::Method::HEAD;
            proxy::refuse(worker, &mut client, failure, to_head, false)
        }
    };
    match after {
        After::KeepAlive | After::Close | After::Linger if client.is_complete() => {
            let flushed = client::flush(&mut client, worker.shared.timeouts.idle).await;
            if flushed.is_ok() {
                linger(&mut client).await;
            }
        }
        After::KeepAlive | After::Close | After::Linger => {
            // A reset throws away what the library has not written yet; the connection's own task gets its turn first.
            for _ in 0..2 {
                tokio::task::yield_now().await;
            }
            client.reset(Reason::INTERNAL_ERROR);
        }
        After::Abort | After::Drop => client.reset(Reason::CANCEL),
    }
}

/// Takes in what is still coming of a request that has been answered. Dropping the stream refuses the rest without blame
/// (NO_ERROR, RFC 9113 §8.1), but some clients take even that for a failure of the whole exchange.
async fn linger(client: &mut H2Client) {
    const TOTAL: Duration = Duration::from_secs(1);
    let deadline = clock::now() + TOTAL;
    let rest = std::future::poll_fn(|cx| {
        while !client.discard_body() {
            match client.poll_read(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return client.timer().poll_until(cx, deadline),
            }
        }
        Poll::Ready(())
    });
    rest.await;
}
