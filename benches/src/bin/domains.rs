//! What a million domains cost: `domains [ROUTER]`. Times and lookups are of this process; with the path of a `router` binary also the memory of a
//! router that serves them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it measures and prints"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use router_benches::client::Client;
use router_benches::process::{RouterProcess, rss};
use router_benches::{dyno, routes};
use router_core::Router;
use router_core::model::snapshot;

const APPS: usize = 100_000;
const DOMAINS: u64 = (APPS * routes::DOMAINS_PER_APP) as u64;

fn main() {
    let dyno = dyno::start();
    let document = routes::document(1, APPS, 0, dyno);
    println!(
        "{APPS} apps, {DOMAINS} domains, a document of {}",
        megabytes(document.len() as u64)
    );
    in_this_process(&document, &routes::document(2, APPS, 1, dyno));
    if let Some(binary) = std::env::args_os().nth(1) {
        in_a_router(Path::new(&binary), dyno, &document);
    }
}

fn in_this_process(document: &[u8], update: &[u8]) {
    let before = rss("self");
    let router = Router::builder().workers(1).build().unwrap();
    apply(&router, document);
    let used = rss("self").saturating_sub(before);
    println!(
        "memory          {} per domain, {} in all, right after the snapshot was dropped",
        used / DOMAINS,
        megabytes(used)
    );
    println!("the same again, with one app changed:");
    apply(&router, update);
    for (kind, which) in [("exact", 2..10), ("wildcard", 1..2)] {
        let hosts = routes::shuffled_hosts(APPS, which);
        let begun = Instant::now();
        let found = hosts.iter().filter(|host| router.knows(host)).count();
        let each = begun.elapsed().as_nanos() / hosts.len() as u128;
        assert_eq!(found, hosts.len());
        println!("lookup          {each} ns, {kind}, random order");
    }
}

fn apply(router: &Router, document: &[u8]) {
    let begun = Instant::now();
    let snapshot = snapshot::parse(document).unwrap();
    let parsed = begun.elapsed();
    let begun = Instant::now();
    let applied = router.table().apply(&snapshot).unwrap();
    println!("parse           {} ms", parsed.as_millis());
    println!(
        "apply           {} ms, {} apps changed",
        begun.elapsed().as_millis(),
        applied.changed
    );
}

fn in_a_router(binary: &Path, dyno: std::net::SocketAddr, document: &[u8]) {
    let small = settled(binary, &routes::document(1, 1, 0, dyno));
    let large = settled(binary, document);
    let used = large.saturating_sub(small);
    println!(
        "router process  {} with one app, {} with all: {} per domain",
        megabytes(small),
        megabytes(large),
        used / DOMAINS
    );
}

/// The memory of a router once it serves the document and has given back what it needed for reading it.
fn settled(binary: &Path, document: &[u8]) -> u64 {
    let router = RouterProcess::start(binary, document);
    let begun = Instant::now();
    while Client::connect(router.address(), &routes::host(0, 0))
        .unwrap()
        .status()
        != 200
    {
        std::thread::sleep(Duration::from_millis(50));
    }
    println!(
        "router process  serves {} ms after it listens",
        begun.elapsed().as_millis()
    );
    router.settled_rss()
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}
