//! HTTP/2 to dynos: streams of shared connections, what a request looks like there, what is sent again, and when
//! connections end.

use h2::Reason;
use router_testkit::{AppDoc, Ending, FakeDyno, H2Call, H2Dyno, RawClient, TestCa, eventually};
use serde_json::json;

use crate::world::{
    World, assert_failed_at, assert_served, get, ms, post, post_chunked_head, shop,
};

fn shop_over_h2c() -> AppDoc {
    shop().setting("dyno_protocol", "h2c")
}

/// A world whose shop has one dyno that speaks h2c.
async fn shop_with_h2_dyno() -> (World, H2Dyno, RawClient) {
    let world = World::start();
    let dyno = H2Dyno::start().await;
    world.apply(&[shop_over_h2c().web(1, dyno.address())]);
    let client = world.client().await;
    (world, dyno, client)
}

/// The next request of each of so many clients, all in flight at once.
async fn calls(world: &World, dyno: &mut H2Dyno, count: usize) -> Vec<(RawClient, H2Call)> {
    let mut calls = Vec::new();
    for number in 0..count {
        let mut client = world.client().await;
        client.send(get(&format!("/{number}"))).await;
        calls.push((client, dyno.call().await));
    }
    calls
}

/// Answers them, the last first, and finds each answer with its client.
async fn answer(world: &World, calls: Vec<(RawClient, H2Call)>) {
    for (mut client, mut call) in calls.into_iter().rev() {
        let path = call.path().to_owned();
        call.answer(200, path.clone()).await;
        assert_eq!(client.read_response().await.text(), path);
        assert_served(&world.log.next().await, "web.1", 200);
    }
}

async fn kept(world: &World, count: u64) {
    let kept = || (world.router.stats().kept_connections == count).then_some(());
    eventually("that many connections are kept", kept).await;
}

#[tokio::test]
async fn a_request_reaches_the_dyno_as_http2_and_the_answer_comes_back_as_http1() {
    let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
    client
        .send(
            "GET /path?q=1 HTTP/1.1\r\nHost: Shop.test:80\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
             Keep-Alive: 5\r\nCookie: a=1\r\nX-Custom: Value\r\nTE: gzip\r\n\r\n",
        )
        .await;
    let mut call = dyno.call().await;
    assert_eq!(
        (call.method(), call.path(), call.scheme(), call.authority()),
        ("GET", "/path?q=1", Some("http"), Some("Shop.test:80"))
    );
    assert!(call.has_no_body());
    for (name, expected) in [
        ("host", None),
        ("connection", None),
        ("keep-alive", None),
        ("x-hop", None),
        ("te", None),
        ("transfer-encoding", None),
        ("cookie", Some("a=1")),
        ("x-custom", Some("Value")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("via", Some("1.1 router")),
    ] {
        assert_eq!(call.header(name).as_deref(), expected, "{name}");
    }
    call.respond(200, &[("x-answer", "yes"), ("content-length", "5")], false);
    call.send("hello", true).await;
    let response = client.read_response().await;
    assert_eq!(response.status_line, "HTTP/1.1 200 OK");
    assert_eq!(response.header("x-answer"), Some("yes"));
    assert_eq!(response.header("via"), Some("1.1 router"));
    assert_eq!(response.text(), "hello");
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!((record.protocol(), record.bytes()), ("http1.1", 5));
    kept(&world, 1).await;
    world.finish().await;
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let (world, mut dyno, _client) = shop_with_h2_dyno().await;
    let first = calls(&world, &mut dyno, 20).await;
    assert!(first.iter().all(|(_, call)| call.connection() == 1));
    answer(&world, first).await;
    kept(&world, 1).await;
    let second = calls(&world, &mut dyno, 3).await;
    answer(&world, second).await;
    assert_eq!(dyno.connections(), 1);
    assert_eq!(world.seen.connect_attempts(), 1);
    world.finish().await;
}

#[tokio::test]
async fn requests_that_come_all_at_once_open_one_connection() {
    let (world, mut dyno, _client) = shop_with_h2_dyno().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = world.client().await;
        client.send(get("/")).await;
        clients.push(client);
    }
    for _ in 0..50 {
        dyno.call().await.answer(200, "fine").await;
    }
    for client in &mut clients {
        assert_eq!(client.read_response().await.text(), "fine");
        assert_served(&world.log.next().await, "web.1", 200);
    }
    assert_eq!(dyno.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn when_streams_run_out_another_connection_is_opened() {
    for streams in [1, 2] {
        let world = World::start();
        let mut dyno = H2Dyno::start_with(|dyno| {
            dyno.max_concurrent_streams(streams);
        })
        .await;
        world.apply(&[shop_over_h2c().web(1, dyno.address())]);
        let calls = calls(&world, &mut dyno, 6).await;
        assert_eq!(dyno.connections(), 6 / streams as usize);
        answer(&world, calls).await;
        kept(&world, 6 / u64::from(streams)).await;
        let calls = self::calls(&world, &mut dyno, 6).await;
        assert_eq!(dyno.connections(), 6 / streams as usize);
        answer(&world, calls).await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_body_goes_up_and_comes_down_with_its_trailers() {
    let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
    client.send(post("/known", "the body")).await;
    let mut call = dyno.call().await;
    assert_eq!(call.header("content-length").as_deref(), Some("8"));
    assert_eq!(call.body().await, b"the body");
    call.answer(201, "made").await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.text().as_str()), (201, "made"));
    assert_served(&world.log.next().await, "web.1", 201);

    client.send(post_chunked_head("/chunked")).await;
    client.send("4\r\nfour\r\n0\r\nX-Sum: 4\r\n\r\n").await;
    let mut call = dyno.call().await;
    assert_eq!(call.header("content-length"), None);
    assert_eq!(call.body().await, b"four");
    assert_eq!(
        call.trailers().await,
        [("x-sum".to_owned(), "4".to_owned())]
    );
    call.respond(200, &[("trailer", "x-end")], false);
    call.send("part", false).await;
    call.send_trailers(&[("x-end", "now")]);
    let response = client.read_response().await;
    assert_eq!(response.text(), "part");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_large_body_passes_both_ways_through_small_windows() {
    let world = World::start();
    let mut dyno = H2Dyno::start_with(|dyno| {
        dyno.initial_window_size(10_000)
            .initial_connection_window_size(70_000);
    })
    .await;
    world.apply(&[shop_over_h2c().web(1, dyno.address())]);
    let body = "0123456789abcdef".repeat(25_000);
    let mut client = world.client().await;
    let request = post("/", &body);
    let dyno = async {
        let mut call = dyno.call().await;
        assert!(call.body().await == body.as_bytes());
        call.answer(200, body.clone()).await;
    };
    let client = async {
        client.send(&request).await;
        assert!(client.read_response().await.text() == body);
    };
    tokio::join!(dyno, client);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody_else() {
    let (world, mut dyno, _client) = shop_with_h2_dyno().await;
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let mut client = RawClient::connect_with_small_window(world.address(), 4096).await;
        client.send(get("/large")).await;
        let mut call = dyno.call().await;
        call.respond(200, &[], false);
        let sent = call.send_what_fits(vec![b'x'; 8 << 20].into()).await;
        assert!(sent < 8 << 20, "the router takes no more than it may hold");
        stuck.push((client, call));
    }
    let calls = calls(&world, &mut dyno, 3).await;
    assert!(calls.iter().all(|(_, call)| call.connection() == 1));
    answer(&world, calls).await;
    for (client, call) in stuck {
        client.reset();
        assert_eq!(world.log.next().await.code(), Some("H27"));
        drop(call);
    }
    world.finish().await;
}

#[tokio::test]
async fn over_tls_the_dyno_agrees_to_http2_and_proves_its_name() {
    let ca = TestCa::new("dynos");
    let world = World::start();
    let mut dyno = H2Dyno::start_tls(&ca.certificate(&["web.1"])).await;
    let app = shop()
        .setting("dyno_protocol", "h2")
        .setting("dyno_tls", json!({"verify": ca.pem()}));
    world.apply(&[app.web(1, dyno.address())]);
    let mut client = world.client().await;
    for _ in 0..2 {
        client.send(get("/")).await;
        let mut call = dyno.call().await;
        assert_eq!((call.scheme(), call.sni()), (Some("https"), None));
        call.answer(200, "fine").await;
        assert_eq!(client.read_response().await.text(), "fine");
        assert_served(&world.log.next().await, "web.1", 200);
    }
    assert_eq!(dyno.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_speaks_no_http2_is_no_dyno_for_the_app() {
    let ca = TestCa::new("dynos");
    for tls in [false, true] {
        let world = World::with(|setup| setup.limits.quarantine = ms(60_000));
        let certificate = ca.certificate(&["web.1", "web.2"]);
        let (old, mut new, app) = if tls {
            let settings = shop()
                .setting("dyno_protocol", "h2")
                .setting("dyno_tls", json!({"verify": ca.pem()}));
            let old = FakeDyno::start_tls(&certificate).await;
            (old, H2Dyno::start_tls(&certificate).await, settings)
        } else {
            (
                FakeDyno::start().await,
                H2Dyno::start().await,
                shop_over_h2c(),
            )
        };
        let refuses = async {
            // Over TLS the handshake fails already.
            if let Ok(mut conn) = old.try_accept().await {
                assert_eq!(
                    conn.read_exact(24).await,
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                );
                conn.write("HTTP/1.1 505 HTTP Version Not Supported\r\n\r\n")
                    .await;
                conn.read_until_end().await;
            }
        };
        let app = app.setting("balancer", "round_robin").web(1, old.address());
        world.apply(&[app.web(2, new.address())]);
        let requests = async {
            let mut client = world.client().await;
            for _ in 0..4 {
                client.send(get("/")).await;
                new.call().await.answer(200, "fine").await;
                assert_eq!(client.read_response().await.text(), "fine");
                assert_served(&world.log.next().await, "web.2", 200);
            }
        };
        tokio::join!(refuses, requests);
        assert_eq!(world.seen.quarantined(), 1);
        world.finish().await;
    }
}

#[tokio::test]
async fn where_all_dynos_speak_something_else_the_log_says_so() {
    let world = World::start();
    let old = FakeDyno::start().await;
    world.apply(&[shop_over_h2c().web(1, old.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let mut conn = old.accept().await;
    conn.write("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!(client.read_response().await.status, 503);
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.dyno(), record.service_ms()),
        (Some("H17"), Some("web.1"), None)
    );
    conn.read_until_end().await;
    world.finish().await;
}

#[tokio::test]
async fn without_keep_alive_each_request_has_a_connection_of_its_own() {
    let world = World::start();
    let mut dyno = H2Dyno::start().await;
    world.apply(&[shop_over_h2c()
        .setting("dyno_keepalive", false)
        .web(1, dyno.address())]);
    let mut client = world.client().await;
    for number in 1..4 {
        client.send(get("/")).await;
        let mut call = dyno.call().await;
        assert_eq!(call.connection(), number);
        call.answer(200, "fine").await;
        assert_eq!(client.read_response().await.text(), "fine");
        assert_served(&world.log.next().await, "web.1", 200);
    }
    eventually("all are closed", || {
        (dyno.open_connections() == 0).then_some(())
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_takes_a_connection_of_http1() {
    const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop_over_h2c().web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(UPGRADE).await;
    let (mut conn, head) = dyno.accept_and_answer(SWITCHING).await;
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(client.read_response().await.status, 101);
    client.send("ping").await;
    assert_eq!(conn.read_exact(4).await, b"ping");
    conn.close().await;
    assert_eq!(client.expect_end().await, Ending::Closed);
    assert_eq!(world.log.next().await.status(), Some(101));
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_takes_leave_finishes_what_it_has() {
    let (world, mut dyno, _client) = shop_with_h2_dyno().await;
    let mut calls = calls(&world, &mut dyno, 2).await;
    calls[0].1.go_away();
    // Requests that cross the GOAWAY are still served; then comes a new connection.
    let mut client = world.client().await;
    let mut connection = 1;
    while connection == 1 {
        client.send(get("/next")).await;
        let mut call = dyno.call().await;
        connection = call.connection();
        call.answer(200, "next").await;
        assert_eq!(client.read_response().await.text(), "next");
        assert_served(&world.log.next().await, "web.1", 200);
    }
    calls
        .iter_mut()
        .for_each(|(_, call)| assert_eq!(call.connection(), 1));
    answer(&world, calls).await;
    eventually("the first is closed", || {
        (dyno.open_connections() == 1).then_some(())
    })
    .await;
    client.send(get("/last")).await;
    let mut call = dyno.call().await;
    assert_eq!(call.connection(), 2);
    call.answer(200, "last").await;
    assert_eq!(client.read_response().await.text(), "last");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_refused_request_is_sent_again_unless_its_body_is_gone() {
    for (request, body, again) in [
        (get("/"), "", true),
        (
            "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "",
            true,
        ),
        (post("/", "body"), "body", false),
    ] {
        let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
        client.send(request).await;
        let mut call = dyno.call().await;
        assert_eq!(call.body().await, body.as_bytes());
        call.reset(Reason::REFUSED_STREAM);
        if again {
            dyno.call().await.answer(200, "at last").await;
            assert_eq!(client.read_response().await.text(), "at last");
            assert_served(&world.log.next().await, "web.1", 200);
            assert_eq!(world.seen.retries(), 1);
        } else {
            assert_eq!(client.read_response().await.status, 503);
            assert_eq!(world.log.next().await.dyno(), Some("web.1"));
            dyno.assert_no_call();
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn a_request_that_may_have_been_acted_on_is_not_sent_again() {
    let empty_post = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n";
    for (request, reused, again) in [
        (get("/"), false, false),
        (get("/"), true, true),
        (empty_post.to_owned(), false, false),
        (empty_post.to_owned(), true, false),
        (post("/", "body"), true, false),
    ] {
        let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
        if reused {
            let first = calls(&world, &mut dyno, 1).await;
            answer(&world, first).await;
        }
        client.send(&request).await;
        let call = dyno.call().await;
        call.cut_connection();
        if again {
            dyno.call().await.answer(200, "again").await;
            assert_eq!(client.read_response().await.text(), "again", "{request}");
            assert_served(&world.log.next().await, "web.1", 200);
        } else {
            assert_eq!(client.read_response().await.status, 503, "{request}");
            let record = world.log.next().await;
            assert!(matches!(record.code(), Some("H13" | "H18")), "{record:?}");
            dyno.assert_no_call();
        }
        drop(call);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_ends_each_of_its_requests_and_is_not_used_again() {
    let (world, mut dyno, _client) = shop_with_h2_dyno().await;
    let mut calls = calls(&world, &mut dyno, 3).await;
    calls[1].1.respond(200, &[("content-length", "10")], false);
    calls[1].1.send("half", false).await;
    assert_eq!(calls[1].0.read_response_to_head().await.status, 200);
    calls[0].1.cut_connection();
    // The third came on a connection that had served before, which may just have grown old: that one is sent again.
    dyno.call().await.answer(200, "again").await;
    assert_eq!(calls[2].0.read_response().await.text(), "again");
    assert_eq!(calls[1].0.read_raw_until_close().await.0, b"half");
    assert_eq!(calls[0].0.read_response().await.status, 503);
    drop(calls);
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(world.log.next().await.code().unwrap_or("none").to_owned());
    }
    codes.sort();
    assert_eq!(codes, ["H13", "H18", "none"]);
    let next = self::calls(&world, &mut dyno, 1).await;
    assert_eq!(next[0].1.connection(), 2);
    answer(&world, next).await;
    world.finish().await;
}

#[tokio::test]
async fn idle_connections_and_those_of_retired_dynos_are_closed() {
    let world = World::with(|setup| setup.timeouts.dyno_idle = ms(50));
    let mut dyno = H2Dyno::start().await;
    world.apply(&[shop_over_h2c().web(1, dyno.address())]);
    let first = calls(&world, &mut dyno, 2).await;
    answer(&world, first).await;
    eventually("idle, and closed", || {
        (dyno.open_connections() == 0).then_some(())
    })
    .await;
    let mut busy = calls(&world, &mut dyno, 1).await;
    world.apply(&[shop_over_h2c().dyno("web.1", dyno.address(), "draining")]);
    busy[0].1.respond(200, &[], false);
    assert_eq!(busy[0].0.read_response_to_head().await.status, 200);
    assert_eq!(dyno.open_connections(), 1);
    busy[0].1.send("end", true).await;
    eventually("retired, and closed", || {
        (dyno.open_connections() == 0).then_some(())
    })
    .await;
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_leaves_no_connection() {
    let (mut world, mut dyno, _client) = shop_with_h2_dyno().await;
    let mut calls = calls(&world, &mut dyno, 2).await;
    let server = world.take_server();
    let drained = server.drain(ms(5_000));
    let finishing = async {
        for (client, call) in &mut calls {
            call.answer(200, "fine").await;
            assert_eq!(client.read_response().await.text(), "fine");
        }
    };
    let (report, ()) = tokio::join!(drained, finishing);
    assert_eq!((report.finished, report.cut), (2, 0));
    eventually("the dyno is left", || {
        (dyno.open_connections() == 0).then_some(())
    })
    .await;
    for _ in 0..2 {
        assert_served(&world.log.next().await, "web.1", 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn what_the_dyno_must_not_send_is_refused() {
    let long = "x".repeat(9_000);
    for (fields, code) in [
        (vec![("set-cookie", &*long)], "H25"),
        // The library finds this one out, and then it is the stream that is broken.
        (
            vec![("content-length", "1"), ("content-length", "2")],
            "H33",
        ),
    ] {
        let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
        client.send(get("/")).await;
        let mut call = dyno.call().await;
        call.respond(200, &fields, false);
        let response = client.read_response().await;
        assert_failed_at(&world.log.next().await, "web.1", code, response.status);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_dyno_that_says_nothing_is_a_request_timeout() {
    let world = World::with(|setup| setup.timeouts.first_byte = ms(100));
    let mut dyno = H2Dyno::start().await;
    world.apply(&[shop_over_h2c().web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let mut call = dyno.call().await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H12", 503);
    assert_eq!(call.reset_by_router().await, Reason::CANCEL);
    world.finish().await;
}

/// The end of the stream says that there is no content; to an HTTP/1 client it has to be said in the head.
#[tokio::test]
async fn an_answer_that_is_only_a_head_ends_for_the_client_too() {
    let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
    for (method, status, length) in [
        ("GET", 200, Some("0")),
        ("GET", 302, Some("0")),
        ("GET", 204, None),
        ("GET", 304, None),
        ("HEAD", 200, None),
    ] {
        client
            .send(format!("{method} / HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
            .await;
        dyno.call().await.respond(status, &[], true);
        let response = if method == "HEAD" {
            client.read_response_to_head().await
        } else {
            client.read_response().await
        };
        assert_eq!(
            (response.status, response.header("content-length")),
            (status, length)
        );
        assert!(response.open, "{method} {status}");
        assert_served(&world.log.next().await, "web.1", status);
    }
    world.finish().await;
}

/// A target that HTTP/2 cannot say is the client's fault, not its dyno's.
#[tokio::test]
async fn a_target_that_http2_cannot_say_is_a_bad_request() {
    let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
    let response = client.exchange(get("/a<b>")).await;
    assert_eq!(response.status, 400);
    assert_eq!(world.log.next().await.code(), Some("H26"));
    dyno.assert_no_call();
    world.finish().await;
}

/// More fields than an HTTP/2 head can hold must not come near one.
#[tokio::test]
async fn a_response_of_endless_fields_is_refused() {
    let world = World::with(|setup| setup.http2_prior_knowledge = true);
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.try_write(format!(
        "HTTP/1.1 200 OK\r\n{}\r\n",
        "a:\r\n".repeat(40_000)
    ))
    .await;
    assert_eq!(client.read_response().await.status, 502);
    assert_failed_at(&world.log.next().await, "web.1", "H25", 502);
    world.finish().await;
}

/// To an HTTP/1 client such bytes would be the response to its next request.
#[tokio::test]
async fn content_of_a_response_that_has_none_goes_to_nobody() {
    let (world, mut dyno, mut client) = shop_with_h2_dyno().await;
    for status in [204, 304] {
        client.send(get("/none")).await;
        let mut call = dyno.call().await;
        call.respond(status, &[], false);
        call.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", true)
            .await;
        let response = client.read_response().await;
        assert_eq!((response.status, response.text()), (status, String::new()));
        assert_served(&world.log.next().await, "web.1", status);
        client.send(get("/next")).await;
        dyno.call().await.answer(200, "good").await;
        assert_eq!(client.read_response().await.text(), "good");
        assert_served(&world.log.next().await, "web.1", 200);
    }
    world.finish().await;
}
