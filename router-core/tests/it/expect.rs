//! `Expect: 100-continue`: answered by the router unless the app wants it end to end; and the other interim responses.

use router_testkit::{Ending, FakeDyno, RawClient};

use crate::world::{World, assert_failed_at, assert_served, get, ms, ok, shop};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn expecting(expectation: &str, version: &str) -> String {
    format!(
        "POST / HTTP/{version}\r\nHost: shop.test\r\nContent-Length: 4\r\nExpect: {expectation}\r\n\r\n"
    )
}

async fn shop_with_dyno(end_to_end: bool) -> (World, FakeDyno, RawClient) {
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("end_to_end_continue", end_to_end)]);
    let client = world.client().await;
    (world, dyno, client)
}

#[tokio::test]
async fn the_router_says_continue_and_the_dyno_sees_no_expect() {
    // Scenario 27.
    for expectation in ["100-continue", "100-Continue", "100-CONTINUE"] {
        let (world, dyno, mut client) = shop_with_dyno(false).await;
        client.send(expecting(expectation, "1.1")).await;
        assert_eq!(client.read_head().await.raw(), CONTINUE);
        client.send("body").await;
        let mut conn = dyno.accept().await;
        let head = conn.read_head().await;
        assert!(!head.has("expect"), "{head:?}");
        assert_eq!(conn.read_exact(4).await, b"body");
        conn.write(ok("x")).await;
        let response = client.read_response().await;
        assert_eq!(
            (response.status, response.informational.len()),
            (200, 0),
            "one 100 only"
        );
        assert_served(&world.log.next().await, "web.1", 200);
        assert_eq!(
            client.exchange_on(&mut conn).await,
            200,
            "both connections stay usable"
        );
        assert_served(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

/// One more exchange over connections that exist.
trait ExchangeOn {
    async fn exchange_on(&mut self, conn: &mut router_testkit::DynoConn) -> u16;
}

impl ExchangeOn for RawClient {
    async fn exchange_on(&mut self, conn: &mut router_testkit::DynoConn) -> u16 {
        self.send(get("/again")).await;
        assert_eq!(conn.answer(ok("again")).await.target(), "/again");
        self.read_response().await.status
    }
}

#[tokio::test]
async fn an_empty_expect_is_none() {
    let (world, dyno, mut client) = shop_with_dyno(false).await;
    client.send(expecting("", "1.1") + "body").await;
    let mut conn = dyno.accept().await;
    assert_eq!(conn.read_head().await.header("content-length"), Some("4"));
    assert_eq!(conn.read_exact(4).await, b"body");
    conn.write(ok("x")).await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.informational.len()), (200, 0));
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_http_1_0_client_never_gets_an_interim_response() {
    for end_to_end in [false, true] {
        let (world, dyno, mut client) = shop_with_dyno(end_to_end).await;
        client.send(expecting("100-continue", "1.0") + "body").await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        assert_eq!(conn.read_exact(4).await, b"body");
        if end_to_end {
            conn.write(CONTINUE).await;
        }
        conn.write(ok("x")).await;
        let response = client.read_response().await;
        assert_eq!((response.status, response.informational.len()), (200, 0));
        let record = world.log.next().await;
        assert_served(&record, "web.1", 200);
        assert_eq!(record.protocol(), "http1.0");
        drop(client);
        world.finish().await;
    }
}

#[tokio::test]
async fn end_to_end_the_dyno_decides_and_its_100_is_passed_on_bare() {
    let (world, dyno, mut client) = shop_with_dyno(true).await;
    client.send(expecting("100-continue", "1.1")).await;
    let mut conn = dyno.accept().await;
    assert_eq!(
        conn.read_head().await.header("expect"),
        Some("100-continue")
    );
    client.assert_open();
    conn.write("HTTP/1.0 100 Go on\r\nX-Hint: 1\r\nConnection: close\r\n\r\n")
        .await;
    let interim = client.read_head().await;
    assert!(
        interim.start_line().starts_with("HTTP/1.1 100"),
        "always 1.1: {interim:?}"
    );
    assert!(
        interim.headers().is_empty(),
        "headers of a 100 are stripped: {interim:?}"
    );
    client.send("body").await;
    assert_eq!(conn.read_exact(4).await, b"body");
    conn.write(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn end_to_end_a_client_need_not_wait_for_the_100() {
    let (world, dyno, mut client) = shop_with_dyno(true).await;
    client.send(expecting("100-continue", "1.1") + "body").await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(
        conn.read_exact(4).await,
        b"body",
        "the router does not hold the body back"
    );
    conn.write(CONTINUE).await;
    conn.write(ok("x")).await;
    let response = client.read_response().await;
    assert_eq!(response.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn end_to_end_a_final_status_without_a_100_ends_both_connections() {
    let (world, dyno, mut client) = shop_with_dyno(true).await;
    client.send(expecting("100-continue", "1.1")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        .await;
    let response = client.read_response().await;
    assert_eq!(
        (response.status, response.text().as_str(), response.open),
        (403, "no", false)
    );
    assert_eq!(conn.expect_end().await, Ending::Closed);
    assert_served(&world.log.next().await, "web.1", 403);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn end_to_end_a_second_100_is_an_error() {
    let (world, dyno, mut client) = shop_with_dyno(true).await;
    client.send(expecting("100-continue", "1.1")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(CONTINUE).await;
    assert_eq!(client.read_head().await.raw(), CONTINUE);
    client.send("body").await;
    conn.read_exact(4).await;
    conn.try_write(CONTINUE).await;
    let response = client.read_response().await;
    assert!((502..=503).contains(&response.status), "{response:?}");
    let record = world.log.next().await;
    assert_eq!(
        (record.at(), record.dyno(), record.status()),
        ("error", Some("web.1"), Some(response.status))
    );
    conn.read_until_end().await;
    world.finish().await;
}

#[tokio::test]
async fn early_hints_are_passed_on_and_processing_is_not() {
    let (world, dyno, mut client) = shop_with_dyno(false).await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        .await;
    let hints = client.read_head().await;
    assert!(hints.start_line().starts_with("HTTP/1.1 103"), "{hints:?}");
    assert_eq!(hints.header("link"), Some("</a.css>"));
    conn.write(ok("x")).await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.informational.len()), (200, 0));
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn early_hints_never_reach_an_http_1_0_client() {
    let (world, dyno, mut client) = shop_with_dyno(false).await;
    client
        .send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")
        .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        .await;
    conn.write(ok("x")).await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.informational.len()), (200, 0));
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn end_to_end_an_expect_with_an_upgrade_passes_untouched() {
    let (world, dyno, mut client) = shop_with_dyno(true).await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    let mut conn = dyno.accept().await;
    let head = conn.read_head().await;
    assert_eq!(
        (head.header("expect"), head.header("upgrade")),
        (Some("100-continue"), Some("chat"))
    );
    conn.write(CONTINUE).await;
    conn.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n")
        .await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.informational.len()), (101, 1));
    client.close().await;
    conn.expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    world.finish().await;
}

#[tokio::test]
async fn an_interim_response_starts_no_timer_while_the_upload_goes_on() {
    let world = World::with(|setup| setup.timeouts.idle = ms(600));
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("end_to_end_continue", true)]);
    let mut client = world.client().await;
    client.send(
        "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n",
    )
    .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(CONTINUE).await;
    assert_eq!(client.read_head().await.raw(), CONTINUE);
    // Longer than the idle timeout as a whole, though never silent for that long.
    client.send_paced(&[b"x".as_slice(); 8], ms(120)).await;
    conn.read_exact(8).await;
    conn.write(ok("all of it")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_interim_response_is_no_answer() {
    let world = World::with(|setup| {
        setup.timeouts.first_byte = ms(250);
        setup.timeouts.idle = std::time::Duration::from_secs(60);
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 102 Processing\r\n\r\n").await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H12", 503);
    world.finish().await;
}
