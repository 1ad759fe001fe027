//! Every timer of the router, with short times. A test asserts what happens, and "not before its time" by the clock; it
//! never asserts that something happened soon, as a busy machine may take its time.

use std::time::{Duration, Instant};

use router_testkit::{Ending, FakeDyno, RawClient};

use crate::world::{
    World, assert_failed_at, assert_served, get, ms, ok, post, post_chunked_head, post_head, shop,
    shop_with,
};

/// A time that never comes in a test.
const NEVER: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_silent_dyno_is_a_request_timeout_with_the_apps_own_page() {
    // Scenarios 13 and 45.
    let world = World::with(|setup| setup.timeouts.first_byte = ms(200));
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("error_page_url", "//cdn.test/error.html")]);
    let mut client = world.client().await;
    let start = Instant::now();
    client.send(post("/slow", "body")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.read_exact(4).await;
    let response = client.read_response().await;
    assert_eq!(response.status, 503);
    assert!(
        response.text().contains("src=\"//cdn.test/error.html\""),
        "{}",
        response.text()
    );
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H12", 503);
    assert_eq!(record.bytes(), response.body.len() as u64);
    assert!(
        start.elapsed() >= ms(200),
        "gave up after {:?}",
        start.elapsed()
    );
    assert!(record.service_ms() >= Some(200), "{record:?}");
    assert!(response.open, "the client's connection stays usable");
    world.finish().await;
}

#[tokio::test]
async fn the_first_byte_timer_starts_when_the_body_is_sent() {
    // Scenario 14.
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.first_byte = ms(1500)).await;
    client.send(post_head("/upload", 10)).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    // The upload alone takes longer than the timer, and then the dyno thinks for a while.
    client.send_paced(&[&b"."[..]; 10], ms(200)).await;
    assert_eq!(conn.read_exact(10).await, b"..........");
    conn.write_paced(&[ok("at last").as_bytes()], ms(300)).await;
    assert_eq!(client.read_response().await.text(), "at last");
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert!(record.service_ms() >= Some(2000), "{record:?}");
    world.finish().await;
}

#[tokio::test]
async fn one_byte_of_the_head_ends_the_first_byte_timer() {
    // Scenario 15.
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.first_byte = ms(1500)).await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write_paced(&[b"H"], ms(100)).await;
    conn.write_paced(
        &[
            b"TTP/1.1 200 ",
            b"OK\r\nContent-Le",
            b"ngth: 2\r\n\r\n",
            b"ok",
        ],
        ms(500),
    )
    .await;
    assert_eq!(client.read_response().await.text(), "ok");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_head_that_stops_halfway_is_idle_after_the_rolling_time() {
    let (world, dyno, mut client) = shop_with(|setup| {
        setup.timeouts.first_byte = NEVER;
        setup.timeouts.idle = ms(200);
    })
    .await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\n").await;
    let response = client.read_response().await;
    assert_eq!(response.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H15", 503);
    conn.expect_end().await;
    world.finish().await;
}

#[tokio::test]
async fn a_stream_with_short_gaps_lives_and_one_with_a_long_gap_is_idle() {
    // Scenario 16.
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.idle = ms(1500)).await;
    client.send(get("/stream")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    client.read_head().await;
    // In all longer than the idle time, but never that long without a byte.
    conn.write_paced(&[&b"1\r\na\r\n"[..]; 10], ms(200)).await;
    let start = Instant::now();
    conn.write("1\r\nz\r\n").await;
    assert_eq!(
        client.read_exact(66).await,
        [b"1\r\na\r\n".repeat(10), b"1\r\nz\r\n".to_vec()].concat()
    );
    let (rest, _) = client.read_raw_until_close().await;
    assert!(rest.is_empty(), "cut, so that the client sees it: {rest:?}");
    assert!(
        start.elapsed() >= ms(1500),
        "cut after {:?}",
        start.elapsed()
    );
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H15", 200);
    assert_eq!(record.bytes(), 11);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_stalls_its_upload_is_idle() {
    // Scenario 17.
    let (world, dyno, mut client) = shop_with(|setup| {
        setup.timeouts.idle = ms(300);
        setup.timeouts.first_byte = NEVER;
    })
    .await;
    let start = Instant::now();
    client.send(post_head("/upload", 10) + "half.").await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(conn.read_exact(5).await, b"half.");
    let (rest, _) = client.read_raw_until_close().await;
    assert!(
        rest.is_empty(),
        "499 is for the log only: {:?}",
        String::from_utf8_lossy(&rest)
    );
    assert!(
        start.elapsed() >= ms(300),
        "gave up after {:?}",
        start.elapsed()
    );
    conn.expect_end().await;
    let record = world.log.next().await;
    assert_failed_at(&record, "web.1", "H28", 499);
    assert_eq!(record.at(), "warning");
    world.finish().await;
}

#[tokio::test]
async fn a_chunked_upload_without_its_very_last_line_end_is_idle() {
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.idle = ms(300)).await;
    client
        .send(post_chunked_head("/upload") + "3\r\nabc\r\n0\r\n")
        .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let (rest, _) = client.read_raw_until_close().await;
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    conn.read_until_end().await;
    assert_failed_at(&world.log.next().await, "web.1", "H28", 499);
    world.finish().await;
}

#[tokio::test]
async fn a_slow_but_steady_upload_is_not_idle() {
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.idle = ms(1500)).await;
    client.send(post_head("/upload", 10)).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    client.send_paced(&[&b"."[..]; 10], ms(200)).await;
    assert_eq!(conn.read_exact(10).await, b"..........");
    conn.write(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_response_is_idle() {
    let world = World::with(|setup| {
        setup.timeouts.idle = ms(600);
        setup.limits.response_buffer = 64 * 1024;
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = RawClient::connect_with_small_window(world.address(), 4096).await;
    let body = vec![b'x'; 64 * 1024 * 1024];
    client.send(get("/large")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ))
    .await;
    // The client reads nothing, so this ends when the router gives up on it.
    assert!(!conn.try_write(&body).await, "64 MB went nowhere");
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.at(), record.dyno()),
        (Some("H28"), "warning", Some("web.1"))
    );
    client.reset();
    world.finish().await;
}

#[tokio::test]
async fn a_silent_dyno_behind_a_blocked_client_is_not_blamed_while_it_has_sent_everything() {
    let (world, dyno, _) = shop_with(|setup| setup.timeouts.idle = ms(1500)).await;
    let mut client = RawClient::connect_with_small_window(world.address(), 4096).await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    const LENGTH: usize = 512 * 1024;
    conn.write(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
    ))
    .await;
    conn.write(vec![b'x'; LENGTH]).await;
    // All of it is in the router's buffer; the client takes it in steps, in all for longer than the idle time.
    client.read_head().await;
    for _ in 0..16 {
        tokio::time::sleep(ms(150)).await;
        client.read_exact(LENGTH / 16).await;
    }
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.bytes(), LENGTH as u64);
    world.finish().await;
}

#[tokio::test]
async fn an_app_can_have_its_own_first_byte_and_idle_times() {
    let world = World::with(|setup| {
        setup.timeouts.first_byte = NEVER;
        setup.timeouts.idle = NEVER;
    });
    let dyno = FakeDyno::start().await;
    let app = shop().web(1, dyno.address());
    world.apply(&[app.clone().setting("first_byte_timeout", "200ms")]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H12", 503);

    world.apply(&[app.setting("idle_timeout", "200ms")]);
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf.")
        .await;
    assert_eq!(client.read_broken_response().await.text(), "half.");
    assert_failed_at(&world.log.next().await, "web.1", "H15", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_incomplete_head_is_408_and_one_without_a_request_line_is_closed_silently() {
    let world = World::with(|setup| {
        setup.timeouts.client_header = ms(200);
        setup.timeouts.client_idle = ms(200);
    });
    let cases = [
        ("", false),
        ("GET / HT", false),
        ("GET / HTTP/1.1\r\nHost: shop", true),
        ("GET / HTTP/1.1\r\nHost: shop.test\r\n", true),
    ];
    for (sent, answered) in cases {
        let start = Instant::now();
        let mut client = world.client().await;
        client.send(sent).await;
        if answered {
            let response = client.read_response().await;
            assert_eq!((response.status, response.open), (408, false), "{sent:?}");
        } else {
            client.expect_end().await;
        }
        assert!(
            start.elapsed() >= ms(200),
            "{sent:?}: ended after {:?}",
            start.elapsed()
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn the_header_deadline_is_not_moved_by_single_bytes() {
    let world = World::with(|setup| setup.timeouts.client_header = ms(400));
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nX: ").await;
    let drip = async {
        while client.is_quiet_and_open() {
            client.send_paced(&[b"a"], ms(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), drip)
        .await
        .expect("one absolute deadline for the whole head");
    assert_eq!(client.read_response().await.status, 408);
    world.finish().await;
}

#[tokio::test]
async fn an_idle_client_connection_is_closed_between_requests() {
    let (world, dyno, mut client) = shop_with(|setup| setup.timeouts.client_idle = ms(300)).await;
    client.send(get("/")).await;
    let start = Instant::now();
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    assert_eq!(client.expect_end().await, Ending::Closed);
    assert!(
        start.elapsed() >= ms(300),
        "closed after {:?}",
        start.elapsed()
    );
    world.finish().await;
}

#[tokio::test]
async fn end_to_end_a_client_that_waits_in_vain_for_a_continue_is_answered_by_a_timer() {
    let world = World::with(|setup| {
        setup.timeouts.idle = ms(250);
        setup.timeouts.first_byte = ms(250);
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("end_to_end_continue", true)]);
    let mut client = world.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let (rest, _) = client.read_raw_until_close().await;
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    assert_failed_at(&world.log.next().await, "web.1", "H28", 499);
    conn.expect_end().await;
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_steadily_takes_little_is_not_idle() {
    // The system's send buffer would swallow megabytes in one go and then be silent for seconds.
    let world = World::with(|setup| setup.timeouts.idle = ms(2000));
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    const LENGTH: usize = 8 * 1024 * 1024;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    conn.write(head).await;
    let writing = tokio::spawn(async move { conn.try_write(vec![b'x'; LENGTH]).await });
    client.read_head().await;
    // Too slow to make room for a fifth of a megabyte within the timeout but by the bound on unsent bytes.
    let start = Instant::now();
    let mut left = LENGTH;
    while start.elapsed() < ms(4500) {
        client.read_exact(16 * 1024).await;
        left -= 16 * 1024;
        tokio::time::sleep(ms(100)).await;
    }
    while left > 0 {
        let piece = left.min(1024 * 1024);
        client.read_exact(piece).await;
        left -= piece;
    }
    assert!(writing.await.unwrap());
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}
