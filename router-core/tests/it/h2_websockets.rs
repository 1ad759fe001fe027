//! WebSockets over HTTP/2 (RFC 8441): an extended CONNECT of the client is an HTTP/1.1 upgrade at the dyno, and both ends
//! talk through the router as over a tunnel of HTTP/1.

use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderName, HeaderValue, Request};
use router_testkit::{DynoConn, FakeDyno, H2Client, H2Stream, RawHead, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::world::{
    World, assert_failed, assert_failed_at, assert_served_tls, h2_request, h2_shop, h2_shop_with,
    ms, ok, shop,
};

/// The request that asks for a WebSocket, with these fields.
fn connect(target: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = h2_request("CONNECT", target);
    let protocol = h2::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    for (name, value) in [&[("sec-websocket-version", "13")], fields].concat() {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(name, value);
    }
    request
}

/// The dyno's answer to a handshake, as its WebSocket library would give it.
fn switching(head: &RawHead) -> String {
    let accept = derive_accept_key(head.header("sec-websocket-key").unwrap().as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Both ends of a WebSocket that has just opened.
async fn open(dyno: &FakeDyno, client: &mut H2Client) -> (H2Stream, DynoConn) {
    let mut stream = client.open(connect("/chat", &[]), false).await;
    let mut conn = dyno.accept().await;
    let head = conn.read_head().await;
    conn.write(switching(&head)).await;
    assert_eq!(stream.head().await.status, 200);
    (stream, conn)
}

#[tokio::test]
async fn an_extended_connect_is_an_upgrade_at_the_dyno_and_a_tunnel_for_both_sides() {
    let (world, dyno, mut client) = h2_shop().await;
    assert!(
        client.may_extend_connect(),
        "SETTINGS_ENABLE_CONNECT_PROTOCOL"
    );
    let forged = "dGhlIHNhbXBsZSBub25jZQ==";
    let fields = [
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("sec-websocket-key", forged),
        ("origin", "https://shop.test"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ];
    let mut stream = client.open(connect("/chat?room=1", &fields), false).await;
    let mut conn = dyno.accept().await;
    let head = conn.read_head().await;
    assert_eq!(head.start_line(), "GET /chat?room=1 HTTP/1.1");
    for (name, value) in [
        ("host", "shop.test"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat, superchat"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("origin", "https://shop.test"),
        ("cookie", "a=1; b=2"),
        ("via", "2.0 router"),
        ("x-forwarded-proto", "https"),
    ] {
        assert_eq!(head.all(name), [value], "{name}");
    }
    let connection = head.header("connection").unwrap().to_ascii_lowercase();
    assert_eq!(connection, "upgrade");
    for name in [
        "content-length",
        "transfer-encoding",
        ":protocol",
        "protocol",
    ] {
        assert!(!head.has(name), "{name}");
    }
    let key = head.header("sec-websocket-key").unwrap().to_owned();
    assert!(
        key.len() == 24 && key != forged,
        "the key is the router's own: {key}"
    );

    let answer = switching(&head).replace(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Protocol: chat\r\nX-App: A\r\n\r\n",
    );
    conn.write(answer).await;
    let response = stream.head().await;
    assert_eq!(response.status, 200);
    for (name, value) in [
        ("sec-websocket-protocol", "chat"),
        ("x-app", "A"),
        ("via", "2.0 router"),
    ] {
        assert_eq!(response.all(name), [value], "{name}");
    }
    for name in [
        "connection",
        "upgrade",
        "sec-websocket-accept",
        "content-length",
    ] {
        assert_eq!(response.header(name), None, "{name}");
    }
    eventually("the tunnel counts", || {
        (world.router.stats().tunnels == 1).then_some(())
    })
    .await;

    for size in [1, 100, 100_000] {
        let up = vec![0x81; size];
        let ((), got) = tokio::join!(stream.send(up.clone(), false), conn.read_exact(size));
        assert!(got == up);
        let down = vec![0; size];
        let ((), got) = tokio::join!(conn.write(&down), stream.exactly(size));
        assert!(got == down);
    }
    // Browsers end their side together with the Close frame, and wait for the dyno's.
    stream.send("close", true).await;
    assert_eq!(conn.read_exact(5).await, b"close");
    conn.write("answer").await;
    conn.close().await;
    assert_eq!(stream.exactly(6).await, b"answer");
    assert_eq!(stream.data().await, None);
    let record = world.log.next().await;
    assert_served_tls(&record, "web.1", 101);
    assert_eq!(
        (record.protocol(), record.path(), record.bytes()),
        ("http2.0", "/chat?room=1", 100_107)
    );
    assert_eq!(world.seen.tunnels(), (1, 1));
    assert!(client.is_open(), "the connection outlives its WebSocket");
    world.finish().await;
}

#[tokio::test]
async fn each_handshake_has_a_key_of_its_own() {
    let (world, dyno, mut client) = h2_shop().await;
    let mut keys = std::collections::HashSet::new();
    for _ in 0..5 {
        let stream = client.open(connect("/", &[]), false).await;
        let mut conn = dyno.accept().await;
        let head = conn.read_head().await;
        assert!(keys.insert(head.header("sec-websocket-key").unwrap().to_owned()));
        conn.write("HTTP/1.1 400 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .await;
        assert_eq!(stream.response().await.status, 400);
        assert_served_tls(&world.log.next().await, "web.1", 400);
    }
    world.finish().await;
}

#[tokio::test]
async fn bytes_sent_ahead_on_either_side_are_delivered_first() {
    let (world, dyno, mut client) = h2_shop().await;
    let mut stream = client.open(connect("/chat", &[]), false).await;
    stream.send("early up", false).await;
    let mut conn = dyno.accept().await;
    let head = conn.read_head().await;
    conn.write(switching(&head) + "early down").await;
    assert_eq!(stream.exactly(10).await, b"early down");
    assert_eq!(conn.read_exact(8).await, b"early up");
    stream.send(" and more", false).await;
    assert_eq!(conn.read_exact(9).await, b" and more");
    conn.close().await;
    assert_eq!(stream.data().await, None);
    assert_served_tls(&world.log.next().await, "web.1", 101);
    world.finish().await;
}

#[tokio::test]
async fn several_sockets_and_requests_share_a_connection() {
    const SOCKETS: usize = 20;
    let (world, dyno, mut client) = h2_shop().await;
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(open(&dyno, &mut client).await);
    }
    for (number, (stream, _)) in sockets.iter_mut().enumerate() {
        stream.send(format!("up {number:02}"), false).await;
    }
    for (number, (stream, conn)) in sockets.iter_mut().enumerate().rev() {
        assert_eq!(
            conn.read_exact(5).await,
            format!("up {number:02}").into_bytes()
        );
        conn.write(format!("dn {number:02}")).await;
        assert_eq!(
            stream.exactly(5).await,
            format!("dn {number:02}").into_bytes()
        );
    }
    let stream = client.open(h2_request("GET", "/plain"), true).await;
    let (_conn, _) = dyno.accept_and_answer(ok("plain")).await;
    assert_eq!(stream.response().await.whole().text(), "plain");
    assert_eq!(world.log.next().await.path(), "/plain");
    for (number, (mut stream, mut conn)) in sockets.into_iter().enumerate() {
        // One after the other ends, by this side or by that; the others stay.
        if number % 2 == 0 {
            stream.reset(Reason::CANCEL);
            conn.read_until_end().await;
        } else {
            conn.close().await;
            assert_eq!(stream.data().await, None);
        }
        let record = world.log.next().await;
        assert_served_tls(&record, "web.1", 101);
        assert_eq!(record.bytes(), 5);
    }
    assert_eq!(world.seen.tunnels(), (SOCKETS, SOCKETS));
    world.finish().await;
}

#[tokio::test]
async fn what_the_dyno_wrote_before_it_closed_still_arrives() {
    let (world, dyno, mut client) = h2_shop().await;
    let (mut stream, mut conn) = open(&dyno, &mut client).await;
    let last = vec![b'z'; 500_000];
    let closing = async {
        conn.write(&last).await;
        conn.close().await;
    };
    let ((), got) = tokio::join!(closing, stream.exactly(last.len()));
    assert!(got == last);
    assert_eq!(stream.data().await, None, "an orderly end");
    let record = world.log.next().await;
    assert_served_tls(&record, "web.1", 101);
    assert_eq!(record.bytes(), 500_000);
    world.finish().await;
}

#[tokio::test]
async fn a_reset_and_a_lost_connection_end_a_socket_like_any_other_end() {
    // As over HTTP/1: who leaves a tunnel has done nothing wrong.
    let (world, dyno, mut client) = h2_shop().await;
    let (mut stream, mut conn) = open(&dyno, &mut client).await;
    stream.reset(Reason::CANCEL);
    conn.read_until_end().await;
    assert_served_tls(&world.log.next().await, "web.1", 101);

    let (_stream, mut conn) = open(&dyno, &mut client).await;
    drop(client);
    conn.read_until_end().await;
    assert_served_tls(&world.log.next().await, "web.1", 101);

    let mut client = world.h2_client().await;
    let (mut stream, conn) = open(&dyno, &mut client).await;
    conn.reset();
    // A dyno that breaks off is no orderly end for the client either, if the router can tell.
    while let Ok(Some(_)) = stream.try_data().await {}
    assert_eq!(world.log.next().await.status(), Some(101));
    world.finish().await;
}

#[tokio::test]
async fn an_idle_socket_is_h15_and_a_byte_either_way_keeps_it() {
    let (world, dyno, mut client) = h2_shop_with(|setup| setup.timeouts.idle = ms(1500)).await;
    let (mut stream, mut conn) = open(&dyno, &mut client).await;
    for _ in 0..4 {
        tokio::time::sleep(ms(250)).await;
        stream.send("up", false).await;
        conn.read_exact(2).await;
        conn.write_paced(&[b"down"], ms(250)).await;
        stream.exactly(4).await;
    }
    let start = Instant::now();
    conn.write("last").await;
    assert_eq!(stream.exactly(4).await, b"last");
    while let Ok(Some(_)) = stream.try_data().await {}
    conn.expect_end().await;
    assert!(
        start.elapsed() >= ms(1500),
        "closed after {:?}",
        start.elapsed()
    );
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.at(), record.dyno()),
        (Some("H15"), "error", Some("web.1"))
    );
    assert_eq!((record.bytes(), record.protocol()), (20, "http2.0"));
    assert!(client.is_open());
    world.finish().await;
}

#[tokio::test]
async fn a_refusal_by_the_dyno_is_an_ordinary_response() {
    let (world, dyno, mut client) = h2_shop().await;
    let mut stream = client.open(connect("/chat", &[]), false).await;
    let (conn, _) = dyno
        .accept_and_answer("HTTP/1.1 403 Not You\r\nContent-Length: 6\r\nX-App: A\r\n\r\nno way")
        .await;
    assert_eq!(stream.head().await.header("x-app"), Some("A"));
    let response = stream.response().await;
    assert_eq!((response.status, response.text().as_str()), (403, "no way"));
    assert!(
        matches!(response.reset, None | Some(0)),
        "{:?}",
        response.reset
    );
    let record = world.log.next().await;
    assert_served_tls(&record, "web.1", 403);
    assert_eq!(record.bytes(), 6);
    conn.close().await;
    let stream = client.open(h2_request("GET", "/next"), true).await;
    let (_conn, _) = dyno.accept_and_answer(ok("next")).await;
    assert_eq!(stream.response().await.whole().text(), "next");
    assert_served_tls(&world.log.next().await, "web.1", 200);
    assert_eq!(world.seen.tunnels(), (0, 0));
    world.finish().await;
}

#[tokio::test]
async fn an_answer_that_is_no_handshake_is_malformed() {
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let none =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    // To a client of RFC 8441 a 200 is the WebSocket; a dyno that says it means something else.
    let ok = ok("a page");
    for answer in [wrong, none, &ok] {
        let (world, dyno, mut client) = h2_shop().await;
        let stream = client.open(connect("/chat", &[]), false).await;
        let (mut conn, _) = dyno.accept_and_answer(answer).await;
        let response = stream.response().await;
        assert_eq!(response.status, 503, "{answer:?}");
        assert_failed_at(&world.log.next().await, "web.1", "H17", 503);
        conn.expect_end().await;
        assert_eq!(world.seen.tunnels(), (0, 0));
        world.finish().await;
    }
}

#[tokio::test]
async fn failures_before_the_handshake_are_told_as_for_any_request() {
    let world = World::with(|setup| {
        setup.https();
        setup.timeouts.first_byte = ms(200);
    });
    let dyno = FakeDyno::start().await;
    let mut client = world.h2_client().await;
    world.apply(&[shop().web(1, dyno.address()).field("maintenance", true)]);
    let stream = client.open(connect("/chat", &[]), false).await;
    assert_eq!(stream.response().await.status, 503);
    assert_failed(&world.log.next().await, "H80", 503);

    world.apply(&[shop().web(1, dyno.address())]);
    let stream = client.open(connect("/chat", &[]), false).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(stream.response().await.status, 503);
    conn.expect_end().await;
    assert_failed_at(&world.log.next().await, "web.1", "H12", 503);
    world.finish().await;
}

#[tokio::test]
async fn a_drain_leaves_sockets_their_window_and_then_cuts_them() {
    let (mut world, dyno, mut client) = h2_shop().await;
    let (mut staying, mut staying_conn) = open(&dyno, &mut client).await;
    let (mut leaving, mut leaving_conn) = open(&dyno, &mut client).await;
    let draining = tokio::spawn(world.take_server().drain(ms(1500)));
    staying.send("still here", false).await;
    assert_eq!(staying_conn.read_exact(10).await, b"still here");
    leaving.send("bye", true).await;
    assert_eq!(leaving_conn.read_exact(3).await, b"bye");
    leaving_conn.close().await;
    assert_served_tls(&world.log.next().await, "web.1", 101);
    assert_eq!(draining.await.unwrap().cut, 1);
    while let Ok(Some(_)) = staying.try_data().await {}
    staying_conn.expect_end().await;
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.status(), record.path()),
        (Some("H24"), None, "/chat")
    );
    world.finish().await;
}

#[tokio::test]
async fn both_directions_flow_at_the_readers_pace() {
    const LENGTH: usize = 32 * 1024 * 1024;
    let (world, dyno, mut client) = h2_shop().await;
    let (mut stream, mut conn) = open(&dyno, &mut client).await;
    let mut writing = tokio::spawn(async move {
        conn.write(vec![b'd'; LENGTH]).await;
        conn
    });
    assert!(stream.held_data().await.unwrap().is_some());
    // Nobody signals that nothing moves any more; this can only be looked at after a while.
    let early = tokio::time::timeout(ms(300), &mut writing).await;
    assert!(
        early.is_err(),
        "32 MB were taken from the dyno while the client read nothing"
    );
    stream.release();
    let mut got = 0;
    while let Ok(Some(piece)) = stream.try_data().await {
        got += piece.len();
        if got + 65_536 > LENGTH {
            break;
        }
    }
    let mut conn = writing.await.unwrap();

    let mut sending = tokio::spawn(async move {
        stream.send(vec![b'u'; LENGTH], false).await;
        stream
    });
    let early = tokio::time::timeout(ms(300), &mut sending).await;
    assert!(
        early.is_err(),
        "32 MB were taken from the client while the dyno read nothing"
    );
    let mut left = LENGTH;
    while left > 0 {
        let piece = left.min(1024 * 1024);
        conn.read_exact(piece).await;
        left -= piece;
    }
    let mut stream = sending.await.unwrap();
    stream.send("", true).await;
    conn.close().await;
    assert_served_tls(&world.log.next().await, "web.1", 101);
    world.finish().await;
}

#[tokio::test]
async fn an_end_of_the_client_that_the_dyno_does_not_answer_is_the_end_all_the_same() {
    // The stream of the second ends with its request.
    for ends_at_once in [false, true] {
        let (world, dyno, mut client) = h2_shop().await;
        let mut stream = client.open(connect("/chat", &[]), ends_at_once).await;
        let mut conn = dyno.accept().await;
        let head = conn.read_head().await;
        conn.write(switching(&head)).await;
        assert_eq!(stream.head().await.status, 200);
        if !ends_at_once {
            stream.send("", true).await;
        }
        conn.expect_end().await;
        assert_eq!(stream.data().await, None);
        assert_served_tls(&world.log.next().await, "web.1", 101);
        world.finish().await;
    }
}

/// The bytes of a stream as a socket for a WebSocket library.
fn socket(mut stream: H2Stream) -> tokio::io::DuplexStream {
    let (mine, theirs) = tokio::io::duplex(16 * 1024);
    tokio::spawn(async move {
        let (mut reader, mut writer) = tokio::io::split(mine);
        let mut buffer = [0; 4096];
        loop {
            tokio::select! {
                read = reader.read(&mut buffer) => match read.unwrap() {
                    0 => return stream.send("", true).await,
                    count => stream.send(Bytes::copy_from_slice(&buffer[..count]), false).await,
                },
                piece = stream.data() => match piece {
                    Some(piece) => writer.write_all(&piece).await.unwrap(),
                    None => return,
                },
            }
        }
    });
    theirs
}

#[tokio::test]
async fn a_websocket_library_at_each_end_talks_through_it() {
    use futures_util::{SinkExt, StreamExt};

    let world = World::with(|setup| {
        setup.https();
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.apply(&[shop().web(1, listener.local_addr().unwrap())]);
    let dyno = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let mut client = world.h2_client().await;
    let mut stream = client.open(connect("/chat", &[]), false).await;
    assert_eq!(stream.head().await.status, 200);
    let mut socket =
        tokio_tungstenite::WebSocketStream::from_raw_socket(socket(stream), Role::Client, None)
            .await;
    for message in [
        Message::text("hello"),
        Message::binary(vec![7; 200_000]),
        Message::text("\u{1f980}".repeat(1000)),
    ] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket
        .send(Message::Ping(Bytes::from_static(b"p")))
        .await
        .unwrap();
    let pong = socket.next().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"p")));
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    drop(socket);
    dyno.await.unwrap();
    assert_served_tls(&world.log.next().await, "web.1", 101);
    world.finish().await;
}
