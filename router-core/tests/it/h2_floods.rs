//! Clients of HTTP/2 that send too much of what costs them nothing: each budget ends the connection that overdraws it, and
//! nothing else suffers meanwhile.

use std::cell::Cell;

use router_testkit::h2_frame::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use router_testkit::{FakeDyno, H2Frame, RawClient, RawH2, ServingDyno, eventually};

use crate::world::{World, assert_served, get, h2_fields, ms, ok, shop};

/// A small budget of each kind, so that a test need not send much.
const BUDGET: u32 = 20;

/// A router with small budgets before a dyno that answers, with a client of each kind.
async fn flooded() -> (World, ServingDyno, RawH2, RawClient) {
    let world = World::with(|setup| {
        setup.http2_prior_knowledge = true;
        let limits = &mut setup.limits.http2;
        limits.resets = BUDGET;
        limits.pings = BUDGET;
        limits.settings = BUDGET;
        limits.empty_frames = BUDGET;
    });
    let dyno = FakeDyno::respond_with(|_| ok("x").into_bytes()).await;
    world.apply(&[shop().web(1, dyno.address())]);
    let flood = world.raw_h2().await;
    let other = world.client().await;
    (world, dyno, flood, other)
}

/// Sends the same frames again and again until the router has had enough; how many of its requests were logged. Another
/// client is served all the while, and after it.
async fn flood(
    what: &str,
    mut client: RawH2,
    mut other: RawClient,
    world: &World,
    frames: impl Fn(u32) -> Vec<u8>,
) -> usize {
    const ENOUGH: u32 = 20_000;
    const AT_ONCE: u32 = 50;
    let (over, logged) = (Cell::new(false), Cell::new(0));
    let flooding = async {
        let (mut sent, mut taken) = (0, true);
        while taken && sent < ENOUGH {
            let burst: Vec<u8> = (sent..sent + AT_ONCE).flat_map(&frames).collect();
            taken = client.try_send(burst).await;
            sent += AT_ONCE;
        }
        let (frames, _) = client.read_until_end().await;
        over.set(true);
        frames
    };
    let serving = async {
        while !over.get() {
            assert_eq!(other.exchange(get("/during")).await.status, 200, "{what}");
            line_of(world, "/during", &logged).await;
        }
    };
    let (frames, ()) = tokio::join!(flooding, serving);
    let code = frames.iter().rev().find_map(|frame| match frame {
        H2Frame::GoAway { code, .. } => Some(*code),
        _ => None,
    });
    // A GOAWAY may be lost when the connection ends over unread bytes, but one that came names the fault.
    assert_ne!(code, Some(0), "{what}");
    assert_eq!(other.exchange(get("/after")).await.status, 200, "{what}");
    line_of(world, "/after", &logged).await;
    eventually("the flood's connection is gone", || {
        let stats = world.router.stats();
        (stats.client_connections == 1 && stats.requests_in_flight == 0).then_some(())
    })
    .await;
    drop(other);
    for line in world.log.take_lines() {
        assert!(line.contains("path=\"/flood\""), "{what}: {line}");
        logged.set(logged.get() + 1);
    }
    logged.get()
}

/// Waits for the line of that request; those of the flood are counted.
async fn line_of(world: &World, path: &str, of_flood: &Cell<usize>) {
    loop {
        let record = world.log.next().await;
        if record.path() == path {
            return assert_served(&record, "web.1", 200);
        }
        assert_eq!(record.path(), "/flood");
        of_flood.set(of_flood.get() + 1);
    }
}

#[tokio::test]
async fn streams_opened_and_reset_end_the_connection() {
    // CVE-2023-44487, "rapid reset".
    let (world, dyno, client, other) = flooded().await;
    let block = h2_frame::block(&h2_fields("GET", "/flood"));
    let logged = flood("rapid reset", client, other, &world, |number| {
        let stream = 2 * number + 1;
        let mut frames = h2_frame::bytes(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        frames.extend(h2_frame::bytes(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        frames
    })
    .await;
    // What had become a request was logged; of the thousands that were sent most never did.
    assert!(logged < 1000, "{logged} requests");
    assert!(
        dyno.requests() < 1000,
        "{} requests reached the dyno",
        dyno.requests()
    );
    world.finish().await;
}

#[tokio::test]
async fn streams_that_the_router_must_reset_end_the_connection_too() {
    // CVE-2025-8671, "made you reset": the client breaks a rule on each stream, so that the router does the resetting.
    let (world, dyno, client, other) = flooded().await;
    let block = h2_frame::block(&h2_fields("POST", "/flood"));
    let logged = flood("made you reset", client, other, &world, |number| {
        let stream = 2 * number + 1;
        let mut frames = h2_frame::bytes(HEADERS, END_HEADERS, stream, &block);
        frames.extend(h2_frame::bytes(WINDOW_UPDATE, 0, stream, &[0; 4]));
        frames
    })
    .await;
    assert!(logged < 1000, "{logged} requests");
    assert!(
        dyno.requests() < 1000,
        "{} requests reached the dyno",
        dyno.requests()
    );
    world.finish().await;
}

#[tokio::test]
async fn pings_end_the_connection() {
    let (world, _dyno, client, other) = flooded().await;
    flood("PING", client, other, &world, |number| {
        h2_frame::bytes(PING, 0, 0, &u64::from(number).to_be_bytes())
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn settings_end_the_connection() {
    let (world, _dyno, client, other) = flooded().await;
    flood("SETTINGS", client, other, &world, |_| {
        h2_frame::bytes(SETTINGS, 0, 0, &[])
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn acknowledgements_of_nothing_end_the_connection() {
    let (world, _dyno, client, other) = flooded().await;
    flood("SETTINGS ACK", client, other, &world, |_| {
        h2_frame::bytes(SETTINGS, ACK, 0, &[])
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn empty_data_frames_end_the_connection() {
    let (world, _dyno, mut client, other) = flooded().await;
    client.headers(1, &h2_fields("POST", "/flood"), false).await;
    flood("empty DATA", client, other, &world, |_| {
        h2_frame::bytes(DATA, 0, 1, &[])
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn data_frames_of_padding_alone_end_the_connection() {
    let (world, _dyno, mut client, other) = flooded().await;
    client.headers(1, &h2_fields("POST", "/flood"), false).await;
    flood("padded empty DATA", client, other, &world, |_| {
        h2_frame::bytes(DATA, h2_frame::PADDED, 1, &[0])
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn empty_continuations_end_the_connection() {
    // CVE-2024-27316 and its kin.
    let (world, _dyno, mut client, other) = flooded().await;
    let block = h2_frame::block(&h2_fields("GET", "/flood"));
    client.send_frame(HEADERS, 0, 1, &block).await;
    let logged = flood("empty CONTINUATION", client, other, &world, |_| {
        h2_frame::bytes(CONTINUATION, 0, 1, &[])
    })
    .await;
    assert_eq!(logged, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_header_block_without_end_ends_the_connection() {
    let (world, _dyno, mut client, other) = flooded().await;
    let block = h2_frame::block(&h2_fields("GET", "/flood"));
    client.send_frame(HEADERS, 0, 1, &block).await;
    let field = h2_frame::block(&[("x-a", &"a".repeat(900))]);
    let logged = flood("CONTINUATION", client, other, &world, |_| {
        h2_frame::bytes(CONTINUATION, 0, 1, &field)
    })
    .await;
    assert_eq!(logged, 0);
    world.finish().await;
}

#[tokio::test]
async fn what_a_budget_allows_is_allowed() {
    let (world, dyno, mut client, other) = flooded().await;
    drop(other);
    for number in 0..BUDGET / 2 {
        client.ping(u64::from(number).to_be_bytes()).await;
        client.settings(&[]).await;
    }
    for number in 0..BUDGET / 2 {
        let stream = 4 * number + 1;
        client
            .headers(stream, &h2_fields("POST", "/reset"), false)
            .await;
        client.reset(stream, 8).await;
        let served = client
            .exchange(stream + 2, &h2_fields("GET", "/served"))
            .await;
        assert_eq!(served.whole().text(), "x");
    }
    client
        .headers(1001, &h2_fields("POST", "/body"), false)
        .await;
    for _ in 0..BUDGET / 2 {
        client.data(1001, "", false).await;
        client.data(1001, "x", false).await;
    }
    client.data(1001, "", true).await;
    assert_eq!(client.response(1001).await.whole().text(), "x");
    assert!(dyno.requests() > BUDGET as usize / 2);
    eventually("all is logged", || {
        (world.router.stats().requests_in_flight == 0).then_some(())
    })
    .await;
    let mut lines = world.log.take_lines();
    lines.retain(|line| !line.contains("path=\"/reset\""));
    assert_eq!(lines.len(), BUDGET as usize / 2 + 1);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn small_pieces_of_a_body_are_no_flood() {
    // A gRPC stream of many short messages, or a slow typist: frames that carry something are not counted.
    let (world, _dyno, mut client, other) = flooded().await;
    drop(other);
    client.headers(1, &h2_fields("POST", "/"), false).await;
    let pieces: Vec<u8> = (0..5000)
        .flat_map(|_| h2_frame::bytes(DATA, 0, 1, b"."))
        .collect();
    client.send(pieces).await;
    client.data(1, "", true).await;
    assert_eq!(client.response(1).await.whole().text(), "x");
    assert_served(&world.log.next().await, "web.1", 200);
    drop(client);
    world.finish().await;
}

#[tokio::test]
async fn a_client_that_stops_reading_its_connection_is_idle() {
    // Its windows are wide open, but nobody takes what TCP brings.
    let world = World::with(|setup| {
        setup.http2_prior_knowledge = true;
        setup.timeouts.idle = ms(600);
        setup.limits.response_buffer = 64 * 1024;
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = RawH2::connect_with(world.address(), &[(0x4, 0x7fff_ffff)]).await;
    client.window_update(0, 0x7fff_0000).await;
    client.headers(1, &h2_fields("GET", "/large"), true).await;
    let mut conn = dyno.accept().await;
    conn.read_head().await;
    conn.write("HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n")
        .await;
    assert!(
        !conn.try_write(vec![b'x'; 64 * 1024 * 1024]).await,
        "64 MB went nowhere"
    );
    let record = world.log.next().await;
    assert_eq!(
        (record.code(), record.at(), record.dyno()),
        (Some("H28"), "warning", Some("web.1"))
    );
    // Another client is served all the while.
    let mut other = world.client().await;
    other.send(get("/other")).await;
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(other.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    client.cut();
    world.finish().await;
}
