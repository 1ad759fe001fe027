//! Clients of HTTP/2 that mean harm with the messages they send: nothing that HTTP/1 would read differently reaches a dyno,
//! and a stream or connection that breaks the rules takes nobody else's with it.

use router_testkit::h2_frame::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use router_testkit::{DynoConn, FakeDyno, H2Frame, RawH2, RawHead, eventually};

use crate::world::{World, assert_served, get, h2_fields, ms, ok, raw_h2_shop, shop};

/// Waits for a refusal that a client must understand as its own fault: a 400, an error of the stream, or one of the
/// connection (RFC 9113 §8.1.1 leaves the choice).
async fn refused(client: &mut RawH2, what: &str) {
    let status = client
        .find(&format!("refusal of {what}"), |frame| match frame {
            H2Frame::Reset { code, .. } | H2Frame::GoAway { code, .. } => Some((*code, 0)),
            H2Frame::Headers { fields, .. } => Some((0, fields[0].1.parse().unwrap_or(0))),
            _ => None,
        })
        .await;
    let fault = matches!(status, (1 | 9, _) | (0, 400 | 405));
    assert!(fault, "{what}: code and status {status:?}");
}

/// Everything that a dyno got on a connection that then ended.
async fn all_of(mut conn: DynoConn) -> String {
    let (bytes, _) = conn.read_until_end().await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn bytes_that_would_end_a_line_never_reach_a_dyno() {
    let values = [
        "a\r\nx-injected: 1",
        "a\nx-injected: 1",
        "a\rx-injected: 1",
        "a\0b",
        "a\r\n\r\nGET /injected HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        "\r\n",
        "\n",
    ];
    let names = [
        "x\r\nx-injected",
        "x\nx-injected",
        "x-injected:",
        "x-injected: 1\r\ny",
        "x injected",
        "x\0injected",
        "",
        " x-injected",
        "x-injected\t",
        "x-\u{ff}",
        "X-Injected",
        "x-Injected",
        "(x)",
    ];
    let mut cases: Vec<Vec<(&str, &str)>> = Vec::new();
    for value in values {
        cases.push([&h2_fields("GET", "/")[..], &[("x-a", value)]].concat());
        cases.push([&h2_fields("GET", "/")[..], &[("cookie", value)]].concat());
        // In the place of each pseudo-field.
        for at in 0..4 {
            let mut fields = h2_fields("GET", "/");
            fields[at].1 = value;
            cases.push(fields);
        }
    }
    for name in names {
        cases.push([&h2_fields("GET", "/")[..], &[(name, "1")]].concat());
    }
    for (at, value) in [
        (0, "GET / HTTP/1.1\r\nx-injected: 1\r\nx: "),
        (0, "GET "),
        (0, "G T"),
        (0, "G\u{e9}T"),
        (3, "/ HTTP/1.1\r\nx-injected: 1\r\nx: "),
        (3, "/ HTTP/1.1"),
        (3, "/\u{7f}"),
        (2, "shop.test\r\nx-injected: 1"),
        (2, "shop.test x-injected"),
        (1, "https\r\nx-injected: 1"),
    ] {
        let mut fields = h2_fields("GET", "/");
        fields[at].1 = value;
        cases.push(fields);
    }
    let world = World::with(|setup| setup.http2_prior_knowledge = true);
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    for fields in cases {
        // A connection for each, as its error may be one of the connection.
        let mut client = world.raw_h2().await;
        client.headers(1, &fields, true).await;
        refused(&mut client, &format!("{fields:?}")).await;
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn bytes_beyond_ascii_in_a_value_pass_unchanged() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    let value = "caf\u{e9}\t\u{80}\u{ff}";
    let fields = [&h2_fields("GET", "/")[..], &[("x-a", value)]].concat();
    client.headers(1, &fields, true).await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(head.all("x-a"), [value]);
    assert_eq!(client.response(1).await.whole().status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn trailers_cannot_end_a_line_or_the_body_either() {
    for trailer in [
        ("x-a", "1\r\nx-injected: 1"),
        (
            "x-a",
            "1\r\n\r\nGET /injected HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        ),
        ("x\r\nx-injected", "1"),
        ("x-a", "\0"),
        ("X-Upper", "1"),
        ("connection", "close"),
    ] {
        let (world, dyno, mut client) = raw_h2_shop().await;
        client.headers(1, &h2_fields("POST", "/"), false).await;
        client.data(1, "body", false).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        client.headers(1, &[trailer], true).await;
        let rest = all_of(conn).await;
        assert!(
            !rest.contains("inject") && !rest.contains("0\r\n"),
            "{trailer:?}: {rest:?}"
        );
        let code = world.log.next().await.code().map(str::to_owned);
        assert_eq!(code.as_deref(), Some("H33"), "{trailer:?}");
        drop(client);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_body_longer_or_shorter_than_its_length_is_never_a_whole_request() {
    let smuggled = get("/smuggled");
    let long = format!("12345{smuggled}");
    for (length, body, end) in [
        ("5", long.as_str(), true),
        ("5", &long, false),
        ("0", &smuggled, true),
        ("50", "12345", true),
        ("5", "", true),
    ] {
        let (world, dyno, mut client) = raw_h2_shop().await;
        let fields = [&h2_fields("POST", "/")[..], &[("content-length", length)]].concat();
        client.headers(1, &fields, false).await;
        client.data(1, body, end).await;
        client
            .find("an end of the stream", |frame| match frame {
                H2Frame::Reset { stream: 1, code } | H2Frame::GoAway { code, .. } => Some(*code),
                H2Frame::Headers {
                    stream: 1, fields, ..
                } => {
                    assert_eq!(fields[0].1, "400");
                    Some(0)
                }
                _ => None,
            })
            .await;
        drop(client);
        // The router may have begun to forward it before it saw what was wrong.
        let accepted = tokio::time::timeout(ms(200), dyno.accept()).await;
        if let Ok(conn) = accepted {
            let got = all_of(conn).await;
            assert!(!got.contains("smuggled"), "{length} {body:?}: {got:?}");
            let (head, sent) = got.split_once("\r\n\r\n").unwrap_or((&got, ""));
            let announced = head.to_ascii_lowercase().contains("content-length: 50");
            assert!(sent.len() < 5 || announced, "a whole body: {got:?}");
        }
        eventually("all is logged", || {
            (world.router.stats().requests_in_flight == 0).then_some(())
        })
        .await;
        for line in world.log.take_lines() {
            assert!(line.contains("code=H33"), "{line}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn lengths_that_cannot_be_agreed_on_are_refused() {
    for lengths in [
        &["5", "6"][..],
        &["5, 5"],
        &["+5"],
        &["-5"],
        &["0x5"],
        &["5 "],
        &[""],
        &["five"],
        &["18446744073709551616"],
        &["5", "x"],
    ] {
        let (world, dyno, mut client) = raw_h2_shop().await;
        let mut fields = h2_fields("POST", "/");
        fields.extend(lengths.iter().map(|length| ("content-length", *length)));
        client.headers(1, &fields, false).await;
        refused(&mut client, &format!("{lengths:?}")).await;
        drop(client);
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

#[tokio::test]
async fn a_body_that_looks_like_chunks_and_requests_is_only_a_body() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    let body = format!("0\r\n\r\n{}", get("/smuggled"));
    client.headers(1, &h2_fields("POST", "/"), false).await;
    client.data(1, &body[..7], false).await;
    client.data(1, &body[7..], true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(conn.read_chunked_raw().await.body(), body.as_bytes());
    conn.write(ok("x")).await;
    assert_eq!(client.response(1).await.whole().status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    // What follows on the dyno's connection is the next request, and nothing before it.
    client.headers(3, &h2_fields("GET", "/next"), true).await;
    assert_eq!(conn.answer(ok("y")).await.target(), "/next");
    assert_eq!(client.response(3).await.whole().text(), "y");
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_response_of_a_dyno_cannot_break_the_clients_fields() {
    // What HTTP/1 lets through in a value must be fit for HTTP/2, or not be there.
    for (line, kept) in [
        ("X-A: a\tb", Some("a\tb")),
        ("X-A:   padded \t ", Some("padded")),
        ("X-A: caf\u{e9}", Some("caf\u{c3}\u{a9}")),
        ("X-A:", Some("")),
    ] {
        let (world, dyno, mut client) = raw_h2_shop().await;
        client.headers(1, &h2_fields("GET", "/"), true).await;
        let response = format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 1\r\n\r\nx");
        let (_conn, _) = dyno.accept_and_answer(response).await;
        let got = client.response(1).await.whole();
        assert_eq!((got.status, got.header("x-a")), (200, kept), "{line:?}");
        assert_served(&world.log.next().await, "web.1", 200);
        drop(client);
        world.finish().await;
    }
}

/// What a test sends on a new connection, and the error that must come back.
struct Violation {
    what: &'static str,
    bytes: Vec<u8>,
}

fn violation(what: &'static str, frames: &[Vec<u8>]) -> Violation {
    Violation {
        what,
        bytes: frames.concat(),
    }
}

fn violations() -> Vec<Violation> {
    let frame = h2_frame::bytes;
    let block = h2_frame::block(&h2_fields("GET", "/"));
    let request = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &block);
    let setting = |id: u16, value: u32| {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &payload)
    };
    let long = |length: usize| vec![0; length];
    vec![
        violation("DATA on stream 0", &[frame(DATA, 0, 0, b"x")]),
        violation("DATA on an idle stream", &[frame(DATA, 0, 1, b"x")]),
        violation(
            "HEADERS on stream 0",
            &[frame(HEADERS, END_HEADERS, 0, &block)],
        ),
        violation("an even stream", &[request(2)]),
        violation("a stream below the last", &[open(5), request(3)]),
        violation(
            "a frame above the size allowed",
            &[open(1), frame(DATA, 0, 1, &long(16_385))],
        ),
        violation(
            "CONTINUATION of nothing",
            &[frame(CONTINUATION, END_HEADERS, 1, &block)],
        ),
        violation(
            "DATA inside a header block",
            &[frame(HEADERS, 0, 1, &block), frame(DATA, 0, 1, b"x")],
        ),
        violation(
            "CONTINUATION of another stream",
            &[
                frame(HEADERS, 0, 1, &block),
                frame(CONTINUATION, END_HEADERS, 3, b""),
            ],
        ),
        violation(
            "a block that is no HPACK",
            &[frame(HEADERS, END_HEADERS, 1, &[0x80])],
        ),
        violation(
            "an entry that no table has",
            &[frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0x7f])],
        ),
        violation(
            "an endless integer",
            &[frame(HEADERS, END_HEADERS, 1, &[0xff; 30])],
        ),
        violation(
            "a string longer than its block",
            &[frame(HEADERS, END_HEADERS, 1, &[0x10, 0x7f, 0xff, 0x7f])],
        ),
        violation(
            "a table larger than allowed",
            &[frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f])],
        ),
        violation(
            "padding longer than its frame",
            &[open(1), frame(DATA, PADDED, 1, &[200, 1, 2])],
        ),
        violation("SETTINGS of odd length", &[frame(SETTINGS, 0, 0, &[0; 5])]),
        violation("SETTINGS of a stream", &[frame(SETTINGS, 0, 1, &[])]),
        violation(
            "an acknowledgement with values",
            &[frame(SETTINGS, 1, 0, &[0; 6])],
        ),
        violation("a client that pushes", &[setting(0x2, 2)]),
        violation("a window above the largest", &[setting(0x4, 1 << 31)]),
        violation("a frame size below the smallest", &[setting(0x5, 1)]),
        violation("PING of seven bytes", &[frame(PING, 0, 0, &[0; 7])]),
        violation("PING of a stream", &[frame(PING, 0, 1, &[0; 8])]),
        violation(
            "a window that grows by nothing",
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
        ),
        violation(
            "a window beyond the largest",
            &[frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
        ),
        violation(
            "a window of an idle stream",
            &[frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])],
        ),
        violation(
            "RST_STREAM of stream 0",
            &[frame(RST_STREAM, 0, 0, &[0; 4])],
        ),
        violation(
            "RST_STREAM of an idle stream",
            &[frame(RST_STREAM, 0, 1, &[0; 4])],
        ),
        violation(
            "RST_STREAM of three bytes",
            &[open(1), frame(RST_STREAM, 0, 1, &[0; 3])],
        ),
        violation("GOAWAY of a stream", &[frame(GOAWAY, 0, 1, &[0; 8])]),
        violation(
            "a push",
            &[
                open(1),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            ],
        ),
        violation("PRIORITY of stream 0", &[frame(PRIORITY, 0, 0, &[0; 5])]),
        violation("no HTTP/2 at all", &[get("/smuggled").into_bytes()]),
    ]
}

#[tokio::test]
async fn a_connection_that_breaks_the_rules_ends_and_another_is_served() {
    for Violation { what, bytes } in violations() {
        let (world, dyno, mut client) = raw_h2_shop().await;
        let mut other = world.client().await;
        client.try_send(bytes).await;
        let (frames, _) = client.read_until_end().await;
        let code = frames.iter().find_map(|frame| match frame {
            H2Frame::GoAway { code, .. } => Some(*code),
            _ => None,
        });
        assert!(code.is_some_and(|code| code != 0), "{what}: {frames:?}");
        other.send(get("/other")).await;
        // A stream that was opened before may have reached the dyno; its connection then ends.
        let mut head: Option<RawHead> = None;
        while head.is_none() {
            let mut conn = dyno.accept().await;
            let first = conn.read_head().await;
            if first.target() == "/other" {
                conn.write(ok("x")).await;
                head = Some(first);
            }
        }
        assert_eq!(other.read_response().await.text(), "x", "{what}");
        let mut lines = world.log.take_lines();
        while !lines.iter().any(|line| line.contains("path=\"/other\"")) {
            let record = world.log.next().await;
            lines.push(format!("path={:?}", record.path()));
        }
        drop(other);
        drop(client);
        for line in world.log.take_lines() {
            assert!(line.contains("code="), "{what}: {line}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn frames_that_must_be_ignored_are() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    let block = h2_frame::block(&h2_fields("GET", "/"));
    for frame in [
        // An unknown type, with flags, on any stream; unknown settings and flags; priorities.
        h2_frame::bytes(0xfa, 0xff, 0, b"grease"),
        h2_frame::bytes(0xfa, 0xff, 99, b"grease"),
        h2_frame::bytes(SETTINGS, 0, 0, &[0xff, 0xff, 1, 2, 3, 4]),
        h2_frame::bytes(PRIORITY, 0, 7, &[0, 0, 0, 0, 16]),
        // PRIORITY_UPDATE of RFC 9218.
        h2_frame::bytes(0x10, 0, 0, b"\0\0\0\x01u=1"),
        h2_frame::bytes(PING, 0x80, 0, &[1; 8]),
        h2_frame::bytes(HEADERS, END_HEADERS | END_STREAM | 0x80, 1, &block),
    ] {
        client.send(frame).await;
    }
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.response(1).await.whole().status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn padding_and_priorities_of_a_request_change_nothing() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    let block = h2_frame::block(&h2_fields("POST", "/"));
    let head = [&[9][..], &[0, 0, 0, 0, 200], &block, &[0; 9]].concat();
    client
        .send_frame(HEADERS, END_HEADERS | PADDED | 0x20, 1, &head)
        .await;
    let body = [&[200][..], b"body", &[0; 200]].concat();
    client.send_frame(DATA, PADDED, 1, &body).await;
    client
        .send_frame(DATA, PADDED | END_STREAM, 1, &[3, 0, 0, 0])
        .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(conn.read_chunked_raw().await.body(), b"body");
    conn.write(ok("x")).await;
    assert_eq!(client.response(1).await.whole().status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn after_its_stream_is_over_a_clients_frames_do_no_harm() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    client.headers(1, &h2_fields("POST", "/"), false).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    client.reset(1, 8).await;
    // Frames that were under way when it was reset, and some that were not.
    client.reset(1, 8).await;
    client.window_update(1, 100).await;
    client.round_trip().await;
    conn.read_until_end().await;
    assert_eq!(world.log.next().await.code(), Some("H27"));
    client.headers(3, &h2_fields("GET", "/next"), true).await;
    let (_conn, _) = dyno.accept_and_answer(ok("next")).await;
    assert_eq!(client.response(3).await.whole().text(), "next");
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_header_block_that_unpacks_to_megabytes_is_refused() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    // One entry of the dynamic table, named by one byte as often as a block has room.
    let mut block = h2_frame::block(&h2_fields("GET", "/"));
    block.extend_from_slice(&[0x40, 3, b'x', b'-', b'a', 0x7f, 0xa1, 0x1e]);
    block.extend_from_slice(&[b'a'; 4000]);
    block.extend_from_slice(&vec![0xbe; 11_000]);
    assert!(block.len() < 16_384);
    client
        .send_frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
        .await;
    let refused = client
        .find("a refusal", |frame| match frame {
            H2Frame::Reset { code, .. } | H2Frame::GoAway { code, .. } => Some(*code != 0),
            H2Frame::Headers { fields, .. } => Some(["400", "431"].contains(&&*fields[0].1)),
            _ => None,
        })
        .await;
    assert!(refused);
    drop(client);
    dyno.assert_not_contacted();
    world.finish().await;
}
