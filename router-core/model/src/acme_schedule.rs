//! When an ACME certificate is ordered: how near its end it is renewed, which domain comes first, how many orders an hour
//! may have, and how long a failed one waits. Times are seconds since 1970, because they outlive the process on disk.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backoff::Backoff;
use crate::hostname::Domain;

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Its first second.
    pub from: u64,
    /// Its last second.
    pub until: u64,
}

impl Lifetime {
    /// When to order the next one: when a third of the lifetime is left, or up to a thirtieth of the lifetime later, so
    /// that certificates which were ordered together are not renewed together. `jitter` is any random number.
    pub fn renew_at(self, jitter: u32) -> u64 {
        let length = self.length();
        let spread = u128::from(length / 30) * u128::from(jitter) / u128::from(u32::MAX);
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        (self.until - length / 3).saturating_add(spread)
    }

    /// From when on its renewal goes before everything else: half of the time for renewing has passed.
    pub fn urgent_at(self) -> u64 {
        self.until - self.length() / 6
    }

    /// Whether it has ended.
    pub fn is_over(self, now: u64) -> bool {
        now > self.until
    }

    fn length(self) -> u64 {
        self.until.saturating_sub(self.from)
    }
}

/// Why a domain needs an order. The earlier goes first: what serves now must not be lost because many new domains came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Its certificate ends soon.
    Urgent,
    /// It has none.
    First,
    /// Its certificate is due for renewal, with time to spare.
    Renewal,
}

/// What a domain needs: `certificate` is what it has, with the time of its renewal.
pub fn need(certificate: Option<(Lifetime, u64)>, now: u64) -> Option<Need> {
    match certificate {
        None => Some(Need::First),
        Some((lifetime, _)) if lifetime.is_over(now) => Some(Need::First),
        Some((lifetime, _)) if now >= lifetime.urgent_at() => Some(Need::Urgent),
        Some((_, renew_at)) => (now >= renew_at).then_some(Need::Renewal),
    }
}

/// A domain's place in the line: by need, then the one that failed less often, so that a domain which fails for ever does
/// not use up the budget of one that was never tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    /// Why it is in the line.
    pub need: Need,
    /// Failures in a row.
    pub failures: u32,
    /// When its certificate ends; 0 without one.
    pub until: u64,
}

/// Failures in a row, and when to try again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the next attempt is due.
    pub next_try: u64,
    /// What went wrong the last time.
    pub reason: String,
}

impl Failures {
    /// Notes one more. `asked` is how long the authority wants to be left alone; it is believed up to a day.
    pub fn note(
        &mut self,
        reason: String,
        waits: Backoff,
        asked: Option<Duration>,
        now: u64,
        jitter: u32,
    ) {
        self.count = self.count.saturating_add(1);
        let asked = asked.unwrap_or_default().min(LONGEST_ASKED);
        let wait = waits.after(self.count, jitter).max(asked);
        // Rounded up: a wait of half a second is no wait of none.
        self.next_try = now.saturating_add(wait.as_millis().div_ceil(1000) as u64);
        self.reason = reason;
    }

    /// Whether the next attempt is not due yet. A clock that was set back must not hold a domain for longer than any
    /// wait could be.
    pub fn hold(&self, now: u64) -> bool {
        now < self.next_try && self.next_try - now <= LONGEST_ASKED.as_secs()
    }
}

const LONGEST_ASKED: Duration = Duration::from_hours(24);

/// The orders of the last hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Budget {
    /// When they were made, the oldest first.
    orders: VecDeque<u64>,
}

impl Budget {
    /// How many more orders there may be now.
    pub fn left(&self, per_hour: u32, now: u64) -> u32 {
        let recent = self.orders.iter().filter(|at| is_recent(**at, now)).count();
        per_hour.saturating_sub(u32::try_from(recent).unwrap_or(u32::MAX))
    }

    /// When there may be one more; `None` when there may never be any.
    pub fn free_at(&self, per_hour: u32, now: u64) -> Option<u64> {
        if self.left(per_hour, now) > 0 {
            return Some(now);
        }
        let recent: Vec<u64> = self
            .orders
            .iter()
            .copied()
            .filter(|at| is_recent(*at, now))
            .collect();
        // The one with which the count falls below the limit.
        let frees = recent.len().checked_sub(per_hour as usize)?;
        let at = recent.get(frees).filter(|_| per_hour > 0)?;
        Some(at.saturating_add(HOUR))
    }

    /// Notes an order.
    pub fn spend(&mut self, now: u64) {
        self.orders.retain(|at| is_recent(*at, now));
        self.orders.push_back(now);
    }
}

const HOUR: u64 = 3600;

/// In the last hour; or in the next one, for a clock that was set back a little. Further ahead, the clock was wrong then.
fn is_recent(at: u64, now: u64) -> bool {
    at.abs_diff(now) < HOUR
}

/// Whether http-01 can prove a domain, and if not, why.
///
/// # Errors
/// [`Unprovable`] for wildcards, and for names that no authority may certify.
pub fn provable(domain: &Domain) -> Result<(), Unprovable> {
    let name = domain.as_str();
    if domain.is_wildcard() {
        Err(Unprovable::Wildcard)
    } else if name.contains('_') {
        Err(Unprovable::Underscore)
    } else if !name.contains('.') {
        Err(Unprovable::SingleLabel)
    } else {
        Ok(())
    }
}

/// Why there can be no ACME certificate for a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unprovable {
    /// RFC 8555 §7.1.3 and §8.3: http-01 proves one name.
    #[error("is a wildcard, which http-01 cannot prove")]
    Wildcard,
    /// No host name (RFC 952); authorities refuse it.
    #[error("has an underscore, which no authority certifies")]
    Underscore,
    /// Not a name of the public DNS.
    #[error("has a single label, which no authority certifies")]
    SingleLabel,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * HOUR;
    const WHOLE: u32 = u32::MAX;

    fn days(from: u64, until: u64) -> Lifetime {
        Lifetime {
            from: from * DAY,
            until: until * DAY,
        }
    }

    #[test]
    fn renewal_begins_when_a_third_is_left() {
        for (lifetime, jitter, expected) in [
            (days(0, 90), 0, 60 * DAY),
            (days(0, 90), WHOLE / 2, 61 * DAY + DAY / 2 - 1),
            (days(0, 90), WHOLE, 63 * DAY),
            (days(100, 106), 0, 104 * DAY),
            (days(100, 106), WHOLE, 104 * DAY + DAY / 5),
            (Lifetime { from: 5, until: 14 }, WHOLE, 11),
            (Lifetime { from: 5, until: 5 }, WHOLE, 5),
            // Nonsense from a certificate must not panic.
            (Lifetime { from: 9, until: 5 }, WHOLE, 5),
        ] {
            assert_eq!(lifetime.renew_at(jitter), expected, "{lifetime:?} {jitter}");
        }
        let for_ever = Lifetime {
            from: 0,
            until: u64::MAX,
        };
        assert!(for_ever.renew_at(WHOLE) < for_ever.until);
        assert!(for_ever.renew_at(WHOLE) < for_ever.urgent_at());
    }

    #[test]
    fn what_a_domain_needs() {
        let lifetime = days(0, 90);
        let has = Some((lifetime, lifetime.renew_at(WHOLE)));
        for (certificate, day, expected) in [
            (None, 0, Some(Need::First)),
            (has, 0, None),
            (has, 62, None),
            (has, 63, Some(Need::Renewal)),
            (has, 74, Some(Need::Renewal)),
            (has, 75, Some(Need::Urgent)),
            (has, 90, Some(Need::Urgent)),
            (has, 91, Some(Need::First)),
        ] {
            assert_eq!(need(certificate, day * DAY), expected, "day {day}");
        }
    }

    #[test]
    fn the_line() {
        let priority = |need, failures, until| Priority {
            need,
            failures,
            until,
        };
        let mut line = [
            priority(Need::Renewal, 0, 7),
            priority(Need::First, 3, 0),
            priority(Need::Urgent, 1, 5),
            priority(Need::First, 0, 0),
            priority(Need::Urgent, 0, 9),
            priority(Need::Urgent, 0, 8),
        ];
        line.sort();
        assert_eq!(
            line.map(|place| (place.need, place.failures, place.until)),
            [
                (Need::Urgent, 0, 8),
                (Need::Urgent, 0, 9),
                (Need::Urgent, 1, 5),
                (Need::First, 0, 0),
                (Need::First, 3, 0),
                (Need::Renewal, 0, 7),
            ]
        );
    }

    #[test]
    fn failures_wait_longer_each_time() {
        let waits = Backoff::new(Duration::from_mins(5), Duration::from_hours(6));
        let mut failures = Failures::default();
        assert!(!failures.hold(0));
        let mut minutes = Vec::new();
        for _ in 0..9 {
            failures.note("no".to_owned(), waits, None, 1000, WHOLE);
            minutes.push((failures.next_try - 1000) / 60);
        }
        assert_eq!(minutes, [5, 10, 20, 40, 80, 160, 320, 360, 360]);
        assert_eq!((failures.count, &*failures.reason), (9, "no"));
        for (now, held) in [
            (1000, true),
            (failures.next_try - 1, true),
            (failures.next_try, false),
            (0, true),
        ] {
            assert_eq!(failures.hold(now), held, "{now}");
        }
        failures.next_try = 10 * DAY;
        assert!(!failures.hold(8 * DAY), "the clock was set back");
    }

    #[test]
    fn what_the_authority_asks_for_is_believed_up_to_a_day() {
        let waits = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for (asked, expected) in [
            (None, 1),
            (Some(Duration::ZERO), 1),
            (Some(Duration::from_millis(4_001)), 5),
            (Some(Duration::from_hours(2)), 2 * HOUR),
            (Some(Duration::from_hours(1000)), DAY),
        ] {
            let mut failures = Failures::default();
            failures.note(String::new(), waits, asked, 0, WHOLE);
            assert_eq!(failures.next_try, expected, "{asked:?}");
        }
    }

    #[test]
    fn a_budget_of_three_an_hour() {
        let mut budget = Budget::default();
        let at = 100 * DAY;
        for (now, left, free_at) in [
            (at, 3, Some(at)),
            (at + 10, 2, Some(at + 10)),
            (at + 20, 1, Some(at + 20)),
            (at + 30, 0, Some(at + HOUR)),
            (at + HOUR - 1, 0, Some(at + HOUR)),
            (at + HOUR, 1, Some(at + HOUR)),
            (at + HOUR + 1, 0, Some(at + HOUR + 10)),
        ] {
            assert_eq!(budget.left(3, now), left, "{}", now - at);
            assert_eq!(budget.free_at(3, now), free_at, "{}", now - at);
            if left > 0 {
                budget.spend(now);
            }
        }
        let text = serde_json::to_string(&budget).unwrap();
        assert_eq!(serde_json::from_str::<Budget>(&text).unwrap(), budget);
    }

    #[test]
    fn budgets_at_the_edges() {
        let mut budget = Budget::default();
        assert_eq!((budget.left(0, 0), budget.free_at(0, 0)), (0, None));
        for now in 0..5 {
            budget.spend(now);
        }
        // A limit that was lowered: five were made, two are allowed, so four must grow old first.
        assert_eq!(
            (budget.left(2, 5), budget.free_at(2, 5)),
            (0, Some(3 + HOUR))
        );
        assert_eq!(budget.left(9, 5), 4);
        // A clock that was set back by a day holds nothing up.
        let mut budget = Budget::default();
        budget.spend(10 * DAY);
        assert_eq!(budget.left(1, 9 * DAY), 1);
        budget.spend(9 * DAY);
        assert_eq!(budget.orders, [9 * DAY]);
    }

    #[test]
    fn what_can_be_proved() {
        for (domain, expected) in [
            ("shop.example.com", Ok(())),
            ("shop.test", Ok(())),
            ("*.example.com", Err(Unprovable::Wildcard)),
            ("my_app.example.com", Err(Unprovable::Underscore)),
            ("localhost", Err(Unprovable::SingleLabel)),
        ] {
            assert_eq!(
                provable(&Domain::parse(domain).unwrap()),
                expected,
                "{domain}"
            );
        }
    }
}
