//! One life of the router: build, start, wait, drain. This is the one owner of everything that is started, and ends it
//! from the outside in: readiness, listeners, requests, log.

mod relay;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use router_core::acme::{self, AcmeHandle, AcmeSettingsError};
use router_core::feed::{
    self, EtcdFeed, EtcdFeedSettingsError, FeedHandle, FileFeed, HttpFeed, HttpFeedSettingsError,
    PublishError,
};
use router_core::server::{ListenerSettings, Server, StartError, TlsListenerSettings};
use router_core::{BuildError, Router};
use tokio::net::TcpListener;
use tokio::runtime::{self, Handle, Runtime};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access_log::{AccessLog, LogWriter};
use crate::admin;
use crate::certificates::{Defaults, Watches};
use crate::config::{Config, Feed, FeedSource, Listener, Protocol};
use crate::metrics::Metrics;
use crate::observer::CompositeObserver;
use crate::signals::Signals;

pub(crate) use relay::relay;

/// How a life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Every request was finished.
    Clean,
    /// Some had to be cut.
    Cut,
}

/// Why a life did not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The target of the access log cannot be written.
    #[error("the access log cannot be opened: {0}")]
    AccessLog(#[source] io::Error),
    /// The operating system gives no threads or signals.
    #[error("the runtime cannot be started: {0}")]
    Runtime(#[source] io::Error),
    /// The settings make no router.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// No certificates can be ordered.
    #[error("acme: {0}")]
    Acme(#[from] AcmeSettingsError),
    /// The settings make no feed.
    #[error("feed: {0}")]
    Etcd(#[from] EtcdFeedSettingsError),
    /// The settings make no feed.
    #[error("feed: {0}")]
    Http(#[from] HttpFeedSettingsError),
    /// Routes cannot be passed on.
    #[error("relay: {0}")]
    Relay(#[from] PublishError),
    /// A listener's address cannot be had.
    #[error(transparent)]
    Listen(#[from] StartError),
    /// The admin address cannot be had.
    #[error("cannot listen on the admin address {address}: {source}")]
    Admin {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// The usual soft limit of file descriptors is 1,024, and every process may raise it to the hard one. Clients get nine tenths of it at the most, so that
/// dynos can still be reached and the admin endpoint answers when they have taken theirs.
fn descriptors_for_clients() -> usize {
    const FEW: u64 = 4096;
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot raise the limit of file descriptors");
        1024
    });
    if limit < FEW {
        tracing::warn!(limit, "few file descriptors; a request takes two");
    }
    usize::try_from(limit - limit / 10).unwrap_or(usize::MAX)
}

/// Runs the router until it is told to end and has drained.
pub(crate) fn serve(mut config: Config, defaults: Defaults) -> Result<Ending, RunError> {
    let workers = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    };
    let limits = &mut config.limits;
    limits.client_connections = limits.client_connections.min(descriptors_for_clients());
    let log = AccessLog::open(&config.access_log, workers).map_err(RunError::AccessLog)?;
    let (access_log, writer) = log.unzip();
    let runtimes = Runtimes::start()?;
    let metrics = Arc::new(Metrics::new(workers));
    let router = build(
        &config,
        workers,
        CompositeObserver {
            metrics: Arc::clone(&metrics),
            access_log,
        },
    )?;
    let (log, of_feed) = (writer.as_ref(), runtimes.feed());
    let ending = runtimes.block_on(live(config, defaults, router, metrics, log, of_feed));
    if let Some(writer) = writer {
        writer.finish(LAST_LINES);
    }
    runtimes.end();
    ending
}

/// The threads beside the workers.
pub(super) struct Runtimes {
    /// Two threads, so that a large route document being read holds up no health check.
    control: Runtime,
    /// The feed has a thread of its own. Among several, each event wakes a second one to look for more to do, and a source
    /// that changes a thousand times a second wakes them as often.
    feed: Runtime,
}

impl Runtimes {
    pub(super) fn start() -> Result<Self, RunError> {
        let threads = |name, count| {
            runtime::Builder::new_multi_thread()
                .worker_threads(count)
                .thread_name(name)
                .enable_all()
                .build()
                .map_err(RunError::Runtime)
        };
        Ok(Self {
            control: threads("control", 2)?,
            feed: threads("feed", 1)?,
        })
    }

    pub(super) fn block_on<T>(&self, life: impl Future<Output = T>) -> T {
        self.control.block_on(life)
    }

    pub(super) fn feed(&self) -> &Handle {
        self.feed.handle()
    }

    /// Waits for nothing that still runs.
    pub(super) fn end(self) {
        self.feed.shutdown_background();
        self.control.shutdown_background();
    }
}

pub(super) fn build(
    config: &Config,
    workers: usize,
    observer: CompositeObserver,
) -> Result<Router, BuildError> {
    let mut builder = Router::builder()
        .timeouts(config.timeouts)
        .limits(config.limits)
        .name(&config.name)
        .workers(workers)
        .observer(Arc::new(observer));
    if let Some(key) = &config.affinity_key {
        builder = builder.affinity_key(key.as_bytes());
    }
    builder.build()
}

async fn live(
    config: Config,
    defaults: Defaults,
    router: Router,
    metrics: Arc<Metrics>,
    writer: Option<&LogWriter>,
    of_feed: &Handle,
) -> Result<Ending, RunError> {
    let mut signals = Signals::listen().map_err(RunError::Runtime)?;
    let admin_listener = bind_admin(config.admin).await?;
    let certificates = Watches::start(&config, defaults, &router).await;
    let state = Arc::new(admin::State {
        certificates,
        acme: OnceLock::new(),
        feed: follow(&config.feed, &router, of_feed)?,
        relay: OnceLock::new(),
        router: router.clone(),
        metrics,
        losses: writer.map(LogWriter::losses),
        listening: AtomicBool::new(false),
        draining: AtomicBool::new(false),
    });
    let admin = Admin::start(admin_listener, &state);

    first_routes(&state).await;
    // Only now: what the route document brings need not be ordered.
    if let Some(acme) = &config.acme {
        let started = acme::start(&router, acme.settings())?;
        first_certificates(state.acme.get_or_init(|| started)).await;
    }
    let server = listen(&config, &state)?;
    state.listening.store(true, Ordering::Release);
    for address in server.addresses() {
        tracing::info!("listening on {address}");
    }

    let reopen = || {
        writer.into_iter().for_each(LogWriter::reopen);
        state.certificates.look_now();
        state.feed.look_at_files();
    };
    let signal = signals.end(reopen).await;
    state.draining.store(true, Ordering::Release);
    tracing::info!(signal, window = ?config.timeouts.drain, "draining");
    let drained = server.drain(config.timeouts.drain);
    tokio::pin!(drained);
    let report = tokio::select! {
        report = &mut drained => Some(report),
        signal = signals.end(reopen) => {
            tracing::warn!(signal, "ending at once");
            // What is cut is still owed its log lines.
            router.cut();
            tokio::time::timeout(CUTTING, drained).await.ok()
        }
    };
    let ending = match report {
        Some(report) => {
            tracing::info!(finished = report.finished, cut = report.cut, "drained");
            if report.cut == 0 {
                Ending::Clean
            } else {
                Ending::Cut
            }
        }
        None => Ending::Cut,
    };
    if let Some(acme) = state.acme.get() {
        // It ordered nothing more since the drain began; a certificate that came just then is being saved.
        acme.stop().await;
    }
    admin.stop().await;
    Ok(ending)
}

/// Starts to keep the routes up to date.
fn follow(feed: &Feed, router: &Router, of_feed: &Handle) -> Result<FeedHandle, RunError> {
    let _there = of_feed.enter();
    let options = feed.options();
    Ok(match &feed.source {
        FeedSource::File(path) => feed::start(router, FileFeed::new(path.clone()), options),
        FeedSource::Http(settings) => feed::start(
            router,
            HttpFeed::new(settings.clone())?.alone_on_its_thread(),
            options,
        ),
        FeedSource::Etcd(settings) => {
            feed::start(router, EtcdFeed::new(settings.clone())?, options)
        }
    })
}

pub(super) async fn bind_admin(address: SocketAddr) -> Result<TcpListener, RunError> {
    let failed = |source| RunError::Admin { address, source };
    let listener = admin::bind(address).await.map_err(failed)?;
    tracing::info!(
        "admin listening on {}",
        listener.local_addr().map_err(failed)?
    );
    Ok(listener)
}

/// The admin endpoint, which is there before everything else and after it.
pub(super) struct Admin {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Admin {
    pub(super) fn start(listener: TcpListener, state: &Arc<admin::State>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(admin::serve(
            listener,
            Arc::clone(state),
            tasks.clone(),
            stop.clone(),
        ));
        Self { tasks, stop }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Waits a moment for the routes that are there already, so that the first clients are not told that there are none, or
/// what they were in an earlier life. It is no condition: without a route document the router listens all the same.
pub(super) async fn first_routes(state: &admin::State) {
    let answered = tokio::time::timeout(FIRST_ROUTES, state.feed.answered());
    if answered.await.is_err() {
        tracing::warn!("the feed has not answered yet; listening all the same");
    }
}

/// Waits a moment for the certificates that were ordered in an earlier life.
async fn first_certificates(acme: &AcmeHandle) {
    let loaded = tokio::time::timeout(FIRST_ROUTES, acme.loaded());
    if loaded.await.is_err() {
        tracing::warn!("certificates of the ACME folder are not read yet; listening all the same");
    }
}

fn listen(config: &Config, state: &admin::State) -> Result<Server, StartError> {
    let mut server = Server::builder(state.router.clone());
    for listener in &config.listeners {
        server = server.listener(settings(listener, &state.certificates));
    }
    server.start()
}

fn settings(listener: &Listener, certificates: &Watches) -> ListenerSettings {
    let (tls, http2_prior_knowledge) = match &listener.protocol {
        Protocol::Http {
            http2_prior_knowledge,
        } => (None, *http2_prior_knowledge),
        Protocol::Https(https) => {
            let default = https.default.as_ref();
            let tls = TlsListenerSettings {
                default: default.and_then(|pair| certificates.default_of(pair)),
                min_version: https.min_version,
                http2: https.http2,
            };
            (Some(tls), false)
        }
    };
    ListenerSettings {
        address: listener.address,
        tls,
        proxy_protocol: listener.proxy_protocol,
        trusted_proxies: listener.trusted_proxies.clone(),
        http2_prior_knowledge,
    }
}

/// How long at most the first routes and certificates are waited for.
const FIRST_ROUTES: Duration = Duration::from_secs(2);
/// How long a stuck reader of the access log may hold up the end.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How long a second signal leaves connections to be dropped and logged.
const CUTTING: Duration = Duration::from_secs(1);
