//! What a snapshot or a change does to the route table: which apps to put in, which to take out, and which domains their
//! newcomers do not get. Also the guard against updates that would take away too much. Both only look; applying is the
//! table's part.

mod change;
mod contested;
mod guard;

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet};

use crate::app::App;
use crate::hostname::Domain;
use crate::snapshot::{Rejection, Snapshot};

pub use change::plan_change;
pub use contested::Contested;
pub use guard::{Guard, Refusal};

/// The route table as it is now.
pub trait TableView {
    /// The app of this name.
    fn app(&self, name: &str) -> Option<Arc<App>>;
    /// The name of the app that holds a domain, by [`Domain::key`].
    fn holder(&self, key: &str) -> Option<Arc<str>>;
    /// The names of all apps.
    fn names(&self) -> Vec<Arc<str>>;
    /// How many apps there are.
    fn app_count(&self) -> usize;
    /// How many domains all apps hold together.
    fn domain_count(&self) -> usize;
}

/// What brings the table to a snapshot, or through a change.
///
/// A domain may move from one app to another within one plan. Whoever applies the apps one by one must take a domain
/// away from its old app only while that app still holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether it was made from a snapshot: what is said of other apps than those named here is void.
    pub whole: bool,
    /// Apps that differ from the table's, without the domains that they did not get.
    pub upsert: Vec<Arc<App>>,
    /// Apps that are gone.
    pub remove: Vec<Arc<str>>,
    /// What was rejected and, for each app that did not get all its domains, which.
    pub rejected: Vec<Rejection>,
    /// Those apps, as they were documented.
    pub contesting: Vec<Arc<App>>,
    /// Of a change: the apps of which earlier rejections are void.
    pub settled: Vec<Arc<str>>,
    /// Of a snapshot: the apps without which it would come to something else. They stay although they are rejected, or
    /// they hold a domain that another one claims as well.
    pub kept: Vec<Arc<str>>,
    /// Whether no app would be left.
    pub empties: bool,
    /// Domains in the table now.
    pub domains_before: usize,
    /// Domains in the table now that no app will hold.
    pub domains_removed: usize,
}

/// Compares a snapshot with the table. An app of the table that the snapshot rejects stays as it is and keeps its
/// domains. A domain that several apps claim stays with its holder as long as the holder claims it, else the first in
/// the document gets it.
pub fn plan(table: &impl TableView, snapshot: &Snapshot) -> Plan {
    let names = table.names();
    let documented: HashSet<&str> = snapshot.apps.iter().map(|app| &*app.name).collect();
    let refused: HashSet<&str> = snapshot
        .rejected
        .iter()
        .map(|rejection| rejection.app.as_str())
        .collect();
    let (staying, rest): (Vec<_>, Vec<_>) = names
        .iter()
        .filter(|name| !documented.contains(&***name))
        .partition(|name| refused.contains(&***name));

    let winners = Winners::of(table, snapshot, &staying);
    let (mut upsert, mut contesting) = (Vec::new(), Vec::new());
    let mut rejected = snapshot.rejected.clone();
    for app in &snapshot.apps {
        let (settled, rejection) = settle(app, |key| winners.0.get(key).cloned());
        if rejection.is_some() {
            contesting.push(Arc::clone(app));
        }
        rejected.extend(rejection);
        if table
            .app(&app.name)
            .is_none_or(|current| !current.is_same_as(&settled))
        {
            upsert.push(settled);
        }
    }
    // A document of bad apps only is no empty one: they keep their previous version, if they have one.
    let nothing_left = snapshot.apps.is_empty() && staying.is_empty();
    let lost = contesting.iter().flat_map(|app| &app.domains);
    let holders = lost.filter_map(|domain| winners.0.get(domain.key()));
    let mut kept: Vec<_> = staying.iter().copied().chain(holders).cloned().collect();
    kept.sort_unstable();
    kept.dedup();
    Plan {
        whole: true,
        upsert,
        remove: rest.into_iter().cloned().collect(),
        rejected,
        contesting,
        settled: Vec::new(),
        kept,
        empties: nothing_left && (snapshot.rejected.is_empty() || !names.is_empty()),
        domains_before: table.domain_count(),
        domains_removed: winners.unclaimed(table, &names, &staying),
    }
}

/// An app with the domains that it gets, and what to say about those that it does not get.
fn settle(
    app: &Arc<App>,
    winner: impl Fn(&str) -> Option<Arc<str>>,
) -> (Arc<App>, Option<Rejection>) {
    let mut reasons = Vec::new();
    let mut gets = |domain: &Domain| match winner(domain.key()) {
        Some(winner) if winner != app.name => {
            reasons.push(format!(
                "domains: {domain} belongs to the app {winner}, a domain may belong to one app only"
            ));
            false
        }
        _ => true,
    };
    let got: Vec<bool> = app.domains.iter().map(&mut gets).collect();
    if reasons.is_empty() {
        return (Arc::clone(app), None);
    }
    let domains = app.domains.iter().zip(got);
    let domains = domains
        .filter(|(_, got)| *got)
        .map(|(domain, _)| domain.clone());
    let settled = App {
        domains: domains.collect(),
        ..App::clone(app)
    };
    let rejection = Rejection {
        app: app.name.to_string(),
        reason: reasons.join("; "),
    };
    (Arc::new(settled), Some(rejection))
}

/// For each domain key that a good app of the snapshot claims, the app that gets it.
struct Winners<'a>(HashMap<&'a str, Arc<str>>);

impl<'a> Winners<'a> {
    fn of(table: &impl TableView, snapshot: &'a Snapshot, staying: &[&Arc<str>]) -> Self {
        let staying: HashSet<&str> = staying.iter().map(|name| &***name).collect();
        let claims: HashSet<(&str, &str)> = claims(snapshot)
            .map(|(app, key)| (&*app.name, key))
            .collect();
        let mut winners = HashMap::with_capacity(claims.len());
        for (app, key) in self::claims(snapshot) {
            winners.entry(key).or_insert_with(|| {
                let keeps = |holder: &Arc<str>| {
                    staying.contains(&**holder) || claims.contains(&(&**holder, key))
                };
                table
                    .holder(key)
                    .filter(keeps)
                    .unwrap_or_else(|| Arc::clone(&app.name))
            });
        }
        Self(winners)
    }

    /// How many domains of the table no app will hold.
    fn unclaimed(
        &self,
        table: &impl TableView,
        names: &[Arc<str>],
        staying: &[&Arc<str>],
    ) -> usize {
        let staying: HashSet<&str> = staying.iter().map(|name| &***name).collect();
        names
            .iter()
            .filter(|name| !staying.contains(&***name))
            .filter_map(|name| table.app(name))
            .map(|app| {
                app.domains
                    .iter()
                    .filter(|domain| !self.0.contains_key(domain.key()))
                    .count()
            })
            .sum()
    }
}

fn claims(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<App>, &str)> {
    snapshot
        .apps
        .iter()
        .flat_map(|app| app.domains.iter().map(move |domain| (app, domain.key())))
}

#[cfg(test)]
mod tests;
