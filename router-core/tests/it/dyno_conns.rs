//! Connections to dynos: kept and reused, given up when they cannot be, and the one case in which a request is sent twice.

use router_testkit::{AppDoc, DynoConn, Ending, FakeDyno, RawClient, eventually, refused_address};

use crate::world::{
    World, assert_failed_at, assert_served, get, ms, ok, post, shop, shop_with_dyno,
};

/// A first exchange that leaves a kept connection behind.
async fn kept_connection(world: &World, dyno: &FakeDyno, client: &mut RawClient) -> DynoConn {
    client.send(get("/first")).await;
    let (conn, _) = dyno.accept_and_answer(ok("first")).await;
    assert_eq!(client.read_response().await.text(), "first");
    assert_served(&world.log.next().await, "web.1", 200);
    eventually("the connection is kept", || {
        (world.router.stats().kept_connections == 1).then_some(())
    })
    .await;
    conn
}

#[tokio::test]
async fn a_dyno_connection_is_kept_and_serves_other_clients_too() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    let mut other = world.client().await;
    for (client, target) in [(&mut client, "/2"), (&mut other, "/3")] {
        client.send(get(target)).await;
        let head = conn.answer(ok("more")).await;
        assert_eq!(head.target(), target);
        assert_eq!(client.read_response().await.text(), "more");
        let record = world.log.next().await;
        assert_served(&record, "web.1", 200);
        assert_eq!(record.connect_ms(), Some(0));
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_kept_connection_that_the_dyno_closed_is_not_used() {
    // Scenario 44, seen in time.
    for method in ["GET", "POST"] {
        let (world, dyno, mut client) = shop_with_dyno().await;
        let conn = kept_connection(&world, &dyno, &mut client).await;
        conn.close().await;
        let request = if method == "GET" {
            get("/second")
        } else {
            post("/second", "body")
        };
        client.send(request).await;
        let mut fresh = dyno.accept().await;
        assert_eq!(fresh.read_head().await.method(), method);
        if method == "POST" {
            fresh.read_exact(4).await;
        }
        fresh.write(ok("second")).await;
        assert_eq!(client.read_response().await.text(), "second");
        assert_served(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_get_on_a_stale_kept_connection_is_sent_once_more() {
    // Scenario 44, the race: the dyno closes as the request arrives.
    for (method, reset) in [
        ("GET", false),
        ("GET", true),
        ("HEAD", false),
        ("OPTIONS", false),
        ("TRACE", true),
    ] {
        let (world, dyno, mut client) = shop_with_dyno().await;
        let mut conn = kept_connection(&world, &dyno, &mut client).await;
        client
            .send(format!(
                "{method} /second HTTP/1.1\r\nHost: shop.test\r\n\r\n"
            ))
            .await;
        let first = conn.read_head().await;
        if reset {
            conn.reset()
        } else {
            conn.close().await
        }
        let (_fresh, second) = dyno
            .accept_and_answer("HTTP/1.1 204 No Content\r\n\r\n")
            .await;
        assert_eq!(
            first.header("x-request-id"),
            second.header("x-request-id"),
            "the same request"
        );
        assert_eq!(client.read_response_to_head().await.status, 204, "{method}");
        assert_served(&world.log.next().await, "web.1", 204);
        assert_eq!(world.seen.retries(), 1);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_post_on_a_stale_kept_connection_is_not_sent_again() {
    // Scenario 44.
    for (request, reset, code) in [
        (post("/second", "body"), false, "H13"),
        (post("/second", "body"), true, "H18"),
        (post("/second", ""), false, "H13"),
        (
            "DELETE /second HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
            false,
            "H13",
        ),
        (
            "GET /second HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\n\r\nbody".to_owned(),
            false,
            "H13",
        ),
    ] {
        let (world, dyno, mut client) = shop_with_dyno().await;
        let mut conn = kept_connection(&world, &dyno, &mut client).await;
        client.send(&request).await;
        conn.read_head().await;
        if request.ends_with("body") {
            conn.read_exact(4).await;
        }
        if reset {
            conn.reset()
        } else {
            conn.close().await
        }
        assert_eq!(client.read_response().await.status, 503, "{request}");
        assert_failed_at(&world.log.next().await, "web.1", code, 503);
        assert_eq!(world.seen.retries(), 0);
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

#[tokio::test]
async fn a_request_is_sent_again_only_once_and_only_after_a_reused_connection() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    // On a fresh connection there is no second try.
    client.send(get("/fresh")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.close().await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H13", 503);
    // After a reused one there is one.
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    client.send(get("/twice")).await;
    conn.read_head().await;
    conn.close().await;
    let mut fresh = dyno.accept().await;
    fresh.read_head().await;
    fresh.close().await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H13", 503);
    assert_eq!(world.seen.retries(), 1);
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_get_is_not_sent_again_once_a_response_byte_came() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    client.send(get("/second")).await;
    conn.read_head().await;
    conn.write("H").await;
    conn.close().await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H18", 503);
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn responses_that_end_the_dyno_connection_end_it() {
    let answers = [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: Close, X-A\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
    ];
    for answer in answers {
        let (world, dyno, mut client) = shop_with_dyno().await;
        client.send(get("/")).await;
        let (mut conn, _) = dyno.accept_and_answer(answer).await;
        assert_eq!(client.read_response().await.text(), "ok", "{answer}");
        assert_served(&world.log.next().await, "web.1", 200);
        client.send(get("/next")).await;
        let (_fresh, head) = dyno.accept_and_answer(ok("next")).await;
        assert_eq!(head.target(), "/next");
        assert_eq!(client.read_response().await.text(), "next");
        assert_served(&world.log.next().await, "web.1", 200);
        let (rest, _) = conn.read_until_end().await;
        assert!(rest.is_empty(), "{answer}: reused");
        world.finish().await;
    }
}

#[tokio::test]
async fn an_http_1_0_dyno_with_keep_alive_is_kept() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/1")).await;
    let answer = "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\n1";
    let (mut conn, _) = dyno.accept_and_answer(answer).await;
    assert_eq!(client.read_response().await.text(), "1");
    client.send(get("/2")).await;
    conn.answer(ok("2")).await;
    assert_eq!(client.read_response().await.text(), "2");
    for _ in 0..2 {
        assert_served(&world.log.next().await, "web.1", 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn unasked_bytes_on_a_kept_connection_are_never_taken_for_a_response() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    conn.write(ok("poison")).await;
    client.send(get("/second")).await;
    let (_fresh, head) = dyno.accept_and_answer(ok("second")).await;
    assert_eq!(head.target(), "/second");
    assert_eq!(client.read_response().await.text(), "second");
    assert_served(&world.log.next().await, "web.1", 200);
    conn.expect_end().await;
    world.finish().await;
}

#[tokio::test]
async fn an_app_can_have_one_request_per_connection() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("dyno_keepalive", false)]);
    let mut client = world.client().await;
    for target in ["/1", "/2"] {
        client.send(get(target)).await;
        let (mut conn, head) = dyno.accept_and_answer(ok("x")).await;
        assert_eq!(
            (head.target(), head.header("connection")),
            (target, Some("close"))
        );
        let response = client.read_response().await;
        assert!(response.open, "that is between router and dyno");
        conn.expect_end().await;
        assert_served(&world.log.next().await, "web.1", 200);
    }
    assert_eq!(world.router.stats().kept_connections, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_kept_connection_is_closed_when_it_was_idle_too_long() {
    let world = World::with(|setup| setup.timeouts.dyno_idle = ms(150));
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    assert_eq!(conn.expect_end().await, Ending::Closed);
    eventually("it is no longer counted", || {
        (world.router.stats().kept_connections == 0).then_some(())
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_kept_connection_is_closed_before_the_dynos_own_time_is_over() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let answer = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2, max=100\r\nContent-Length: 0\r\n\r\n";
    let (mut conn, _) = dyno.accept_and_answer(answer).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    // 90 s is the router's own limit: an end within the deadline of this read can only be the dyno's two seconds.
    assert_eq!(conn.expect_end().await, Ending::Closed);
    world.finish().await;
}

#[tokio::test]
async fn kept_connections_of_a_dyno_that_left_are_closed() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    let other = FakeDyno::start().await;
    world.apply(&[shop().web(2, other.address())]);
    assert_eq!(conn.expect_end().await, Ending::Closed);
    client.send(get("/")).await;
    let (_conn, _) = other.accept_and_answer(ok("other")).await;
    assert_eq!(client.read_response().await.text(), "other");
    assert_served(&world.log.next().await, "web.2", 200);
    world.finish().await;
}

#[tokio::test]
async fn kept_connections_of_a_dyno_that_left_are_closed_on_every_worker() {
    let world = World::with(|setup| setup.workers = Some(3));
    let dyno = FakeDyno::respond_with(|_| ok("x").into_bytes()).await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut clients = Vec::new();
    for _ in 0..24 {
        let mut client = world.client().await;
        assert_eq!(client.exchange(get("/")).await.status, 200);
        assert_served(&world.log.next().await, "web.1", 200);
        clients.push(client);
    }
    assert!(dyno.open_connections() > 0);
    world.apply(&[shop().dyno("web.1", dyno.address(), "crashed")]);
    eventually("all of them are closed", || {
        (dyno.open_connections() == 0).then_some(())
    })
    .await;
    assert_eq!(world.router.stats().kept_connections, 0);
    world.finish().await;
}

#[tokio::test]
async fn kept_connections_survive_route_updates_that_do_not_concern_their_dyno() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    let changed = shop().domain("www.shop.test").web(1, dyno.address()).dyno(
        "web.2",
        refused_address(),
        "starting",
    );
    world.apply(&[changed, AppDoc::new("new").domain("new.test")]);
    client.send(get("/second")).await;
    assert_eq!(conn.answer(ok("second")).await.target(), "/second");
    assert_eq!(client.read_response().await.text(), "second");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_moved_is_called_at_its_new_address() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    let moved = FakeDyno::start().await;
    world.apply(&[shop().web(1, moved.address())]);
    client.send(get("/second")).await;
    let (_conn, head) = moved.accept_and_answer(ok("moved")).await;
    assert_eq!(head.target(), "/second");
    assert_eq!(client.read_response().await.text(), "moved");
    assert_served(&world.log.next().await, "web.1", 200);
    conn.expect_end().await;
    world.finish().await;
}

#[tokio::test]
async fn no_more_connections_are_kept_than_the_limit() {
    let world = World::with(|setup| setup.limits.idle_connections_per_dyno = 2);
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut pairs = Vec::new();
    for _ in 0..4 {
        let mut client = world.client().await;
        client.send(get("/")).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        pairs.push((client, conn));
    }
    for (client, conn) in &mut pairs {
        conn.write(ok("x")).await;
        assert_eq!(client.read_response().await.status, 200);
        assert_served(&world.log.next().await, "web.1", 200);
    }
    eventually("two are kept", || {
        (world.router.stats().kept_connections == 2).then_some(())
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_get_whose_dyno_died_altogether_goes_to_another_dyno() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    let other = FakeDyno::respond_with(|_| ok("other").into_bytes()).await;
    let app = shop()
        .web(1, dyno.address())
        .setting("session_affinity", true);
    world.apply(std::slice::from_ref(&app));
    let mut client = world.client().await;
    client.send(get("/first")).await;
    let (mut conn, _) = dyno.accept_and_answer(ok("first")).await;
    let response = client.read_response().await;
    let cookie = response.header("set-cookie").expect("a cookie").to_owned();
    assert_served(&world.log.next().await, "web.1", 200);
    world.apply(&[app.web(2, other.address())]);

    // The cookie leads to the first dyno, whose process is killed with the request in its hands.
    let (cookie, _) = cookie.split_once(';').expect("attributes");
    client
        .send(format!(
            "GET /second HTTP/1.1\r\nHost: shop.test\r\nCookie: {cookie}\r\n\r\n"
        ))
        .await;
    conn.read_head().await;
    drop(dyno);
    conn.reset();
    assert_eq!(client.read_response().await.text(), "other");
    assert_served(&world.log.next().await, "web.2", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_get_that_died_on_one_dyno_is_sent_again_to_another() {
    // The first still accepts connections, as a process does whose sockets the system is closing one by one.
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn = kept_connection(&world, &dyno, &mut client).await;
    let other = FakeDyno::respond_with(|_| ok("other").into_bytes()).await;
    // Sent while there is one dyno only, so it goes to that.
    client.send(get("/second")).await;
    conn.read_head().await;
    world.apply(&[shop().web(1, dyno.address()).web(2, other.address())]);
    conn.reset();
    assert_eq!(client.read_response().await.text(), "other");
    assert_served(&world.log.next().await, "web.2", 200);
    world.finish().await;
}
