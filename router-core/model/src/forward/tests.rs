//! Heads as they leave, and the properties that hold for any of them.

use std::net::IpAddr;

use http::HeaderName;
use proptest::prelude::*;

use super::*;
use crate::admission::admit;
use crate::h1::{HeadLimits, HeadParser};
use crate::limits::Limits;
use crate::response::judge;

fn parse(bytes: &[u8]) -> Option<RequestHead> {
    HeadParser::request(HeadLimits::request(&Limits::default()))
        .take_request(&mut BytesMut::from(bytes))
        .ok()?
}

fn ours<'a>(forwarded_for: &'a [u8]) -> RequestFields<'a> {
    RequestFields {
        forwarded_for,
        proto: "http",
        port: 8080,
        request_start: 1_700_000_000_123,
        request_id: "id",
        via: "1.1 router",
        keep_alive: true,
        pass_expect: false,
        believed: Believed::default(),
    }
}

fn forwarded(request: &str) -> String {
    let head = parse(request.as_bytes()).unwrap();
    let admitted = admit(&head).unwrap();
    let list = ForwardedFor::of(head.fields(), Some("203.0.113.7".parse().unwrap()));
    let mut out = BytesMut::new();
    write_request(&head, &admitted, &ours(list.as_bytes()), &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

const ADDED: &str = "X-Forwarded-Proto: http\r\nX-Forwarded-Port: 8080\r\nX-Request-Start: 1700000000123\r\nX-Request-Id: id\r\n";

#[test]
fn a_request_is_rewritten() {
    assert_eq!(
        forwarded(
            "GET /x?y#z HTTP/1.0\r\nAccept: */*\r\nHOST: Shop.Test:81\r\ncookie: a=b\r\n\r\n"
        ),
        format!(
            "GET /x?y HTTP/1.1\r\nHost: Shop.Test:81\r\nAccept: */*\r\ncookie: a=b\r\nX-Forwarded-For: 203.0.113.7\r\n{ADDED}Via: 1.1 router\r\nConnection: keep-alive\r\n\r\n"
        )
    );
}

#[test]
fn lines_are_written_in_one_way_however_they_came() {
    assert_eq!(
        forwarded(
            "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB:2\r\nC:  3\r\nD:\t4\r\nE: 5 \r\nF: 6\t\r\nG:\r\nH: \r\nI:  \r\nJ: 7\r\nTE: x\r\nK: 8\r\n\r\n"
        ),
        format!(
            "GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\nE: 5\r\nF: 6\r\nG: \r\nH: \r\nI: \r\nJ: 7\r\nK: 8\r\nX-Forwarded-For: 203.0.113.7\r\n{ADDED}Via: 1.1 router\r\nConnection: keep-alive\r\n\r\n"
        )
    );
}

#[test]
fn every_router_field_is_sent_once_whatever_the_client_sent() {
    assert_eq!(
        forwarded(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\nx-forwarded-proto: x\r\nX-Forwarded-Port: 1\r\nX-Request-Id: a\r\nX-Request-Id: b\r\nX-Request-Start: 5\r\nX_Forwarded_For: 9.9.9.9\r\nVia: 1.0 one\r\nX-Forwarded-For: 2.2.2.2\r\nVia: 1.1 two\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 203.0.113.7\r\n{ADDED}Via: 1.0 one, 1.1 two, 1.1 router\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n"
        )
    );
}

#[test]
fn hop_by_hop_fields_stay_here_and_protected_ones_cannot_be_nominated_away() {
    let out = forwarded(
        "PUT / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-hop, host, content-length, x-request-id, via, X-Forwarded-For, X-Forwarded-Host\r\nX-Forwarded-Host: h\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nTrailer: z\r\nUpgrade: w\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
    );
    for gone in [
        "x-hop",
        "Keep-Alive:",
        "TE:",
        "Proxy-",
        "Trailer",
        "Upgrade",
        "Expect",
    ] {
        assert!(
            !out.to_ascii_lowercase()
                .contains(&gone.to_ascii_lowercase()),
            "{gone} in {out}"
        );
    }
    for kept in [
        "Host: a\r\n",
        "Content-Length: 1\r\n",
        "X-Request-Id: id\r\n",
        "X-Forwarded-For: 203.0.113.7\r\n",
        "Via: 1.1 router\r\n",
        "X-Forwarded-Host: h\r\n",
    ] {
        assert!(out.contains(kept), "{kept} not in {out}");
    }
}

#[test]
fn upgrades_chunks_and_empty_bodies() {
    let upgrade = forwarded(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n",
    );
    assert!(
        upgrade.contains("Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n")
            && upgrade.contains("Connection: Upgrade\r\n")
    );
    let chunked =
        forwarded("POST / HTTP/1.1\r\nHost: a\r\nTrailer: x\r\nTransfer-Encoding: CHUNKED\r\n\r\n");
    assert!(
        chunked.contains("Trailer: x\r\n")
            && chunked.ends_with("Transfer-Encoding: chunked\r\n\r\n")
    );
    assert!(forwarded("POST / HTTP/1.1\r\nHost: a\r\n\r\n").ends_with("Content-Length: 0\r\n\r\n"));
    assert!(!forwarded("GET / HTTP/1.1\r\nHost: a\r\n\r\n").contains("Content-Length"));
}

fn respond(text: &str, to_head: bool, to_http10: bool) -> String {
    let mut buffer = BytesMut::from(text.as_bytes());
    let head = HeadParser::response(HeadLimits::response(&Limits::default()))
        .take_response(&mut buffer)
        .unwrap()
        .unwrap();
    let judged = judge(&head, to_head, true).unwrap();
    let mut out = BytesMut::new();
    let ours = ResponseFields {
        via: "1.1 router",
        server: "router",
        date: "today",
        keep_alive: true,
        to_http10,
        set_cookie: None,
        hsts: None,
        framing: judged.framing,
        nominates: judged.nominates,
    };
    write_response(&head, &ours, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

#[test]
fn responses_are_rewritten() {
    assert_eq!(
        respond(
            "HTTP/1.0 200 Fine\r\nSet-Cookie: a\r\nX-Hop: 1\r\nSet-Cookie: b\r\nConnection: x-hop\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\nVia: 1.1 app\r\n\r\n",
            false,
            false
        ),
        "HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 2\r\nServer: router\r\nDate: today\r\nVia: 1.1 app, 1.1 router\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        respond(
            "HTTP/1.1 200\r\nserver: app\r\ndate: d\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            false
        ),
        "HTTP/1.1 200 \r\nserver: app\r\ndate: d\r\nTransfer-Encoding: chunked\r\nVia: 1.1 router\r\nConnection: keep-alive\r\n\r\n"
    );
    let to_http10 = respond(
        "HTTP/1.1 200 OK\r\nserver: app\r\ndate: d\r\nTransfer-Encoding: chunked\r\n\r\n",
        false,
        true,
    );
    assert!(!to_http10.contains("chunked"));
    let to_head = respond(
        "HTTP/1.1 200 OK\r\nserver: app\r\ndate: d\r\nContent-Length: 10\r\n\r\n",
        true,
        false,
    );
    assert!(to_head.contains("Content-Length: 10\r\n"));
    let switched = respond(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        false,
        false,
    );
    assert!(
        switched.contains("Upgrade: websocket\r\n") && switched.contains("Connection: Upgrade\r\n")
    );
}

proptest! {
    /// Whatever well-formed fields a client sends, the dyno reads one value of each router field and one framing, and
    /// our own parser admits what we send.
    #[test]
    fn what_we_forward_is_clean(
        fields in proptest::collection::vec(
            (prop_oneof![
                Just("X-Forwarded-For".to_owned()), Just("X-Request-Id".to_owned()), Just("Connection".to_owned()), Just("Via".to_owned()),
                Just("X-Forwarded-Proto".to_owned()), Just("TE".to_owned()), Just("Keep-Alive".to_owned()), Just("Upgrade".to_owned()),
                Just("Content-Length".to_owned()), Just("Transfer-Encoding".to_owned()), Just("X_Forwarded_For".to_owned()), "[A-Za-z-]{1,12}"
            ], "[ -~]{0,12}"), 0..12),
    ) {
        let mut text = String::from("POST /p HTTP/1.1\r\nHost: a.test\r\n");
        for (name, value) in &fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let Some(head) = parse(text.as_bytes()) else { return Ok(()) };
        let Ok(admitted) = admit(&head) else { return Ok(()) };
        let mut out = BytesMut::new();
        write_request(&head, &admitted, &ours(b"203.0.113.7"), &mut out);
        let sent = parse(&out).expect("what we send is well formed");
        let again = admit(&sent).expect("what we send is admitted");
        prop_assert_eq!(again.framing.has_body(), admitted.framing.has_body());
        for id in [FieldId::Host, FieldId::XForwardedFor, FieldId::XForwardedPort, FieldId::XForwardedProto, FieldId::XRequestId, FieldId::XRequestStart, FieldId::Via, FieldId::Connection] {
            prop_assert_eq!(sent.fields().values(id).count(), 1, "{:?}", id);
        }
        let framings = sent.fields().values(FieldId::ContentLength).count() + sent.fields().values(FieldId::TransferEncoding).count();
        prop_assert_eq!(framings, usize::from(!admitted.upgrade || admitted.framing != Framing::None));
        for id in [FieldId::KeepAlive, FieldId::Te, FieldId::ProxyAuthorization, FieldId::ProxyConnection, FieldId::Alias, FieldId::Expect] {
            prop_assert_eq!(sent.fields().values(id).count(), 0, "{:?}", id);
        }
    }
}

#[test]
fn a_trusted_proxy_is_believed_where_it_can_be_read() {
    for (fields, believed) in [
        ("", Believed::default()),
        (
            "X-Forwarded-Proto: HTTPS\r\nX-Forwarded-Port: 443\r\nX-Request-Start: t=1700000000.123\r\n",
            Believed {
                proto: Some("https"),
                port: Some(443),
                request_start: Some(b"t=1700000000.123"),
            },
        ),
        (
            "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\nX-Request-Start: 17\r\n",
            Believed {
                proto: Some("https"),
                port: None,
                request_start: Some(b"17"),
            },
        ),
        (
            "X-Forwarded-Proto: ftp\r\nX-Forwarded-Port: 70000\r\nX-Request-Start: now\r\n",
            Believed::default(),
        ),
        (
            "X-Forwarded-Proto: http, wss\r\nX-Forwarded-Port: +80\r\nX-Request-Start: 1.1.1\r\n",
            Believed {
                proto: Some("https"),
                ..Believed::default()
            },
        ),
    ] {
        let head = parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(Believed::of(head.fields()), believed, "{fields}");
    }
}

#[test]
fn the_client_stands_left_of_the_trusted_proxies() {
    for (peer, listed, client) in [
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.1", "6.6.6.6, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.7:5678, 10.0.0.2:99", "203.0.113.7"),
        ("10.0.0.1", "[2001:db8::7]:5678", "2001:db8::7"),
        ("198.51.100.1", "203.0.113.7", "198.51.100.1"),
        ("::ffff:10.0.0.1", "2001:db8::7", "2001:db8::7"),
    ] {
        let head = parse(
            format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {listed}\r\n\r\n").as_bytes(),
        );
        let head = head.unwrap();
        let trusted = |address: IpAddr| address.to_string().starts_with("10.");
        let found = client_address(head.fields(), Some(peer.parse().unwrap()), trusted);
        assert_eq!(found, Some(client.parse().unwrap()), "{peer} {listed}");
    }
}

#[test]
fn forwarded_is_taken_out() {
    let out = forwarded("GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=6.6.6.6;proto=https\r\n\r\n");
    assert!(
        !out.to_ascii_lowercase().contains("forwarded: for"),
        "{out}"
    );
}

#[test]
fn a_request_for_an_http2_dyno() {
    let head = parse(
        b"POST /a?b HTTP/1.1\r\nHost: shop.test\r\nTE: gzip, trailers\r\nConnection: keep-alive\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n",
    )
    .unwrap();
    let admitted = admit(&head).unwrap();
    let request = h2_request(&head, &admitted, &ours(b"203.0.113.7"), "http").unwrap();
    assert_eq!(request.uri(), "http://shop.test/a?b");
    let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(
        names,
        [
            "te",
            "x-a",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-port",
            "x-request-start",
            "x-request-id",
            "via"
        ]
    );
    assert_eq!(request.headers()["te"], "trailers");
}
