//! A GET through real sockets on loopback: client, router with one worker, and dyno are threads of this process. `alone` is one request after the
//! other, mostly the kernel waking up threads; `64-at-once` keeps the worker busy. Compare with `direct`, the same without a router.

#![allow(
    clippy::unwrap_used,
    reason = "a bench: a surprise must end it at once"
)]

use std::net::SocketAddr;

use criterion::{Criterion, Throughput};
use router_benches::client::Client;
use router_benches::{dyno, routes};
use router_core::server::{ListenerSettings, Server};
use router_testkit::{AppDoc, RouteDoc};

const HOST: &str = "shop.example.com";

/// A router in front of the dyno, which runs until it is dropped with the process.
fn start(dyno: SocketAddr, keep_dyno_connections: bool) -> (Server, SocketAddr) {
    let app = AppDoc::new("shop")
        .domain(HOST)
        .web(1, dyno)
        .setting("dyno_keepalive", keep_dyno_connections);
    let router = routes::router(&RouteDoc::new(1, &[app]).to_bytes());
    let listener = ListenerSettings::http(([127, 0, 0, 1], 0).into());
    let server = Server::builder(router).listener(listener).start().unwrap();
    let address = *server.addresses().first().unwrap();
    (server, address)
}

fn get(criterion: &mut Criterion, name: &str, address: SocketAddr) {
    let mut group = criterion.benchmark_group("whole-path");
    for (how, connections) in [("alone", 1), ("64-at-once", 64)] {
        let mut clients: Vec<Client> = (0..connections)
            .map(|_| Client::connect(address, HOST).unwrap())
            .collect();
        group.throughput(Throughput::Elements(connections));
        group.bench_function(format!("{name}/{how}"), |bencher| {
            bencher.iter(|| {
                clients.iter_mut().for_each(Client::send);
                clients.iter_mut().for_each(Client::receive);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = router_benches::criterion();
    let dyno = dyno::start();
    get(&mut criterion, "direct", dyno);
    for (name, keep) in [
        ("kept-dyno-connections", true),
        ("new-dyno-connections", false),
    ] {
        let (_server, address) = start(dyno, keep);
        get(&mut criterion, name, address);
    }
    criterion.final_summary();
}
