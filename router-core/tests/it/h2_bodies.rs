//! Bodies over HTTP/2: framing and trailers both ways, early responses, back-pressure, many streams at once, and what a
//! client sees and the log says when a stream does not come to its end.

use bytes::Bytes;
use h2::Reason;
use http::{HeaderValue, Request};
use router_testkit::{AppDoc, FakeDyno, H2Frame, refused_address};

use crate::world::{
    World, assert_failed, assert_failed_at, assert_served_tls, h2_fields, h2_request, h2_shop,
    h2_shop_with, ms, ok, raw_h2_shop, raw_h2_shop_with, shop,
};

/// A POST of the shop with a Content-Length.
fn post(target: &str, length: usize) -> Request<()> {
    let mut request = h2_request("POST", target);
    let length = HeaderValue::from(length);
    request.headers_mut().insert("content-length", length);
    request
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn a_body_with_a_length_keeps_it_and_one_without_is_chunked() {
    let (world, dyno, mut client) = h2_shop().await;
    let body = pattern(300_000);
    let mut stream = client.open(post("/", body.len()), false).await;
    let mut conn = dyno.accept().await;
    let sending = async {
        stream.send(body.clone(), true).await;
        stream
    };
    let receiving = async {
        let head = conn.read_head().await;
        assert_eq!(head.header("content-length"), Some("300000"));
        assert!(!head.has("transfer-encoding"));
        conn.read_exact(body.len()).await
    };
    let (stream, got) = tokio::join!(sending, receiving);
    assert!(got == body);
    conn.write(ok("1")).await;
    assert_eq!(stream.response().await.whole().text(), "1");
    assert_served_tls(&world.log.next().await, "web.1", 200);

    let mut stream = client.open(h2_request("POST", "/"), false).await;
    stream.send("hello ", false).await;
    let head = conn.read_head().await;
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    assert!(!head.has("content-length"));
    stream.send("world", true).await;
    let chunked = conn.read_chunked_raw().await;
    assert_eq!(chunked.body(), b"hello world");
    assert_eq!(chunked.trailers, []);
    conn.write(ok("2")).await;
    assert_eq!(stream.response().await.whole().text(), "2");
    assert_served_tls(&world.log.next().await, "web.1", 200);

    // The stream ends with the head: there is no body.
    let stream = client.open(h2_request("POST", "/"), true).await;
    let head = conn.answer(ok("3")).await;
    assert_eq!(head.header("content-length"), Some("0"));
    assert_eq!(stream.response().await.whole().text(), "3");
    assert_served_tls(&world.log.next().await, "web.1", 200);

    // The stream ends with an empty frame: it was not known that there is none.
    let mut stream = client.open(h2_request("PUT", "/"), false).await;
    let head = conn.read_head().await;
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    stream.send("", true).await;
    assert_eq!(conn.read_chunked_raw().await.body(), b"");
    conn.write(ok("4")).await;
    assert_eq!(stream.response().await.whole().text(), "4");
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn any_framing_of_a_dyno_is_a_stream_that_ends() {
    for (response, length) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
            Some("10"),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\n012\r\n7\r\n3456789\r\n0\r\n\r\n",
            None,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n0123456789", None),
        ("HTTP/1.0 200 OK\r\n\r\n0123456789", None),
    ] {
        let (world, dyno, mut client) = h2_shop().await;
        let stream = client.open(h2_request("GET", "/"), true).await;
        let (conn, _) = dyno.accept_and_answer(response).await;
        conn.close().await;
        let got = stream.response().await.whole();
        assert_eq!(got.text(), "0123456789", "{response}");
        assert_eq!(got.header("content-length"), length, "{response}");
        let record = world.log.next().await;
        assert_served_tls(&record, "web.1", 200);
        assert_eq!(record.bytes(), 10);
        assert!(
            client.is_open(),
            "no end of a dyno's connection is the client's"
        );
        world.finish().await;
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (world, dyno, mut client) = h2_shop().await;
    let mut stream = client.open(h2_request("POST", "/"), false).await;
    stream.send("up", false).await;
    stream.send_trailers(&[("x-sum", "1"), ("x-other", "2")]);
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let chunked = conn.read_chunked_raw().await;
    assert_eq!(chunked.body(), b"up");
    let mut trailers = chunked.trailers;
    trailers.sort();
    for (name, value) in &mut trailers {
        name.make_ascii_lowercase();
        assert!(value.len() == 1);
    }
    assert_eq!(
        trailers,
        [
            ("x-other".to_owned(), "2".to_owned()),
            ("x-sum".to_owned(), "1".to_owned())
        ]
    );
    conn.write(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\n\r\n4\r\ndown\r\n0\r\nX-Down: 3\r\nX-Too: 4\r\n\r\n",
    )
    .await;
    let response = stream.response().await.whole();
    assert_eq!(
        (response.text().as_str(), response.header("trailer")),
        ("down", Some("X-Down"))
    );
    assert_eq!(
        (response.trailer("x-down"), response.trailer("x-too")),
        (Some("3"), Some("4"))
    );
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn trailers_that_would_be_taken_for_the_routers_word_are_left_out() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    client.headers(1, &h2_fields("POST", "/"), false).await;
    client.data(1, "up", false).await;
    let trailers = [
        (":path", "/other"),
        ("x-forwarded-for", "6.6.6.6"),
        ("host", "evil.test"),
        ("content-length", "0"),
        ("x-request-id", "aaaaaaaaaaaaaaaaaaaa"),
        ("x-fine", "1"),
    ];
    client.headers(1, &trailers, true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let mut passed = conn.read_chunked_raw().await.trailers;
    passed[0].0.make_ascii_lowercase();
    assert_eq!(passed, [("x-fine".to_owned(), "1".to_owned())]);
    conn.write(ok("x")).await;
    assert_eq!(client.response(1).await.whole().status, 200);
    world.log.next().await;
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn bytes_are_never_held_back() {
    let (world, dyno, mut client) = h2_shop().await;
    let mut stream = client.open(h2_request("POST", "/"), false).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    assert_eq!(
        stream.head().await.status,
        200,
        "before the request is over"
    );
    for piece in ["a", "bc", "def"] {
        stream.send(piece, false).await;
        let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
        assert_eq!(conn.read_exact(chunk.len()).await, chunk.as_bytes());
        conn.write(&chunk).await;
        assert_eq!(stream.exactly(piece.len()).await, piece.as_bytes());
    }
    stream.send("", true).await;
    assert_eq!(conn.read_exact(5).await, b"0\r\n\r\n");
    conn.write("0\r\n\r\n").await;
    assert_eq!(stream.data().await, None);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_early_response_reaches_a_client_that_is_still_uploading_and_the_connection_lives() {
    for (length, keep) in [(Some(50_000_000), "close"), (None, "keep-alive")] {
        let (world, dyno, mut client) = h2_shop().await;
        let request = length.map_or_else(|| h2_request("POST", "/"), |length| post("/", length));
        let mut stream = client.open(request, false).await;
        stream.send(pattern(100_000), false).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        conn.read_some().await;
        conn.write(format!(
            "HTTP/1.1 413 Too Much\r\nConnection: {keep}\r\nContent-Length: 8\r\n\r\ntoo much"
        ))
        .await;
        let response = stream.response().await;
        assert_eq!(
            (response.status, response.text().as_str()),
            (413, "too much")
        );
        // "I want no more of it" (RFC 9113 §8.1), or nothing at all.
        assert!(
            matches!(response.reset, None | Some(0)),
            "{:?}",
            response.reset
        );
        assert_served_tls(&world.log.next().await, "web.1", 413);
        // The dyno still waits for the rest of a body that will not come: that connection cannot be kept.
        conn.read_until_end().await;

        let stream = client.open(h2_request("GET", "/next"), true).await;
        let (_conn, _) = dyno.accept_and_answer(ok("next")).await;
        assert_eq!(stream.response().await.whole().text(), "next");
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_response_flows_at_the_clients_pace() {
    let (world, dyno, mut client) = raw_h2_shop_with(|setup| {
        setup.limits.response_buffer = 100_000;
    })
    .await;
    const LENGTH: usize = 32 * 1024 * 1024;
    client.headers(1, &h2_fields("GET", "/"), true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
    ))
    .await;
    let writing = tokio::spawn(async move { conn.try_write(vec![b'x'; LENGTH]).await });
    // The client never opens its windows: it gets what they hold from the beginning, and that is all.
    let mut got = 0;
    while got < 65_535 {
        match client.frame_of(1).await {
            H2Frame::Data { data, .. } => got += data.len(),
            H2Frame::Headers { end, .. } => assert!(!end),
            other => panic!("{other:?}"),
        }
    }
    // Nobody signals that nothing moves any more; this can only be looked at after a while.
    tokio::time::sleep(ms(300)).await;
    assert!(
        !writing.is_finished(),
        "32 MB were taken from the dyno while the client took 64 kB"
    );
    client.round_trip().await;
    let more = |frame: &H2Frame| frame.stream() == 1;
    assert!(
        !client.take_waiting().iter().any(more),
        "more than the window"
    );
    client.window_update(0, 40_000_000).await;
    client.window_update(1, 40_000_000).await;
    let rest = client.response(1).await.whole();
    assert_eq!(got + rest.body.len(), LENGTH);
    assert!(writing.await.unwrap());
    let record = world.log.next().await;
    assert_eq!((record.code(), record.bytes()), (None, LENGTH as u64));
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn an_upload_flows_at_the_dynos_pace() {
    let (world, dyno, mut client) = h2_shop().await;
    const LENGTH: usize = 32 * 1024 * 1024;
    let mut stream = client.open(post("/", LENGTH), false).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let sending = tokio::spawn(async move {
        stream.send(vec![b'x'; LENGTH], true).await;
        stream
    });
    tokio::time::sleep(ms(300)).await;
    assert!(
        !sending.is_finished(),
        "32 MB were taken from the client while the dyno read nothing"
    );
    // Meanwhile another stream of the connection is served.
    let other = client.open(post("/other", 5), false).await;
    let mut second = dyno.accept().await;
    let served = async {
        let mut other = other;
        other.send("quick", true).await;
        second.read_head().await;
        assert_eq!(second.read_exact(5).await, b"quick");
        second.write(ok("served")).await;
        other.response().await.whole()
    };
    assert_eq!(served.await.text(), "served");
    assert_served_tls(&world.log.next().await, "web.1", 200);
    let mut left = LENGTH;
    while left > 0 {
        let piece = left.min(1024 * 1024);
        conn.read_exact(piece).await;
        left -= piece;
    }
    conn.write(ok("x")).await;
    assert_eq!(sending.await.unwrap().response().await.whole().status, 200);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_one_stream_gets_the_others() {
    // Its windows are small for each stream and large for the connection.
    let (world, dyno, mut client) = raw_h2_shop().await;
    client.window_update(0, 10_000_000).await;
    client.headers(1, &h2_fields("GET", "/slow"), true).await;
    let (_slow, _) = dyno
        .accept_and_answer(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{}",
            "x".repeat(200_000)
        ))
        .await;
    client.headers(3, &h2_fields("GET", "/quick"), true).await;
    let (_quick, _) = dyno.accept_and_answer(ok("quick")).await;
    assert_eq!(client.response(3).await.whole().text(), "quick");
    assert_eq!(world.log.next().await.path(), "/quick");
    client.window_update(1, 10_000_000).await;
    assert_eq!(client.response(1).await.whole().body.len(), 200_000);
    assert_eq!(world.log.next().await.path(), "/slow");
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn many_streams_at_once_all_get_their_own_answer() {
    const STREAMS: usize = 100;
    let world = World::with(|setup| {
        setup.https();
    });
    let dyno = FakeDyno::respond_with_body(|head, body| {
        let body = format!("{} {}", head.target(), String::from_utf8_lossy(body));
        ok(&body).into_bytes()
    })
    .await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.h2_client().await;
    assert_eq!(
        client.stream_limit(),
        128,
        "MAX_CONCURRENT_STREAMS is announced"
    );
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        streams.push(
            client
                .open(h2_request("POST", &format!("/{number}")), false)
                .await,
        );
    }
    for (number, stream) in streams.iter_mut().enumerate().rev() {
        stream.send(format!("body {number}"), true).await;
    }
    for (number, stream) in streams.into_iter().enumerate() {
        let response = stream.response().await.whole();
        assert_eq!(response.text(), format!("/{number} body {number}"));
    }
    let mut paths = std::collections::HashSet::new();
    for _ in 0..STREAMS {
        let record = world.log.next().await;
        assert_served_tls(&record, "web.1", 200);
        assert!(paths.insert(record.path().to_owned()));
    }
    world.finish().await;
}

#[tokio::test]
async fn a_reset_by_the_client_is_h27_and_cuts_the_dynos_connection_and_no_other_stream() {
    let (world, dyno, mut client) = h2_shop().await;
    let mut left = client.open(h2_request("GET", "/left"), true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let stays = client.open(h2_request("GET", "/stays"), true).await;
    let mut other = dyno.accept().await;
    other.read_head().await;
    left.reset(Reason::CANCEL);
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H27", 499);
    assert_eq!(
        (record.sock(), record.path(), record.at()),
        (Some("client"), "/left", "warning")
    );
    other.write(ok("stays")).await;
    assert_eq!(stays.response().await.whole().text(), "stays");
    assert_served_tls(&world.log.next().await, "web.1", 200);

    // In the middle of an upload, and of a response.
    let mut upload = client.open(post("/upload", 100), false).await;
    upload.send("half", false).await;
    other.read_head().await;
    other.read_exact(4).await;
    upload.reset(Reason::CANCEL);
    other.expect_end().await;
    assert_failed_at(&world.log.next().await, "web.1", "H27", 499);
    let mut download = client.open(h2_request("GET", "/download"), true).await;
    let (mut conn, _) = dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
        .await;
    assert_eq!(download.exactly(5).await, b"half.");
    download.reset(Reason::CANCEL);
    conn.expect_end().await;
    let record = world.log.next().await;
    // The status was sent; what is logged is that one.
    assert_failed_at(&record, "web.1", "H27", 200);
    assert_eq!(record.bytes(), 5);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_away_interrupts_all_its_streams() {
    let (world, dyno, mut client) = h2_shop().await;
    let _streams = [
        client.open(h2_request("GET", "/a"), true).await,
        client.open(h2_request("POST", "/b"), false).await,
    ];
    let mut conns = [dyno.accept().await, dyno.accept().await];
    for conn in &mut conns {
        conn.read_head().await;
    }
    drop(client);
    for conn in &mut conns {
        conn.read_until_end().await;
        assert_failed_at(&world.log.next().await, "web.1", "H27", 499);
    }
    world.finish().await;
}

#[tokio::test]
async fn failures_before_the_response_are_pages_with_their_code() {
    let dead = refused_address();
    let formation = |count: u32| serde_json::json!({ "web": count });
    let apps: [(AppDoc, &str, u16, Option<&str>); 8] = [
        (shop().dyno("web.1", dead, "crashed"), "H10", 503, None),
        (shop().field("formation", formation(0)), "H14", 503, None),
        (shop().dyno("web.1", dead, "starting"), "H20", 503, None),
        (shop().web(1, dead), "H21", 503, Some("web.1")),
        (
            shop().web(1, dead).field("maintenance", true),
            "H80",
            503,
            None,
        ),
        (
            shop().web(1, dead).field("released", false),
            "H81",
            502,
            None,
        ),
        (
            shop().web(1, dead).field("suspended", "why"),
            "H82",
            503,
            None,
        ),
        (
            shop()
                .web(1, dead)
                .field("maintenance", true)
                .setting("maintenance_page_url", "//m.test/x"),
            "H80",
            503,
            None,
        ),
    ];
    let world = World::with(|setup| {
        setup.https();
        setup.timeouts.connect_total = ms(300);
    });
    let mut client = world.h2_client().await;
    for (app, code, status, dyno) in apps {
        world.apply(std::slice::from_ref(&app));
        let response = client.exchange(h2_request("GET", "/")).await.whole();
        assert_eq!(response.status, status, "{code}");
        let kind = response.header("content-type").unwrap();
        assert!(kind.starts_with("text/html"), "{kind}");
        let length = response.body.len().to_string();
        assert_eq!(response.header("content-length"), Some(length.as_str()));
        assert!(response.header("date").is_some() && response.header("via").is_none());
        if app.to_json().to_string().contains("m.test") {
            assert!(response.text().contains("src=\"//m.test/x\""));
        }
        let record = world.log.next().await;
        assert_eq!(
            (record.code(), record.status(), record.dyno()),
            (Some(code), Some(status), dyno)
        );
        assert_eq!((record.protocol(), record.tls()), ("http2.0", true));
        assert_eq!(record.bytes(), response.body.len() as u64);
        // To a HEAD the same without the page.
        if dyno.is_none() {
            let head = client.exchange(h2_request("HEAD", "/")).await.whole();
            assert_eq!((head.status, head.body.len()), (status, 0));
            assert_eq!(world.log.next().await.code(), Some(code));
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn failures_of_the_dyno_before_its_response_are_pages_too() {
    for (answer, code, status) in [
        ("", "H13", 503),
        ("HTTP/1.1 2", "H18", 503),
        ("garbage\r\n\r\n", "H17", 503),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "H25",
            502,
        ),
        ("silence", "H12", 503),
    ] {
        let (world, dyno, mut client) = h2_shop_with(|setup| {
            setup.timeouts.first_byte = ms(if answer == "silence" { 200 } else { 60_000 });
        })
        .await;
        let stream = client.open(h2_request("GET", "/"), true).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        if answer == "silence" {
            conn.expect_end().await;
        } else {
            conn.write(answer).await;
            conn.close().await;
        }
        let response = stream.response().await.whole();
        assert_eq!(response.status, status, "{code}");
        let record = world.log.next().await;
        assert_failed_at(&record, "web.1", code, status);
        assert_eq!(record.bytes(), response.body.len() as u64);
        assert!(client.is_open());
        world.finish().await;
    }
}

#[tokio::test]
async fn failures_of_the_dyno_in_its_response_reset_the_stream_only() {
    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf.\r\n";
    for (answer, rest, code) in [
        (LENGTH, Some(""), "H18"),
        (CHUNKED, Some(""), "H18"),
        (CHUNKED, Some("xyz\r\n"), "H18"),
        (LENGTH, None, "H15"),
    ] {
        let (world, dyno, mut client) = h2_shop_with(|setup| {
            setup.timeouts.idle = ms(if code == "H15" { 300 } else { 60_000 });
        })
        .await;
        let mut stream = client.open(h2_request("GET", "/"), true).await;
        let (mut conn, _) = dyno.accept_and_answer(answer).await;
        assert_eq!(stream.exactly(5).await, b"half.");
        match rest {
            Some(rest) => {
                conn.write(rest).await;
                conn.close().await;
            }
            None => drop(conn.expect_end().await),
        }
        let response = stream.response().await;
        assert_eq!((response.status, response.body.len()), (200, 0));
        // What must not happen is an end that looks whole, or like "try again".
        let reset = response
            .reset
            .expect("the client sees that something is missing");
        assert!(![0, 7, u32::MAX].contains(&reset), "{code}: {reset}");
        let record = world.log.next().await;
        assert_failed_at(&record, "web.1", code, 200);
        assert_eq!(record.bytes(), 5);
        let stream = client.open(h2_request("GET", "/next"), true).await;
        let (_conn, _) = dyno.accept_and_answer(ok("next")).await;
        assert_eq!(stream.response().await.whole().text(), "next");
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_refusal_before_the_body_was_read_gives_the_connections_window_back() {
    let (world, dyno, mut client) = h2_shop().await;
    world.apply(&[shop().web(1, dyno.address()).field("maintenance", true)]);
    for _ in 0..8 {
        let mut stream = client.open(h2_request("POST", "/"), false).await;
        // The router may well say that it wants no more of it before all is sent.
        drop(stream.try_send(pattern(200_000), false).await);
        assert_eq!(stream.response().await.status, 503);
        assert_failed(&world.log.next().await, "H80", 503);
    }
    // All of them together were more than the window of the connection.
    world.apply(&[shop().web(1, dyno.address())]);
    let mut stream = client.open(post("/", 500_000), false).await;
    let mut conn = dyno.accept().await;
    let ((), got) = tokio::join!(stream.send(pattern(500_000), true), async {
        conn.read_head().await;
        conn.read_exact(500_000).await
    });
    assert!(got == pattern(500_000));
    conn.write(ok("x")).await;
    assert_eq!(stream.response().await.whole().status, 200);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}
