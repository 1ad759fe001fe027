//! Bodies in both directions: framing, streaming, back-pressure, the response buffer, HTTP/1.0, pipelining, and responses
//! that come before the request is complete.

use std::time::Duration;

use router_testkit::{DynoConn, Ending, FakeDyno, RawClient, eventually};

use crate::world::{
    World, assert_failed_at, assert_served, get, last_get, ms, ok, post, post_chunked_head,
    post_head, shop, shop_with_dyno,
};

/// Bytes that are not all the same, so that a lost or doubled piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index * 31 + index / 251) as u8)
        .collect()
}

#[tokio::test]
async fn a_body_of_known_length_passes_both_ways_unchanged() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let body = pattern(3_000_000);
    client.send(post_head("/", body.len())).await;
    let mut conn = dyno.accept().await;
    assert_eq!(
        conn.read_head().await.header("content-length"),
        Some("3000000")
    );
    let ((), received) = tokio::join!(client.send(&body), conn.read_exact(body.len()));
    assert!(received == body, "the upload differs");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let answer = async {
        conn.write(head).await;
        conn.write(&body).await;
    };
    let ((), response) = tokio::join!(answer, client.read_response());
    assert!(response.body == body, "the download differs");
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(
        record.bytes(),
        body.len() as u64,
        "bytes= counts the body only"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_chunked_upload_keeps_its_chunks_and_trailers_and_loses_its_extensions() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(post_chunked_head("/")).await;
    let mut conn = dyno.accept().await;
    let head = conn.read_head().await;
    assert_eq!(
        (
            head.header("transfer-encoding"),
            head.header("content-length")
        ),
        (Some("chunked"), None)
    );
    client.send("3;name=value\r\nabc\r\n").await;
    assert_eq!(
        conn.read_exact(8).await,
        b"3\r\nabc\r\n",
        "a chunk is passed on when it is there"
    );
    client
        .send("0005\r\nde\r\n\0\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n")
        .await;
    let rest = conn.read_chunked_raw().await;
    assert_eq!(rest.chunks, [b"de\r\n\0".to_vec()]);
    assert_eq!(rest.trailers.len(), 2, "{rest:?}");
    assert!(
        !String::from_utf8_lossy(&rest.raw).contains(';'),
        "{rest:?}"
    );
    conn.write(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_chunked_response_keeps_its_chunks_and_trailers_and_loses_its_extensions() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let (_conn, _) = dyno
        .accept_and_answer(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
        .await;
    let response = client.read_response().await;
    assert_eq!(response.chunks, [b"abc".to_vec(), b"de".to_vec()]);
    assert_eq!(response.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    assert!(
        !String::from_utf8_lossy(&response.raw).contains(";a=b"),
        "{response:?}"
    );
    assert!(response.open);
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.bytes(), 5, "data, not framing");
    world.finish().await;
}

#[tokio::test]
async fn chunked_wins_over_a_length_in_a_response() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let (_conn, _) = dyno
        .accept_and_answer(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        )
        .await;
    // The raw client refuses a response that has both.
    assert_eq!(client.read_response().await.text(), "body");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn response_bytes_are_never_held_back() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/events")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .await;
    assert!(
        client.read_head().await.start_line().ends_with("200 OK"),
        "the head alone goes out"
    );
    for _ in 0..3 {
        conn.write("9\r\ndata: 1\n\n\r\n").await;
        assert_eq!(client.read_exact(14).await, b"9\r\ndata: 1\n\n\r\n");
    }
    conn.write("0\r\n\r\n").await;
    assert_eq!(client.read_exact(5).await, b"0\r\n\r\n");
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.bytes(), 27);
    world.finish().await;
}

#[tokio::test]
async fn a_close_delimited_response_ends_the_client_connection() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let (conn, _) = dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\n\r\nall there is")
        .await;
    conn.close().await;
    let response = client.read_response().await;
    assert_eq!(
        (response.text().as_str(), response.open),
        ("all there is", false)
    );
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn an_http_1_0_client_gets_a_chunked_response_as_plain_bytes_to_the_end() {
    // Scenario 31.
    let (world, dyno, mut client) = shop_with_dyno().await;
    client
        .send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")
        .await;
    let mut conn = dyno.accept().await;
    assert_eq!(conn.read_head().await.version(), "HTTP/1.1");
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n").await;
    let response = client.read_response().await;
    assert_eq!(
        (response.status, response.text().as_str(), response.open),
        (200, "abcde", false)
    );
    assert_eq!(response.header("transfer-encoding"), None);
    assert_eq!(
        response
            .header("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("close")
    );
    assert!(response.status_line.starts_with("HTTP/1.1 "));
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!((record.protocol(), record.bytes()), ("http1.0", 5));
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn an_http_1_0_client_keeps_its_connection_only_when_it_asks() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client
        .send("GET / HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n")
        .await;
    let (mut conn, _) = dyno.accept_and_answer(ok("x")).await;
    let response = client.read_response().await;
    assert!(response.open);
    assert_eq!(
        response
            .header("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("keep-alive")
    );
    client
        .send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")
        .await;
    conn.answer(ok("x")).await;
    let response = client.read_response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "x"));
    client.expect_end().await;
    for _ in 0..2 {
        assert_served(&world.log.next().await, "web.1", 200);
    }
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_1_1_client_can_ask_for_the_end() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(last_get("/")).await;
    let (conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert!(
        !head.all("connection").contains(&"close"),
        "that is between client and router: {head:?}"
    );
    let response = client.read_response().await;
    assert_eq!((response.status, response.open), (200, false));
    assert_served(&world.log.next().await, "web.1", 200);
    conn.assert_open();
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn responses_that_cannot_have_a_body_have_none() {
    // Scenario 33, and 204 and 304 beside it.
    let cases = [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
            Some("10"),
            None,
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            None,
            Some("chunked"),
        ),
        (
            "HEAD",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            Some("0"),
            None,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None, None),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nETag: \"1\"\r\n\r\n",
            Some("10"),
            None,
        ),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n", None, None),
    ];
    let (world, dyno, mut client) = shop_with_dyno().await;
    let mut conn: Option<DynoConn> = None;
    for (method, answer, length, encoding) in cases {
        client
            .send(format!("{method} / HTTP/1.1\r\nHost: shop.test\r\n\r\n"))
            .await;
        let mut kept = match conn.take() {
            Some(kept) => kept,
            None => dyno.accept().await,
        };
        assert_eq!(kept.answer(answer).await.method(), method);
        conn = Some(kept);
        let response = client.read_response_to_head().await;
        assert!(response.open, "{answer}");
        assert_eq!(response.header("content-length"), length, "{answer}");
        assert_eq!(response.header("transfer-encoding"), encoding, "{answer}");
        let record = world.log.next().await;
        assert_served(&record, "web.1", response.status);
        assert_eq!(record.bytes(), 0);
    }
    client.assert_open();
    world.finish().await;
}

#[tokio::test]
async fn a_body_sent_after_a_head_response_never_reaches_the_client() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client
        .send("HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        .await;
    let (mut conn, _) = dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        .await;
    assert_eq!(
        client
            .read_response_to_head()
            .await
            .header("content-length"),
        Some("5")
    );
    assert_served(&world.log.next().await, "web.1", 200);
    // Those bytes are not the start of another response: the connection that has them is not used again.
    client.send(get("/next")).await;
    let (_fresh, head) = dyno.accept_and_answer(ok("next")).await;
    assert_eq!(head.target(), "/next");
    assert_eq!(client.read_response().await.text(), "next");
    assert_served(&world.log.next().await, "web.1", 200);
    conn.read_until_end().await;
    world.finish().await;
}

#[tokio::test]
async fn any_three_digit_status_and_any_reason_pass() {
    // Scenario 21, and scenario 42 for the 503.
    let cases = [
        ("HTTP/1.1 200", "HTTP/1.1 200", 200),
        ("HTTP/1.1 200 ", "HTTP/1.1 200", 200),
        (
            "HTTP/1.1 666 Number of the beast",
            "HTTP/1.1 666 Number of the beast",
            666,
        ),
        ("HTTP/1.0 299 ok, sort of", "HTTP/1.1 299 ok, sort of", 299),
        ("HTTP/1.1 503 Our Own", "HTTP/1.1 503 Our Own", 503),
        ("HTTP/1.1 404 ", "HTTP/1.1 404", 404),
        ("HTTP/1.1 999 x", "HTTP/1.1 999 x", 999),
    ];
    let (world, dyno, mut client) = shop_with_dyno().await;
    for (sent, expected, status) in cases {
        client.send(get("/")).await;
        let answer = format!("{sent}\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody");
        let (_conn, _) = dyno.accept_and_answer(answer).await;
        let response = client.read_response().await;
        assert_eq!(response.status_line.trim_end(), expected);
        assert_eq!(response.text(), "body");
        assert_served(&world.log.next().await, "web.1", status);
    }
    world.finish().await;
}

#[tokio::test]
async fn an_apps_own_503_is_left_alone_even_with_an_error_page() {
    // Scenario 42.
    let world = World::start();
    let dyno = FakeDyno::start().await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("error_page_url", "//cdn.test/error.html")]);
    let mut client = world.client().await;
    client.send(get("/")).await;
    let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nour own!";
    let (_conn, _) = dyno.accept_and_answer(answer).await;
    let response = client.read_response().await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (503, "our own!")
    );
    assert_eq!(response.header("content-type"), Some("text/plain"));
    let record = world.log.next().await;
    assert_served(&record, "web.1", 503);
    assert_eq!(record.bytes(), 8);
    world.finish().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client
        .send([get("/1"), post("/2", "two"), get("/3")].concat())
        .await;
    let (mut conn, first) = dyno.accept_and_answer(ok("1")).await;
    assert_eq!(first.target(), "/1");
    assert_eq!(conn.read_head().await.target(), "/2");
    assert_eq!(conn.read_exact(3).await, b"two");
    conn.write(ok("2")).await;
    assert_eq!(conn.answer(ok("3")).await.target(), "/3");
    for number in ["1", "2", "3"] {
        assert_eq!(client.read_response().await.text(), number);
        let record = world.log.next().await;
        assert_served(&record, "web.1", 200);
        assert_eq!(record.path(), format!("/{number}"));
    }
    world.finish().await;
}

#[tokio::test]
async fn a_second_request_is_not_sent_before_the_first_is_answered() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send([get("/1"), get("/2")].concat()).await;
    let mut conn = dyno.accept().await;
    assert_eq!(conn.read_head().await.target(), "/1");
    conn.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n1")
        .await;
    assert!(client.read_head().await.start_line().ends_with("200 OK"));
    assert_eq!(client.read_exact(1).await, b"1");
    conn.assert_open();
    conn.write("1").await;
    assert_eq!(client.read_exact(1).await, b"1");
    assert_eq!(conn.answer(ok("2")).await.target(), "/2");
    assert_eq!(client.read_response().await.text(), "2");
    for _ in 0..2 {
        assert_served(&world.log.next().await, "web.1", 200);
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn an_early_response_reaches_a_client_that_is_still_uploading() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(post_head("/", 50_000_000)).await;
    client.send(pattern(100_000)).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.read_some().await;
    conn.write("HTTP/1.1 413 Too Much\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much")
        .await;
    conn.half_close().await;
    // The client does not look up from its upload for a while; closing on it would throw the response away.
    for _ in 0..5 {
        client.try_send(pattern(100_000)).await;
    }
    let response = client.read_response().await;
    assert_eq!(
        (response.status, response.text().as_str()),
        (413, "too much")
    );
    assert!(
        !response.open,
        "the rest of the upload would be read as a request"
    );
    assert_served(&world.log.next().await, "web.1", 413);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn an_early_response_to_a_chunked_upload_reaches_the_client_too() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(post_chunked_head("/") + "3\r\nabc\r\n").await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.read_exact(8).await;
    conn.write("HTTP/1.1 401 Who\r\nContent-Length: 3\r\n\r\nwho")
        .await;
    let response = client.read_response().await;
    assert_eq!(
        (response.status, response.text().as_str(), response.open),
        (401, "who", false)
    );
    assert_served(&world.log.next().await, "web.1", 401);
    // The dyno still waits for the rest of a body that will not come: that connection cannot be kept.
    conn.read_until_end().await;
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_can_finish_a_megabyte_without_its_slow_client() {
    // Scenario 43.
    let (world, dyno, _) = shop_with_dyno().await;
    let mut client = RawClient::connect_with_small_window(world.address(), 4096).await;
    let body = pattern(1024 * 1024);
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ))
    .await;
    conn.write(&body).await;
    conn.close().await;
    // The dyno is gone and the client has not read a byte; all of it is the router's to deliver.
    drop(dyno);
    let response = client.read_response().await;
    assert!(
        response.body == body,
        "{} of {} bytes",
        response.body.len(),
        body.len()
    );
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.bytes(), body.len() as u64);
    world.finish().await;
}

#[tokio::test]
async fn a_larger_response_flows_at_the_clients_pace() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    const LENGTH: usize = 32 * 1024 * 1024;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
    ))
    .await;
    let writing = tokio::spawn(async move { conn.try_write(vec![b'x'; LENGTH]).await });
    assert!(client.read_head().await.start_line().ends_with("200 OK"));
    // Nobody signals that nothing moves any more; this can only be looked at after a while.
    tokio::time::sleep(ms(300)).await;
    assert!(
        !writing.is_finished(),
        "32 MB were taken from the dyno while the client read nothing"
    );
    let mut left = LENGTH;
    while left > 0 {
        let piece = left.min(1024 * 1024);
        client.read_exact(piece).await;
        left -= piece;
    }
    assert!(writing.await.unwrap());
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert_eq!(record.bytes(), LENGTH as u64);
    world.finish().await;
}

#[tokio::test]
async fn an_upload_flows_at_the_dynos_pace() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    const LENGTH: usize = 32 * 1024 * 1024;
    client.send(post_head("/", LENGTH)).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let writing = tokio::spawn(async move {
        let sent = client.try_send(vec![b'x'; LENGTH]).await;
        (client, sent)
    });
    tokio::time::sleep(ms(300)).await;
    assert!(
        !writing.is_finished(),
        "32 MB were taken from the client while the dyno read nothing"
    );
    let mut left = LENGTH;
    while left > 0 {
        let piece = left.min(1024 * 1024);
        conn.read_exact(piece).await;
        left -= piece;
    }
    let (mut client, sent) = writing.await.unwrap();
    assert!(sent);
    conn.write(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_truncated_chunked_response_is_seen_as_truncated() {
    // Scenario 20, for chunked bodies.
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    let (conn, _) = dyno.accept_and_answer(answer).await;
    conn.close().await;
    let response = client.read_broken_response().await;
    assert_eq!((response.status, response.open), (200, false));
    assert_failed_at(&world.log.next().await, "web.1", "H18", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_bad_chunk_from_a_dyno_cuts_the_response() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    assert!(client.read_head().await.has("transfer-encoding"));
    assert_eq!(client.read_exact(8).await, b"3\r\nabc\r\n");
    conn.write("nonsense\r\n").await;
    let (rest, _) = client.read_raw_until_close().await;
    assert!(rest.is_empty(), "{rest:?}");
    assert_failed_at(&world.log.next().await, "web.1", "H18", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_half_closes_after_its_request_still_gets_a_quick_answer() {
    // As `nc` and many scripts do it.
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    client.half_close().await;
    let (_conn, _) = dyno.accept_and_answer(ok("quick")).await;
    assert_eq!(client.read_response().await.text(), "quick");
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_half_closed_and_gets_no_answer_is_a_client_that_left() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    client.half_close().await;
    conn.read_until_end().await;
    assert_failed_at(&world.log.next().await, "web.1", "H27", 499);
    world.finish().await;
}

#[tokio::test]
async fn many_exchanges_on_one_connection_all_match() {
    let world = World::start();
    let dyno = FakeDyno::respond_with_body(|head, body| {
        let text = format!("{} {}", head.target(), String::from_utf8_lossy(body));
        if head.target().ends_with('7') {
            return format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
                text.len()
            )
            .into_bytes();
        }
        ok(&text).into_bytes()
    })
    .await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    for number in 0..100 {
        let request = if number % 3 == 0 {
            get(&format!("/{number}"))
        } else {
            post(&format!("/{number}"), "b")
        };
        let body = if number % 3 == 0 { "" } else { "b" };
        assert_eq!(
            client.exchange(request).await.text(),
            format!("/{number} {body}")
        );
        let record = world.log.next().await;
        assert_served(&record, "web.1", 200);
        assert_eq!(record.path(), format!("/{number}"));
    }
    assert_eq!(dyno.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn in_flight_counts_come_back_to_zero_after_every_kind_of_end() {
    let (world, dyno, client) = shop_with_dyno().await;
    drop(client);
    for end in ["served", "client gone", "dyno gone"] {
        let mut client = world.client().await;
        client.send(last_get("/")).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        assert_eq!(world.router.stats().requests_in_flight, 1, "{end}");
        match end {
            "served" => {
                conn.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    .await
            }
            "client gone" => client.reset(),
            _ => conn.reset(),
        }
        world.log.next().await;
        eventually("nothing in flight", || {
            (world.router.stats().requests_in_flight == 0).then_some(())
        })
        .await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_dyno_that_resets_halfway_is_seen_as_truncation() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    client.read_head().await;
    assert_eq!(client.read_exact(4).await, b"half");
    conn.reset();
    let (rest, ending) = client.read_raw_until_close().await;
    assert!(rest.is_empty() && matches!(ending, Ending::Closed | Ending::Reset));
    assert_failed_at(&world.log.next().await, "web.1", "H18", 200);
    world.finish().await;
}

/// A pace that no timer of these tests' routers notices.
const UNHURRIED: Duration = ms(20);

#[tokio::test]
async fn a_head_that_comes_in_pieces_is_read_whole_before_a_dyno_is_contacted() {
    let (world, dyno, mut client) = shop_with_dyno().await;
    let request = get("/slow");
    let (start, end) = request.split_at(request.len() - 2);
    let pieces: Vec<&[u8]> = start.as_bytes().chunks(9).collect();
    client.send_paced(&pieces, UNHURRIED).await;
    assert_eq!(world.seen.connect_attempts(), 0);
    client.send(end).await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(head.target(), "/slow");
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}
