//! What a change does to the route table. The work is proportional to the change, however large the table is.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::{Contested, Plan, TableView, settle};
use crate::app::App;
use crate::change::Change;

/// Compares a change with the table. As with a snapshot, an app that is rejected stays as it is, and a domain stays with
/// its holder as long as the holder claims it. One that is let go of goes to whoever has waited for it, in `contested`,
/// else to the first app of the change that claims it.
pub fn plan_change(table: &impl TableView, contested: &Contested, change: &Change) -> Plan {
    let claims = Claims::of(contested, change);
    let mut plan = Plan {
        whole: false,
        domains_before: table.domain_count(),
        rejected: change.rejected.clone(),
        ..Plan::default()
    };
    let mut left = table.app_count();
    let rejected = change.rejected.iter();
    plan.settled
        .extend(rejected.map(|rejection| rejection.app.as_str().into()));

    // Those who wait for a domain that is let go of: one gets it, the others are told who.
    let mut waiting = Vec::new();
    for (name, next) in claims.touched() {
        plan.settled.push(Arc::clone(name));
        let old = table.app(name);
        match (&old, next) {
            (Some(_), None) => {
                left = left.saturating_sub(1);
                plan.remove.push(Arc::clone(name));
            }
            (None, Some(_)) => left += 1,
            (None, None) | (Some(_), Some(_)) => {}
        }
        let domains = old.iter().flat_map(|old| &old.domains);
        for domain in domains.filter(|domain| !claims.claims(name, domain.key())) {
            if claims.winner(table, domain.key()).is_none() {
                plan.domains_removed += 1;
            }
            let claimants = contested.claimants(domain.key()).iter();
            waiting.extend(claimants.filter(|name| claims.is_waiting(name)).cloned());
        }
    }
    let mut seen = HashSet::new();
    waiting.retain(|name| seen.insert(Arc::clone(name)));
    plan.settled.extend(waiting.iter().cloned());

    let waiting = waiting.iter().filter_map(|name| contested.app(name));
    for app in change.upsert.iter().chain(waiting) {
        let (settled, rejection) = settle(app, |key| claims.winner(table, key));
        if rejection.is_some() {
            plan.contesting.push(Arc::clone(app));
        }
        plan.rejected.extend(rejection);
        if table
            .app(&app.name)
            .is_none_or(|current| !current.is_same_as(&settled))
        {
            plan.upsert.push(settled);
        }
    }
    plan.empties = left == 0 && table.app_count() > 0;
    plan
}

/// Who claims what once the change is made.
struct Claims<'a> {
    contested: &'a Contested,
    /// In the order of the change: what the change makes of an app, `None` if it takes it away.
    touched: Vec<(&'a Arc<str>, Option<&'a Arc<App>>)>,
    places: HashMap<&'a str, usize>,
    /// Apps that the change rejects: they keep what they hold and get nothing more.
    rejected: HashSet<&'a str>,
    /// By the key of a domain, the apps of the change that claim it, in its order.
    by_key: HashMap<&'a str, Vec<&'a Arc<str>>>,
}

impl<'a> Claims<'a> {
    fn of(contested: &'a Contested, change: &'a Change) -> Self {
        let upsert = change.upsert.iter().map(|app| (&app.name, Some(app)));
        let remove = change.remove.iter().map(|name| (name, None));
        let touched: Vec<_> = upsert.chain(remove).collect();
        let places = touched
            .iter()
            .enumerate()
            .map(|(place, (name, _))| (&***name, place))
            .collect();
        let mut by_key: HashMap<&str, Vec<&Arc<str>>> = HashMap::new();
        for app in &change.upsert {
            for domain in &app.domains {
                by_key.entry(domain.key()).or_default().push(&app.name);
            }
        }
        let rejected = change.rejected.iter();
        Self {
            contested,
            touched,
            places,
            rejected: rejected.map(|rejection| &*rejection.app).collect(),
            by_key,
        }
    }

    fn touched(&self) -> impl Iterator<Item = (&'a Arc<str>, Option<&'a Arc<App>>)> {
        self.touched.iter().copied()
    }

    fn is_touched(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether an app that claims more than it holds still does so, and is not in the change.
    fn is_waiting(&self, name: &str) -> bool {
        !self.is_touched(name) && !self.rejected.contains(name)
    }

    /// Whether an app of the change claims a domain.
    fn claims(&self, name: &str, key: &str) -> bool {
        let claimants = self.by_key.get(key);
        claimants.is_some_and(|claimants| claimants.iter().any(|claimant| ***claimant == *name))
    }

    /// The app that gets a domain.
    fn winner(&self, table: &impl TableView, key: &str) -> Option<Arc<str>> {
        let keeps = |name: &Arc<str>| !self.is_touched(name) || self.claims(name, key);
        let waits = |name: &&Arc<str>| self.is_waiting(name) || self.claims(name, key);
        let holder = table.holder(key).filter(keeps);
        let waiting = || self.contested.claimants(key).iter().find(waits);
        let first = || {
            self.by_key
                .get(key)
                .and_then(|names| names.first().copied())
        };
        holder.or_else(|| waiting().or_else(first).cloned())
    }
}
