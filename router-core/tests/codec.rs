//! Our HTTP/1 codec beside hyper's: what we admit and pass on, hyper reads the same way; and the facts about hyper on
//! which ADR 0008 rests, so that it is seen when they change.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use router_core::model::admission::admit;
use router_core::model::forward::{Believed, RequestFields, write_request};
use router_core::model::h1::chunked::ChunkLimits;
use router_core::model::h1::{BodyDecoder, HeadLimits, HeadParser, Piece, Step};
use router_core::model::limits::Limits;
use tokio::io::AsyncWriteExt;

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// What a hyper server makes of these bytes: the requests it saw whole.
fn hyper_reads(bytes: &[u8]) -> Vec<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        let sink = Arc::clone(&seen);
        let service =
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let sink = Arc::clone(&sink);
                async move {
                    let (head, body) = request.into_parts();
                    if let Ok(body) = body.collect().await {
                        sink.lock().unwrap().push(Seen {
                            method: head.method.to_string(),
                            target: head.uri.to_string(),
                            body: body.to_bytes().to_vec(),
                        });
                    }
                    Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
                }
            });
        let connection = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .max_headers(2000)
            .serve_connection(TokioIo::new(server), service);
        connection.await.ok();
        drop(client);
        Arc::into_inner(seen).unwrap().into_inner().unwrap()
    })
}

/// What we make of them: the bytes that a dyno would get, and the body in them. `None`: refused.
fn we_forward(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let limits = Limits::default();
    let mut buffer = BytesMut::from(bytes);
    let head = HeadParser::request(HeadLimits::request(&limits))
        .take_request(&mut buffer)
        .ok()??;
    let admitted = admit(&head)
        .ok()
        .filter(|admitted| admitted.violation.is_none())?;
    let ours = RequestFields {
        forwarded_for: b"203.0.113.7",
        proto: "http",
        port: 80,
        request_start: 1,
        request_id: "an-id-of-twenty-bytes",
        via: "1.1 router",
        keep_alive: true,
        pass_expect: false,
        believed: Believed::default(),
    };
    let mut out = BytesMut::new();
    write_request(&head, &admitted, &ours, &mut out);
    let mut decoder = BodyDecoder::new(
        admitted.framing,
        ChunkLimits {
            line: 100,
            trailers: 10,
        },
    );
    let mut body = Vec::new();
    loop {
        match decoder.step(&buffer).ok()? {
            Step::Take { piece, len } => {
                let taken = buffer.split_to(len);
                if piece == Piece::Data {
                    body.extend_from_slice(&taken);
                }
                if piece != Piece::Dropped {
                    out.extend_from_slice(&taken);
                }
            }
            Step::Done => return Some((out.to_vec(), body)),
            Step::NeedMore => return None,
        }
    }
}

#[test]
fn hyper_still_hides_what_adr_0008_says_it_hides() {
    let both = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(hyper_reads(both).len(), 1, "CL and TE together");
    assert!(we_forward(both).is_none());
    let line_feeds = b"GET / HTTP/1.1\nHost: a\n\n";
    assert_eq!(hyper_reads(line_feeds).len(), 1, "bare LF");
    assert!(we_forward(line_feeds).is_none());
    let two_hosts = b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    assert_eq!(hyper_reads(two_hosts).len(), 1, "two Hosts");
    assert!(we_forward(two_hosts).is_none());
}

#[test]
fn both_read_the_same_ordinary_requests() {
    for (bytes, body) in [
        ("GET /a?b=c HTTP/1.1\r\nHost: shop.test\r\n\r\n", ""),
        (
            "POST /x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello",
            "hello",
        ),
        (
            "POST /x HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n",
            "abcde",
        ),
        ("DELETE /x HTTP/1.0\r\nHost: shop.test\r\n\r\n", ""),
    ] {
        let (forwarded, ours) = we_forward(bytes.as_bytes()).unwrap();
        let theirs = hyper_reads(&forwarded);
        assert_eq!(theirs.len(), 1, "{bytes:?}");
        assert_eq!(
            (ours.as_slice(), theirs[0].body.as_slice()),
            (body.as_bytes(), body.as_bytes())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A request that we pass on is one request to hyper, with the method, target and body that we saw: no smuggling
    /// past either.
    #[test]
    fn what_we_pass_on_hyper_reads_as_the_same_one_request(
        method in "(GET|POST|PUT|PURGE|get)",
        target in r"/[a-z0-9?&=%./-]{0,12}",
        version in "1\\.[01]",
        fields in proptest::collection::vec(prop_oneof![
            Just("Content-Length: 3".to_owned()), Just("Content-Length: 0".to_owned()), Just("Content-Length: 3, 3".to_owned()),
            Just("Transfer-Encoding: chunked".to_owned()), Just("Transfer-Encoding:\tchunked".to_owned()), Just("Transfer-Encoding: xchunked".to_owned()),
            Just("Transfer-Encoding : chunked".to_owned()), Just("Transfer_Encoding: chunked".to_owned()), Just("Connection: close".to_owned()),
            Just("Connection: content-length".to_owned()), Just("Connection: transfer-encoding".to_owned()), Just("Expect: 100-continue".to_owned()),
            r"[A-Za-z-]{1,8}: [ -~]{0,10}",
        ], 0..6),
        body in prop_oneof![Just(""), Just("abc"), Just("3\r\nabc\r\n0\r\n\r\n"), Just("0\r\n\r\n"), Just("0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")],
    ) {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        let request = format!("{method} {target} HTTP/{version}\r\nHost: shop.test\r\n{fields}\r\n{body}");
        if let Some((forwarded, ours)) = we_forward(request.as_bytes()) {
            let theirs = hyper_reads(&forwarded);
            prop_assert_eq!(theirs.len(), 1, "{:?}", String::from_utf8_lossy(&forwarded));
            prop_assert_eq!(&theirs[0], &Seen { method, target, body: ours });
        }
    }
}
