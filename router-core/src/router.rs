//! The router as its users hold it: built once, cheap to clone, shared by listeners, services and the feed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use router_model::affinity::{self, AffinityKey};
use router_model::h1::Version;
use router_model::limits::Limits;
use router_model::timeouts::Timeouts;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::observe::{Observer, Silent};
use crate::silence::Silence;
use crate::table::RouteTable;
use crate::tasks;
use crate::tls::{CertificateStore, Challenges, TicketKeys, TlsConfigs};
use crate::worker::Worker;

/// A router: a route table and the workers' state. Clones share everything.
///
/// ```
/// let router = router_core::Router::builder().name("edge").build()?;
/// assert!(!router.table().is_loaded());
/// # Ok::<(), router_core::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
    /// One per listening thread.
    workers: Arc<[Arc<Worker>]>,
    /// For embedded services, whose tasks run wherever the embedder's runtime puts them.
    embedded: Arc<Worker>,
    /// Set once somebody tidies `embedded`.
    tidying: Arc<OnceLock<TaskTracker>>,
}

/// What all workers read.
pub(crate) struct Shared {
    pub(crate) table: RouteTable,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    /// `identity.name`: `Server`, and part of the others.
    pub(crate) name: String,
    /// The router's element of `Via`, by the protocol of the client.
    via_h1: String,
    via_h2: String,
    pub(crate) affinity: AffinityKey,
    pub(crate) affinity_cookie: String,
    pub(crate) certificates: Arc<CertificateStore>,
    pub(crate) tls: TlsConfigs,
    pub(crate) challenges: Arc<Challenges>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) silence: Silence,
    pub(crate) drain: CancellationToken,
    pub(crate) cut: CancellationToken,
    drain_window_ms: AtomicU64,
    /// Set before the tokens are cancelled.
    draining: AtomicBool,
    cutting: AtomicBool,
    connections: AtomicU64,
}

impl Shared {
    /// Client connections of all workers together. Written once per connection, read once per request.
    pub(crate) fn client_connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// The window that the drain in progress was given.
    pub(crate) fn drain_window(&self) -> Duration {
        Duration::from_millis(self.drain_window_ms.load(Ordering::Relaxed))
    }

    /// The router's element of `Via` for a client of this version (RFC 9110 §7.6.3).
    pub(crate) fn via(&self, version: Version) -> &str {
        match version {
            Version::Http10 | Version::Http11 => &self.via_h1,
            Version::Http2 => &self.via_h2,
        }
    }

    pub(crate) fn connections(&self) -> &AtomicU64 {
        &self.connections
    }

    /// Whether [`Shared::drain`] has been cancelled, for those who ask at each request.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The same of [`Shared::cut`].
    pub(crate) fn is_cut(&self) -> bool {
        self.cutting.load(Ordering::Acquire)
    }
}

/// Numbers for a dashboard or an exporter, all of this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Open client connections.
    pub client_connections: u64,
    /// Requests of known apps in progress, waiting ones and tunnels included.
    pub requests_in_flight: u64,
    /// Upgraded connections.
    pub tunnels: u64,
    /// Open HTTP/2 client connections, among the client connections.
    pub h2_connections: u64,
    /// Streams open on them.
    pub h2_streams: u64,
    /// Idle connections to dynos.
    pub kept_connections: u64,
    /// Dynos that are left alone for the moment.
    pub dynos_quarantined: u64,
    /// Apps in the route table.
    pub apps: u64,
    /// Domains in the route table.
    pub domains: u64,
}

impl Router {
    /// Starts to build one.
    pub fn builder() -> RouterBuilder {
        RouterBuilder::default()
    }

    /// The route table.
    pub fn table(&self) -> &RouteTable {
        &self.shared.table
    }

    /// How long the source of the routes has been silent.
    pub(crate) fn silence(&self) -> &Silence {
        &self.shared.silence
    }

    /// The certificates that https listeners choose from by name.
    pub fn certificates(&self) -> &Arc<CertificateStore> {
        &self.shared.certificates
    }

    /// The keys of the session tickets that https listeners give.
    pub fn ticket_keys(&self) -> &Arc<TicketKeys> {
        self.shared.tls.tickets()
    }

    /// The ACME challenges that are answered at the moment.
    pub fn challenges(&self) -> &Arc<Challenges> {
        &self.shared.challenges
    }

    /// Numbers of this moment.
    pub fn stats(&self) -> Stats {
        let now = clock::now();
        let table = &self.shared.table;
        let mut quarantined = 0;
        table.for_each_route(|route| {
            let dynos = route.pool.all();
            quarantined += dynos
                .filter(|dyno| dyno.quarantined_for(now).is_some())
                .count();
        });
        let sum = |gauge: fn(&Worker) -> u64| self.all_workers().map(|worker| gauge(worker)).sum();
        Stats {
            client_connections: self.shared.client_connections(),
            requests_in_flight: sum(|worker| worker.gauges.requests.load(Ordering::Relaxed)),
            tunnels: sum(|worker| worker.gauges.tunnels.load(Ordering::Relaxed)),
            h2_connections: sum(|worker| worker.gauges.h2_connections.load(Ordering::Relaxed)),
            h2_streams: sum(|worker| worker.gauges.h2_streams.load(Ordering::Relaxed)),
            kept_connections: sum(|worker| worker.kept() as u64),
            dynos_quarantined: quarantined as u64,
            apps: table.app_count() as u64,
            domains: table.domain_count() as u64,
        }
    }

    /// How many listening workers it was built for.
    pub fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Cuts every connection and tunnel that there is, each with its log line (H24). A router that has been cut serves
    /// nothing any more; this is for an exit that cannot wait for [`Server::drain`](crate::server::Server::drain).
    pub fn cut(&self) {
        self.shared.cutting.store(true, Ordering::Release);
        self.shared.cut.cancel();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn workers(&self) -> &[Arc<Worker>] {
        &self.workers
    }

    /// The worker of embedded services, with somebody to tidy it from its first use on, as long as the router lives.
    pub(crate) fn tidied_embedded(&self) -> &Arc<Worker> {
        self.tidying.get_or_init(|| {
            let tasks = TaskTracker::new();
            let worker = Arc::downgrade(&self.embedded);
            tasks::spawn(&tasks, async move {
                let mut tick = tokio::time::interval(Worker::TIDY_EVERY);
                while let Some(worker) = worker.upgrade() {
                    worker.tidy();
                    drop(worker);
                    tick.tick().await;
                }
            });
            tasks
        });
        &self.embedded
    }

    pub(crate) fn all_workers(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.workers.iter().chain([&self.embedded])
    }

    /// Requests cut so far at the end of a drain window.
    pub(crate) fn cut_count(&self) -> u64 {
        self.all_workers()
            .map(|worker| worker.gauges.cut.load(Ordering::Relaxed))
            .sum()
    }

    /// Lets idle connections close and in-flight requests finish within `window`.
    pub(crate) fn begin_drain(&self, window: Duration) {
        self.shared.drain_window_ms.store(
            u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.shared.draining.store(true, Ordering::Release);
        self.shared.drain.cancel();
        for worker in self.all_workers() {
            worker.close_kept();
        }
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router")
            .field("name", &self.shared.name)
            .field("table", &self.shared.table)
            .finish_non_exhaustive()
    }
}

/// Builds a [`Router`].
#[derive(Default)]
#[must_use]
pub struct RouterBuilder {
    timeouts: Timeouts,
    limits: Limits,
    name: Option<String>,
    affinity_key: Option<Vec<u8>>,
    observer: Option<Arc<dyn Observer>>,
    workers: usize,
}

impl RouterBuilder {
    /// How long to wait for whom. Default: Heroku's values.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// How much of what is allowed. Default: Heroku's values.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The name in `Via`, in `Server` when the app set none, and before `-session-affinity` in the cookie. Default:
    /// `router`.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// The secret that signs affinity cookies; routers that share it honour each other's. Default: random, so cookies
    /// do not outlast the process.
    pub fn affinity_key(mut self, secret: &[u8]) -> Self {
        self.affinity_key = Some(secret.to_vec());
        self
    }

    /// Who is told of requests and events. Default: nobody.
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// How many listening workers; 0, the default, is one per core.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Builds the router. Its route table is empty: until a snapshot is applied, every request gets 503.
    ///
    /// # Errors
    /// [`BuildError`] when the name cannot stand in a header.
    pub fn build(self) -> Result<Router, BuildError> {
        let name = self.name.unwrap_or_else(|| "router".to_owned());
        if !router_model::h1::field::is_token(name.as_bytes()) {
            return Err(BuildError::Name(name));
        }
        let random: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
        let shared = Arc::new(Shared {
            table: RouteTable::new(),
            timeouts: self.timeouts,
            limits: self.limits,
            via_h1: format!("1.1 {name}"),
            via_h2: format!("2.0 {name}"),
            affinity: AffinityKey::new(self.affinity_key.as_deref().unwrap_or(&random)),
            affinity_cookie: affinity::cookie_name(&name),
            name,
            certificates: Arc::default(),
            tls: TlsConfigs::new().map_err(|error| BuildError::Tls(error.to_string()))?,
            challenges: Arc::default(),
            observer: self.observer.unwrap_or_else(|| Arc::new(Silent)),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            silence: Silence::new(clock::now()),
            drain_window_ms: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            cutting: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        });
        let count = match self.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            count => count,
        };
        let worker = |index| Arc::new(Worker::new(Arc::clone(&shared), index));
        let workers = (0..count).map(worker).collect();
        let embedded = worker(count);
        Ok(Router {
            shared,
            workers,
            embedded,
            tidying: Arc::default(),
        })
    }
}

/// Why a router cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The name is no token (RFC 9110 §5.6.2).
    #[error(
        "the name {0:?} cannot stand in a header; allowed are letters, digits and !#$%&'*+-.^_`|~"
    )]
    Name(String),
    /// The cryptography cannot be had.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}
