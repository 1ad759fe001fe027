//! For how long nothing is known of what the source of the routes would say: for apps that would rather not be served than
//! by old routes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use router_model::app::App;

use crate::clock::{self, Instant};

/// Since when the source is silent, or cannot be asked. Written by the feed; read by the requests of apps that want to
/// know, which are few.
#[derive(Debug)]
pub(crate) struct Silence {
    epoch: Instant,
    /// Milliseconds from the epoch to then, plus one; 0 while the source is heard of.
    since: AtomicU64,
}

impl Silence {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            since: AtomicU64::new(0),
        }
    }

    /// Nothing has been heard of the source since then; or it is well.
    pub(crate) fn set(&self, unheard_since: Option<Instant>) {
        let since = unheard_since.map_or(0, |at| 1 + self.millis(at));
        self.since.store(since, Ordering::Relaxed);
    }

    /// Whether the routes of this app are too old to be used.
    pub(crate) fn expires(&self, app: &App) -> bool {
        let after = app.settings.expire_after;
        after.is_some_and(|after| self.lasts(clock::now()) >= after)
    }

    /// How long it has lasted.
    fn lasts(&self, now: Instant) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.millis(now).saturating_sub(since - 1)),
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_lasts_from_the_last_word_to_the_next() {
        let (start, second) = (clock::now(), Duration::from_secs(1));
        let silence = Silence::new(start);
        assert_eq!(silence.lasts(start + second), Duration::ZERO);
        silence.set(Some(start));
        assert_eq!(silence.lasts(start + second), second);
        silence.set(Some(start + 2 * second));
        assert_eq!(silence.lasts(start + 5 * second), 3 * second);
        silence.set(None);
        assert_eq!(silence.lasts(start + 9 * second), Duration::ZERO);
    }
}
