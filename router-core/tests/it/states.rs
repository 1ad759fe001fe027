//! What the state of an app and of its dynos does to a request, in the order of precedence.

use std::time::Instant;

use router_testkit::{AppDoc, FakeDyno, RawClient, eventually, refused_address};

use crate::world::{World, assert_failed, assert_served, get, ms, ok, post_head, shop};

/// Expects that a request of the app, as it stands, fails at once with this code and page.
async fn check_fails(world: &World, code: &str, status: u16, title: &str) {
    let mut client = world.client().await;
    let response = client.exchange(get("/state?x=1")).await;
    assert_eq!(response.status, status, "{code}");
    assert!(
        response.text().contains(&format!("<title>{title}</title>")),
        "{code}: {}",
        response.text()
    );
    let record = world.log.next().await;
    assert_failed(&record, code, status);
    assert_eq!(
        (record.path(), record.bytes()),
        ("/state?x=1", response.body.len() as u64)
    );
}

/// A request that waits for the only dyno to start.
async fn held_request() -> (World, RawClient) {
    let world = World::start();
    world.apply(&[shop().homeless_dyno("web.1", "starting")]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    eventually("the request waits", || {
        (world.router.stats().requests_in_flight == 1).then_some(())
    })
    .await;
    (world, client)
}

#[tokio::test]
async fn app_states_win_in_their_order_and_leave_the_dynos_alone() {
    // Scenarios 36 and 37.
    let world = World::start();
    let dyno = FakeDyno::start().await;
    let app = shop().web(1, dyno.address());
    let none = app
        .clone()
        .field("formation", serde_json::json!({"web": 0}));
    let blank = none.clone().field("released", false);
    let maintenance = blank.clone().field("maintenance", true);
    let degraded = maintenance.clone().field("degraded", true);
    let suspended = degraded.clone().field("suspended", "hours used up");
    let steps = [
        (none, "H14", 503, "Application Error"),
        (blank, "H81", 502, "Welcome"),
        (maintenance, "H80", 503, "Offline for Maintenance"),
        (degraded, "H83", 503, "Application Error"),
        (suspended, "H82", 503, "Application Error"),
    ];
    for (app, code, status, title) in steps {
        world.apply(&[app]);
        check_fails(&world, code, status, title).await;
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_bad_request_wins_over_every_app_state() {
    let world = World::start();
    world.apply(&[shop().field("suspended", "yes").field("maintenance", true)]);
    let mut client = world.client().await;
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: shop.test\r\nExpect: foo\r\n\r\n")
        .await;
    assert_eq!(response.status, 417);
    assert_failed(&world.log.next().await, "H26", 417);
    world.finish().await;
}

#[tokio::test]
async fn maintenance_has_its_own_page_and_leaves_a_running_exchange_alone() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    let app = shop()
        .web(1, dyno.address())
        .setting(
            "maintenance_page_url",
            "//cdn.test/offline.html?a=1&b=\"2\"",
        )
        .setting("error_page_url", "//cdn.test/error.html");
    world.apply(std::slice::from_ref(&app));
    let mut running = world.client().await;
    running.send(get("/running")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;

    world.apply(&[app.field("maintenance", true)]);
    let mut client = world.client().await;
    let response = client.exchange(get("/")).await;
    assert_eq!(response.status, 503);
    let page = response.text();
    assert!(
        page.contains("src=\"//cdn.test/offline.html?a=1&amp;b=&quot;2&quot;\""),
        "{page}"
    );
    assert!(!page.contains("error.html"), "{page}");
    assert_failed(&world.log.next().await, "H80", 503);

    conn.write(ok("done")).await;
    assert_eq!(running.read_response().await.text(), "done");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn maintenance_that_ends_lets_requests_through_again() {
    let world = World::start();
    let dyno = FakeDyno::respond_with(|_| ok("x").into_bytes()).await;
    let app = shop().web(1, dyno.address());
    world.apply(&[app.clone().field("maintenance", true)]);
    check_fails(&world, "H80", 503, "Offline for Maintenance").await;
    world.apply(&[app]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_app_without_web_dynos_has_no_web_processes() {
    // Scenario 37.
    let world = World::start();
    let worker = FakeDyno::start().await;
    world.apply(&[shop()]);
    check_fails(&world, "H14", 503, "Application Error").await;
    world.apply(&[shop().dyno("worker.1", worker.address(), "up")]);
    check_fails(&world, "H14", 503, "Application Error").await;
    worker.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn only_web_dynos_are_ever_called() {
    // Scenario 41.
    let world = World::start();
    let web = FakeDyno::respond_with(|_| ok("web").into_bytes()).await;
    let others = [
        FakeDyno::start().await,
        FakeDyno::start().await,
        FakeDyno::start().await,
    ];
    for balancer in ["least_requests", "random", "round_robin", "consistent_hash"] {
        let app = shop()
            .dyno("worker.1", others[0].address(), "up")
            .web(1, web.address())
            .dyno("webhook.1", others[1].address(), "up")
            .dyno("run.4711", others[2].address(), "up")
            .setting("balancer", balancer);
        world.apply(&[app]);
        let mut client = world.client().await;
        for _ in 0..10 {
            assert_eq!(client.exchange(get("/")).await.text(), "web");
            assert_served(&world.log.next().await, "web.1", 200);
        }
    }
    // Not even when the only web dyno cannot be reached.
    world.apply(&[shop()
        .dyno("worker.1", others[0].address(), "up")
        .web(2, refused_address())]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H21"));
    others.into_iter().for_each(FakeDyno::assert_not_contacted);
    world.finish().await;
}

#[tokio::test]
async fn crashed_dynos_fail_the_request_at_once() {
    // Scenario 40.
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().dyno("web.1", dyno.address(), "crashed").dyno(
        "web.2",
        refused_address(),
        "crashed",
    )]);
    check_fails(&world, "H10", 503, "Application Error").await;
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_request_is_held_for_a_starting_dyno_and_continues_when_it_is_up() {
    // Scenario 38.
    for state in ["starting", "idle"] {
        let world = World::start();
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().dyno("web.1", dyno.address(), state)]);
        let mut client = world.client().await;
        client.send(get("/held")).await;
        eventually("the request waits", || {
            (world.router.stats().requests_in_flight == 1).then_some(())
        })
        .await;
        client.assert_open();
        assert_eq!(world.seen.connect_attempts(), 0);
        world.apply(&[shop().web(1, dyno.address())]);
        let (_conn, head) = dyno.accept_and_answer(ok("up")).await;
        assert_eq!(head.target(), "/held");
        assert_eq!(client.read_response().await.text(), "up");
        assert_served(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn requests_held_on_every_worker_continue_together() {
    let world = World::with(|setup| setup.workers = Some(3));
    let dyno = FakeDyno::respond_with(|_| ok("up").into_bytes()).await;
    world.apply(&[shop().dyno("web.1", dyno.address(), "starting")]);
    let mut clients = Vec::new();
    for _ in 0..24 {
        let mut client = world.client().await;
        client.send(get("/held")).await;
        clients.push(client);
    }
    eventually("all of them wait", || {
        (world.router.stats().requests_in_flight == 24).then_some(())
    })
    .await;
    world.apply(&[shop().web(1, dyno.address())]);
    for client in &mut clients {
        assert_eq!(client.read_response().await.text(), "up");
        assert_served(&world.log.next().await, "web.1", 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_never_comes_up_is_a_boot_timeout() {
    // Scenario 39.
    let world = World::with(|setup| setup.timeouts.connect_total = ms(250));
    world.apply(&[shop()
        .homeless_dyno("web.1", "starting")
        .homeless_dyno("web.2", "crashed")]);
    let start = Instant::now();
    check_fails(&world, "H20", 503, "Application Error").await;
    assert!(
        start.elapsed() >= ms(250),
        "gave up after {:?}",
        start.elapsed()
    );
    world.finish().await;
}

#[tokio::test]
async fn a_held_request_fails_at_once_when_its_dyno_crashes() {
    let (world, mut client) = held_request().await;
    world.apply(&[shop().homeless_dyno("web.1", "crashed")]);
    assert_eq!(client.read_response().await.status, 503);
    assert_failed(&world.log.next().await, "H10", 503);
    world.finish().await;
}

#[tokio::test]
async fn a_held_request_whose_client_leaves_is_h27_without_a_dyno() {
    let (world, client) = held_request().await;
    client.close().await;
    let record = world.log.next().await;
    assert_failed(&record, "H27", 499);
    assert_eq!((record.sock(), record.bytes()), (Some("client"), 0));
    world.finish().await;
}

#[tokio::test]
async fn a_held_request_whose_client_leaves_in_a_large_upload_is_h27_too() {
    let world = World::start();
    world.apply(&[shop().homeless_dyno("web.1", "starting")]);
    let mut client = world.client().await;
    client.send(post_head("/", 1_000_000)).await;
    // More than the router keeps, but little enough for the end to come behind it into the system's buffer.
    client.send(vec![b'x'; 70_000]).await;
    client.close().await;
    assert_failed(&world.log.next().await, "H27", 499);
    world.finish().await;
}

#[tokio::test]
async fn a_held_request_follows_its_app_into_maintenance() {
    let (world, mut client) = held_request().await;
    world.apply(&[shop()
        .homeless_dyno("web.1", "starting")
        .field("maintenance", true)]);
    assert_eq!(client.read_response().await.status, 503);
    assert_failed(&world.log.next().await, "H80", 503);
    world.finish().await;
}

#[tokio::test]
async fn the_body_of_a_held_request_arrives_whole() {
    let world = World::start();
    let dyno =
        FakeDyno::respond_with_body(|_, body| ok(&body.len().to_string()).into_bytes()).await;
    world.apply(&[shop().dyno("web.1", dyno.address(), "starting")]);
    let mut client = world.client().await;
    client.send(post_head("/", 100_000)).await;
    client.send(vec![b'x'; 100_000]).await;
    eventually("the request waits", || {
        (world.router.stats().requests_in_flight == 1).then_some(())
    })
    .await;
    world.apply(&[shop().web(1, dyno.address())]);
    assert_eq!(client.read_response().await.text(), "100000");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_draining_dyno_finishes_what_it_has_and_gets_nothing_new() {
    let world = World::start();
    let (old, new) = (FakeDyno::start().await, FakeDyno::start().await);
    world.apply(&[shop().web(1, old.address())]);
    let mut running = world.client().await;
    running.send(get("/running")).await;
    let mut conn = old.accept().await;
    conn.read_head().await;
    world.apply(&[shop()
        .dyno("web.1", old.address(), "draining")
        .web(2, new.address())]);
    let mut client = world.client().await;
    for _ in 0..4 {
        client.send(get("/")).await;
        let (_conn, _) = new
            .accept_and_answer(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nnew",
            )
            .await;
        assert_eq!(client.read_response().await.text(), "new");
        assert_served(&world.log.next().await, "web.2", 200);
    }
    conn.write(ok("finished")).await;
    assert_eq!(running.read_response().await.text(), "finished");
    assert_served(&world.log.next().await, "web.1", 200);
    old.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_taken_out_of_the_formation_still_finishes_its_exchange() {
    let world = World::start();
    let (old, new) = (FakeDyno::start().await, FakeDyno::start().await);
    world.apply(&[shop().web(1, old.address())]);
    let mut client = world.client().await;
    client.send(get("/running")).await;
    let mut conn = old.accept().await;
    conn.read_head().await;
    world.apply(&[shop().web(2, new.address())]);
    conn.write(ok("finished")).await;
    assert_eq!(client.read_response().await.text(), "finished");
    assert_served(&world.log.next().await, "web.1", 200);
    conn.expect_end().await;
    world.finish().await;
}

#[tokio::test]
async fn up_dynos_serve_whatever_state_the_others_are_in() {
    let world = World::start();
    let dyno = FakeDyno::respond_with(|_| ok("x").into_bytes()).await;
    let app = shop()
        .homeless_dyno("web.1", "crashed")
        .homeless_dyno("web.2", "starting")
        .dyno("web.3", refused_address(), "down")
        .dyno("web.4", refused_address(), "idle")
        .web(5, dyno.address());
    world.apply(&[app]);
    let mut client = world.client().await;
    for _ in 0..8 {
        assert_eq!(client.exchange(get("/")).await.status, 200);
        assert_served(&world.log.next().await, "web.5", 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn an_error_page_url_is_shown_in_the_wrapper_for_application_errors_only() {
    // Scenario 45 is in `timeouts`; these are the codes beside H12.
    let world = World::start();
    let page = |app: AppDoc| app.setting("error_page_url", "https://cdn.test/e.html?'<x>&\"");
    world.apply(&[page(shop())]);
    let mut client = world.client().await;
    let response = client.exchange(get("/")).await;
    assert_eq!(response.status, 503);
    assert!(response.text().contains("<iframe"), "{}", response.text());
    assert!(
        !response.text().contains("'<x>&\""),
        "not escaped: {}",
        response.text()
    );
    assert_failed(&world.log.next().await, "H14", 503);
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: shop.test\r\nExpect: foo\r\n\r\n")
        .await;
    assert_eq!(response.status, 417);
    assert!(
        !response.text().contains("cdn.test"),
        "a plain answer: {}",
        response.text()
    );
    assert_failed(&world.log.next().await, "H26", 417);
    world.finish().await;
}
