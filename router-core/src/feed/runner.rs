//! Runs a feed: judge by revision, validate whole, guard, apply per app, remember the last good document, say how it
//! went. Errors raise the age and change nothing else.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use router_model::backoff::Backoff;
use router_model::cursor::{FeedCursor, Judgement};
use router_model::snapshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Feed, FeedStatus, cache};
use crate::clock::{self, Instant};
use crate::router::Router;
use crate::tasks;

/// How to run a feed.
#[derive(Debug, Clone, Default)]
pub struct FeedOptions {
    /// Where the last good document is kept; read when the feed has none to give at the start.
    pub cache: Option<PathBuf>,
}

/// A running feed.
#[derive(Debug)]
pub struct FeedHandle {
    status: Arc<Mutex<Recorded>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Recorded {
    status: FeedStatus,
    applied_at: Option<Instant>,
}

impl FeedHandle {
    /// How the feed stands.
    pub fn status(&self) -> FeedStatus {
        let recorded = lock(&self.status);
        let age = recorded
            .applied_at
            .map(|at| clock::now().saturating_duration_since(at).as_secs_f64());
        FeedStatus {
            age_seconds: age,
            ..recorded.status.clone()
        }
    }

    /// Stops to read the feed; the routes stay as they are.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

fn lock(status: &Mutex<Recorded>) -> MutexGuard<'_, Recorded> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to keep the router's table up to date. Must be called on a tokio runtime; documents are parsed and applied on
/// a thread of their own.
pub fn start(router: &Router, feed: impl Feed, options: FeedOptions) -> FeedHandle {
    let status = Arc::new(Mutex::new(Recorded::default()));
    lock(&status).status.source = feed.source().to_owned();
    let runner = Runner {
        router: router.clone(),
        options,
        cursor: FeedCursor::new(),
        in_force: Bytes::new(),
        status: Arc::clone(&status),
    };
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let stopped = stop.clone();
    tasks::spawn(&tasks, async move {
        tokio::select! {
            // Dropping the runner between two documents loses nothing; within one, the blocking part finishes by
            // itself.
            () = run(runner, feed) => {}
            () = stopped.cancelled() => {}
        }
    });
    tasks.close();
    FeedHandle {
        status,
        stop,
        tasks,
    }
}

async fn run(mut runner: Runner, mut feed: impl Feed) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let asked = clock::now();
        match feed.next().await {
            Ok(document) => {
                backoff.reset();
                let handled = tasks::blocking(move || {
                    runner.document(document);
                    runner
                });
                match handled.await {
                    Some(back) => runner = back,
                    // Only a panic in our own code can do this; the routes stay.
                    None => {
                        return tracing::error!(
                            "the feed's runner panicked; routes are not updated any more"
                        );
                    }
                }
            }
            Err(error) => {
                runner.refuse(error.to_string());
                runner.start_from_cache();
                // Only a feed that fails at once is held back; one that waited for a change must not be late with the
                // next.
                tokio::time::sleep_until(asked + backoff.next(fastrand::u32(..))).await;
            }
        }
    }
}

struct Runner {
    router: Router,
    options: FeedOptions,
    cursor: FeedCursor,
    /// The document in force, to know it again.
    in_force: Bytes,
    status: Arc<Mutex<Recorded>>,
}

impl Runner {
    fn document(&mut self, document: Bytes) {
        if document == self.in_force {
            let mut recorded = lock(&self.status);
            recorded.status.stale = false;
            recorded.status.last_error = None;
            return;
        }
        match self.put_in_force(&document) {
            Ok(()) => {
                self.save(&document);
                self.in_force = document;
                let mut recorded = lock(&self.status);
                recorded.status.stale = false;
                recorded.status.last_error = None;
                recorded.status.accepted += 1;
            }
            Err(reason) => {
                self.refuse(reason);
                self.start_from_cache();
            }
        }
    }

    /// Parses, judges, guards and applies; on an error nothing has changed.
    fn put_in_force(&mut self, document: &[u8]) -> Result<(), String> {
        let snapshot = snapshot::parse(document).map_err(|error| error.to_string())?;
        if self.cursor.judge(snapshot.revision, false) == Judgement::Stale {
            let in_force = self.cursor.revision().unwrap_or_default();
            return Err(format!(
                "revision {} is older than {in_force}, which is in force",
                snapshot.revision
            ));
        }
        let applied = self
            .router
            .table()
            .apply(&snapshot)
            .map_err(|refusal| refusal.to_string())?;
        self.cursor.advance(snapshot.revision);
        tracing::info!(
            revision = snapshot.revision,
            changed = applied.changed,
            removed = applied.removed,
            "routes applied"
        );
        for rejection in &applied.rejected {
            tracing::warn!(app = %rejection.app, reason = %rejection.reason, "app rejected");
        }
        let mut recorded = lock(&self.status);
        recorded.status.revision = Some(snapshot.revision);
        recorded.status.rejected = applied.rejected;
        recorded.applied_at = Some(clock::now());
        Ok(())
    }

    fn refuse(&self, reason: String) {
        tracing::error!(%reason, "route document refused; the routes stay as they are");
        let mut recorded = lock(&self.status);
        recorded.status.refused += 1;
        recorded.status.last_error = Some(reason);
    }

    /// With nothing better at hand, the last good document is served, and said to be stale.
    fn start_from_cache(&mut self) {
        let Some(path) = self
            .options
            .cache
            .clone()
            .filter(|_| !self.router.table().is_loaded())
        else {
            return;
        };
        let loaded = cache::load(&path)
            .map_err(|error| error.to_string())
            .and_then(|document| self.put_in_force(&document).map(|()| document));
        match loaded {
            Ok(document) => {
                self.in_force = document.into();
                lock(&self.status).status.stale = true;
                tracing::warn!(path = %path.display(), "serving the routes of the last good document");
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "no last good document"),
        }
    }

    /// A cache that cannot be written must not stop routes from being applied.
    fn save(&self, document: &[u8]) {
        let Some(path) = &self.options.cache else {
            return;
        };
        if let Err(error) = cache::save(path, document) {
            tracing::warn!(path = %path.display(), %error, "cannot save the last good document");
        }
    }
}
