//! Session affinity: a signed cookie names the dyno, and everything about it is best effort.

use std::collections::BTreeSet;

use router_core::model::affinity::AffinityKey;
use router_testkit::{AppDoc, FakeDyno, LogRecord, RawResponse, ServingDyno, refused_address};

use crate::world::{World, assert_served, ms, ok, shop};

const KEY: &[u8] = b"a key that several routers share";
/// Far in the future.
const LATER: u64 = 4_000_000_000;

async fn numbered_dyno(number: usize) -> ServingDyno {
    FakeDyno::respond_with(move |head| {
        ok(&format!("{number} {}", head.all("cookie").join("|"))).into_bytes()
    })
    .await
}

fn sticky(dynos: &[ServingDyno]) -> AppDoc {
    dynos
        .iter()
        .enumerate()
        .fold(shop(), |app, (index, dyno)| {
            app.web(index + 1, dyno.address())
        })
        .setting("session_affinity", true)
        .setting("balancer", "random")
}

fn world_with_key() -> World {
    World::with(|setup| setup.affinity_key = Some(KEY))
}

async fn ask(world: &World, cookies: &[&str]) -> (RawResponse, LogRecord) {
    let lines: String = cookies
        .iter()
        .map(|cookie| format!("Cookie: {cookie}\r\n"))
        .collect();
    let mut client = world.client().await;
    let response = client
        .exchange(format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n"))
        .await;
    let record = world.log.next().await;
    let dyno = record.dyno().expect("a dyno").to_owned();
    assert_served(&record, &dyno, 200);
    (response, record)
}

/// The cookie of a `Set-Cookie` line by the router, as a client sends it back.
fn cookie_of(response: &RawResponse) -> Option<String> {
    let line = response.header("set-cookie")?;
    let (cookie, attributes) = line.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; Max-Age=86400; HttpOnly");
    assert!(cookie.starts_with("router-session-affinity="), "{line}");
    Some(cookie.to_owned())
}

#[tokio::test]
async fn a_client_with_the_cookie_stays_on_its_dyno() {
    let world = world_with_key();
    let dynos = [
        numbered_dyno(1).await,
        numbered_dyno(2).await,
        numbered_dyno(3).await,
    ];
    world.apply(&[sticky(&dynos)]);
    let mut met = BTreeSet::new();
    for _ in 0..12 {
        let (first, record) = ask(&world, &[]).await;
        let dyno = record.dyno().unwrap().to_owned();
        let cookie = cookie_of(&first).expect("a cookie for a new client");
        for _ in 0..5 {
            let (response, record) =
                ask(&world, &["theme=dark", &format!("{cookie}; lang=en")]).await;
            assert_eq!(record.dyno(), Some(dyno.as_str()));
            assert_eq!(
                response.all("set-cookie").len(),
                0,
                "nothing changed, nothing to set"
            );
            assert!(
                response.text().contains(&cookie),
                "the app sees the cookie like any other"
            );
        }
        met.insert(dyno);
    }
    assert!(met.len() > 1, "new clients are spread: {met:?}");
    world.finish().await;
}

#[tokio::test]
async fn without_the_setting_there_is_no_cookie_and_none_is_read() {
    let world = world_with_key();
    let dynos = [numbered_dyno(1).await, numbered_dyno(2).await];
    world.apply(&[sticky(&dynos)
        .setting("session_affinity", false)
        .setting("balancer", "round_robin")]);
    let cookie = format!(
        "router-session-affinity={}",
        AffinityKey::new(KEY).seal("web.1", LATER)
    );
    let mut met = BTreeSet::new();
    for _ in 0..4 {
        let (response, record) = ask(&world, &[&cookie]).await;
        assert_eq!(response.header("set-cookie"), None);
        met.insert(record.dyno().unwrap().to_owned());
    }
    assert_eq!(met.len(), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_cookie_of_another_router_with_the_same_key_is_honoured() {
    let world = world_with_key();
    let dynos = [
        numbered_dyno(1).await,
        numbered_dyno(2).await,
        numbered_dyno(3).await,
    ];
    world.apply(&[sticky(&dynos)]);
    for name in ["web.1", "web.2", "web.3"] {
        let cookie = format!(
            "router-session-affinity={}",
            AffinityKey::new(KEY).seal(name, LATER)
        );
        for _ in 0..3 {
            let (response, record) = ask(&world, &[&cookie]).await;
            assert_eq!(
                (record.dyno(), response.header("set-cookie")),
                (Some(name), None)
            );
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn forged_garbled_and_outdated_cookies_are_replaced_and_fail_nothing() {
    let world = world_with_key();
    let dynos = [numbered_dyno(1).await];
    world.apply(&[sticky(&dynos)]);
    let good = AffinityKey::new(KEY).seal("web.1", LATER);
    let values = [
        AffinityKey::new(b"another key").seal("web.1", LATER),
        AffinityKey::new(KEY).seal("web.1", 1_000_000_000),
        AffinityKey::new(KEY).seal("web.9", LATER),
        AffinityKey::new(KEY).seal("worker.1", LATER),
        format!("{good}x"),
        good[..good.len() - 2].to_owned(),
        "web.1".to_owned(),
        "%%%".to_owned(),
        String::new(),
    ];
    for value in values {
        let (response, record) = ask(&world, &[&format!("router-session-affinity={value}")]).await;
        assert_eq!(record.dyno(), Some("web.1"));
        assert!(cookie_of(&response).is_some(), "{value:?} is replaced");
    }
    world.finish().await;
}

#[tokio::test]
async fn when_the_dyno_is_gone_the_client_moves_with_a_new_cookie() {
    let world = world_with_key();
    let dynos = [numbered_dyno(1).await, numbered_dyno(2).await];
    world.apply(&[sticky(&dynos)]);
    let first = format!(
        "router-session-affinity={}",
        AffinityKey::new(KEY).seal("web.1", LATER)
    );
    let moved = [
        // Scaled away, draining, crashed: no longer a candidate.
        shop().web(2, dynos[1].address()),
        shop()
            .dyno("web.1", dynos[0].address(), "draining")
            .web(2, dynos[1].address()),
        shop()
            .dyno("web.1", dynos[0].address(), "crashed")
            .web(2, dynos[1].address()),
    ];
    for app in moved {
        world.apply(&[app.setting("session_affinity", true)]);
        let (response, record) = ask(&world, &[&first]).await;
        assert_eq!(record.dyno(), Some("web.2"));
        let cookie = cookie_of(&response).expect("a new cookie");
        let (response, record) = ask(&world, &[&cookie]).await;
        assert_eq!(
            (record.dyno(), response.header("set-cookie")),
            (Some("web.2"), None)
        );
    }
    world.finish().await;
}

#[tokio::test]
async fn when_the_dyno_cannot_be_reached_another_one_answers() {
    let world = World::with(|setup| {
        setup.affinity_key = Some(KEY);
        setup.timeouts.connect = ms(1000);
    });
    let dyno = numbered_dyno(2).await;
    let app = shop()
        .web(1, refused_address())
        .web(2, dyno.address())
        .setting("session_affinity", true);
    world.apply(&[app]);
    let first = format!(
        "router-session-affinity={}",
        AffinityKey::new(KEY).seal("web.1", LATER)
    );
    for _ in 0..2 {
        // Refused the first time, in quarantine the second.
        let (response, record) = ask(&world, &[&first]).await;
        assert_eq!(record.dyno(), Some("web.2"));
        assert!(cookie_of(&response).is_some());
    }
    assert_eq!(world.seen.quarantined(), 1);
    world.finish().await;
}

#[tokio::test]
async fn the_routers_cookie_stands_beside_those_of_the_app() {
    let world = World::with(|setup| setup.name = Some("edge"));
    let dyno = FakeDyno::respond_with(|_| {
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    })
    .await;
    world.apply(&[shop()
        .web(1, dyno.address())
        .setting("session_affinity", true)]);
    let (response, _) = ask(&world, &[]).await;
    let cookies = response.all("set-cookie");
    assert_eq!(
        (cookies.len(), &cookies[..2]),
        (3, &["a=1", "b=2"][..]),
        "{cookies:?}"
    );
    assert!(
        cookies[2].starts_with("edge-session-affinity="),
        "{cookies:?}"
    );
    world.finish().await;
}

#[tokio::test]
async fn pages_of_the_router_set_no_cookie() {
    let world = world_with_key();
    world.apply(&[shop()
        .web(1, refused_address())
        .setting("session_affinity", true)]);
    let mut client = world.client().await;
    let response = client
        .exchange("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        .await;
    assert_eq!(
        (response.status, response.header("set-cookie")),
        (503, None)
    );
    assert_eq!(world.log.next().await.code(), Some("H21"));
    world.finish().await;
}
