//! What belongs to one worker: kept dyno connections, cached routes, the date text. Everything here is behind locks
//! that only this worker takes, so they are never contended; they exist because all futures are `Send`, for embedders
//! on a multi-threaded runtime.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::HashMap;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

use crate::clock::{self, DateField};
use crate::dyno::Dyno;
use crate::dyno_conn::{H2Conns, IdleConns};
use crate::observe::Event;
use crate::router::Shared;
use crate::table::Route;

/// One worker's own state.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) index: usize,
    pub(crate) gauges: Gauges,
    /// Cancelled when the router drains: idle connections close, responses say `Connection: close`.
    pub(crate) drain: CancellationToken,
    /// Cancelled when the drain window is over: whatever is left is cut (H24).
    pub(crate) cut: CancellationToken,
    /// The connections to dynos that run by themselves.
    pub(crate) dyno_tasks: TaskTracker,
    idle: Mutex<IdleConns>,
    h2: Mutex<H2Conns>,
    routes: Mutex<HashMap<Box<str>, CachedRoute>>,
    date: Mutex<DateField>,
}

/// Counts that `Router::stats` adds up over the workers.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) requests: AtomicU64,
    pub(crate) tunnels: AtomicU64,
    pub(crate) h2_connections: AtomicU64,
    pub(crate) h2_streams: AtomicU64,
    /// TLS handshakes in progress.
    pub(crate) handshakes: AtomicU64,
    /// Exchanges that were cut at the end of the drain window.
    pub(crate) cut: AtomicU64,
}

/// Counts up now and down when dropped.
#[must_use]
pub(crate) struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    pub(crate) fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A wait for one of the worker's tokens by a connection, which is polled for each read and write. It asks the token,
/// which takes locks, no more than once; then the flag tells.
pub(crate) struct Watch<'w, 'p> {
    token: Pin<&'p mut WaitForCancellationFuture<'w>>,
    /// Whom the token will wake.
    asked_for: Option<Waker>,
}

impl<'w, 'p> Watch<'w, 'p> {
    pub(crate) fn new(token: Pin<&'p mut WaitForCancellationFuture<'w>>) -> Self {
        Self {
            token,
            asked_for: None,
        }
    }

    /// Ready once `flag`, which is set before the token is cancelled, is set.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, flag: bool) -> Poll<()> {
        if flag {
            return Poll::Ready(());
        }
        if let Some(waker) = &self.asked_for
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        self.asked_for = Some(cx.waker().clone());
        self.token.as_mut().poll(cx)
    }
}

struct CachedRoute {
    generation: u64,
    route: Arc<LocalRoute>,
}

/// A route behind a count of this worker's own: cloning it writes no cache line that another core reads.
#[derive(Debug)]
pub(crate) struct LocalRoute(Arc<Route>);

impl std::ops::Deref for LocalRoute {
    type Target = Route;

    fn deref(&self) -> &Route {
        &self.0
    }
}

/// Cached hosts per worker. Only known hosts are cached, so that strangers cannot fill it.
const MOST_CACHED: usize = 4096;

impl Worker {
    /// How often [`Worker::tidy`] is due.
    pub(crate) const TIDY_EVERY: Duration = Duration::from_secs(1);

    pub(crate) fn new(shared: Arc<Shared>, index: usize) -> Self {
        Self {
            index,
            gauges: Gauges::default(),
            drain: shared.drain.child_token(),
            cut: shared.cut.child_token(),
            dyno_tasks: TaskTracker::new(),
            idle: Mutex::default(),
            h2: Mutex::default(),
            routes: Mutex::default(),
            date: Mutex::default(),
            shared,
        }
    }

    /// The route of a normalised host.
    pub(crate) fn route(&self, host: &str) -> Option<Arc<LocalRoute>> {
        let table = &self.shared.table;
        let generation = table.generation();
        let mut cache = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = cache.get(host)
            && cached.generation == generation
        {
            return Some(Arc::clone(&cached.route));
        }
        let Some(route) = table.lookup(host) else {
            cache.remove(host);
            return None;
        };
        match cache.get_mut(host) {
            Some(cached) => {
                cached.generation = generation;
                if !Arc::ptr_eq(&cached.route.0, &route) {
                    cached.route = Arc::new(LocalRoute(route));
                }
                Some(Arc::clone(&cached.route))
            }
            None => {
                if cache.len() >= MOST_CACHED {
                    cache.clear();
                }
                let route = Arc::new(LocalRoute(route));
                cache.insert(
                    host.into(),
                    CachedRoute {
                        generation,
                        route: Arc::clone(&route),
                    },
                );
                Some(route)
            }
        }
    }

    /// The kept connections to dynos.
    pub(crate) fn idle(&self) -> MutexGuard<'_, IdleConns> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The HTTP/2 connections to dynos.
    pub(crate) fn h2(&self) -> MutexGuard<'_, H2Conns> {
        self.h2.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections to dynos that carry nothing at the moment.
    pub(crate) fn kept(&self) -> usize {
        self.idle().len() + self.h2().idle()
    }

    /// The same of one dyno.
    pub(crate) fn kept_of(&self, dyno: &Dyno) -> usize {
        self.idle().of_dyno(dyno) + self.h2().idle_of(dyno)
    }

    /// Closes those connections; an HTTP/2 connection that carries something closes once it carries nothing.
    pub(crate) fn close_kept(&self) {
        self.idle().clear();
        self.h2().clear();
    }

    /// Calls `write` with the `Date` text of this second.
    pub(crate) fn with_date<T>(&self, write: impl FnOnce(&str) -> T) -> T {
        let mut date = self.date.lock().unwrap_or_else(PoisonError::into_inner);
        write(date.at(clock::wall()))
    }

    pub(crate) fn event(&self, event: Event) {
        self.shared.observer.event(self.index, event);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Once in a while: closes kept connections that are too old, were closed by their dyno, or lead to a dyno that
    /// gets no requests any more; forgets cached routes that are out of date, so that they do not keep a lost app's
    /// memory.
    pub(crate) fn tidy(&self) {
        let (timeouts, limits) = (&self.shared.timeouts, &self.shared.limits);
        let now = clock::now();
        self.idle().sweep(now);
        self.h2()
            .sweep(timeouts.dyno_idle, limits.idle_connections_per_dyno, now);
        let generation = self.shared.table.generation();
        let mut cache = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|_, cached| cached.generation == generation);
    }
}
