//! The end of a router: idle connections go at once, running exchanges finish within the window, the rest is cut.

use std::time::{Duration, Instant};

use router_testkit::{Ending, FakeDyno, eventually};
use tokio::net::TcpStream;

use crate::world::{World, assert_served, get, last_get, ms, ok, post_head, shop, shop_with_dyno};

/// A window that no test waits out.
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn idle_connections_end_at_once_and_never_delay_the_exit() {
    let (mut world, dyno, mut used) = shop_with_dyno().await;
    used.send(get("/")).await;
    let (mut conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(used.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    // An empty line is no request (RFC 9112 §2.2).
    used.send("\r\n").await;
    let mut fresh = world.client().await;
    eventually("both are connected", || {
        (world.router.stats().client_connections == 2).then_some(())
    })
    .await;

    let report = tokio::time::timeout(Duration::from_secs(9), world.drain(LONG))
        .await
        .expect("nothing to wait for");
    assert_eq!(report.cut, 0);
    assert_eq!(used.expect_end().await, Ending::Closed);
    assert_eq!(fresh.expect_end().await, Ending::Closed);
    assert_eq!(
        conn.expect_end().await,
        Ending::Closed,
        "kept dyno connections end too"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_running_exchange_finishes_and_the_connection_ends_after_it() {
    let (mut world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/running")).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    let address = world.address();
    let draining = tokio::spawn(world.take_server().drain(LONG));
    eventually("no more connections are accepted", {
        let refused = || std::net::TcpStream::connect(address).is_err();
        move || refused().then_some(())
    })
    .await;
    assert!(!draining.is_finished(), "an exchange is still running");
    conn.write(ok("finished")).await;
    let response = client.read_response().await;
    assert_eq!(
        (response.text().as_str(), response.open),
        ("finished", false)
    );
    assert_eq!(response.header("connection"), Some("close"));
    let report = draining.await.unwrap();
    assert_eq!((report.finished, report.cut), (1, 0));
    assert_served(&world.log.next().await, "web.1", 200);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_was_answered_for_the_last_time_does_not_delay_the_exit() {
    let (mut world, dyno, mut client) = shop_with_dyno().await;
    client.send(last_get("/")).await;
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    // The client keeps its own half open; the router owes it nothing any more.
    let drained = tokio::time::timeout(ms(4000), world.drain(LONG)).await;
    assert_eq!(drained.expect("nothing to wait for").cut, 0);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn what_does_not_finish_in_the_window_is_cut() {
    let (mut world, dyno, mut client) = shop_with_dyno().await;
    let mut uploading = world.client().await;
    client.send(get("/silent")).await;
    let mut silent = dyno.accept().await;
    silent.read_head().await;
    uploading.send(post_head("/upload", 10) + "half.").await;
    let mut upload = dyno.accept().await;
    upload.read_head().await;
    upload.read_exact(5).await;

    let start = Instant::now();
    let report = world.drain(ms(250)).await;
    assert!(
        start.elapsed() >= ms(250),
        "cut after {:?}",
        start.elapsed()
    );
    assert_eq!((report.finished, report.cut), (0, 2));
    for client in [&mut client, &mut uploading] {
        client.expect_end().await;
    }
    silent.expect_end().await;
    upload.read_until_end().await;
    let mut paths = Vec::new();
    for _ in 0..2 {
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
async fn a_response_that_ends_with_the_connection_is_visibly_cut() {
    let (mut world, dyno, mut client) = shop_with_dyno().await;
    client.send(get("/")).await;
    let (_conn, _) = dyno
        .accept_and_answer("HTTP/1.1 200 OK\r\n\r\npart of it")
        .await;
    client.read_head().await;
    assert_eq!(client.read_exact(10).await, b"part of it");
    assert_eq!(world.drain(ms(100)).await.cut, 1);
    assert_eq!(client.expect_end().await, Ending::Reset);
    assert_eq!(world.log.next().await.code(), Some("H24"));
    world.finish().await;
}

#[tokio::test]
async fn a_tunnel_is_cut_at_the_end_of_the_window_and_one_that_ends_before_is_not() {
    let (mut world, dyno, mut client) = shop_with_dyno().await;
    let upgrade =
        "GET /tunnel HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";
    let mut leaving = world.client().await;
    client.send(upgrade).await;
    let (mut staying_conn, _) = dyno.accept_and_answer(switching).await;
    assert_eq!(client.read_response().await.status, 101);
    leaving.send(upgrade).await;
    let (mut leaving_conn, _) = dyno.accept_and_answer(switching).await;
    assert_eq!(leaving.read_response().await.status, 101);

    let draining = tokio::spawn(world.take_server().drain(ms(1500)));
    client.send("still here").await;
    assert_eq!(staying_conn.read_exact(10).await, b"still here");
    leaving.close().await;
    leaving_conn.expect_end().await;
    assert_served(&world.log.next().await, "web.1", 101);
    let report = draining.await.unwrap();
    assert_eq!(report.cut, 1);
    client.expect_end().await;
    staying_conn.expect_end().await;
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.status(), record.path()),
        (Some("H24"), None, "/tunnel")
    );
    world.finish().await;
}

#[tokio::test]
async fn a_request_held_for_a_starting_dyno_is_finished_or_cut_like_any_other() {
    let mut world = World::start();
    world.apply(&[shop().homeless_dyno("web.1", "starting")]);
    let mut client = world.client().await;
    client.send(get("/held")).await;
    eventually("the request waits", || {
        (world.router.stats().requests_in_flight == 1).then_some(())
    })
    .await;
    let report = world.drain(ms(200)).await;
    assert_eq!(report.cut, 1);
    client.expect_end().await;
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.status(), record.dyno()),
        (Some("H24"), None, None)
    );
    world.finish().await;
}

#[tokio::test]
async fn a_half_sent_head_does_not_delay_the_exit() {
    let (mut world, _dyno, mut client) = shop_with_dyno().await;
    client.send("GET / HTTP/1.1\r\nHost: sh").await;
    eventually("connected", || {
        (world.router.stats().client_connections == 1).then_some(())
    })
    .await;
    let report = tokio::time::timeout(Duration::from_secs(9), world.drain(LONG))
        .await
        .expect("a moment, not the window");
    assert_eq!(report.cut, 0);
    client.read_raw_until_close().await;
    world.finish().await;
}

#[tokio::test]
async fn after_the_drain_nothing_listens() {
    let (mut world, _dyno, client) = shop_with_dyno().await;
    world.drain(LONG).await;
    drop(client);
    assert!(TcpStream::connect(world.address()).await.is_err());
    assert_eq!(world.router.stats().client_connections, 0);
    world.finish().await;
}

#[tokio::test]
async fn several_workers_drain_together() {
    let mut world = World::with(|setup| setup.workers = Some(3));
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut running = Vec::new();
    for _ in 0..12 {
        let mut client = world.client().await;
        client.send(get("/")).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        running.push((client, conn));
    }
    let draining = tokio::spawn(world.take_server().drain(LONG));
    for (client, conn) in &mut running {
        conn.write(ok("x")).await;
        assert_eq!(client.read_response().await.status, 200);
        assert_served(&world.log.next().await, "web.1", 200);
    }
    let report = draining.await.unwrap();
    assert_eq!(report.cut, 0);
    world.finish().await;
}
