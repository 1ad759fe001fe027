//! What ten thousand certificates cost: reading them, memory, publishing them again, and whether a handshake notices
//! how many there are. All in this process, with a router of one worker for each number.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "it measures and prints"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use router_benches::process::rss;
use router_core::Router;
use router_core::server::{ListenerSettings, Server, TlsListenerSettings};
use router_core::tls::{CertificateStore, Origin, folder};
use router_testkit::{RawClient, TestCa, TestCertificate, TlsDialer};

const MANY: usize = 10_000;
/// Handshakes that are measured for each number of certificates; in turns, so that both see the same machine.
const HANDSHAKES: usize = 2_000;
const TURNS: usize = 20;

fn main() {
    let ca = TestCa::new("root").intermediate("middle");
    let name = |nth: usize| format!("shop-{nth}.customers.example");
    let names = |nth| [name(nth), format!("www.{}", name(nth))];
    let pairs: Vec<TestCertificate> = (0..MANY)
        .map(|nth| ca.certificate(&names(nth).each_ref().map(String::as_str)))
        .collect();

    let router = Router::builder().workers(1).build().unwrap();
    let store = router.certificates();
    let before = rss("self");
    publish(store, &pairs, "read and publish");
    let used = rss("self").saturating_sub(before);
    println!(
        "memory                    {} bytes each",
        used / MANY as u64
    );
    publish(store, &pairs, "publish the same again");
    from_a_folder(&pairs);

    let single = Router::builder().workers(1).build().unwrap();
    publish(single.certificates(), &pairs[..1], "(a store of one)");
    handshakes(router, single, name);
}

fn publish(store: &CertificateStore, pairs: &[TestCertificate], what: &str) {
    let begun = Instant::now();
    let read = pairs.iter().map(|pair| {
        let (chain, key) = (pair.chain_pem().as_bytes(), pair.key_pem().as_bytes());
        store.read_pem(chain, key).unwrap()
    });
    store.replace(Origin::Document, read.collect());
    println!("{what:25} {} ms", begun.elapsed().as_millis());
}

fn from_a_folder(pairs: &[TestCertificate]) {
    let directory = tempfile::tempdir().unwrap();
    for (nth, pair) in pairs.iter().enumerate() {
        let write = |extension: &str, text| {
            std::fs::write(directory.path().join(format!("{nth}.{extension}")), text).unwrap();
        };
        write("crt", pair.chain_pem());
        write("key", pair.key_pem());
    }
    let begun = Instant::now();
    assert_eq!(folder::check(directory.path()).certificates, pairs.len());
    println!(
        "read from a directory     {} ms",
        begun.elapsed().as_millis()
    );
}

fn handshakes(many: Router, single: Router, name: impl Fn(usize) -> String) {
    let (many, single) = (serve(many), serve(single));
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut times = [Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        for nth in 0..HANDSHAKES / TURNS {
            let other = 1 + (turn * 7919 + nth * 4801) % (MANY - 1);
            times[0].push(client.block_on(handshake(single.addresses()[0], &name(0))));
            times[1].push(client.block_on(handshake(many.addresses()[0], &name(other))));
        }
    }
    for (count, times) in [1, MANY].into_iter().zip(&mut times) {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100].as_micros();
        println!(
            "full handshake            {} us median, {} us p90, with {count} certificates",
            at(50),
            at(90)
        );
    }
    client.block_on(async {
        many.drain(Duration::from_secs(1)).await;
        single.drain(Duration::from_secs(1)).await;
    });
}

fn serve(router: Router) -> Server {
    let listener = ListenerSettings {
        tls: Some(TlsListenerSettings::default()),
        ..ListenerSettings::http(([127, 0, 0, 1], 0).into())
    };
    Server::builder(router).listener(listener).start().unwrap()
}

/// From the connection to the end of the handshake, by a client that remembers no session.
async fn handshake(address: SocketAddr, name: &str) -> Duration {
    let dialer = TlsDialer::trusting_anyone(name);
    let begun = Instant::now();
    let client = RawClient::connect_tls(address, &dialer).await;
    let took = begun.elapsed();
    assert!(!client.tls().resumed);
    client.close().await;
    took
}
