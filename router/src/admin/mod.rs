//! The admin endpoint: metrics, health and the API, for operators and never for clients. It runs beside the workers and
//! answers until the very end of a drain. It only reads; nothing that it is sent changes what is routed.

mod endpoints;
mod query;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use router_core::Router;
use router_core::acme::AcmeHandle;
use router_core::feed::{FeedHandle, PublishHandle};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::Losses;
use crate::certificates::Watches;
use crate::metrics::{Certificates, Metrics, Present};

/// What the admin endpoint tells about.
#[derive(Debug)]
pub(crate) struct State {
    /// The router.
    pub(crate) router: Router,
    /// The certificates that come from files of its configuration.
    pub(crate) certificates: Watches,
    /// The ordering of certificates, once it has started; never if the configuration has none.
    pub(crate) acme: OnceLock<AcmeHandle>,
    /// Its source of routes.
    pub(crate) feed: FeedHandle,
    /// Whom it passes routes on to, once it does; never if it is no relay.
    pub(crate) relay: OnceLock<PublishHandle>,
    /// Its counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Its access log's losses; `None` if the log is off.
    pub(crate) losses: Option<Losses>,
    /// Set once clients can connect.
    pub(crate) listening: AtomicBool,
    /// Set once the router is told to end.
    pub(crate) draining: AtomicBool,
}

impl State {
    fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn present(&self) -> Present {
        Present {
            stats: self.router.stats(),
            feed: self.feed.status(),
            relay: self.relay.get().map(PublishHandle::stats),
            acme: self.acme.get().map(AcmeHandle::status),
            certificates: Certificates {
                held: self.certificates.held(&self.router),
                rejected: self.certificates.rejected().len()
                    + self.feed.rejected_certificates().len(),
            },
            log_lines_dropped: self.losses.as_ref().map_or(0, Losses::lines),
        }
    }
}

/// The admin endpoint's socket, bound before anything is answered.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until stopped; connections still open then are simply dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    tracker: TaskTracker,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Waiting for a permit leaves further operators in the listen queue, which is as good a place as any.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        // Both arms are cancel-safe: an accept that is dropped loses no connection.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (state, stop) = (Arc::clone(&state), stop.clone());
                tracker.spawn(async move {
                    stop.run_until_cancelled(connection(stream, state)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an admin connection was not accepted");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request| {
        let response = endpoints::answer(&state, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(100)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

const MOST_CONNECTIONS: usize = 256;
/// Between requests and for a request head.
const IDLE: Duration = Duration::from_secs(60);
/// Out of file descriptors: trying again at once would only burn a core.
const AFTER_ERROR: Duration = Duration::from_millis(100);
