//! From a request's host to its app: parsing the host, the exact domain, else the wildcard. Hosts come in random order, so that with a million
//! domains the caches of the machine help as little as they do an edge router.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use router_benches::routes;

fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    for apps in [100, 100_000] {
        let domains = apps * routes::DOMAINS_PER_APP;
        let router = routes::router(&routes::document(1, apps, 0, ([127, 0, 0, 1], 5000).into()));
        // As many hosts of each kind as the smaller kinds have, so that their own memory weighs the same.
        let unknown: Vec<String> = routes::shuffled_hosts(apps, 2..3)
            .iter()
            .map(|host| format!("{host}.test"))
            .collect();
        for (kind, hosts, known) in [
            ("exact", routes::shuffled_hosts(apps, 2..3), true),
            ("wildcard", routes::shuffled_hosts(apps, 1..2), true),
            ("unknown", unknown, false),
        ] {
            let mut next = hosts.iter().cycle();
            group.bench_function(BenchmarkId::new(kind, domains), |bencher| {
                bencher.iter(|| {
                    let host = next.next().map_or("", String::as_str);
                    assert_eq!(router.knows(black_box(host)), known, "{host}");
                });
            });
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = router_benches::criterion();
    lookup(&mut criterion);
    criterion.final_summary();
}
