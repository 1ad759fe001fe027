//! A router whose routes come from etcd, with clients: whatever happens to the store, no request fails.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use router_core::Router;
use router_core::feed::{self, EtcdFeed, EtcdFeedSettings, FeedHandle, FeedOptions};
use router_testkit::{
    AppDoc, DEADLINE, FakeDyno, RawClient, ServingDyno, TestCa, eventually, refused_address,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::etcd_server::{EtcdServer, Gate, PREFIX};
use crate::world::{World, assert_served, get, ok, shop};

fn follow(router: &Router, etcd: &EtcdServer, options: FeedOptions) -> FeedHandle {
    follow_at(router, &[etcd.address()], options)
}

fn follow_at(
    router: &Router,
    endpoints: &[std::net::SocketAddr],
    options: FeedOptions,
) -> FeedHandle {
    let endpoints = endpoints.iter().map(|address| format!("http://{address}"));
    let settings = EtcdFeedSettings {
        prefix: PREFIX.to_owned(),
        heartbeat: Duration::from_millis(200),
        answer: Duration::from_millis(500),
        silence: Duration::from_secs(2),
        ..EtcdFeedSettings::new(endpoints.collect())
    };
    feed::start(router, EtcdFeed::new(settings).expect("settings"), options)
}

fn cached(folder: &Path) -> FeedOptions {
    FeedOptions {
        cache: Some(folder.join("cache.json")),
        ..FeedOptions::default()
    }
}

async fn dyno_of(name: &'static str) -> ServingDyno {
    FakeDyno::respond_with(move |_| ok(name).into_bytes()).await
}

async fn at_revision(feed: &FeedHandle, revision: u64) {
    let waited = tokio::time::timeout(DEADLINE, feed.wait_for(revision)).await;
    assert!(waited.is_ok(), "{revision}: {:?}", feed.status());
}

/// Waits until the feed complains of something in these words.
async fn last_error(feed: &FeedHandle, words: &str) {
    eventually(words, || {
        let error = feed.status().last_error;
        error.filter(|error| error.contains(words))
    })
    .await;
}

async fn check_answers(world: &World, expected: &str) {
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.text(), expected);
    assert_served(&world.log.next().await, "web.1", 200);
}

/// Clients that ask for the shop again and again, and want the same answer.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
}

impl Load {
    fn on(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..2).map(|number| {
            let (stop, address) = (Arc::clone(&stop), world.address());
            tokio::spawn(async move {
                let mut requests = 0;
                while !stop.load(Ordering::Relaxed) {
                    // One with new connections, one with a kept one.
                    let mut client = RawClient::connect(address).await;
                    for _ in 0..if number == 0 { 1 } else { 50 } {
                        let response = client.exchange(get("/")).await;
                        assert_eq!((response.status, response.text()), (200, "shop".to_owned()));
                        requests += 1;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                requests
            })
        });
        Self {
            clients: clients.collect(),
            stop,
        }
    }

    /// Ends it; every request was answered by the shop, and is in the log as that.
    async fn finish(self, world: &World) {
        self.stop.store(true, Ordering::Relaxed);
        let mut requests = 0;
        for client in self.clients {
            requests += client.await.expect("no request failed");
        }
        assert!(requests > 0);
        for _ in 0..requests {
            assert_served(&world.log.next().await, "web.1", 200);
        }
    }
}

#[tokio::test]
async fn nothing_that_happens_to_the_store_fails_a_request() {
    let mut etcd = EtcdServer::start().await;
    let gate = Gate::to(etcd.address()).await;
    let (dyno, world) = (dyno_of("shop").await, World::start());
    let app = shop().web(1, dyno.address());
    let listed = etcd.put_app("shop", &app).await;
    let feed = follow_at(&world.router, &[gate.address()], FeedOptions::default());
    at_revision(&feed, listed).await;
    let load = Load::on(&world);
    etcd.kill();
    last_error(&feed, "etcd at").await;
    etcd.restart().await;
    let other = AppDoc::new("other").domain("other.test");
    at_revision(&feed, etcd.put_app("other", &other).await).await;

    gate.swallow();
    let revision = etcd
        .put_app("other", &other.clone().domain("another.test"))
        .await;
    etcd.compact().await;
    last_error(&feed, "no answer").await;
    gate.open();
    at_revision(&feed, revision).await;

    etcd.pause();
    last_error(&feed, "no answer").await;
    etcd.resume();

    let poison = [
        ("apps/shop", Some("{\"name\":")),
        ("apps/other", Some("\0")),
    ];
    at_revision(&feed, etcd.transaction(&poison).await).await;
    assert_eq!(feed.status().rejected.len(), 2, "{:?}", feed.status());
    at_revision(&feed, etcd.put_app("shop", &app).await).await;

    etcd.delete_all().await;
    last_error(&feed, "no app would be left").await;

    etcd.wipe().await;
    last_error(&feed, "was wiped").await;
    let in_force = feed.status().revision;
    let meta = json!({"revision_base": in_force, "allow_shrink": true});
    etcd.put("meta", &meta.to_string()).await;
    let back = etcd.put_app("shop", &app).await;
    at_revision(&feed, in_force.unwrap() + back).await;
    assert_eq!(feed.status().rejected, []);

    load.finish(&world).await;
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn a_router_that_starts_while_the_store_is_gone_serves_what_it_knew() {
    let mut etcd = EtcdServer::start().await;
    let dyno = dyno_of("shop").await;
    let folder = tempfile::tempdir().unwrap();
    let listed = etcd.put_app("shop", &shop().web(1, dyno.address())).await;
    {
        let world = World::start();
        let feed = follow(&world.router, &etcd, cached(folder.path()));
        at_revision(&feed, listed).await;
        // A change after the document, so that both are on disk.
        let other = AppDoc::new("other").domain("other.test");
        let revision = etcd.put_app("other", &other).await;
        at_revision(&feed, revision).await;
        eventually("it is on disk", || {
            let cache = feed.status().cache?;
            (cache.revision == Some(revision)).then_some(())
        })
        .await;
        feed.stop().await;
        world.finish().await;
    }
    etcd.kill();
    let world = World::start();
    let feed = follow(&world.router, &etcd, cached(folder.path()));
    eventually("the routes of the cache", || {
        let loaded = world.router.table().is_loaded();
        (loaded && feed.status().stale).then_some(())
    })
    .await;
    check_answers(&world, "shop").await;
    etcd.restart().await;
    eventually("what it knew is confirmed", || {
        (!feed.status().stale).then_some(())
    })
    .await;
    let next = dyno_of("next").await;
    let revision = etcd.put_app("shop", &shop().web(1, next.address())).await;
    at_revision(&feed, revision).await;
    check_answers(&world, "next").await;
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn the_guard_holds_until_the_store_says_that_shrinking_is_meant() {
    let etcd = EtcdServer::start().await;
    let (dyno, world) = (dyno_of("shop").await, World::start());
    let app = shop().web(1, dyno.address());
    etcd.put_app("shop", &app).await;
    let other = AppDoc::new("other").domain("other.test");
    let listed = etcd.put_app("other", &other).await;
    let feed = follow(&world.router, &etcd, FeedOptions::default());
    at_revision(&feed, listed).await;
    // Without the word in the same transaction, it is refused, and stays so.
    etcd.delete("apps/other").await;
    eventually("it is withheld", || feed.status().withheld).await;
    assert_eq!(feed.status().revision, Some(listed));
    let said = etcd.put("meta", "{\"allow_shrink\": true}").await;
    at_revision(&feed, said).await;
    assert_eq!(world.router.table().app_count(), 1);
    // The word was for that one time.
    etcd.put_app("other", &other).await;
    at_revision(&feed, etcd.put_app("third", &AppDoc::new("third")).await).await;
    etcd.delete("apps/other").await;
    eventually("it is withheld", || feed.status().withheld).await;
    assert_eq!(world.router.table().app_count(), 3);
    let both = [
        ("apps/other", None),
        ("meta", Some("{\"allow_shrink\": true}")),
    ];
    at_revision(&feed, etcd.transaction(&both).await).await;
    assert_eq!(world.router.table().app_count(), 2);
    check_answers(&world, "shop").await;
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn a_wiped_store_may_be_confirmed_by_hand() {
    let mut etcd = EtcdServer::start().await;
    let (dyno, next) = (dyno_of("shop").await, dyno_of("next").await);
    let world = World::start();
    for _ in 0..5 {
        etcd.put_app("shop", &shop().web(1, dyno.address())).await;
    }
    let listed = etcd.put_app("shop", &shop().web(1, dyno.address())).await;
    let feed = follow(&world.router, &etcd, FeedOptions::default());
    at_revision(&feed, listed).await;
    etcd.wipe().await;
    let fresh = etcd.put_app("shop", &shop().web(1, next.address())).await;
    let withheld = eventually("what is there now is withheld", || {
        // Acknowledgements make revisions, too.
        let withheld = feed.status().withheld;
        withheld.filter(|withheld| withheld.revision >= fresh)
    })
    .await;
    check_answers(&world, "shop").await;
    assert!(feed.confirm(withheld.revision));
    eventually("it is believed", || {
        feed.status().withheld.is_none().then_some(())
    })
    .await;
    check_answers(&world, "next").await;
    // And followed from there.
    let revision = etcd.put_app("shop", &shop().web(1, dyno.address())).await;
    at_revision(&feed, revision).await;
    check_answers(&world, "shop").await;
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn certificates_come_from_the_store() {
    let etcd = EtcdServer::start().await;
    let world = World::start();
    let ca = TestCa::new("root");
    let (old, new) = (ca.certificate(&["a.test"]), ca.certificate(&["a.test"]));
    let value = |certificate: &router_testkit::TestCertificate| {
        json!({"chain": certificate.chain_pem(), "key": certificate.key_pem()}).to_string()
    };
    etcd.put_app("a", &AppDoc::new("a").domain("a.test")).await;
    let listed = etcd.put("certs/a.test", &value(&old)).await;
    let feed = follow(&world.router, &etcd, FeedOptions::default());
    at_revision(&feed, listed).await;
    let answering = || {
        let found = world.router.certificates().resolve("a.test");
        found.map(|certificate| certificate.fingerprint())
    };
    assert_eq!(answering(), Some(old.fingerprint()));
    at_revision(&feed, etcd.put("certs/a.test", &value(&new)).await).await;
    assert_eq!(answering(), Some(new.fingerprint()));
    at_revision(&feed, etcd.put("certs/bad", "KEY").await).await;
    assert_eq!(answering(), Some(new.fingerprint()));
    let rejected = feed.status().rejected;
    assert_eq!(rejected[0].app, "certificates[1]", "{rejected:?}");
    // What is bad now may be the next version of what was there before.
    at_revision(&feed, etcd.delete("certs/bad").await).await;
    at_revision(&feed, etcd.delete("certs/a.test").await).await;
    assert_eq!(answering(), None);
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn a_deployer_sees_in_the_store_that_a_router_has_it() {
    let etcd = EtcdServer::start().await;
    let world = World::start();
    etcd.put_app("a", &AppDoc::new("a").domain("a.test")).await;
    let options = FeedOptions {
        router_id: "edge-1".to_owned(),
        ..FeedOptions::default()
    };
    let feed = follow(&world.router, &etcd, options);
    for (poison, rejected) in [(None, 0), (Some("nonsense"), 1)] {
        let revision = match poison {
            None => etcd.put_app("b", &AppDoc::new("b")).await,
            Some(poison) => etcd.put("apps/b", poison).await,
        };
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let ack = etcd.get("acks/edge-1").await;
            let ack: Option<Value> = ack.map(|(text, _)| serde_json::from_str(&text).unwrap());
            if ack.as_ref().is_some_and(|ack| ack["revision"] == revision) {
                assert_eq!(ack.unwrap()["rejected"].as_array().unwrap().len(), rejected);
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{ack:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn one_of_several_endpoints_is_enough() {
    let etcd = EtcdServer::start().await;
    let world = World::start();
    let listed = etcd.put_app("a", &AppDoc::new("a").domain("a.test")).await;
    let endpoints = [refused_address(), etcd.address()];
    let feed = follow_at(&world.router, &endpoints, FeedOptions::default());
    at_revision(&feed, listed).await;
    eventually("all is well", || {
        feed.status().last_error.is_none().then_some(())
    })
    .await;
    feed.stop().await;
    world.finish().await;
}
