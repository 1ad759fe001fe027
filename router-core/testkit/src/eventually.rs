//! Waiting for a condition that nothing signals, such as a gauge that another thread changes.

use std::time::Duration;

use tokio::time::Instant;

use crate::DEADLINE;

/// Polls `reached` until it gives a value; panics with `what` at the deadline.
pub async fn eventually<T>(what: &str, mut reached: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    let mut poll = tokio::time::interval(Duration::from_millis(5));
    loop {
        if let Some(value) = reached() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        poll.tick().await;
    }
}
