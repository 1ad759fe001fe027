//! The whole path through real sockets on loopback: clients, a router with one worker, and the dyno are threads of this
//! process. With `alone` one request comes after the other, mostly the kernel waking up threads; all others keep the worker
//! busy. Compare with `direct`, the same without a router. The whole path over in-memory pipes is among the parts.

#![allow(
    clippy::unwrap_used,
    reason = "a bench: a surprise must end it at once"
)]

use std::net::SocketAddr;

use criterion::{Criterion, Throughput};
use router_benches::client::Client;
use router_benches::load::{Site, Work};
use router_benches::{dyno, routes};

fn alone(criterion: &mut Criterion, name: &str, address: SocketAddr) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut client = None;
    group.bench_function("h1-alone", |bencher| {
        let connect = || Client::connect(address, routes::HOST).unwrap();
        let client = client.get_or_insert_with(connect);
        bencher.iter(|| {
            client.send();
            client.receive();
        });
    });
    group.finish();
}

fn under(criterion: &mut Criterion, name: &str, site: &Site, work: Work, address: SocketAddr) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(work.operations() as u64));
    let mut load = None;
    group.bench_function(work.name(), |bencher| {
        let load = load.get_or_insert_with(|| site.open(work, address));
        bencher.iter(|| load.round());
    });
    group.finish();
}

fn main() {
    let mut criterion = router_benches::criterion();
    let dyno = dyno::start();
    let kept = Site::new(dyno, true);
    let served = kept.serve();
    alone(&mut criterion, "whole-path", served.address(false));
    for work in Work::ALL {
        let address = served.address(work.is_tls());
        under(&mut criterion, "whole-path", &kept, work, address);
    }
    let new = Site::new(dyno, false);
    let (served, name) = (new.serve(), "whole-path-new-dyno-connections");
    under(&mut criterion, name, &new, Work::H1, served.address(false));
    alone(&mut criterion, "direct", dyno);
    for work in [Work::H1, Work::WebSocket, Work::Connections] {
        under(&mut criterion, "direct", &kept, work, dyno);
    }
    criterion.final_summary();
}
