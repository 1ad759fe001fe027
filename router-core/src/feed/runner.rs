//! Runs a feed: waits for it, for the clock and for the handle, has its updates taken in on a thread of their own, has
//! them saved, and tells the source what is in force. Errors raise the age and change nothing else. No lock is held while
//! anything is waited for.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use router_model::backoff::Backoff;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acks::Acks;
use super::cache::Cache;
use super::certificates::LOOK_AT_FILES;
use super::handle::FeedHandle;
use super::intake::{InForce, Intake, Outcome};
use super::saver::{Job, Saver, wipe};
use super::schedule::Schedule;
use super::status::{Board, Relist, Saved};
use super::{Ack, Feed, FeedError, FeedOptions, Position, Tap, Update, restart};
use crate::clock::{self, Instant};
use crate::router::Router;
use crate::tasks;

/// Starts to keep the router's table up to date. Must be called on a tokio runtime; documents are parsed and applied on
/// a thread of their own.
pub fn start(router: &Router, feed: impl Feed, options: FeedOptions) -> FeedHandle {
    run(router, feed, options, None)
}

/// The same, and tells `tap` of everything that comes into force.
pub fn start_tapped(
    router: &Router,
    feed: impl Feed,
    options: FeedOptions,
    tap: impl Tap,
) -> FeedHandle {
    run(router, feed, options, Some(Box::new(tap)))
}

fn run(
    router: &Router,
    feed: impl Feed,
    options: FeedOptions,
    tap: Option<Box<dyn Tap>>,
) -> FeedHandle {
    let cached = options.cache.is_some();
    let board = Board::new(feed.source(), &options.router_id, cached, options.watchdog);
    let folder = feed.folder().map_or_else(PathBuf::new, ToOwned::to_owned);
    let intake = Intake::new(router, folder, &options).tapped_by(tap);
    let intake = Arc::new(Mutex::new(intake));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let now = clock::now();
    let runner = Runner {
        router: router.clone(),
        schedule: Schedule::new(&options, feed.has_heartbeat(), now, fastrand::u32(..)),
        intake,
        board: Arc::clone(&board),
        saver: None,
        saved: board.saved.subscribe(),
        saving: tasks.clone(),
        errors: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
        hold_until: now,
        acks: Acks::new(now),
        said_at: None,
        unsaid: 0,
        options,
    };
    let stopped = stop.clone();
    tasks::spawn(&tasks, async move {
        tokio::select! {
            // Dropping the runner between two updates loses nothing; within one, the blocking part finishes by itself.
            () = runner.run(feed) => {}
            () = stopped.cancelled() => {}
        }
    });
    let (watched, stopped) = (Arc::clone(&board), stop.clone());
    tasks::spawn(&tasks, async move {
        tokio::select! {
            () = watch(watched) => {}
            () = stopped.cancelled() => {}
        }
    });
    tasks.close();
    FeedHandle::new(board, stop, tasks)
}

/// Says once of each step that takes too long that it does.
async fn watch(board: Arc<Board>) {
    let mut told = None;
    loop {
        tokio::time::sleep(WATCH).await;
        let stuck = board.stuck_since(clock::now());
        if let Some((step, _)) = stuck.filter(|_| stuck != told) {
            tracing::error!(step, "the feed is stuck; the routes stay as they are");
        }
        told = stuck;
    }
}

const WATCH: Duration = Duration::from_secs(1);

struct Runner {
    router: Router,
    options: FeedOptions,
    intake: Arc<Mutex<Intake>>,
    board: Arc<Board>,
    /// None without a cache.
    saver: Option<Saver>,
    saved: watch::Receiver<Saved>,
    /// Who waits for the saver in the end.
    saving: TaskTracker,
    schedule: Schedule,
    errors: Backoff,
    /// The feed is not asked before: it gave an error, or what was refused.
    hold_until: Instant,
    acks: Acks,
    /// When what came into force was logged last, and how many updates since then were not.
    said_at: Option<Instant>,
    unsaid: u64,
}

/// What ended a wait.
enum Wake {
    Update(Update),
    Failed(FeedError),
    /// What the feed is asked for has changed, or the source is to be told something.
    Again,
}

fn lock(intake: &Mutex<Intake>) -> MutexGuard<'_, Intake> {
    // What a panic has left half done is put right by the whole document.
    intake.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Runner {
    async fn run(mut self, mut feed: impl Feed) {
        self.start_from_cache().await;
        loop {
            if self.acknowledgement_is_due(clock::now()) {
                self.acknowledge(&mut feed).await;
            }
            self.schedule.expect_heartbeat(feed.has_heartbeat());
            let asked = clock::now();
            let position = lock(&self.intake).position();
            match self.wait(&mut feed, position).await {
                Wake::Again => {}
                Wake::Update(update) => {
                    self.heard(&update, feed.is_second_hand());
                    let updates = crowd(&mut feed, update).await;
                    self.update(updates, position, asked).await;
                }
                Wake::Failed(error) => {
                    self.board.refuse(error.to_string());
                    self.board.answered.send_replace(true);
                    self.schedule.failed(clock::now());
                    self.note_silence();
                    // Only a feed that fails at once is held back; one that waited for a change must not be late with
                    // the next.
                    self.hold_until = asked + self.errors.next(fastrand::u32(..));
                }
            }
        }
    }

    /// Waits for the feed, and does what else comes up as long as it does not concern the feed.
    async fn wait(&mut self, feed: &mut impl Feed, position: Position) -> Wake {
        let hold_until = self.hold_until;
        let mut next = pin!(async {
            tokio::time::sleep_until(hold_until).await;
            feed.next(position).await
        });
        loop {
            let now = clock::now();
            if let Some(reason) = self.reason_to_ask(now, position) {
                self.ask(reason);
                return Wake::Again;
            }
            if self.acknowledgement_is_due(now) {
                return Wake::Again;
            }
            if self.schedule.files_are_due(now) && lock(&self.intake).has_files() {
                self.look_at_files().await;
            }
            let alarm = self.alarm(now);
            let feedback = self
                .schedule
                .feedback_from()
                .is_some_and(|from| from <= now);
            tokio::select! {
                // Cancel-safe, all: dropping what waits for an update loses none, and a call stays one.
                next = &mut next => return match next {
                    Ok(update) => Wake::Update(update),
                    Err(error) => Wake::Failed(error),
                },
                () = self.board.look.notified() => self.look_at_files().await,
                () = self.board.ask.notified() => {
                    if let Some(revision) = self.board.lock().confirmed.take() {
                        lock(&self.intake).confirm(revision);
                    }
                    self.ask(Relist::Asked);
                    return Wake::Again;
                }
                () = self.router.table().unreachable.notified(), if feedback => {
                    self.schedule.fed_back(now);
                    self.ask(Relist::Feedback);
                    return Wake::Again;
                }
                _ = self.saved.changed() => {}
                () = tokio::time::sleep_until(alarm) => {}
            }
        }
    }

    /// Why the feed has to be asked for the whole document now.
    fn reason_to_ask(&mut self, now: Instant, position: Position) -> Option<Relist> {
        let due = self.schedule.due(now, fastrand::u32(..));
        self.note_silence();
        if due == Some(Relist::Silence) {
            // Whoever is asked already does not answer.
            return due;
        }
        if position.need_whole {
            return None;
        }
        let judged_otherwise = lock(&self.intake).again_at();
        if judged_otherwise.is_some_and(|at| at <= now) {
            return Some(Relist::Gap);
        }
        let cache = position.revision.is_some() && self.saved.borrow().needs_whole;
        if cache && self.schedule.cache_from().is_none_or(|from| from <= now) {
            self.schedule.asked_for_cache(now);
            return Some(Relist::Cache);
        }
        due
    }

    /// When something may be due of which nobody tells.
    fn alarm(&self, now: Instant) -> Instant {
        let times = [
            Some(self.schedule.next()),
            lock(&self.intake).again_at(),
            self.schedule.feedback_from(),
            self.schedule.cache_from(),
            self.acks.due_at(),
            self.acks.overdue_at(),
        ];
        // What has passed was looked at, and is waited for in another way if it was not due.
        let ahead = times.into_iter().flatten().filter(|at| *at > now);
        ahead
            .chain([now + LOOK_AT_FILES])
            .min()
            .unwrap_or(now + LOOK_AT_FILES)
    }

    /// Wants the whole document from the feed.
    fn ask(&mut self, reason: Relist) {
        tracing::debug!(?reason, "asking for the whole document");
        lock(&self.intake).want_whole();
        self.board.relist(reason);
    }

    async fn update(&mut self, updates: Vec<Update>, position: Position, asked: Instant) {
        let waited = clock::now().saturating_duration_since(asked.max(self.hold_until));
        if updates.iter().any(is_news) {
            self.hold_back().await;
        }
        let step = self.board.step("applying an update");
        let (intake, board) = (Arc::clone(&self.intake), Arc::clone(&self.board));
        let taken = tasks::blocking(move || take_in(updates, &mut lock(&intake), &board)).await;
        drop(step);
        let Some(taken) = taken else {
            let reason = "the router's own code panicked over an update, which is a bug";
            self.board.refuse(reason.to_owned());
            self.ask(Relist::Gap);
            self.hold_until = clock::now() + self.errors.next(fastrand::u32(..));
            return;
        };
        for one in &taken {
            self.took(one, position, asked, waited);
        }
        self.board.answered.send_replace(true);
        self.save(taken);
    }

    /// What comes of an update that was taken in.
    fn took(&mut self, taken: &Taken, position: Position, asked: Instant, waited: Duration) {
        match &taken.outcome {
            Outcome::Applied(in_force) => {
                self.say(in_force);
                self.errors.reset();
                self.schedule.progressed();
                if position.revision.is_none_or(|had| had < in_force.revision) {
                    self.schedule.went_on();
                }
                self.acks.owe(clock::now());
                self.board.lock().status.apply_seconds = Some(taken.spent.as_secs_f64());
            }
            Outcome::Current => {
                self.errors.reset();
                // What the source may not know: this router has started with it.
                if self.board.lock().status.acknowledged.is_none() {
                    self.acks.owe(clock::now());
                }
                self.hold_if_idle(waited);
            }
            Outcome::Nothing => {
                self.errors.reset();
                self.hold_if_idle(waited);
            }
            Outcome::Gap => {
                self.board.relist(Relist::Gap);
                self.hold_until = clock::now();
                self.hold_if_missing(Duration::MAX);
            }
            Outcome::Refused { .. } | Outcome::RefusedAgain => {
                self.hold_after_refusal(asked, taken.spent);
                if matches!(taken.update, Update::Change(_)) {
                    self.hold_if_missing(REFUSED);
                }
            }
        }
    }

    /// Logs what has come into force. Thousands of changes in a second are not as many lines.
    fn say(&mut self, in_force: &InForce) {
        let now = clock::now();
        let (revision, applied) = (in_force.revision, &in_force.applied);
        let (changed, removed) = (applied.changed, applied.removed);
        if self.said_at.is_some_and(|at| now < at + SAID_AT_MOST_EVERY) {
            self.unsaid += 1;
            tracing::debug!(revision, changed, removed, "routes applied");
            return;
        }
        self.said_at = Some(now);
        let unsaid = std::mem::take(&mut self.unsaid);
        tracing::info!(revision, changed, removed, unsaid, "routes applied");
    }

    /// Notes that the source has said something, or that somebody else remembers it.
    fn heard(&mut self, update: &Update, second_hand: bool) {
        if second_hand {
            self.schedule.failed(clock::now());
            self.note_silence();
        } else {
            self.first_hand(is_news(update));
        }
    }

    fn first_hand(&mut self, news: bool) {
        let now = clock::now();
        self.schedule.heard(now, news);
        let mut recorded = self.board.lock();
        recorded.heard_at = Some(now);
        drop(recorded);
        self.note_silence();
    }

    fn note_silence(&self) {
        let mut recorded = self.board.lock();
        recorded.status.silent = self.schedule.is_silent();
        recorded.unheard_since = self.schedule.unheard_since();
        drop(recorded);
        self.router.silence().set(self.schedule.unheard_since());
    }

    /// So that a fleet does not take up a bad update in the same second. A router that serves nothing, or old routes,
    /// does not wait.
    async fn hold_back(&mut self) {
        let stale = self.board.lock().status.stale;
        if stale || !self.router.table().is_loaded() {
            return;
        }
        let time = self.schedule.hold_back(clock::now(), fastrand::u32(..));
        if time.is_zero() {
            return;
        }
        self.board.lock().status.holding_back = true;
        tokio::time::sleep(time).await;
        self.board.lock().status.holding_back = false;
        // The source was not listened to meanwhile.
        if self.schedule.unheard_since().is_none() {
            self.first_hand(true);
        }
    }

    /// A source that gives what is refused again and again must not keep a thread busy; but whoever mends a document
    /// must not wait for long.
    fn hold_after_refusal(&mut self, asked: Instant, spent: Duration) {
        let longest = REFUSED.max(spent * 4);
        self.hold_until = asked + self.errors.next(fastrand::u32(..)).min(longest);
    }

    /// What is missing is asked for on a new connection.
    fn hold_if_missing(&mut self, most: Duration) {
        let now = clock::now();
        let pause = self.schedule.missing(now, fastrand::u32(..)).min(most);
        self.hold_until = self.hold_until.max(now + pause);
    }

    fn hold_if_idle(&mut self, waited: Duration) {
        self.hold_until = clock::now() + self.schedule.idled(waited);
    }

    fn save(&mut self, taken: Vec<Taken>) {
        let mut changes = Vec::new();
        let mut changed_to = 0;
        for Taken {
            update, outcome, ..
        } in taken
        {
            match (update, outcome) {
                (Update::Snapshot(document), outcome) => self.save_document(document, &outcome),
                (Update::Change(change), Outcome::Applied(in_force)) => {
                    changes.push(change);
                    changed_to = in_force.revision;
                }
                (Update::Change(change), _) => wipe(change),
                (Update::Alive { .. }, _) => {}
            }
        }
        match &self.saver {
            Some(saver) if !changes.is_empty() => saver.save(Job::Changes(changes, changed_to)),
            _ => changes.into_iter().for_each(wipe),
        }
    }

    fn save_document(&mut self, document: Bytes, outcome: &Outcome) {
        self.schedule.relist_again(clock::now(), fastrand::u32(..));
        let revision = self.board.revision.borrow().unwrap_or_default();
        let applied = matches!(outcome, Outcome::Applied(_));
        let wanted = matches!(outcome, Outcome::Current) && self.saved.borrow().needs_whole;
        match &self.saver {
            Some(saver) if applied || wanted => {
                let kept = lock(&self.intake).kept();
                saver.save(Job::Document(document, revision, kept));
            }
            _ => wipe(document),
        }
    }

    async fn look_at_files(&mut self) {
        let step = self.board.step("reading certificate files");
        let (intake, board) = (Arc::clone(&self.intake), Arc::clone(&self.board));
        let looked = tasks::blocking(move || {
            let mut intake = lock(&intake);
            if intake.look_at_files() {
                tracing::info!("certificate files of the route document have changed");
                board.lock().certificates(intake.rejected_certificates());
            }
        });
        looked.await;
        drop(step);
    }

    /// Whatever the feed will say: until it does, the last good routes are served, and said to be stale.
    async fn start_from_cache(&mut self) {
        let Some(path) = self.options.cache.clone() else {
            return;
        };
        let step = self.board.step("reading the cache");
        let (intake, board) = (Arc::clone(&self.intake), Arc::clone(&self.board));
        let mut cache = Cache::new(&path);
        let serves = self.router.table().is_loaded();
        let read = tasks::blocking(move || {
            if !serves {
                restart::from_cache(&mut cache, &mut lock(&intake), &board);
            }
            cache
        });
        let read = read.await;
        drop(step);
        let cache = read.unwrap_or_else(|| Cache::new(&path));
        let saver = Saver::start(cache, path, Arc::clone(&self.board), &self.saving);
        self.saver = Some(saver);
    }

    fn acknowledgement_is_due(&self, now: Instant) -> bool {
        if self.acks.due_at().is_none_or(|at| at > now) {
            return false;
        }
        let (in_force, lasting) = (*self.board.revision.borrow(), self.lasting(now));
        // Changes may come faster than they are saved, and not end.
        lasting >= in_force || lasting > self.board.lock().status.acknowledged
    }

    /// The revision that the source may be told: what was told must outlast a restart, if the disk allows it.
    fn lasting(&self, now: Instant) -> Option<u64> {
        let (in_force, saved) = (*self.board.revision.borrow(), *self.saved.borrow());
        let overdue = self.acks.overdue_at().is_some_and(|at| at <= now);
        match self.saver.is_none() || saved.failed || overdue {
            true => in_force,
            false => saved.revision.min(in_force),
        }
    }

    async fn acknowledge(&mut self, feed: &mut impl Feed) {
        let Some(ack) = self.ack() else {
            return self.acks.told(clock::now());
        };
        let step = self.board.step("telling the source what is in force");
        let told = tokio::time::timeout(ACK_TIMEOUT, feed.acknowledge(&ack)).await;
        drop(step);
        let error = match told {
            Ok(Ok(())) => {
                self.board.lock().status.acknowledged = Some(ack.revision);
                let now = clock::now();
                self.acks.told(now);
                if *self.board.revision.borrow() > Some(ack.revision) {
                    self.acks.owe(now);
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the source took too long".to_owned(),
        };
        let revision = ack.revision;
        tracing::warn!(revision, %error, "cannot tell the source what is in force");
        self.board.lock().status.acknowledgements_failed += 1;
        self.acks.failed(clock::now(), fastrand::u32(..));
    }

    /// What there is to tell.
    fn ack(&self) -> Option<Ack> {
        let revision = self.lasting(clock::now())?;
        let recorded = self.board.lock();
        let apps = recorded.rejected_apps.iter();
        let rejected = apps.chain(&recorded.rejected_certificates);
        Some(Ack {
            router: self.options.router_id.clone(),
            revision,
            rejected: rejected.take(Ack::MOST_REJECTED).cloned().collect(),
            rejected_count: recorded.rejected_apps.len() + recorded.rejected_certificates.len(),
        })
    }
}

/// An update, and the changes that have come right behind it.
async fn crowd(feed: &mut impl Feed, first: Update) -> Vec<Update> {
    let mut size = match &first {
        Update::Change(change) => change.len(),
        Update::Snapshot(_) | Update::Alive { .. } => return vec![first],
    };
    let mut updates = vec![first];
    while updates.len() < MOST_AT_ONCE && size < LONG {
        let Some(change) = feed.next_of_crowd().await else {
            break;
        };
        size += change.len();
        updates.push(Update::Change(change));
    }
    updates
}

/// An update that was taken in.
struct Taken {
    update: Update,
    outcome: Outcome,
    spent: Duration,
}

/// Takes updates in, one after the other. What comes after one that does not fit does not fit either: the whole document
/// will be asked for.
fn take_in(updates: Vec<Update>, intake: &mut Intake, board: &Board) -> Vec<Taken> {
    let mut taken = Vec::with_capacity(updates.len());
    let mut fits = true;
    for update in updates {
        if !fits {
            if let Update::Change(text) | Update::Snapshot(text) = update {
                wipe(text);
            }
            continue;
        }
        let began = clock::now();
        let mut outcome = intake.take(&update, began);
        let ended = clock::now();
        board.outcome(&mut outcome, intake, ended);
        fits = !matches!(
            outcome,
            Outcome::Gap | Outcome::Refused { .. } | Outcome::RefusedAgain
        );
        taken.push(Taken {
            update,
            outcome,
            spent: ended.saturating_duration_since(began),
        });
    }
    taken
}

fn is_news(update: &Update) -> bool {
    !matches!(update, Update::Alive { .. })
}

/// So many changes, or bytes of them, are put in force in one go; whoever asks how the feed stands waits meanwhile.
const MOST_AT_ONCE: usize = 256;
const LONG: usize = 1 << 20;
/// How long at most a feed is held back after what was refused, if reading it took no longer.
const REFUSED: Duration = Duration::from_millis(500);
const SAID_AT_MOST_EVERY: Duration = Duration::from_secs(1);
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
