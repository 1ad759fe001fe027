//! TLS to dynos: who a dyno has to be, what happens when it is somebody else, and when connections are kept.

use std::time::Duration;

use router_core::feed::{self, FeedOptions, FileFeed};
use router_testkit::{AppDoc, Ending, FakeDyno, LogRecord, RouteDoc, TestCa, eventually};
use serde_json::json;

use crate::world::{World, assert_served, get, ms, ok, post, shop};

/// The shop, all of whose dynos have to be certified by this authority.
fn shop_over_tls(ca: &TestCa) -> AppDoc {
    shop().setting("dyno_tls", json!({"verify": ca.pem()}))
}

/// The line of a request that found no dyno; web.1 was the last one tried.
fn assert_unconnected(record: &LogRecord, code: &str) {
    assert_eq!(
        (record.code(), record.status(), record.dyno()),
        (Some(code), Some(503), Some("web.1")),
        "{record:?}"
    );
    assert_eq!(record.service_ms(), None, "{record:?}");
}

async fn kept(world: &World, count: u64) {
    let kept = || (world.router.stats().kept_connections == count).then_some(());
    eventually("the connection is kept", kept).await;
}

#[tokio::test]
async fn a_dyno_that_proves_its_name_is_spoken_to_over_tls_and_kept() {
    let ca = TestCa::new("dynos");
    for name in ["web.1", "web.1.shop", "spiffe://platform.test/shop/web.1"] {
        let world = World::start();
        let dyno = FakeDyno::start_tls(&ca.certificate(&[name])).await;
        world.apply(&[shop_over_tls(&ca).web(1, dyno.address())]);
        let mut client = world.client().await;
        client.send(get("/1")).await;
        let (mut conn, head) = dyno.accept_and_answer(ok("first")).await;
        assert_eq!((conn.sni(), conn.is_resumed()), (None, false));
        // The client's side is what X-Forwarded-Proto is about.
        assert_eq!(head.header("x-forwarded-proto"), Some("http"));
        assert_eq!(client.read_response().await.text(), "first");
        assert_served(&world.log.next().await, "web.1", 200);
        kept(&world, 1).await;
        client.send(get("/2")).await;
        conn.answer(ok("second")).await;
        assert_eq!(client.read_response().await.text(), "second");
        assert_eq!(world.log.next().await.connect_ms(), Some(0));
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

#[tokio::test]
async fn the_second_connection_resumes_the_session_of_the_first() {
    let ca = TestCa::new("dynos");
    let world = World::start();
    let dyno = FakeDyno::start_tls(&ca.certificate(&["web.1"])).await;
    for (version, resumed) in [(1, false), (2, true), (3, true)] {
        // Sessions outlast versions of the app that change nothing about them.
        let app = shop_over_tls(&ca).domain(&format!("v{version}.shop.test"));
        world.apply(&[app.web(1, dyno.address())]);
        let mut client = world.client().await;
        client.send(get("/")).await;
        let (conn, _) = dyno.accept_and_answer(ok("fine")).await;
        assert_eq!(conn.is_resumed(), resumed, "version {version}");
        assert_eq!(client.read_response().await.text(), "fine");
        assert_served(&world.log.next().await, "web.1", 200);
        conn.close().await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_common_name_for_all_dynos_is_asked_for() {
    let ca = TestCa::new("dynos");
    let world = World::start();
    let dyno = FakeDyno::start_tls(&ca.certificate(&["dynos.internal"])).await;
    let settings = json!({"verify": ca.pem(), "identity": "dynos.internal"});
    world.apply(&[shop().setting("dyno_tls", settings).web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let (conn, _) = dyno.accept_and_answer(ok("fine")).await;
    assert_eq!(conn.sni(), Some("dynos.internal"));
    assert_eq!(client.read_response().await.text(), "fine");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_is_another_is_quarantined_and_the_next_one_tried() {
    let (ca, foreign) = (TestCa::new("dynos"), TestCa::new("dynos"));
    for certificate in [
        ca.certificate(&["web.3"]),
        ca.certificate(&["web.1.other"]),
        ca.certificate_valid(&["web.1"], -10..-1),
        foreign.certificate(&["web.1"]),
    ] {
        let world = World::with(|setup| setup.limits.quarantine = Duration::from_secs(60));
        let impostor = FakeDyno::start_tls(&certificate).await;
        let dyno = FakeDyno::start_tls(&ca.certificate(&["web.2"])).await;
        world.apply(&[shop_over_tls(&ca)
            .setting("balancer", "round_robin")
            .web(1, impostor.address())
            .web(2, dyno.address())]);
        let fails = async { assert!(impostor.try_accept().await.is_err()) };
        let requests = async {
            let mut client = world.client().await;
            client.send(get("/1")).await;
            let (mut conn, _) = dyno.accept_and_answer(ok("fine")).await;
            assert_eq!(client.read_response().await.text(), "fine");
            assert_served(&world.log.next().await, "web.2", 200);
            for _ in 0..3 {
                client.send(get("/more")).await;
                conn.answer(ok("more")).await;
                assert_eq!(client.read_response().await.text(), "more");
                assert_served(&world.log.next().await, "web.2", 200);
            }
        };
        tokio::join!(fails, requests);
        assert_eq!(world.seen.quarantined(), 1);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_request_never_reaches_a_dyno_that_proves_nothing() {
    let ca = TestCa::new("dynos");
    for speaks_tls in [true, false] {
        let world = World::start();
        let dyno = if speaks_tls {
            FakeDyno::start_tls(&ca.certificate(&["web.2"])).await
        } else {
            FakeDyno::start().await
        };
        world.apply(&[shop_over_tls(&ca).web(1, dyno.address())]);
        let mut client = world.client().await;
        client.send(get("/secret")).await;
        if speaks_tls {
            assert!(dyno.try_accept().await.is_err());
        } else {
            let mut conn = dyno.accept().await;
            conn.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
            let (bytes, _) = conn.read_until_end().await;
            assert!(!bytes.windows(7).any(|bytes| bytes == b"/secret"));
        }
        assert_eq!(client.read_response().await.status, 503);
        assert_unconnected(&world.log.next().await, "H21");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_a_connect_timeout() {
    let ca = TestCa::new("dynos");
    let world = World::with(|setup| setup.timeouts.connect = ms(100));
    let silent = FakeDyno::start().await;
    world.apply(&[shop_over_tls(&ca).web(1, silent.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let mut conn = silent.accept().await;
    assert_eq!(client.read_response().await.status, 503);
    assert_unconnected(&world.log.next().await, "H19");
    let (_, ending) = conn.read_until_end().await;
    assert_ne!(ending, Ending::Truncated);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_during_the_handshake_is_noticed() {
    let ca = TestCa::new("dynos");
    let world = World::start();
    let silent = FakeDyno::start().await;
    world.apply(&[shop_over_tls(&ca).web(1, silent.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let conn = silent.accept().await;
    client.reset();
    let record = world.log.next().await;
    assert_eq!((record.code(), record.status()), (Some("H27"), Some(499)));
    conn.close().await;
    world.finish().await;
}

#[tokio::test]
async fn a_kept_connection_is_not_used_on_other_terms() {
    let (ca, other) = (TestCa::new("dynos"), TestCa::new("others"));
    let world = World::start();
    let dyno = FakeDyno::start_tls(&ca.certificate(&["web.1"])).await;
    let app = |settings| shop().setting("dyno_tls", settings).web(1, dyno.address());
    let mut client = world.client().await;
    let mut conns = Vec::new();
    // Every change of the terms needs a handshake, and the last of them fails.
    for settings in [
        json!({"verify": "none", "identity": "none"}),
        json!({"verify": ca.pem(), "identity": "none"}),
        json!({"verify": ca.pem()}),
        json!({"verify": ca.pem() + &other.pem()}),
    ] {
        world.apply(&[app(settings)]);
        client.send(get("/")).await;
        let (conn, _) = dyno.accept_and_answer(ok("fine")).await;
        assert!(!conn.is_resumed());
        assert_eq!(client.read_response().await.text(), "fine");
        assert_served(&world.log.next().await, "web.1", 200);
        kept(&world, 1).await;
        conns.push(conn);
    }
    world.apply(&[app(json!({"verify": other.pem()}))]);
    client.send(get("/")).await;
    assert!(dyno.try_accept().await.is_err());
    assert_eq!(client.read_response().await.status, 503);
    assert_unconnected(&world.log.next().await, "H21");
    world.finish().await;
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_rejects_the_new_version_with_its_reason() {
    let world = World::start();
    let ca = TestCa::new("dynos");
    let dyno = FakeDyno::start_tls(&ca.certificate(&["web.1"])).await;
    world.apply(&[shop_over_tls(&ca).web(1, dyno.address())]);
    let broken = shop()
        .setting("dyno_tls", json!({"verify": "/nowhere/ca.pem"}))
        .web(1, dyno.address());
    let document = RouteDoc::new(world.next_revision(), &[broken]);
    let applied = world.apply_document(&document).unwrap();
    assert_eq!(applied.rejected[0].app, "shop");
    let reason = &applied.rejected[0].reason;
    assert!(
        reason.contains("dyno_tls.verify: /nowhere/ca.pem cannot be read"),
        "{reason}"
    );
    let mut client = world.client().await;
    client.send(get("/")).await;
    dyno.accept_and_answer(ok("as before")).await;
    assert_eq!(client.read_response().await.text(), "as before");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_authority_that_is_renewed_in_its_file_needs_no_new_document() {
    let (old, new) = (TestCa::new("dynos"), TestCa::new("dynos"));
    let world = World::with(|setup| setup.limits.quarantine = Duration::ZERO);
    let dyno = FakeDyno::start_tls(&new.certificate(&["web.1"])).await;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("ca.pem", &old.pem());
    let app = shop().setting("dyno_tls", json!({"verify": "ca.pem"}));
    let document = RouteDoc::new(1, &[app.web(1, dyno.address())]);
    write("routes.json", &document.to_string());
    let file = FileFeed::new(folder.path().join("routes.json"));
    let feed = feed::start(&world.router, file, FeedOptions::default());
    let loaded = || world.router.table().is_loaded().then_some(());
    eventually("the routes are there", loaded).await;
    let mut client = world.client().await;
    let mut attempts = 0;
    let mut conn = loop {
        client.send(get("/")).await;
        if let Ok(conn) = dyno.try_accept().await {
            break conn;
        }
        assert_eq!(client.read_response().await.status, 503);
        assert_unconnected(&world.log.next().await, "H21");
        attempts += 1;
        write("ca.pem", &new.pem());
        feed.look_at_files();
    };
    assert!(attempts > 0, "the first authority is another");
    conn.answer(ok("fine")).await;
    assert_eq!(client.read_response().await.text(), "fine");
    assert_served(&world.log.next().await, "web.1", 200);
    feed.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_goes_over_tls_too() {
    const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let ca = TestCa::new("dynos");
    let world = World::start();
    let dyno = FakeDyno::start_tls(&ca.certificate(&["web.1"])).await;
    world.apply(&[shop_over_tls(&ca).web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(UPGRADE).await;
    let (mut conn, _) = dyno.accept_and_answer(SWITCHING).await;
    assert_eq!(client.read_response().await.status, 101);
    for _ in 0..3 {
        client.send("ping").await;
        assert_eq!(conn.read_exact(4).await, b"ping");
        let large = "pong".repeat(20_000);
        conn.write(&large).await;
        assert_eq!(client.read_exact(large.len()).await, large.as_bytes());
    }
    conn.close().await;
    assert_eq!(client.expect_end().await, Ending::Closed);
    assert_eq!(world.log.next().await.status(), Some(101));
    world.finish().await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let ca = TestCa::new("dynos");
    let world = World::start();
    let dyno = FakeDyno::start_tls(&ca.certificate(&["web.1"])).await;
    world.apply(&[shop_over_tls(&ca).web(1, dyno.address())]);
    let body = "0123456789abcdef".repeat(100_000);
    let mut client = world.client().await;
    let request = post("/", &body);
    let dyno = async {
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        assert_eq!(conn.read_exact(body.len()).await, body.as_bytes());
        conn.write(ok(&body)).await;
        conn
    };
    let client = async {
        client.send(&request).await;
        assert_eq!(client.read_response().await.text(), body);
    };
    let (conn, ()) = tokio::join!(dyno, client);
    assert_served(&world.log.next().await, "web.1", 200);
    drop(conn);
    world.finish().await;
}
