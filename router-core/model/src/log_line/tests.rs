//! Exact lines for every error code, and properties over arbitrary bytes.

use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::failure::Failure;

const NEW_YEAR: u64 = 1_767_225_600;

fn base() -> LogLine<'static> {
    LogLine {
        ended: UNIX_EPOCH + Duration::from_secs(NEW_YEAR),
        app: "myapp",
        failure: None,
        method: b"GET",
        path: b"/",
        host: b"myapp.example",
        request_id: "3f336f1a-9be3-4791-afe3-596a1f2a481f",
        forwarded_for: b"203.0.113.7",
        dyno: None,
        connect: None,
        service: None,
        status: Some(200),
        bytes: 0,
        protocol: Protocol::Http11,
        tls: None,
        agent: None,
    }
}

fn served(connect: u64, service: u64, bytes: u64) -> LogLine<'static> {
    LogLine {
        dyno: Some("web.1"),
        connect: Some(Duration::from_millis(connect)),
        service: Some(Duration::from_millis(service)),
        bytes,
        ..base()
    }
}

fn unconnected(connect: u64) -> LogLine<'static> {
    LogLine {
        dyno: Some("web.1"),
        connect: Some(Duration::from_millis(connect)),
        ..base()
    }
}

fn heroku(line: &LogLine<'_>) -> String {
    let mut out = Vec::new();
    line.write_heroku(&mut out);
    String::from_utf8(out).unwrap()
}

fn json_form(line: &LogLine<'_>) -> Value {
    let mut out = Vec::new();
    line.write_json(&mut out);
    assert_eq!(out.pop(), Some(b'\n'));
    assert!(!out.contains(&b'\n'));
    serde_json::from_slice(&out).unwrap()
}

/// Compares what stands between the fixed prefix and the fixed suffix; `R…` is the request ID and the client's address.
fn check(line: &LogLine<'_>, expected: &str) {
    let expected = expected.replace(
        "R…",
        "request_id=3f336f1a-9be3-4791-afe3-596a1f2a481f fwd=\"203.0.113.7\"",
    );
    assert_eq!(
        heroku(line),
        format!(
            "2026-01-01T00:00:00.000000+00:00 heroku[router]: {expected} protocol=http1.1 tls=false\n"
        )
    );
}

fn check_failure(failure: Failure, line: LogLine<'_>, expected: &str) {
    let status = verdict::of(failure).status;
    check(
        &LogLine {
            failure: Some(failure),
            status,
            ..line
        },
        expected,
    );
}

#[test]
fn a_good_request_is_logged_as_in_the_contract() {
    let line = LogLine {
        path: b"/x?y=1",
        host: b"shop.example.com",
        ..served(1, 18, 13)
    };
    check(
        &line,
        r#"at=info method=GET path="/x?y=1" host=shop.example.com R… dyno=web.1 connect=1ms service=18ms status=200 bytes=13"#,
    );
}

#[test]
fn errors_without_a_dyno_leave_its_fields_empty() {
    for (failure, head, status) in [
        (
            Failure::AppCrashed,
            r#"at=error code=H10 desc="App crashed""#,
            503,
        ),
        (
            Failure::BacklogTooDeep,
            r#"at=error code=H11 desc="Backlog too deep""#,
            503,
        ),
        (
            Failure::NoWebProcesses,
            r#"at=error code=H14 desc="No web processes running""#,
            503,
        ),
        (
            Failure::BootTimeout,
            r#"at=error code=H20 desc="App boot timeout""#,
            503,
        ),
        (
            Failure::ConnectionLimit,
            r#"at=error code=H22 desc="Connection limit reached""#,
            503,
        ),
        (
            Failure::UnsupportedExpect,
            r#"at=error code=H26 desc="Request Error" cause="unsupported expect header value""#,
            417,
        ),
        (
            Failure::BadHeader,
            r#"at=error code=H26 desc="Request Error" cause="bad header""#,
            400,
        ),
        (
            Failure::AllQuarantined,
            r#"at=error code=H34 desc="All up dynos are quarantined""#,
            503,
        ),
        (
            Failure::Maintenance,
            r#"at=info code=H80 desc="Maintenance mode""#,
            503,
        ),
        (
            Failure::BlankApp,
            r#"at=info code=H81 desc="Blank app""#,
            502,
        ),
        (
            Failure::Suspended,
            r#"at=info code=H82 desc="Free app running time quota exhausted""#,
            503,
        ),
        (
            Failure::Degraded,
            r#"at=info code=H83 desc="Planned Service Degradation""#,
            503,
        ),
        (
            Failure::Platform,
            r#"at=error code=H99 desc="Platform error""#,
            503,
        ),
    ] {
        let expected = format!(
            r#"{head} method=GET path="/" host=myapp.example R… dyno= connect= service= status={status} bytes=567"#
        );
        check_failure(
            failure,
            LogLine {
                bytes: 567,
                ..base()
            },
            &expected,
        );
    }
}

#[test]
fn errors_of_a_dyno_name_it() {
    for (failure, line, expected) in [
        (
            Failure::RequestTimeout,
            served(6, 30_001, 0),
            r#"at=error code=H12 desc="Request timeout" method=GET path="/" host=myapp.example R… dyno=web.1 connect=6ms service=30001ms status=503 bytes=0"#,
        ),
        (
            Failure::ClosedWithoutResponse,
            served(3030, 9767, 0),
            r#"at=error code=H13 desc="Connection closed without response" method=GET path="/" host=myapp.example R… dyno=web.1 connect=3030ms service=9767ms status=503 bytes=0"#,
        ),
        (
            Failure::DynoIdle,
            served(1, 55_449, 18),
            r#"at=error code=H15 desc="Idle connection" method=GET path="/" host=myapp.example R… dyno=web.1 connect=1ms service=55449ms status=503 bytes=18"#,
        ),
        (
            Failure::MalformedResponse,
            served(1, 1, 0),
            r#"at=error code=H17 desc="Poorly formatted HTTP response" method=GET path="/" host=myapp.example R… dyno=web.1 connect=1ms service=1ms status=503 bytes=0"#,
        ),
        (
            Failure::DynoInterrupted,
            served(1, 0, 0),
            r#"sock=backend at=error code=H18 desc="Server Request Interrupted" method=GET path="/" host=myapp.example R… dyno=web.1 connect=1ms service=0ms status=503 bytes=0"#,
        ),
        (
            Failure::ConnectTimeout,
            unconnected(5001),
            r#"at=error code=H19 desc="Backend connection timeout" method=GET path="/" host=myapp.example R… dyno=web.1 connect=5001ms service= status=503 bytes=0"#,
        ),
        (
            Failure::ConnectRefused,
            unconnected(1),
            r#"at=error code=H21 desc="Backend connection refused" method=GET path="/" host=myapp.example R… dyno=web.1 connect=1ms service= status=503 bytes=0"#,
        ),
        (
            Failure::ForcedClose,
            served(1, 80_000, 18),
            r#"at=error code=H24 desc="Forced close" method=GET path="/" host=myapp.example R… dyno=web.1 connect=1ms service=80000ms status= bytes=18"#,
        ),
        (
            Failure::InvalidContentLength,
            served(0, 1, 537),
            r#"at=error code=H25 desc="HTTP restriction: invalid content length" method=GET path="/" host=myapp.example R… dyno=web.1 connect=0ms service=1ms status=502 bytes=537"#,
        ),
        (
            Failure::OversizedCookie,
            served(0, 1, 537),
            r#"at=error code=H25 desc="HTTP restriction: oversized cookie" method=GET path="/" host=myapp.example R… dyno=web.1 connect=0ms service=1ms status=502 bytes=537"#,
        ),
        (
            Failure::OversizedHeader,
            served(0, 397, 542),
            r#"at=error code=H25 desc="HTTP restriction: oversized header" method=GET path="/" host=myapp.example R… dyno=web.1 connect=0ms service=397ms status=502 bytes=542"#,
        ),
        (
            Failure::OversizedStatusLine,
            served(0, 1, 537),
            r#"at=error code=H25 desc="HTTP restriction: oversized status line" method=GET path="/" host=myapp.example R… dyno=web.1 connect=0ms service=1ms status=502 bytes=537"#,
        ),
        (
            Failure::BadChunk,
            LogLine {
                method: b"POST",
                ..served(1, 0, 537)
            },
            r#"at=error code=H26 desc="Request Error" cause="bad chunk" method=POST path="/" host=myapp.example R… dyno=web.1 connect=1ms service=0ms status=400 bytes=537"#,
        ),
        (
            Failure::ClientInterrupted,
            LogLine {
                method: b"POST",
                path: b"/submit",
                ..served(1, 0, 0)
            },
            r#"sock=client at=warning code=H27 desc="Client Request Interrupted" method=POST path="/submit" host=myapp.example R… dyno=web.1 connect=1ms service=0ms status=499 bytes=0"#,
        ),
        (
            Failure::ClientIdle,
            LogLine {
                method: b"POST",
                path: b"/submit",
                ..served(1, 55_000, 18)
            },
            r#"at=warning code=H28 desc="Client Connection Idle" method=POST path="/submit" host=myapp.example R… dyno=web.1 connect=1ms service=55000ms status=499 bytes=18"#,
        ),
    ] {
        check_failure(failure, line, expected);
    }
}

#[test]
fn protocol_and_tls_follow_the_client() {
    for (protocol, tls, tail) in [
        (Protocol::Http10, None, " protocol=http1.0 tls=false\n"),
        (
            Protocol::Http11,
            Some("tls1.2"),
            " protocol=http1.1 tls=true tls_version=tls1.2\n",
        ),
        (
            Protocol::Http2,
            Some("tls1.3"),
            " protocol=http2.0 tls=true tls_version=tls1.3\n",
        ),
    ] {
        let text = heroku(&LogLine {
            protocol,
            tls,
            ..base()
        });
        assert!(text.ends_with(tail), "{text}");
    }
}

#[test]
fn hostile_bytes_are_escaped_where_they_stand() {
    for (path, expected) in [
        (&b"/a\" code=H99 x=\""[..], r#"path="/a\" code=H99 x=\"""#),
        (b"/\r\n\t\\", r#"path="/\r\n\t\\""#),
        (b"/\0\x1b[2J\x7f", r#"path="/\x00\x1b[2J\x7f""#),
        (b"/caf\xc3\xa9", r#"path="/café""#),
        (b"/caf\xe9", r#"path="/caf\xe9""#),
        (
            "/\u{85}\u{2028}".as_bytes(),
            r#"path="/\xc2\x85\xe2\x80\xa8""#,
        ),
    ] {
        let text = heroku(&LogLine { path, ..base() });
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
    let line = LogLine {
        method: b"G T",
        host: b"a\nb=\"c\xc2\xa0",
        request_id: "abcdefghij+/klmnopqr==",
        ..base()
    };
    let text = heroku(&line);
    assert!(text.contains(r"method=G\x20T "), "{text}");
    assert!(text.contains(r#"host=a\nb\x3d\"c\xc2\xa0 "#), "{text}");
    assert!(
        text.contains("request_id=abcdefghij+/klmnopqr== "),
        "{text}"
    );
}

#[test]
fn json_has_the_same_names_and_leaves_absent_ones_out() {
    assert_eq!(
        json_form(&LogLine {
            failure: Some(Failure::ForcedClose),
            status: None,
            ..base()
        }),
        json!({"time": "2026-01-01T00:00:00.000000+00:00", "app": "myapp", "at": "error", "code": "H24",
               "desc": "Forced close", "method": "GET", "path": "/", "host": "myapp.example",
               "request_id": "3f336f1a-9be3-4791-afe3-596a1f2a481f", "fwd": "203.0.113.7", "status": null, "bytes": 0,
               "protocol": "http1.1", "tls": false})
    );
    let bad_chunk = LogLine {
        failure: Some(Failure::BadChunk),
        path: b"/\"\\\n\x01\xff\xe2\x80\xa8",
        status: Some(400),
        tls: Some("tls1.3"),
        protocol: Protocol::Http2,
        ..served(1, 30_001, 537)
    };
    assert_eq!(
        json_form(&bad_chunk),
        json!({"time": "2026-01-01T00:00:00.000000+00:00", "app": "myapp", "at": "error", "code": "H26",
               "desc": "Request Error", "cause": "bad chunk", "method": "GET", "path": "/\"\\\n\u{1}\u{fffd}\u{2028}",
               "host": "myapp.example", "request_id": "3f336f1a-9be3-4791-afe3-596a1f2a481f", "fwd": "203.0.113.7",
               "dyno": "web.1", "connect": 1, "service": 30001, "status": 400, "bytes": 537, "protocol": "http2.0",
               "tls": true, "tls_version": "tls1.3"})
    );
    assert_eq!(
        json_form(&LogLine {
            failure: Some(Failure::DynoInterrupted),
            ..base()
        })["sock"],
        "backend"
    );
}

/// A field as a strict reader sees it: name, value with the escapes undone, and whether it was quoted.
type Field = (String, Vec<u8>, bool);

/// Reads `name=value name="value" …` and accepts nothing else.
fn read_fields(mut text: &str) -> Vec<Field> {
    let mut fields = Vec::new();
    loop {
        let (name, rest) = text.split_once('=').unwrap();
        assert!(
            name.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{name}"
        );
        let quoted = rest.starts_with('"');
        let (value, rest) = if quoted {
            read_value(&rest[1..], '"')
        } else {
            read_value(rest, ' ')
        };
        fields.push((name.to_owned(), value, quoted));
        let rest = if quoted {
            rest.strip_prefix('"').unwrap()
        } else {
            rest
        };
        if rest.is_empty() {
            return fields;
        }
        text = rest.strip_prefix(' ').unwrap();
    }
}

/// The value up to `end` (or the end of the text), and the rest beginning with `end`.
fn read_value(text: &str, end: char) -> (Vec<u8>, &str) {
    let mut value = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next().filter(|&character| character != end) {
        assert!(!character.is_control() && character != '"', "{text:?}");
        let Some(escape) = rest.strip_prefix('\\') else {
            value.extend_from_slice(character.to_string().as_bytes());
            rest = &rest[character.len_utf8()..];
            continue;
        };
        let (byte, length) = match escape.as_bytes()[0] {
            b'n' => (b'\n', 1),
            b'r' => (b'\r', 1),
            b't' => (b'\t', 1),
            b'x' => (u8::from_str_radix(&escape[1..3], 16).unwrap(), 3),
            same @ (b'"' | b'\\') => (same, 1),
            other => panic!("unknown escape {other}"),
        };
        value.push(byte);
        rest = &escape[length..];
    }
    (value, rest)
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        "[ -~\\n\\r\\t\"\\\\=\u{85}\u{a0}\u{2028}é]{0,40}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn no_bytes_can_forge_a_line_or_a_field(
        (method, path, host, fwd) in (bytes(), bytes(), bytes(), bytes()),
        failure in prop::option::of(prop::sample::select(Failure::ALL)),
        (dyno, tls) in (prop::option::of(Just("web.1")), prop::option::of(Just("tls1.3"))),
        (connect, service) in (prop::option::of(any::<u64>()), prop::option::of(0..90_000_u64)),
        (status, count, agent) in (prop::option::of(100..600_u16), any::<u64>(), prop::option::of(bytes())),
    ) {
        let line = LogLine {
            failure, method: &method, path: &path, host: &host, forwarded_for: &fwd, dyno, tls, status, bytes: count,
            connect: connect.map(Duration::from_millis), service: service.map(Duration::from_millis),
            agent: agent.as_deref(), ..base()
        };
        let text = heroku(&line);
        prop_assert_eq!(text.bytes().filter(|&byte| byte == b'\n').count(), 1);
        let body = text.strip_suffix('\n').unwrap();
        let body = body.strip_prefix("2026-01-01T00:00:00.000000+00:00 heroku[router]: ").unwrap();
        prop_assert_eq!(read_fields(body), expected_fields(&line));
        prop_assert_eq!(json_form(&line), expected_json(&line));
    }

    #[test]
    fn numbers_are_printed_as_std_prints_them(value: u64) {
        let mut out = Vec::new();
        write_number(&mut out, value);
        prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
    }
}

fn expected_fields(line: &LogLine<'_>) -> Vec<Field> {
    let bare = |name: &str, value: &[u8]| Some((name.to_owned(), value.to_vec(), false));
    let quoted = |name: &str, value: &[u8]| Some((name.to_owned(), value.to_vec(), true));
    let ms = |time: Option<Duration>| {
        time.map(|time| format!("{}ms", time.as_millis()))
            .unwrap_or_default()
    };
    let row = line.failure.map(verdict::of);
    [
        row.and_then(|row| row.sock)
            .and_then(|sock| bare("sock", sock.as_bytes())),
        bare(
            "at",
            row.map_or("info", |row| row.severity.as_str()).as_bytes(),
        ),
        row.and_then(|row| row.code)
            .and_then(|code| bare("code", code.as_bytes())),
        row.and_then(|row| quoted("desc", row.desc.as_bytes())),
        row.and_then(|row| row.cause)
            .and_then(|cause| quoted("cause", cause.as_bytes())),
        bare("method", line.method),
        quoted("path", line.path),
        bare("host", line.host),
        bare("request_id", line.request_id.as_bytes()),
        quoted("fwd", line.forwarded_for),
        bare("dyno", line.dyno.unwrap_or("").as_bytes()),
        bare("connect", ms(line.connect).as_bytes()),
        bare("service", ms(line.service).as_bytes()),
        bare(
            "status",
            line.status
                .map(|status| status.to_string())
                .unwrap_or_default()
                .as_bytes(),
        ),
        bare("bytes", line.bytes.to_string().as_bytes()),
        bare("protocol", b"http1.1"),
        bare("tls", line.tls.is_some().to_string().as_bytes()),
        line.tls
            .and_then(|version| bare("tls_version", version.as_bytes())),
        line.failure
            .filter(|failure| *failure == Failure::Misdirected)
            .and_then(|_| quoted("agent", line.agent.unwrap_or_default())),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn expected_json(line: &LogLine<'_>) -> Value {
    let row = line.failure.map(verdict::of);
    let mut object = serde_json::Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        value.map(|value| object.insert(name.to_owned(), value));
    };
    let lossy = |value: &[u8]| Some(String::from_utf8_lossy(value).into());
    let ms =
        |time: Option<Duration>| time.map(|time| u64::try_from(time.as_millis()).unwrap().into());
    put("time", Some("2026-01-01T00:00:00.000000+00:00".into()));
    put("app", Some(line.app.into()));
    put("sock", row.and_then(|row| row.sock).map(Into::into));
    put(
        "at",
        Some(row.map_or("info", |row| row.severity.as_str()).into()),
    );
    put("code", row.and_then(|row| row.code).map(Into::into));
    put("desc", row.map(|row| row.desc.into()));
    put("cause", row.and_then(|row| row.cause).map(Into::into));
    put("method", lossy(line.method));
    put("path", lossy(line.path));
    put("host", lossy(line.host));
    put("request_id", Some(line.request_id.into()));
    put("fwd", lossy(line.forwarded_for));
    put("dyno", line.dyno.map(Into::into));
    put("connect", ms(line.connect));
    put("service", ms(line.service));
    put("status", Some(line.status.into()));
    put("bytes", Some(line.bytes.into()));
    put("protocol", Some("http1.1".into()));
    put("tls", Some(line.tls.is_some().into()));
    put("tls_version", line.tls.map(Into::into));
    if line.failure == Some(Failure::Misdirected) {
        let agent = line.agent.unwrap_or_default();
        put("agent", Some(String::from_utf8_lossy(agent).into()));
    }
    Value::Object(object)
}
