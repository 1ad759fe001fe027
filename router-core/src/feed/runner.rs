//! Runs a feed: judge by revision, validate whole, guard, apply per app, remember the last good document, say how it
//! went. Errors raise the age and change nothing else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{self, Digest, SHA256};
use bytes::Bytes;
use router_model::backoff::Backoff;
use router_model::cursor::{FeedCursor, Judgement};
use router_model::snapshot::{self, Rejection};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::{Zeroize, Zeroizing};

use super::certificates::{DocumentCertificates, LOOK_AT_FILES};
use super::{Feed, FeedStatus, Position, Update, cache};
use crate::clock::{self, Instant};
use crate::router::Router;
use crate::tasks;

/// How to run a feed.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedOptions {
    /// Where the last good document is kept; read when the feed has none to give at the start.
    pub cache: Option<PathBuf>,
    /// What the router is called in acknowledgements. Default: random.
    pub router_id: String,
    /// The largest share of all domains that one update may take away without `allow_shrink`.
    pub shrink_share: f64,
    /// After how long a document that takes away more is believed all the same, if the source keeps to it; never, by
    /// default. A document without any app is never believed.
    pub shrink_persists: Option<Duration>,
    /// How often the whole document is asked for, whatever the changes were; a fifth more or less, at random.
    pub relist_every: Duration,
    /// After how long without a word a source with a heartbeat is called silent.
    pub silent_after: Duration,
    /// The longest time that an update is held back, at random, so that a fleet does not take up a bad one in the same
    /// second. Zero by default.
    pub apply_jitter: Duration,
    /// After how long in one step the runner is called stuck.
    pub watchdog: Duration,
    /// Whether to ask for the whole document when every dyno of an app refuses connections and nothing new has come
    /// for `silent_after`.
    pub feedback_relist: bool,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            cache: None,
            router_id: format!("{:016x}", fastrand::u64(..)),
            shrink_share: 0.25,
            shrink_persists: None,
            relist_every: Duration::from_mins(10),
            silent_after: Duration::from_secs(30),
            apply_jitter: Duration::ZERO,
            watchdog: Duration::from_secs(30),
            feedback_relist: true,
        }
    }
}

/// A running feed.
#[derive(Debug)]
pub struct FeedHandle {
    status: Arc<Mutex<Recorded>>,
    /// Woken to have the files looked at that the document names.
    look: Arc<Notify>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Recorded {
    /// Its `rejected` is put together from the two lists below.
    status: FeedStatus,
    applied_at: Option<Instant>,
    rejected_apps: Vec<Rejection>,
    rejected_certificates: Vec<Rejection>,
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
            rejected: [&recorded.rejected_apps[..], &recorded.rejected_certificates].concat(),
            ..recorded.status.clone()
        }
    }

    /// Certificates of the document in force that cannot be used (`certificates[3]`), and why.
    pub fn rejected_certificates(&self) -> Vec<Rejection> {
        lock(&self.status).rejected_certificates.clone()
    }

    /// Has the certificate files that the document names looked at now. They are looked at every ten seconds anyway.
    pub fn look_at_files(&self) {
        self.look.notify_one();
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
        folder: feed.folder().map_or_else(PathBuf::new, Path::to_owned),
        certificates: DocumentCertificates::new(Arc::clone(router.certificates())),
        in_force: None,
        status: Arc::clone(&status),
    };
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let stopped = stop.clone();
    let look = Arc::new(Notify::new());
    let told = Arc::clone(&look);
    tasks::spawn(&tasks, async move {
        tokio::select! {
            // Dropping the runner between two documents loses nothing; within one, the blocking part finishes by
            // itself.
            () = run(runner, feed, told) => {}
            () = stopped.cancelled() => {}
        }
    });
    tasks.close();
    FeedHandle {
        status,
        look,
        stop,
        tasks,
    }
}

async fn run(mut runner: Runner, mut feed: impl Feed, look: Arc<Notify>) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let asked = clock::now();
        let files = runner.has_files();
        let next = tokio::select! {
            // Cancel-safe, all: dropping what waits for a document loses none, and a call to look stays one.
            next = feed.next(runner.position()) => next.map(Some),
            () = look.notified() => Ok(None),
            () = tokio::time::sleep(LOOK_AT_FILES), if files => Ok(None),
        };
        match next {
            Ok(update) => {
                if update.is_some() {
                    backoff.reset();
                }
                let handled = tasks::blocking(move || {
                    match update {
                        Some(Update::Snapshot(document)) => runner.document(document),
                        Some(Update::Change(_) | Update::Alive { .. }) => {}
                        None => runner.look_at_files(),
                    }
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
    /// Where file names in documents start from.
    folder: PathBuf,
    certificates: DocumentCertificates,
    /// Of the document in force, to know it again. The document itself may hold private keys, and is not kept.
    in_force: Option<Digest>,
    status: Arc<Mutex<Recorded>>,
}

impl Runner {
    fn position(&self) -> Position {
        Position {
            revision: self.cursor.revision(),
            need_whole: false,
        }
    }

    fn document(&mut self, document: Bytes) {
        let digest = digest::digest(&SHA256, &document);
        if self.is_in_force(&digest) {
            self.look_at_files();
            let mut recorded = lock(&self.status);
            recorded.status.stale = false;
            recorded.status.last_error = None;
            return;
        }
        match self.put_in_force(&document) {
            Ok(()) => {
                self.save(&document);
                self.in_force = Some(digest);
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
        wipe(document);
    }

    fn is_in_force(&self, digest: &Digest) -> bool {
        let in_force = self.in_force.as_ref();
        in_force.is_some_and(|in_force| in_force.as_ref() == digest.as_ref())
    }

    /// Whether the document names files.
    fn has_files(&self) -> bool {
        self.certificates.have_files() || self.router.table().has_authority_files()
    }

    /// A certificate may be renewed in its files while the document stays as it is, and so may an authority of dynos.
    fn look_at_files(&mut self) {
        let changed = self.router.table().look_at_authority_files();
        if changed > 0 {
            tracing::info!(
                apps = changed,
                "certificate authorities of dynos have changed"
            );
        }
        let table = self.router.table();
        if self.certificates.look_at_files(|| table.domains()) {
            tracing::info!("certificate files of the route document have changed");
            self.tell_of_certificates();
        }
    }

    /// Warns of certificates that are rejected since now.
    fn tell_of_certificates(&self) {
        let rejected = self.certificates.rejected();
        let mut recorded = lock(&self.status);
        for Rejection { app, reason } in &rejected {
            let known = recorded.rejected_certificates.iter();
            if !known
                .clone()
                .any(|known| known.app == *app && known.reason == *reason)
            {
                tracing::warn!(certificate = %app, %reason, "certificate rejected");
            }
        }
        recorded.rejected_certificates = rejected;
    }

    /// Parses, judges, guards and applies; on an error nothing has changed.
    fn put_in_force(&mut self, document: &[u8]) -> Result<(), String> {
        let mut snapshot = snapshot::parse(document).map_err(|error| error.to_string())?;
        snapshot.start_from(&self.folder);
        if self.cursor.judge(snapshot.revision, false) == Judgement::Stale {
            let in_force = self.cursor.revision().unwrap_or_default();
            return Err(format!(
                "revision {} is older than {in_force}, which is in force",
                snapshot.revision
            ));
        }
        let certificates = self.certificates.read(&snapshot);
        let applied = self
            .router
            .table()
            .apply_after(&snapshot, || self.certificates.add(&certificates))
            .map_err(|refusal| refusal.to_string())?;
        let table = self.router.table();
        self.certificates.settle(certificates, || table.domains());
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
        self.tell_of_certificates();
        let mut recorded = lock(&self.status);
        recorded.status.revision = Some(snapshot.revision);
        recorded.rejected_apps = applied.rejected;
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
            .and_then(|document| {
                let document = Zeroizing::new(document);
                self.put_in_force(&document)?;
                Ok(digest::digest(&SHA256, &document))
            });
        match loaded {
            Ok(digest) => {
                self.in_force = Some(digest);
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

/// Leaves no private key of a document in memory that was given back, as far as nobody else has the document.
fn wipe(document: Bytes) {
    if let Ok(mut document) = document.try_into_mut() {
        document.as_mut().zeroize();
    }
}
