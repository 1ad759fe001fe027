//! When the runner has something to do besides waiting for its feed. Pure: `now` and random numbers are arguments.

use std::time::Duration;

use router_model::backoff::Backoff;

use super::FeedOptions;
use super::certificates::LOOK_AT_FILES;
use super::status::Relist;
use crate::clock::Instant;

/// The times at which something is due.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Schedule {
    relist_every: Duration,
    relist_at: Instant,
    silent_after: Duration,
    /// Whether the source has a heartbeat.
    has_heartbeat: bool,
    heard_at: Instant,
    /// When a document or a change has come last: heartbeats say nothing of an app whose dynos do not answer.
    news_at: Instant,
    silent: bool,
    /// Since when asking the source gives nothing but errors.
    failing_since: Option<Instant>,
    feedback: bool,
    /// When unreachable dynos were the reason to ask the last time, and when the cache was.
    feedback_at: Option<Instant>,
    cache_at: Option<Instant>,
    files_at: Instant,
    jitter: Duration,
    /// Updates pass without being held back until then.
    free_until: Option<Instant>,
    /// Updates in a row that came to nothing and were not waited for.
    idle: u32,
    /// When something was missing last, unless there has been something newer since; and for how long the whole is not
    /// asked for when that happens again.
    missed_at: Option<Instant>,
    missed: Backoff,
}

/// How often, at most, unreachable dynos or the cache are a reason to ask for the whole document.
const AT_MOST_EVERY: Duration = Duration::from_mins(1);

/// Without anything missing for so long, what is missing is asked for at once again.
const FORGIVEN: Duration = Duration::from_mins(1);
/// Between two questions for the whole, if the whole does not help.
const FIRST_MISSED: Duration = Duration::from_millis(200);
const LONGEST_MISSED: Duration = Duration::from_secs(15);

/// What comes within this time was there already.
const AT_ONCE: Duration = Duration::from_millis(5);
/// So many updates that come to nothing may be there at once.
const MOST_IDLE: u32 = 1000;
/// Short: something may come at last, and is not to be late.
const IDLE_PAUSE: Duration = Duration::from_millis(1);

impl Schedule {
    pub(super) fn new(
        options: &FeedOptions,
        has_heartbeat: bool,
        now: Instant,
        random: u32,
    ) -> Self {
        let mut schedule = Self {
            relist_every: options.relist_every,
            relist_at: now,
            silent_after: options.silent_after,
            has_heartbeat,
            heard_at: now,
            news_at: now,
            silent: false,
            failing_since: None,
            feedback: options.feedback_relist,
            feedback_at: None,
            cache_at: None,
            files_at: now + LOOK_AT_FILES,
            jitter: options.apply_jitter,
            free_until: None,
            idle: 0,
            missed_at: None,
            missed: Backoff::new(FIRST_MISSED, LONGEST_MISSED),
        };
        schedule.relist_again(now, random);
        schedule
    }

    /// Whether the source has a heartbeat, as far as is known by now.
    pub(super) fn expect_heartbeat(&mut self, has_heartbeat: bool) {
        self.has_heartbeat = has_heartbeat;
        self.silent &= has_heartbeat;
    }

    /// A whole document was asked for or came: the next one in a while.
    pub(super) fn relist_again(&mut self, now: Instant, random: u32) {
        self.relist_at = now
            + between(
                self.relist_every.mul_f64(0.8),
                self.relist_every.mul_f64(1.2),
                random,
            );
    }

    /// Something came from the source.
    pub(super) fn heard(&mut self, now: Instant, news: bool) {
        self.heard_at = now;
        self.silent = false;
        self.failing_since = None;
        if news {
            self.news_at = now;
        }
    }

    /// The source could not be asked.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failing_since.get_or_insert(now);
    }

    /// Why the whole document is to be asked for now, if it is.
    pub(super) fn due(&mut self, now: Instant, random: u32) -> Option<Relist> {
        if self.has_heartbeat && !self.silent && now >= self.heard_at + self.silent_after {
            self.silent = true;
            return Some(Relist::Silence);
        }
        if now >= self.relist_at {
            self.relist_again(now, random);
            return Some(Relist::Timer);
        }
        None
    }

    /// When [`Schedule::due`] may have something new to say.
    pub(super) fn next(&self) -> Instant {
        let silent_at = self.heard_at + self.silent_after;
        if self.has_heartbeat && !self.silent {
            self.relist_at.min(silent_at)
        } else {
            self.relist_at
        }
    }

    /// Whether it is time to look at the files that the document names.
    pub(super) fn files_are_due(&mut self, now: Instant) -> bool {
        let due = now >= self.files_at;
        if due {
            self.files_at = now + LOOK_AT_FILES;
        }
        due
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Since when nothing is known of what the source would say: it is silent, or cannot be asked.
    pub(super) fn unheard_since(&self) -> Option<Instant> {
        match self.silent {
            true => Some(self.heard_at),
            false => self.failing_since,
        }
    }

    /// From when on unreachable dynos are a reason to ask.
    pub(super) fn feedback_from(&self) -> Option<Instant> {
        let quiet = self.news_at + self.silent_after;
        let from = self
            .feedback_at
            .map_or(quiet, |at| quiet.max(at + AT_MOST_EVERY));
        self.feedback.then_some(from)
    }

    /// They were the reason.
    pub(super) fn fed_back(&mut self, now: Instant) {
        self.feedback_at = Some(now);
    }

    /// From when on the cache is a reason to ask.
    pub(super) fn cache_from(&self) -> Option<Instant> {
        self.cache_at.map(|at| at + AT_MOST_EVERY)
    }

    /// It was the reason.
    pub(super) fn asked_for_cache(&mut self, now: Instant) {
        self.cache_at = Some(now);
    }

    /// An update has come to something.
    pub(super) fn progressed(&mut self) {
        self.idle = 0;
    }

    /// The revision in force is a newer one.
    pub(super) fn went_on(&mut self) {
        self.missed_at = None;
        self.missed.reset();
    }

    /// Something is missing: how long the whole is not to be asked for. At first it is at once; a source whose whole does
    /// not bring what it promises must not be asked in a circle.
    pub(super) fn missing(&mut self, now: Instant, random: u32) -> Duration {
        let before = self.missed_at.replace(now);
        if before.is_some_and(|before| now < before + FORGIVEN) {
            return self.missed.next(random);
        }
        self.missed.reset();
        Duration::ZERO
    }

    /// An update has come to nothing, as a heartbeat or an old change does, and was waited for so long: how long the feed
    /// is not to be asked again. Many may come at once after a connection was lost; a source that does not stop must not
    /// keep a core busy.
    pub(super) fn idled(&mut self, waited: Duration) -> Duration {
        self.idle = match waited < AT_ONCE {
            true => self.idle.saturating_add(1),
            false => 0,
        };
        match self.idle > MOST_IDLE {
            true => IDLE_PAUSE,
            false => Duration::ZERO,
        }
    }

    /// How long an update that has come now is to be held back. Within the longest time from then on, all others pass: a
    /// stream of them must not be slowed down.
    pub(super) fn hold_back(&mut self, now: Instant, random: u32) -> Duration {
        if self.jitter.is_zero() || self.free_until.is_some_and(|until| now < until) {
            return Duration::ZERO;
        }
        self.free_until = Some(now + self.jitter);
        between(Duration::ZERO, self.jitter, random)
    }
}

/// A time between two others; any random number will do.
fn between(least: Duration, most: Duration, random: u32) -> Duration {
    least
        + most
            .saturating_sub(least)
            .mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn schedule(has_heartbeat: bool, start: Instant) -> Schedule {
        Schedule::new(&FeedOptions::default(), has_heartbeat, start, u32::MAX / 2)
    }

    #[test]
    fn the_whole_is_asked_for_every_ten_minutes_give_or_take_a_fifth() {
        let start = clock::now();
        for (random, expected) in [(0, 480), (u32::MAX, 720), (u32::MAX / 2, 600)] {
            let schedule = Schedule::new(&FeedOptions::default(), false, start, random);
            let after = schedule.next() - start;
            assert!(
                after.abs_diff(seconds(expected)) < Duration::from_millis(1),
                "{after:?}"
            );
        }
        let mut schedule = schedule(false, start);
        assert_eq!(schedule.due(start + seconds(599), 0), None);
        let at = start + seconds(601);
        assert_eq!(schedule.due(at, 0), Some(Relist::Timer));
        assert_eq!(
            (schedule.due(at, 0), schedule.next()),
            (None, at + seconds(480))
        );
    }

    #[test]
    fn silence_is_noticed_once_until_a_word_comes() {
        let start = clock::now();
        let mut schedule = schedule(true, start);
        assert_eq!(schedule.next(), start + seconds(30));
        schedule.heard(start + seconds(10), false);
        assert_eq!(schedule.due(start + seconds(39), 0), None);
        assert_eq!(schedule.due(start + seconds(40), 0), Some(Relist::Silence));
        assert!(schedule.is_silent());
        assert_eq!(schedule.due(start + seconds(100), 0), None);
        schedule.heard(start + seconds(110), false);
        assert!(!schedule.is_silent());
        assert_eq!(schedule.due(start + seconds(140), 0), Some(Relist::Silence));
        let mut without = self::schedule(false, start);
        assert_eq!(without.due(start + seconds(300), 0), None);
    }

    #[test]
    fn feedback_waits_for_silence_and_for_its_turn() {
        let start = clock::now();
        let mut schedule = schedule(true, start);
        schedule.heard(start + seconds(20), true);
        // A heartbeat is no news.
        schedule.heard(start + seconds(40), false);
        assert_eq!(schedule.feedback_from(), Some(start + seconds(50)));
        schedule.fed_back(start + seconds(50));
        assert_eq!(schedule.feedback_from(), Some(start + seconds(110)));
        schedule.heard(start + seconds(105), true);
        assert_eq!(schedule.feedback_from(), Some(start + seconds(135)));
        let options = FeedOptions {
            feedback_relist: false,
            ..FeedOptions::default()
        };
        let without = Schedule::new(&options, true, start, 0);
        assert_eq!(without.feedback_from(), None);
    }

    #[test]
    fn only_a_flood_of_nothing_is_held_back() {
        let (at_once, later) = (Duration::ZERO, seconds(1));
        let mut schedule = schedule(true, clock::now());
        let flood = |schedule: &mut Schedule| {
            let mut free = 0;
            while schedule.idled(at_once).is_zero() {
                free += 1;
            }
            free
        };
        assert_eq!(flood(&mut schedule), 1000);
        assert_eq!(schedule.idled(at_once), Duration::from_millis(1));
        assert_eq!(schedule.idled(later), Duration::ZERO);
        assert_eq!(flood(&mut schedule), 1000);
        schedule.progressed();
        assert_eq!(flood(&mut schedule), 1000);
    }

    #[test]
    fn what_is_missing_is_asked_for_at_once_and_then_less_and_less_often() {
        let mut now = clock::now();
        let mut schedule = schedule(true, now);
        let mut pauses = |schedule: &mut Schedule, from: Instant| {
            now = from;
            let pauses = (0..9).map(|_| {
                let pause = schedule.missing(now, u32::MAX);
                now += pause;
                pause.as_millis()
            });
            (pauses.collect::<Vec<_>>(), now)
        };
        let expected = [0, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000];
        let start = clock::now();
        let (first, ended) = pauses(&mut schedule, start);
        assert_eq!(first, expected);
        // An update to the same revision makes no difference, one to a newer does, and so does a quiet minute.
        schedule.progressed();
        assert_eq!(schedule.missing(ended, u32::MAX), seconds(15));
        schedule.went_on();
        let (again, ended) = pauses(&mut schedule, ended);
        assert_eq!(again, expected);
        assert_eq!(schedule.missing(ended + seconds(44), u32::MAX), seconds(15));
        let (again, _) = pauses(&mut schedule, ended + seconds(44 + 60));
        assert_eq!(again, expected);
    }

    #[test]
    fn an_update_is_held_back_and_those_behind_it_pass() {
        let start = clock::now();
        let options = FeedOptions {
            apply_jitter: seconds(10),
            ..FeedOptions::default()
        };
        let mut schedule = Schedule::new(&options, true, start, 0);
        assert_eq!(schedule.hold_back(start, u32::MAX / 2).as_secs(), 4);
        for after in [5, 6, 9] {
            assert_eq!(
                schedule.hold_back(start + seconds(after), u32::MAX),
                Duration::ZERO
            );
        }
        assert_eq!(
            schedule.hold_back(start + seconds(10), u32::MAX),
            seconds(10)
        );
        let mut without = self::schedule(true, start);
        assert_eq!(without.hold_back(start, u32::MAX), Duration::ZERO);
    }
}
