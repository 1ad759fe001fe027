//! When the source is told what is in force: soon after a change, several changes at once, and again after a while if that
//! did not arrive.

use std::time::Duration;

use router_model::backoff::Backoff;

use crate::clock::Instant;

/// What the source is owed.
#[derive(Debug)]
pub(super) struct Acks {
    owed_since: Option<Instant>,
    not_before: Instant,
    failures: Backoff,
}

impl Acks {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            owed_since: None,
            not_before: now,
            failures: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }

    /// Something has changed.
    pub(super) fn owe(&mut self, now: Instant) {
        self.owed_since.get_or_insert(now);
    }

    /// When the source may be told.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.owed_since.map(|since| since.max(self.not_before))
    }

    /// When the source is told even if the cache has not been written by then.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        self.due_at().map(|at| at + SLOW_DISK)
    }

    pub(super) fn told(&mut self, now: Instant) {
        self.owed_since = None;
        self.not_before = now + AT_MOST_EVERY;
        self.failures.reset();
    }

    pub(super) fn failed(&mut self, now: Instant, random: u32) {
        self.not_before = now + self.failures.next(random);
    }
}

const AT_MOST_EVERY: Duration = Duration::from_millis(200);
const SLOW_DISK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn the_source_is_told_soon_and_not_too_often() {
        let start = clock::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut acks = Acks::new(start);
        assert_eq!(acks.due_at(), None);
        acks.owe(after(10));
        acks.owe(after(20));
        assert_eq!(acks.due_at(), Some(after(10)));
        assert_eq!(acks.overdue_at(), Some(after(5010)));
        acks.told(after(30));
        assert_eq!(acks.due_at(), None);
        acks.owe(after(40));
        assert_eq!(acks.due_at(), Some(after(230)));
        acks.failed(after(300), u32::MAX);
        assert_eq!(acks.due_at(), Some(after(1300)));
        acks.failed(after(1300), u32::MAX);
        assert_eq!(acks.due_at(), Some(after(3300)));
        acks.told(after(3300));
        acks.owe(after(9000));
        assert_eq!(acks.due_at(), Some(after(9000)));
    }
}
