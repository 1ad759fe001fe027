//! Log lines: whatever strangers put into a request, it is one line of UTF-8, a strict reader finds every field in its place, and
//! unescaped values are the bytes that came. The JSON form is one object.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use router_model::app::DynoName;
use router_model::failure::Failure;
use router_model::log_line::{LogLine, Protocol};
use router_model::request_id::RequestId;
use router_model::verdict;

#[derive(Debug, Arbitrary)]
struct Facts<'a> {
    path: &'a [u8],
    host: &'a [u8],
    method: &'a [u8],
    forwarded_for: &'a [u8],
    request_id: &'a [u8],
    random: [u8; 16],
    dyno: &'a str,
    failure: Option<u8>,
    ended: u64,
    connect: Option<u64>,
    service: Option<u64>,
    status: Option<u16>,
    bytes: u64,
    protocol: u8,
    tls: bool,
}

fuzz_target!(|facts: Facts<'_>| {
    let request_id = RequestId::from_client(facts.request_id)
        .unwrap_or_else(|| RequestId::generate(facts.random));
    let dyno = DynoName::parse(facts.dyno).ok();
    let Some(ended) = UNIX_EPOCH.checked_add(Duration::from_micros(facts.ended)) else {
        return;
    };
    let line = LogLine {
        ended,
        app: "shop",
        failure: facts
            .failure
            .map(|index| Failure::ALL[usize::from(index) % Failure::ALL.len()]),
        method: facts.method,
        path: facts.path,
        host: facts.host,
        request_id: request_id.as_str(),
        forwarded_for: facts.forwarded_for,
        dyno: dyno.as_ref().map(DynoName::as_str),
        connect: facts.connect.map(Duration::from_micros),
        service: facts.service.map(Duration::from_micros),
        status: facts.status,
        bytes: facts.bytes,
        protocol: [Protocol::Http10, Protocol::Http11, Protocol::Http2]
            [usize::from(facts.protocol % 3)],
        tls: facts.tls.then_some("tls1.3"),
        agent: Some(facts.path),
    };
    check_heroku(&line);
    check_json(&line);
});

fn check_heroku(line: &LogLine<'_>) {
    let mut out = Vec::new();
    line.write_heroku(&mut out);
    let text = String::from_utf8(out).expect("UTF-8");
    let text = text.strip_suffix('\n').expect("a line ends in a line feed");
    assert!(!text.contains(char::is_control), "{text:?}");
    let (time, rest) = text.split_at(32);
    let shape: String = time
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000+00:00");

    let mut reader = Reader(rest.strip_prefix(" heroku[router]:").expect("the prefix"));
    let row = line.failure.map(verdict::of);
    if let Some(sock) = row.and_then(|row| row.sock) {
        reader.bare("sock", sock.as_bytes());
    }
    reader.bare(
        "at",
        row.map_or("info", |row| row.severity.as_str()).as_bytes(),
    );
    if let Some(row) = row {
        if let Some(code) = row.code {
            reader.bare("code", code.as_bytes());
        }
        reader.quoted("desc", row.desc.as_bytes());
        if let Some(cause) = row.cause {
            reader.quoted("cause", cause.as_bytes());
        }
    }
    reader.bare("method", line.method);
    reader.quoted("path", line.path);
    reader.bare("host", line.host);
    reader.bare("request_id", line.request_id.as_bytes());
    reader.quoted("fwd", line.forwarded_for);
    reader.bare("dyno", line.dyno.unwrap_or_default().as_bytes());
    let ms = |duration: Option<Duration>| {
        duration.map_or_else(String::new, |d| format!("{}ms", d.as_millis()))
    };
    reader.bare("connect", ms(line.connect).as_bytes());
    reader.bare("service", ms(line.service).as_bytes());
    reader.bare(
        "status",
        line.status
            .map_or_else(String::new, |status| status.to_string())
            .as_bytes(),
    );
    reader.bare("bytes", line.bytes.to_string().as_bytes());
    reader.bare("protocol", line.protocol.as_str().as_bytes());
    reader.bare("tls", line.tls.is_some().to_string().as_bytes());
    if let Some(version) = line.tls {
        reader.bare("tls_version", version.as_bytes());
    }
    if line.failure == Some(Failure::Misdirected) {
        reader.quoted("agent", line.agent.unwrap_or_default());
    }
    assert_eq!(reader.0, "", "something stands behind the last field");
}

/// Reads one field after another and knows nothing of what the line should hold.
struct Reader<'a>(&'a str);

impl Reader<'_> {
    fn name(&mut self, name: &str) {
        let rest = self
            .0
            .strip_prefix(' ')
            .and_then(|rest| rest.strip_prefix(name))
            .and_then(|rest| rest.strip_prefix('='));
        self.0 = rest.unwrap_or_else(|| panic!("{name}= expected at {:?}", self.0));
    }

    fn bare(&mut self, name: &str, expected: &[u8]) {
        self.name(name);
        let (value, rest) = self.0.split_at(self.0.find(' ').unwrap_or(self.0.len()));
        self.0 = rest;
        assert!(
            name == "request_id" || !value.contains('='),
            "{value} could be taken for a field"
        );
        assert_eq!(unescape(value), expected, "{name}");
    }

    fn quoted(&mut self, name: &str, expected: &[u8]) {
        self.name(name);
        let inner = self.0.strip_prefix('"').expect("an opening quote");
        let mut escaped = false;
        let end = inner.bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let (value, rest) = inner.split_at(end.expect("a closing quote"));
        self.0 = &rest[1..];
        assert_eq!(unescape(value), expected, "{name}");
    }
}

fn unescape(value: &str) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), value.bytes());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next().expect("something is escaped") {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [
                        bytes.next().expect("a digit"),
                        bytes.next().expect("a digit"),
                    ];
                    u8::from_str_radix(std::str::from_utf8(&digits).expect("ASCII"), 16)
                        .expect("two hex digits")
                }
                same @ (b'"' | b'\\') => same,
                other => panic!("unknown escape {other:#x} in {value:?}"),
            },
            b'"' => panic!("a quote that is not escaped in {value:?}"),
            byte => byte,
        });
    }
    out
}

fn check_json(line: &LogLine<'_>) {
    let mut out = Vec::new();
    line.write_json(&mut out);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(!out.contains(&b'\n'));
    let value: serde_json::Value = serde_json::from_slice(&out).expect("one JSON object");
    assert_eq!(value["path"], String::from_utf8_lossy(line.path).as_ref());
    assert_eq!(value["host"], String::from_utf8_lossy(line.host).as_ref());
    assert_eq!(value["bytes"], line.bytes);
    assert_eq!(value["request_id"], line.request_id);
}
