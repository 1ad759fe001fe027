//! The route table: domains and apps to routes. DashMaps written by the feed and read by the workers; a lookup gives an
//! `Arc` and never a guard. One app changes in one atomic swap, and nothing but an applied snapshot changes anything.

use std::borrow::{Borrow, Cow};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use router_model::app::App;
use router_model::diff::{self, Plan, Refusal, TableView};
use router_model::hostname::{Domain, wildcard_key};
use router_model::settings::Verify;
use router_model::snapshot::{Rejection, Snapshot};
use tokio::sync::Notify;

use crate::clock::{self, Instant};
use crate::dyno::Dyno;
use crate::dyno_conn::{Authorities, DynoTls, Terms};
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
    /// There if the app's settings have it.
    pub(crate) dyno_tls: Option<DynoTls>,
}

impl Route {
    /// The next version of an app.
    fn new(
        app: &Arc<App>,
        old: Option<&Self>,
        authorities: &mut Authorities,
        epoch: Instant,
    ) -> Self {
        let pool = Pool::new(app, old.map(|old| &old.pool), epoch);
        let dyno_tls = app.settings.dyno_tls.as_ref().and_then(|settings| {
            let authority = authorities.of(&settings.verify).ok()?;
            let previous = old.and_then(|old| old.dyno_tls.as_ref());
            Some(DynoTls::new(app, settings, authority, &pool, previous))
        });
        Self {
            app: Arc::clone(app),
            state: old.map_or_else(Arc::default, |old| Arc::clone(&old.state)),
            pool,
            dyno_tls,
        }
    }

    /// On which terms connections to a dyno of this version are opened. `None` if that cannot be said: never in the
    /// clear by mistake.
    pub(crate) fn terms(&self, dyno: &Dyno) -> Option<Terms> {
        match (&self.app.settings.dyno_tls, &self.dyno_tls) {
            (None, _) => Some(Terms::CLEAR),
            (Some(_), Some(dyno_tls)) => dyno_tls.terms(dyno),
            (Some(_), None) => None,
        }
    }

    /// Whether the app's dynos would have to be certified by others than before.
    fn needs_other_authority(&self, authorities: &mut Authorities) -> bool {
        let (Some(settings), Some(dyno_tls)) = (&self.app.settings.dyno_tls, &self.dyno_tls) else {
            return false;
        };
        let read = authorities.of(&settings.verify);
        read.is_ok_and(|authority| !dyno_tls.trusts_the_same(&authority))
    }
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
        let mut authorities = Authorities::new();
        let snapshot = &*certified(snapshot, &mut authorities);
        let mut plan = diff::plan(self, snapshot);
        diff::guard(&plan, snapshot)?;
        first();
        self.plan_new_authorities(&mut plan, snapshot, &mut authorities);
        let applied = Applied {
            changed: plan.upsert.len(),
            removed: plan.remove.len(),
            rejected: plan.rejected.clone(),
        };
        let retired = self.carry_out(&plan, &mut authorities);
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

    /// Whether an app names a file of a certificate authority for its dynos.
    pub(crate) fn has_authority_files(&self) -> bool {
        let names_a_file = |route: &Route| {
            let settings = route.app.settings.dyno_tls.as_ref();
            settings.is_some_and(|settings| matches!(settings.verify, Verify::File(_)))
        };
        self.apps
            .iter()
            .any(|entry| names_a_file(&entry.route.load()))
    }

    /// Reads those files again; what cannot be read stays as it is. Returns how many apps were changed.
    pub(crate) fn look_at_authority_files(&self) -> usize {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut authorities = Authorities::new();
        let mut changed = 0;
        for old in self.routes() {
            if old.needs_other_authority(&mut authorities) {
                self.put(&Arc::new(Route::new(
                    &old.app,
                    Some(&old),
                    &mut authorities,
                    self.epoch,
                )));
                changed += 1;
            }
        }
        for reason in authorities.unreadable() {
            tracing::warn!(%reason, "a certificate authority of dynos stays as it was");
        }
        if changed > 0 {
            self.generation.fetch_add(1, Ordering::Release);
        }
        changed
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
    fn carry_out(
        &self,
        plan: &Plan,
        authorities: &mut Authorities,
    ) -> Vec<(Arc<Route>, Option<Arc<Route>>)> {
        let mut replaced = Vec::new();
        for app in &plan.upsert {
            let old = self.app(&app.name);
            let route = Arc::new(Route::new(app, old.as_deref(), authorities, self.epoch));
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

    /// An app whose authority is another one by now changes, although the document says the same of it.
    fn plan_new_authorities(
        &self,
        plan: &mut Plan,
        snapshot: &Snapshot,
        authorities: &mut Authorities,
    ) {
        let planned: HashSet<_> = plan
            .upsert
            .iter()
            .map(|app| Arc::clone(&app.name))
            .collect();
        for app in snapshot
            .apps
            .iter()
            .filter(|app| app.settings.dyno_tls.is_some())
        {
            if let Some(route) = self.app(&app.name)
                && !planned.contains(&app.name)
                && route.needs_other_authority(authorities)
            {
                plan.upsert.push(Arc::clone(&route.app));
            }
        }
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

/// The snapshot with those apps rejected whose dynos nobody could certify. Decided before anything is planned: a rejected
/// app keeps its domains.
fn certified<'s>(snapshot: &'s Snapshot, authorities: &mut Authorities) -> Cow<'s, Snapshot> {
    let mut reason = |app: &App| {
        let settings = app.settings.dyno_tls.as_ref()?;
        let reason = authorities.of(&settings.verify).err()?;
        Some(format!("dyno_tls.verify: {reason}"))
    };
    let rejected: Vec<_> = snapshot
        .apps
        .iter()
        .filter_map(|app| {
            let app_name = app.name.to_string();
            reason(app).map(|reason| Rejection {
                app: app_name,
                reason,
            })
        })
        .collect();
    if rejected.is_empty() {
        return Cow::Borrowed(snapshot);
    }
    let names: HashSet<_> = rejected.iter().map(|rejection| &*rejection.app).collect();
    let mut good = snapshot.clone();
    good.apps.retain(|app| !names.contains(&*app.name));
    drop(names);
    good.rejected.extend(rejected);
    Cow::Owned(good)
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
mod tests;
