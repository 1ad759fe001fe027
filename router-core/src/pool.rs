//! An app's web dynos as requests see them: who is a candidate, who waits to come up, and the checkout of one dyno for
//! one request. A pool is immutable; what changes while it serves (in flight, quarantine) lives in the dynos, which
//! outlast it.

use std::net::SocketAddr;
use std::sync::Arc;

use router_model::app::{App, DynoState};
use router_model::failure::Failure;

use crate::balancer::Balancer;
use crate::clock::Instant;
use crate::dyno::Dyno;

/// The web dynos of one version of an app.
#[derive(Debug)]
pub(crate) struct Pool {
    /// The dynos that may be given requests.
    up: Box<[Arc<Dyno>]>,
    balancer: Balancer,
    /// Dynos that get no new requests but may still be finishing old ones.
    draining: Box<[Arc<Dyno>]>,
    absence: Absence,
}

/// What it means that no dyno is up (spec §6.3 rows 12 to 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// One is on its way: starting, waking, or being cycled.
    Wait,
    Crashed,
    /// The formation wants dynos and the document lists none.
    Inconsistent,
}

/// What a checkout found.
pub(crate) enum Checkout {
    /// The index of a dyno, for [`Pool::dyno`].
    Found(usize),
    /// Every candidate is quarantined or was tried already: wait and look again.
    Quarantined,
    /// None is up yet: wait for a route update.
    NotUp,
    /// None will come up.
    Never(Failure),
}

impl Pool {
    /// The pool of `app`. Dynos that `previous` knows under the same name and address are taken over with all that is
    /// known of them.
    pub(crate) fn new(app: &App, previous: Option<&Self>, epoch: Instant) -> Self {
        let (mut up, mut draining) = (Vec::new(), Vec::new());
        for dyno in app.web_dynos() {
            let Some(address) = dyno.address else {
                continue;
            };
            let known = previous
                .and_then(|pool| pool.known(dyno.name.as_str(), address))
                .cloned();
            match dyno.state {
                // A dyno that was retired and is up again starts afresh: its tunnels are being closed.
                DynoState::Up => up.push(
                    known
                        .filter(|dyno| !dyno.is_retired())
                        .unwrap_or_else(|| Arc::new(Dyno::new(dyno.name.clone(), address, epoch))),
                ),
                DynoState::Draining => draining.extend(known),
                DynoState::Starting | DynoState::Idle | DynoState::Crashed | DynoState::Down => {}
            }
        }
        let balancer = Balancer::new(app.settings.balancer, &up);
        Self {
            up: up.into(),
            balancer,
            draining: draining.into(),
            absence: absence(app),
        }
    }

    /// Tells every dyno that `successor` does not offer any more. `None`: the app is gone.
    pub(crate) fn retire_missing(&self, successor: Option<&Self>) {
        for dyno in &self.up {
            let kept =
                successor.is_some_and(|pool| pool.up.iter().any(|other| Arc::ptr_eq(other, dyno)));
            if !kept {
                dyno.retire();
            }
        }
    }

    /// Chooses a dyno that is not in `tried` and not quarantined: `preferred` if it is one (session affinity), else the
    /// balancer's choice.
    pub(crate) fn checkout(
        &self,
        tried: &[u64],
        preferred: Option<&str>,
        key: &[u8],
        now: Instant,
    ) -> Checkout {
        if self.up.is_empty() {
            return match self.absence {
                Absence::Wait => Checkout::NotUp,
                Absence::Crashed => Checkout::Never(Failure::AppCrashed),
                Absence::Inconsistent => Checkout::Never(Failure::Platform),
            };
        }
        let eligible =
            |dyno: &Dyno| dyno.quarantined_for(now).is_none() && !tried.contains(&dyno.id());
        let preferred = preferred.and_then(|name| {
            self.up
                .iter()
                .position(|dyno| dyno.name().as_str() == name && eligible(dyno))
        });
        match preferred.or_else(|| self.balancer.pick(&self.up, key, eligible)) {
            Some(index) => Checkout::Found(index),
            None => Checkout::Quarantined,
        }
    }

    /// The dyno at an index that [`Pool::checkout`] gave.
    pub(crate) fn dyno(&self, index: usize) -> Option<&Arc<Dyno>> {
        self.up.get(index)
    }

    /// How many dynos may be given requests.
    pub(crate) fn running(&self) -> usize {
        self.up.len()
    }

    /// Whether every dyno is quarantined: the routes to them may be out of date.
    pub(crate) fn is_unreachable(&self, now: Instant) -> bool {
        self.up
            .iter()
            .all(|dyno| dyno.quarantined_for(now).is_some())
    }

    /// Every dyno with state of its own.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Dyno>> {
        self.up.iter().chain(&self.draining)
    }

    /// The runtime state of a dyno.
    pub(crate) fn known(&self, name: &str, address: SocketAddr) -> Option<&Arc<Dyno>> {
        self.all()
            .find(|dyno| dyno.address() == address && dyno.name().as_str() == name)
    }
}

/// Spec §6.3 names starting, idle and crashed dynos. One that is draining or down is being cycled (§6.2), so its
/// successor is waited for.
fn absence(app: &App) -> Absence {
    let any = |wanted: &[DynoState]| app.web_dynos().any(|dyno| wanted.contains(&dyno.state));
    if any(&[DynoState::Starting, DynoState::Idle]) {
        Absence::Wait
    } else if any(&[DynoState::Crashed]) {
        Absence::Crashed
    } else if any(&[DynoState::Draining, DynoState::Down]) {
        Absence::Wait
    } else {
        Absence::Inconsistent
    }
}

/// One dyno, checked out for one request; checks itself in when dropped.
#[must_use]
#[derive(Debug)]
pub(crate) struct Lease {
    dyno: Arc<Dyno>,
}

impl Lease {
    pub(crate) fn new(dyno: Arc<Dyno>) -> Self {
        dyno.enter();
        Self { dyno }
    }

    pub(crate) fn dyno(&self) -> &Arc<Dyno> {
        &self.dyno
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.dyno.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock;

    fn at(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 2000 + number))
    }

    fn app(states: &[&str]) -> App {
        let dynos: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(n, state)| serde_json::json!({"name": format!("web.{n}"), "address": format!("10.0.0.1:{}", 2000 + n), "state": state}))
            .collect();
        let document = serde_json::json!({"format": 1, "revision": 1, "apps": [{"name": "a", "domains": ["a.test"], "formation": {"web": 1}, "dynos": dynos}]});
        let snapshot = router_model::snapshot::parse(document.to_string().as_bytes()).unwrap();
        assert_eq!(snapshot.rejected, []);
        (*snapshot.apps[0]).clone()
    }

    #[test]
    fn without_an_up_dyno_the_states_decide() {
        for (states, expected) in [
            (&["starting"][..], "wait"),
            (&["idle", "crashed"], "wait"),
            (&["starting", "crashed"], "wait"),
            (&["crashed"], "H10"),
            (&["crashed", "down"], "H10"),
            (&["down"], "wait"),
            (&["draining"], "wait"),
            (&[], "H99"),
        ] {
            let pool = Pool::new(&app(states), None, clock::now());
            let seen = match pool.checkout(&[], None, b"", clock::now()) {
                Checkout::Found(_) | Checkout::Quarantined => "found",
                Checkout::NotUp => "wait",
                Checkout::Never(failure) => router_model::verdict::of(failure).code.unwrap(),
            };
            assert_eq!(seen, expected, "{states:?}");
        }
    }

    #[test]
    fn surviving_dynos_keep_their_state_and_lost_ones_are_told() {
        let epoch = clock::now();
        let first = Pool::new(&app(&["up", "up", "up"]), None, epoch);
        let lease = Lease::new(first.dyno(0).unwrap().clone());
        let second = Pool::new(&app(&["up", "draining"]), Some(&first), epoch);
        first.retire_missing(Some(&second));
        assert_eq!(second.known("web.0", at(0)).unwrap().in_flight(), 1);
        let retired: Vec<_> = first.all().map(|dyno| dyno.is_retired()).collect();
        assert_eq!(retired, [false, true, true]);
        drop(lease);
        assert_eq!(second.known("web.0", at(0)).unwrap().in_flight(), 0);
        let third = Pool::new(&app(&["up", "up"]), Some(&second), epoch);
        assert!(
            !third.known("web.1", at(1)).unwrap().is_retired(),
            "up again: afresh"
        );
    }

    #[test]
    fn the_preferred_dyno_is_taken_while_it_is_eligible() {
        let now = clock::now();
        let pool = Pool::new(&app(&["up", "up", "up"]), None, now);
        for _ in 0..20 {
            assert!(matches!(
                pool.checkout(&[], Some("web.2"), b"", now),
                Checkout::Found(2)
            ));
        }
        pool.dyno(2)
            .unwrap()
            .quarantine(now + Duration::from_secs(5));
        for _ in 0..20 {
            assert!(matches!(
                pool.checkout(&[], Some("web.2"), b"", now),
                Checkout::Found(0 | 1)
            ));
        }
        assert!(matches!(
            pool.checkout(&[], Some("web.2"), b"", now + Duration::from_secs(6)),
            Checkout::Found(2)
        ));
    }

    proptest! {
        #[test]
        fn checkout_finds_an_eligible_dyno_iff_there_is_one(quarantined in proptest::collection::vec(any::<bool>(), 1..12), tried in any::<u16>()) {
            let now = clock::now();
            let pool = Pool::new(&app(&vec!["up"; quarantined.len()]), None, now);
            let mut tried_ids = Vec::new();
            let mut eligible = 0;
            for (n, dyno) in pool.all().enumerate() {
                if quarantined[n] {
                    dyno.quarantine(now + Duration::from_secs(1));
                }
                if tried >> n & 1 == 1 {
                    tried_ids.push(dyno.id());
                }
                eligible += usize::from(!quarantined[n] && tried >> n & 1 == 0);
            }
            let mut leases = Vec::new();
            for _ in 0..4 {
                match pool.checkout(&tried_ids, None, b"", now) {
                    Checkout::Found(index) => {
                        let dyno = pool.dyno(index).unwrap();
                        prop_assert!(dyno.quarantined_for(now).is_none() && !tried_ids.contains(&dyno.id()));
                        leases.push(Lease::new(dyno.clone()));
                    }
                    Checkout::Quarantined => prop_assert_eq!(eligible, 0),
                    Checkout::NotUp | Checkout::Never(_) => prop_assert!(false),
                }
            }
            prop_assert_eq!(pool.all().map(|dyno| dyno.in_flight()).sum::<u32>() as usize, leases.len());
            drop(leases);
            prop_assert_eq!(pool.all().map(|dyno| dyno.in_flight()).sum::<u32>(), 0);
        }
    }
}
