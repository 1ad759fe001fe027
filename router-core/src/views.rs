//! What the admin endpoints show: the table as applied with every dyno's state, and why a request would go where. Plain values of the moment, ready for JSON.

use std::net::SocketAddr;

use router_model::app::{App, DynoState};
use router_model::hostname;
use router_model::settings::Settings;
use serde::Serialize;

use crate::clock;
use crate::pool::Checkout;
use crate::proxy;
use crate::router::Router;
use crate::table::Route;

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
    pub settings: Option<Settings>,
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
            .map(|route| self.app_view(route))
            .collect()
    }

    /// One app as applied.
    pub fn app(&self, name: &str) -> Option<AppView> {
        self.shared()
            .table
            .app(name)
            .map(|route| self.app_view(&route))
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
        let table = &self.shared().table;
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
        explanation.settings = Some(route.app.settings.clone());
        self.sort_dynos(&route, &mut explanation);
        explanation.reason = obstacle(&route.app, &explanation);
        explanation.routed = explanation.reason.is_none();
        explanation
    }

    /// The address of the dyno that a request for `host` would be sent to now. `key` is what the app hashes by, as text, and matters to `consistent_hash`
    /// only. `None`: no app has the host, or none of its dynos can take a request. Counts as a choice for `round_robin`, as a request does.
    pub fn next_dyno(&self, host: &str, key: &[u8]) -> Option<SocketAddr> {
        let host = hostname::parse_host(host.as_bytes()).ok()?;
        let pool = &self.shared().table.lookup(&host.name)?.pool;
        match pool.checkout(&[], None, key, clock::now()) {
            Checkout::Found(index) => Some(pool.dyno(index)?.address()),
            Checkout::Quarantined | Checkout::NotUp | Checkout::Never(_) => None,
        }
    }

    fn sort_dynos(&self, route: &Route, explanation: &mut Explanation) {
        for dyno in &self.app_view(route).dynos {
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

    fn app_view(&self, route: &Route) -> AppView {
        let app = &route.app;
        let now = clock::now();
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
                    self.all_workers()
                        .map(|worker| worker.idle().of_dyno(known))
                        .sum()
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

/// What would stop a request, in the words of its error code.
fn obstacle(app: &App, explanation: &Explanation) -> Option<String> {
    if let Err(failure) = proxy::check_app(app) {
        let verdict = router_model::verdict::of(failure);
        return Some(format!(
            "{} {}",
            verdict.code.unwrap_or_default(),
            verdict.desc
        ));
    }
    let waiting = "no dyno can take a request now; requests wait, or fail with H10, H20 or H34";
    explanation
        .candidates
        .is_empty()
        .then(|| waiting.to_owned())
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
}
