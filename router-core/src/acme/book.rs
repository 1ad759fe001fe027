//! Who has which certificate, who should have one, and who is next. No files and no network: the runner brings both, and
//! the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use foldhash::{HashMap, HashSet};
use router_model::acme_schedule::{self, Budget, Failures, Lifetime, Need, Priority, Unprovable};
use router_model::hostname::{self, Domain};
use serde::{Deserialize, Serialize};

use super::settings::Retries;
use super::status::{AcmeStatus, DomainState, DomainStatus};
use crate::tls::Certificate;

/// Everything known about the domains.
#[derive(Debug)]
pub(super) struct Book {
    directory: String,
    per_hour: u32,
    retries: Retries,
    held: HashMap<Domain, Held>,
    /// Whether each is covered by a certificate from elsewhere.
    wanted: HashMap<Domain, bool>,
    /// Domains without any certificate that cannot be ordered.
    impossible: BTreeMap<Domain, Unprovable>,
    ledger: Ledger,
    ordering: Option<Domain>,
    /// Nothing is due before that, unless something changes.
    quiet_until: u64,
    orders_here: bool,
    /// What is wrong with the folder.
    folder_error: Option<String>,
    counts: Counts,
}

/// What of it outlives the process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ledger {
    orders: Budget,
    authority: Failures,
    /// By domain.
    failing: BTreeMap<String, Failures>,
}

/// A certificate of ours.
#[derive(Debug)]
struct Held {
    /// None once it has ended.
    certificate: Option<Arc<Certificate>>,
    lifetime: Lifetime,
    renew_at: u64,
}

#[derive(Debug, Default)]
struct Counts {
    ordered: u64,
    issued: u64,
    failed: u64,
}

/// Names that certificates from elsewhere stand for.
#[derive(Debug, Default)]
pub(super) struct Covered(HashSet<Box<str>>);

impl Covered {
    /// A certificate that ends this soon covers nothing any more, so that there is time for an order.
    const MARGIN: Duration = Duration::from_hours(1);

    /// The names of those that are still valid for a while.
    pub(super) fn by(
        certificates: impl IntoIterator<Item = Arc<Certificate>>,
        now: SystemTime,
    ) -> Self {
        let mut names = HashSet::default();
        for certificate in certificates {
            if certificate.not_after() > now + Self::MARGIN {
                let keys = certificate
                    .names()
                    .map(|name| name.strip_prefix('*').unwrap_or(name));
                names.extend(keys.map(Box::from));
            }
        }
        Self(names)
    }

    fn covers(&self, domain: &Domain) -> bool {
        let wildcard = hostname::wildcard_key(domain.key()).filter(|_| !domain.is_wildcard());
        self.0.contains(domain.key()) || wildcard.is_some_and(|key| self.0.contains(key))
    }
}

impl Book {
    pub(super) fn new(directory: &str, per_hour: u32, retries: Retries) -> Self {
        Self {
            directory: directory.to_owned(),
            per_hour,
            retries,
            held: HashMap::default(),
            wanted: HashMap::default(),
            impossible: BTreeMap::new(),
            ledger: Ledger::default(),
            ordering: None,
            quiet_until: 0,
            orders_here: false,
            folder_error: None,
            counts: Counts::default(),
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn set_ledger(&mut self, ledger: Ledger) {
        self.ledger = ledger;
        self.quiet_until = 0;
    }

    pub(super) fn orders_here(&self) -> bool {
        self.orders_here
    }

    pub(super) fn set_orders_here(&mut self, orders_here: bool) {
        self.orders_here = orders_here;
    }

    /// Whether that is new.
    pub(super) fn set_folder_error(&mut self, error: Option<String>) -> bool {
        let is_new = self.folder_error != error;
        self.folder_error = error;
        is_new
    }

    /// Notes a certificate that came from the folder or the authority.
    pub(super) fn hold(&mut self, domain: Domain, certificate: Arc<Certificate>, jitter: u32) {
        let lifetime = Lifetime {
            from: unix(certificate.not_before()),
            until: unix(certificate.not_after()),
        };
        let held = Held {
            certificate: Some(certificate),
            lifetime,
            renew_at: lifetime.renew_at(jitter),
        };
        self.held.insert(domain, held);
        self.quiet_until = 0;
    }

    /// Notes that the folder has a certificate which ended.
    pub(super) fn hold_ended(&mut self, domain: Domain, at: SystemTime) {
        let lifetime = Lifetime {
            from: unix(at),
            until: unix(at),
        };
        let held = Held {
            certificate: None,
            lifetime,
            renew_at: lifetime.until,
        };
        self.held.insert(domain, held);
        self.quiet_until = 0;
    }

    /// Forgets all certificates, before they are read anew.
    pub(super) fn forget_held(&mut self) {
        self.held.clear();
    }

    /// What the store gets.
    pub(super) fn certificates(&self) -> Vec<Arc<Certificate>> {
        let held = self.held.values();
        held.filter_map(|held| held.certificate.clone()).collect()
    }

    /// Takes over who should have a certificate.
    pub(super) fn want(
        &mut self,
        domains: impl IntoIterator<Item = Domain>,
        covered: &Covered,
        now: u64,
    ) {
        self.wanted.clear();
        self.impossible.clear();
        for domain in domains {
            let is_covered = covered.covers(&domain);
            match acme_schedule::provable(&domain) {
                Err(reason) if !is_covered && !self.held.contains_key(&domain) => {
                    self.impossible.insert(domain, reason);
                }
                Err(_) => {}
                Ok(()) => {
                    self.wanted.insert(domain, is_covered);
                }
            }
        }
        let wanted: HashSet<&str> = self.wanted.keys().map(Domain::as_str).collect();
        // A failure is remembered until its wait is over, so that leaving and coming back is no way around it.
        let failing = &mut self.ledger.failing;
        failing.retain(|domain, failures| wanted.contains(&**domain) || failures.hold(now));
        self.quiet_until = 0;
    }

    /// Forgets the certificates that have ended and that nobody wants any more, and gives their domains.
    pub(super) fn forget_ended(&mut self, now: u64) -> Vec<Domain> {
        let wanted = &self.wanted;
        let ended = self
            .held
            .extract_if(|domain, held| held.lifetime.is_over(now) && !wanted.contains_key(domain));
        ended.map(|(domain, _)| domain).collect()
    }

    /// The domain to order now, if any.
    pub(super) fn next(&mut self, now: u64) -> Option<Domain> {
        if now < self.quiet_until {
            return None;
        }
        let (mut next, mut quiet_until) = (None, u64::MAX);
        for (domain, covered) in &self.wanted {
            if *covered {
                continue;
            }
            match self.due(domain, now) {
                Ok(priority) => {
                    let place = (priority, domain);
                    next = Some(next.map_or(place, |first: (Priority, &Domain)| first.min(place)));
                }
                Err(later) => quiet_until = quiet_until.min(later),
            }
        }
        let next = next.map(|(_, domain)| domain.clone());
        if next.is_some() && self.held_up_until(now).is_none() {
            return next;
        }
        self.quiet_until = self.held_up_until(now).unwrap_or(u64::MAX).min(quiet_until);
        None
    }

    /// A domain's place in the line, or when it may stand in it again.
    fn due(&self, domain: &Domain, now: u64) -> Result<Priority, u64> {
        let held = self.held.get(domain);
        let has = held.map(|held| (held.lifetime, held.renew_at));
        let need = acme_schedule::need(has, now)
            .ok_or_else(|| held.map_or(u64::MAX, |held| held.renew_at))?;
        let failures = self.ledger.failing.get(domain.as_str());
        if let Some(failures) = failures.filter(|failures| failures.hold(now)) {
            return Err(failures.next_try);
        }
        Ok(Priority {
            need,
            failures: failures.map_or(0, |failures| failures.count),
            until: held.map_or(0, |held| held.lifetime.until),
        })
    }

    /// Until when nothing at all may be ordered.
    fn held_up_until(&self, now: u64) -> Option<u64> {
        if self.ledger.authority.hold(now) {
            return Some(self.ledger.authority.next_try);
        }
        let free_at = self.ledger.orders.free_at(self.per_hour, now);
        let free_at = free_at.unwrap_or(u64::MAX);
        (free_at > now).then_some(free_at)
    }

    /// Notes that an order begins.
    pub(super) fn begin(&mut self, domain: &Domain, now: u64) {
        self.ledger.orders.spend(now);
        self.ordering = Some(domain.clone());
        self.counts.ordered += 1;
    }

    /// Notes a new certificate. One that is due for renewal at once (a clock that is wrong, here or there) is served, but
    /// must not use up the budget.
    pub(super) fn issued(
        &mut self,
        domain: Domain,
        certificate: Arc<Certificate>,
        now: u64,
        jitter: u32,
    ) {
        self.ordering = None;
        self.counts.issued += 1;
        self.ledger.authority = Failures::default();
        self.hold(domain.clone(), certificate, jitter);
        let held = self.held.get(&domain);
        let has = held.map(|held| (held.lifetime, held.renew_at));
        if acme_schedule::need(has, now).is_some() {
            let reason = "the new certificate is due for renewal at once; is the clock right?";
            let failures = self.ledger.failing.entry(domain.to_string()).or_default();
            failures.note(reason.to_owned(), self.retries.domain, None, now, jitter);
        } else {
            self.ledger.failing.remove(domain.as_str());
        }
    }

    /// Notes that a domain failed; the authority answered, so it is well.
    pub(super) fn failed(
        &mut self,
        domain: &Domain,
        reason: String,
        asked: Option<Duration>,
        now: u64,
        jitter: u32,
    ) {
        self.ordering = None;
        self.counts.failed += 1;
        self.ledger.authority = Failures::default();
        let failures = self.ledger.failing.entry(domain.to_string()).or_default();
        failures.note(reason, self.retries.domain, asked, now, jitter);
    }

    /// Notes that nothing could be ordered, for a reason that is no domain's.
    pub(super) fn held_up(
        &mut self,
        reason: String,
        asked: Option<Duration>,
        now: u64,
        jitter: u32,
    ) {
        // An order that had begun has failed too.
        if self.ordering.take().is_some() {
            self.counts.failed += 1;
        }
        let waits = self.retries.authority;
        self.ledger
            .authority
            .note(reason, waits, asked, now, jitter);
    }

    pub(super) fn status(&self, now: u64) -> AcmeStatus {
        let domains: HashSet<&Domain> = self.wanted.keys().chain(self.held.keys()).collect();
        let possible = domains
            .into_iter()
            .map(|domain| self.domain_status(domain, now));
        let impossible = self.impossible.iter().map(impossible);
        let mut domains: Vec<_> = possible.chain(impossible).collect();
        domains.sort_by(|one, other| one.domain.cmp(&other.domain));
        AcmeStatus {
            directory: self.directory.clone(),
            orders_here: self.orders_here,
            per_hour: self.per_hour,
            budget_left: self.ledger.orders.left(self.per_hour, now),
            held_up_by: self.held_up_by(now),
            ordered: self.counts.ordered,
            issued: self.counts.issued,
            failed: self.counts.failed,
            domains,
        }
    }

    fn held_up_by(&self, now: u64) -> Option<String> {
        if let Some(error) = &self.folder_error {
            return Some(format!("the folder cannot be used: {error}"));
        }
        let authority = &self.ledger.authority;
        if authority.hold(now) {
            let until = text(authority.next_try);
            return Some(format!("{}; next try at {until}", authority.reason));
        }
        let in_line = |(domain, covered): &(&Domain, &bool)| {
            !**covered && self.ordering.as_ref() != Some(*domain) && self.due(domain, now).is_ok()
        };
        let waiting = self.wanted.iter().filter(in_line).count();
        let free_at = self.held_up_until(now).filter(|_| waiting > 0)?;
        Some(format!(
            "the budget of {} orders an hour is used up; domains waiting: {waiting}; next order at {}",
            self.per_hour,
            text(free_at)
        ))
    }

    fn domain_status(&self, domain: &Domain, now: u64) -> DomainStatus {
        let held = self.held.get(domain);
        let failures = self.ledger.failing.get(domain.as_str());
        let state = self.state(domain, now);
        let earliest = self.held_up_until(now).unwrap_or(now);
        let next_try = match state {
            DomainState::Valid => held.map(|held| held.renew_at),
            DomainState::Failing => failures.map(|failures| failures.next_try.max(earliest)),
            DomainState::Waiting | DomainState::Renewing => Some(earliest),
            DomainState::Ordering
            | DomainState::Covered
            | DomainState::Retired
            | DomainState::Impossible => None,
        };
        let served = held.filter(|held| held.certificate.is_some());
        DomainStatus {
            domain: domain.to_string(),
            state,
            not_after: served.map(|held| text(held.lifetime.until)),
            next_try: next_try.filter(|at| *at != u64::MAX).map(text),
            failures: failures.map_or(0, |failures| failures.count),
            last_error: failures.map(|failures| failures.reason.clone()),
        }
    }

    fn state(&self, domain: &Domain, now: u64) -> DomainState {
        if self.ordering.as_ref() == Some(domain) {
            return DomainState::Ordering;
        }
        match self.wanted.get(domain) {
            None => return DomainState::Retired,
            Some(true) => return DomainState::Covered,
            Some(false) => {}
        }
        let has = self.held.get(domain);
        let has = has.map(|held| (held.lifetime, held.renew_at));
        match acme_schedule::need(has, now) {
            None => DomainState::Valid,
            Some(_) if self.ledger.failing.contains_key(domain.as_str()) => DomainState::Failing,
            Some(Need::First) => DomainState::Waiting,
            Some(Need::Urgent | Need::Renewal) => DomainState::Renewing,
        }
    }
}

fn impossible((domain, reason): (&Domain, &Unprovable)) -> DomainStatus {
    DomainStatus {
        domain: domain.to_string(),
        state: DomainState::Impossible,
        not_after: None,
        next_try: None,
        failures: 0,
        last_error: Some(format!("it {reason}")),
    }
}

/// Seconds since 1970; 0 for times before.
pub(super) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn text(unix: u64) -> String {
    // The last second that has a four-digit year; later ones cannot be written.
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(unix.min(LAST));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests;
