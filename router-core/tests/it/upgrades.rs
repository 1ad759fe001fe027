//! WebSockets and any other upgrade: when a connection becomes a tunnel, what passes through, and how it ends.

use std::time::Instant;

use router_testkit::{DynoConn, Ending, FakeDyno, RawClient, eventually};

use crate::world::{
    World, assert_failed, assert_failed_at, assert_served, assert_served_tls, get, ms, ok, shop,
    shop_with,
};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Both ends of a tunnel that has just opened.
async fn tunnel(dyno: &FakeDyno, client: &mut RawClient) -> DynoConn {
    client.send(UPGRADE).await;
    let (conn, _) = dyno.accept_and_answer(SWITCHING).await;
    assert_eq!(client.read_response().await.status, 101);
    conn
}

#[tokio::test]
async fn a_websocket_is_a_raw_tunnel_for_both_sides() {
    // Scenario 34.
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(UPGRADE).await;
    let (mut conn, head) = dyno.accept_and_answer(SWITCHING).await;
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(
        head.header("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(
        head.header("sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    assert_eq!(head.header("sec-websocket-version"), Some("13"));
    assert_eq!(
        (
            head.header("x-forwarded-for"),
            head.header("content-length")
        ),
        (Some("127.0.0.1"), None)
    );
    let response = client.read_response().await;
    assert_eq!(response.status_line, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(
        response
            .header("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert_eq!(
        response.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(response.header("via"), Some("1.1 router"));

    eventually("the tunnel counts", || {
        (world.router.stats().tunnels == 1).then_some(())
    })
    .await;
    for size in [1, 100, 100_000] {
        let up = vec![0x81; size];
        let ((), got) = tokio::join!(client.send(&up), conn.read_exact(size));
        assert!(got == up);
        let down = vec![0; size];
        let ((), got) = tokio::join!(conn.write(&down), client.read_exact(size));
        assert!(got == down);
    }
    client.close().await;
    assert_eq!(conn.expect_end().await, Ending::Closed);
    let record = world.log.next().await;
    assert_served(&record, "web.1", 101);
    assert_eq!(
        (record.path(), record.bytes()),
        ("/chat", 100_101),
        "bytes from the dyno to the client"
    );
    assert_eq!(world.seen.tunnels(), (1, 1));
    world.finish().await;
}

#[tokio::test]
async fn bytes_sent_ahead_on_either_side_are_delivered_first() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(format!("{UPGRADE}early up")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(format!("{SWITCHING}early down")).await;
    assert_eq!(client.read_response().await.status, 101);
    assert_eq!(client.read_exact(10).await, b"early down");
    assert_eq!(conn.read_exact(8).await, b"early up");
    client.send(" and more").await;
    assert_eq!(conn.read_exact(9).await, b" and more");
    conn.close().await;
    client.expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    world.finish().await;
}

#[tokio::test]
async fn what_the_dyno_wrote_before_it_closed_still_arrives() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    let mut conn = tunnel(&dyno, &mut client).await;
    let last = vec![b'z'; 200_000];
    conn.write(&last).await;
    conn.close().await;
    let (bytes, ending) = client.read_raw_until_close().await;
    assert!(bytes == last, "{} of {} bytes", bytes.len(), last.len());
    assert_eq!(ending, Ending::Closed);
    let record = world.log.next().await;
    assert_served(&record, "web.1", 101);
    assert_eq!(record.bytes(), 200_000);
    world.finish().await;
}

/// Bytes that show it when some are lost, doubled or swapped.
fn numbered(length: usize) -> Vec<u8> {
    (0..length.div_ceil(4))
        .flat_map(|nth| u32::try_from(nth).unwrap().to_le_bytes())
        .take(length)
        .collect()
}

#[tokio::test]
async fn both_directions_flow_at_the_readers_pace_and_whole() {
    const LENGTH: usize = 16 * 1024 * 1024;
    for tls in [false, true] {
        let world = World::with(|setup| {
            setup.https();
        });
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address())]);
        let mut client = if tls {
            let dialer = world.dialer("shop.test");
            RawClient::connect_tls(world.https_address(), &dialer).await
        } else {
            world.client().await
        };
        let mut conn = tunnel(&dyno, &mut client).await;

        let mut writing = tokio::spawn(async move {
            conn.write(numbered(LENGTH)).await;
            conn
        });
        // Nobody signals that nothing moves any more; this can only be looked at after a while.
        let early = tokio::time::timeout(ms(200), &mut writing).await;
        assert!(
            early.is_err(),
            "all was taken while the client read nothing"
        );
        assert!(client.read_exact(LENGTH).await == numbered(LENGTH));
        let mut conn = writing.await.unwrap();

        let mut sending = tokio::spawn(async move {
            client.send(numbered(LENGTH)).await;
            client
        });
        let early = tokio::time::timeout(ms(200), &mut sending).await;
        assert!(early.is_err(), "all was taken while the dyno read nothing");
        assert!(conn.read_exact(LENGTH).await == numbered(LENGTH));
        let client = sending.await.unwrap();

        client.close().await;
        assert_eq!(conn.expect_end().await, Ending::Closed);
        let record = world.log.next().await;
        let served = if tls {
            assert_served_tls
        } else {
            assert_served
        };
        served(&record, "web.1", 101);
        assert_eq!(record.bytes(), LENGTH as u64);
        world.finish().await;
    }
}

#[tokio::test]
async fn what_a_client_sent_before_it_ended_its_side_still_arrives() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    let mut conn = tunnel(&dyno, &mut client).await;
    let sending = tokio::spawn(async move {
        client.send(numbered(LENGTH)).await;
        client.half_close().await;
        client
    });
    let (bytes, ending) = conn.read_until_end().await;
    assert!(bytes == numbered(LENGTH), "{} bytes", bytes.len());
    assert_eq!(ending, Ending::Closed);
    sending.await.unwrap().expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    world.finish().await;
}

#[tokio::test]
async fn a_side_that_breaks_off_while_bytes_wait_for_it_ends_the_other() {
    const LENGTH: usize = 16 * 1024 * 1024;
    for by_dyno in [false, true] {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        let mut conn = tunnel(&dyno, &mut client).await;
        if by_dyno {
            let mut sending = tokio::spawn(async move { client.try_send(numbered(LENGTH)).await });
            let stuck = tokio::time::timeout(ms(200), &mut sending).await;
            assert!(stuck.is_err(), "the dyno reads nothing");
            conn.reset();
            assert!(!sending.await.unwrap());
        } else {
            let mut writing = tokio::spawn(async move { conn.try_write(numbered(LENGTH)).await });
            let stuck = tokio::time::timeout(ms(200), &mut writing).await;
            assert!(stuck.is_err(), "the client reads nothing");
            client.reset();
            assert!(!writing.await.unwrap());
        }
        assert_served(&world.log.next().await, "web.1", 101);
        world.finish().await;
    }
}

#[tokio::test]
async fn either_side_closing_ends_the_other_at_once() {
    for by_dyno in [false, true] {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        let mut conn = tunnel(&dyno, &mut client).await;
        // There is no half-open tunnel: the side that only stopped sending is closed as well.
        if by_dyno {
            conn.half_close().await;
        } else {
            client.half_close().await;
        }
        client.expect_end().await;
        conn.expect_end().await;
        assert_served(&world.log.next().await, "web.1", 101);
        world.finish().await;
    }
}

#[tokio::test]
async fn an_idle_tunnel_is_closed_and_a_byte_either_way_keeps_it() {
    // Scenario 34.
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.idle = ms(1500)).await;
    let mut conn = tunnel(&dyno, &mut client).await;
    for _ in 0..4 {
        client.send_paced(&[b"up"], ms(250)).await;
        conn.read_exact(2).await;
        conn.write_paced(&[b"down"], ms(250)).await;
        client.read_exact(4).await;
    }
    let start = Instant::now();
    conn.write("last").await;
    assert_eq!(client.read_exact(4).await, b"last");
    client.expect_end().await;
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
    assert!(
        record.service_ms() >= Some(3500),
        "the life of the tunnel: {record:?}"
    );
    assert_eq!(record.bytes(), 20);
    world.finish().await;
}

#[tokio::test]
async fn traffic_in_one_direction_alone_keeps_a_tunnel() {
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.idle = ms(1500)).await;
    let mut conn = tunnel(&dyno, &mut client).await;
    conn.write_paced(&[&b"."[..]; 8], ms(250)).await;
    assert_eq!(client.read_exact(8).await, b"........");
    client.close().await;
    conn.expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    world.finish().await;
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_response() {
    // Scenario 35.
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(UPGRADE).await;
    let (_conn, _) = dyno
        .accept_and_answer("HTTP/1.1 400 Bad Key\r\nContent-Length: 3\r\n\r\nbad")
        .await;
    let response = client.read_response().await;
    assert_eq!(
        (
            response.status,
            response.reason.as_str(),
            response.text().as_str()
        ),
        (400, "Bad Key", "bad")
    );
    assert_served(&world.log.next().await, "web.1", 400);
    assert!(response.open);
    client.send(get("/next")).await;
    let mut conn = _conn;
    conn.answer(ok("next")).await;
    assert_eq!(client.read_response().await.text(), "next");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_upgrade_without_an_upgrade_header_is_a_bad_header() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: upgrade\r\n\r\n")
        .await;
    assert_eq!(response.status, 400);
    let record = world.log.next().await;
    assert_failed(&record, "H26", 400);
    assert_eq!(record.cause(), Some("bad header"));
    dyno.assert_not_contacted();
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn an_upgrade_header_alone_asks_for_nothing() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client
        .send("GET / HTTP/1.1\r\nHost: shop.test\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n")
        .await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert!(!head.has("upgrade"), "{head:?}");
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_malformed() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/")).await;
    let (mut conn, _) = dyno.accept_and_answer(SWITCHING).await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H17", 503);
    conn.expect_end().await;
    world.finish().await;
}

#[tokio::test]
async fn any_protocol_and_method_may_be_upgraded() {
    for request in [
        "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: upgrade\r\nUpgrade: chat/2, irc\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
        "PATCH / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\nContent-Length: 4\r\n\r\nbody",
        "POST / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\nTransfer-Encoding: chunked\r\n\
         \r\n4\r\nbody\r\n0\r\n\r\n",
    ] {
        let (world, dyno, mut client) = shop_with(|_| {}).await;
        client.send(request).await;
        let mut conn = dyno.accept().await;
        let head = conn.read_head().await;
        assert!(head.has("upgrade"), "{request}");
        if head.has("transfer-encoding") {
            assert_eq!(conn.read_chunked_raw().await.body(), b"body");
        } else if head.header("content-length") == Some("4") {
            assert_eq!(conn.read_exact(4).await, b"body");
        }
        conn.write(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n",
        )
        .await;
        assert_eq!(
            client.read_response_to_head().await.status,
            101,
            "{request}"
        );
        client.send("hello").await;
        assert_eq!(conn.read_exact(5).await, b"hello");
        conn.write("world").await;
        assert_eq!(client.read_exact(5).await, b"world");
        client.close().await;
        conn.expect_end().await;
        let record = world.log.next().await;
        assert_served(&record, "web.1", 101);
        assert_eq!(record.bytes(), 5);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_dyno_that_never_switches_is_a_request_timeout() {
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.first_byte = ms(200)).await;
    client.send(UPGRADE).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H12", 503);
    conn.expect_end().await;
    world.finish().await;
}

#[tokio::test]
async fn a_kept_connection_can_become_a_tunnel_and_is_never_kept_again() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    client.send(get("/")).await;
    let (mut conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    client.send(UPGRADE).await;
    conn.answer(SWITCHING).await;
    assert_eq!(client.read_response().await.status, 101);
    client.close().await;
    conn.expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    assert_eq!(world.router.stats().kept_connections, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_tunnel_does_not_notice_route_updates_that_leave_its_dyno() {
    let (world, dyno, mut client) = shop_with(|_| {}).await;
    let mut conn = tunnel(&dyno, &mut client).await;
    let other = FakeDyno::start().await;
    world.apply(&[shop()
        .domain("www.shop.test")
        .web(1, dyno.address())
        .web(2, other.address())]);
    world.apply(&[shop().web(1, dyno.address()).field("maintenance", true)]);
    client.send("still").await;
    assert_eq!(conn.read_exact(5).await, b"still");
    conn.write("here").await;
    assert_eq!(client.read_exact(4).await, b"here");
    client.close().await;
    conn.expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    world.finish().await;
}

#[tokio::test]
async fn a_tunnel_whose_dyno_leaves_gets_a_drain_window() {
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.drain = ms(400)).await;
    let mut conn = tunnel(&dyno, &mut client).await;
    let other = FakeDyno::start().await;
    world.apply(&[shop().web(2, other.address())]);
    client.send("last words").await;
    assert_eq!(
        conn.read_exact(10).await,
        b"last words",
        "within the window it works"
    );
    client.expect_end().await;
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_eq!((record.dyno(), record.method()), (Some("web.1"), "GET"));
    other.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_tunnel_counts_against_the_apps_limit() {
    let (world, dyno, mut client) =
        shop_with(|setup| setup.limits.concurrent_requests_per_dyno = 1).await;
    let mut conn = tunnel(&dyno, &mut client).await;
    let mut other = world.client().await;
    assert_eq!(other.exchange(get("/")).await.status, 503);
    assert_failed(&world.log.next().await, "H11", 503);
    client.close().await;
    conn.expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    eventually("the place is free", || {
        (world.router.stats().requests_in_flight == 0).then_some(())
    })
    .await;
    other.send(get("/")).await;
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(other.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_library_talks_through_the_router() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    let world = World::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.apply(&[shop().web(1, listener.local_addr().unwrap())]);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                break;
            }
            socket.send(message).await.unwrap();
        }
    });
    let stream = tokio::net::TcpStream::connect(world.address())
        .await
        .unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async("ws://shop.test/chat", stream)
        .await
        .unwrap();
    assert_eq!(response.status(), 101);
    for text in ["hello", "", &"long ".repeat(50_000)] {
        socket.send(Message::text(text)).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(text));
    }
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    server.await.unwrap();
    assert_served(&world.log.next().await, "web.1", 101);
    world.finish().await;
}
