//! The log line of an answered request and of one that failed, in both formats.

use std::hint::black_box;
use std::time::{Duration, UNIX_EPOCH};

use router_core::model::failure::Failure;
use router_core::model::log_line::{LogLine, Protocol};

use super::Part;

const ANSWERED: LogLine<'_> = LogLine {
    ended: UNIX_EPOCH,
    app: "shop",
    failure: None,
    method: b"GET",
    path: b"/assets/app-3f9c.js?v=20260901",
    host: b"shop.example.com",
    request_id: "0f5d4f5a-9c3e-4d0e-8f5e-1a2b3c4d5e6f",
    forwarded_for: b"203.0.113.7",
    dyno: Some("web.1"),
    connect: Some(Duration::ZERO),
    service: Some(Duration::from_millis(18)),
    status: Some(200),
    bytes: 1256,
    protocol: Protocol::Http11,
    tls: None,
    agent: None,
};

type Write = fn(&LogLine<'_>, &mut Vec<u8>);

pub(super) fn all() -> Vec<Part> {
    let failed = LogLine {
        failure: Some(Failure::RequestTimeout),
        service: Some(Duration::from_secs(30)),
        status: Some(503),
        ..ANSWERED
    };
    let heroku: Write = |line, out| line.write_heroku(out);
    let json: Write = |line, out| line.write_json(out);
    let mut parts = Vec::new();
    for (outcome, line) in [("answered", ANSWERED), ("failed", failed)] {
        for (format, write) in [("heroku", heroku), ("json", json)] {
            let name = format!("log-line/{format}/{outcome}");
            parts.push(Part::new(name, move || written(line, write)));
        }
    }
    parts
}

/// A line every 137 microseconds.
fn written(line: LogLine<'static>, write: Write) -> impl FnMut() {
    let mut out = Vec::new();
    let mut ended = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    move || {
        ended += Duration::from_micros(137);
        out.clear();
        write(black_box(&LogLine { ended, ..line }), &mut out);
        black_box(out.len());
    }
}
