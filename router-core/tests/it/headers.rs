//! Headers in both directions: what the router adds, what it takes away, and what it must leave alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use router_testkit::{FakeDyno, LogRecord, RawClient, RawHead, RawResponse};

use crate::world::{World, assert_failed, assert_served, get, ok, shop};

/// One exchange with the given header lines (each ending in CRLF): what the dyno got and what was logged.
async fn sent_with(lines: &str) -> (RawHead, LogRecord) {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client
        .send(format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n"))
        .await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    world.finish().await;
    (head, record)
}

/// One exchange answered with these bytes: what the client got.
async fn answered_with(response: &str) -> RawResponse {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let (_conn, _) = dyno.accept_and_answer(response).await;
    let response = client.read_response().await;
    assert_served(&world.log.next().await, "web.1", response.status);
    world.finish().await;
    response
}

#[tokio::test]
async fn forwarded_for_lines_are_joined_and_the_peer_appended() {
    // Scenario 5.
    let (head, record) =
        sent_with("X-Forwarded-For: 1.1.1.1\r\nAccept: */*\r\nx-forwarded-for: 2.2.2.2\r\n").await;
    assert_eq!(head.all("x-forwarded-for"), ["1.1.1.1, 2.2.2.2, 127.0.0.1"]);
    assert_eq!(record.fwd(), "1.1.1.1, 2.2.2.2, 127.0.0.1");
    let (head, record) = sent_with("").await;
    assert_eq!(head.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(record.fwd(), "127.0.0.1");
}

#[tokio::test]
async fn an_ipv6_client_is_named_without_brackets_and_a_mapped_one_as_ipv4() {
    let cases = [
        (
            Ipv6Addr::LOCALHOST,
            IpAddr::from(Ipv6Addr::LOCALHOST),
            "::1",
        ),
        (
            Ipv6Addr::UNSPECIFIED,
            IpAddr::from(Ipv4Addr::LOCALHOST),
            "127.0.0.1",
        ),
    ];
    for (listen, connect, named) in cases {
        let world = World::with(|setup| setup.listen = Some(listen.into()));
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address())]);
        let mut client = RawClient::connect((connect, world.address().port()).into()).await;
        client.send(get("/")).await;
        let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
        assert_eq!(head.header("x-forwarded-for"), Some(named));
        assert_eq!(client.read_response().await.status, 200);
        let record = world.log.next().await;
        assert_served(&record, "web.1", 200);
        assert_eq!(record.fwd(), named);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_request_id_is_kept_exactly_when_it_is_valid() {
    // Scenario 6.
    let kept = [
        "x".repeat(20),
        "x".repeat(200),
        "AZaz09+/=-AZaz09+/=-".to_owned(),
        "8601b555-6a83-4c12-8269-97c8e32cdb22".to_owned(),
    ];
    for id in kept {
        let (head, record) = sent_with(&format!("X-Request-ID: {id}\r\n")).await;
        assert_eq!(head.all("x-request-id"), [id.as_str()]);
        assert_eq!(record.request_id(), id);
    }
    let replaced = [
        "x".repeat(19),
        "x".repeat(201),
        format!("_{}", "x".repeat(30)),
        format!("{}.x", "x".repeat(30)),
        String::new(),
    ];
    for id in replaced {
        let (head, record) = sent_with(&format!("X-Request-Id: {id}\r\n")).await;
        check_generated(&head, &record);
    }
    let (head, record) = sent_with("").await;
    check_generated(&head, &record);
}

/// The dyno and the log have one new id, a lower-case UUID of version 4.
fn check_generated(head: &RawHead, record: &LogRecord) {
    let id = head.header("x-request-id").unwrap();
    assert_eq!(record.request_id(), id);
    let dashes: Vec<usize> = id
        .char_indices()
        .filter(|(_, char)| *char == '-')
        .map(|(at, _)| at)
        .collect();
    assert_eq!(
        (id.len(), dashes.as_slice(), &id[14..15]),
        (36, &[8, 13, 18, 23][..], "4"),
        "{id}"
    );
    assert!(
        id.bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
        "{id}"
    );
}

#[tokio::test]
async fn of_two_request_ids_the_dyno_sees_one() {
    // Scenario 7.
    let (first, second) = ("a".repeat(20), "b".repeat(20));
    let (head, record) = sent_with(&format!(
        "X-Request-Id: {first}\r\nX-Request-ID: {second}\r\n"
    ))
    .await;
    assert_eq!(head.all("x-request-id"), [first.as_str()]);
    assert_eq!(record.request_id(), first);
    let (head, record) = sent_with(&format!(
        "X-Request-Id: short\r\nX-Request-ID: {second}\r\n"
    ))
    .await;
    assert_eq!(
        head.all("x-request-id"),
        [second.as_str()],
        "the first valid one counts"
    );
    assert_eq!(record.request_id(), second);
}

#[tokio::test]
async fn two_requests_have_two_ids() {
    let (first, second) = (sent_with("").await, sent_with("").await);
    assert_ne!(first.1.request_id(), second.1.request_id());
}

#[tokio::test]
async fn the_dyno_gets_one_clean_value_of_each_router_header() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    let forged = "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: wss\r\nX-Forwarded-Port: 443\r\n\
                  x-forwarded-port: 444\r\nX-Request-Start: 1\r\nX-Request-Start: t=2\r\nVia: 1.0 fred\r\n\
                  Via: 1.1 proxy.test (x)\r\nX-Forwarded-Host: elsewhere.test\r\n";
    client
        .send(format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{forged}\r\n"))
        .await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);

    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(
        head.all("x-forwarded-port"),
        [world.address().port().to_string().as_str()]
    );
    assert_eq!(
        head.all("via").join(", "),
        "1.0 fred, 1.1 proxy.test (x), 1.1 router"
    );
    assert_eq!(
        head.all("x-forwarded-host"),
        ["elsewhere.test"],
        "not the router's, so not touched"
    );
    let start: u128 = head
        .header("x-request-start")
        .unwrap()
        .parse()
        .expect("digits only");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis();
    assert!(
        (now - 60_000..=now).contains(&start),
        "X-Request-Start {start} is milliseconds, now {now}"
    );
    world.finish().await;
}

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    // Scenario 48.
    let (head, _) = sent_with(
        "Proxy-Authorization: Basic eDp5\r\nTE: trailers\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         Connection: keep-alive\r\nX-Kept: 1\r\n",
    )
    .await;
    for name in [
        "proxy-authorization",
        "te",
        "keep-alive",
        "proxy-connection",
    ] {
        assert!(!head.has(name), "{name}: {head:?}");
    }
    assert_eq!(head.header("x-kept"), Some("1"));
    assert!(
        !head
            .all("connection")
            .iter()
            .any(|value| value.to_ascii_lowercase().contains("close")),
        "{head:?}"
    );
}

#[tokio::test]
async fn fields_named_in_connection_are_removed_but_never_the_protected_ones() {
    let (head, record) = sent_with(
        "Connection: X-Private, x-other\r\nConnection: Host, X-Forwarded-For, X-Request-Id, Via, X-Forwarded-Proto, \
         Content-Length\r\nX-Private: 1\r\nX-Other: 2\r\nX-Public: 3\r\nX-Forwarded-For: 1.1.1.1\r\nVia: 1.1 fred\r\n\
         X-Request-Id: aaaaaaaaaaaaaaaaaaaaaaaa\r\n",
    )
    .await;
    assert!(!head.has("x-private") && !head.has("x-other"), "{head:?}");
    assert_eq!(head.header("x-public"), Some("3"));
    assert_eq!(head.header("host"), Some("shop.test"));
    assert_eq!(head.header("x-forwarded-for"), Some("1.1.1.1, 127.0.0.1"));
    assert_eq!(head.header("x-forwarded-proto"), Some("http"));
    assert_eq!(head.all("via").join(", "), "1.1 fred, 1.1 router");
    assert_eq!(record.request_id(), "aaaaaaaaaaaaaaaaaaaaaaaa");
}

#[tokio::test]
async fn a_length_named_in_connection_still_frames_the_body() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: shop.test\r\nConnection: Content-Length\r\nContent-Length: 4\r\n\r\nbody")
        .await;
    let mut conn = dyno.accept().await;
    assert_eq!(conn.read_head().await.header("content-length"), Some("4"));
    assert_eq!(conn.read_exact(4).await, b"body");
    conn.write(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn other_request_headers_pass_in_order_with_all_their_lines() {
    let (head, _) = sent_with(
        "X-B: 1\r\nCookie: a=1\r\nX-A: \u{e9}\"\\ =x\r\nCookie: b=2\r\nX-Empty:\r\nx-b: 2\r\nProxy-Authenticate: Basic\r\n",
    )
    .await;
    let names = ["x-b", "cookie", "x-a", "x-empty", "proxy-authenticate"];
    let kept: Vec<(String, &str)> = head
        .headers()
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .filter(|(name, _)| names.contains(&name.as_str()))
        .collect();
    let expected = [
        ("x-b", "1"),
        ("cookie", "a=1"),
        ("x-a", "\u{c3}\u{a9}\"\\ =x"),
        ("cookie", "b=2"),
        ("x-empty", ""),
        ("x-b", "2"),
        ("proxy-authenticate", "Basic"),
    ];
    assert_eq!(kept, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[tokio::test]
async fn a_request_without_a_body_says_so_unless_it_is_get_or_head() {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("dyno_keepalive", false)]);
    for (method, expected) in [
        ("GET", None),
        ("HEAD", None),
        ("POST", Some("0")),
        ("PUT", Some("0")),
    ] {
        let mut client = world.client().await;
        client
            .send(format!("{method} / HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
            .await;
        let (_conn, head) = dyno
            .accept_and_answer("HTTP/1.1 204 No Content\r\n\r\n")
            .await;
        assert_eq!(head.header("content-length"), expected, "{method}");
        assert!(!head.has("transfer-encoding"), "{method}");
        assert_eq!(client.read_response_to_head().await.status, 204);
        assert_served(&world.log.next().await, "web.1", 204);
    }
    world.finish().await;
}

#[tokio::test]
async fn server_date_and_via_are_added_when_the_app_sent_none() {
    let response = answered_with(&ok("x")).await;
    assert_eq!(response.all("server"), ["router"]);
    assert_eq!(response.all("via"), ["1.1 router"]);
    let date = response.header("date").expect("a Date");
    assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
    assert!(
        !response.all("x-request-id").iter().any(|_| true),
        "the id is not added to the response"
    );
    for name in [
        "strict-transport-security",
        "content-encoding",
        "cache-control",
        "nel",
        "report-to",
    ] {
        assert_eq!(response.header(name), None);
    }
}

#[tokio::test]
async fn server_and_date_of_the_app_are_kept_and_via_appended() {
    let response = answered_with(
        "HTTP/1.1 200 OK\r\nServer: app/1\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nVia: 1.1 inner\r\n\
         Content-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(response.all("server"), ["app/1"]);
    assert_eq!(response.all("date"), ["Thu, 01 Jan 1970 00:00:00 GMT"]);
    assert_eq!(response.all("via").join(", "), "1.1 inner, 1.1 router");
}

#[tokio::test]
async fn the_routers_name_can_be_chosen() {
    let world = World::with(|setup| setup.name = Some("edge"));
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(head.all("via"), ["1.1 edge"]);
    let response = client.read_response().await;
    assert_eq!(
        (response.all("via"), response.all("server")),
        (vec!["1.1 edge"], vec!["edge"])
    );
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn other_response_headers_pass_in_order_with_every_cookie_line() {
    let response = answered_with(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-CamelCase: 1\r\nset-cookie: b=2; Path=/\r\nX-A: \u{e9}\r\n\
         Set-Cookie: a=1\r\nContent-Length: 0\r\nX-Empty:\r\n\r\n",
    )
    .await;
    assert_eq!(response.all("set-cookie"), ["a=1", "b=2; Path=/", "a=1"]);
    let names = ["set-cookie", "x-camelcase", "x-a", "x-empty"];
    let kept: Vec<String> = response
        .headers
        .iter()
        .map(|(name, _)| name.to_ascii_lowercase())
        .filter(|name| names.contains(&name.as_str()))
        .collect();
    assert_eq!(
        kept,
        [
            "set-cookie",
            "x-camelcase",
            "set-cookie",
            "x-a",
            "set-cookie",
            "x-empty"
        ]
    );
    assert_eq!(response.header("x-a"), Some("\u{c3}\u{a9}"));
}

#[tokio::test]
async fn hop_by_hop_response_headers_are_rewritten() {
    let response = answered_with(
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Private\r\nKeep-Alive: timeout=60\r\nX-Private: 1\r\n\
         X-Public: 2\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(response.header("keep-alive"), None);
    assert_eq!(response.header("x-private"), None);
    assert_eq!(response.header("x-public"), Some("2"));
    assert!(response.open, "{response:?}");
}

#[tokio::test]
async fn a_blank_before_a_colon_in_a_response_is_removed() {
    // RFC 9112 §5.1: refused in a request, repaired in a response. The raw client refuses a name with a blank.
    let response = answered_with("HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(response.header("x-a"), Some("1"));
}

#[tokio::test]
async fn a_dyno_that_closes_does_not_close_the_client() {
    let response =
        answered_with("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    assert!(
        response.open,
        "the client's connection is the router's own affair: {response:?}"
    );
}

#[tokio::test]
async fn pages_of_the_router_carry_neither_via_nor_request_id() {
    let world = World::start();
    world.apply(&[shop()]);
    let mut client = world.client().await;
    let response = client.exchange(get("/")).await;
    assert_eq!(response.status, 503);
    assert_eq!(
        response.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(response.header("cache-control"), Some("no-cache, no-store"));
    assert_eq!(response.header("server"), Some("router"));
    assert!(response.header("date").is_some() && response.header("content-length").is_some());
    assert!(response.header("via").is_none() && response.header("x-request-id").is_none());
    assert!(response.open, "a page ends nothing");
    let record = world.log.next().await;
    assert_failed(&record, "H14", 503);
    assert_eq!(record.bytes(), response.body.len() as u64);

    client
        .send("HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        .await;
    let head = client.read_response_to_head().await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (503, response.header("content-length"))
    );
    let record = world.log.next().await;
    assert_failed(&record, "H14", 503);
    assert_eq!(record.bytes(), 0, "a page that was not sent counts nothing");
    world.finish().await;
}

#[tokio::test]
async fn quotes_and_backslashes_in_a_path_stay_inside_their_log_field() {
    // Scenario 47. A raw line feed in a request line is no path but a malformed head; `admission` has that one.
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let target = r#"/a"b\c%0A"+status=999+x="y\"#;
    let mut client = world.client().await;
    client.send(get(target)).await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(head.target(), target, "raw, as received");
    assert_eq!(client.read_response().await.status, 200);
    let record = world.log.next().await;
    assert_eq!(record.path(), target);
    assert_served(&record, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_forged_forwarded_for_stays_inside_its_log_field() {
    let (head, record) = sent_with("X-Forwarded-For: \"; drop\" dyno=web.9 x\\\t\u{e9}\r\n").await;
    assert_eq!(record.dyno(), Some("web.1"));
    assert!(record.fwd().ends_with(", 127.0.0.1"), "{record:?}");
    assert!(
        head.header("x-forwarded-for")
            .unwrap()
            .ends_with(", 127.0.0.1")
    );
}
