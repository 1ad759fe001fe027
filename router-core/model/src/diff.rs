//! What a snapshot changes in the route table: which apps to put in, which to take out, and which domains their
//! newcomers do not get. Also the guard against documents that would take away too much at once. Both only look;
//! applying is the table's part.

use std::sync::Arc;

use foldhash::{HashMap, HashMapExt, HashSet};

use crate::app::App;
use crate::hostname::Domain;
use crate::snapshot::{Rejection, Snapshot};

/// The route table as it is now.
pub trait TableView {
    /// The app of this name.
    fn app(&self, name: &str) -> Option<Arc<App>>;
    /// The name of the app that holds a domain, by [`Domain::key`].
    fn holder(&self, key: &str) -> Option<Arc<str>>;
    /// The names of all apps.
    fn names(&self) -> Vec<Arc<str>>;
    /// How many domains all apps hold together.
    fn domain_count(&self) -> usize;
}

/// The changes that bring the table to a snapshot.
///
/// A domain may move from one app to another within one plan. Whoever applies the apps one by one must take a domain
/// away from its old app only while that app still holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Apps that differ from the table's, without the domains that they did not get.
    pub upsert: Vec<Arc<App>>,
    /// Apps that are gone.
    pub remove: Vec<Arc<str>>,
    /// The snapshot's rejections and one for each app that did not get all its domains.
    pub rejected: Vec<Rejection>,
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
    let mut upsert = Vec::new();
    let mut rejected = snapshot.rejected.clone();
    for app in &snapshot.apps {
        let (app, rejection) = winners.settle(app);
        rejected.extend(rejection);
        if table.app(&app.name).is_none_or(|current| *current != *app) {
            upsert.push(app);
        }
    }
    Plan {
        upsert,
        remove: rest.into_iter().cloned().collect(),
        rejected,
        domains_before: table.domain_count(),
        domains_removed: winners.unclaimed(table, &names, &staying),
    }
}

/// Refuses a plan whose snapshot holds no app, or that takes away more than a quarter of all domains, unless the
/// snapshot says that this is meant. A control plane that lost its database must not take every app down.
pub fn guard(plan: &Plan, snapshot: &Snapshot) -> Result<(), Refusal> {
    if snapshot.allow_shrink {
        return Ok(());
    }
    // A document of bad apps only is no empty one: its apps keep their previous version.
    if snapshot.apps.is_empty() && snapshot.rejected.is_empty() {
        return Err(Refusal::Empty);
    }
    let (removed, before) = (plan.domains_removed, plan.domains_before);
    if removed > before / 4 {
        return Err(Refusal::Shrink { removed, before });
    }
    Ok(())
}

/// Why a whole snapshot is not applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no app in it.
    #[error("the document holds no app; it is applied only with \"allow_shrink\": true")]
    Empty,
    /// Too many domains would go.
    #[error(
        "the document would remove {removed} of {before} domains, more than a quarter; it is applied only with \"allow_shrink\": true"
    )]
    Shrink {
        /// Domains that no app would hold any more.
        removed: usize,
        /// Domains held now.
        before: usize,
    },
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

    /// The app with the domains that it gets, and what to say about those that it does not get.
    fn settle(&self, app: &Arc<App>) -> (Arc<App>, Option<Rejection>) {
        let mut reasons = Vec::new();
        let mut gets = |domain: &&Domain| match self.0.get(domain.key()) {
            Some(winner) if *winner != app.name => {
                reasons.push(format!("domains: {domain} belongs to the app {winner}, a domain may belong to one app only"));
                false
            }
            _ => true,
        };
        let domains: Vec<Domain> = app
            .domains
            .iter()
            .filter(|domain| gets(domain))
            .cloned()
            .collect();
        if reasons.is_empty() {
            return (Arc::clone(app), None);
        }
        let rejection = Rejection {
            app: app.name.to_string(),
            reason: reasons.join("; "),
        };
        (
            Arc::new(App {
                domains,
                ..App::clone(app)
            }),
            Some(rejection),
        )
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
