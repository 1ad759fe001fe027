//! Handshakes: who gets which certificate, version and protocol, how they fail, and what a connection under TLS owes its
//! client afterwards.

use router_core::tls::TlsVersion;
use router_core::{Event, TlsFailure};
use router_testkit::{AppDoc, Ending, FakeDyno, RawClient, TestCertificate, TlsDialer, eventually};
use tokio::io::AsyncReadExt;

use crate::world::{World, assert_served, assert_served_tls, get, last_get, ms, ok, post, shop};

/// The handshake with this name (none sent if empty) as a client sees it: the certificate's fingerprint and the version,
/// or the alert.
async fn shaken(world: &World, dialer: TlsDialer) -> Result<(Vec<u8>, &'static str), String> {
    match RawClient::try_connect_tls(world.https_address(), &dialer).await {
        Ok(client) => {
            let facts = client.tls();
            Ok((facts.certificate, facts.version))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn anyone(name: &str) -> TlsDialer {
    TlsDialer::trusting_anyone(name).alpn(&["h2", "http/1.1"])
}

async fn failure(world: &World) -> TlsFailure {
    let failed = eventually("a failed handshake", || {
        let mut events = world.seen.take_handshakes().into_iter();
        events.find_map(|event| match event {
            Event::TlsFailed(failure) => Some(failure),
            _ => None,
        })
    });
    failed.await
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let world = World::with(|setup| {
        setup.https();
    });
    let exact = world.ca().certificate(&["a.test"]);
    let wildcard = world.ca().certificate(&["*.a.test", "shop.test"]);
    world.hold(&exact);
    world.hold(&wildcard);
    let default = shaken(&world, anyone("unknown.test")).await.unwrap().0;
    let of = |certificate: &TestCertificate| certificate.der().to_vec();
    assert!(![of(&exact), of(&wildcard)].contains(&default));
    for (name, expected) in [
        ("a.test", of(&exact)),
        ("A.TEST", of(&exact)),
        ("x.a.test", of(&wildcard)),
        ("y.x.a.test", default.clone()),
        ("shop.test", of(&wildcard)),
        ("b.test", default.clone()),
        // An address is not sent as a name.
        ("127.0.0.1", default.clone()),
    ] {
        for version in ["tls1.2", "tls1.3"] {
            let shaken = shaken(&world, anyone(name).only(version)).await;
            assert_eq!(shaken, Ok((expected.clone(), version)), "{name}");
        }
    }
    let nameless = shaken(&world, anyone("a.test").without_sni()).await;
    assert_eq!(nameless, Ok((default, "tls1.3")));
    world.finish().await;
}

/// Clients here would rather have 256 bits, as OpenSSL's do.
#[tokio::test]
async fn the_suite_that_costs_least_is_agreed_on() {
    let world = World::with(|setup| {
        setup.https();
    });
    for (version, suite) in [
        ("tls1.2", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ("tls1.3", "TLS13_AES_128_GCM_SHA256"),
    ] {
        let dialer = anyone("a.test").only(version);
        let client = RawClient::try_connect_tls(world.https_address(), &dialer);
        assert_eq!(client.await.unwrap().tls().suite, suite);
    }
    world.finish().await;
}

#[tokio::test]
async fn without_a_certificate_and_a_default_the_name_is_refused() {
    let world = World::with(|setup| setup.https().default = None);
    world.hold(&world.ca().certificate(&["a.test"]));
    assert!(shaken(&world, anyone("a.test")).await.is_ok());
    for dialer in [anyone("b.test"), anyone("a.test").without_sni()] {
        let refused = shaken(&world, dialer).await.unwrap_err();
        assert!(refused.contains("UnrecognisedName"), "{refused}");
        assert_eq!(failure(&world).await, TlsFailure::NoCertificate);
    }
    world.finish().await;
}

#[tokio::test]
async fn the_stricter_minimum_version_of_listener_and_app_holds() {
    let strict = AppDoc::new("strict")
        .domain("strict.test")
        .setting("min_tls_version", "1.3");
    let lax = AppDoc::new("lax")
        .domain("*.lax.test")
        .setting("min_tls_version", "1.2");
    for (listener, name, tls12) in [
        (TlsVersion::V1_2, "strict.test", false),
        (TlsVersion::V1_2, "x.lax.test", true),
        (TlsVersion::V1_2, "unknown.test", true),
        (TlsVersion::V1_3, "x.lax.test", false),
        (TlsVersion::V1_3, "unknown.test", false),
    ] {
        let world = World::with(|setup| setup.https().min_version = listener);
        world.apply(&[strict.clone(), lax.clone()]);
        let new = shaken(&world, anyone(name).only("tls1.3")).await;
        assert_eq!(new.unwrap().1, "tls1.3", "{name}");
        let old = shaken(&world, anyone(name).only("tls1.2")).await;
        assert_eq!(old.is_ok(), tls12, "{name} on {listener}");
        if let Err(refused) = old {
            assert!(refused.contains("ProtocolVersion"), "{refused}");
            assert_eq!(failure(&world).await, TlsFailure::Incompatible);
        }
        world.finish().await;
    }
}

/// Leaving the name out of the handshake is no way round the version that an app asks for.
#[tokio::test]
async fn an_app_with_a_minimum_version_is_not_served_on_an_older_one() {
    let world = World::with(|setup| {
        setup.https();
    });
    let strict = AppDoc::new("strict")
        .domain("strict.test")
        .setting("min_tls_version", "1.3")
        .field("maintenance", true);
    world.apply(&[strict]);
    for (version, status, code) in [("tls1.2", 495, "H32"), ("tls1.3", 503, "H80")] {
        let dialer = anyone("strict.test")
            .without_sni()
            .only(version)
            .alpn(&["http/1.1"]);
        let mut client = RawClient::connect_tls(world.https_address(), &dialer).await;
        let response = client
            .exchange("GET / HTTP/1.1\r\nHost: strict.test\r\n\r\n")
            .await;
        assert_eq!(response.status, status, "{version}");
        assert_eq!(world.log.next().await.code(), Some(code));
        client.close().await;
    }
    world.finish().await;
}

#[tokio::test]
async fn protocols_are_agreed_on_by_name() {
    let plain = AppDoc::new("plain")
        .domain("plain.test")
        .setting("http2", false);
    for (listener_http2, name, http2) in
        [(true, "plain.test", false), (false, "unknown.test", false)]
    {
        let world = World::with(|setup| setup.https().http2 = listener_http2);
        world.apply(std::slice::from_ref(&plain));
        let both = TlsDialer::trusting_anyone(name).alpn(&["h2", "http/1.1"]);
        let client = RawClient::connect_tls(world.https_address(), &both).await;
        let agreed = if http2 { "h2" } else { "http/1.1" };
        assert_eq!(client.tls().alpn.as_deref(), Some(agreed), "{name}");
        client.close().await;
        let silent = TlsDialer::trusting_anyone(name);
        let client = RawClient::connect_tls(world.https_address(), &silent).await;
        assert_eq!(client.tls().alpn, None);
        client.close().await;
        world.seen.take_handshakes();
        let mut refused = vec![["http/1.0"], ["acme-tls/1"]];
        if !http2 {
            refused.push(["h2"]);
        }
        for offered in refused {
            let dialer = TlsDialer::trusting_anyone(name).alpn(&offered);
            let refused = shaken(&world, dialer).await.unwrap_err();
            assert!(refused.contains("NoApplicationProtocol"), "{refused}");
            assert_eq!(failure(&world).await, TlsFailure::Protocol);
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn requests_are_served_under_either_version() {
    let world = World::with(|setup| {
        setup.https();
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    for version in ["tls1.2", "tls1.3"] {
        let dialer = world.dialer("shop.test").only(version);
        let mut client = RawClient::connect_tls(world.https_address(), &dialer).await;
        // Sent as one record, so that the head is read and the rest waits decrypted.
        let upload = "u".repeat(12_000);
        client.send(post("/up", &upload)).await;
        let mut conn = dyno.accept().await;
        conn.read_head().await;
        assert_eq!(conn.read_exact(upload.len()).await, upload.as_bytes());
        let download = "d".repeat(3_000_000);
        let (response, ()) = tokio::join!(client.read_response(), conn.write(ok(&download)));
        assert_eq!(response.body, download.as_bytes());
        assert_served_tls(&world.log.next().await, "web.1", 200);
        // Two at once: the second is decrypted with the first.
        client.send([get("/1"), get("/2")].concat()).await;
        for body in ["one", "two"] {
            conn.answer(ok(body)).await;
            assert_eq!(client.read_response().await.text(), body);
            assert_served_tls(&world.log.next().await, "web.1", 200);
        }
        client.assert_open();
        client.close().await;
        conn.close().await;
    }
    let versions: Vec<_> = world.seen.take_handshakes();
    assert!(
        matches!(
            *versions,
            [
                Event::TlsHandshake {
                    version: TlsVersion::V1_2,
                    resumed: false,
                    http2: false,
                    ..
                },
                Event::TlsHandshake {
                    version: TlsVersion::V1_3,
                    ..
                }
            ]
        ),
        "{versions:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn an_orderly_end_is_announced_and_a_cut_is_not() {
    let world = World::with(|setup| {
        setup.https();
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.tls_client().await;
    client.send(last_get("/")).await;
    let (conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.text(), "x");
    assert_eq!(client.expect_end().await, Ending::Closed);
    world.log.next().await;
    conn.close().await;

    // HTTP/1.0 knows no chunks, so the end of the connection is the end of the body.
    let mut client = world.tls_client().await;
    client
        .send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n")
        .await;
    let short = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n";
    let (conn, _) = dyno.accept_and_answer(short).await;
    conn.close().await;
    let (_, ending) = client.read_raw_until_close().await;
    assert_ne!(ending, Ending::Closed);
    assert_eq!(world.log.next().await.code(), Some("H18"));
    world.finish().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_an_orderly_way() {
    let world = World::with(|setup| {
        setup.https();
        setup.timeouts.client_header = ms(100);
    });
    let mut client = world.tls_client().await;
    assert_eq!(client.expect_end().await, Ending::Closed);
    world.finish().await;
}

#[tokio::test]
async fn a_drain_ends_idle_connections_under_tls() {
    let mut world = World::with(|setup| {
        setup.https();
    });
    let mut client = world.tls_client().await;
    let half_open = RawClient::connect(world.https_address()).await;
    let report = world.drain(ms(5_000)).await;
    assert_eq!(report.cut, 0);
    assert_eq!(client.expect_end().await, Ending::Closed);
    drop(half_open);
    world.finish().await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut() {
    let world = World::with(|setup| {
        setup.https();
        setup.timeouts.tls_handshake = ms(200);
    });
    // Nothing at all, and the beginning of a hello.
    for sent in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
        let mut client = RawClient::connect(world.https_address()).await;
        client.send(sent).await;
        let (answer, _) = client.read_raw_until_close().await;
        assert!(answer.is_empty());
        assert_eq!(failure(&world).await, TlsFailure::Timeout);
    }
    world.finish().await;
}

#[tokio::test]
async fn what_is_no_handshake_is_closed() {
    let world = World::with(|setup| {
        setup.https();
    });
    for sent in [&*get("/"), "\x16\x03\x01\x00\x05hello", "\0\0\0\0\0"] {
        let mut client = RawClient::connect(world.https_address()).await;
        client.send(sent).await;
        let (answer, _) = client.read_raw_until_close().await;
        // At most a fatal alert in the clear.
        assert!(
            answer.is_empty() || answer.starts_with(&[21, 3]) && answer.len() == 7,
            "{answer:?}"
        );
        assert_eq!(failure(&world).await, TlsFailure::Invalid, "{sent:?}");
    }
    let gone = RawClient::connect(world.https_address()).await;
    gone.close().await;
    assert_eq!(failure(&world).await, TlsFailure::Gone);
    // A client that does not trust what it gets says so.
    let stranger = TlsDialer::trusting(&router_testkit::TestCa::new("other"), "shop.test");
    let refused = shaken(&world, stranger).await;
    assert!(refused.unwrap_err().contains("UnknownIssuer"));
    assert_eq!(failure(&world).await, TlsFailure::Alert);
    world.finish().await;
}

async fn refused(world: &World) {
    eventually("a refused handshake", || {
        let events = world.seen.take_handshakes();
        events.contains(&Event::TlsRefused).then_some(())
    })
    .await;
}

/// A ClientHello, as a real client sends it.
async fn hello() -> Vec<u8> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dialer = anyone("shop.test");
    let dial = RawClient::try_connect_tls(address, &dialer);
    let read = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut header = [0; 5];
        stream.read_exact(&mut header).await.unwrap();
        let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        stream.read_exact(&mut body).await.unwrap();
        [&header[..], &body].concat()
    };
    tokio::join!(read, dial).0
}

#[tokio::test]
async fn silence_takes_no_handshake_from_anybody() {
    let world = World::with(|setup| {
        setup.https();
        setup.limits.tls_handshakes = 1;
    });
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(RawClient::connect(world.https_address()).await);
    }
    // They count, as connections.
    eventually("all are there", || {
        (world.router.stats().client_connections == 8).then_some(())
    })
    .await;
    // Whoever speaks is served, and the one that has been silent for longest makes room.
    world.tls_client().await.close().await;
    let mut oldest = silent.remove(0);
    let (answer, _) = oldest.read_raw_until_close().await;
    assert!(answer.is_empty());
    refused(&world).await;
    for mut silent in silent {
        silent.send("GET").await;
        assert_eq!(failure(&world).await, TlsFailure::Invalid);
    }
    world.finish().await;
}

#[tokio::test]
async fn handshakes_in_progress_are_bounded_and_others_are_not() {
    let world = World::with(|setup| {
        setup.https();
        setup.limits.tls_handshakes = 2;
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut served = world.tls_client().await;
    let hello = hello().await;
    let greeted = async || {
        let mut client = RawClient::connect(world.https_address()).await;
        client.send(&hello[..]).await;
        client
    };
    let (mut first, mut second) = (greeted().await, greeted().await);
    // Their slots are taken once there is an answer.
    first.read_exact(1).await;
    second.read_exact(1).await;
    let mut third = greeted().await;
    let (answer, _) = third.read_raw_until_close().await;
    assert!(answer.is_empty());
    refused(&world).await;
    // Whoever is past the handshake does not count, nor do connections in the clear.
    served.send(get("/")).await;
    let (mut conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(served.read_response().await.status, 200);
    assert_served_tls(&world.log.next().await, "web.1", 200);
    let mut plain = world.client().await;
    plain.send(get("/")).await;
    conn.answer(ok("x")).await;
    assert_eq!(plain.read_response().await.status, 200);
    assert_served(&world.log.next().await, "web.1", 200);
    first.close().await;
    assert_eq!(failure(&world).await, TlsFailure::Gone);
    world.tls_client().await.close().await;
    drop(second);
    world.finish().await;
}

#[tokio::test]
async fn one_connection_too_many_gets_h22_under_tls() {
    let world = World::with(|setup| {
        setup.https();
        setup.limits.client_connections = 1;
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut first = world.tls_client().await;
    first.send(get("/")).await;
    let (_conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(first.read_response().await.status, 200);
    world.log.next().await;
    let mut second = world.tls_client().await;
    assert_eq!(second.exchange(get("/")).await.status, 503);
    assert_eq!(world.log.next().await.code(), Some("H22"));
    world.finish().await;
}
