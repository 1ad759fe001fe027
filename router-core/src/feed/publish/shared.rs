//! What all readers share: what is published, who is told of news, and who puts a whole document together.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::history::Change;
use super::published::{Published, Whole};
use super::settings::PublishSettings;
use super::stats::{PublishStats, Stats};
use crate::{clock, tasks};

/// What all readers share.
pub(super) struct Shared {
    pub(super) settings: PublishSettings,
    /// Guards what is published. Nothing is awaited under it.
    published: Mutex<Published>,
    /// Moves when there is something new, a moment after the last time at the earliest.
    news: watch::Sender<u64>,
    /// There is something new.
    fresh: Notify,
    /// Held by who puts the whole document together, so that the others wait for it instead of doing the same.
    building: tokio::sync::Mutex<()>,
    pub(super) acks: Acks,
    pub(super) stats: Stats,
    /// Whether the source of the routes is not heard of.
    silent: AtomicBool,
    pub(super) stop: CancellationToken,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(settings: PublishSettings) -> Self {
        Self {
            published: Mutex::new(Published::new(settings.history)),
            settings,
            news: watch::Sender::new(0),
            fresh: Notify::new(),
            building: tokio::sync::Mutex::default(),
            acks: Acks::new(),
            stats: Stats::default(),
            silent: AtomicBool::new(false),
            stop: CancellationToken::new(),
        }
    }

    /// What is published now.
    pub(super) fn published(&self) -> MutexGuard<'_, Published> {
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is published.
    pub(super) fn publish(&self, change: impl FnOnce(&mut Published)) {
        change(&mut self.published());
        self.stats.changes.add(1);
        self.fresh.notify_one();
    }

    /// Looks again and again whether the source is heard of.
    pub(super) async fn listen(&self, silent: impl Fn() -> bool) {
        loop {
            self.silent.store(silent(), Ordering::Relaxed);
            tokio::time::sleep(LISTEN).await;
        }
    }

    /// Tells readers that there is something new. The first change after some quiet is told at once; of many in quick
    /// succession, each reader gets several at a time.
    pub(super) async fn herald(&self) {
        loop {
            self.fresh.notified().await;
            self.news
                .send_modify(|count| *count = count.wrapping_add(1));
            tokio::time::sleep(gather(self.stats.subscribers.count())).await;
        }
    }

    /// Moves when there is something new.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Some changes from this number on, and the revision to which all of them lead; `None` if they are forgotten.
    pub(super) fn changes(&self, number: u64, most: usize) -> Option<(Vec<Arc<Change>>, u64)> {
        let published = self.published();
        let changes = published.history.from(number, most)?;
        Some((changes, published.revision?))
    }

    /// A whole document: the present one or, for those who take changes too, one that is nearly so. It is put together
    /// once for all who ask at the same time.
    pub(super) async fn whole(self: &Arc<Self>, with_changes: bool) -> Option<Arc<Whole>> {
        let latest = || self.published().latest(with_changes);
        if let Some(whole) = latest() {
            return Some(whole);
        }
        let _one_at_a_time = self.building.lock().await;
        if let Some(whole) = latest() {
            return Some(whole);
        }
        self.stats.wholes_built.add(1);
        let shared = Arc::clone(self);
        tasks::blocking(move || shared.published().build()).await?
    }

    /// Whether the source is not heard of.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// A line that says that all is well and nothing new. While the source is not heard of, an empty line only keeps the
    /// connection: who reads here is to notice, as if he read there.
    pub(super) fn heartbeat(&self, revision: u64) -> Bytes {
        if self.is_silent() {
            return Bytes::from_static(b"\n");
        }
        format!("{{\"heartbeat\":{revision}}}\n").into()
    }

    pub(super) fn stats(&self) -> PublishStats {
        let (revision, apps) = {
            let published = self.published();
            (published.revision, published.app_count())
        };
        let (routers, lowest_revision) = self.acks.lowest(clock::now());
        let stats = &self.stats;
        PublishStats {
            revision,
            apps,
            connections: stats.connections.count(),
            subscribers: stats.subscribers.count(),
            waiting: stats.waiting.count(),
            turned_away: stats.turned_away.count(),
            unauthorized: stats.unauthorized.count(),
            changes: stats.changes.count(),
            wholes_built: stats.wholes_built.count(),
            wholes_sent: stats.wholes_sent.count(),
            behind: stats.behind.count(),
            routers,
            lowest_revision,
        }
    }
}

/// Readers are woken no more often than after this time. Waking one takes nearly 10 µs of one core, however little there is
/// to say: so that takes less than half of a core, and what there is time for is said at once.
fn gather(readers: u64) -> Duration {
    let readers = u32::try_from(readers).unwrap_or(u32::MAX);
    FOR_EACH.saturating_mul(readers).clamp(GATHER, LONGEST)
}

const FOR_EACH: Duration = Duration::from_micros(20);
const GATHER: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(500);
/// How often is looked whether the source is heard of.
const LISTEN: Duration = Duration::from_secs(1);
