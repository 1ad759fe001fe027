//! What is counted of what is published.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// How publishing goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PublishStats {
    /// The revision that is published.
    pub revision: Option<u64>,
    /// Apps that are published.
    pub apps: usize,
    /// Connections now.
    pub connections: u64,
    /// Readers of the stream now.
    pub subscribers: u64,
    /// Requests that wait for something new, now.
    pub waiting: u64,
    /// Requests that were turned away because there were too many.
    pub turned_away: u64,
    /// Requests without a token that is accepted.
    pub unauthorized: u64,
    /// Changes that were published.
    pub changes: u64,
    /// Whole documents that were put together.
    pub wholes_built: u64,
    /// Whole documents that were sent.
    pub wholes_sent: u64,
    /// Readers that had fallen so far behind that they were given the whole again.
    pub behind: u64,
    /// Routers that were heard of in the last minute.
    pub routers: usize,
    /// The lowest revision in force on one of them.
    pub lowest_revision: Option<u64>,
}

/// The counters behind it.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) connections: Gauge,
    pub(super) subscribers: Gauge,
    pub(super) waiting: Gauge,
    pub(super) turned_away: Counter,
    pub(super) unauthorized: Counter,
    pub(super) changes: Counter,
    pub(super) wholes_built: Counter,
    pub(super) wholes_sent: Counter,
    pub(super) behind: Counter,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many there are now.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// One more, until what is returned is dropped.
    pub(super) fn enter(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those that are counted.
#[must_use]
pub(super) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
