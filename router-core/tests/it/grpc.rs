//! Calls in the shape of gRPC, end to end over HTTP/2: client, router, and a dyno that speaks h2c or TLS. Messages are
//! framed here by hand; what is asserted is what a gRPC library at either end relies on.

use bytes::{BufMut, Bytes, BytesMut};
use h2::Reason;
use http::{HeaderName, HeaderValue, Request};
use router_testkit::{H2Call, H2Client, H2Dyno, H2Frame, H2Response, H2Stream, RawH2};

use crate::world::{World, assert_served_tls, h2_fields, h2_request, ms, shop};

/// A length-prefixed message.
fn message(content: impl AsRef<[u8]>) -> Bytes {
    let content = content.as_ref();
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(content.len().try_into().unwrap());
    bytes.put_slice(content);
    bytes.freeze()
}

/// The messages of a whole body.
fn messages(mut body: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while let [_, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        all.push(String::from_utf8(rest[..length].to_vec()).unwrap());
        body = &rest[length..];
    }
    assert!(body.is_empty(), "a message was cut");
    all
}

/// A call of a method.
fn call(method: &str) -> Request<()> {
    let mut request = h2_request("POST", &format!("/shop.Cart/{method}"));
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-timeout", "4900m"),
        ("grpc-encoding", "identity"),
        ("user-agent", "grpc-test/1"),
        ("x-trace-bin", "AAEC/w"),
    ] {
        let value = HeaderValue::from_static(value);
        request
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    request
}

const GRPC: [(&str, &str); 1] = [("content-type", "application/grpc")];

/// The windows of a whole connection at either end are wide, so that one stalled call leaves room for others, and small
/// messages may wait in any number.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const SMALL_FRAMES: usize = 64 * 1024 * 1024;

/// The shop with a dyno of HTTP/2 behind it, h2c or over TLS.
async fn served(secure: bool) -> (World, H2Dyno) {
    let world = World::with(|setup| {
        setup.https();
    });
    let change = |settings: &mut h2::server::Builder| {
        settings
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAMES);
    };
    let (dyno, app) = if secure {
        let certificate = world.ca().certificate(&["spiffe://shop.test/web.1"]);
        let dyno = H2Dyno::start_tls_with(&certificate, change).await;
        let tls = serde_json::json!({"verify": world.ca().pem(), "identity": "dyno-name"});
        (
            dyno,
            shop()
                .setting("dyno_protocol", "h2")
                .setting("dyno_tls", tls),
        )
    } else {
        let dyno = H2Dyno::start_with(change).await;
        (dyno, shop().setting("dyno_protocol", "h2c"))
    };
    world.apply(&[app.web(1, dyno.address())]);
    (world, dyno)
}

async fn grpc(secure: bool) -> (World, H2Dyno, H2Client) {
    let (world, dyno) = served(secure).await;
    let dialer = world.dialer("shop.test");
    let client = H2Client::connect_tls_with(world.https_address(), &dialer, |settings| {
        settings
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAMES);
    })
    .await;
    (world, dyno, client)
}

/// The client's stream and the dyno's call of a method that has just begun.
async fn begun(dyno: &mut H2Dyno, client: &mut H2Client, method: &str) -> (H2Stream, H2Call) {
    let stream = client.open(call(method), false).await;
    (stream, dyno.call().await)
}

/// The outcome of a call in the trailers.
fn status(response: &H2Response) -> Option<&str> {
    response.trailer("grpc-status")
}

#[tokio::test]
async fn a_unary_call_passes_with_everything_that_grpc_needs() {
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let mut stream = client.open(call("Add"), false).await;
        stream.send(message("apples"), true).await;
        let mut call = dyno.call().await;
        assert_eq!((call.method(), call.path()), ("POST", "/shop.Cart/Add"));
        assert_eq!(call.authority(), Some("shop.test"));
        assert_eq!(call.scheme(), Some(if secure { "https" } else { "http" }));
        for (name, value) in [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "4900m"),
            ("grpc-encoding", "identity"),
            ("user-agent", "grpc-test/1"),
            ("x-trace-bin", "AAEC/w"),
            ("via", "2.0 router"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "127.0.0.1"),
        ] {
            assert_eq!(call.header(name).as_deref(), Some(value), "{name}");
        }
        for name in ["connection", "host", "transfer-encoding", "content-length"] {
            assert_eq!(call.header(name), None, "{name}");
        }
        assert_eq!(messages(&call.body().await), ["apples"]);
        call.respond(200, &GRPC, false);
        call.send(message("added"), false).await;
        call.send_trailers(&[
            ("grpc-status", "0"),
            ("grpc-message", ""),
            ("x-list", "1"),
            ("x-list", "2"),
            ("x-bin", "/wABAg"),
        ]);
        let response = stream.response().await.whole();
        assert_eq!(
            (response.status, response.header("content-type")),
            (200, Some("application/grpc"))
        );
        assert_eq!(messages(&response.body), ["added"]);
        assert_eq!(
            (status(&response), response.trailer("grpc-message")),
            (Some("0"), Some(""))
        );
        assert_eq!(response.trailer("x-bin"), Some("/wABAg"));
        let list: Vec<_> = response
            .trailers
            .iter()
            .filter(|field| field.0 == "x-list")
            .collect();
        assert_eq!(
            (list.len(), list[0].1.as_str(), list[1].1.as_str()),
            (2, "1", "2")
        );
        let record = world.log.next().await;
        assert_served_tls(&record, "web.1", 200);
        assert_eq!((record.protocol(), record.bytes()), ("http2.0", 10));
        world.finish().await;
    }
}

#[tokio::test]
async fn an_error_without_a_body_stays_one_head_that_ends_the_stream() {
    // "Trailers-Only": a client takes grpc-status from the head only if the stream ends with it.
    for secure in [false, true] {
        let (world, mut dyno) = served(secure).await;
        let mut client =
            RawH2::connect_tls(world.https_address(), &world.dialer("shop.test")).await;
        let mut fields = h2_fields("POST", "/shop.Cart/Nothing");
        fields.extend([("content-type", "application/grpc"), ("te", "trailers")]);
        client.headers(1, &fields, false).await;
        client.data(1, message("x"), true).await;
        let mut call = dyno.call().await;
        let error = [
            GRPC[0],
            ("grpc-status", "5"),
            ("grpc-message", "not%20found"),
        ];
        call.respond(200, &error, true);
        let H2Frame::Headers { fields, end, .. } = client.frame_of(1).await else {
            panic!("no head");
        };
        assert!(end, "{fields:?}");
        for (name, value) in [
            (":status", "200"),
            ("grpc-status", "5"),
            ("grpc-message", "not%20found"),
        ] {
            assert!(
                fields.contains(&(name.to_owned(), value.to_owned())),
                "{name}: {fields:?}"
            );
        }
        assert_served_tls(&world.log.next().await, "web.1", 200);
        drop(client);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_server_stream_is_not_held_back() {
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Watch").await;
        stream.send(message("all"), true).await;
        assert_eq!(messages(&call.body().await), ["all"]);
        call.respond(200, &GRPC, false);
        for number in 0..50 {
            let sent = message(format!("price {number:02}"));
            call.send(sent.clone(), false).await;
            assert_eq!(stream.exactly(sent.len()).await, sent);
        }
        call.send_trailers(&[("grpc-status", "0")]);
        assert_eq!(status(&stream.response().await.whole()), Some("0"));
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_client_stream_is_not_held_back() {
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Upload").await;
        for number in 0..50 {
            let sent = message(format!("part {number:02}"));
            stream.send(sent.clone(), false).await;
            assert_eq!(call.exactly(sent.len()).await, sent);
        }
        stream.send("", true).await;
        assert_eq!(call.data().await, None);
        call.respond(200, &GRPC, false);
        call.send(message("50"), false).await;
        call.send_trailers(&[("grpc-status", "0")]);
        let response = stream.response().await.whole();
        assert_eq!(
            (messages(&response.body), status(&response)),
            (vec!["50".to_owned()], Some("0"))
        );
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn both_streams_of_a_call_go_on_side_by_side() {
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Chat").await;
        // The server may speak first.
        call.respond(200, &GRPC, false);
        assert_eq!(stream.head().await.status, 200);
        for number in 0..50 {
            let ping = message(format!("ping {number:02}"));
            stream.send(ping.clone(), false).await;
            assert_eq!(call.exactly(ping.len()).await, ping);
            let pong = message(format!("pong {number:02}"));
            call.send(pong.clone(), false).await;
            assert_eq!(stream.exactly(pong.len()).await, pong);
        }
        stream.send("", true).await;
        assert_eq!(call.data().await, None);
        call.send_trailers(&[("grpc-status", "0"), ("grpc-message", "bye")]);
        let response = stream.response().await.whole();
        assert_eq!(
            (status(&response), response.trailer("grpc-message")),
            (Some("0"), Some("bye"))
        );
        let record = world.log.next().await;
        assert_served_tls(&record, "web.1", 200);
        assert_eq!(record.bytes(), 50 * 12);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_the_dyno_and_no_other() {
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut cancelled, mut call) = begun(&mut dyno, &mut client, "Slow").await;
        let (mut stays, mut other) = begun(&mut dyno, &mut client, "Stays").await;
        call.respond(200, &GRPC, false);
        call.send(message("one"), false).await;
        cancelled.exactly(8).await;
        cancelled.reset(Reason::CANCEL);
        assert_eq!(call.reset_by_router().await, Reason::CANCEL);
        let record = world.log.next().await;
        assert_eq!(
            (record.code(), record.path()),
            (Some("H27"), "/shop.Cart/Slow")
        );
        stays.send(message("still here"), true).await;
        assert_eq!(messages(&other.body().await), ["still here"]);
        other.respond(200, &GRPC, false);
        other.send_trailers(&[("grpc-status", "0")]);
        assert_eq!(status(&stays.response().await.whole()), Some("0"));
        assert_served_tls(&world.log.next().await, "web.1", 200);

        // Before any answer.
        let (mut early, mut call) = begun(&mut dyno, &mut client, "Early").await;
        early.reset(Reason::CANCEL);
        assert_eq!(call.reset_by_router().await, Reason::CANCEL);
        assert_eq!(world.log.next().await.code(), Some("H27"));
        world.finish().await;
    }
}

#[tokio::test]
async fn an_answer_before_the_request_is_over_is_the_answer() {
    // A server that has seen enough ends the call with a status while the client is still sending.
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Upload").await;
        stream.send(message("too much"), false).await;
        call.exactly(13).await;
        call.respond(200, &GRPC, false);
        call.send_trailers(&[("grpc-status", "8"), ("grpc-message", "quota")]);
        // The library then says that it wants no more of the request.
        drop(call);
        let response = stream.response().await;
        assert_eq!(
            (response.status, status(&response)),
            (200, Some("8")),
            "{response:?}"
        );
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_call_that_the_dyno_breaks_off_is_broken_for_the_client_too() {
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Break").await;
        call.respond(200, &GRPC, false);
        call.send(message("half"), false).await;
        stream.exactly(9).await;
        call.reset(Reason::INTERNAL_ERROR);
        let response = stream.response().await;
        let reset = response.reset.expect("no end that looks whole");
        assert!(![0, 7].contains(&reset), "{reset}");
        let record = world.log.next().await;
        assert!(matches!(record.code(), Some("H18" | "H33")), "{record:?}");
        assert_eq!((record.status(), record.dyno()), (Some(200), Some("web.1")));

        let (stream, call) = begun(&mut dyno, &mut client, "Gone").await;
        call.cut_connection();
        let response = stream.response().await;
        assert_eq!(response.status, 503, "before the head it is a page");
        let record = world.log.next().await;
        assert!(
            matches!(record.code(), Some("H13" | "H18" | "H33")),
            "{record:?}"
        );
        world.finish().await;
    }
}

#[tokio::test]
async fn many_calls_share_few_connections_to_the_dyno() {
    const CALLS: usize = 60;
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let mut running = Vec::new();
        for number in 0..CALLS {
            let mut stream = client.open(call("Add"), false).await;
            stream.send(message(format!("{number}")), true).await;
            running.push((stream, dyno.call().await));
        }
        for (number, (stream, mut call)) in running.into_iter().enumerate().rev() {
            assert_eq!(messages(&call.body().await), [format!("{number}")]);
            call.respond(200, &GRPC, false);
            call.send(message(format!("{number}!")), false).await;
            call.send_trailers(&[("grpc-status", "0")]);
            let response = stream.response().await.whole();
            assert_eq!(messages(&response.body), [format!("{number}!")]);
            assert_served_tls(&world.log.next().await, "web.1", 200);
        }
        assert!(
            dyno.connections() <= 4,
            "{} connections",
            dyno.connections()
        );
        world.finish().await;
    }
}

#[tokio::test]
async fn large_messages_pass_both_ways() {
    const LENGTH: usize = 5_000_000;
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Large").await;
        let large = message("l".repeat(LENGTH));
        let ((), got) = tokio::join!(stream.send(large.clone(), true), call.body());
        assert!(got == large);
        call.respond(200, &GRPC, false);
        let sending = async {
            call.send(large.clone(), false).await;
            call.send_trailers(&[("grpc-status", "0")]);
        };
        let ((), response) = tokio::join!(sending, stream.response());
        assert!(response.body == large);
        assert_eq!(status(&response.whole()), Some("0"));
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn each_side_is_held_to_the_pace_of_the_other() {
    const MOST: usize = 16 * 1024 * 1024;
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Flow").await;
        // Nobody reads: the windows of all four ends and one buffer are what can be sent.
        let up = stream.send_what_fits(Bytes::from(vec![1; MOST])).await;
        assert!(
            up > 60_000 && up < 4 * 1024 * 1024,
            "{up} bytes were taken from the client"
        );
        call.respond(200, &GRPC, false);
        let down = call.send_what_fits(Bytes::from(vec![2; MOST])).await;
        assert!(
            down > 60_000 && down < 4 * 1024 * 1024,
            "{down} bytes were taken from the dyno"
        );
        // Another call of the same two connections is served all the while.
        let (mut quick, mut other) = begun(&mut dyno, &mut client, "Quick").await;
        quick.send(message("quick"), true).await;
        assert_eq!(messages(&other.body().await), ["quick"]);
        other.respond(200, &GRPC, false);
        other.send_trailers(&[("grpc-status", "0")]);
        assert_eq!(status(&quick.response().await.whole()), Some("0"));
        assert_served_tls(&world.log.next().await, "web.1", 200);

        stream.send("", true).await;
        assert_eq!(call.body().await.len(), up);
        call.send_trailers(&[("grpc-status", "0")]);
        let response = stream.response().await.whole();
        assert_eq!((response.body.len(), status(&response)), (down, Some("0")));
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn many_small_messages_before_a_reader_that_takes_its_time_break_nothing() {
    const MESSAGES: usize = 5000;
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (mut stream, mut call) = begun(&mut dyno, &mut client, "Small").await;
        for _ in 0..MESSAGES {
            stream.send(message("s"), false).await;
        }
        stream.send("", true).await;
        tokio::time::sleep(ms(200)).await;
        assert_eq!(messages(&call.body().await).len(), MESSAGES);
        call.respond(200, &GRPC, false);
        for _ in 0..MESSAGES {
            call.send(message("t"), false).await;
        }
        call.send_trailers(&[("grpc-status", "0")]);
        tokio::time::sleep(ms(200)).await;
        let response = stream.response().await.whole();
        assert_eq!(
            (messages(&response.body).len(), status(&response)),
            (MESSAGES, Some("0"))
        );
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_dyno_that_goes_away_finishes_its_calls_and_new_ones_take_another_connection() {
    for secure in [false, true] {
        let (world, mut dyno, mut client) = grpc(secure).await;
        let (stream, mut running) = begun(&mut dyno, &mut client, "Running").await;
        running.go_away();
        // It takes the router a moment to hear of it; a call that is too late for that one is not lost either.
        let (mut next, mut call) = begun(&mut dyno, &mut client, "Next").await;
        next.send(message("next"), true).await;
        assert_eq!(messages(&call.body().await), ["next"]);
        call.respond(200, &GRPC, false);
        call.send_trailers(&[("grpc-status", "0")]);
        assert_eq!(status(&next.response().await.whole()), Some("0"));
        assert_served_tls(&world.log.next().await, "web.1", 200);
        running.respond(200, &GRPC, false);
        running.send_trailers(&[("grpc-status", "0")]);
        assert_eq!(status(&stream.response().await), Some("0"));
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}
