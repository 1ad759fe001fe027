//! PROXY headers in front of plain and TLS connections: whom the router then takes the client to be, and what happens to
//! those who come without one.

use std::net::IpAddr;

use router_core::Event;
use router_testkit::{FakeDyno, RawClient, RawHead, eventually};

use crate::world::{Setup, World, get, ms, ok, shop};

const V1: &str = "PROXY TCP4 203.0.113.7 192.0.2.1 54321 8443\r\n";

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let fixed = [command, family, length[0], length[1]];
    [b"\r\n\r\n\0\r\nQUIT\n", &fixed[..], rest].concat()
}

async fn world(change: impl FnOnce(&mut Setup)) -> (World, FakeDyno) {
    let world = World::with(|setup| {
        setup.proxy_protocol = true;
        change(setup);
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    (world, dyno)
}

/// What the dyno gets of a request on this connection.
async fn forwarded(world: &World, dyno: &FakeDyno, mut client: RawClient) -> (RawHead, String) {
    client.send(get("/")).await;
    let (conn, head) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    client.close().await;
    conn.close().await;
    let fwd = world.log.next().await.fwd().to_owned();
    (head, fwd)
}

#[tokio::test]
async fn the_header_says_who_the_client_is_and_which_port_it_called() {
    let (world, dyno) = world(|_| {}).await;
    let v4 = [203, 0, 113, 8, 192, 0, 2, 1, 0, 80, 0x20, 0xfb];
    let v6 = |source: &str| {
        let source: std::net::Ipv6Addr = source.parse().unwrap();
        [&source.octets()[..], &[0; 16], &[0, 80, 0x20, 0xfb]].concat()
    };
    let own = world.address().port().to_string();
    for (header, address, port) in [
        (V1.as_bytes().to_vec(), "203.0.113.7", "8443"),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 54321 8443\r\n".to_vec(),
            "2001:db8::7",
            "8443",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", &*own),
        (v2(0x21, 0x11, &v4), "203.0.113.8", "8443"),
        (
            v2(0x21, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()),
            "203.0.113.8",
            "8443",
        ),
        (v2(0x21, 0x21, &v6("2001:db8::9")), "2001:db8::9", "8443"),
        (
            v2(0x21, 0x21, &v6("::ffff:203.0.113.9")),
            "203.0.113.9",
            "8443",
        ),
        (v2(0x21, 0x31, &[0; 216]), "127.0.0.1", &*own),
        (v2(0x20, 0, &[]), "127.0.0.1", &*own),
    ] {
        let mut client = world.client().await;
        client.send(header).await;
        let (head, fwd) = forwarded(&world, &dyno, client).await;
        assert_eq!(
            (head.all("x-forwarded-for"), &*fwd),
            (vec![address], address)
        );
        assert_eq!(head.all("x-forwarded-port"), [port]);
    }
    world.finish().await;
}

#[tokio::test]
async fn the_header_comes_before_the_handshake() {
    let (world, dyno) = world(|setup| {
        setup.https();
    })
    .await;
    let mut client = RawClient::connect(world.https_address()).await;
    client.send(V1).await;
    let client = client.into_tls(&world.dialer("shop.test")).await.unwrap();
    let (head, fwd) = forwarded(&world, &dyno, client).await;
    assert_eq!(
        (head.all("x-forwarded-for"), &*fwd),
        (vec!["203.0.113.7"], "203.0.113.7")
    );
    assert_eq!(head.all("x-forwarded-port"), ["8443"]);
    // A hello in its place is no header.
    let dialer = world.dialer("shop.test");
    let refused = RawClient::try_connect_tls(world.https_address(), &dialer);
    assert!(refused.await.is_err());
    let told = || world.seen.take_handshakes().pop();
    assert_eq!(
        eventually("a refusal", told).await,
        Event::ProxyHeaderRefused
    );
    world.finish().await;
}

#[tokio::test]
async fn header_and_request_may_come_together_or_byte_by_byte() {
    let (world, dyno) = world(|setup| setup.listen = Some(IpAddr::from([127, 0, 0, 1]))).await;
    let all = format!("{V1}{}", get("/"));
    for piece in [1, 3, all.len()] {
        let mut client = world.client().await;
        for piece in all.as_bytes().chunks(piece) {
            client.send(piece).await;
        }
        let (conn, head) = dyno.accept_and_answer(ok("x")).await;
        assert_eq!(head.all("x-forwarded-for"), ["203.0.113.7"]);
        assert_eq!(client.read_response().await.status, 200);
        client.close().await;
        conn.close().await;
        world.log.next().await;
    }
    world.finish().await;
}

#[tokio::test]
async fn whoever_comes_without_a_whole_header_is_closed_without_an_answer() {
    let (world, dyno) = world(|_| {}).await;
    let refused = async |sent: &[u8], then_end: bool| {
        let mut client = world.client().await;
        client.send(sent).await;
        if then_end {
            client.half_close().await;
        }
        let (answer, _) = client.read_raw_until_close().await;
        assert!(answer.is_empty(), "{sent:?}: {answer:?}");
        let told = || world.seen.take_handshakes().pop();
        assert_eq!(
            eventually("a refusal", told).await,
            Event::ProxyHeaderRefused
        );
    };
    for sent in [
        get("/").into_bytes(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 99999\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00".to_vec(),
        v2(0x21, 0x12, &[0; 12]),
        v2(0x21, 0x11, &[0; 5000]),
    ] {
        refused(&sent, false).await;
    }
    // Cut short at every byte.
    for header in [V1.as_bytes().to_vec(), v2(0x21, 0x11, &[0; 12])] {
        for length in 0..header.len() {
            refused(&header[..length], true).await;
        }
    }
    dyno.assert_not_contacted();
    world.finish().await;
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let (world, dyno) = world(|setup| setup.timeouts.proxy_header = ms(200)).await;
    let mut client = world.client().await;
    client.send("PROXY TCP4 203.0").await;
    let (answer, _) = client.read_raw_until_close().await;
    assert!(answer.is_empty());
    assert_eq!(world.seen.take_handshakes(), [Event::ProxyHeaderRefused]);
    dyno.assert_not_contacted();
    world.finish().await;
}
