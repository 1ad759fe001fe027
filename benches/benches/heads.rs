//! What is done with the bytes of a head, stage by stage and all at once, for a browser's request and for curl's: parse, admit, write what the
//! dyno gets; parse, judge, write what the client gets.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench: a surprise must end it at once"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use bytes::BytesMut;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use router_core::model::admission::{self, Admitted};
use router_core::model::forward::{self, ForwardedFor, RequestFields, ResponseFields};
use router_core::model::h1::{HeadLimits, HeadParser, RequestHead, ResponseHead};
use router_core::model::limits::Limits;
use router_core::model::request_id::RequestId;
use router_core::model::response::{self, Judged};

const CURL: &[u8] = b"GET /items?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.9.1\r\nAccept: */*\r\n\r\n";

const BROWSER: &[u8] = b"GET /assets/app-3f9c.js?v=20260901 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
Accept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n\
Referer: https://shop.example.com/cart\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: session=eyJ1c2VyIjo0MiwiY2FydCI6WzEsMiwzXX0.aGVsbG8td29ybGQtdGhpcy1pcy1hLXNpZ25hdHVyZQ; theme=dark; consent=2026-01-02\r\n\
If-None-Match: W/\"3f9c-18c\"\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 1256\r\n\
ETag: W/\"4e8-Xk2bR5c\"\r\nVary: Accept-Encoding\r\nCache-Control: private, max-age=0\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n";

const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)));

/// Bytes arrive in a buffer that is used again and again, as on a connection.
fn parse_request(parser: &mut HeadParser, buffer: &mut BytesMut, bytes: &[u8]) -> RequestHead {
    buffer.extend_from_slice(black_box(bytes));
    parser.take_request(buffer).unwrap().unwrap()
}

fn parse_response(parser: &mut HeadParser, buffer: &mut BytesMut) -> ResponseHead {
    buffer.extend_from_slice(black_box(RESPONSE));
    parser.take_response(buffer).unwrap().unwrap()
}

fn write_request(head: &RequestHead, admitted: &Admitted<'_>, out: &mut BytesMut) {
    let request_id = RequestId::generate(fastrand::u128(..).to_le_bytes());
    let forwarded_for = ForwardedFor::of(head.fields(), CLIENT);
    let ours = RequestFields {
        forwarded_for: forwarded_for.as_bytes(),
        proto: "http",
        port: 80,
        request_start: 1_767_225_600_123,
        request_id: request_id.as_str(),
        via: "1.1 router",
        keep_alive: true,
        pass_expect: false,
        believed: forward::Believed::default(),
    };
    out.clear();
    forward::write_request(head, admitted, &ours, out);
}

fn write_response(head: &ResponseHead, judged: &Judged, out: &mut BytesMut) {
    let ours = ResponseFields {
        via: "1.1 router",
        server: "router",
        date: "Thu, 01 Jan 2026 00:00:00 GMT",
        keep_alive: true,
        to_http10: false,
        set_cookie: None,
        hsts: None,
        framing: judged.framing,
        nominates: judged.nominates,
    };
    out.clear();
    forward::write_response(head, &ours, out);
}

fn request_heads(group: &mut BenchmarkGroup<'_, WallTime>, bytes: &[u8]) {
    let mut parser = HeadParser::request(HeadLimits::request(&Limits::default()));
    let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| parse_request(&mut parser, &mut buffer, bytes));
    });
    let head = parse_request(&mut parser, &mut buffer, bytes);
    group.bench_function("admit", |bencher| {
        bencher.iter(|| admission::admit(black_box(&head)).unwrap().keep_alive);
    });
    let admitted = admission::admit(&head).unwrap();
    group.bench_function("write", |bencher| {
        bencher.iter(|| write_request(black_box(&head), &admitted, &mut out));
    });
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            let head = parse_request(&mut parser, &mut buffer, bytes);
            let admitted = admission::admit(&head).unwrap();
            write_request(&head, &admitted, &mut out);
            black_box(out.len())
        });
    });
}

fn response_heads(group: &mut BenchmarkGroup<'_, WallTime>) {
    let mut parser = HeadParser::response(HeadLimits::response(&Limits::default()));
    let (mut buffer, mut out) = (BytesMut::new(), BytesMut::new());
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| parse_response(&mut parser, &mut buffer));
    });
    let head = parse_response(&mut parser, &mut buffer);
    group.bench_function("judge", |bencher| {
        bencher.iter(|| response::judge(black_box(&head), false, false));
    });
    let judged = response::judge(&head, false, false).unwrap();
    group.bench_function("write", |bencher| {
        bencher.iter(|| write_response(black_box(&head), &judged, &mut out));
    });
    group.bench_function("all", |bencher| {
        bencher.iter(|| {
            let head = parse_response(&mut parser, &mut buffer);
            let judged = response::judge(&head, false, false).unwrap();
            write_response(&head, &judged, &mut out);
            black_box(out.len())
        });
    });
}

fn heads(criterion: &mut Criterion) {
    for (name, bytes) in [("request-curl", CURL), ("request-browser", BROWSER)] {
        let mut group = criterion.benchmark_group(name);
        request_heads(&mut group, bytes);
        group.finish();
    }
    let mut group = criterion.benchmark_group("response");
    response_heads(&mut group);
    group.finish();
}

fn main() {
    let mut criterion = router_benches::criterion();
    heads(&mut criterion);
    criterion.final_summary();
}
