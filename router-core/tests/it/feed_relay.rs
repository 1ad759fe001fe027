//! Relays: what a source says reaches any number of routers through any number of relays, whoever is slow, new, late or
//! wrong; and a deployer knows when.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use router_core::Router;
use router_core::feed::{
    self, FeedOptions, HttpFeed, HttpFeedSettings, PublishError, PublishSettings, PublishTls,
    Publisher,
};
use router_testkit::{
    AppDoc, FakeDyno, RawClient, RouteDoc, ServingDyno, TestCa, TlsDialer, eventually,
};
use serde_json::{Value, json};

use crate::relay_world::{Lines, Relay, Script, at, options, scripted};
use crate::world::{World, get, ok, shop};

fn app(name: &str) -> AppDoc {
    AppDoc::new(name).domain(&format!("{name}.test"))
}

fn apps(revision: u64, names: &[&str]) -> RouteDoc {
    let apps: Vec<_> = names.iter().map(|name| app(name)).collect();
    RouteDoc::new(revision, &apps)
}

fn upsert(from: u64, to: u64, app: &AppDoc) -> String {
    json!({"from": from, "to": to, "changes": [{"app": app.to_json()}]}).to_string()
}

async fn relay_at(document: &RouteDoc, revision: u64) -> (Script, Relay) {
    let (script, feed) = scripted();
    let relay = Relay::start(feed).await;
    script.document(document);
    relay.at(revision).await;
    (script, relay)
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn names(document: &Value) -> Vec<&str> {
    let apps = document["apps"].as_array().expect("apps");
    apps.iter()
        .map(|app| app["name"].as_str().unwrap())
        .collect()
}

async fn ask(relay: &Relay, target: &str, headers: &str) -> router_testkit::RawResponse {
    let request = format!("GET {target} HTTP/1.1\r\nHost: relay\r\n{headers}\r\n");
    relay.client().await.exchange(request).await
}

#[tokio::test]
async fn nothing_is_passed_on_that_routers_would_refuse() {
    let (script, relay) = relay_at(&apps(1, &["a", "b", "c", "d"]), 1).await;
    let mut reader = relay.reader("").await;
    assert_eq!(names(&parsed(&reader.next().await)), ["a", "b", "c", "d"]);
    // b is wrong and stays as it was, c is gone, e is wrong and was never there.
    script.text(
        &json!({"format": 1, "revision": 2, "x-new": {"kept": [1, 2]}, "apps": [
            app("a").setting("http2", false).field("new", json!("kept")).to_json(),
            {"name": "b", "domains": 7},
            app("d").to_json(),
            {"name": "e"},
            app("z").to_json(),
        ]})
        .to_string(),
    );
    relay.at(2).await;
    assert_eq!(relay.feed.status().rejected.len(), 2);
    // What the router does not know concerns the whole document.
    let whole = parsed(&reader.news().await);
    assert_eq!(
        (names(&whole), &whole["revision"]),
        (vec!["a", "b", "d", "e", "z"], &json!(2))
    );
    assert_eq!(whole["x-new"], json!({"kept": [1, 2]}));
    assert_eq!(whole["apps"][0]["new"], "kept");
    assert_eq!(whole["apps"][1]["domains"], json!(["b.test"]));
    // Whoever has had it keeps it.
    assert!(whole["apps"][3]["unreadable"].is_string(), "{whole}");
    // A change that is wrong in part.
    script.change(
        &json!({"from": 2, "to": 3, "changes": [
            {"app": {"name": "a", "domains": []}}, {"app": app("f").to_json()}, {"remove": "d"}, {"strange": 1}
        ]})
        .to_string(),
    );
    relay.at(3).await;
    let change = parsed(&reader.news().await);
    assert_eq!(
        change,
        json!({"from": 2, "to": 3, "changes": [{"app": app("f").to_json()}, {"remove": "d"}]})
    );
    // A document without most of the routes.
    script.document(&apps(4, &["a"]));
    eventually("the document is refused", || relay.feed.status().withheld).await;
    script.document(&apps(5, &["a", "b", "f", "g", "z"]));
    let whole = parsed(&reader.news().await);
    assert_eq!(
        (names(&whole), &whole["revision"], &whole["x-new"]),
        (vec!["a", "b", "f", "g", "z"], &json!(5), &Value::Null)
    );
    relay.stop().await;
}

#[tokio::test]
async fn documents_become_changes_and_equal_ones_nothing() {
    let (script, relay) = relay_at(&apps(1, &["a", "b", "c", "d"]), 1).await;
    let mut reader = relay.reader("?since=1").await;
    assert_eq!(reader.next().await, "{\"heartbeat\":1}");
    // The same routes, written in another way.
    script.text(&format!(
        "{:#}",
        parsed(&apps(2, &["d", "c", "b", "a"]).to_string())
    ));
    assert_eq!(
        parsed(&reader.news().await),
        json!({"from": 1, "to": 2, "changes": []})
    );
    let moved = [
        app("a"),
        app("b").domain("d.test"),
        app("c"),
        AppDoc::new("d"),
    ];
    script.document(&RouteDoc::new(3, &moved));
    let change = parsed(&reader.news().await);
    assert_eq!(
        change["changes"].as_array().map(Vec::len),
        Some(2),
        "{change}"
    );
    let ca = TestCa::new("a");
    let certified = RouteDoc::new(4, &moved).certificate(&ca.certificate(&["a.test"]));
    script.document(&certified);
    let change = parsed(&reader.news().await);
    assert_eq!(change["changes"], json!([]));
    assert_eq!(
        change["certificates"],
        parsed(&certified.to_string())["certificates"]
    );
    script.document(&RouteDoc::new(5, &moved));
    let change = parsed(&reader.news().await);
    assert_eq!(
        (&change["changes"], &change["certificates"]),
        (&json!([]), &json!([]))
    );
    // Nothing new is nothing to say.
    script.document(&RouteDoc::new(5, &moved));
    script.document(&RouteDoc::new(6, &moved));
    assert_eq!(
        parsed(&reader.news().await),
        json!({"from": 5, "to": 6, "changes": []})
    );
    relay.stop().await;
}

#[tokio::test]
async fn other_routes_at_the_same_revision_are_given_as_a_whole() {
    let (script, relay) = relay_at(&apps(7, &["a", "b", "y", "z"]), 7).await;
    let mut reader = relay.reader("?since=7").await;
    let before = ask(&relay, "/v1/routes", "").await;
    let tag = before.header("etag").unwrap().to_owned();
    let mut held = relay.client().await;
    held.send(format!(
        "GET /v1/routes?since=7&wait=30s HTTP/1.1\r\nHost: relay\r\nIf-None-Match: {tag}\r\n\r\n"
    ))
    .await;
    eventually("a request is held", || {
        (relay.published.stats().waiting == 1).then_some(())
    })
    .await;
    script.document(&apps(7, &["a", "c", "y", "z"]));
    assert_eq!(names(&parsed(&reader.news().await)), ["a", "c", "y", "z"]);
    let answer = held.read_response().await;
    assert_eq!(names(&parsed(&answer.text())), ["a", "c", "y", "z"]);
    assert_ne!(answer.header("etag"), Some(&*tag));
    let asked = ask(
        &relay,
        "/v1/routes?since=7",
        &format!("If-None-Match: {tag}\r\n"),
    )
    .await;
    assert_eq!((asked.status, asked.text()), (200, answer.text()));
    relay.stop().await;
}

#[tokio::test]
async fn whoever_missed_too_much_gets_the_whole() {
    let (script, feed) = scripted();
    // Room for three changes of this size, about.
    let relay = Relay::with(feed, |settings| settings.history = 1500, options("r")).await;
    script.document(&apps(1, &["a", "b"]));
    for revision in 1..10 {
        script.change(&upsert(
            revision,
            revision + 1,
            &app("a").field("version", revision),
        ));
    }
    relay.at(10).await;
    let late = parsed(&relay.reader("?since=2").await.next().await);
    assert_eq!(
        (&late["revision"], names(&late)),
        (&json!(10), vec!["a", "b"])
    );
    let near = parsed(&relay.reader("?since=9").await.next().await);
    assert_eq!((&near["from"], &near["to"]), (&json!(9), &json!(10)));
    for (since, from) in [(2, Value::Null), (8, json!(8))] {
        let answer = ask(&relay, &format!("/v1/routes?since={since}"), "").await;
        assert_eq!(parsed(&answer.text())["from"], from);
    }
    // Whoever is ahead, because another relay was, is not taken back.
    for target in ["/v1/routes?since=99", "/v1/routes?since=10"] {
        let answer = ask(&relay, target, "").await;
        assert_eq!(
            (answer.status, answer.header("feed-revision")),
            (304, Some("10"))
        );
    }
    assert_eq!(
        relay.reader("?since=99").await.next().await,
        "{\"heartbeat\":10}"
    );
    relay.stop().await;
}

#[tokio::test]
async fn a_request_that_waits_is_answered_when_there_is_news() {
    let (script, relay) = relay_at(&apps(1, &["a"]), 1).await;
    let mut held = relay.client().await;
    held.send("GET /v1/routes?since=1&wait=60 HTTP/1.1\r\nHost: relay\r\n\r\n")
        .await;
    eventually("a request is held", || {
        (relay.published.stats().waiting == 1).then_some(())
    })
    .await;
    script.change(&upsert(1, 2, &app("b")));
    let answer = held.read_response().await;
    assert_eq!(parsed(&answer.text())["to"], 2);
    // A HEAD says the same without the body.
    held.send("HEAD /v1/routes HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")
        .await;
    let head = held.read_head().await;
    assert!(head.header("content-length").unwrap() != "0" && head.has("etag"));
    held.expect_end().await;
    relay.stop().await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_holds_up_nobody_and_gets_the_whole_later() {
    let (script, feed) = scripted();
    let relay = Relay::with(feed, |settings| settings.history = 4 << 20, options("r")).await;
    script.document(&apps(1, &["a", "b"]));
    relay.at(1).await;
    let slow = RawClient::connect_with_small_window(relay.published.address(), 4096);
    let mut slow = slow.await;
    slow.send("GET /v1/routes HTTP/1.1\r\nHost: relay\r\nAccept: application/x-ndjson\r\n\r\n")
        .await;
    let mut quick = relay.reader("").await;
    quick.next().await;
    eventually("both read", || {
        (relay.published.stats().subscribers == 2).then_some(())
    })
    .await;
    // Ten times as much as is remembered, and as the sockets can hold.
    let padding = "x".repeat(100_000);
    for revision in 1..400 {
        let app = app("a").field("padding", format!("{revision}{padding}"));
        script.change(&upsert(revision, revision + 1, &app));
        let change = parsed(&quick.news().await);
        assert_eq!(change["to"], revision + 1);
    }
    assert_eq!(relay.published.stats().behind, 0);
    let mut slow = Lines::after(slow).await;
    let mut seen = parsed(&slow.news().await);
    let mut wholes = 1;
    while seen["revision"] != 400 && seen["to"] != 400 {
        seen = parsed(&slow.news().await);
        wholes += usize::from(seen["revision"].is_number());
    }
    assert_eq!((wholes, relay.published.stats().behind), (2, 1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_that_come_back_at_once_cost_the_source_nothing() {
    let many: Vec<_> = (0..20)
        .map(|number| app(&format!("app-{number}")))
        .collect();
    let (script, relay) = relay_at(&RouteDoc::new(1, &many), 1).await;
    for round in 1..=2_u64 {
        let mut readers = tokio::task::JoinSet::new();
        let address = relay.published.address();
        for _ in 0..1000 {
            readers.spawn(async move {
                let mut reader = Lines::open(address, "").await;
                assert!(reader.next().await.starts_with("{\"format\":1,"));
                reader
            });
        }
        let readers = readers.join_all().await;
        let stats = relay.published.stats();
        assert_eq!((stats.subscribers, stats.wholes_sent), (1000, 1000 * round));
        assert_eq!((stats.wholes_built, script.asked()), (1, 0));
        drop(readers);
        eventually("all are gone", || {
            (relay.published.stats().connections == 0).then_some(())
        })
        .await;
    }
    relay.stop().await;
}

#[tokio::test]
async fn waiting_readers_leave_room_for_those_who_only_ask() {
    let (script, feed) = scripted();
    let relay = Relay::with(feed, |settings| settings.connections = 10, options("r")).await;
    script.document(&apps(1, &["a"]));
    relay.at(1).await;
    let mut readers = Vec::new();
    for _ in 0..9 {
        readers.push(relay.reader("").await);
    }
    for headers in [
        "Accept: application/x-ndjson\r\nConnection: close\r\n",
        "Connection: close\r\n",
    ] {
        let refused = ask(&relay, "/v1/routes?since=1&wait=1s", headers).await;
        assert_eq!(
            (refused.status, refused.header("retry-after")),
            (503, Some("5"))
        );
        assert!(refused.text().contains("too many"));
    }
    let asked = ask(&relay, "/v1/routes", "Connection: close\r\n").await;
    assert_eq!(asked.status, 200);
    let stats = relay.published.stats();
    assert_eq!((stats.turned_away, stats.subscribers), (2, 9));
    drop(readers);
    eventually("there is room again", || {
        (relay.published.stats().subscribers == 0).then_some(())
    })
    .await;
    relay.reader("").await.next().await;
    relay.stop().await;
}

#[tokio::test]
async fn before_there_are_routes_readers_are_asked_to_come_back() {
    let (script, feed) = scripted();
    let relay = Relay::start(feed).await;
    for (target, headers) in [
        ("/v1/routes", ""),
        ("/v1/routes", "Accept: application/x-ndjson\r\n"),
        ("/v1/routes?since=7&wait=30s", ""),
    ] {
        let answer = ask(&relay, target, headers).await;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, Some("1"))
        );
    }
    assert_eq!(ask(&relay, "/readyz", "").await.status, 503);
    assert_eq!(ask(&relay, "/healthz", "").await.status, 200);
    script.document(&apps(1, &["a"]));
    relay.at(1).await;
    assert_eq!(ask(&relay, "/readyz", "").await.status, 200);
    relay.stop().await;
}

#[tokio::test]
async fn while_the_source_is_silent_there_is_no_heartbeat() {
    let router = Router::builder().workers(1).build().unwrap();
    let mut settings = PublishSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    settings.heartbeat = Duration::from_millis(20);
    let publisher = Publisher::new(&router, settings);
    let (script, source) = scripted();
    let feed = feed::start_tapped(&router, source, options("r"), publisher.tap());
    let silent = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&silent);
    let published = publisher
        .serve(move || watched.load(Ordering::SeqCst))
        .await
        .unwrap();
    script.document(&apps(1, &["a"]));
    at(&feed, 1).await;
    let mut reader = Lines::open(published.address(), "?since=1").await;
    for (is_silent, line) in [
        (false, "{\"heartbeat\":1}"),
        (true, ""),
        (false, "{\"heartbeat\":1}"),
    ] {
        silent.store(is_silent, Ordering::SeqCst);
        while reader.next().await != line {}
    }
    published.stop().await;
    feed.stop().await;
}

#[tokio::test]
async fn readers_show_a_token_and_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (ca, readers) = (TestCa::new("servers"), TestCa::new("readers"));
    let server = ca.certificate(&["127.0.0.1"]);
    let reader = readers.certificate(&["edge-1"]);
    for (name, content) in [
        ("ca.pem", ca.pem()),
        ("readers.pem", readers.pem()),
        ("server.crt", server.chain_pem().to_owned()),
        ("server.key", server.key_pem().to_owned()),
        ("edge.crt", reader.chain_pem().to_owned()),
        ("edge.key", reader.key_pem().to_owned()),
        ("tokens", "one\ntwo\n".to_owned()),
        ("token", "two".to_owned()),
    ] {
        std::fs::write(path(name), content).unwrap();
    }
    let (script, source) = scripted();
    let secure = |settings: &mut PublishSettings| {
        settings.token_file = Some(path("tokens"));
        settings.tls = Some(PublishTls {
            certificate: path("server.crt"),
            private_key: path("server.key"),
            client_ca: Some(path("readers.pem")),
        });
    };
    let relay = Relay::with(source, secure, options("r")).await;
    script.document(&apps(1, &["a"]));
    relay.at(1).await;

    let settings = |change: &dyn Fn(&mut HttpFeedSettings)| {
        let url = relay.url().replace("http:", "https:");
        let mut settings = HttpFeedSettings::new(url);
        settings.ca = Some(path("ca.pem"));
        settings.client_certificate = Some((path("edge.crt"), path("edge.key")));
        settings.token_file = Some(path("token"));
        change(&mut settings);
        HttpFeed::new(settings).unwrap()
    };
    for (wanted, feed) in [
        ("", settings(&|_| {})),
        (
            "CertificateRequired",
            settings(&|settings| settings.client_certificate = None),
        ),
        ("401", settings(&|settings| settings.token_file = None)),
        (
            "UnknownIssuer",
            settings(&|settings| settings.ca = Some(path("readers.pem"))),
        ),
    ] {
        let router = Router::builder().workers(1).build().unwrap();
        let feed = feed::start(&router, feed, options("edge-1"));
        if wanted.is_empty() {
            at(&feed, 1).await;
        } else {
            let error = eventually("an error is said", || feed.status().last_error).await;
            assert!(error.contains(wanted), "{error}");
        }
        feed.stop().await;
    }
    assert!(relay.published.stats().unauthorized >= 1);
    // Whoever only looks whether it lives needs no token.
    let dialer = TlsDialer::trusting(&ca, "127.0.0.1");
    assert!(
        RawClient::try_connect_tls(relay.published.address(), &dialer)
            .await
            .is_ok()
    );
    relay.stop().await;
}

#[tokio::test]
async fn what_cannot_be_published_is_said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none");
    let router = Router::builder().workers(1).build().unwrap();
    let error = async |change: &dyn Fn(&mut PublishSettings)| -> PublishError {
        let mut settings = PublishSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        change(&mut settings);
        let publisher = Publisher::new(&router, settings);
        publisher.serve(|| false).await.expect_err("an error")
    };
    for path in ["", "routes", "/a?b", "/a/acks"] {
        let wrong = error(&|settings| settings.path = path.to_owned()).await;
        assert!(matches!(wrong, PublishError::Path(_)), "{wrong}");
    }
    let wrong = error(&|settings| settings.token_file = Some(missing.clone())).await;
    assert!(wrong.to_string().contains("cannot be read: "), "{wrong}");
    let wrong = error(&|settings| {
        settings.tls = Some(PublishTls {
            certificate: missing.clone(),
            private_key: missing.clone(),
            client_ca: None,
        });
    })
    .await;
    assert!(wrong.to_string().contains("none: cannot be read"));
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let wrong = error(&|settings| settings.address = address).await;
    assert!(wrong.to_string().contains(&address.to_string()), "{wrong}");
}

#[tokio::test]
async fn relays_behind_relays_give_the_same_and_tell_of_all_routers() {
    let (script, top) = relay_at(&apps(1, &["a", "b"]), 1).await;
    let middle = Relay::behind(&top, "middle").await;
    middle.at(1).await;
    let bottom = Relay::behind(&middle, "bottom").await;
    bottom.at(1).await;
    let router = Router::builder().workers(1).build().unwrap();
    let feed = HttpFeed::new(HttpFeedSettings::new(bottom.url())).unwrap();
    let feed = feed::start(&router, feed, options("edge-1"));
    at(&feed, 1).await;
    script.change(&upsert(1, 2, &app("c").field("new", json!({"x": [1]}))));
    at(&feed, 2).await;
    let documents = [
        ask(&top, "/v1/routes", "").await,
        ask(&bottom, "/v1/routes", "").await,
    ];
    assert_eq!(documents[0].text(), documents[1].text());
    assert_eq!(documents[0].header("etag"), documents[1].header("etag"));
    let answer = ask(&top, "/v1/routes/acks?at_least=2&wait=10s", "").await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        let view = parsed(
            &ask(&top, "/v1/routes/acks?at_least=2&wait=10s", "")
                .await
                .text(),
        );
        let routers = view["routers"].as_array().unwrap();
        ids = routers
            .iter()
            .map(|router| router["router"].as_str().unwrap().to_owned())
            .collect();
        if ids.len() == 3 {
            break;
        }
        tokio::task::yield_now().await;
        let news = ask(&top, "/v1/routes/acks?at_least=99&wait=1s", "").await;
        assert_eq!(news.status, 504);
    }
    assert_eq!(answer.status, 200);
    assert_eq!(ids, ["bottom", "edge-1", "middle"]);
    // The middle one dies; the others keep what they have, and what comes then finds its way once it is back.
    assert_eq!(router.table().app_count(), 3);
    middle.published.stop().await;
    script.change(&upsert(2, 3, &app("d")));
    top.at(3).await;
    let error = eventually("the loss is said", || bottom.feed.status().last_error).await;
    assert!(error.contains("/v1/routes"), "{error}");
    assert_eq!(router.table().app_count(), 3);
    for relay in [top, bottom] {
        relay.stop().await;
    }
    feed.stop().await;
}

#[tokio::test]
async fn a_relay_that_starts_without_its_source_gives_what_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let cached = || FeedOptions {
        cache: Some(folder.path().join("routes.json")),
        ..options("relay")
    };
    let (script, source) = scripted();
    let relay = Relay::with(source, |_| {}, cached()).await;
    script.document(&apps(1, &["a", "b"]));
    script.change(&upsert(1, 2, &app("c")));
    relay.at(2).await;
    let before = ask(&relay, "/v1/routes", "").await;
    eventually("the cache is written", || {
        let cache = relay.feed.status().cache?;
        (cache.revision == Some(2)).then_some(())
    })
    .await;
    relay.stop().await;

    let (_script, source) = scripted();
    let relay = Relay::with(
        source,
        |settings| settings.heartbeat = Duration::from_millis(20),
        cached(),
    )
    .await;
    relay.at(2).await;
    let after = ask(&relay, "/v1/routes", "").await;
    assert_eq!(
        (after.text(), after.header("etag")),
        (before.text(), before.header("etag"))
    );
    // It does not know whether that is still so.
    let mut reader = relay.reader("?since=2").await;
    while !reader.next().await.is_empty() {}
    relay.stop().await;
}

#[tokio::test]
async fn a_contested_domain_is_the_same_apps_everywhere() {
    // The newcomer comes first in the alphabet, and would get the domain of whoever reads the document from the start.
    let holder = app("shop").domain("contested.test");
    let (script, relay) = relay_at(&RouteDoc::new(1, &[holder]), 1).await;
    let newcomer = app("a-newcomer").domain("contested.test");
    script.change(&upsert(1, 2, &newcomer));
    relay.at(2).await;
    let router = Router::builder().workers(1).build().unwrap();
    let feed = HttpFeed::new(HttpFeedSettings::new(relay.url())).unwrap();
    let feed = feed::start(&router, feed, options("edge-1"));
    at(&feed, 2).await;
    for router in [&relay.router, &router] {
        let explanation = serde_json::to_value(router.explain("contested.test", "/")).unwrap();
        assert_eq!(explanation["app"], "shop", "{explanation}");
    }
    // Once the holder lets go, everybody knows who waited.
    script.change(&upsert(2, 3, &app("shop")));
    at(&feed, 3).await;
    for router in [&relay.router, &router] {
        let explanation = serde_json::to_value(router.explain("contested.test", "/")).unwrap();
        assert_eq!(explanation["app"], "a-newcomer", "{explanation}");
    }
    feed.stop().await;
    relay.stop().await;
}

#[tokio::test]
async fn acknowledgements_may_be_long_but_not_without_end() {
    let (_script, relay) = relay_at(&apps(1, &["a"]), 1).await;
    let one = |id: &str, bytes: usize| {
        format!(
            r#"{{"router":"{id}","revision":1,"x":"{}"}}"#,
            "x".repeat(bytes)
        )
    };
    let several = |ids: std::ops::Range<usize>, bytes: usize| {
        let all: Vec<_> = ids.map(|id| one(&format!("r{id}"), bytes)).collect();
        format!("[{}]", all.join(","))
    };
    for (status, body) in [
        (204, one("r0", 1000)),
        (204, one("r1", 1_000_000)),
        (400, one("r2", 1 << 20)),
        (204, several(3..6, 1 << 20)),
        (413, several(6..11, 1 << 20)),
    ] {
        let length = body.len();
        let head = format!(
            "POST /v1/routes/acks HTTP/1.1\r\nHost: relay\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut client = relay.client().await;
        client.send(head + &body).await;
        assert_eq!(
            client.read_response().await.status,
            status,
            "{length} bytes"
        );
    }
    let view = parsed(&ask(&relay, "/v1/routes/acks", "").await.text());
    let ids: Vec<_> = view["routers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|router| &router["router"])
        .collect();
    assert_eq!(ids, ["r0", "r1", "r3", "r4", "r5"]);
    relay.stop().await;
}

#[tokio::test]
async fn what_somebody_has_confirmed_here_needs_nobody_there() {
    let (script, relay) = relay_at(&apps(1, &["a", "b", "c", "d"]), 1).await;
    let router = Router::builder().workers(1).build().unwrap();
    let feed = HttpFeed::new(HttpFeedSettings::new(relay.url())).unwrap();
    let feed = feed::start(&router, feed, options("edge-1"));
    at(&feed, 1).await;
    script.document(&apps(2, &["a"]));
    eventually("the document is withheld", || relay.feed.status().withheld).await;
    assert_eq!(feed.status().withheld, None);
    assert!(relay.feed.confirm(2));
    script.document(&apps(2, &["a"]));
    at(&feed, 2).await;
    assert_eq!(router.table().app_count(), 1);
    feed.stop().await;
    relay.stop().await;
}

/// As `router-core/docs/feed.md` says that it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_deploy_under_load_fails_no_request() {
    const CLIENTS: usize = 4;
    const DYNOS: usize = 3;
    const GENERATIONS: usize = 3;
    let world = World::with(|setup| setup.workers = Some(2));
    let (script, source) = scripted();
    let relay = Relay::start(source).await;
    let feed = HttpFeed::new(HttpFeedSettings::new(relay.url())).unwrap();
    let feed = feed::start(&world.router, feed, options("edge-1"));

    let start = async |generation: usize| {
        FakeDyno::respond_with(move |_| ok(&format!("generation {generation}")).into_bytes()).await
    };
    let mut running = Vec::new();
    for _ in 0..DYNOS {
        running.push((start(0).await, "up"));
    }
    let mut revision = 1;
    let app = |running: &[(ServingDyno, &str)]| {
        let dynos = running.iter().enumerate();
        dynos.fold(shop(), |app, (number, (dyno, state))| {
            app.dyno(&format!("web.{}", number + 1), dyno.address(), state)
        })
    };
    script.document(&RouteDoc::new(1, &[app(&running)]));
    at(&feed, 1).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (address, stop) = (world.address(), Arc::clone(&stop));
        clients.spawn(async move {
            let mut client = RawClient::connect(address).await;
            let mut requests = 0;
            while !stop.load(Ordering::SeqCst) {
                let response = client.exchange(get("/")).await;
                assert_eq!(response.status, 200, "{response:?}");
                requests += 1;
                if !response.open {
                    client = RawClient::connect(address).await;
                }
            }
            requests
        });
    }

    let mut publish = async |running: &[(ServingDyno, &str)]| {
        revision += 1;
        script.change(&upsert(revision - 1, revision, &app(running)));
        let everywhere = format!("/v1/routes/acks?at_least={revision}&wait=10s");
        let answer = ask(&relay, &everywhere, "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for generation in 1..=GENERATIONS {
        for _ in 0..DYNOS {
            running.push((start(generation).await, "starting"));
            publish(&running).await;
            running.last_mut().unwrap().1 = "up";
            running[0].1 = "draining";
            publish(&running).await;
            let (old, _) = &running[0];
            eventually("the old dyno has nothing to do", || {
                (old.open_connections() == 0).then_some(())
            })
            .await;
            // It ends: nobody listens there any more.
            drop(running.remove(0));
            publish(&running).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let requests: usize = clients.join_all().await.into_iter().sum();
    for _ in 0..requests {
        let record = world.log.next().await;
        assert_eq!(
            (record.at(), record.status()),
            ("info", Some(200)),
            "{record:?}"
        );
    }
    assert!(
        requests > CLIENTS * DYNOS * GENERATIONS,
        "{requests} requests are no load"
    );
    assert_eq!(world.seen.retries(), 0);
    feed.stop().await;
    world.finish().await;
    relay.stop().await;
}
