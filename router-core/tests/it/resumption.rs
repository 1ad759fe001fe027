//! Sessions that go on: tickets, the keys that seal them, and what a resumed session still owes.

use std::fmt::Write;

use router_core::Event;
use router_core::tls::TlsVersion;
use router_testkit::{FakeDyno, RawClient, TlsDialer};

use crate::world::{World, get, ok, shop};

/// A world whose dyno answers as often as is asked.
async fn serving() -> (World, FakeDyno) {
    let world = World::with(|setup| {
        setup.https();
    });
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().domain("other.test").web(1, dyno.address())]);
    world.hold(&world.ca().certificate(&["other.test"]));
    (world, dyno)
}

/// Whether a connection resumes an earlier session. Makes a request on it: tickets are read with its answer.
async fn resumes(world: &World, dyno: &FakeDyno, dialer: &TlsDialer) -> bool {
    let mut client = RawClient::connect_tls(world.https_address(), dialer).await;
    let resumed = client.tls().resumed;
    client.send(get("/")).await;
    let (conn, _) = dyno.accept_and_answer(ok("x")).await;
    assert_eq!(client.read_response().await.status, 200);
    assert_eq!(world.log.next().await.status(), Some(200));
    conn.close().await;
    client.close().await;
    resumed
}

/// A key file with these keys, the newest first.
fn key_file(keys: &[u8]) -> String {
    keys.iter().fold(String::new(), |mut text, key| {
        writeln!(text, "{}", format!("{key:02x}").repeat(48)).unwrap();
        text
    })
}

#[tokio::test]
async fn a_session_goes_on_under_its_name_and_version_across_rotations() {
    for version in ["tls1.2", "tls1.3"] {
        let (world, dyno) = serving().await;
        let dialer = world.dialer("shop.test").only(version);
        assert!(!resumes(&world, &dyno, &dialer).await);
        assert!(resumes(&world, &dyno, &dialer).await);
        assert!(
            resumes(&world, &dyno, &dialer).await,
            "a ticket for each connection"
        );
        let keys = world.router.ticket_keys();
        keys.load(&key_file(&[1])).unwrap();
        assert!(
            !resumes(&world, &dyno, &dialer).await,
            "the random key is gone"
        );
        keys.load(&key_file(&[2, 1])).unwrap();
        assert!(
            resumes(&world, &dyno, &dialer).await,
            "sealed with the old key"
        );
        keys.load(&key_file(&[2])).unwrap();
        assert!(
            resumes(&world, &dyno, &dialer).await,
            "sealed with the new key"
        );
        keys.load(&key_file(&[3])).unwrap();
        assert!(!resumes(&world, &dyno, &dialer).await);
        let events = world.seen.take_handshakes();
        let resumed: Vec<_> = events
            .iter()
            .map(|event| matches!(event, Event::TlsHandshake { resumed: true, .. }))
            .collect();
        assert_eq!(resumed, [false, true, true, false, true, true, false]);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_ticket_is_good_at_every_router_that_has_its_key() {
    let ((one, one_dyno), (other, other_dyno)) = (serving().await, serving().await);
    one.router.ticket_keys().load(&key_file(&[7])).unwrap();
    other.router.ticket_keys().load(&key_file(&[8, 7])).unwrap();
    let dialer = TlsDialer::trusting_anyone("shop.test");
    assert!(!resumes(&one, &one_dyno, &dialer).await);
    assert!(resumes(&other, &other_dyno, &dialer).await);
    // Sealed with a key that the first does not have yet: a full handshake, and no failure.
    assert!(!resumes(&one, &one_dyno, &dialer).await);
    one.finish().await;
    other.finish().await;
}

#[tokio::test]
async fn an_app_that_asks_for_more_is_not_got_round_with_an_old_session() {
    let (world, dyno) = serving().await;
    let dialer = world.dialer("shop.test").only("tls1.2");
    assert!(!resumes(&world, &dyno, &dialer).await);
    assert!(resumes(&world, &dyno, &dialer).await);
    let strict = shop().setting("min_tls_version", "1.3");
    world.apply(&[strict.web(1, dyno.address())]);
    let refused = RawClient::try_connect_tls(world.https_address(), &dialer).await;
    assert!(refused.is_err());
    let modern = world.dialer("shop.test");
    assert!(!resumes(&world, &dyno, &modern).await);
    assert!(resumes(&world, &dyno, &modern).await);
    let last = world.seen.take_handshakes().pop();
    let new = TlsVersion::V1_3;
    assert!(matches!(last, Some(Event::TlsHandshake { version, .. }) if version == new));
    world.finish().await;
}

#[tokio::test]
async fn a_session_of_one_name_does_not_go_on_under_another() {
    // rustls' client would not offer it: a client that keeps its sessions by address would.
    let (world, dyno) = serving().await;
    for version in ["tls1.2", "tls1.3"] {
        let dialer = world.dialer("shop.test").only(version);
        assert!(!resumes(&world, &dyno, &dialer).await);
        let other = dialer.named("other.test");
        let client = RawClient::connect_tls(world.https_address(), &other).await;
        assert!(!client.tls().resumed);
        client.close().await;
    }
    world.finish().await;
}
