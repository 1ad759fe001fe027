//! The only place that reads a clock. Everything else is handed `now`, so that tests can pause tokio's time and the
//! model stays pure.

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use tokio::time::Instant;

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time, for log lines, `Date` and `X-Request-Start`.
#[expect(clippy::disallowed_methods, reason = "this is clock.rs")]
pub(crate) fn wall() -> SystemTime {
    SystemTime::now()
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
