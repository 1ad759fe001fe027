//! Which request heads are let in. A refused one gets its status, ends the connection, leaves no log line and never
//! touches a dyno; what is let in reaches the dyno in one unambiguous form.

use router_testkit::{FakeDyno, RawHead};

use crate::world::{World, assert_served, get, ok, shop};

/// Sends each head to the same router and expects the status and the end of the connection.
async fn check_refused(status: u16, heads: &[(&str, String)]) {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    for (index, (what, head)) in heads.iter().enumerate() {
        let mut client = world.client().await;
        // What follows a refused head must not be read as a request.
        client.send(head).await;
        client.try_send(get("/smuggled")).await;
        let response = client.read_response().await;
        assert_eq!(
            response.status, status,
            "{what}: {:?}",
            response.status_line
        );
        assert!(!response.open, "{what}: the connection must end");
        assert!(
            response.header("via").is_none(),
            "{what}: a page of the router's own carries no Via"
        );
        assert_eq!(world.seen.refused().len(), index + 1, "{what}");
        world.log.assert_no_more();
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

/// Sends a head and gives what the dyno got.
async fn forwarded(world: &World, dyno: &FakeDyno, what: &str, request: &str) -> RawHead {
    let mut client = world.client().await;
    client.send(request).await;
    let mut conn = tokio::select! {
        conn = dyno.accept() => conn,
        response = client.read_response() => panic!("{what}: answered with {}", response.status_line),
    };
    let head = conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        .await;
    assert_eq!(client.read_response().await.status, 200, "{what}");
    assert_served(&world.log.next().await, "web.1", 200);
    head
}

fn with_line(line: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{line}\r\n\r\n")
}

fn posting(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n\r\n")
}

#[tokio::test]
async fn bad_hosts_are_refused_without_a_log_line() {
    // Scenarios 2 and 32.
    let heads = [
        (
            "two identical hosts",
            "GET / HTTP/1.1\r\nHost: shop.test\r\nHost: shop.test\r\n\r\n",
        ),
        (
            "two different hosts",
            "GET / HTTP/1.1\r\nHost: shop.test\r\nhost: other.test\r\n\r\n",
        ),
        ("no host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
        ("no host in 1.0", "GET / HTTP/1.0\r\n\r\n"),
        (
            "1.0 with an absolute target only",
            "GET http://shop.test/ HTTP/1.0\r\n\r\n",
        ),
        ("empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        ("blank host", "GET / HTTP/1.1\r\nHost:   \r\n\r\n"),
        (
            "port that is no number",
            "GET / HTTP/1.1\r\nHost: shop.test:http\r\n\r\n",
        ),
        (
            "port too large",
            "GET / HTTP/1.1\r\nHost: shop.test:65536\r\n\r\n",
        ),
        (
            "host list",
            "GET / HTTP/1.1\r\nHost: shop.test, other.test\r\n\r\n",
        ),
        ("user info", "GET / HTTP/1.1\r\nHost: me@shop.test\r\n\r\n"),
        (
            "path in host",
            "GET / HTTP/1.1\r\nHost: shop.test/x\r\n\r\n",
        ),
        ("empty label", "GET / HTTP/1.1\r\nHost: shop..test\r\n\r\n"),
        (
            "not ASCII",
            "GET / HTTP/1.1\r\nHost: sh\u{f6}p.test\r\n\r\n",
        ),
        ("unclosed bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    ];
    check_refused(400, &heads.map(|(what, head)| (what, head.to_owned()))).await;
}

#[tokio::test]
async fn ambiguous_lengths_are_refused_and_not_forwarded() {
    // Scenario 25.
    let heads = [
        (
            "two different lengths",
            posting("Content-Length: 5\r\nContent-Length: 6"),
        ),
        ("length list", posting("Content-Length: 5, 5")),
        ("signed length", posting("Content-Length: +5")),
        ("negative length", posting("Content-Length: -5")),
        ("hexadecimal length", posting("Content-Length: 0x5")),
        ("length with a blank inside", posting("Content-Length: 5 5")),
        ("empty length", posting("Content-Length:")),
        (
            "length beyond 64 bits",
            posting("Content-Length: 18446744073709551616"),
        ),
        ("length of another tongue", posting("Content-Length: five")),
    ];
    check_refused(400, &heads).await;
}

#[tokio::test]
async fn transfer_encodings_other_than_chunked_are_refused() {
    let heads = [
        ("gzip", posting("Transfer-Encoding: gzip")),
        (
            "gzip under chunked",
            posting("Transfer-Encoding: gzip, chunked"),
        ),
        (
            "chunked twice",
            posting("Transfer-Encoding: chunked, chunked"),
        ),
        (
            "chunked twice on two lines",
            posting("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ),
        (
            "chunked not last",
            posting("Transfer-Encoding: chunked, identity"),
        ),
        ("look-alike", posting("Transfer-Encoding: xchunked")),
        ("vertical tab", posting("Transfer-Encoding: \u{b}chunked")),
        ("quoted", posting("Transfer-Encoding: \"chunked\"")),
        ("empty", posting("Transfer-Encoding:")),
        (
            "in HTTP/1.0",
            "POST / HTTP/1.0\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        ),
    ];
    check_refused(400, &heads).await;
}

#[tokio::test]
async fn malformed_lines_are_refused() {
    let heads = [
        ("space before the colon", with_line("X-A : 1")),
        (
            "space before the colon of a length",
            posting("Content-Length : 0"),
        ),
        ("tab before the colon", with_line("X-A\t: 1")),
        ("folded line", with_line("X-A: 1\r\n 2")),
        (
            "folded first line",
            "GET / HTTP/1.1\r\n Host: shop.test\r\n\r\n".to_owned(),
        ),
        ("no colon", with_line("X-A")),
        ("empty name", with_line(": 1")),
        ("bad name", with_line("X(A): 1")),
        ("NUL in a value", with_line("X-A: a\0b")),
        ("bare CR in a value", with_line("X-A: a\rb")),
        ("bare LF in a value", with_line("X-A: a\nX-B: b")),
        (
            "bare LF after the request line",
            "GET / HTTP/1.1\nHost: shop.test\r\n\r\n".to_owned(),
        ),
        (
            "bare LF at the end",
            "GET / HTTP/1.1\r\nHost: shop.test\n\n".to_owned(),
        ),
        ("control character in a value", with_line("X-A: a\u{1}b")),
    ];
    check_refused(400, &heads).await;
}

#[tokio::test]
async fn malformed_request_lines_are_refused() {
    let line = |line: &str| format!("{line}\r\nHost: shop.test\r\n\r\n");
    let heads = [
        ("two spaces after the method", line("GET  / HTTP/1.1")),
        ("two spaces after the target", line("GET /  HTTP/1.1")),
        ("space at the end", line("GET / HTTP/1.1 ")),
        ("space in the target", line("GET /a b HTTP/1.1")),
        ("tab for a space", line("GET\t/ HTTP/1.1")),
        ("no version", line("GET /")),
        ("no target", line("GET HTTP/1.1")),
        ("target without a slash", line("GET shop HTTP/1.1")),
        (
            "absolute form of another host",
            line("GET http://other.test/ HTTP/1.1"),
        ),
        (
            "control character in the target",
            line("GET /\u{1} HTTP/1.1"),
        ),
        ("line feed in the target", line("GET /a\nb HTTP/1.1")),
        ("bad method", line("GE(T / HTTP/1.1")),
        (
            "method of 128 characters",
            line(&format!("{} / HTTP/1.1", "M".repeat(128))),
        ),
        (
            "six empty lines before",
            format!("{}{}", "\r\n".repeat(6), get("/")),
        ),
        ("bytes of TLS", "\u{16}\u{3}\u{1}\u{2}\0\r\n\r\n".to_owned()),
    ];
    check_refused(400, &heads).await;
}

#[tokio::test]
async fn oversized_heads_are_refused() {
    let heads = [
        (
            "request line of 8193 bytes",
            get(&format!("/{}", "a".repeat(8193 - "GET / HTTP/1.1".len()))),
        ),
        (
            "header line of 8193 bytes",
            with_line(&format!("X-A: {}", "a".repeat(8193 - "X-A: ".len()))),
        ),
        (
            "header name of 1001 bytes",
            with_line(&format!("{}: 1", "n".repeat(1001))),
        ),
        (
            "1001 headers with Host",
            with_line(&["X-A: 1"; 1000].join("\r\n")),
        ),
        (
            "cookie line of more than 8 KB",
            with_line(&format!("Cookie: {}", "a".repeat(8192))),
        ),
    ];
    check_refused(400, &heads).await;
}

#[tokio::test]
async fn an_endless_request_line_is_refused_before_it_ends() {
    let heads = [(
        "request line without an end",
        format!("GET /{}", "a".repeat(9000)),
    )];
    check_refused(400, &heads).await;
    let heads = [(
        "header line without an end",
        with_line(&format!("X-A: {}", "a".repeat(9000)))
            .trim_end()
            .to_owned(),
    )];
    check_refused(400, &heads).await;
}

#[tokio::test]
async fn connect_is_refused_with_405() {
    let heads = [
        (
            "authority form",
            "CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n".to_owned(),
        ),
        (
            "with a path",
            "CONNECT / HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
        ),
    ];
    check_refused(405, &heads).await;
}

#[tokio::test]
async fn other_versions_are_refused_with_505() {
    let heads = ["HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"].map(|version| {
        (
            version,
            format!("GET / {version}\r\nHost: shop.test\r\n\r\n"),
        )
    });
    check_refused(505, &heads).await;
}

#[tokio::test]
async fn heads_at_their_limits_are_let_in_whole() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);

    let target = format!("/{}", "a".repeat(8192 - "GET / HTTP/1.1".len()));
    let head = forwarded(&world, &dyno, "request line of 8192 bytes", &get(&target)).await;
    assert_eq!(head.target(), target);

    let value = "a".repeat(8192 - "X-A: ".len());
    let head = forwarded(
        &world,
        &dyno,
        "header line of 8192 bytes",
        &with_line(&format!("X-A: {value}")),
    )
    .await;
    assert_eq!(head.header("x-a"), Some(value.as_str()));

    let name = "n".repeat(1000);
    let head = forwarded(
        &world,
        &dyno,
        "header name of 1000 bytes",
        &with_line(&format!("{name}: 1")),
    )
    .await;
    assert_eq!(head.header(&name), Some("1"));

    let head = forwarded(
        &world,
        &dyno,
        "1000 headers with Host",
        &with_line(&["X-A: 1"; 999].join("\r\n")),
    )
    .await;
    assert_eq!(head.all("x-a").len(), 999);

    let method = "M".repeat(127);
    let request = format!("{method} / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    assert_eq!(
        forwarded(&world, &dyno, "method of 127 characters", &request)
            .await
            .method(),
        method
    );

    let request = format!("{}{}", "\r\n".repeat(5), get("/"));
    assert_eq!(
        forwarded(&world, &dyno, "five empty lines before", &request)
            .await
            .target(),
        "/"
    );
    world.finish().await;
}

#[tokio::test]
async fn any_other_method_and_target_passes_as_it_is() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let cases = [
        ("PURGE /a HTTP/1.1", "PURGE /a HTTP/1.1"),
        ("get /a HTTP/1.1", "get /a HTTP/1.1"),
        ("TRACE /a HTTP/1.1", "TRACE /a HTTP/1.1"),
        (
            "GET /a%20b?c=%zz&d=/../x//y HTTP/1.1",
            "GET /a%20b?c=%zz&d=/../x//y HTTP/1.1",
        ),
        ("GET //a/../b/./ HTTP/1.1", "GET //a/../b/./ HTTP/1.1"),
        ("GET /a#fragment HTTP/1.1", "GET /a HTTP/1.1"),
        ("GET /a HTTP/1.0", "GET /a HTTP/1.1"),
    ];
    for (sent, expected) in cases {
        let head = forwarded(
            &world,
            &dyno,
            sent,
            &format!("{sent}\r\nHost: shop.test\r\n\r\n"),
        )
        .await;
        assert_eq!(head.start_line(), expected);
    }
    world.finish().await;
}

#[tokio::test]
async fn asterisk_absolute_and_connect_targets_are_not_for_dynos() {
    let heads = [
        "OPTIONS * HTTP/1.1",
        "GET * HTTP/1.1",
        "GET http://shop.test/a?b HTTP/1.1",
        "GET HTTP://Shop.TEST/a HTTP/1.0",
        "CONNECT shop.test:443 HTTP/1.1",
    ]
    .map(|line| (line, format!("{line}\r\nHost: shop.test\r\n\r\n")));
    check_refused(405, &heads).await;
}

#[tokio::test]
async fn equal_lengths_on_two_lines_become_one() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client
        .send(posting("Content-Length: 2\r\nContent-Length: 2") + "hi")
        .await;
    let mut conn = dyno.accept().await;
    assert_eq!(conn.read_head().await.all("content-length"), ["2"]);
    assert_eq!(conn.read_exact(2).await, b"hi");
    conn.write(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_never_sees_both_length_and_chunked() {
    // Scenario 26. Refusing and dropping the length are both allowed; what is not is passing on an ambiguity.
    for lines in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
    ] {
        let world = World::start();
        let dyno = FakeDyno::respond_with_body(|head, body| {
            assert!(!head.has("content-length"), "{head:?}");
            assert_eq!(body, b"abc");
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()
        })
        .await;
        world.apply(&[shop().web(1, dyno.address())]);
        let mut client = world.client().await;
        client.send(posting(lines)).await;
        client.try_send("3\r\nabc\r\n0\r\n\r\n").await;
        let response = client.read_response().await;
        if response.status == 400 {
            assert!(!response.open, "{lines}");
            assert_eq!(dyno.connections(), 0, "{lines}");
        } else {
            assert_eq!(response.status, 200, "{lines}");
            assert_served(&world.log.next().await, "web.1", 200);
        }
        drop(client);
        world.finish().await;
    }
}
