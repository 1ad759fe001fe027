//! How the feed stands: what the runner notes as it goes, and what `/v1/feed` and the metrics make of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use router_model::snapshot::Rejection;
use serde::Serialize;
use tokio::sync::{Notify, watch};

use super::intake::{InForce, Intake, Outcome};
use crate::clock::{self, Instant};

/// How the feed stands, as `/v1/feed` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FeedStatus {
    /// What feeds the router.
    pub source: String,
    /// What the router is called in acknowledgements.
    pub router_id: String,
    /// The revision in force.
    pub revision: Option<u64>,
    /// Seconds since that revision was put in force.
    pub age_seconds: Option<f64>,
    /// The routes come from the cache, because the feed has neither given nor confirmed any yet.
    pub stale: bool,
    /// Seconds since the source was last heard of.
    pub heard_seconds: Option<f64>,
    /// The source should have been heard of since, and was not.
    pub silent: bool,
    /// Seconds since nothing is known of what the source would say: it is silent or cannot be asked, or whoever passes its
    /// routes on does not hear of it. None while it is well.
    pub unheard_seconds: Option<f64>,
    /// Why the last update was not put in force, or could not be had; none once one is good again.
    pub last_error: Option<String>,
    /// A document that is not believed: `POST /v1/feed/confirm` makes it so.
    pub withheld: Option<Withheld>,
    /// Apps of the document in force that were rejected, or lost a domain, and certificates that were rejected
    /// (`certificates[3]`).
    pub rejected: Vec<Rejection>,
    /// Documents put in force.
    pub accepted: u64,
    /// Changes put in force.
    pub changes: u64,
    /// Documents and changes refused, ignored as old, or not to be had.
    pub refused: u64,
    /// Updates refused because they would have taken away too much.
    pub shrinks_refused: u64,
    /// Changes before which something was missing.
    pub gaps: u64,
    /// How often the whole document was asked for, and why.
    pub relists: Relists,
    /// How long the last update took to be read and applied.
    pub apply_seconds: Option<f64>,
    /// An update is being held back for a random time.
    pub holding_back: bool,
    /// What has been going on for longer than the watchdog allows.
    pub stuck: Option<Stuck>,
    /// The last good document on disk.
    pub cache: Option<CacheStatus>,
    /// The revision that the source was last told to be in force.
    pub acknowledged: Option<u64>,
    /// Acknowledgements that did not arrive.
    pub acknowledgements_failed: u64,
}

/// A document that is not applied because it takes away too much or is older than what is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Withheld {
    /// Its revision.
    pub revision: u64,
    /// Why it is not applied.
    pub reason: String,
}

/// A step that takes too long.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stuck {
    /// What is being done.
    pub step: &'static str,
    /// For how long.
    pub seconds: f64,
}

/// The last good document on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    /// The revision that a restart would find.
    pub revision: Option<u64>,
    /// Why it is not the one in force.
    pub error: Option<String>,
    /// How often it could not be written.
    pub failures: u64,
}

/// Why the whole document was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Relist {
    /// It was time.
    Timer,
    /// Something was missing, or a change was refused.
    Gap,
    /// The source was silent for too long.
    Silence,
    /// Every dyno of an app refused connections.
    Feedback,
    /// The log of changes in the cache has grown long, or the cache has missed something.
    Cache,
    /// Somebody asked.
    Asked,
}

/// How often the whole document was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Relists {
    /// Because it was time.
    pub timer: u64,
    /// Because something was missing, or a change was refused.
    pub gap: u64,
    /// Because the source was silent for too long.
    pub silence: u64,
    /// Because every dyno of an app refused connections.
    pub feedback: u64,
    /// Because the cache needed it.
    pub cache: u64,
    /// Because somebody asked.
    pub asked: u64,
}

impl Relists {
    fn count(&mut self, reason: Relist) {
        *match reason {
            Relist::Timer => &mut self.timer,
            Relist::Gap => &mut self.gap,
            Relist::Silence => &mut self.silence,
            Relist::Feedback => &mut self.feedback,
            Relist::Cache => &mut self.cache,
            Relist::Asked => &mut self.asked,
        } += 1;
    }

    /// All of them with their names.
    pub fn by_reason(&self) -> [(&'static str, u64); 6] {
        [
            ("timer", self.timer),
            ("gap", self.gap),
            ("silence", self.silence),
            ("feedback", self.feedback),
            ("cache", self.cache),
            ("asked", self.asked),
        ]
    }
}

/// What the runner, its saver and the handle share.
#[derive(Debug)]
pub(super) struct Board {
    /// Held to read or write a few fields, never across an `.await`.
    recorded: Mutex<Recorded>,
    /// The revision in force.
    pub(super) revision: watch::Sender<Option<u64>>,
    /// Whether the feed has answered at all.
    pub(super) answered: watch::Sender<bool>,
    pub(super) saved: watch::Sender<Saved>,
    /// Woken to have the files looked at that the document names.
    pub(super) look: Notify,
    /// Woken when the whole document is to be asked for.
    pub(super) ask: Notify,
    watchdog: Duration,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// Without what is put together from the fields below.
    pub(super) status: FeedStatus,
    pub(super) applied_at: Option<Instant>,
    pub(super) heard_at: Option<Instant>,
    pub(super) unheard_since: Option<Instant>,
    pub(super) rejected_apps: Rejections,
    pub(super) rejected_certificates: Vec<Rejection>,
    /// What somebody has confirmed and the runner has not heard of yet.
    pub(super) confirmed: Option<u64>,
    /// What is being done, by name, and since when.
    steps: BTreeMap<&'static str, Instant>,
}

/// What the cache on disk is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) revision: Option<u64>,
    /// What comes next cannot be added: only a whole document helps.
    pub(super) needs_whole: bool,
    /// The last attempt to write failed.
    pub(super) failed: bool,
}

impl Board {
    pub(super) fn new(
        source: &str,
        router_id: &str,
        cached: bool,
        watchdog: Duration,
    ) -> Arc<Self> {
        let status = FeedStatus {
            source: source.to_owned(),
            router_id: router_id.to_owned(),
            cache: cached.then(CacheStatus::default),
            ..FeedStatus::default()
        };
        Arc::new(Self {
            recorded: Mutex::new(Recorded {
                status,
                ..Recorded::default()
            }),
            revision: watch::Sender::new(None),
            answered: watch::Sender::new(false),
            saved: watch::Sender::new(Saved::default()),
            look: Notify::new(),
            ask: Notify::new(),
            watchdog,
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> FeedStatus {
        let now = clock::now();
        let recorded = self.lock();
        let since = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let rejected = recorded.rejected_apps.iter();
        FeedStatus {
            age_seconds: recorded.applied_at.map(since),
            heard_seconds: recorded.heard_at.map(since),
            unheard_seconds: recorded.unheard_since.map(since),
            rejected: rejected
                .chain(&recorded.rejected_certificates)
                .cloned()
                .collect(),
            stuck: self.stuck_in(&recorded, now).map(|(step, at)| Stuck {
                step,
                seconds: since(at),
            }),
            ..recorded.status.clone()
        }
    }

    /// Notes what is being done, for the watchdog. It is over when the value is dropped.
    pub(super) fn step(self: &Arc<Self>, name: &'static str) -> Step {
        self.lock().steps.insert(name, clock::now());
        Step(Arc::clone(self), name)
    }

    /// What somebody is stuck in, and since when.
    pub(super) fn stuck_since(&self, now: Instant) -> Option<(&'static str, Instant)> {
        self.stuck_in(&self.lock(), now)
    }

    fn stuck_in(&self, recorded: &Recorded, now: Instant) -> Option<(&'static str, Instant)> {
        let steps = recorded.steps.iter().map(|(step, since)| (*step, *since));
        let oldest = steps.min_by_key(|(_, since)| *since)?;
        let taken = now.saturating_duration_since(oldest.1);
        (taken > self.watchdog).then_some(oldest)
    }

    /// Notes that the whole document is asked for.
    pub(super) fn relist(&self, reason: Relist) {
        self.lock().status.relists.count(reason);
    }

    /// Notes what has just come into force, from the feed or from the cache.
    pub(super) fn in_force(&self, in_force: &mut InForce, intake: &Intake, now: Instant) {
        let few = in_force.applied.rejected.iter().take(MOST_LOGGED);
        for Rejection { app, reason } in few {
            tracing::warn!(%app, %reason, "app rejected");
        }
        warn_of_more(in_force.applied.rejected.len(), "apps rejected");
        let rejected = std::mem::take(&mut in_force.applied.rejected);
        let certificates = intake.rejected_certificates();
        let mut recorded = self.lock();
        if in_force.whole {
            recorded.rejected_apps.replace(rejected);
        } else {
            let settled = &in_force.applied.settled;
            recorded.rejected_apps.change(settled, rejected);
        }
        recorded.certificates(certificates);
        recorded.status.revision = Some(in_force.revision);
        recorded.applied_at = Some(now);
        drop(recorded);
        self.revision.send_replace(Some(in_force.revision));
    }

    /// Notes what became of an update of the feed.
    pub(super) fn outcome(&self, outcome: &mut Outcome, intake: &Intake, now: Instant) {
        if let Outcome::Applied(in_force) = outcome {
            self.in_force(in_force, intake, now);
        }
        let mut recorded = self.lock();
        let status = &mut recorded.status;
        status.withheld = intake.withheld().cloned();
        match outcome {
            Outcome::Applied(in_force) => {
                status.stale = false;
                status.last_error = None;
                match in_force.whole {
                    true => status.accepted += 1,
                    false => status.changes += 1,
                }
            }
            Outcome::Current => {
                status.stale = false;
                status.last_error = None;
                recorded.certificates(intake.rejected_certificates());
            }
            Outcome::Nothing => {}
            Outcome::Gap => status.gaps += 1,
            Outcome::Refused { reason, shrinks } => {
                status.shrinks_refused += u64::from(*shrinks);
                drop(recorded);
                self.refuse(reason.clone());
            }
            Outcome::RefusedAgain => status.refused += 1,
        }
    }

    /// Notes what came of writing the cache.
    pub(super) fn saved(&self, written: Result<u64, String>, needs_whole: bool) {
        let mut recorded = self.lock();
        let cache = recorded.status.cache.get_or_insert_default();
        let failed = written.is_err();
        match written {
            Ok(revision) => {
                cache.revision = Some(revision);
                cache.error = None;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot save the last good routes");
                cache.error = Some(error);
                cache.failures += 1;
            }
        }
        let revision = cache.revision;
        drop(recorded);
        self.saved.send_replace(Saved {
            revision,
            needs_whole,
            failed,
        });
    }

    /// Notes why nothing has come into force.
    pub(super) fn refuse(&self, reason: String) {
        tracing::error!(%reason, "route update refused; the routes stay as they are");
        let mut recorded = self.lock();
        recorded.status.refused += 1;
        recorded.status.last_error = Some(reason);
    }
}

impl Recorded {
    /// Notes which certificates cannot be used, and warns of those that could until now.
    pub(super) fn certificates(&mut self, rejected: Vec<Rejection>) {
        let known: HashSet<&Rejection> = self.rejected_certificates.iter().collect();
        let new = rejected
            .iter()
            .filter(|rejection| !known.contains(rejection));
        for Rejection { app, reason } in new.clone().take(MOST_LOGGED) {
            tracing::warn!(certificate = %app, %reason, "certificate rejected");
        }
        warn_of_more(new.count(), "certificates rejected");
        self.rejected_certificates = rejected;
    }
}

/// All of them are in `/v1/feed`.
fn warn_of_more(all: usize, what: &str) {
    if let Some(more) = all.checked_sub(MOST_LOGGED).filter(|more| *more > 0) {
        tracing::warn!(more, "and more {what}");
    }
}

/// So many rejections of one update have a line each.
const MOST_LOGGED: usize = 20;

/// Something that is being done.
#[must_use]
pub(super) struct Step(Arc<Board>, &'static str);

impl Drop for Step {
    fn drop(&mut self) {
        self.0.lock().steps.remove(self.1);
    }
}

/// What was rejected, in the order in which it was, and by app.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    by_place: BTreeMap<u64, Rejection>,
    places: HashMap<String, Vec<u64>>,
    next: u64,
}

impl Rejections {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rejection> {
        self.by_place.values()
    }

    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }

    fn replace(&mut self, rejected: Vec<Rejection>) {
        *self = Self::default();
        self.extend(rejected);
    }

    fn change(&mut self, settled: &[Arc<str>], rejected: Vec<Rejection>) {
        for name in settled {
            for place in self.places.remove(&**name).unwrap_or_default() {
                self.by_place.remove(&place);
            }
        }
        self.extend(rejected);
    }

    fn extend(&mut self, rejected: Vec<Rejection>) {
        for rejection in rejected {
            let places = self.places.entry(rejection.app.clone()).or_default();
            places.push(self.next);
            self.by_place.insert(self.next, rejection);
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejections(apps: &[&str]) -> Vec<Rejection> {
        let reason = |app: &&str| Rejection {
            app: (*app).to_owned(),
            reason: format!("because of {app}"),
        };
        apps.iter().map(reason).collect()
    }

    #[test]
    fn rejections_keep_their_order_and_go_app_by_app() {
        let mut known = Rejections::default();
        known.replace(rejections(&["c", "a", "c", "b"]));
        known.change(&["a".into(), "unknown".into()], rejections(&["d"]));
        let apps = |known: &Rejections| {
            let apps = known.iter().map(|rejection| rejection.app.clone());
            apps.collect::<Vec<_>>().concat()
        };
        assert_eq!(apps(&known), "ccbd");
        known.change(&["c".into(), "b".into()], rejections(&["b"]));
        assert_eq!((apps(&known).as_str(), known.len()), ("db", 2));
        known.replace(Vec::new());
        assert_eq!((known.len(), known.places.len()), (0, 0));
    }
}
