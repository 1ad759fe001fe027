//! Requests that come over a connection made for another name (spec §10-28): what is the same door, and what a client is
//! told at the wrong one, over HTTP/1 (H32) and HTTP/2 (H31).

use http::Request;
use router_testkit::{AppDoc, FakeDyno, H2Client, RawClient, ServingDyno, TlsDialer};

use crate::world::{World, assert_failed, assert_served_tls, ok, shop};

/// `shop` has names of its certificate and one that is not; `blog` has one of that certificate; `other` has its own.
async fn world() -> (World, ServingDyno) {
    let world = World::with(|setup| {
        setup.https();
    });
    world.hold(&world.ca().certificate(&["other.test"]));
    let dyno = FakeDyno::respond_with(|_| ok("x").into_bytes()).await;
    let app = |app: AppDoc| {
        app.web(1, dyno.address())
            .setting("error_page_url", "//cdn.test/error.html")
    };
    world.apply(&[
        app(shop().domain("alias.test")),
        app(AppDoc::new("blog").domain("blog.shop.test")),
        app(AppDoc::new("other").domain("other.test")),
    ]);
    (world, dyno)
}

fn dialer(sni: Option<&str>) -> TlsDialer {
    let dialer = TlsDialer::trusting_anyone(sni.unwrap_or("shop.test"));
    if sni.is_some() {
        dialer
    } else {
        dialer.without_sni()
    }
}

fn request(host: &str) -> Request<()> {
    let request = Request::get(format!("https://{host}/x")).header("user-agent", "test \"1\"");
    request.body(()).unwrap()
}

/// SNI, Host, and whether that is the right door.
const DOORS: [(Option<&str>, &str, bool); 13] = [
    (Some("shop.test"), "shop.test", true),
    (Some("shop.test"), "Shop.Test:8443", true),
    (Some("SHOP.test"), "shop.test", true),
    // Another name of the same app, though not of the certificate; and another app's name of the same certificate.
    (Some("shop.test"), "alias.test", true),
    (Some("alias.test"), "shop.test", true),
    (Some("shop.test"), "blog.shop.test", true),
    (Some("other.test"), "other.test", true),
    // Nobody's name got the default certificate, which stands for this host.
    (Some("unknown.test"), "shop.test", true),
    // Without a name the Host decides.
    (None, "shop.test", true),
    (None, "other.test", true),
    (Some("shop.test"), "other.test", false),
    (Some("other.test"), "shop.test", false),
    (Some("unknown.test"), "other.test", false),
];

#[tokio::test]
async fn over_http_1_the_wrong_door_is_495_and_h32() {
    let (world, dyno) = world().await;
    let address = world.https_address();
    for (sni, host, right) in DOORS {
        let dialer = dialer(sni).alpn(&["http/1.1"]);
        let mut client = RawClient::connect_tls(address, &dialer).await;
        let served = dyno.requests();
        let response = client
            .exchange(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        let record = world.log.next().await;
        if right {
            assert_eq!(response.status, 200, "{sni:?} {host}");
            assert_served_tls(&record, "web.1", 200);
        } else {
            assert_eq!(response.status, 495, "{sni:?} {host}");
            assert_failed(&record, "H32", 495);
            assert!(record.tls() && record.agent().is_none(), "{record:?}");
            assert!(!response.text().contains("cdn.test"), "{}", response.text());
            assert_eq!(dyno.requests(), served, "no dyno is asked");
        }
        assert_eq!(record.host(), host);
    }
    world.finish().await;
}

#[tokio::test]
async fn over_http_2_the_wrong_door_is_421_and_h31_and_the_connection_stays() {
    let (world, dyno) = world().await;
    let address = world.https_address();
    for (sni, host, right) in DOORS {
        let mut client = H2Client::connect_tls(address, &dialer(sni)).await;
        let served = dyno.requests();
        let response = client.exchange(request(host)).await.whole();
        let record = world.log.next().await;
        if right {
            assert_eq!(response.status, 200, "{sni:?} {host}");
            assert_served_tls(&record, "web.1", 200);
            continue;
        }
        assert_eq!(response.status, 421, "{sni:?} {host}");
        assert_failed(&record, "H31", 421);
        assert_eq!((record.host(), record.agent()), (host, Some("test \"1\"")));
        assert!(record.tls() && record.protocol() == "http2.0", "{record:?}");
        assert!(!response.text().contains("cdn.test"), "{}", response.text());
        assert_eq!(dyno.requests(), served, "no dyno is asked");
        // Browsers put several hosts on one connection; the right one is served on it before and after.
        let name = sni.unwrap();
        let right = if name == "unknown.test" {
            "shop.test"
        } else {
            name
        };
        assert_eq!(client.exchange(request(right)).await.whole().status, 200);
        assert_served_tls(&world.log.next().await, "web.1", 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_host_of_no_app_is_no_such_app_at_every_door() {
    let (world, dyno) = world().await;
    for sni in [Some("shop.test"), Some("unknown.test"), None] {
        let mut client = H2Client::connect_tls(world.https_address(), &dialer(sni)).await;
        assert_eq!(client.exchange(request("nobody.test")).await.status, 404);
    }
    assert_eq!(dyno.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_logged_as_nothing() {
    let (world, _dyno) = world().await;
    let dialer = dialer(Some("shop.test"));
    let mut client = H2Client::connect_tls(world.https_address(), &dialer).await;
    let request = Request::get("https://other.test/").body(()).unwrap();
    assert_eq!(client.exchange(request).await.status, 421);
    let record = world.log.next().await;
    assert_failed(&record, "H31", 421);
    assert_eq!(record.agent(), Some(""));
    world.finish().await;
}
