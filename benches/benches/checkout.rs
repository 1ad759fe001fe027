//! From a host to a dyno that may be called, for each balancer and size of formation: a lookup in a small table, the clock, and the checkout. What a
//! lease adds is two relaxed additions to a counter and a clone of an `Arc`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion};
use router_core::Router;
use router_testkit::{AppDoc, RouteDoc};

const HOST: &str = "shop.example.com";

fn router(balancer: &str, dynos: u16) -> Router {
    let mut app = AppDoc::new("shop")
        .domain(HOST)
        .setting("balancer", balancer);
    for number in 1..=dynos {
        app = app.web(number.into(), ([10, 0, 0, 1], 5000 + number).into());
    }
    router_benches::routes::router(&RouteDoc::new(1, &[app]).to_bytes())
}

fn checkout(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checkout");
    for balancer in ["least_requests", "random", "round_robin", "consistent_hash"] {
        for dynos in [1, 3, 100] {
            let router = router(balancer, dynos);
            let mut client: u8 = 0;
            group.bench_function(BenchmarkId::new(balancer, dynos), |bencher| {
                bencher.iter(|| {
                    client = client.wrapping_add(1);
                    let dyno = router.next_dyno(HOST, black_box(&[10, 0, 7, client]));
                    assert!(dyno.is_some());
                    dyno
                });
            });
        }
    }
    group.finish();
}

fn main() {
    let mut criterion = router_benches::criterion();
    checkout(&mut criterion);
    criterion.final_summary();
}
