//! The route table: domains and apps to routes. DashMaps written by the feed and read by the workers; a lookup gives an
//! `Arc` and never a guard. One app changes in one atomic swap, and nothing but an applied snapshot changes anything.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use router_model::app::App;
use router_model::diff::{self, Plan, Refusal, TableView};
use router_model::hostname::{Domain, wildcard_key};
use router_model::snapshot::{Rejection, Snapshot};
use tokio::sync::Notify;

use crate::clock::{self, Instant};
use crate::pool::Pool;

/// Which app answers for which domain.
#[derive(Debug)]
pub struct RouteTable {
    domains: DashMap<DomainKey, Arc<Entry>, foldhash::quality::RandomState>,
    apps: DashMap<Arc<str>, Arc<Entry>, foldhash::quality::RandomState>,
    /// Read by every request, written by every change: a worker's cached route is good while this has not moved.
    generation: AtomicU64,
    loaded: AtomicBool,
    /// Guards nothing but the order of changes: one snapshot is applied at a time. Never held across an `.await`.
    applying: Mutex<()>,
    epoch: Instant,
}

/// What an applied snapshot changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Apps that are new or differ from before.
    pub changed: usize,
    /// Apps that are gone.
    pub removed: usize,
    /// Apps that were rejected, or lost a domain to another app.
    pub rejected: Vec<Rejection>,
}

/// One version of an app, ready to serve. Immutable.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) app: Arc<App>,
    pub(crate) state: Arc<AppState>,
    pub(crate) pool: Pool,
}

/// What outlives the versions of an app.
#[derive(Debug, Default)]
pub(crate) struct AppState {
    /// Requests in flight on this router, waiting ones included (H11).
    in_flight: AtomicU32,
    /// Told of every new version of the app.
    pub(crate) changed: Notify,
}

impl AppState {
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Entry {
    route: ArcSwap<Route>,
}

/// A domain, hashed and compared by its key, so that a request's host finds it without allocation.
#[derive(Debug, Clone)]
struct DomainKey(Domain);

impl Borrow<str> for DomainKey {
    fn borrow(&self) -> &str {
        self.0.key()
    }
}

impl Hash for DomainKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key().hash(state);
    }
}

impl PartialEq for DomainKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for DomainKey {}

impl RouteTable {
    pub(crate) fn new() -> Self {
        Self {
            domains: DashMap::default(),
            apps: DashMap::default(),
            generation: AtomicU64::new(0),
            loaded: AtomicBool::new(false),
            applying: Mutex::new(()),
            epoch: clock::now(),
        }
    }

    /// Brings the table to `snapshot`. Apps that the snapshot rejects keep their previous version; equal apps are not
    /// touched.
    ///
    /// # Errors
    /// [`Refusal`] when the snapshot is empty or would remove more than a quarter of the domains without saying
    /// `allow_shrink`. Nothing has changed then.
    pub fn apply(&self, snapshot: &Snapshot) -> Result<Applied, Refusal> {
        self.apply_after(snapshot, || ())
    }

    /// The same, and does something first, once it is sure that the snapshot is applied.
    pub(crate) fn apply_after(
        &self,
        snapshot: &Snapshot,
        first: impl FnOnce(),
    ) -> Result<Applied, Refusal> {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = diff::plan(self, snapshot);
        diff::guard(&plan, snapshot)?;
        first();
        let applied = Applied {
            changed: plan.upsert.len(),
            removed: plan.remove.len(),
            rejected: plan.rejected.clone(),
        };
        let retired = self.carry_out(&plan);
        // A document of rejected apps only is no set of routes yet: hosts get 503, not 404.
        if snapshot.allow_shrink || !self.apps.is_empty() {
            self.loaded.store(true, Ordering::Release);
        }
        self.generation.fetch_add(1, Ordering::Release);
        // Only now, when every worker can see the new routes: whoever is told looks the app up again.
        for (old, new) in retired {
            old.pool
                .retire_missing(new.as_ref().map(|route| &route.pool));
            old.state.changed.notify_waiters();
        }
        Ok(applied)
    }

    /// Whether any snapshot has been applied.
    pub fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// How many apps there are.
    pub fn app_count(&self) -> usize {
        self.apps.len()
    }

    /// How many domains there are.
    pub fn domain_count(&self) -> usize {
        self.domains.len()
    }

    /// The route of a normalised host: the exact domain, else the one-label wildcard.
    pub(crate) fn lookup(&self, host: &str) -> Option<Arc<Route>> {
        let by_key = |key: &str| self.domains.get(key).map(|entry| entry.route.load_full());
        by_key(host).or_else(|| by_key(wildcard_key(host)?))
    }

    /// The domain that a host is routed by.
    pub(crate) fn matching_domain(&self, host: &str) -> Option<String> {
        let by_key = |key: &str| self.domains.get(key).map(|entry| entry.key().0.to_string());
        by_key(host).or_else(|| by_key(wildcard_key(host)?))
    }

    /// Every domain, in no order.
    pub(crate) fn domains(&self) -> Vec<Domain> {
        let domains = self.domains.iter();
        domains.map(|entry| entry.key().0.clone()).collect()
    }

    /// The route of an app, by name.
    pub(crate) fn app(&self, name: &str) -> Option<Arc<Route>> {
        self.apps.get(name).map(|entry| entry.route.load_full())
    }

    /// Every route, ordered by app name.
    pub(crate) fn routes(&self) -> Vec<Arc<Route>> {
        let mut routes: Vec<_> = self
            .apps
            .iter()
            .map(|entry| entry.route.load_full())
            .collect();
        routes.sort_by(|a, b| a.app.name.cmp(&b.app.name));
        routes
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes the changes; gives each replaced route and its successor. Routes go in before domains point to them and
    /// out after.
    fn carry_out(&self, plan: &Plan) -> Vec<(Arc<Route>, Option<Arc<Route>>)> {
        let mut replaced = Vec::new();
        for app in &plan.upsert {
            let old = self.app(&app.name);
            let state = old
                .as_ref()
                .map_or_else(Default::default, |route| Arc::clone(&route.state));
            let pool = Pool::new(app, old.as_ref().map(|route| &route.pool), self.epoch);
            let route = Arc::new(Route {
                app: Arc::clone(app),
                state,
                pool,
            });
            let entry = self.put(&route);
            for domain in &app.domains {
                self.domains
                    .insert(DomainKey(domain.clone()), Arc::clone(&entry));
            }
            if let Some(old) = old {
                self.release_domains(&old.app, &app.domains);
                replaced.push((old, Some(route)));
            }
        }
        for name in &plan.remove {
            if let Some((_, entry)) = self.apps.remove(name) {
                let old = entry.route.load_full();
                self.release_domains(&old.app, &[]);
                replaced.push((old, None));
            }
        }
        replaced
    }

    fn put(&self, route: &Arc<Route>) -> Arc<Entry> {
        if let Some(entry) = self.apps.get(&route.app.name) {
            entry.route.store(Arc::clone(route));
            return Arc::clone(&entry);
        }
        let entry = Arc::new(Entry {
            route: ArcSwap::from(Arc::clone(route)),
        });
        self.apps
            .insert(Arc::clone(&route.app.name), Arc::clone(&entry));
        entry
    }

    /// Takes away the domains that an app does not claim any more, unless another app holds them by now.
    fn release_domains(&self, old: &App, kept: &[Domain]) {
        let kept: foldhash::HashSet<&str> = kept.iter().map(Domain::key).collect();
        for domain in old
            .domains
            .iter()
            .filter(|domain| !kept.contains(domain.key()))
        {
            self.domains.remove_if(domain.key(), |_, entry| {
                entry.route.load().app.name == old.name
            });
        }
    }
}

impl TableView for RouteTable {
    fn app(&self, name: &str) -> Option<Arc<App>> {
        Self::app(self, name).map(|route| Arc::clone(&route.app))
    }

    fn holder(&self, key: &str) -> Option<Arc<str>> {
        self.domains
            .get(key)
            .map(|entry| Arc::clone(&entry.route.load().app.name))
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.apps
            .iter()
            .map(|entry| Arc::clone(entry.key()))
            .collect()
    }

    fn domain_count(&self) -> usize {
        self.domains.len()
    }
}

/// A request's place in its app's in-flight count; gives it back when dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct AppPermit {
    state: Arc<AppState>,
}

impl AppPermit {
    /// A place, unless the app already has `limit` requests in flight.
    pub(crate) fn acquire(state: &Arc<AppState>, limit: u32) -> Option<Self> {
        let before = state.in_flight.fetch_add(1, Ordering::Relaxed);
        let permit = Self {
            state: Arc::clone(state),
        };
        (before < limit).then_some(permit)
    }
}

impl Drop for AppPermit {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(revision: u64, apps: serde_json::Value, allow_shrink: bool) -> Snapshot {
        let document = serde_json::json!({"format": 1, "revision": revision, "allow_shrink": allow_shrink, "apps": apps});
        router_model::snapshot::parse(document.to_string().as_bytes()).unwrap()
    }

    fn app(name: &str, domains: &[&str]) -> serde_json::Value {
        serde_json::json!({"name": name, "domains": domains, "dynos": [{"name": "web.1", "address": "127.0.0.1:5001", "state": "up"}]})
    }

    fn names(table: &RouteTable, hosts: &[&str]) -> Vec<Option<String>> {
        hosts
            .iter()
            .map(|host| table.lookup(host).map(|route| route.app.name.to_string()))
            .collect()
    }

    #[test]
    fn exact_beats_wildcard_and_a_wildcard_is_one_label() {
        let table = RouteTable::new();
        table
            .apply(&snapshot(
                1,
                serde_json::json!([
                    app("wild", &["*.shop.test"]),
                    app("exact", &["a.shop.test"])
                ]),
                false,
            ))
            .unwrap();
        assert_eq!(
            names(
                &table,
                &[
                    "a.shop.test",
                    "b.shop.test",
                    "a.b.shop.test",
                    "shop.test",
                    "*.shop.test",
                    ""
                ]
            ),
            [
                Some("exact".into()),
                Some("wild".into()),
                None,
                None,
                Some("wild".into()),
                None
            ]
        );
        assert_eq!(
            table.matching_domain("b.shop.test").as_deref(),
            Some("*.shop.test")
        );
    }

    #[test]
    fn domains_move_and_go_with_their_apps() {
        let table = RouteTable::new();
        table
            .apply(&snapshot(
                1,
                serde_json::json!([
                    app("a", &["one.test", "two.test"]),
                    app("b", &["three.test"])
                ]),
                false,
            ))
            .unwrap();
        let before = table.app("b").unwrap();
        let applied = table
            .apply(&snapshot(
                2,
                serde_json::json!([
                    app("a", &["one.test"]),
                    app("b", &["three.test"]),
                    app("c", &["two.test"])
                ]),
                false,
            ))
            .unwrap();
        assert_eq!(
            (applied.changed, applied.removed, applied.rejected),
            (2, 0, vec![])
        );
        assert_eq!(
            names(&table, &["one.test", "two.test", "three.test"]),
            [Some("a".into()), Some("c".into()), Some("b".into())]
        );
        assert!(
            Arc::ptr_eq(&before, &table.app("b").unwrap()),
            "an equal app is not touched"
        );
        assert_eq!(table.domain_count(), 3);
        table
            .apply(&snapshot(
                3,
                serde_json::json!([app("c", &["two.test"])]),
                true,
            ))
            .unwrap();
        assert_eq!((table.app_count(), table.domain_count()), (1, 1));
        assert_eq!(
            names(&table, &["one.test", "two.test"]),
            [None, Some("c".into())]
        );
    }

    #[test]
    fn a_refused_snapshot_changes_nothing() {
        let table = RouteTable::new();
        assert!(!table.is_loaded());
        table
            .apply(&snapshot(
                1,
                serde_json::json!([app("a", &["one.test"]), app("b", &["two.test"])]),
                false,
            ))
            .unwrap();
        let generation = table.generation();
        assert!(
            table
                .apply(&snapshot(
                    2,
                    serde_json::json!([app("a", &["one.test"])]),
                    false
                ))
                .is_err()
        );
        assert!(
            table
                .apply(&snapshot(3, serde_json::json!([]), false))
                .is_err()
        );
        assert_eq!((table.app_count(), table.generation()), (2, generation));
        assert!(
            table
                .apply(&snapshot(4, serde_json::json!([]), true))
                .is_ok()
        );
        assert!(table.is_loaded());
    }

    #[test]
    fn the_in_flight_count_survives_a_new_version_and_returns_to_zero() {
        let table = RouteTable::new();
        table
            .apply(&snapshot(
                1,
                serde_json::json!([app("a", &["one.test"])]),
                false,
            ))
            .unwrap();
        let first = AppPermit::acquire(&table.app("a").unwrap().state, 2);
        table
            .apply(&snapshot(
                2,
                serde_json::json!([app("a", &["one.test", "two.test"])]),
                false,
            ))
            .unwrap();
        let state = Arc::clone(&table.app("a").unwrap().state);
        let second = AppPermit::acquire(&state, 2);
        assert!(first.is_some() && second.is_some());
        assert!(AppPermit::acquire(&state, 2).is_none());
        assert_eq!(state.in_flight(), 2);
        drop((first, second));
        assert_eq!(state.in_flight(), 0);
    }
}
