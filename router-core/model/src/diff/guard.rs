//! The guard against updates that take too much away. A control plane that lost its database must not take every app
//! down, neither in one document nor app by app.

use std::time::{Duration, Instant};

use super::Plan;

/// What one guard lets pass, and what it has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    share: f64,
    persists: Option<Duration>,
    /// Since when every update has taken away too much.
    since: Option<Instant>,
    spent: Option<Spent>,
}

/// What changes took away lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spent {
    since: Instant,
    /// Domains at that time.
    before: usize,
    removed: usize,
    /// A change was refused: whole documents are measured from the same time until it is over, or they would bring what
    /// the change was not allowed to.
    exhausted: bool,
}

/// Why an update is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No app would be left.
    #[error("no app would be left; that is applied only with \"allow_shrink\": true")]
    Empty,
    /// Too many domains would go.
    #[error(
        "{removed} of {before} domains would go, but no more than {allowed} at once; that is applied only with \
         \"allow_shrink\": true"
    )]
    Shrink {
        /// Domains that no app would hold any more.
        removed: usize,
        /// Domains held before.
        before: usize,
        /// How many may go.
        allowed: usize,
    },
}

impl Guard {
    /// The time in which changes together may take away as much as one document.
    pub const WINDOW: Duration = Duration::from_mins(1);

    /// A guard that lets `share` of all domains go at once; more only if every update since `persists` says so, or never.
    pub fn new(share: f64, persists: Option<Duration>) -> Self {
        Self {
            share: share.clamp(0.0, 1.0),
            persists,
            since: None,
            spent: None,
        }
    }

    /// Judges a plan; it must be carried out if this allows it.
    pub fn judge(&mut self, plan: &Plan, allow_shrink: bool, now: Instant) -> Result<(), Refusal> {
        if allow_shrink {
            (self.since, self.spent) = (None, None);
            return Ok(());
        }
        // Never believed without a word, however long it persists.
        if plan.empties {
            return Err(Refusal::Empty);
        }
        self.spent = self.spent.filter(|spent| now < spent.since + Self::WINDOW);
        let Err(refusal) = self.measure(plan) else {
            self.since = None;
            if !plan.whole && plan.domains_removed > 0 {
                self.spent(plan, now).removed += plan.domains_removed;
            }
            return Ok(());
        };
        let since = *self.since.get_or_insert(now);
        if self
            .persists
            .is_some_and(|persists| now.saturating_duration_since(since) >= persists)
        {
            (self.since, self.spent) = (None, None);
            return Ok(());
        }
        if !plan.whole {
            self.spent(plan, now).exhausted = true;
        }
        Err(refusal)
    }

    /// When the same update may be judged otherwise.
    pub fn again_at(&self) -> Option<Instant> {
        let since = self.since?;
        let persisted = self.persists.map(|persists| since + persists);
        let restored = self
            .spent
            .filter(|spent| spent.exhausted)
            .map(|spent| spent.since + Self::WINDOW);
        persisted.into_iter().chain(restored).min()
    }

    fn measure(&self, plan: &Plan) -> Result<(), Refusal> {
        self.allows(plan.domains_removed, plan.domains_before)?;
        match self.spent {
            Some(spent) if !plan.whole || spent.exhausted => {
                self.allows(spent.removed + plan.domains_removed, spent.before)
            }
            _ => Ok(()),
        }
    }

    fn allows(&self, removed: usize, before: usize) -> Result<(), Refusal> {
        let allowed = (before as f64 * self.share) as usize;
        if removed > allowed {
            return Err(Refusal::Shrink {
                removed,
                before,
                allowed,
            });
        }
        Ok(())
    }

    fn spent(&mut self, plan: &Plan, now: Instant) -> &mut Spent {
        self.spent.get_or_insert(Spent {
            since: now,
            before: plan.domains_before,
            removed: 0,
            exhausted: false,
        })
    }
}

impl Default for Guard {
    /// A quarter, whatever persists.
    fn default() -> Self {
        Self::new(0.25, None)
    }
}
