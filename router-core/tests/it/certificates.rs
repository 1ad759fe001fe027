//! Certificates that change while clients shake hands: no handshake fails, and each gets the old or the new.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use router_core::server::{ListenerSettings, Server, TlsListenerSettings};
use router_core::tls::{DefaultCertificate, Origin, folder};
use router_core::{Event, Router};
use router_testkit::{RawClient, TestCa, TestCertificate, TlsDialer, eventually};
use tempfile::TempDir;

use crate::world::{World, certificate};

/// Clients that shake hands with these names in a loop until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(world: &World, names: &[&'static str]) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let start = |name: &&'static str| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (address, dialer) = (world.https_address(), world.dialer(name));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    // A dialer of its own each time: nothing is resumed, every handshake is a full one.
                    let fresh = dialer.clone().only("tls1.3");
                    RawClient::connect_tls(address, &fresh).await.close().await;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        Self {
            clients: names.iter().map(start).collect(),
            stop,
            done,
        }
    }

    /// Waits until so many more handshakes are through.
    async fn more(&self, count: usize) {
        let until = self.done.load(Ordering::SeqCst) + count;
        let enough = || (self.done.load(Ordering::SeqCst) >= until).then_some(());
        eventually("handshakes", enough).await;
    }

    /// A client whose handshake failed panics here.
    async fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
    }
}

fn assert_no_failure(world: &World) {
    let events = world.seen.take_handshakes();
    let failed = events
        .iter()
        .find(|event| !matches!(event, Event::TlsHandshake { .. }));
    assert_eq!(failed, None);
    assert!(events.len() > 100, "{}", events.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load_without_a_failed_handshake() {
    let world = World::with(|setup| {
        setup.workers = Some(2);
        // Not trusted by the clients: whoever gets the default has been let down.
        setup.https().default = Some(TestCa::new("other").certificate(&["default.test"]));
    });
    let store = world.router.certificates();
    let make = |names: &[&str]| Arc::new(certificate(&world.ca().certificate(names)));
    store.replace(Origin::Folder, vec![make(&["a.test"]), make(&["*.b.test"])]);
    let load = Load::start(&world, &["a.test", "x.b.test", "y.b.test", "a.test"]);
    for round in 0..30 {
        // The names move from one certificate and one origin to the next, added before they are removed.
        let (from, to) = match round % 2 {
            0 => (Origin::Folder, Origin::Document),
            _ => (Origin::Document, Origin::Folder),
        };
        store.replace(
            to,
            vec![make(&["x.b.test", "y.b.test"]), make(&["a.test", "z.test"])],
        );
        store.replace(from, Vec::new());
        store.insert(Origin::Acme, make(&["z.test"]));
        load.more(8).await;
    }
    load.finish().await;
    assert_no_failure(&world);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_changes_under_load_without_a_failed_handshake() {
    let world = World::with(|setup| {
        setup.https().default = Some(TestCa::new("other").certificate(&["default.test"]));
    });
    let directory = TempDir::new().unwrap();
    let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
    let put = |name: &str, pair: &TestCertificate| {
        write(&format!("{name}.crt"), pair.chain_pem());
        write(&format!("{name}.key"), pair.key_pem());
    };
    put("a", &world.ca().certificate(&["a.test"]));
    let handle = folder::start(world.router.certificates(), directory.path()).await;
    let load = Load::start(&world, &["a.test", "a.test", "a.test"]);
    let mut name = "a";
    for round in 0..12 {
        let next = world.ca().certificate(&["a.test"]);
        match round % 3 {
            // In place, first half of it.
            0 => {
                write(&format!("{name}.crt"), &next.chain_pem()[..200]);
                load.more(20).await;
                put(name, &next);
            }
            // Under another name, with the old one removed.
            1 => {
                let other = if name == "a" { "b" } else { "a" };
                put(other, &next);
                for extension in ["crt", "key"] {
                    std::fs::remove_file(directory.path().join(format!("{name}.{extension}")))
                        .unwrap();
                }
                name = other;
            }
            // Renamed into place, one file after the other.
            _ => {
                put("new", &next);
                for extension in ["key", "crt"] {
                    let path = |name| directory.path().join(format!("{name}.{extension}"));
                    std::fs::rename(path("new"), path(name)).unwrap();
                }
            }
        }
        let served = || {
            let served = world.router.certificates().resolve("a.test")?;
            (served.fingerprint() == next.fingerprint()).then_some(())
        };
        eventually("the new certificate", served).await;
        load.more(10).await;
    }
    load.finish().await;
    assert_no_failure(&world);
    let settled = || handle.status().rejected.is_empty().then_some(());
    eventually("no rejection is left", settled).await;
    handle.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn the_default_certificate_follows_its_files() {
    let ca = TestCa::new("root");
    let directory = TempDir::new().unwrap();
    let (chain, key) = (
        directory.path().join("d.pem"),
        directory.path().join("d-key.pem"),
    );
    let put = |pair: &TestCertificate| {
        std::fs::write(&chain, pair.chain_pem()).unwrap();
        std::fs::write(&key, pair.key_pem()).unwrap();
    };
    put(&ca.certificate(&["a.test"]));
    let default = Arc::new(DefaultCertificate::from_files(&chain, &key).unwrap());
    let watch = default.watch(&chain, &key);
    let router = Router::builder().workers(1).build().unwrap();
    let listener = ListenerSettings {
        tls: Some(TlsListenerSettings {
            default: Some(Arc::clone(&default)),
            ..TlsListenerSettings::default()
        }),
        ..ListenerSettings::http(([127, 0, 0, 1], 0).into())
    };
    let server = Server::builder(router).listener(listener).start().unwrap();
    let (newer, address) = (ca.certificate(&["a.test"]), server.addresses()[0]);
    put(&newer);
    let is_newer = || (default.current().fingerprint() == newer.fingerprint()).then_some(());
    eventually("the newer pair", is_newer).await;
    std::fs::write(&key, "rubbish").unwrap();
    let error = eventually("an error", || watch.last_error()).await;
    assert!(
        error.contains("d-key.pem") && error.contains("private key"),
        "{error}"
    );
    let client = RawClient::connect_tls(address, &TlsDialer::trusting(&ca, "a.test")).await;
    assert_eq!(client.tls().certificate, newer.der());
    client.close().await;
    watch.stop().await;
    server.drain(crate::world::ms(1_000)).await;
    std::fs::remove_file(&chain).unwrap();
    let missing = DefaultCertificate::from_files(&chain, &key)
        .unwrap_err()
        .to_string();
    assert!(missing.starts_with(&*chain.to_string_lossy()), "{missing}");
}
