//! What the admin endpoints show: the table as applied with every dyno's state, and why a request would go where. Plain
//! values of the moment, ready for JSON.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use router_model::app::DynoState;
use router_model::failure::Failure;
use router_model::hostname;
use router_model::limits::Limits;
use router_model::settings::{Balancer, DynoProtocol, DynoTls, HashKey, Hsts, Settings};
use router_model::timeouts::Timeouts;
use router_model::tls_version::TlsVersion;
use router_model::verdict;
use serde::{Serialize, Serializer};

use crate::clock::{self, Instant};
use crate::pool::Checkout;
use crate::proxy;
use crate::router::{Router, Shared};
use crate::table::Route;
use crate::tls::{Certificate, CertificateView, Origin};

/// One app as applied.
#[derive(Debug, Clone, Serialize)]
pub struct AppView {
    /// Its name.
    pub name: String,
    /// Its domains.
    pub domains: Vec<String>,
    /// How many web dynos it is meant to have.
    pub web_quantity: u32,
    /// Maintenance mode.
    pub maintenance: bool,
    /// Whether it has a release.
    pub released: bool,
    /// Why it is suspended.
    pub suspended: Option<String>,
    /// Requests in flight on this router, waiting ones included.
    pub requests_in_flight: u32,
    /// All dynos of the document.
    pub dynos: Vec<DynoView>,
    /// What the app chose for itself.
    pub settings: Settings,
}

/// One dyno as applied.
#[derive(Debug, Clone, Serialize)]
pub struct DynoView {
    /// `web.1`.
    pub name: String,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// The state that the document gives.
    pub state: DynoState,
    /// Whether it may be given a request now.
    pub candidate: bool,
    /// Requests and tunnels that it has from this router.
    pub in_flight: u32,
    /// How long it will be left alone, in milliseconds.
    pub quarantined_for_ms: Option<u64>,
    /// Idle connections to it.
    pub idle_connections: usize,
}

/// Why a request would go where.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The host asked about.
    pub host: String,
    /// The path asked about; routes do not depend on it.
    pub path: String,
    /// Whether the request would reach a dyno now.
    pub routed: bool,
    /// The app that answers for the host.
    pub app: Option<String>,
    /// The domain it is found by.
    pub domain: Option<String>,
    /// Why the request would not reach a dyno now.
    pub reason: Option<String>,
    /// The dynos that would be tried.
    pub candidates: Vec<Candidate>,
    /// The dynos that would not, and why.
    pub excluded: Vec<Excluded>,
    /// The settings that apply.
    pub settings: Option<EffectiveSettings>,
}

/// The settings that apply to an app's requests: what the app chose, and the router's defaults where it chose nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EffectiveSettings {
    /// Page shown instead of the router's own error page.
    pub error_page_url: Option<String>,
    /// Page shown while the app is in maintenance.
    pub maintenance_page_url: Option<String>,
    /// How a dyno is chosen.
    pub balancer: Balancer,
    /// What is hashed; `None`, and left out of the JSON, for every balancer but `consistent_hash`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_key: Option<HashKey>,
    /// Whether a client is kept on one dyno by a cookie.
    pub session_affinity: bool,
    /// Whether connections to the app's dynos are kept open between requests.
    pub dyno_keepalive: bool,
    /// Whether `Expect: 100-continue` is passed to the dyno.
    pub end_to_end_continue: bool,
    /// Whether clients may use HTTP/2 with this app.
    pub http2: bool,
    /// Whether clients without TLS are sent to `https://`.
    pub redirect_to_https: bool,
    /// `Strict-Transport-Security` over TLS.
    pub hsts: Option<Hsts>,
    /// The oldest TLS version for clients; `None` is as the listener has it.
    pub min_tls_version: Option<TlsVersion>,
    /// What is spoken to dynos.
    pub dyno_protocol: DynoProtocol,
    /// TLS to dynos; a PEM text is only mentioned.
    pub dyno_tls: Option<DynoTls>,
    /// Time for the first byte of a response (H12); `"30s"` in the JSON.
    #[serde(serialize_with = "duration_text")]
    pub first_byte_timeout: Duration,
    /// Rolling idle time of a body or tunnel (H15, H28); `"55s"` in the JSON.
    #[serde(serialize_with = "duration_text")]
    pub idle_timeout: Duration,
    /// How long old routes are good enough; for ever if `None`.
    #[serde(serialize_with = "optional_duration_text")]
    pub expire_after: Option<Duration>,
    /// Requests in flight per web dyno before H11.
    pub concurrent_requests_per_dyno: u32,
}

impl EffectiveSettings {
    fn new(settings: &Settings, timeouts: &Timeouts, limits: &Limits) -> Self {
        let hashes = settings.balancer == Balancer::ConsistentHash;
        Self {
            error_page_url: settings.error_page_url.clone(),
            maintenance_page_url: settings.maintenance_page_url.clone(),
            balancer: settings.balancer,
            hash_key: hashes.then(|| settings.hash_key.clone()),
            session_affinity: settings.session_affinity,
            dyno_keepalive: settings.dyno_keepalive,
            end_to_end_continue: settings.end_to_end_continue,
            http2: settings.http2,
            redirect_to_https: settings.redirect_to_https,
            hsts: settings.hsts.clone(),
            min_tls_version: settings.min_tls_version,
            dyno_protocol: settings.dyno_protocol,
            dyno_tls: settings.dyno_tls.clone(),
            first_byte_timeout: settings.first_byte_timeout.unwrap_or(timeouts.first_byte),
            idle_timeout: settings.idle_timeout.unwrap_or(timeouts.idle),
            expire_after: settings.expire_after,
            concurrent_requests_per_dyno: settings
                .concurrent_requests_per_dyno
                .unwrap_or(limits.concurrent_requests_per_dyno),
        }
    }
}

fn optional_duration_text<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => duration_text(duration, serializer),
        None => serializer.serialize_none(),
    }
}

fn duration_text<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// A certificate in the store, and who it is for.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateInUse {
    /// What it is.
    #[serde(flatten)]
    pub certificate: CertificateView,
    /// The apps for whose domains it answers, ordered by name.
    pub apps: Vec<String>,
}

/// A dyno that would be tried.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// `web.1`.
    pub dyno: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Requests and tunnels that it has from this router.
    pub in_flight: u32,
}

/// A dyno that would not be tried.
#[derive(Debug, Clone, Serialize)]
pub struct Excluded {
    /// `web.2`.
    pub dyno: String,
    /// Why not.
    pub reason: String,
}

impl Router {
    /// Every app as applied, ordered by name.
    pub fn apps(&self) -> Vec<AppView> {
        self.shared()
            .table
            .routes()
            .iter()
            .map(|route| self.app_view(route, clock::now()))
            .collect()
    }

    /// One app as applied.
    pub fn app(&self, name: &str) -> Option<AppView> {
        self.shared()
            .table
            .app(name)
            .map(|route| self.app_view(&route, clock::now()))
    }

    /// Why a request for `host` would go where.
    pub fn explain(&self, host: &str, path: &str) -> Explanation {
        let mut explanation = Explanation {
            host: host.to_owned(),
            path: path.to_owned(),
            routed: false,
            app: None,
            domain: None,
            reason: None,
            candidates: Vec::new(),
            excluded: Vec::new(),
            settings: None,
        };
        let name = match hostname::parse_host(host.as_bytes()) {
            Ok(parsed) => parsed.name.into_owned(),
            Err(error) => {
                explanation.reason = Some(format!("not a host: {error}"));
                return explanation;
            }
        };
        let shared = self.shared();
        let table = &shared.table;
        let Some(route) = table.lookup(&name) else {
            let loaded = table.is_loaded();
            let reason = if loaded {
                "no app has this domain, nor a wildcard that covers it (404)"
            } else {
                "no routes have been applied yet (503)"
            };
            explanation.reason = Some(reason.to_owned());
            return explanation;
        };
        explanation.app = Some(route.app.name.to_string());
        explanation.domain = table.matching_domain(&name);
        explanation.settings = Some(EffectiveSettings::new(
            &route.app.settings,
            &shared.timeouts,
            &shared.limits,
        ));
        // One moment for the whole answer: a quarantine that ends meanwhile must not make two halves disagree.
        let now = clock::now();
        self.sort_dynos(&route, &mut explanation, now);
        explanation.reason = obstacle(shared, &route, &explanation, now);
        explanation.routed = explanation.reason.is_none();
        explanation
    }

    /// Every certificate in the store, and the apps for whose domains it answers.
    pub fn certificates_in_use(&self) -> Vec<CertificateInUse> {
        let shared = self.shared();
        let store = &shared.certificates;
        let mut apps: HashMap<*const Certificate, BTreeSet<String>> = HashMap::new();
        for route in shared.table.routes() {
            for domain in &route.app.domains {
                // A wildcard is looked for as one of the hosts that it stands for would be.
                if let Some(certificate) = store.resolve(domain.as_str()) {
                    let names = apps.entry(Arc::as_ptr(&certificate)).or_default();
                    names.insert(route.app.name.to_string());
                }
            }
        }
        let all = Origin::ALL.into_iter().flat_map(|origin| {
            let held = store.of(origin).into_iter();
            held.map(move |certificate| (origin, certificate))
        });
        all.map(|(origin, certificate)| CertificateInUse {
            apps: apps
                .get(&Arc::as_ptr(&certificate))
                .map_or_else(Vec::new, |names| names.iter().cloned().collect()),
            certificate: certificate.view(origin.as_str()),
        })
        .collect()
    }

    /// The address of the dyno that a request for `host` would be sent to now. `key` is what the app hashes by, as
    /// text, and matters to `consistent_hash` only. `None`: no app has the host, or none of its dynos can take a
    /// request. Counts as a choice for `round_robin`, as a request does.
    pub fn next_dyno(&self, host: &str, key: &[u8]) -> Option<SocketAddr> {
        let host = hostname::parse_host(host.as_bytes()).ok()?;
        let pool = &self.shared().table.lookup(&host.name)?.pool;
        match pool.checkout(&[], None, key, clock::now()) {
            Checkout::Found(index) => Some(pool.dyno(index)?.address()),
            Checkout::Quarantined | Checkout::NotUp | Checkout::Never(_) => None,
        }
    }

    fn sort_dynos(&self, route: &Route, explanation: &mut Explanation, now: Instant) {
        for dyno in &self.app_view(route, now).dynos {
            let reason = match (dyno.address, dyno.state, dyno.quarantined_for_ms) {
                _ if !is_web(&dyno.name) => {
                    "not a web dyno: only process type web gets requests".to_owned()
                }
                (_, DynoState::Up, Some(left)) => {
                    format!("quarantined for another {left} ms after a failed connection")
                }
                (Some(address), DynoState::Up, None) => {
                    explanation.candidates.push(Candidate {
                        dyno: dyno.name.clone(),
                        address,
                        in_flight: dyno.in_flight,
                    });
                    continue;
                }
                (_, state, _) => format!("its state is {}", state.as_str()),
            };
            explanation.excluded.push(Excluded {
                dyno: dyno.name.clone(),
                reason,
            });
        }
    }

    fn app_view(&self, route: &Route, now: Instant) -> AppView {
        let app = &route.app;
        let dynos = app.dynos.iter().map(|dyno| {
            let known = dyno
                .address
                .and_then(|address| route.pool.known(dyno.name.as_str(), address));
            let quarantined_for = known.and_then(|known| known.quarantined_for(now));
            DynoView {
                name: dyno.name.as_str().to_owned(),
                address: dyno.address,
                state: dyno.state,
                candidate: dyno.name.is_web()
                    && dyno.state == DynoState::Up
                    && quarantined_for.is_none(),
                in_flight: known.map_or(0, |known| known.in_flight()),
                quarantined_for_ms: quarantined_for
                    .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
                idle_connections: known.map_or(0, |known| {
                    self.all_workers().map(|worker| worker.kept_of(known)).sum()
                }),
            }
        });
        AppView {
            name: app.name.to_string(),
            domains: app.domains.iter().map(ToString::to_string).collect(),
            web_quantity: app.web_quantity(),
            maintenance: app.maintenance,
            released: app.released,
            suspended: app.suspended.clone(),
            requests_in_flight: route.state.in_flight(),
            dynos: dynos.collect(),
            settings: app.settings.clone(),
        }
    }
}

fn is_web(dyno: &str) -> bool {
    dyno.split('.').next() == Some("web")
}

/// What would stop a request, or what it would wait for, in the words of its error code.
fn obstacle(
    shared: &Shared,
    route: &Route,
    explanation: &Explanation,
    now: Instant,
) -> Option<String> {
    if let Err(failure) = proxy::check_app(shared, &route.app) {
        return Some(in_words(failure));
    }
    // With a candidate there is nothing to ask the pool, and asking would count as a choice for `round_robin`.
    if !explanation.candidates.is_empty() {
        return None;
    }
    match route.pool.checkout(&[], None, &[], now) {
        Checkout::Found(_) => None,
        Checkout::NotUp => Some(format!(
            "waits for a dyno to come up, then {}",
            in_words(Failure::BootTimeout)
        )),
        Checkout::Quarantined => Some(format!(
            "waits for a quarantine to end, then {}",
            in_words(Failure::AllQuarantined)
        )),
        Checkout::Never(failure) => Some(in_words(failure)),
    }
}

/// `H10 App crashed`.
fn in_words(failure: Failure) -> String {
    let verdict = verdict::of(failure);
    format!("{} {}", verdict.code.unwrap_or_default(), verdict.desc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_dyno_is_one_that_may_be_called() {
        let document = br#"{"format": 1, "revision": 1, "apps": [
            {"name": "two", "domains": ["two.test"], "settings": {"balancer": "round_robin"}, "dynos": [
                {"name": "web.1", "address": "10.0.0.1:1", "state": "up"}, {"name": "web.2", "address": "10.0.0.1:2", "state": "up"},
                {"name": "web.3", "address": "10.0.0.1:3", "state": "draining"}, {"name": "worker.1", "address": "10.0.0.1:4", "state": "up"}]},
            {"name": "none", "domains": ["none.test"], "dynos": [{"name": "web.1", "state": "starting"}]}]}"#;
        let router = Router::builder().build().unwrap();
        let snapshot = router_model::snapshot::parse(document).unwrap();
        router.table().apply(&snapshot).unwrap();
        let mut ports: Vec<_> = (0..2)
            .filter_map(|_| router.next_dyno("TWO.test:8080", b""))
            .map(|address| address.port())
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, [1, 2]);
        for host in ["none.test", "unknown.test", "not a host"] {
            assert_eq!(router.next_dyno(host, b""), None, "{host}");
        }
    }

    /// A router with the app of `a.test`, whose fields `app` gives, with a formation of one web dyno unless it says
    /// otherwise.
    fn router(app: serde_json::Value) -> Router {
        let mut whole = serde_json::json!({"name": "a", "domains": ["a.test"], "formation": {"web": 1}, "dynos": []});
        let fields = app.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(fields);
        let document = serde_json::json!({"format": 1, "revision": 1, "apps": [whole]}).to_string();
        let snapshot = router_model::snapshot::parse(document.as_bytes()).unwrap();
        assert_eq!(snapshot.rejected, []);
        let timeouts = Timeouts {
            idle: Duration::from_millis(1500),
            ..Timeouts::default()
        };
        let router = Router::builder().timeouts(timeouts).build().unwrap();
        router.table().apply(&snapshot).unwrap();
        router
    }

    fn dynos(states: &[&str]) -> serde_json::Value {
        let dynos = states.iter().enumerate().map(|(n, state)| {
            serde_json::json!({"name": format!("web.{n}"), "address": format!("10.0.0.1:{}", 2000 + n), "state": state})
        });
        serde_json::json!({"dynos": dynos.collect::<Vec<_>>()})
    }

    #[test]
    fn what_stops_a_request_is_named_as_it_would_fail() {
        let boot = "waits for a dyno to come up, then H20 App boot timeout";
        for (app, wanted) in [
            (dynos(&["up"]), None),
            (dynos(&["up", "crashed"]), None),
            (dynos(&["crashed"]), Some("H10 App crashed")),
            (dynos(&["crashed", "down"]), Some("H10 App crashed")),
            (dynos(&["starting", "crashed"]), Some(boot)),
            (dynos(&["idle"]), Some(boot)),
            (dynos(&["draining"]), Some(boot)),
            (dynos(&["down"]), Some(boot)),
            (dynos(&[]), Some("H99 Platform error")),
            (
                serde_json::json!({"formation": {}}),
                Some("H14 No web processes running"),
            ),
        ] {
            let explanation = router(app.clone()).explain("a.test", "/");
            assert_eq!(explanation.reason.as_deref(), wanted, "{app}");
            assert_eq!(explanation.routed, wanted.is_none(), "{app}");
        }
    }

    #[test]
    fn a_quarantine_of_all_dynos_is_what_a_request_waits_for() {
        let router = router(dynos(&["up", "up"]));
        let pool = &router.shared().table.lookup("a.test").unwrap().pool;
        let mut reasons = Vec::new();
        for dyno in pool.all() {
            dyno.quarantine(clock::now() + Duration::from_secs(60));
            reasons.push(router.explain("a.test", "/").reason);
        }
        let all = "waits for a quarantine to end, then H34 All up dynos are quarantined";
        assert_eq!(reasons, [None, Some(all.to_owned())]);
    }

    #[test]
    fn explaining_is_no_choice_of_the_balancer() {
        let mut app = dynos(&["up", "up"]);
        app["settings"] = serde_json::json!({"balancer": "round_robin"});
        let router = router(app);
        let first = router.next_dyno("a.test", b"");
        assert!(router.explain("a.test", "/").routed);
        assert_ne!(router.next_dyno("a.test", b""), first);
    }

    #[test]
    fn a_certificate_is_in_use_by_the_apps_whose_domains_it_answers_for() {
        let document = br#"{"format": 1, "revision": 1, "apps": [
            {"name": "b", "domains": ["www.b.test", "*.b.test", "a.test"], "dynos": []},
            {"name": "a", "domains": ["x.b.test", "other.test"], "dynos": []}]}"#;
        let router = Router::builder().build().unwrap();
        let snapshot = router_model::snapshot::parse(document).unwrap();
        router.table().apply(&snapshot).unwrap();
        let (wild, www, unused) = (["*.b.test"], ["www.b.test", "a.test"], ["c.test"]);
        for (origin, names) in [
            (Origin::Folder, &wild[..]),
            (Origin::Document, &www[..]),
            (Origin::Acme, &unused[..]),
        ] {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            let key = made.signing_key.serialize_pem();
            let certificate = Certificate::from_pem(made.cert.pem().as_bytes(), key.as_bytes());
            router
                .certificates()
                .insert(origin, Arc::new(certificate.unwrap()));
        }
        let used = serde_json::to_value(router.certificates_in_use()).unwrap();
        for (index, origin, apps) in [
            (0, "folder", serde_json::json!(["a", "b"])),
            (1, "document", serde_json::json!(["b"])),
            (2, "acme", serde_json::json!([])),
        ] {
            assert_eq!(used[index]["origin"], origin);
            assert_eq!(used[index]["apps"], apps);
        }
        assert_eq!(
            used[1]["names"],
            serde_json::json!(["a.test", "www.b.test"])
        );
    }

    #[test]
    fn the_settings_are_those_that_apply() {
        for (settings, wanted) in [
            (
                serde_json::json!({}),
                serde_json::json!({"first_byte_timeout": "30s", "idle_timeout": "1s 500ms", "concurrent_requests_per_dyno": 200}),
            ),
            (
                serde_json::json!({"first_byte_timeout": "90s", "idle_timeout": "5s", "concurrent_requests_per_dyno": 3, "expire_after": "1h",
                    "hash_key": {"header": "X-Tenant"}}),
                serde_json::json!({"first_byte_timeout": "1m 30s", "idle_timeout": "5s", "concurrent_requests_per_dyno": 3, "expire_after": "1h"}),
            ),
            (
                serde_json::json!({"balancer": "consistent_hash", "hash_key": {"header": "X-Tenant"}}),
                serde_json::json!({"balancer": "consistent_hash", "hash_key": {"header": "x-tenant"}, "first_byte_timeout": "30s"}),
            ),
            (
                serde_json::json!({"redirect_to_https": true, "hsts": true, "min_tls_version": "1.3", "dyno_protocol": "h2",
                    "dyno_tls": {"verify": "system"}}),
                serde_json::json!({"redirect_to_https": true, "hsts": "max-age=31536000", "min_tls_version": "1.3",
                    "dyno_protocol": "h2", "dyno_tls": {"verify": "system", "identity": "dyno-name"}}),
            ),
        ] {
            let router = router(serde_json::json!({"settings": settings}));
            let shown = router.explain("a.test", "/").settings;
            let shown = serde_json::to_value(shown).unwrap();
            for (key, value) in wanted.as_object().unwrap() {
                assert_eq!(&shown[key], value, "{key} of {settings}");
            }
            let hashes = settings["balancer"] == "consistent_hash";
            assert_eq!(shown.get("hash_key").is_some(), hashes, "{settings}");
        }
    }
}
