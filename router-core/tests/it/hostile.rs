//! Clients and dynos that mean harm, or are broken in ways that look like it: nothing they send may become a second
//! request, a second response or an endless buffer.

use router_testkit::{FakeDyno, eventually};

use crate::world::{
    World, assert_failed, assert_failed_at, assert_served, get, ok, post_chunked_head, post_head,
    shop, shop_with_dyno,
};

#[tokio::test]
async fn the_body_of_a_request_that_was_not_forwarded_is_never_a_request() {
    let smuggled = get("/smuggled");
    let requests = [
        post_head("/", smuggled.len()) + &smuggled,
        post_chunked_head("/") + &format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len()),
        format!(
            "GET / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: foo\r\nContent-Length: {}\r\n\r\n{smuggled}",
            smuggled.len()
        ),
    ];
    for request in requests {
        let world = World::start();
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address()).field("maintenance", true)]);
        let mut client = world.client().await;
        let response = client.exchange(&request).await;
        assert!(response.status >= 400, "{request}");
        if !request.contains("nobody") {
            let code = if request.contains("Expect") {
                "H26"
            } else {
                "H80"
            };
            assert_failed(&world.log.next().await, code, response.status);
        }
        // Either the connection is over, or the next thing on it is the answer to the next real request.
        if response.open {
            let response = client.exchange(get("/real")).await;
            assert_eq!(response.status, 503);
            assert_eq!(world.log.next().await.path(), "/real", "{request}");
        } else {
            client.expect_end().await;
        }
        drop(client);
        dyno.assert_not_contacted();
        world.finish().await;
    }
}

#[tokio::test]
async fn chunk_sizes_may_be_spelt_in_any_case_and_with_leading_zeros() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client
        .send(post_chunked_head("/") + "00a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n")
        .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(
        conn.read_chunked_raw().await.body(),
        b"01234567890123456789"
    );
    conn.write(ok("x")).await;
    assert!(client.read_response().await.open);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn endless_chunk_framing_is_refused() {
    let endless = [
        "1;".to_owned() + &"e".repeat(100_000),
        "0\r\nX-Trailer: ".to_owned() + &"t".repeat(100_000),
        "0\r\n".to_owned() + &"X-Trailer: 1\r\n".repeat(10_000),
        "0".repeat(100_000),
    ];
    for chunk in endless {
        let (world, dyno, mut client) = shop_with_dyno().await;
        client.send(post_chunked_head("/")).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        client.try_send(&chunk).await;
        let response = client.read_response().await;
        assert_eq!(
            (response.status, response.open),
            (400, false),
            "{}",
            &chunk[..20]
        );
        conn.read_until_end().await;
        let record = world.log.next().await;
        assert_failed_at(&record, "web.1", "H26", 400);
        assert_eq!(record.cause(), Some("bad chunk"));
        drop(client);
        world.finish().await;
    }
}

#[tokio::test]
async fn an_endless_response_head_is_cut_off() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let lines = format!("X-Line: {}\r\n", "x".repeat(1000)).repeat(100_000);
    conn.write("HTTP/1.1 200 OK\r\n").await;
    assert!(
        !conn.try_write(&lines).await,
        "100 MB of header lines were taken"
    );
    let response = client.read_response().await;
    assert!(
        (502..=503).contains(&response.status),
        "{}",
        response.status_line
    );
    let record = world.log.next().await;
    assert!(matches!(record.code(), Some("H17" | "H25")), "{record:?}");
    world.finish().await;
}

#[tokio::test]
async fn endless_interim_responses_are_cut_off() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert!(
        !conn
            .try_write("HTTP/1.1 102 Processing\r\n\r\n".repeat(1_000_000))
            .await,
        "27 MB were taken"
    );
    assert_eq!(client.read_response().await.status, 503);
    assert_failed_at(&world.log.next().await, "web.1", "H17", 503);
    world.finish().await;
}

#[tokio::test]
async fn pipelined_requests_are_not_buffered_without_end() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/first")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let more = get("/more").repeat(500_000);
    tokio::select! {
        _ = client.try_send(&more) => panic!("20 MB of requests were taken while the first one was not answered"),
        // Nobody signals that nothing moves any more; this can only be looked at after a while.
        () = tokio::time::sleep(std::time::Duration::from_millis(300)) => {}
    }
    client.reset();
    // Behind all those bytes the router may not see the reset before it writes; the dyno need not be there any more.
    conn.try_write(ok("x")).await;
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.path(), record.dyno()),
        (Some("H27"), "/first", Some("web.1"))
    );
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_resets_during_an_upload_is_an_interrupted_response() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(post_head("/", 10) + "half.").await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.read_exact(5).await;
    conn.reset();
    let response = client.read_response().await;
    assert_eq!((response.status, response.open), (503, false));
    assert_failed_at(&world.log.next().await, "web.1", "H18", 503);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_leaves_a_half_delivered_response_lets_go_of_everything() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let body = vec![b'x'; 64 * 1024 * 1024];
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ))
    .await;
    assert!(client.read_head().await.start_line().ends_with("200 OK"));
    let leave = async {
        client.read_exact(1024 * 1024).await;
        client.reset();
    };
    let (taken, ()) = tokio::join!(conn.try_write(&body), leave);
    assert!(!taken, "64 MB were taken for a client that is gone");
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.sock(), record.dyno()),
        (Some("H27"), Some("client"), Some("web.1"))
    );
    assert!(
        record.bytes() >= 1024 * 1024 && record.bytes() < body.len() as u64,
        "{record:?}"
    );
    eventually("nothing in flight", || {
        (world.router.stats().requests_in_flight == 0).then_some(())
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn empty_lines_between_requests_are_skipped() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client
        .send(post_head("/1", 2) + "ab\r\n" + &get("/2"))
        .await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    assert_eq!(conn.read_exact(2).await, b"ab");
    conn.write(ok("1")).await;
    assert_eq!(client.read_response().await.text(), "1");
    assert_eq!(conn.answer(ok("2")).await.target(), "/2");
    assert_eq!(client.read_response().await.text(), "2");
    for path in ["/1", "/2"] {
        let record = world.log.next().await;
        assert_served(&record, "web.1", 200);
        assert_eq!(record.path(), path);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_response_cannot_be_split_by_what_the_request_said() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client
        .send("GET /a%0d%0aSet-Cookie:%20x=1 HTTP/1.1\r\nHost: shop.test\r\nX-A: %0d%0a\r\n\r\n")
        .await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(
        (head.target(), head.header("x-a")),
        ("/a%0d%0aSet-Cookie:%20x=1", Some("%0d%0a"))
    );
    let response = client.read_response().await;
    assert_eq!(response.header("set-cookie"), None);
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.path(), "/a%0d%0aSet-Cookie:%20x=1");
    world.finish().await;
}
