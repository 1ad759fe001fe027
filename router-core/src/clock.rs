//! The only place that reads a clock. Everything else is handed `now`, so that tests can pause tokio's time and the
//! model stays pure.
//!
//! Reading it costs more than most of what is done between two readings, so in a [`Turn`] it is read once.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use tokio::time::Instant;

thread_local! {
    static STANDING: Standing = const {
        Standing {
            in_turn: Cell::new(false),
            now: Cell::new(None),
            wall: Cell::new(None),
        }
    };
}

/// What the clocks said when they were first read in this turn.
struct Standing {
    in_turn: Cell<bool>,
    now: Cell<Option<Instant>>,
    wall: Cell<Option<SystemTime>>,
}

impl Standing {
    /// What `read` was first in this turn, or is now outside of any.
    fn once<T: Copy>(&self, seen: &Cell<Option<T>>, read: impl FnOnce() -> T) -> T {
        seen.get().unwrap_or_else(|| {
            let time = read();
            if self.in_turn.get() {
                seen.set(Some(time));
            }
            time
        })
    }
}

/// As long as it lives, time stands still on this thread. For one poll of a connection, which takes microseconds and
/// waits for nothing; never held across an await.
#[must_use]
pub(crate) struct Turn(());

impl Turn {
    pub(crate) fn begin() -> Self {
        STANDING.with(|standing| standing.in_turn.set(true));
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        STANDING.with(|standing| {
            standing.in_turn.set(false);
            standing.now.set(None);
            standing.wall.set(None);
        });
    }
}

/// Monotonic time, as of this turn.
pub(crate) fn now() -> Instant {
    STANDING.with(|standing| standing.once(&standing.now, this_moment))
}

/// Monotonic time, whatever turn this is.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub(crate) fn this_moment() -> Instant {
    Instant::now()
}

/// Wall-clock time, as of this turn, for log lines, `Date` and `X-Request-Start`.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub(crate) fn wall() -> SystemTime {
    STANDING.with(|standing| standing.once(&standing.wall, SystemTime::now))
}

/// Milliseconds since 1970; 0 for a clock that stands before it.
pub(crate) fn unix_millis(wall: SystemTime) -> u64 {
    wall.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The value of a `Date` field (RFC 9110 §5.6.7), formatted once a second.
#[derive(Debug, Default)]
pub(crate) struct DateField {
    second: u64,
    text: String,
}

impl DateField {
    /// The text for `wall`.
    pub(crate) fn at(&mut self, wall: SystemTime) -> &str {
        let second = unix_millis(wall) / 1000;
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(wall);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_in_a_turn_only() {
        let began = now();
        {
            let _turn = Turn::begin();
            assert_eq!(now(), began);
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(now(), began);
            assert_eq!(this_moment(), began + Duration::from_secs(1));
        }
        assert_eq!(now(), began + Duration::from_secs(1));
    }

    #[test]
    fn a_turn_that_panics_ends() {
        let panicked = std::panic::catch_unwind(|| {
            let _turn = Turn::begin();
            now();
            panic!("in a turn");
        });
        assert!(panicked.is_err());
        assert!(STANDING.with(|standing| !standing.in_turn.get() && standing.now.get().is_none()));
    }
}
