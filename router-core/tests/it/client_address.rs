//! Who the client is when proxies stand before the router: which of their fields are believed, and what is made of the
//! client's address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderName, HeaderValue};
use router_testkit::{AppDoc, FakeDyno, LogRecord, RawClient, RawHead, RawResponse};

use crate::world::{Setup, World, assert_served, assert_served_tls, h2_request, ok, shop};

/// One exchange of this world with the given header lines: what the dyno got, what was answered and what was logged.
async fn exchange(
    world: &World,
    dyno: &FakeDyno,
    client: &mut RawClient,
    lines: &[&str],
) -> (RawHead, RawResponse, LogRecord) {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    client
        .send(format!(
            "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n{lines}\r\n"
        ))
        .await;
    let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
    let response = client.read_response().await;
    assert_eq!(response.status, 200);
    (head, response, world.log.next().await)
}

/// [`exchange`] with a router of its own.
async fn sent_with(change: impl FnOnce(&mut Setup), lines: &[&str]) -> (RawHead, LogRecord, u16) {
    let world = World::with(change);
    let dyno = FakeDyno::start().await;
    world.apply(&[shop().web(1, dyno.address())]);
    let mut client = world.client().await;
    let (head, _, record) = exchange(&world, &dyno, &mut client, lines).await;
    assert_served(&record, "web.1", 200);
    let port = world.address().port();
    world.finish().await;
    (head, record, port)
}

fn trusting(cidrs: &'static [&'static str]) -> impl FnOnce(&mut Setup) {
    |setup| setup.trusted_proxies = cidrs.to_vec()
}

const CLAIMS: [&str; 4] = [
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 443",
    "X-Request-Start: 1700000000000",
];

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_the_chain_kept() {
    for cidrs in [
        &["127.0.0.0/8"][..],
        &["10.0.0.0/8", "127.0.0.1/32"],
        &["0.0.0.0/0"],
    ] {
        let (head, record, _) = sent_with(trusting(cidrs), &CLAIMS).await;
        assert_eq!(head.all("x-forwarded-for"), ["203.0.113.7, 127.0.0.1"]);
        assert_eq!(head.all("x-forwarded-proto"), ["https"]);
        assert_eq!(head.all("x-forwarded-port"), ["443"]);
        assert_eq!(head.all("x-request-start"), ["1700000000000"]);
        assert_eq!(record.fwd(), "203.0.113.7, 127.0.0.1");
    }
    let nginx = ["X-Request-Start: t=1700000000.123"];
    let (head, ..) = sent_with(trusting(&["127.0.0.1/32"]), &nginx).await;
    assert_eq!(head.all("x-request-start"), nginx.map(|line| &line[17..]));
}

#[tokio::test]
async fn anybody_else_is_not_believed_and_the_chain_is_kept_all_the_same() {
    for cidrs in [
        &[][..],
        &["10.0.0.0/8"],
        &["127.0.0.2/32"],
        &["203.0.113.0/24"],
        &["::/0"],
    ] {
        let (head, record, port) = sent_with(trusting(cidrs), &CLAIMS).await;
        assert_eq!(head.all("x-forwarded-for"), ["203.0.113.7, 127.0.0.1"]);
        assert_eq!(head.all("x-forwarded-proto"), ["http"], "{cidrs:?}");
        assert_eq!(head.all("x-forwarded-port"), [port.to_string().as_str()]);
        assert_ne!(head.header("x-request-start"), Some("1700000000000"));
        assert_eq!(record.fwd(), "203.0.113.7, 127.0.0.1");
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_badly_is_replaced_and_the_rest_believed() {
    let bad = [
        [
            "X-Forwarded-Proto: gopher",
            "X-Forwarded-Proto: https, http",
            "X-Forwarded-Proto:",
        ],
        [
            "X-Forwarded-Port: 65536",
            "X-Forwarded-Port: -1",
            "X-Forwarded-Port: https",
        ],
        [
            "X-Request-Start: soon",
            "X-Request-Start: t=",
            "X-Request-Start: 1;2",
        ],
    ];
    for (at, lines) in bad.into_iter().enumerate() {
        for line in lines {
            let mut sent = CLAIMS;
            sent[at + 1] = line;
            let (head, _, port) = sent_with(trusting(&["127.0.0.0/8"]), &sent).await;
            let port = port.to_string();
            let value = line.split_once(": ").map_or("", |(_, value)| value);
            let believed = |own: usize, good, made| if own == at { made } else { good };
            assert_eq!(
                head.header("x-forwarded-proto"),
                Some(believed(0, "https", "http")),
                "{line}"
            );
            assert_eq!(
                head.header("x-forwarded-port"),
                Some(believed(1, "443", port.as_str())),
                "{line}"
            );
            let start = head.header("x-request-start").unwrap();
            if at == 2 {
                assert!(
                    start != value && start.bytes().all(|byte| byte.is_ascii_digit()),
                    "{start}"
                );
            } else {
                assert_eq!(start, "1700000000000");
            }
        }
    }
}

#[tokio::test]
async fn of_several_lines_the_dyno_sees_one_and_the_nearest_proxy_wins() {
    let lines = [
        "X-Forwarded-Proto: http",
        "X-Forwarded-Port: 1",
        "X-Request-Start: 1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "X-Request-Start: 1700000000000",
    ];
    let (head, ..) = sent_with(trusting(&["127.0.0.0/8"]), &lines).await;
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(head.all("x-forwarded-port"), ["443"]);
    assert_eq!(head.all("x-request-start"), ["1700000000000"]);
}

#[tokio::test]
async fn forwarded_is_removed_whoever_sent_it() {
    for cidrs in [&[][..], &["127.0.0.0/8"]] {
        let lines = [
            "Forwarded: for=203.0.113.7;proto=https",
            "forwarded: for=\"[::1]\"",
            "X-Forwarded-Host: kept",
        ];
        let (head, ..) = sent_with(trusting(cidrs), &lines).await;
        assert!(!head.has("forwarded"), "{head:?}");
        assert_eq!(
            head.all("x-forwarded-for"),
            ["127.0.0.1"],
            "nothing is made of it"
        );
        assert_eq!(head.all("x-forwarded-host"), ["kept"]);
    }
}

#[tokio::test]
async fn over_http_2_and_tls_it_is_the_same() {
    for trusted in [false, true] {
        let world = World::with(|setup| {
            setup.https();
            setup.trusted_proxies = if trusted {
                vec!["127.0.0.0/8"]
            } else {
                Vec::new()
            };
        });
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address())]);
        let mut client = world.h2_client().await;
        let mut request = h2_request("GET", "/");
        for (name, value) in [
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-port", "80"),
            ("x-request-start", "1700000000000"),
            ("forwarded", "for=203.0.113.7"),
        ] {
            let name = HeaderName::from_static(name);
            request
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        let stream = client.open(request, true).await;
        let (_conn, head) = dyno.accept_and_answer(ok("x")).await;
        assert_eq!(stream.response().await.whole().status, 200);
        let own = world.https_address().port().to_string();
        let (proto, port) = if trusted {
            ("http", "80")
        } else {
            ("https", &*own)
        };
        assert_eq!(head.all("x-forwarded-for"), ["203.0.113.7, 127.0.0.1"]);
        assert_eq!(
            (head.all("x-forwarded-proto"), head.all("x-forwarded-port")),
            (vec![proto], vec![port])
        );
        assert_eq!(
            head.header("x-request-start") == Some("1700000000000"),
            trusted
        );
        assert!(!head.has("forwarded"));
        // What is logged of TLS is the router's own connection.
        assert_served_tls(&world.log.next().await, "web.1", 200);
        world.finish().await;
    }
}

#[tokio::test]
async fn an_ipv6_proxy_is_trusted_by_its_address_and_a_mapped_one_as_ipv4() {
    let cases = [
        (
            IpAddr::from(Ipv6Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
            "::1/128",
            "::1",
            true,
        ),
        (
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
            "127.0.0.0/8",
            "::1",
            false,
        ),
        // A listener of both families sees IPv4 clients as mapped addresses.
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv4Addr::LOCALHOST.into(),
            "127.0.0.0/8",
            "127.0.0.1",
            true,
        ),
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv4Addr::LOCALHOST.into(),
            "::1/128",
            "127.0.0.1",
            false,
        ),
    ];
    for (listen, connect, cidr, named, trusted) in cases {
        let world = World::with(|setup| {
            setup.listen = Some(listen);
            setup.trusted_proxies = vec![cidr];
        });
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address())]);
        let address = SocketAddr::from((connect, world.address().port()));
        let mut client = RawClient::connect(address).await;
        let lines = ["X-Forwarded-For: 2001:db8::7", "X-Forwarded-Proto: https"];
        let (head, _, record) = exchange(&world, &dyno, &mut client, &lines).await;
        let proto = if trusted { "https" } else { "http" };
        assert_eq!(head.all("x-forwarded-proto"), [proto], "{connect} {cidr}");
        let chain = format!("2001:db8::7, {named}");
        assert_eq!(head.all("x-forwarded-for"), [chain.as_str()]);
        assert_eq!(record.fwd(), chain);
        world.finish().await;
    }
}

#[tokio::test]
async fn with_a_proxy_header_it_is_its_source_that_is_trusted_or_not() {
    for (source, trusted) in [("10.1.2.3", true), ("203.0.113.9", false)] {
        let world = World::with(|setup| {
            setup.proxy_protocol = true;
            setup.trusted_proxies = vec!["10.0.0.0/8"];
        });
        let dyno = FakeDyno::start().await;
        world.apply(&[shop().web(1, dyno.address())]);
        let mut client = world.client().await;
        client
            .send(format!("PROXY TCP4 {source} 192.0.2.1 5000 8443\r\n"))
            .await;
        let (head, _, record) = exchange(&world, &dyno, &mut client, &CLAIMS).await;
        let chain = format!("203.0.113.7, {source}");
        assert_eq!(
            (head.all("x-forwarded-for"), record.fwd()),
            (vec![&*chain], &*chain)
        );
        let (proto, port) = if trusted {
            ("https", "443")
        } else {
            ("http", "8443")
        };
        assert_eq!(
            (
                head.header("x-forwarded-proto"),
                head.header("x-forwarded-port")
            ),
            (Some(proto), Some(port))
        );
        world.finish().await;
    }
}

/// The shop with dynos that tell who they are, `consistent_hash` among them.
async fn hashed() -> (Vec<router_testkit::ServingDyno>, AppDoc) {
    let mut dynos = Vec::new();
    let mut app = shop().setting("balancer", "consistent_hash");
    for number in 1..=4 {
        let dyno = FakeDyno::respond_with(|_| ok("x").into_bytes()).await;
        app = app.web(number, dyno.address());
        dynos.push(dyno);
    }
    (dynos, app)
}

/// Which dyno serves a request with this X-Forwarded-For.
async fn home(world: &World, client: &mut RawClient, chain: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: {chain}\r\n\r\n");
    assert_eq!(client.exchange(request).await.status, 200);
    world.log.next().await.dyno().unwrap().to_owned()
}

#[tokio::test]
async fn consistent_hash_goes_by_the_right_most_address_that_is_no_trusted_proxys() {
    let world = World::with(|setup| setup.trusted_proxies = vec!["127.0.0.0/8", "10.0.0.0/8"]);
    let (_dynos, app) = hashed().await;
    world.apply(&[app]);
    let mut client = world.client().await;
    let mut homes = BTreeMap::new();
    for last in 1..=32 {
        let address = format!("203.0.113.{last}");
        let plain = home(&world, &mut client, &address).await;
        // What it claims itself, to the left, moves it nowhere; nor does the way it took inside.
        for chain in [
            format!("1.2.3.4, {address}"),
            format!("10.9.9.9, 8.8.8.8,{address},10.0.0.1"),
            format!("junk, {address}, 10.0.0.1, 10.0.0.2"),
        ] {
            assert_eq!(home(&world, &mut client, &chain).await, plain, "{chain}");
        }
        homes.insert(address, plain);
    }
    let used: BTreeSet<&String> = homes.values().collect();
    assert!(used.len() > 1, "{homes:?}");
    // A chain of trusted proxies alone begins at its left-most, and one that cannot be read ends where it cannot.
    let inside = home(&world, &mut client, "10.0.0.7").await;
    assert_eq!(
        home(&world, &mut client, "10.0.0.7, 10.0.0.1").await,
        inside
    );
    let unread = home(&world, &mut client, "unknown").await;
    assert_eq!(
        home(&world, &mut client, "203.0.113.1, _hidden").await,
        unread
    );
    world.finish().await;
}

#[tokio::test]
async fn consistent_hash_of_an_untrusted_client_goes_by_its_own_address() {
    let world = World::start();
    let (_dynos, app) = hashed().await;
    world.apply(&[app]);
    let mut client = world.client().await;
    let own = home(&world, &mut client, "203.0.113.1").await;
    for last in 2..=32 {
        let claimed = format!("203.0.113.{last}");
        assert_eq!(home(&world, &mut client, &claimed).await, own, "{claimed}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_redirect_to_https_and_hsts_go_by_what_a_trusted_proxy_says() {
    // A proxy that speaks TLS to clients and plain HTTP to the router must not be sent round in circles.
    for (cidr, claim, redirected) in [
        ("127.0.0.0/8", "https", false),
        ("127.0.0.0/8", "http", true),
        ("10.0.0.0/8", "https", true),
    ] {
        let world = World::with(|setup| setup.trusted_proxies = vec![cidr]);
        let dyno = FakeDyno::start().await;
        let app = shop()
            .web(1, dyno.address())
            .setting("redirect_to_https", true);
        world.apply(&[app.setting("hsts", "max-age=5")]);
        let mut client = world.client().await;
        let claim = format!("X-Forwarded-Proto: {claim}");
        if redirected {
            let request = format!("GET /x?y HTTP/1.1\r\nHost: shop.test\r\n{claim}\r\n\r\n");
            let response = client.exchange(request).await;
            assert_eq!(response.status, 308, "{cidr} {claim}");
            assert_eq!(response.header("location"), Some("https://shop.test/x?y"));
            assert_eq!(response.header("strict-transport-security"), None);
            world.log.next().await;
        } else {
            let (_, response, record) = exchange(&world, &dyno, &mut client, &[&claim]).await;
            assert_eq!(
                response.header("strict-transport-security"),
                Some("max-age=5")
            );
            assert_served(&record, "web.1", 200);
        }
        drop(client);
        world.finish().await;
    }
}
