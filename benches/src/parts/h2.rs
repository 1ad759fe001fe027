//! The same for HTTP/2: the fields that the h2 library gives become a head, and heads become fields for it. HPACK and frames
//! are the library's, so that they show in the whole path only. The meter walks over the bytes of every connection.

use std::hint::black_box;

use http::request::Parts;
use router_core::model::admission;
use router_core::model::forward::{self, ForwardedFor};
use router_core::model::h1::HeadLimits;
use router_core::model::h2;
use router_core::model::h2::meter::Meter;
use router_core::model::limits::{Http2Limits, Limits};
use router_core::model::request_id::RequestId;
use router_core::model::response;

use super::heads::{self, BROWSER, CURL};
use super::{Part, forever};

pub(super) fn requests() -> Vec<Part> {
    let mut parts: Vec<Part> = [("h2-request-curl", CURL), ("h2-request-browser", BROWSER)]
        .into_iter()
        .flat_map(|(group, bytes)| request(group, bytes))
        .collect();
    parts.push(Part::new("h2/meter", meter));
    parts
}

fn request(group: &str, bytes: &'static [u8]) -> [Part; 2] {
    let take_in = Part::new(format!("{group}/in"), move || {
        let (parts, limits) = (fields_of(bytes), HeadLimits::request(&Limits::default()));
        move || {
            let head = h2::request_head(black_box(&parts), true, None, "", &limits);
            black_box(head.is_ok());
        }
    });
    // For a dyno that speaks HTTP/2.
    let give_out = Part::new(format!("{group}/out"), move || {
        let limits = HeadLimits::request(&Limits::default());
        let head = forever(h2::request_head(&fields_of(bytes), true, None, "", &limits).unwrap());
        let admitted = admission::admit(head).unwrap();
        move || {
            let request_id = RequestId::generate(fastrand::u128(..).to_le_bytes());
            let forwarded_for = ForwardedFor::of(head.fields(), heads::CLIENT);
            let ours = heads::request_fields(&forwarded_for, &request_id);
            let request = forward::h2_request(black_box(head), &admitted, &ours, "http");
            black_box(request.is_some());
        }
    });
    [take_in, give_out].map(|part| part.bytes(bytes.len()))
}

pub(super) fn responses() -> Vec<Part> {
    let take_in = Part::new("h2-response/in", || {
        let head = heads::response_head();
        let judged = response::judge(&head, false, false).unwrap();
        let (parts, ()) =
            forward::h2_response(&head, &heads::response_fields(&judged)).into_parts();
        let limits = HeadLimits::response(&Limits::default());
        move || {
            let head = h2::response_head(parts.status, black_box(&parts.headers), false, &limits);
            black_box(head.is_ok());
        }
    });
    let give_out = Part::new("h2-response/out", || {
        let head = heads::response_head();
        let judged = response::judge(&head, false, false).unwrap();
        move || {
            let ours = heads::response_fields(&judged);
            drop(black_box(forward::h2_response(black_box(&head), &ours)));
        }
    });
    vec![take_in, give_out]
}

/// What a request of HTTP/1 is in HTTP/2.
fn fields_of(bytes: &[u8]) -> Parts {
    let text = std::str::from_utf8(bytes).unwrap();
    let mut lines = text.lines().take_while(|line| !line.is_empty());
    let target = lines.next().unwrap().split(' ').nth(1).unwrap();
    let mut request = http::Request::get(format!("https://shop.example.com{target}"));
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        if !["Host", "Connection"].contains(&name) {
            request = request.header(name, value);
        }
    }
    let request = request.version(http::Version::HTTP_2);
    request.body(()).unwrap().into_parts().0
}

/// One read and one write of a connection: the HEADERS of four streams, each with a WINDOW_UPDATE, and four answers of
/// HEADERS and DATA.
fn meter() -> impl FnMut() {
    const HEADERS: u8 = 1;
    const DATA: u8 = 0;
    const WINDOW_UPDATE: u8 = 8;
    const END: u8 = 5;
    let (mut came, mut went) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        came.extend(frame(HEADERS, END, 60));
        came.extend(frame(WINDOW_UPDATE, 0, 4));
        went.extend(frame(HEADERS, END, 90));
        went.extend(frame(DATA, END, 1000));
    }
    let mut meter = Meter::new(&Http2Limits::default(), 0);
    meter
        .received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0)
        .unwrap();
    let mut now = 0;
    move || {
        now += 1;
        meter.received(black_box(&came), now).unwrap();
        meter.sent(black_box(&went));
    }
}

fn frame(kind: u8, flags: u8, length: u16) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let mut frame = vec![0, high, low, kind, flags, 0, 0, 0, 1];
    frame.resize(frame.len() + usize::from(length), 7);
    frame
}
