//! One end-to-end test per error code that HTTP/1 without TLS can produce: the condition, the answer on the wire, and the
//! whole log line. The finer cases of each code are in the other modules.

use router_testkit::{BlackHole, FakeDyno, LogRecord, RawResponse, eventually, refused_address};

use crate::world::{
    World, assert_failed, assert_failed_at, assert_served, get, ms, ok, post, post_chunked_head,
    post_head, shop, shop_with,
};

const APPLICATION_ERROR: &str = "<title>Application Error</title>";

/// What the code means in words, how bad it is, and what of it the client got.
fn check(record: &LogRecord, at: &str, desc: &str, page: &RawResponse) {
    assert_eq!((record.at(), record.desc()), (at, Some(desc)));
    assert_eq!(
        (record.method(), record.path(), record.host()),
        ("GET", "/code", "shop.test")
    );
    assert_eq!(
        (record.fwd(), record.protocol(), record.tls()),
        ("127.0.0.1", "http1.1", false)
    );
    assert_eq!(record.bytes(), page.body.len() as u64);
    assert_eq!(record.status(), Some(page.status));
}

/// Answers one request with these bytes, ends the dyno's connection, and gives what client and log got.
async fn answered_with(bytes: &[u8]) -> (RawResponse, LogRecord) {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/code")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.try_write(bytes).await;
    let response = client.read_response().await;
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
    assert!(
        response.status >= 500,
        "{start:?} was answered with {}",
        response.status_line
    );
    conn.read_until_end().await;
    let record = world.log.next().await;
    drop(client);
    world.finish().await;
    (response, record)
}

#[tokio::test]
async fn h10_app_crashed() {
    let world = World::start();
    world.apply(&[shop().homeless_dyno("web.1", "crashed")]);
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed(&record, "H10", 503);
    check(&record, "error", "App crashed", &response);
    world.finish().await;
}

#[tokio::test]
async fn h11_backlog_too_deep() {
    // Scenario 12.
    let (world, dyno, _) = shop_with(|_| {}).await;
    let mut running = Vec::new();
    for _ in 0..200 {
        let mut client = world.client().await;
        client.send(get("/running")).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        running.push((client, conn));
    }
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed(&record, "H11", 503);
    check(&record, "error", "Backlog too deep", &response);
    for (client, conn) in &mut running {
        conn.write(ok("x")).await;
        assert_eq!(client.read_response().await.status, 200);
        assert_served(&world.log.next().await, "web.1", 200);
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn h11_counts_waiting_requests_and_a_second_dyno_doubles_the_limit() {
    let world = World::with(|setup| setup.limits.concurrent_requests_per_dyno = 50);
    let app = || {
        shop()
            .homeless_dyno("web.1", "starting")
            .setting("concurrent_requests_per_dyno", 1)
    };
    world.apply(&[app()]);
    let mut first = world.client().await;
    first.send(get("/first")).await;
    eventually("the first waits", || {
        (world.router.stats().requests_in_flight == 1).then_some(())
    })
    .await;
    assert_eq!(
        world.client().await.exchange(get("/code")).await.status,
        503
    );
    assert_failed(&world.log.next().await, "H11", 503);
    let (one, two) = (FakeDyno::start().await, FakeDyno::start().await);
    let apps = shop()
        .web(1, one.address())
        .web(2, two.address())
        .setting("concurrent_requests_per_dyno", 1);
    world.apply(&[apps.setting("balancer", "round_robin")]);
    let mut second = world.client().await;
    second.send(get("/second")).await;
    eventually("two run", || {
        (world.router.stats().requests_in_flight == 2).then_some(())
    })
    .await;
    assert_eq!(
        world.client().await.exchange(get("/code")).await.status,
        503
    );
    assert_failed(&world.log.next().await, "H11", 503);
    drop((first, second));
    for _ in 0..2 {
        assert_eq!(world.log.next().await.code(), Some("H27"));
    }
    world.finish().await;
}

#[tokio::test]
async fn h12_request_timeout() {
    // Scenario 13; `timeouts` has the rest of it.
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.first_byte = ms(150)).await;
    client.send(get("/code")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let response = client.read_response().await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H12", 503);
    check(&record, "error", "Request timeout", &response);
    world.finish().await;
}

#[tokio::test]
async fn h13_connection_closed_without_response() {
    // Scenario 19.
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/code")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.close().await;
    let response = client.read_response().await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H13", 503);
    check(
        &record,
        "error",
        "Connection closed without response",
        &response,
    );
    world.finish().await;
}

#[tokio::test]
async fn h14_no_web_processes() {
    // Scenario 37.
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .field("formation", serde_json::json!({"web": 0, "worker": 3}))]);
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed(&record, "H14", 503);
    check(&record, "error", "No web processes running", &response);
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn h15_idle_connection() {
    // Scenario 16.
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.idle = ms(200)).await;
    client.send(get("/code")).await;
    let (mut conn, _) = dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
        .await;
    let response = client.read_broken_response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "half."));
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H15", 200);
    check(&record, "error", "Idle connection", &response);
    world.finish().await;
}

#[tokio::test]
async fn h17_poorly_formatted_response() {
    // Scenario 22.
    let garbage: [&[u8]; 13] = [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    ];
    for bytes in garbage {
        let (response, record) = answered_with(bytes).await;
        assert!(
            response.status == 503 && response.text().contains(APPLICATION_ERROR),
            "{bytes:?}"
        );
        assert_failed_at(&record, "web.1", "H17", 503);
        check(
            &record,
            "error",
            "Poorly formatted HTTP response",
            &response,
        );
    }
}

#[tokio::test]
async fn h17_a_bad_first_chunk_before_the_head_is_out_or_h18_after() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/code")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        .await;
    // One write brought both, so nothing of the head was out when the chunk was looked at.
    let response = client.read_response().await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H17", 503);
    assert_eq!(record.bytes(), response.body.len() as u64);

    client.send(get("/code")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.read_head().await;
    conn.write("nonsense\r\n").await;
    client.read_raw_until_close().await;
    assert_failed_at(&world.log.next().await, "web.1", "H18", 200);
    world.finish().await;
}

#[tokio::test]
async fn h18_server_request_interrupted() {
    // Scenario 20.
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/code")).await;
    let (conn, _) = dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
        .await;
    conn.close().await;
    let response = client.read_broken_response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "half."));
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H18", 200);
    check(&record, "error", "Server Request Interrupted", &response);
    assert_eq!(record.sock(), Some("backend"));
    world.finish().await;
}

#[tokio::test]
async fn h18_when_a_dyno_resets_or_stops_inside_the_head() {
    for bytes in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\nContent-"] {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        client.send(get("/code")).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        conn.write(bytes).await;
        if bytes.is_empty() {
            conn.reset()
        } else {
            conn.close().await
        }
        let response = client.read_response().await;
        assert!(
            response.status == 503 && response.text().contains(APPLICATION_ERROR),
            "{bytes:?}"
        );
        let record = world.log.next().await;
        assert_failed_at(&record, "web.1", "H18", 503);
        check(&record, "error", "Server Request Interrupted", &response);
        world.finish().await;
    }
}

#[tokio::test]
async fn h19_backend_connection_timeout() {
    let world = World::with(|setup| setup.timeouts.connect = ms(150));
    let hole = BlackHole::start();
    world.apply(&[shop().web(1, hole.address())]);
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    check(&record, "error", "Backend connection timeout", &response);
    assert_eq!(
        (record.code(), record.dyno(), record.service_ms()),
        (Some("H19"), Some("web.1"), None)
    );
    assert!(record.connect_ms() >= Some(150), "{record:?}");
    world.finish().await;
}

#[tokio::test]
async fn h20_app_boot_timeout() {
    let world = World::with(|setup| setup.timeouts.connect_total = ms(150));
    world.apply(&[shop().homeless_dyno("web.1", "starting")]);
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed(&record, "H20", 503);
    check(&record, "error", "App boot timeout", &response);
    world.finish().await;
}

#[tokio::test]
async fn h21_backend_connection_refused() {
    let world = World::start();
    world.apply(&[shop().web(1, refused_address())]);
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    check(&record, "error", "Backend connection refused", &response);
    assert_eq!(
        (record.code(), record.dyno(), record.service_ms()),
        (Some("H21"), Some("web.1"), None)
    );
    assert!(record.connect_ms().is_some(), "{record:?}");
    world.finish().await;
}

#[tokio::test]
async fn h22_connection_limit_reached() {
    let (world, dyno, mut first) = shop_with(|setup| setup.limits.client_connections = 2).await;
    let second = world.client().await;
    eventually("both are counted", || {
        (world.router.stats().client_connections == 2).then_some(())
    })
    .await;
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    assert!(!response.open, "a connection over the limit is not kept");
    let record = world.log.next().await;
    assert_failed(&record, "H22", 503);
    check(&record, "error", "Connection limit reached", &response);
    first.send(get("/")).await;
    let (mut conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(first.read_response().await.status, 200, "it came in time");
    assert_served(&world.log.next().await, "web.1", 200);
    second.close().await;
    eventually("there is room", || {
        (world.router.stats().client_connections <= 1).then_some(())
    })
    .await;
    let mut client = world.client().await;
    client.send(get("/")).await;
    conn.answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    drop(first);
    world.finish().await;
}

#[tokio::test]
async fn h24_forced_close() {
    let (mut world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/code")).await;
    let (mut conn, _) = dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
        .await;
    assert!(client.read_head().await.start_line().ends_with("200 OK"));
    assert_eq!(client.read_exact(5).await, b"half.");
    let report = world.drain(ms(150)).await;
    assert_eq!(report.cut, 1);
    client.expect_end().await;
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.status(), record.dyno()),
        (Some("H24"), None, Some("web.1"))
    );
    assert_eq!(
        (record.at(), record.desc(), record.bytes()),
        ("error", Some("Forced close"), 5)
    );
    assert!(record.service_ms() >= Some(150), "{record:?}");
    world.finish().await;
}

#[tokio::test]
async fn h25_http_restrictions() {
    // Scenarios 23 and 24.
    let long = |length: usize, start: &str| format!("{start}{}", "x".repeat(length - start.len()));
    let cases = [
        (
            "invalid content length",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_owned(),
        ),
        (
            "invalid content length",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n".to_owned(),
        ),
        (
            "invalid content length",
            "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n".to_owned(),
        ),
        (
            "invalid content length",
            "HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n".to_owned(),
        ),
        (
            "oversized cookie",
            format!(
                "HTTP/1.1 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n",
                long(8193, "Set-Cookie: a=")
            ),
        ),
        (
            "oversized header",
            format!(
                "HTTP/1.1 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n",
                long(512 * 1024 + 1, "X-Large: ")
            ),
        ),
        (
            "oversized status line",
            format!(
                "{}\r\nContent-Length: 0\r\n\r\n",
                long(8193, "HTTP/1.1 200 ")
            ),
        ),
    ];
    for (what, answer) in cases {
        let (response, record) = answered_with(answer.as_bytes()).await;
        assert!(
            response.status == 502 && response.text().contains(APPLICATION_ERROR),
            "{what}"
        );
        assert_failed_at(&record, "web.1", "H25", 502);
        check(
            &record,
            "error",
            &format!("HTTP restriction: {what}"),
            &response,
        );
    }
}

#[tokio::test]
async fn h25_not_for_heads_at_their_limits() {
    let long = |length: usize, start: &str| format!("{start}{}", "x".repeat(length - start.len()));
    let answer = format!(
        "{}\r\n{}\r\n{}\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        long(8192, "HTTP/1.1 200 "),
        long(8192, "Set-Cookie: a="),
        long(512 * 1024, "X-Large: "),
    );
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/")).await;
    let (_conn, _) = dyno.accept_and_answer(answer).await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    assert_eq!(
        response.header("x-large").map(str::len),
        Some(512 * 1024 - "X-Large: ".len())
    );
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn h26_unsupported_expect() {
    // Scenario 28.
    for expectation in ["foo", "100 continue", "100-continue, foo", "101-continue"] {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        let request =
            format!("GET /code HTTP/1.1\r\nHost: shop.test\r\nExpect: {expectation}\r\n\r\n");
        let response = client.exchange(request).await;
        assert_eq!(response.status, 417, "{expectation}");
        let record = world.log.next().await;
        assert_failed(&record, "H26", 417);
        check(&record, "error", "Request Error", &response);
        assert_eq!(record.cause(), Some("unsupported expect header value"));
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

#[tokio::test]
async fn h26_bad_header() {
    // Scenario 29.
    for line in [
        "Connection: ,",
        "Connection: upgrade",
        "Connection: a b",
        "Connection: \"close\"",
    ] {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        let response = client
            .exchange(format!(
                "GET /code HTTP/1.1\r\nHost: shop.test\r\n{line}\r\n\r\n"
            ))
            .await;
        assert_eq!(response.status, 400, "{line}");
        let record = world.log.next().await;
        assert_failed(&record, "H26", 400);
        check(&record, "error", "Request Error", &response);
        assert_eq!(record.cause(), Some("bad header"));
        dyno.assert_not_contacted();
        drop(client);
        world.finish().await;
    }
}

#[tokio::test]
async fn h26_bad_chunk() {
    // Scenario 30.
    let chunks = [
        "nonsense\r\n",
        "3\r\nabcd\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "-3\r\nabc\r\n",
        "3\nabc\n",
        "\r\n",
        "11111111111111111\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\nabc",
    ];
    for chunk in chunks {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        client
            .send(post_chunked_head("/code") + "5\r\nfirst\r\n")
            .await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        assert_eq!(conn.read_exact(10).await, b"5\r\nfirst\r\n");
        // Enough behind it that a parser that waits for a line's end finds one.
        client.send(format!("{chunk}\r\n\r\n")).await;
        let response = client.read_response().await;
        assert_eq!((response.status, response.open), (400, false), "{chunk:?}");
        let (rest, _) = conn.read_until_end().await;
        assert!(
            !rest.windows(5).any(|window| window == b"0\r\n\r\n"),
            "{chunk:?}: looks complete: {rest:?}"
        );
        let record = world.log.next().await;
        assert_failed_at(&record, "web.1", "H26", 400);
        assert_eq!(
            (record.at(), record.desc()),
            ("error", Some("Request Error"))
        );
        assert_eq!(
            (record.cause(), record.method()),
            (Some("bad chunk"), "POST")
        );
        assert_eq!(record.bytes(), response.body.len() as u64);
        drop(client);
        world.finish().await;
    }
}

#[tokio::test]
async fn h27_client_request_interrupted() {
    // Scenario 18, in each phase of the exchange.
    for (phase, reset) in [
        ("waiting", false),
        ("waiting", true),
        ("uploading", true),
        ("downloading", false),
    ] {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        let upload = phase == "uploading";
        client
            .send(if upload {
                post_head("/code", 10) + "half."
            } else {
                get("/code")
            })
            .await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        if upload {
            conn.read_exact(5).await;
        }
        if phase == "downloading" {
            conn.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
                .await;
            client.read_head().await;
            assert_eq!(client.read_exact(5).await, b"half.");
        }
        if reset {
            client.reset()
        } else {
            client.close().await
        }
        conn.expect_end().await;
        let record = world.log.next().await;
        // Once a head is out, its status is the one in the log.
        let status = if phase == "downloading" { 200 } else { 499 };
        assert_failed_at(&record, "web.1", "H27", status);
        assert_eq!(
            (record.at(), record.desc()),
            ("warning", Some("Client Request Interrupted")),
            "{phase}"
        );
        assert_eq!(record.sock(), Some("client"));
        assert_eq!(
            record.bytes(),
            if phase == "downloading" { 5 } else { 0 },
            "{phase}"
        );
        world.finish().await;
    }
}

#[tokio::test]
async fn h28_client_connection_idle() {
    // Scenario 17.
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.idle = ms(200)).await;
    client
        .send(post_chunked_head("/code") + "5\r\nfirst\r\n")
        .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.read_exact(10).await;
    let (rest, _) = client.read_raw_until_close().await;
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H28", 499);
    assert_eq!(
        (record.at(), record.desc()),
        ("warning", Some("Client Connection Idle"))
    );
    assert_eq!((record.method(), record.bytes()), ("POST", 0));
    world.finish().await;
}

#[tokio::test]
async fn h34_all_up_dynos_are_quarantined() {
    // Scenario 11.
    let world = World::with(|setup| {
        setup.timeouts.connect_total = ms(150);
        setup.limits.quarantine = std::time::Duration::from_secs(60);
    });
    world.apply(&[shop().web(1, refused_address())]);
    assert_eq!(
        world.client().await.exchange(post("/", "x")).await.status,
        503
    );
    assert_eq!(world.log.next().await.code(), Some("H21"));
    let response = world.client().await.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed(&record, "H34", 503);
    check(&record, "error", "All up dynos are quarantined", &response);
    world.finish().await;
}

#[tokio::test]
async fn h80_to_h83_states_of_the_app() {
    // Scenario 36 for H80.
    let cases = [
        (
            "maintenance",
            serde_json::json!(true),
            "H80",
            "info",
            "Maintenance mode",
            503,
            "Offline for Maintenance",
        ),
        (
            "released",
            serde_json::json!(false),
            "H81",
            "info",
            "Blank app",
            502,
            "Welcome",
        ),
        (
            "suspended",
            serde_json::json!("no hours left"),
            "H82",
            "info",
            "Free app running time quota exhausted",
            503,
            "Application Error",
        ),
        (
            "degraded",
            serde_json::json!(true),
            "H83",
            "",
            "Planned Service Degradation",
            503,
            "Application Error",
        ),
    ];
    for (key, value, code, at, desc, status, title) in cases {
        let world = World::start();
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address()).field(key, value)]);
        let response = world.client().await.exchange(get("/code")).await;
        assert_eq!(response.status, status, "{code}");
        assert!(
            response.text().contains(&format!("<title>{title}</title>")),
            "{code}: {}",
            response.text()
        );
        let record = world.log.next().await;
        assert_failed(&record, code, status);
        // How bad a planned degradation is, no source says.
        check(
            &record,
            if at.is_empty() { record.at() } else { at },
            desc,
            &response,
        );
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

#[tokio::test]
async fn h99_the_document_contradicts_itself() {
    let world = World::start();
    world.apply(&[shop().field("formation", serde_json::json!({"web": 2}))]);
    let mut client = world.client().await;
    let response = client.exchange(get("/code")).await;
    assert!(response.status == 503 && response.text().contains(APPLICATION_ERROR));
    let record = world.log.next().await;
    assert_failed(&record, "H99", 503);
    check(&record, "error", "Platform error", &response);
    world.finish().await;
}
