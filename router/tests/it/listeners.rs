//! What a listener of the configuration is told: who is believed about the client, and what is spoken.

use std::net::SocketAddr;

use router_testkit::{H2Client, RawClient, TestCa, TlsDialer, TlsFacts};

use crate::dyno::Dyno;
use crate::process::{Place, eventually, get, send};

fn place(listener: &str, more: &str) -> Place {
    Place::with_config(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [feed]\npath = \"routes.json\"\n[workers]\nthreads = 1\n{more}"
    ))
}

/// What the dyno got of a request, and its log line.
fn sent(listener: &str, request: &str) -> (String, String) {
    let (place, dyno) = (place(listener, ""), Dyno::start());
    place.write("routes.json", &dyno.routes(1));
    let router = place.serve();
    router.wait_for_revision(1);
    let pending = send(router.client, request);
    let held = dyno.request();
    let head = held.head.clone();
    held.answer();
    assert_eq!(pending.finish().status, 200);
    router.signal("TERM");
    let (code, log) = router.end();
    assert_eq!(code, Some(0));
    (head, log)
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: shop.example.com\r\nX-Forwarded-For: 198.51.100.9\r\n\
                       X-Forwarded-Proto: https\r\nX-Forwarded-Port: 444\r\nConnection: close\r\n\r\n";

#[test]
fn only_proxies_that_are_trusted_are_believed() {
    for (trusted, believed) in [
        ("[]", false),
        ("[\"10.0.0.0/8\"]", false),
        ("[\"127.0.0.1\"]", true),
        ("[\"::1\", \"127.0.0.0/8\"]", true),
    ] {
        let (head, log) = sent(&format!("trusted_proxies = {trusted}"), REQUEST);
        // The list is kept in any case; only its end is the router's word.
        assert!(log.contains("fwd=\"198.51.100.9, 127.0.0.1\""), "{log}");
        let proto = head.contains("x-forwarded-proto: https\n");
        let port = head.contains("x-forwarded-port: 444\n");
        assert_eq!((proto, port), (believed, believed), "{trusted}: {head}");
    }
}

#[test]
fn a_proxy_header_is_required_where_it_is_configured() {
    let header = "PROXY TCP4 203.0.113.7 192.0.2.1 40000 443\r\n";
    let (head, log) = sent("proxy_protocol = true", &format!("{header}{REQUEST}"));
    assert!(log.contains("fwd=\"198.51.100.9, 203.0.113.7\""), "{log}");
    assert!(head.contains("x-forwarded-port: 443\n"), "{head}");
    let router = place("proxy_protocol = true", "").serve();
    let _refused = send(router.client, REQUEST);
    eventually("it is counted", || {
        let metrics = get(router.admin, "admin", "/metrics").body;
        metrics.contains("router_proxy_headers_refused_total 1")
    });
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

fn handshake(address: SocketAddr, dialer: &TlsDialer) -> TlsFacts {
    wait(async {
        let mut client = RawClient::connect_tls(address, dialer).await;
        let facts = client.tls().clone();
        // An answer brings the session's ticket along.
        client
            .send("GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n")
            .await;
        client.read_response().await;
        facts
    })
}

#[test]
fn http2_is_offered_and_begun_as_the_listener_says() {
    let ca = TestCa::new("root");
    let pair = ca.certificate(&["shop.example.com"]);
    let dialer = TlsDialer::trusting(&ca, "shop.example.com");
    let https = "protocol = \"https\"\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"";
    for (http2, alpn) in [
        ("", "h2"),
        ("http2 = true", "h2"),
        ("http2 = false", "http/1.1"),
    ] {
        let place = place(&format!("{https}\n{http2}"), "");
        place.write("a.crt", pair.chain_pem());
        place.write("a.key", pair.key_pem());
        let router = place.serve();
        let offer = dialer.clone().alpn(&["h2", "http/1.1"]);
        let facts = wait(async {
            let client = RawClient::connect_tls(router.client, &offer).await;
            client.tls().clone()
        });
        assert_eq!(facts.alpn.as_deref(), Some(alpn), "{http2}");
    }
    let (place, dyno) = (place("http2_prior_knowledge = true", ""), Dyno::start());
    place.write("routes.json", &dyno.routes(1));
    let router = place.serve();
    router.wait_for_revision(1);
    let address = router.client;
    let asked = std::thread::spawn(move || {
        wait(async {
            let mut client = H2Client::connect(address).await;
            let request = http::Request::get("http://shop.example.com/")
                .body(())
                .unwrap();
            client.exchange(request).await.status
        })
    });
    dyno.request().answer();
    assert_eq!(asked.join().unwrap(), 200);
}

#[test]
fn routers_that_share_ticket_keys_resume_each_others_sessions() {
    let ca = TestCa::new("root");
    let pair = ca.certificate(&["shop.example.com"]);
    let https = "protocol = \"https\"\ncertificate = \"a.crt\"\nprivate_key = \"a.key\"";
    let keys = ["ab".repeat(48), "ab".repeat(48), "cd".repeat(48)];
    let places = keys.map(|key| {
        let place = place(https, "[tls]\nticket_keys = \"tickets.key\"\n");
        place.write("a.crt", pair.chain_pem());
        place.write("a.key", pair.key_pem());
        place.write("tickets.key", &key);
        place
    });
    let routers = places.each_ref().map(Place::serve);
    for version in ["tls1.2", "tls1.3"] {
        let dialer = TlsDialer::trusting(&ca, "shop.example.com").only(version);
        let resumed = routers
            .each_ref()
            .map(|router| handshake(router.client, &dialer).resumed);
        assert_eq!(resumed, [false, true, false], "{version}");
    }
}
