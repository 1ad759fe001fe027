//! The part of the hot path that finds a dyno and a connection to it (spec §1.5): the balancer's choice, a kept
//! connection or a new one, another dyno when that fails, and the waits in between.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use router_model::admission::Admitted;
use router_model::app::App;
use router_model::backoff::Backoff;
use router_model::failure::Failure;
use router_model::h1::{FieldId, RequestHead};
use router_model::settings::{Balancer, HashKey};
use router_model::{affinity, retry, verdict};

use super::check_app;
use super::reach::Reach;
use crate::client::{self, Client};
use crate::clock::{self, Instant};
use crate::dyno_conn::DynoConn;
use crate::exchange::Exchange;
use crate::observe::Event;
use crate::pool::{Checkout, Lease, Pool};
use crate::worker::{LocalRoute, Worker};

/// The search for a dyno that takes the connection (spec §1.5).
pub(super) struct Search {
    deadline: Instant,
    /// The dyno on whose kept connection the request has just died: no kept connection is used any more.
    pub(super) died_on: Option<u64>,
    tried: Vec<u64>,
    last_failure: Option<Failure>,
    backoff: Backoff,
    /// The dyno that the client's cookie names.
    preferred: Option<String>,
    /// What `consistent_hash` goes by.
    key: Vec<u8>,
}

impl Search {
    pub(super) fn new(
        worker: &Worker,
        head: &RequestHead,
        client: Option<IpAddr>,
        app: &App,
    ) -> Self {
        let key = match app.settings.balancer {
            Balancer::ConsistentHash => hash_key(head, client, &app.settings.hash_key),
            Balancer::LeastRequests | Balancer::Random | Balancer::RoundRobin => Vec::new(),
        };
        let preferred = if app.settings.session_affinity {
            preferred_dyno(worker, head)
        } else {
            None
        };
        Self {
            deadline: clock::now() + worker.shared.timeouts.connect_total,
            died_on: None,
            tried: Vec::new(),
            last_failure: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(1)),
            preferred,
            key,
        }
    }

    /// Looks for a dyno. One on which the request has died is probably dying, so another is taken if there is one,
    /// unless the request belongs to that dyno by cookie or hash.
    fn look(&self, pool: &Pool, now: Instant) -> Checkout {
        let preferred = self.preferred.as_deref();
        let bound = preferred.is_some() || !self.key.is_empty();
        if let Some(died_on) = self.died_on.filter(|_| !bound) {
            let others = pool.checkout(
                &[self.tried.as_slice(), &[died_on]].concat(),
                None,
                &[],
                now,
            );
            if matches!(others, Checkout::Found(_)) {
                return others;
            }
        }
        pool.checkout(&self.tried, preferred, &self.key, now)
    }

    /// Notes a failed attempt; the failure of the request if it was the last one allowed.
    fn failed(
        &mut self,
        worker: &Worker,
        route: &LocalRoute,
        lease: &Lease,
        failure: Failure,
    ) -> Result<(), Failure> {
        worker.event(Event::ConnectFailed(failure));
        if verdict::of(failure).quarantine {
            let now = clock::now();
            lease
                .dyno()
                .quarantine(now + worker.shared.limits.quarantine);
            worker.event(Event::Quarantined);
            if route.pool.is_unreachable(now) {
                worker.shared.table.unreachable.notify_one();
            }
        }
        self.tried.push(lease.dyno().id());
        self.last_failure = Some(failure);
        let allowed = retry::attempts_allowed(&worker.shared.limits, route.pool.running());
        let more = verdict::of(failure).try_another_dyno
            && self.tried.len() < allowed as usize
            && clock::now() < self.deadline;
        if more { Ok(()) } else { Err(failure) }
    }
}

/// What `consistent_hash` goes by; a request without the header or cookie goes by its client's address.
fn hash_key(head: &RequestHead, client: Option<IpAddr>, by: &HashKey) -> Vec<u8> {
    let named = match by {
        HashKey::ClientAddress => None,
        HashKey::Header(name) => head.fields().named(name.as_bytes()),
        HashKey::Cookie(name) => cookie(head, name).map(str::as_bytes),
    };
    let address = || client.map(|client| client.to_canonical().to_string().into_bytes());
    named
        .map(<[u8]>::to_vec)
        .or_else(address)
        .unwrap_or_default()
}

fn cookie<'h>(head: &'h RequestHead, name: &str) -> Option<&'h str> {
    head.fields()
        .values(FieldId::Cookie)
        .find_map(|value| affinity::find_cookie(value, name))
}

fn preferred_dyno(worker: &Worker, head: &RequestHead) -> Option<String> {
    let value = cookie(head, &worker.shared.affinity_cookie)?;
    worker
        .shared
        .affinity
        .open(value, clock::unix_millis(clock::wall()) / 1000)
}

/// Finds a dyno and a connection to it: a kept one, or a new one; another dyno when that fails.
pub(super) async fn connect<C: Client>(
    worker: &Worker,
    client: &mut C,
    head: &RequestHead,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
    search: &mut Search,
) -> Result<(Lease, DynoConn), Failure> {
    loop {
        let lease = checkout(worker, client, admitted, exchange, search).await?;
        exchange.dyno = Some(Arc::clone(lease.dyno()));
        let reach = Reach {
            worker,
            route: Arc::clone(&exchange.route),
            dyno: lease.dyno(),
            upgrade: admitted.upgrade,
            resendable: is_resendable(head, admitted),
            // What the request has died on was a kept connection.
            only_new: search.died_on.is_some(),
            deadline: search.deadline,
        };
        match reach.conn(client, exchange).await {
            Ok(conn) => {
                exchange.connected_at = Some(clock::now());
                // Anew for each dyno: a request that is sent again must not bring the cookie of the one that died.
                exchange.set_cookie = affinity_cookie(worker, &exchange.route.app, &lease, search);
                return Ok((lease, conn));
            }
            Err(failure @ (Failure::ClientInterrupted | Failure::StreamBroken)) => {
                return Err(failure);
            }
            Err(failure) => search.failed(worker, &exchange.route, &lease, failure)?,
        }
    }
}

/// Checks a dyno out; waits for one that starts, or whose quarantine ends, as long as the budget lasts. Meanwhile route
/// updates are followed and the client is watched; its body is not read.
async fn checkout<C: Client>(
    worker: &Worker,
    client: &mut C,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
    search: &mut Search,
) -> Result<Lease, Failure> {
    loop {
        let route = Arc::clone(&exchange.route);
        let changed = route.state.changed.notified();
        tokio::pin!(changed);
        let mut listening = false;
        let (wait_until, at_deadline) = loop {
            let waiting = match search.look(&route.pool, clock::now()) {
                Checkout::Found(index) => match route.pool.dyno(index) {
                    Some(dyno) => return Ok(Lease::new(Arc::clone(dyno))),
                    None => return Err(Failure::Platform),
                },
                Checkout::Never(failure) => return Err(failure),
                Checkout::NotUp => (search.deadline, Failure::BootTimeout),
                Checkout::Quarantined => match search.last_failure {
                    Some(failure)
                        if route
                            .pool
                            .all()
                            .all(|dyno| search.tried.contains(&dyno.id())) =>
                    {
                        return Err(failure);
                    }
                    _ => (
                        search
                            .deadline
                            .min(clock::now() + search.backoff.next(fastrand::u32(..))),
                        Failure::AllQuarantined,
                    ),
                },
            };
            // Listen first, then look once more: an update between the look and the wait must not be missed.
            if listening {
                break waiting;
            }
            changed.as_mut().enable();
            listening = true;
            if refresh(worker, admitted, exchange)? {
                break (clock::now(), Failure::Platform);
            }
        };
        tokio::select! {
            // Cancel-safe: what the client sends meanwhile stays in its buffer.
            () = &mut changed => {}
            () = tokio::time::sleep_until(wait_until) => {
                if clock::now() >= search.deadline {
                    return Err(at_deadline);
                }
            }
            failure = client::gone(client, worker.shared.limits.request_buffer) => return Err(failure),
        }
        refresh(worker, admitted, exchange)?;
    }
}

/// Takes the newest version of the app; whether it is another one. The app's state may stop the request by now.
pub(super) fn refresh(
    worker: &Worker,
    admitted: &Admitted<'_>,
    exchange: &mut Exchange<'_>,
) -> Result<bool, Failure> {
    let route = worker
        .route(&admitted.host.name)
        .ok_or(Failure::NoSuchApp)?;
    let same = Arc::ptr_eq(&route.app, &exchange.route.app);
    if !same {
        // A domain that moved to another app takes no waiting requests along: they were admitted and counted for the
        // first.
        if route.app.name != exchange.route.app.name {
            return Err(Failure::NoSuchApp);
        }
        check_app(&worker.shared, &route.app)?;
        exchange.route = route;
    }
    Ok(!same)
}

/// Whether a request may be sent again if a kept connection turns out to be dead.
fn is_resendable(head: &RequestHead, admitted: &Admitted<'_>) -> bool {
    retry::is_safe(head.method()) && !admitted.framing.has_body() && !admitted.upgrade
}

/// The cookie that the client needs when the dyno is not the one that its cookie names (spec §4.3).
fn affinity_cookie(worker: &Worker, app: &App, lease: &Lease, search: &Search) -> Option<String> {
    let name = lease.dyno().name().as_str();
    if !app.settings.session_affinity || search.preferred.as_deref() == Some(name) {
        return None;
    }
    let expires = clock::unix_millis(clock::wall()) / 1000 + affinity::LIFETIME_SECONDS;
    let value = worker.shared.affinity.seal(name, expires);
    Some(affinity::set_cookie(&worker.shared.affinity_cookie, &value))
}
