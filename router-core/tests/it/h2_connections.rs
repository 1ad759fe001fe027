//! The life of an HTTP/2 connection: what is announced, how many streams it may have, its timers, and its end, by GOAWAY
//! of either side or by the drain of the router.

use std::time::{Duration, Instant};

use router_testkit::{Ending, FakeDyno, H2Frame, RawClient, RawH2, eventually};

use crate::world::{
    World, assert_failed_at, assert_served, assert_served_tls, h2_fields, h2_request, h2_shop,
    h2_shop_with, ms, ok, raw_h2_shop, raw_h2_shop_with,
};

/// A window that no test waits out.
const LONG: Duration = Duration::from_secs(60);

/// Ends the world whose drain was begun by hand.
async fn drained_at_once(world: &mut World) {
    let report = tokio::time::timeout(Duration::from_secs(9), world.drain(LONG)).await;
    assert_eq!(report.expect("nothing to wait for").cut, 0);
}

/// The code of the last GOAWAY among these frames.
fn go_away_code(frames: &[H2Frame]) -> Option<u32> {
    let code = |frame: &H2Frame| match frame {
        H2Frame::GoAway { code, .. } => Some(*code),
        _ => None,
    };
    frames.iter().rev().find_map(code)
}

#[tokio::test]
async fn every_limit_is_announced() {
    let (world, _dyno, mut client) = raw_h2_shop().await;
    for (identifier, value) in [
        (0x3, 128),     // MAX_CONCURRENT_STREAMS
        (0x4, 262_144), // INITIAL_WINDOW_SIZE
        (0x6, 65_536),  // MAX_HEADER_LIST_SIZE
        (0x8, 1),       // ENABLE_CONNECT_PROTOCOL
    ] {
        assert_eq!(client.setting(identifier), Some(value), "{identifier:#x}");
    }
    let by = client
        .find("WINDOW_UPDATE", |frame| match frame {
            H2Frame::WindowUpdate { stream: 0, by } => Some(*by),
            _ => None,
        })
        .await;
    assert_eq!(by + 65_535, 1_048_576, "the connection's window");
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_stream_too_many_is_refused_so_that_the_client_may_try_again() {
    let (world, dyno, mut client) = raw_h2_shop_with(|setup| setup.limits.http2.streams = 3).await;
    let mut conns = Vec::new();
    for stream in [1, 3, 5] {
        client.headers(stream, &h2_fields("GET", "/"), true).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        conns.push(conn);
    }
    client.headers(7, &h2_fields("GET", "/"), true).await;
    assert_eq!(client.expect_reset(7).await, 7, "REFUSED_STREAM");
    for (conn, stream) in conns.iter_mut().zip([1, 3, 5]) {
        conn.write(ok("x")).await;
        assert_eq!(client.response(stream).await.whole().status, 200);
        assert_served(&world.log.next().await, "web.1", 200);
    }
    client.headers(9, &h2_fields("GET", "/"), true).await;
    let mut answered = None;
    for conn in &mut conns {
        // Which of the kept connections carries it is the router's choice.
        if let Ok(head) = tokio::time::timeout(ms(300), conn.read_head()).await {
            conn.write(ok("y")).await;
            answered = Some(head);
            break;
        }
    }
    assert!(
        answered.is_some(),
        "the stream that was refused left room for another"
    );
    assert_eq!(client.response(9).await.whole().text(), "y");
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_with_a_go_away_before_and_after_a_request() {
    for used in [false, true] {
        let (world, dyno, mut client) =
            raw_h2_shop_with(|setup| setup.timeouts.client_idle = ms(300)).await;
        let mut start = Instant::now();
        if used {
            client.headers(1, &h2_fields("GET", "/"), true).await;
            let mut conn = dyno.accept().await;
            conn.read_head().await;
            // A stream that is open keeps the connection, for as long as it takes.
            conn.write_paced(&[ok("x").as_bytes()], ms(700)).await;
            assert_eq!(client.response(1).await.whole().status, 200);
            start = Instant::now();
            assert_served(&world.log.next().await, "web.1", 200);
        }
        let (frames, ending) = client.read_until_end().await;
        assert_eq!(go_away_code(&frames), Some(0), "{frames:?}");
        assert_eq!(ending, Ending::Closed);
        assert!(
            start.elapsed() >= ms(250),
            "closed after {:?}",
            start.elapsed()
        );
        eventually("gone", || {
            (world.router.stats().client_connections == 0).then_some(())
        })
        .await;
        world.finish().await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_even_if_its_client_answers_nothing() {
    let (world, _dyno, mut client) =
        raw_h2_shop_with(|setup| setup.timeouts.client_idle = ms(300)).await;
    client.answer_nothing();
    let (frames, _) = client.read_until_end().await;
    assert_eq!(go_away_code(&frames), Some(0), "{frames:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_never_begins_is_closed() {
    let world = World::with(|setup| {
        setup.https();
        setup.http2_prior_knowledge = true;
        setup.timeouts.client_header = ms(300);
        setup.timeouts.client_idle = ms(300);
    });
    let dialer = world.dialer("shop.test").alpn(&["h2"]);
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for sent in ["", &preface[..10], preface] {
        let mut client = RawClient::connect_tls(world.https_address(), &dialer).await;
        client.send(sent).await;
        client.read_raw_until_close().await;
        let mut client = world.client().await;
        client.send(sent).await;
        client.read_raw_until_close().await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_header_block_that_never_ends_is_closed() {
    let (world, dyno, mut client) = raw_h2_shop_with(|setup| {
        setup.timeouts.client_header = ms(300);
        setup.timeouts.client_idle = ms(300);
    })
    .await;
    let block = router_testkit::h2_frame::block(&h2_fields("GET", "/"));
    client
        .send_frame(router_testkit::h2_frame::HEADERS, 0, 1, &block)
        .await;
    client.read_until_end().await;
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_drain_ends_idle_connections_at_once_even_of_clients_that_answer_nothing() {
    let (mut world, dyno, mut used) = raw_h2_shop().await;
    used.headers(1, &h2_fields("GET", "/"), true).await;
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(used.response(1).await.whole().status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    let mut silent = world.raw_h2().await;
    silent.answer_nothing();
    eventually("both are connected", || {
        (world.router.stats().client_connections == 2).then_some(())
    })
    .await;
    drained_at_once(&mut world).await;
    for client in [&mut used, &mut silent] {
        let (frames, ending) = client.read_until_end().await;
        assert_eq!((go_away_code(&frames), ending), (Some(0), Ending::Closed));
    }
    world.finish().await;
}

#[tokio::test]
async fn streams_that_do_not_finish_in_the_window_are_cut() {
    let (mut world, dyno, mut client) = raw_h2_shop().await;
    client.headers(1, &h2_fields("GET", "/silent"), true).await;
    client
        .headers(3, &h2_fields("POST", "/upload"), false)
        .await;
    let mut conns = [dyno.accept().await, dyno.accept().await];
    for conn in &mut conns {
        conn.read_head().await;
    }
    let report = world.drain(ms(250)).await;
    assert_eq!((report.finished, report.cut), (0, 2));
    client.read_until_end().await;
    let mut paths = Vec::new();
    for conn in &mut conns {
        conn.read_until_end().await;
        let record = world.log.next().await;
        assert_eq!(
            (record.code(), record.status(), record.dyno()),
            (Some("H24"), None, Some("web.1"))
        );
        paths.push(record.path().to_owned());
    }
    paths.sort();
    assert_eq!(paths, ["/silent", "/upload"]);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_order_gets_its_running_streams() {
    let (world, dyno, mut client) = raw_h2_shop().await;
    client.headers(1, &h2_fields("GET", "/"), true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    client.go_away(0, 0).await;
    client.round_trip().await;
    conn.write(ok("finished")).await;
    assert_eq!(client.response(1).await.whole().text(), "finished");
    assert_served(&world.log.next().await, "web.1", 200);
    client.half_close().await;
    assert_eq!(client.read_until_end().await.1, Ending::Closed);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_idle() {
    // The window of its streams, or of the connection, is used up and stays so.
    for of_connection in [false, true] {
        let world = World::with(|setup| {
            setup.http2_prior_knowledge = true;
            setup.timeouts.idle = ms(300);
        });
        let dyno = FakeDyno::start().await;
        world.apply(&[crate::world::shop().web(1, dyno.address())]);
        let window = if of_connection { 10_000_000 } else { 10 };
        let mut client = RawH2::connect_with(world.address(), &[(0x4, window)]).await;
        let start = Instant::now();
        client.headers(1, &h2_fields("GET", "/"), true).await;
        let (mut conn, _) = dyno
            .accept_and_answer(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}",
                "x".repeat(100_000)
            ))
            .await;
        let code = client.expect_reset(1).await;
        assert!(![0, 7].contains(&code), "{code}");
        assert!(
            start.elapsed() >= ms(300),
            "gave up after {:?}",
            start.elapsed()
        );
        let record = world.log.next().await;
        assert_failed_at(&record, "web.1", "H28", 200);
        let taken = if of_connection { 65_535 } else { 10 };
        assert_eq!((record.at(), record.bytes()), ("warning", taken));
        // The connection is still good, and the dyno's was not kept with bytes in it.
        client.window_update(0, 100_000).await;
        conn.read_until_end().await;
        client.headers(3, &h2_fields("HEAD", "/"), true).await;
        let (_conn, _) = dyno.accept_and_answer(ok("")).await;
        assert_eq!(client.response(3).await.whole().status, 200);
        assert_served(&world.log.next().await, "web.1", 200);
        drop(client);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_client_that_steadily_takes_little_is_not_idle() {
    let world = World::with(|setup| {
        setup.http2_prior_knowledge = true;
        setup.timeouts.idle = ms(1500);
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[crate::world::shop().web(1, dyno.address())]);
    let mut client = RawH2::connect_with(world.address(), &[(0x4, 1)]).await;
    client.headers(1, &h2_fields("GET", "/"), true).await;
    let (_conn, _) = dyno.accept_and_answer(ok("0123456789")).await;
    for _ in 0..9 {
        tokio::time::sleep(ms(250)).await;
        client.window_update(1, 1).await;
    }
    assert_eq!(client.response(1).await.whole().text(), "0123456789");
    let record = world.log.next().await;
    assert_served(&record, "web.1", 200);
    assert!(record.service_ms() >= Some(2000), "{record:?}");
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_stalls_its_upload_is_idle_and_loses_that_stream_only() {
    let (world, dyno, mut client) = h2_shop_with(|setup| {
        setup.timeouts.idle = ms(300);
        setup.timeouts.first_byte = LONG;
    })
    .await;
    let mut stalled = client.open(h2_request("POST", "/stalled"), false).await;
    stalled.send("half", false).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.read_some().await;
    let start = Instant::now();
    let response = stalled.response().await;
    assert_eq!(response.status, 0, "499 is for the log only");
    assert!(
        response
            .reset
            .is_some_and(|code| ![0, 7, u32::MAX].contains(&code))
    );
    assert!(
        start.elapsed() >= ms(250),
        "gave up after {:?}",
        start.elapsed()
    );
    conn.read_until_end().await;
    assert_failed_at(&world.log.next().await, "web.1", "H28", 499);

    // Slow but steady is not idle.
    let mut slow = client.open(h2_request("POST", "/slow"), false).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    for _ in 0..6 {
        tokio::time::sleep(ms(100)).await;
        slow.send(".", false).await;
    }
    slow.send("", true).await;
    assert_eq!(conn.read_chunked_raw().await.body(), b"......");
    conn.write(ok("x")).await;
    assert_eq!(slow.response().await.whole().status, 200);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn an_app_whose_routes_change_keeps_serving_the_same_connection() {
    let (world, dyno, mut client) = h2_shop().await;
    let stream = client.open(h2_request("GET", "/"), true).await;
    let (_old, _) = dyno.accept_and_answer(ok("old")).await;
    assert_eq!(stream.response().await.whole().text(), "old");
    assert_served_tls(&world.log.next().await, "web.1", 200);
    let next = FakeDyno::start().await;
    world.apply(&[crate::world::shop().web(2, next.address())]);
    let stream = client.open(h2_request("GET", "/"), true).await;
    let (_new, _) = next.accept_and_answer(ok("new")).await;
    assert_eq!(stream.response().await.whole().text(), "new");
    assert_served_tls(&world.log.next().await, "web.2", 200);
    world.finish().await;
}

#[tokio::test]
async fn in_a_drain_running_streams_finish_and_new_ones_go_elsewhere() {
    let (mut world, dyno, mut client) = raw_h2_shop().await;
    client.headers(1, &h2_fields("GET", "/running"), true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let draining = tokio::spawn(world.take_server().drain(LONG));
    // The first GOAWAY leaves room for streams that are under way; the last one says which were taken.
    let mut last = client.expect_go_away().await;
    while last.0 != 1 {
        assert_eq!(last.1, 0, "NO_ERROR");
        last = client.expect_go_away().await;
    }
    assert!(!draining.is_finished(), "a stream is still running");
    client.headers(3, &h2_fields("GET", "/late"), true).await;
    conn.write(ok("finished")).await;
    assert_eq!(client.response(1).await.whole().text(), "finished");
    let (frames, ending) = client.read_until_end().await;
    assert_eq!(ending, Ending::Closed);
    let served = |frame: &H2Frame| matches!(frame, H2Frame::Headers { stream: 3, .. });
    assert!(!frames.iter().any(served), "{frames:?}");
    let report = draining.await.unwrap();
    assert_eq!((report.finished, report.cut), (1, 0));
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_well_behaved_client_is_told_of_the_drain_and_loses_nothing() {
    let (mut world, dyno, mut client) = h2_shop().await;
    let mut running = client.open(h2_request("POST", "/running"), false).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let draining = tokio::spawn(world.take_server().drain(LONG));
    // Opening streams fails once the client has understood.
    let deadline = Instant::now() + Duration::from_secs(9);
    while let Ok(mut late) = client.try_open(h2_request("GET", "/late"), true).await {
        // One that was sent before is served.
        let (mut conn, _) = dyno.accept_and_answer(ok("late")).await;
        assert_eq!(late.head().await.status, 200);
        assert_served_tls(&world.log.next().await, "web.1", 200);
        drop(late);
        conn.expect_end().await;
        assert!(Instant::now() < deadline, "the client is never told");
    }
    running.send("rest", true).await;
    conn.read_chunked_raw().await;
    conn.write(ok("finished")).await;
    assert_eq!(running.response().await.whole().text(), "finished");
    // In order, unless what the client still had to say (an answer to a PING) crossed the end.
    let ended = client.ended_by_router().await;
    assert!(
        ended.as_ref().map_or_else(h2::Error::is_io, |()| true),
        "{ended:?}"
    );
    assert_eq!(draining.await.unwrap().cut, 0);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    world.finish().await;
}
