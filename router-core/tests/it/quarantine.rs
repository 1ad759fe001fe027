//! What happens when dynos cannot be reached: the next one, the quarantine, the limits of trying, and the waiting.

use std::time::{Duration, Instant};

use router_testkit::{AppDoc, BlackHole, FakeDyno, ReservedAddress, refused_address};

use crate::world::{
    World, assert_failed, assert_failed_at, assert_served, get, ms, ok, post, shop,
};

/// Longer than any test; a quarantine that is to outlast one.
const FOREVER: Duration = Duration::from_secs(60);

/// A shop all of whose dynos let every connection attempt time out; as long as the holes are kept.
fn shop_of_black_holes(count: usize) -> (Vec<BlackHole>, AppDoc) {
    let holes: Vec<BlackHole> = (0..count).map(|_| BlackHole::start()).collect();
    let app = holes
        .iter()
        .enumerate()
        .fold(shop(), |app, (number, hole)| {
            app.web(number + 1, hole.address())
        });
    (holes, app)
}

#[tokio::test]
async fn a_refused_dyno_is_skipped_and_put_in_quarantine() {
    // Scenario 8.
    let world = World::with(|setup| setup.limits.quarantine = FOREVER);
    let dyno = FakeDyno::respond_with(|_| ok("fine").into_bytes()).await;
    world.apply(&[shop()
        .web(1, refused_address())
        .web(2, dyno.address())
        .setting("balancer", "round_robin")]);
    let mut client = world.client().await;
    for _ in 0..6 {
        let response = client.exchange(get("/")).await;
        assert_eq!((response.status, response.text().as_str()), (200, "fine"));
        assert_served(&world.log.next().await, "web.2", 200);
    }
    assert_eq!(world.seen.quarantined(), 1, "tried once, then left alone");
    assert_eq!(world.router.stats().dynos_quarantined, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_post_is_retried_too_as_long_as_no_connection_exists() {
    let world = World::start();
    let dyno =
        FakeDyno::respond_with_body(|_, body| ok(&String::from_utf8_lossy(body)).into_bytes())
            .await;
    world.apply(&[shop()
        .web(1, refused_address())
        .web(2, dyno.address())
        .setting("balancer", "round_robin")]);
    for _ in 0..2 {
        let mut client = world.client().await;
        assert_eq!(
            client.exchange(post("/", "the body")).await.text(),
            "the body"
        );
        assert_served(&world.log.next().await, "web.2", 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn the_only_dyno_refusing_fails_after_one_attempt() {
    // Scenario 9.
    let world = World::start();
    world.apply(&[shop().web(1, refused_address())]);
    let mut client = world.client().await;
    let response = client.exchange(get("/")).await;
    assert_eq!(response.status, 503);
    assert!(response.text().contains("<title>Application Error</title>"));
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.status(), record.dyno()),
        (Some("H21"), Some(503), Some("web.1"))
    );
    assert!(
        record.connect_ms().is_some() && record.service_ms().is_none(),
        "{record:?}"
    );
    assert_eq!(world.seen.connect_attempts(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_quarantined_dyno_is_tried_again_when_its_time_is_over() {
    let world = World::with(|setup| setup.limits.quarantine = ms(300));
    let address = ReservedAddress::new();
    world.apply(&[shop().web(1, address.address())]);
    let mut client = world.client().await;
    let start = Instant::now();
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H21"));
    // The dyno is back, but nobody may look before the quarantine is over; the request waits for that.
    let dyno = address.listen();
    client.send(get("/again")).await;
    let (_conn, head) = dyno.accept_and_answer(ok("back")).await;
    assert!(
        start.elapsed() >= ms(300),
        "called during its quarantine, after {:?}",
        start.elapsed()
    );
    assert_eq!(head.target(), "/again");
    assert_eq!(client.read_response().await.text(), "back");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn no_request_tries_more_than_ten_dynos() {
    // Scenario 10, refused.
    let world = World::with(|setup| setup.limits.quarantine = FOREVER);
    let app = (1..=12).fold(shop(), |app, number| app.web(number, refused_address()));
    world.apply(&[app]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    let record = world.log.next().await;
    assert_eq!((record.code(), record.status()), (Some("H21"), Some(503)));
    assert_eq!(
        (world.seen.connect_attempts(), world.seen.quarantined()),
        (10, 10),
        "ten attempts on ten dynos"
    );
    world.finish().await;
}

#[tokio::test]
async fn no_request_tries_more_dynos_than_there_are() {
    let world = World::with(|setup| setup.limits.quarantine = FOREVER);
    world.apply(&[shop()
        .web(1, refused_address())
        .web(2, refused_address())
        .web(3, refused_address())]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H21"));
    assert_eq!(
        (world.seen.connect_attempts(), world.seen.quarantined()),
        (3, 3)
    );
    world.finish().await;
}

#[tokio::test]
async fn ten_timeouts_are_h19() {
    // Scenario 10.
    let world = World::with(|setup| {
        setup.timeouts.connect = ms(100);
        setup.limits.quarantine = FOREVER;
    });
    let (_holes, app) = shop_of_black_holes(12);
    world.apply(&[app]);
    let mut client = world.client().await;
    let start = Instant::now();
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert!(
        start.elapsed() >= ms(1000),
        "ten attempts of 100 ms took only {:?}",
        start.elapsed()
    );
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.status(), record.service_ms()),
        (Some("H19"), Some(503), None)
    );
    assert!(
        record.dyno().is_some() && record.connect_ms() >= Some(100),
        "of the last attempt: {record:?}"
    );
    assert_eq!(
        (world.seen.connect_attempts(), world.seen.quarantined()),
        (10, 10)
    );
    world.finish().await;
}

#[tokio::test]
async fn connecting_ends_at_the_total_budget() {
    let world = World::with(|setup| {
        setup.timeouts.connect = ms(200);
        setup.timeouts.connect_total = ms(500);
        setup.limits.quarantine = FOREVER;
    });
    let (_holes, app) = shop_of_black_holes(8);
    world.apply(&[app]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H19"));
    assert!(
        world.seen.connect_attempts() <= 3,
        "{} attempts in 500 ms",
        world.seen.connect_attempts()
    );
    world.finish().await;
}

#[tokio::test]
async fn the_last_failure_gives_the_code() {
    let world = World::with(|setup| setup.timeouts.connect = ms(100));
    let hole = BlackHole::start();
    world.apply(&[shop().web(1, hole.address()).web(2, refused_address())]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    let record = world.log.next().await;
    match record.dyno() {
        Some("web.1") => assert_eq!(record.code(), Some("H19")),
        Some("web.2") => assert_eq!(record.code(), Some("H21")),
        other => panic!("dyno {other:?}"),
    }
    world.finish().await;
}

#[tokio::test]
async fn with_all_dynos_in_quarantine_a_request_waits_its_budget_then_fails() {
    // Scenario 11.
    let world = World::with(|setup| {
        setup.timeouts.connect_total = ms(300);
        setup.limits.quarantine = FOREVER;
    });
    world.apply(&[shop().web(1, refused_address()).web(2, refused_address())]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H21"));
    let start = Instant::now();
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert!(
        start.elapsed() >= ms(300),
        "gave up after {:?}",
        start.elapsed()
    );
    let record = world.log.next().await;
    assert_failed(&record, "H34", 503);
    assert_eq!(record.desc(), Some("All up dynos are quarantined"));
    assert_eq!(
        world.seen.connect_attempts(),
        2,
        "nobody is called in quarantine"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_comes_up_serves_those_who_wait_out_a_quarantine() {
    let world = World::with(|setup| setup.limits.quarantine = FOREVER);
    let dead = refused_address();
    world.apply(&[shop().web(1, dead)]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H21"));
    client.send(get("/waits")).await;
    let fresh = FakeDyno::start().await;
    world.apply(&[shop().web(1, dead).web(2, fresh.address())]);
    let (_conn, head) = fresh.accept_and_answer(ok("fresh")).await;
    assert_eq!(head.target(), "/waits");
    assert_eq!(client.read_response().await.text(), "fresh");
    assert_served(&world.log.next().await, "web.2", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_new_address_ends_a_quarantine() {
    let world = World::with(|setup| setup.limits.quarantine = FOREVER);
    world.apply(&[shop().web(1, refused_address())]);
    let mut client = world.client().await;
    assert_eq!(client.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H21"));
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    client.send(get("/")).await;
    let (_conn, _) = dyno.accept_and_answer(ok("moved")).await;
    assert_eq!(client.read_response().await.text(), "moved");
    assert_served(&world.log.next().await, "web.1", 200);
    assert_eq!(world.router.stats().dynos_quarantined, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_quarantine_survives_a_route_update_that_leaves_the_dyno_alone() {
    let world = World::with(|setup| setup.limits.quarantine = FOREVER);
    let (dead, dyno) = (
        refused_address(),
        FakeDyno::respond_with(|_| ok("x").into_bytes()).await,
    );
    let app = || {
        shop()
            .web(1, dead)
            .web(2, dyno.address())
            .setting("balancer", "round_robin")
    };
    world.apply(&[app()]);
    let mut client = world.client().await;
    for round in 0..4 {
        world.apply(&[app().domain(&format!("round-{round}.test"))]);
        for _ in 0..2 {
            assert_eq!(client.exchange(get("/")).await.status, 200);
            assert_served(&world.log.next().await, "web.2", 200);
        }
    }
    assert_eq!(world.seen.quarantined(), 1);
    world.finish().await;
}

#[tokio::test]
async fn failures_after_the_connection_never_quarantine() {
    let world = World::with(|setup| {
        setup.limits.quarantine = FOREVER;
        setup.timeouts.first_byte = ms(150);
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    for code in ["H12", "H13", "H17", "H18"] {
        client.send(get("/")).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        let held = match code {
            "H12" => Some(conn),
            "H13" => {
                conn.close().await;
                None
            }
            "H17" => {
                conn.write("nonsense\r\n\r\n").await;
                Some(conn)
            }
            _ => {
                conn.reset();
                None
            }
        };
        assert_eq!(client.read_response().await.status, 503, "{code}");
        assert_failed_at(&world.log.next().await, "web.1", code, 503);
        drop(held);
    }
    client.send(get("/")).await;
    let (_conn, _) = dyno
        .accept_and_answer("HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.read_response().await.status, 500);
    assert_served(&world.log.next().await, "web.1", 500);
    assert_eq!(
        (
            world.seen.quarantined(),
            world.router.stats().dynos_quarantined
        ),
        (0, 0)
    );
    world.finish().await;
}
