//! Which app answers: exact names, wildcards, case, ports, dots, and what happens when no app has the name.

use router_testkit::{AppDoc, FakeDyno, ServingDyno};

use crate::world::{World, assert_served, get, ok, shop};

/// A dyno that says which app it belongs to.
async fn dyno_of(app: &'static str) -> ServingDyno {
    FakeDyno::respond_with(move |_| ok(app).into_bytes()).await
}

/// Asks for `host` and checks that the dyno of `app` answers and the log has the host as it was sent.
async fn check_routed(world: &World, host: &str, app: &str) {
    let mut client = world.client().await;
    let response = client
        .exchange(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (200, app),
        "{host}"
    );
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.host(), host);
}

/// Asks for `host` and checks that nobody has it: the page, and no log line.
async fn check_unknown(world: &World, host: &str) {
    let mut client = world.client().await;
    let response = client
        .exchange(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"))
        .await;
    assert_eq!(response.status, 404, "{host}");
    assert_eq!(
        response.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(response.header("cache-control"), Some("no-cache, no-store"));
    assert!(
        response.text().contains("<title>No such app</title>"),
        "{}",
        response.text()
    );
    assert!(
        !response.all("via").iter().any(|_| true),
        "a page of the router's own carries no Via"
    );
    world.log.assert_no_more();
}

#[tokio::test]
async fn an_unknown_host_gets_the_no_such_app_page_and_no_log_line() {
    // Scenario 1.
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    for host in [
        "other.test",
        "test",
        "www.shop.test",
        "shop.test.other",
        "127.0.0.1",
        "[::1]:80",
        "localhost",
    ] {
        check_unknown(&world, host).await;
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn the_connection_survives_an_unknown_host() {
    let world = World::start();
    let dyno = dyno_of("shop").await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    assert_eq!(
        client
            .exchange("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
            .await
            .status,
        404
    );
    assert_eq!(client.exchange(get("/")).await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn case_port_and_one_trailing_dot_do_not_matter() {
    // Scenario 3.
    let world = World::start();
    let dyno = dyno_of("app").await;
    world.apply(&[AppDoc::new("app")
        .domain("App.Example")
        .web(1, dyno.address())]);
    for host in [
        "app.example",
        "APP.Example:8080",
        "app.example:80",
        "app.EXAMPLE.",
        "app.example.:443",
    ] {
        check_routed(&world, host, "app").await;
    }
    check_unknown(&world, "x.app.example").await;
    world.finish().await;
}

#[tokio::test]
async fn the_dyno_gets_the_host_as_the_client_sent_it() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[AppDoc::new("app")
        .domain("app.example")
        .web(1, dyno.address())]);
    let mut client = world.client().await;
    client
        .send("GET / HTTP/1.1\r\nHost: APP.Example:8080\r\n\r\n")
        .await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(head.header("host"), Some("APP.Example:8080"));
    assert_eq!(client.read_response().await.status, 200);
    assert_eq!(world.log.next().await.host(), "APP.Example:8080");
    world.finish().await;
}

#[tokio::test]
async fn an_exact_name_beats_a_wildcard() {
    // Scenario 4.
    let world = World::start();
    let (exact, wildcard) = (dyno_of("exact").await, dyno_of("wildcard").await);
    world.apply(&[
        AppDoc::new("wildcard")
            .domain("*.shop.test")
            .web(1, wildcard.address()),
        AppDoc::new("exact")
            .domain("www.shop.test")
            .web(1, exact.address()),
    ]);
    check_routed(&world, "www.shop.test", "exact").await;
    check_routed(&world, "api.shop.test", "wildcard").await;
    world.finish().await;
}

#[tokio::test]
async fn a_wildcard_matches_one_label_and_never_its_own_apex() {
    let world = World::start();
    let dyno = dyno_of("shop").await;
    world.apply(&[AppDoc::new("shop")
        .domain("*.shop.test")
        .web(1, dyno.address())]);
    check_routed(&world, "a.shop.test", "shop").await;
    check_routed(&world, "A.Shop.TEST:1", "shop").await;
    check_unknown(&world, "shop.test").await;
    check_unknown(&world, "a.b.shop.test").await;
    check_unknown(&world, "xshop.test").await;
    world.finish().await;
}

#[tokio::test]
async fn an_international_name_is_matched_in_punycode() {
    let world = World::start();
    let dyno = dyno_of("books").await;
    world.apply(&[AppDoc::new("books")
        .domain("b\u{fc}cher.test")
        .web(1, dyno.address())]);
    check_routed(&world, "xn--bcher-kva.test", "books").await;
    check_routed(&world, "XN--BCHER-KVA.test", "books").await;
    world.finish().await;
}

#[tokio::test]
async fn without_any_routes_yet_requests_get_503_and_no_log_line() {
    let world = World::start();
    let mut client = world.client().await;
    let response = client.exchange(get("/")).await;
    assert_eq!(response.status, 503);
    world.finish().await;
}

#[tokio::test]
async fn a_domain_that_moves_takes_the_next_request_with_it() {
    let world = World::start();
    let (old, new) = (dyno_of("old").await, dyno_of("new").await);
    let apps = |old_domain: &str, new_domain: &str| {
        [
            AppDoc::new("old").domain(old_domain).web(1, old.address()),
            AppDoc::new("new").domain(new_domain).web(1, new.address()),
        ]
    };
    world.apply(&apps("shop.test", "spare.test"));
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.text(), "old");
    assert_served(&world.log.next().await, "web.1", 200);
    // A name belongs to one app: it has to be given up before another app can have it.
    world.apply(&apps("other.test", "spare.test"));
    assert_eq!(client.exchange(get("/")).await.status, 404);
    world.apply(&apps("other.test", "shop.test"));
    assert_eq!(client.exchange(get("/")).await.text(), "new");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_app_that_is_removed_is_unknown_at_once() {
    let world = World::start();
    let (dyno, other_dyno) = (dyno_of("shop").await, dyno_of("other").await);
    let other = AppDoc::new("other")
        .domain("other.test")
        .web(1, other_dyno.address());
    world.apply(&[shop().web(1, dyno.address()), other.clone()]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.apply(&[other]);
    assert_eq!(client.exchange(get("/")).await.status, 404);
    world.finish().await;
}
