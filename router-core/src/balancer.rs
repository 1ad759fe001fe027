//! The order in which an app's dynos are tried. The only file that knows pingora-load-balancing: its `Backend` and its
//! `selection` algorithms, built once per formation, never its `LoadBalancer`. Every pick ends in a sweep over all
//! dynos, so it finds an eligible one if there is one.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use pingora_load_balancing::Backend;
use pingora_load_balancing::selection::consistent::KetamaHashing;
use pingora_load_balancing::selection::{BackendIter, BackendSelection, Random, RoundRobin};
use router_model::settings::Balancer as Algorithm;

use crate::dyno::Dyno;

/// The balancer of one formation.
pub(crate) struct Balancer {
    selection: Selection,
    /// Where each address stands among the pool's dynos, sorted by address.
    places: Box<[(SocketAddr, usize)]>,
}

enum Selection {
    /// Power of two choices over in-flight counts. pingora has no such algorithm, and the counts must outlive a
    /// formation.
    LeastRequests,
    Random(Arc<Random>),
    RoundRobin(Arc<RoundRobin>),
    ConsistentHash(Arc<KetamaHashing>),
}

impl Balancer {
    pub(crate) fn new(algorithm: Algorithm, dynos: &[Arc<Dyno>]) -> Self {
        let mut places: Box<[(SocketAddr, usize)]> = dynos
            .iter()
            .enumerate()
            .map(|(at, dyno)| (dyno.address(), at))
            .collect();
        places.sort_unstable();
        let selection = match algorithm {
            Algorithm::LeastRequests => Selection::LeastRequests,
            Algorithm::Random => Selection::Random(Arc::new(Random::build(&members(dynos)))),
            Algorithm::RoundRobin => {
                let round_robin = Arc::new(RoundRobin::build(&members(dynos)));
                // Its counter starts at 0 with every formation; without this each deploy would send its first requests
                // to the same dyno.
                for _ in 0..fastrand::usize(..dynos.len().max(1)) {
                    drop(round_robin.iter(&[]));
                }
                Selection::RoundRobin(round_robin)
            }
            Algorithm::ConsistentHash => {
                Selection::ConsistentHash(Arc::new(KetamaHashing::build(&members(dynos))))
            }
        };
        Self { selection, places }
    }

    /// The index of an eligible dyno, or `None` if there is none. `key` matters to `consistent_hash` only.
    pub(crate) fn pick(
        &self,
        dynos: &[Arc<Dyno>],
        key: &[u8],
        eligible: impl Fn(&Dyno) -> bool,
    ) -> Option<usize> {
        let chosen = match &self.selection {
            Selection::LeastRequests => return least_requests(dynos, eligible),
            // One draw, and one more if it was not eligible; the sweep is fairer than more draws with repetition.
            Selection::Random(random) => self.walk(random.iter(key), dynos, 2, &eligible),
            Selection::RoundRobin(round_robin) => {
                self.walk(round_robin.iter(key), dynos, 1, &eligible)
            }
            Selection::ConsistentHash(ring) => self.walk(
                ring.iter(key),
                dynos,
                dynos.len() * POINTS_PER_DYNO,
                &eligible,
            ),
        };
        chosen.or_else(|| sweep(dynos, eligible))
    }

    fn walk(
        &self,
        mut order: impl BackendIter,
        dynos: &[Arc<Dyno>],
        steps: usize,
        eligible: impl Fn(&Dyno) -> bool,
    ) -> Option<usize> {
        for _ in 0..steps {
            let address = *order.next()?.addr.as_inet()?;
            let place = self
                .places
                .binary_search_by_key(&address, |(address, _)| *address)
                .ok()?;
            let (_, index) = *self.places.get(place)?;
            if dynos.get(index).is_some_and(|dyno| eligible(dyno)) {
                return Some(index);
            }
        }
        None
    }
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.selection {
            Selection::LeastRequests => "least_requests",
            Selection::Random(_) => "random",
            Selection::RoundRobin(_) => "round_robin",
            Selection::ConsistentHash(_) => "consistent_hash",
        })
    }
}

/// Ketama puts each dyno on the ring 160 times; so many steps visit every dyno.
const POINTS_PER_DYNO: usize = 160;

fn members(dynos: &[Arc<Dyno>]) -> BTreeSet<Backend> {
    dynos
        .iter()
        .filter_map(|dyno| Backend::new(&dyno.address().to_string()).ok())
        .collect()
}

/// The less loaded of two dynos drawn at random; the least loaded of all if neither is eligible.
fn least_requests(dynos: &[Arc<Dyno>], eligible: impl Fn(&Dyno) -> bool) -> Option<usize> {
    let count = dynos.len();
    if count > 2 {
        let one = fastrand::usize(..count);
        let other = (one + 1 + fastrand::usize(..count - 1)) % count;
        let load = |index: usize| {
            dynos
                .get(index)
                .filter(|dyno| eligible(dyno))
                .map(|dyno| dyno.in_flight())
        };
        match (load(one), load(other)) {
            (Some(a), Some(b)) => return Some(if a <= b { one } else { other }),
            (Some(_), None) => return Some(one),
            (None, Some(_)) => return Some(other),
            (None, None) => {}
        }
    }
    sweep(dynos, eligible)
}

/// Looks at every dyno, from a random place on, and takes the least loaded eligible one.
fn sweep(dynos: &[Arc<Dyno>], eligible: impl Fn(&Dyno) -> bool) -> Option<usize> {
    let count = dynos.len();
    let start = if count == 0 {
        return None;
    } else {
        fastrand::usize(..count)
    };
    (0..count)
        .map(|step| (start + step) % count)
        .filter_map(|index| {
            dynos
                .get(index)
                .filter(|dyno| eligible(dyno))
                .map(|dyno| (dyno.in_flight(), index))
        })
        .min_by_key(|(load, _)| *load)
        .map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use router_model::app::DynoName;

    use super::*;
    use crate::clock;

    fn dynos(count: usize) -> Vec<Arc<Dyno>> {
        let epoch = clock::now();
        (0..count)
            .map(|n| {
                Arc::new(Dyno::new(
                    DynoName::parse(&format!("web.{n}")).unwrap(),
                    SocketAddr::from(([10, 0, 0, 1], 1000 + n as u16)),
                    epoch,
                ))
            })
            .collect()
    }

    const ALL: [Algorithm; 4] = [
        Algorithm::LeastRequests,
        Algorithm::Random,
        Algorithm::RoundRobin,
        Algorithm::ConsistentHash,
    ];

    proptest! {
        #[test]
        fn an_eligible_dyno_is_found_iff_there_is_one(eligible in proptest::collection::vec(any::<bool>(), 0..24), key in any::<[u8; 4]>()) {
            let dynos = dynos(eligible.len());
            let ok = |dyno: &Dyno| eligible[dyno.address().port() as usize - 1000];
            for algorithm in ALL {
                let balancer = Balancer::new(algorithm, &dynos);
                for _ in 0..8 {
                    let picked = balancer.pick(&dynos, &key, ok);
                    prop_assert_eq!(picked.is_some(), eligible.contains(&true));
                    if let Some(index) = picked {
                        prop_assert!(eligible[index]);
                    }
                }
            }
        }
    }

    #[test]
    fn round_robin_visits_all_in_turn() {
        let dynos = dynos(5);
        let balancer = Balancer::new(Algorithm::RoundRobin, &dynos);
        let mut counts = [0; 5];
        for _ in 0..50 {
            counts[balancer.pick(&dynos, b"", |_| true).unwrap()] += 1;
        }
        assert_eq!(counts, [10; 5]);
    }

    #[test]
    fn consistent_hash_moves_only_the_keys_of_a_lost_dyno() {
        let dynos = dynos(8);
        let balancer = Balancer::new(Algorithm::ConsistentHash, &dynos);
        for key in 0u32..200 {
            let key = key.to_le_bytes();
            let before = balancer.pick(&dynos, &key, |_| true).unwrap();
            let after = balancer
                .pick(&dynos, &key, |dyno| dyno.id() != dynos[3].id())
                .unwrap();
            if before == 3 {
                assert_ne!(after, 3);
            } else {
                assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn least_requests_keeps_the_load_even() {
        let dynos = dynos(10);
        let balancer = Balancer::new(Algorithm::LeastRequests, &dynos);
        for _ in 0..1000 {
            dynos[balancer.pick(&dynos, b"", |_| true).unwrap()].enter();
        }
        let most = dynos.iter().map(|dyno| dyno.in_flight()).max().unwrap();
        // 100 would be ideal; two choices keep the worst within a few of it, one choice would be 30 off.
        assert!(most < 115, "{most}");
    }
}
