//! From a host to a dyno that may be called, for each balancer and size of formation: a lookup in a small table, the clock,
//! and the checkout. What a lease adds is two relaxed additions to a counter and a clone of an `Arc`.

use std::hint::black_box;

use router_testkit::{AppDoc, RouteDoc};

use super::Part;
use crate::routes::{self, HOST};

pub(super) fn all() -> Vec<Part> {
    let mut parts = Vec::new();
    for balancer in ["least_requests", "random", "round_robin", "consistent_hash"] {
        for dynos in [1, 3, 100] {
            parts.push(Part::new(
                format!("checkout/{balancer}/{dynos}"),
                move || checkout(balancer, dynos),
            ));
        }
    }
    parts
}

fn checkout(balancer: &str, dynos: u16) -> impl FnMut() + use<> {
    let mut app = AppDoc::new("shop")
        .domain(HOST)
        .setting("balancer", balancer);
    for number in 1..=dynos {
        app = app.web(number.into(), ([10, 0, 0, 1], 5000 + number).into());
    }
    let router = routes::router(&RouteDoc::new(1, &[app]).to_bytes());
    let mut client: u8 = 0;
    move || {
        client = client.wrapping_add(1);
        let dyno = router.next_dyno(HOST, black_box(&[10, 0, 7, client]));
        assert!(black_box(dyno).is_some());
    }
}
