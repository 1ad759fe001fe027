//! The route table: domains and apps to routes. DashMaps written by the feed and read by the workers; a lookup gives an
//! `Arc` and never a guard. One app changes in one atomic swap, and nothing but an applied snapshot changes anything.

use std::borrow::{Borrow, Cow};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use router_model::app::App;
use router_model::change::Change;
use router_model::diff::{self, Contested, Guard, Plan, Refusal, TableView};
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
    /// Lengths of the maps, which would have to lock every shard to tell. Written while `applying` is held.
    domain_count: AtomicUsize,
    app_count: AtomicUsize,
    /// Apps that name a file of a certificate authority for their dynos. Written while `applying` is held.
    with_authority_files: AtomicUsize,
    /// Told when a request has found every dyno of its app to refuse connections.
    pub(crate) unreachable: Notify,
    /// Also keeps the order of updates: one is applied at a time. Never held across an `.await`.
    applying: Mutex<Contested>,
    epoch: Instant,
}

/// A shard is locked while it grows, and a worker that needs it waits: with so many, none of them is large, even with a
/// million domains.
const DOMAIN_SHARDS: usize = 1024;
const APP_SHARDS: usize = 256;

/// What comes from a feed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted<'a> {
    Snapshot(&'a Snapshot),
    Change(&'a Change),
}

/// What an applied snapshot or change did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Apps that are new or differ from before.
    pub changed: usize,
    /// Apps that are gone.
    pub removed: usize,
    /// Apps that were rejected, or lost a domain to another app.
    pub rejected: Vec<Rejection>,
    /// After a change: the apps of which earlier rejections are void. A snapshot voids all of them.
    pub settled: Vec<Arc<str>>,
    /// After a snapshot: the apps without which it would have come to something else, because they are rejected and keep
    /// their previous version, or hold a domain that others claim as well.
    pub kept: Vec<Arc<str>>,
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
            domains: DashMap::with_hasher_and_shard_amount(Default::default(), DOMAIN_SHARDS),
            apps: DashMap::with_hasher_and_shard_amount(Default::default(), APP_SHARDS),
            generation: AtomicU64::new(0),
            loaded: AtomicBool::new(false),
            domain_count: AtomicUsize::new(0),
            app_count: AtomicUsize::new(0),
            with_authority_files: AtomicUsize::new(0),
            unreachable: Notify::new(),
            applying: Mutex::default(),
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
        self.apply_judged(Wanted::Snapshot(snapshot), judge_alone)
    }

    /// Makes a change, with work that depends on the change and not on the size of the table. The revisions that it
    /// leads from and to are not looked at.
    ///
    /// # Errors
    /// As for [`RouteTable::apply`].
    pub fn apply_change(&self, change: &Change) -> Result<Applied, Refusal> {
        self.apply_judged(Wanted::Change(change), judge_alone)
    }

    /// Makes what is wanted so, if `judge` lets it pass; what `judge` does then is done before any route changes.
    pub(crate) fn apply_judged(
        &self,
        wanted: Wanted<'_>,
        judge: impl FnOnce(&Plan, bool) -> Result<(), Refusal>,
    ) -> Result<Applied, Refusal> {
        let mut contested = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut authorities = Authorities::new();
        let (mut plan, allow_shrink) = match wanted {
            Wanted::Snapshot(snapshot) => {
                let snapshot = &*certified(snapshot, &mut authorities);
                let mut plan = diff::plan(self, snapshot);
                self.plan_new_authorities(&mut plan, &snapshot.apps, &mut authorities);
                (plan, snapshot.allow_shrink)
            }
            Wanted::Change(change) => {
                let change = &*certified(change, &mut authorities);
                let mut plan = diff::plan_change(self, &contested, change);
                self.plan_new_authorities(&mut plan, &change.upsert, &mut authorities);
                (plan, change.allow_shrink)
            }
        };
        judge(&plan, allow_shrink)?;
        let retired = self.carry_out(&plan, &mut authorities);
        contested.note(&plan);
        // A document of rejected apps only is no set of routes yet: hosts get 503, not 404.
        if allow_shrink || self.app_count() > 0 {
            self.loaded.store(true, Ordering::Release);
        }
        if !plan.upsert.is_empty() || !plan.remove.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
        }
        drop(contested);
        // Only now, when every worker can see the new routes: whoever is told looks the app up again.
        for (old, new) in retired {
            old.pool
                .retire_missing(new.as_ref().map(|route| &route.pool));
            old.state.changed.notify_waiters();
        }
        Ok(Applied {
            changed: plan.upsert.len(),
            removed: plan.remove.len(),
            rejected: std::mem::take(&mut plan.rejected),
            settled: plan.settled,
            kept: plan.kept,
        })
    }

    /// Whether an app names a file of a certificate authority for its dynos.
    pub(crate) fn has_authority_files(&self) -> bool {
        self.with_authority_files.load(Ordering::Relaxed) > 0
    }

    /// Reads those files again; what cannot be read stays as it is. Returns how many apps were changed.
    pub(crate) fn look_at_authority_files(&self) -> usize {
        if !self.has_authority_files() {
            return 0;
        }
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
        self.app_count.load(Ordering::Relaxed)
    }

    /// How many domains there are.
    pub fn domain_count(&self) -> usize {
        self.domain_count.load(Ordering::Relaxed)
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

    /// Looks at every route, in no order and without a copy of anything. A part of the table cannot change meanwhile: for
    /// quick looks only.
    pub(crate) fn for_each_route(&self, mut look: impl FnMut(&Route)) {
        for entry in &self.apps {
            look(&entry.route.load());
        }
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
            // The keys of its domains stay, and so do their texts.
            let app = match &old {
                Some(old) => &Arc::new(app.sharing_texts(&old.app)),
                None => app,
            };
            let route = Arc::new(Route::new(app, old.as_deref(), authorities, self.epoch));
            let entry = self.put(&route);
            for domain in &app.domains {
                self.point(domain, &entry);
            }
            self.with_authority_files
                .fetch_add(usize::from(names_a_file(app)), Ordering::Relaxed);
            if let Some(old) = old {
                replaced.push((old, Some(route)));
            }
        }
        // Only now: a domain that moves to another app is somebody's at every moment.
        for (old, new) in &replaced {
            let kept = new.as_ref().map_or(&[][..], |new| &new.app.domains);
            self.release(&old.app, kept);
        }
        for name in &plan.remove {
            if let Some((_, entry)) = self.apps.remove(name) {
                let old = entry.route.load_full();
                self.app_count.fetch_sub(1, Ordering::Relaxed);
                self.release(&old.app, &[]);
                replaced.push((old, None));
            }
        }
        replaced
    }

    /// An app whose authority is another one by now changes, although the document says the same of it.
    fn plan_new_authorities(
        &self,
        plan: &mut Plan,
        apps: &[Arc<App>],
        authorities: &mut Authorities,
    ) {
        let planned: HashSet<_> = plan
            .upsert
            .iter()
            .map(|app| Arc::clone(&app.name))
            .collect();
        for app in apps.iter().filter(|app| app.settings.dyno_tls.is_some()) {
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
        self.app_count.fetch_add(1, Ordering::Relaxed);
        entry
    }

    /// Has an app answer for a domain. Most changes leave an app its domains: nobody is to wait for a lock then.
    fn point(&self, domain: &Domain, entry: &Arc<Entry>) {
        let held = self.domains.get(domain.key());
        if held.is_some_and(|held| Arc::ptr_eq(&held, entry)) {
            return;
        }
        let key = DomainKey(domain.clone());
        if self.domains.insert(key, Arc::clone(entry)).is_none() {
            self.domain_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes away the domains that an app does not claim any more, unless another app holds them by now.
    fn release(&self, old: &App, kept: &[Domain]) {
        self.with_authority_files
            .fetch_sub(usize::from(names_a_file(old)), Ordering::Relaxed);
        let kept: foldhash::HashSet<&str> = kept.iter().map(Domain::key).collect();
        for domain in old
            .domains
            .iter()
            .filter(|domain| !kept.contains(domain.key()))
        {
            let removed = self.domains.remove_if(domain.key(), |_, entry| {
                entry.route.load().app.name == old.name
            });
            self.domain_count
                .fetch_sub(usize::from(removed.is_some()), Ordering::Relaxed);
        }
    }
}

fn judge_alone(plan: &Plan, allow_shrink: bool) -> Result<(), Refusal> {
    Guard::default().judge(plan, allow_shrink, clock::now().into_std())
}

fn names_a_file(app: &App) -> bool {
    let settings = app.settings.dyno_tls.as_ref();
    settings.is_some_and(|settings| matches!(settings.verify, Verify::File(_)))
}

/// A snapshot or a change, as far as its apps go.
trait Apps: Clone {
    fn good(&mut self) -> &mut Vec<Arc<App>>;
    fn apps(&self) -> &[Arc<App>];
    fn rejected(&mut self) -> &mut Vec<Rejection>;
}

impl Apps for Snapshot {
    fn good(&mut self) -> &mut Vec<Arc<App>> {
        &mut self.apps
    }

    fn apps(&self) -> &[Arc<App>] {
        &self.apps
    }

    fn rejected(&mut self) -> &mut Vec<Rejection> {
        &mut self.rejected
    }
}

impl Apps for Change {
    fn good(&mut self) -> &mut Vec<Arc<App>> {
        &mut self.upsert
    }

    fn apps(&self) -> &[Arc<App>] {
        &self.upsert
    }

    fn rejected(&mut self) -> &mut Vec<Rejection> {
        &mut self.rejected
    }
}

/// The update with those apps rejected whose dynos nobody could certify. Decided before anything is planned: a rejected
/// app keeps its domains.
fn certified<'u, U: Apps>(update: &'u U, authorities: &mut Authorities) -> Cow<'u, U> {
    let mut reason = |app: &App| {
        let settings = app.settings.dyno_tls.as_ref()?;
        let reason = authorities.of(&settings.verify).err()?;
        Some(format!("dyno_tls.verify: {reason}"))
    };
    let rejected: Vec<_> = update
        .apps()
        .iter()
        .filter_map(|app| {
            let reason = reason(app)?;
            let app = app.name.to_string();
            Some(Rejection { app, reason })
        })
        .collect();
    if rejected.is_empty() {
        return Cow::Borrowed(update);
    }
    let names: HashSet<_> = rejected.iter().map(|rejection| &*rejection.app).collect();
    let mut good = update.clone();
    good.good().retain(|app| !names.contains(&*app.name));
    drop(names);
    good.rejected().extend(rejected);
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

    fn app_count(&self) -> usize {
        Self::app_count(self)
    }

    fn domain_count(&self) -> usize {
        Self::domain_count(self)
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
