//! Fields that are made for each request: its ID, a fresh one or the client's, and X-Forwarded-For, alone and behind what
//! other proxies said.

use std::hint::black_box;

use bytes::BytesMut;
use router_core::model::forward::ForwardedFor;
use router_core::model::h1::{HeadLimits, HeadParser, RequestHead};
use router_core::model::limits::Limits;
use router_core::model::request_id::RequestId;

use super::Part;
use super::heads::CLIENT;

pub(super) fn all() -> Vec<Part> {
    let generate = Part::new("request-id/generate", || {
        || {
            let id = RequestId::generate(fastrand::u128(..).to_le_bytes());
            black_box(id.as_str().len());
        }
    });
    let accept = Part::new("request-id/of-the-client", || {
        || {
            let id = RequestId::from_client(black_box(b"0f5d4f5a-9c3e-4d0e-8f5e-1a2b3c4d5e6f"));
            black_box(id.is_some());
        }
    });
    let alone = Part::new("forwarded-for/alone", || forwarded_for("Accept: */*"));
    let behind = Part::new("forwarded-for/behind-others", || {
        forwarded_for("X-Forwarded-For: 198.51.100.17, 192.0.2.44")
    });
    vec![generate, accept, alone, behind]
}

fn forwarded_for(line: &str) -> impl FnMut() + use<> {
    let head = head(line);
    move || {
        let forwarded_for = ForwardedFor::of(black_box(head.fields()), CLIENT);
        black_box(forwarded_for.as_bytes().len());
    }
}

fn head(line: &str) -> RequestHead {
    let text = format!("GET / HTTP/1.1\r\nHost: shop.example.com\r\n{line}\r\n\r\n");
    let mut parser = HeadParser::request(HeadLimits::request(&Limits::default()));
    let head = parser.take_request(&mut BytesMut::from(text.as_str()));
    head.unwrap().unwrap()
}
