//! What is done with the bytes of an HTTP/1 head, stage by stage and all at once, for curl's request and for a browser's:
//! parse, admit, write what the dyno gets; parse, judge, write what the client gets.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use bytes::BytesMut;
use router_core::model::admission::{self, Admitted};
use router_core::model::forward::{self, ForwardedFor, RequestFields, ResponseFields};
use router_core::model::h1::{HeadLimits, HeadParser, RequestHead, ResponseHead};
use router_core::model::limits::Limits;
use router_core::model::request_id::RequestId;
use router_core::model::response::{self, Judged};

use super::{Part, forever};

pub(super) const CURL: &[u8] = b"GET /items?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: curl/8.9.1\r\nAccept: */*\r\n\r\n";

pub(super) const BROWSER: &[u8] = b"GET /assets/app-3f9c.js?v=20260901 HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n\
sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
Accept: */*\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n\
Referer: https://shop.example.com/cart\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Cookie: session=eyJ1c2VyIjo0MiwiY2FydCI6WzEsMiwzXX0.aGVsbG8td29ybGQtdGhpcy1pcy1hLXNpZ25hdHVyZQ; theme=dark; consent=2026-01-02\r\n\
If-None-Match: W/\"3f9c-18c\"\r\n\r\n";

pub(super) const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 1256\r\n\
ETag: W/\"4e8-Xk2bR5c\"\r\nVary: Accept-Encoding\r\nCache-Control: private, max-age=0\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n";

pub(super) const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)));

pub(super) fn requests() -> Vec<Part> {
    [("request-curl", CURL), ("request-browser", BROWSER)]
        .into_iter()
        .flat_map(|(group, bytes)| request(group, bytes))
        .collect()
}

fn request(group: &str, bytes: &'static [u8]) -> [Part; 4] {
    let name = |what: &str| format!("{group}/{what}");
    let parse = Part::new(name("parse"), move || {
        let mut reader = Reader::of(bytes);
        move || drop(black_box(reader.request()))
    });
    let admit = Part::new(name("admit"), move || {
        let head = Reader::of(bytes).request();
        move || drop(black_box(admission::admit(black_box(&head)).unwrap()))
    });
    let write = Part::new(name("write"), move || {
        let head = forever(Reader::of(bytes).request());
        let admitted = admission::admit(head).unwrap();
        let mut writer = Writer::default();
        move || writer.request(black_box(head), &admitted)
    });
    let whole = Part::new(name("all"), move || {
        let (mut reader, mut writer) = (Reader::of(bytes), Writer::default());
        move || {
            let head = reader.request();
            let admitted = admission::admit(&head).unwrap();
            writer.request(&head, &admitted);
        }
    });
    [parse, admit, write, whole].map(|part| part.bytes(bytes.len()))
}

pub(super) fn responses() -> Vec<Part> {
    let parse = Part::new("response/parse", || {
        let mut reader = Reader::response_of(RESPONSE);
        move || drop(black_box(reader.response()))
    });
    let judge = Part::new("response/judge", || {
        let head = response_head();
        move || {
            let judged = response::judge(black_box(&head), false, false);
            black_box(judged.is_ok());
        }
    });
    let write = Part::new("response/write", || {
        let head = response_head();
        let judged = response::judge(&head, false, false).unwrap();
        let mut writer = Writer::default();
        move || writer.response(black_box(&head), &judged)
    });
    let whole = Part::new("response/all", || {
        let (mut reader, mut writer) = (Reader::response_of(RESPONSE), Writer::default());
        move || {
            let head = reader.response();
            let judged = response::judge(&head, false, false).unwrap();
            writer.response(&head, &judged);
        }
    });
    [parse, judge, write, whole]
        .map(|part| part.bytes(RESPONSE.len()))
        .into()
}

pub(super) fn response_head() -> ResponseHead {
    Reader::response_of(RESPONSE).response()
}

/// Bytes that arrive again and again in one buffer.
struct Reader {
    parser: HeadParser,
    buffer: BytesMut,
    bytes: &'static [u8],
}

impl Reader {
    fn of(bytes: &'static [u8]) -> Self {
        let limits = HeadLimits::request(&Limits::default());
        Self {
            parser: HeadParser::request(limits),
            buffer: BytesMut::new(),
            bytes,
        }
    }

    fn response_of(bytes: &'static [u8]) -> Self {
        let limits = HeadLimits::response(&Limits::default());
        Self {
            parser: HeadParser::response(limits),
            ..Self::of(bytes)
        }
    }

    fn request(&mut self) -> RequestHead {
        self.buffer.extend_from_slice(black_box(self.bytes));
        self.parser.take_request(&mut self.buffer).unwrap().unwrap()
    }

    fn response(&mut self) -> ResponseHead {
        self.buffer.extend_from_slice(black_box(self.bytes));
        self.parser
            .take_response(&mut self.buffer)
            .unwrap()
            .unwrap()
    }
}

/// What goes out, in a buffer of its own.
#[derive(Default)]
struct Writer {
    out: BytesMut,
}

impl Writer {
    fn request(&mut self, head: &RequestHead, admitted: &Admitted<'_>) {
        let request_id = RequestId::generate(fastrand::u128(..).to_le_bytes());
        let forwarded_for = ForwardedFor::of(head.fields(), CLIENT);
        let ours = request_fields(&forwarded_for, &request_id);
        self.out.clear();
        forward::write_request(head, admitted, &ours, &mut self.out);
        black_box(self.out.len());
    }

    fn response(&mut self, head: &ResponseHead, judged: &Judged) {
        self.out.clear();
        forward::write_response(head, &response_fields(judged), &mut self.out);
        black_box(self.out.len());
    }
}

pub(super) fn request_fields<'a>(
    forwarded_for: &'a ForwardedFor,
    request_id: &'a RequestId,
) -> RequestFields<'a> {
    RequestFields {
        forwarded_for: forwarded_for.as_bytes(),
        proto: "http",
        port: 80,
        request_start: 1_767_225_600_123,
        request_id: request_id.as_str(),
        via: "1.1 router",
        keep_alive: true,
        pass_expect: false,
        believed: forward::Believed::default(),
    }
}

pub(super) fn response_fields(judged: &Judged) -> ResponseFields<'static> {
    ResponseFields {
        via: "1.1 router",
        server: "router",
        date: "Thu, 01 Jan 2026 00:00:00 GMT",
        keep_alive: true,
        to_http10: false,
        set_cookie: None,
        hsts: None,
        framing: judged.framing,
        nominates: judged.nominates,
    }
}
