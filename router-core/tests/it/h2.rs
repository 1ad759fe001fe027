//! HTTP/2 messages of clients: what becomes of pseudo-fields and fields in both directions, which responses have a body,
//! what is refused, and what is logged.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue, Request};
use router_testkit::{FakeDyno, H2Client, H2Frame, H2Response, RawH2, RawHead, TlsDialer};

use crate::world::{
    World, assert_failed, assert_served, assert_served_tls, h2_fields, h2_request, h2_shop, ms, ok,
    raw_h2_shop, raw_h2_shop_with, shop,
};

/// A request of the shop with these fields.
fn with(method: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = h2_request(method, "/");
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(name, value);
    }
    request
}

/// One exchange of a request with these fields: what the dyno got.
async fn sent_with(fields: &[(&str, &str)]) -> RawHead {
    let (world, dyno, mut client) = h2_shop().await;
    let stream = client.open(with("GET", fields), true).await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(stream.response().await.whole().status, 200);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
    head
}

/// One exchange answered with these bytes: what the client got.
async fn answered_with(method: &str, response: &str) -> H2Response {
    let (world, dyno, mut client) = h2_shop().await;
    let stream = client.open(h2_request(method, "/"), true).await;
    let (_conn, _) = dyno.accept_and_answer(response).await;
    let response = stream.response().await.whole();
    let record = world.log.next().await;
    assert_served_tls(&record, "web.1", response.status);
    assert_eq!(record.bytes(), response.body.len() as u64);
    world.finish().await;
    response
}

#[tokio::test]
async fn a_request_is_forwarded_as_http_1_answered_as_http_2_and_logged_as_such() {
    // Scenario 46.
    for version in ["tls1.2", "tls1.3"] {
        let (world, dyno, _) = h2_shop().await;
        let dialer = world.dialer("shop.test").only(version);
        let mut client = H2Client::connect_tls(world.https_address(), &dialer).await;
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let stream = client.open(h2_request("GET", "/x?y=1"), true).await;
        let (_conn, head) = dyno
            .accept_and_answer(
                "HTTP/1.1 200 Fine\r\nX-App: A\r\nContent-Length: 2\r\nVia: 1.1 app\r\nSet-Cookie: a=1\r\n\
                 Set-Cookie: b=2\r\n\r\nok",
            )
            .await;
        assert_eq!(head.start_line(), "GET /x?y=1 HTTP/1.1");
        let port = world.https_address().port().to_string();
        for (name, value) in [
            ("host", "shop.test"),
            ("via", "2.0 router"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", &port),
            ("x-forwarded-for", "127.0.0.1"),
            ("connection", "keep-alive"),
        ] {
            assert_eq!(head.all(name), [value], "{name}");
        }
        let start: u128 = head.header("x-request-start").unwrap().parse().unwrap();
        assert!(start >= before.as_millis());
        for name in ["content-length", "transfer-encoding", ":authority", "te"] {
            assert!(!head.has(name), "{name}: {head:?}");
        }

        let response = stream.response().await.whole();
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        assert_eq!(response.all("via"), ["1.1 app, 2.0 router"]);
        assert_eq!(response.all("set-cookie"), ["a=1", "b=2"]);
        for (name, value) in [
            ("x-app", "A"),
            ("content-length", "2"),
            ("server", "router"),
        ] {
            assert_eq!(response.header(name), Some(value), "{name}");
        }
        assert!(response.header("date").is_some());

        let record = world.log.next().await;
        assert_served_tls(&record, "web.1", 200);
        assert_eq!(
            (record.protocol(), record.tls_version()),
            ("http2.0", Some(version))
        );
        assert_eq!(
            (
                record.method(),
                record.path(),
                record.host(),
                record.bytes()
            ),
            ("GET", "/x?y=1", "shop.test", 2)
        );
        assert_eq!(
            (record.fwd(), Some(record.request_id())),
            ("127.0.0.1", head.header("x-request-id"))
        );
        world.finish().await;
    }
}

#[tokio::test]
async fn nothing_of_the_dynos_connection_reaches_an_http_2_client_and_names_are_lower_case() {
    let response = answered_with(
        "GET",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n\
         Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\nX-UPPER: Value\r\n\r\n\
         2\r\nok\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    for name in [
        "connection",
        "keep-alive",
        "x-hop",
        "proxy-connection",
        "upgrade",
        "transfer-encoding",
        "content-length",
    ] {
        assert_eq!(response.all(name), Vec::<&str>::new(), "{name}");
    }
    // A name in upper case would not have passed the client's library.
    assert_eq!(response.header("x-upper"), Some("Value"));
}

#[tokio::test]
async fn cookie_crumbs_are_one_field_towards_the_dyno() {
    let head = sent_with(&[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3")]).await;
    assert_eq!(head.all("cookie"), ["a=1; b=2; c=3"]);
    assert_eq!(head.all("accept"), ["*/*"]);
    assert_eq!(sent_with(&[("cookie", "a=1")]).await.all("cookie"), ["a=1"]);
}

#[tokio::test]
async fn fields_of_the_router_replace_the_clients() {
    let head = sent_with(&[
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", "1"),
        ("x-request-start", "5"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-for", "2.2.2.2"),
        ("via", "1.0 fred"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic x"),
        ("x-request-id", "aaaaaaaaaaaaaaaaaaaa"),
    ])
    .await;
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_ne!(head.header("x-forwarded-port"), Some("1"));
    assert_ne!(head.header("x-request-start"), Some("5"));
    assert_eq!(head.all("x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 127.0.0.1"]);
    assert_eq!(head.all("via"), ["1.0 fred, 2.0 router"]);
    assert_eq!(head.all("x-request-id"), ["aaaaaaaaaaaaaaaaaaaa"]);
    // `te: trailers` is the one thing that HTTP/2 lets a client say of its connection; it is for the router.
    assert!(
        !head.has("te") && !head.has("proxy-authorization"),
        "{head:?}"
    );
}

#[tokio::test]
async fn responses_that_cannot_have_a_body_end_with_their_head() {
    for (method, response, status, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
            200,
            Some("10"),
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            200,
            None,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n",
            304,
            Some("7"),
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            200,
            Some("0"),
        ),
    ] {
        let got = answered_with(method, response).await;
        assert_eq!((got.status, got.body.len()), (status, 0), "{response}");
        assert_eq!(got.header("content-length"), length, "{response}");
    }
}

#[tokio::test]
async fn any_status_of_the_dyno_passes() {
    for status in [200, 299, 404, 451, 500, 503, 599, 666, 999] {
        let response = format!("HTTP/1.1 {status} Any\r\nContent-Length: 3\r\n\r\nown");
        let response = answered_with("GET", &response).await;
        assert_eq!((response.status, response.text().as_str()), (status, "own"));
    }
}

#[tokio::test]
async fn early_hints_are_passed_on_at_once_and_processing_is_not() {
    let (world, dyno, mut client) = h2_shop().await;
    let mut stream = client.open(h2_request("GET", "/"), true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: close\r\n\r\n")
        .await;
    let (status, fields) = stream.interim().await;
    assert_eq!(status, 103);
    assert_eq!(fields, [("link".to_owned(), "</a.css>".to_owned())]);
    conn.write(ok("x")).await;
    let response = stream.response().await.whole();
    assert_eq!((response.status, response.informational), (200, Vec::new()));
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn the_router_answers_expect_itself() {
    // Scenario 27.
    let (world, dyno, mut client) = h2_shop().await;
    let request = with(
        "POST",
        &[("expect", "100-Continue"), ("content-length", "4")],
    );
    let mut stream = client.open(request, false).await;
    assert_eq!(stream.interim().await.0, 100);
    stream.send("body", true).await;
    let mut conn = dyno.accept().await;
    let head = conn.read_head().await;
    assert!(!head.has("expect"), "{head:?}");
    assert_eq!(conn.read_exact(4).await, b"body");
    conn.write(ok("x")).await;
    assert_eq!(stream.response().await.whole().status, 200);
    assert_served_tls(&world.log.next().await, "web.1", 200);

    // Scenario 28.
    let stream = client.open(with("POST", &[("expect", "foo")]), true).await;
    assert_eq!(stream.response().await.status, 417);
    let record = world.log.next().await;
    assert_failed(&record, "H26", 417);
    assert_eq!(record.protocol(), "http2.0");
    world.finish().await;
}

#[tokio::test]
async fn the_host_is_the_authority_or_the_field_and_both_must_agree() {
    let cases: &[(Option<&str>, &[&str], Option<&str>)] = &[
        (Some("shop.test"), &[], Some("shop.test")),
        (Some("Shop.TEST:8443"), &[], Some("Shop.TEST:8443")),
        (None, &["shop.test"], Some("shop.test")),
        (Some("shop.test"), &["shop.test"], Some("shop.test")),
        (Some("shop.test"), &["other.test"], None),
        (Some("shop.test"), &["shop.test", "shop.test"], None),
        (Some("shop.test"), &[""], None),
        (None, &["shop.test", "shop.test"], None),
        (None, &[], None),
        (Some(""), &[], None),
        (Some("user@shop.test"), &[], None),
        (Some("shop.test:http"), &[], None),
        (Some("shop.test/x"), &[], None),
        (Some("shop.test, other.test"), &[], None),
    ];
    let (world, dyno, mut client) = raw_h2_shop().await;
    let mut conn = None;
    for (number, (authority, hosts, sent)) in (0u32..).zip(cases) {
        let stream = 2 * number + 1;
        let mut fields = h2_fields("GET", "/");
        match authority {
            Some(authority) => fields[2].1 = authority,
            None => drop(fields.remove(2)),
        }
        fields.extend(hosts.iter().map(|host| ("host", *host)));
        client.headers(stream, &fields, true).await;
        if let Some(sent) = sent {
            let mut kept = match conn.take() {
                Some(kept) => kept,
                None => dyno.accept().await,
            };
            let head = kept.answer(ok("x")).await;
            assert_eq!(head.all("host"), [*sent], "{fields:?}");
            assert_eq!(client.response(stream).await.whole().status, 200);
            let record = world.log.next().await;
            assert_served(&record, "web.1", 200);
            assert_eq!(record.host(), *sent);
            conn = Some(kept);
        } else {
            let response = client.response(stream).await;
            let refused = response.status == 400 || response.reset == Some(1);
            assert!(refused, "{fields:?}: {response:?}");
            world.log.assert_no_more();
        }
    }
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_target_must_be_a_path_and_passes_as_it_is() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    client
        .headers(1, &h2_fields("GET", "//x/../%2e?a=b&c"), true)
        .await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(head.target(), "//x/../%2e?a=b&c");
    assert_eq!(client.response(1).await.whole().status, 200);
    assert_eq!(world.log.next().await.path(), "//x/../%2e?a=b&c");
    // As over HTTP/1.
    let response = client.exchange(3, &h2_fields("OPTIONS", "*")).await;
    assert_eq!(response.status, 405);
    let bad = [
        "",
        "x",
        "http://shop.test/",
        "*",
        "/a b",
        "/a\tb",
        "?x",
        " /",
    ];
    for (number, path) in (2u32..).zip(bad) {
        let stream = 2 * number + 1;
        let response = client.exchange(stream, &h2_fields("GET", path)).await;
        let refused = [400, 405].contains(&response.status) || response.reset == Some(1);
        assert!(refused, "{path:?}: {response:?}");
    }
    world.log.assert_no_more();
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn pseudo_fields_missing_repeated_unknown_or_late_are_refused() {
    let good = h2_fields("GET", "/");
    let mut bad: Vec<Vec<(&str, &str)>> = Vec::new();
    // Without a method, a scheme, a path; each of the four twice.
    for missing in [0, 1, 3] {
        bad.push(good.clone());
        bad.last_mut().unwrap().remove(missing);
    }
    for repeated in 0..4 {
        bad.push(good.clone());
        bad.last_mut().unwrap().insert(repeated, good[repeated]);
    }
    for extra in [
        (":status", "200"),
        (":unknown", "x"),
        (":", "x"),
        (":protocol", "websocket"),
    ] {
        bad.push([&good[..], &[extra]].concat());
    }
    bad.push([&good[..3], &[("accept", "*/*"), good[3]]].concat());
    for fields in bad {
        let (world, dyno, mut client) = raw_h2_shop().await;
        client.headers(1, &fields, true).await;
        client
            .find("refusal", |frame| is_refusal(frame).then_some(()))
            .await;
        drop(client);
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

/// A stream error, a connection error (RFC 9113 §8.1.1 allows both), or a 400.
fn is_refusal(frame: &H2Frame) -> bool {
    match frame {
        H2Frame::Reset { code, .. } | H2Frame::GoAway { code, .. } => *code == 1,
        H2Frame::Headers { fields, .. } => fields[0] == (":status".to_owned(), "400".to_owned()),
        _ => false,
    }
}

#[tokio::test]
async fn connection_specific_fields_are_refused_and_te_may_only_say_trailers() {
    for field in [
        ("connection", "close"),
        ("connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
    ] {
        let (world, dyno, mut client) = raw_h2_shop().await;
        client
            .headers(1, &[&h2_fields("GET", "/")[..], &[field]].concat(), true)
            .await;
        client
            .find("refusal", |frame| is_refusal(frame).then_some(()))
            .await;
        drop(client);
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

#[tokio::test]
async fn connect_is_no_way_through_the_router() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    let connect = [(":method", "CONNECT"), (":authority", "shop.test:443")];
    client.headers(1, &connect, false).await;
    let response = client.response(1).await;
    assert_eq!(response.status, 405, "{response:?}");
    // Another kind of tunnel than a WebSocket.
    for (stream, protocol) in [(3, "connect-udp"), (5, "webtransport"), (7, "")] {
        let fields = [&h2_fields("CONNECT", "/")[..], &[(":protocol", protocol)]].concat();
        client.headers(stream, &fields, false).await;
        let response = client.response(stream).await;
        assert!(
            [400, 405, 501].contains(&response.status),
            "{protocol}: {response:?}"
        );
    }
    world.log.assert_no_more();
    drop(client);
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn an_unknown_host_is_no_such_app_and_not_logged() {
    // Scenario 1.
    let (world, dyno, mut client) = h2_shop().await;
    // The name is one of the certificate's, but no app's.
    let request = Request::get("https://nobody.shop.test/").body(()).unwrap();
    let response = client.exchange(request).await.whole();
    assert_eq!(response.status, 404);
    assert!(
        response.text().contains("No such app"),
        "{}",
        response.text()
    );
    assert_eq!(response.header("via"), None);
    world.log.assert_no_more();
    drop(client);
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn the_scheme_that_is_forwarded_is_the_connections_not_the_clients_word() {
    let (world, dyno, _) = h2_shop().await;
    let dialer = TlsDialer::trusting_anyone("shop.test");
    let mut client = RawH2::connect_tls(world.https_address(), &dialer).await;
    // The scheme says `http`, the connection is TLS. A proxy may well translate so.
    client.headers(1, &h2_fields("GET", "/"), true).await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(client.response(1).await.whole().status, 200);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn heads_beyond_the_limits_are_refused_and_the_connection_lives() {
    let line = |length: usize| "x".repeat(length);
    let (name, value, path) = (line(1001), line(8192), format!("/{}", line(8192)));
    let many: Vec<String> = (0..1001).map(|number| format!("x-{number}")).collect();
    let mut too_many = h2_fields("GET", "/");
    too_many.extend(many.iter().map(|name| (name.as_str(), "")));
    let cases = [
        [&h2_fields("GET", "/")[..], &[("x", &*value)]].concat(),
        [&h2_fields("GET", "/")[..], &[(&*name, "1")]].concat(),
        h2_fields("GET", &path),
        too_many,
    ];
    let (world, dyno, mut client) = raw_h2_shop().await;
    for (number, fields) in (0u32..).zip(&cases) {
        client
            .headers_in_pieces(2 * number + 1, fields, true, 16_384)
            .await;
        let response = client.response(2 * number + 1).await;
        assert!(
            [400, 431].contains(&response.status),
            "{number}: {:?} {:?}",
            response.status,
            response.reset
        );
    }
    world.log.assert_no_more();
    client.headers(9, &h2_fields("GET", "/"), true).await;
    let (_conn, _) = dyno.accept_and_answer(ok("still here")).await;
    assert_eq!(client.response(9).await.whole().text(), "still here");
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_header_list_beyond_the_announced_size_is_refused_and_the_connection_lives() {
    let (world, dyno, mut client) =
        raw_h2_shop_with(|setup| setup.limits.http2.header_list = 4000).await;
    assert_eq!(
        client.setting(0x6),
        Some(4000),
        "MAX_HEADER_LIST_SIZE is announced"
    );
    // Each field counts 32 bytes more than it has (RFC 9113 §6.5.2).
    let names: Vec<String> = (0..100).map(|number| format!("x-{number:02}")).collect();
    let mut fields = h2_fields("GET", "/");
    fields.extend(names.iter().map(|name| (name.as_str(), "123456")));
    let response = client.exchange(1, &fields).await;
    assert!(
        response.status == 431
            || response.status == 400
            || response.reset.is_some_and(|code| code != 0),
        "{response:?}"
    );
    client.headers(3, &h2_fields("GET", "/"), true).await;
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.response(3).await.whole().status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn prior_knowledge_must_be_allowed_and_an_upgrade_to_h2c_is_never_honoured() {
    let world = World::start();
    let mut client = world.client().await;
    client
        .send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0")
        .await;
    let (bytes, _) = client.read_raw_until_close().await;
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 "), "{text:?}");
    world.finish().await;

    let world = World::with(|setup| setup.http2_prior_knowledge = true);
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    let (mut conn, _) = dyno.accept_and_answer(ok("plain")).await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "plain"));
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.protocol(), "http1.1");
    // HTTP/1.1 goes on beside HTTP/2 on such a listener, even where it begins alike.
    let mut client = world.client().await;
    client
        .send_paced(&[b"P", b"RI / HTTP/1.1\r\nHost: shop.test\r\n\r\n"], ms(20))
        .await;
    assert_eq!(conn.answer(ok("x")).await.method(), "PRI");
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn with_prior_knowledge_the_log_says_no_tls_and_the_dyno_http() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    client.headers(1, &h2_fields("GET", "/"), true).await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    let port = world.address().port().to_string();
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-port"), [port.as_str()]);
    assert_eq!(client.response(1).await.whole().status, 200);
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.protocol(), "http2.0");
    drop(client);
    world.finish().await;
}
