//! HTTP/2 messages to heads (RFC 9113 §8): `:authority` becomes Host, cookie crumbs become one field, an extended
//! CONNECT becomes the HTTP/1.1 upgrade that it stands for. The limits are those of HTTP/1 heads.

use bytes::{BufMut, Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::websocket;
use crate::failure::{BadRequest, Failure};
use crate::h1::field::{Field, FieldList, Span};
use crate::h1::head::{LONGEST_METHOD, is_target, parse_field, span};
use crate::h1::{FieldId, Fields, HeadError, HeadLimits, RequestHead, ResponseHead, Version};

/// The head of a request. `ended`: its stream ended with it. `protocol`: the `:protocol` of an extended CONNECT (RFC
/// 8441); `key` is the `Sec-WebSocket-Key` to use then.
///
/// # Errors
/// A [`Failure`] without an error code, for the app is not known yet: 400 for a head that breaks a limit, has two hosts
/// or none; 405 for a CONNECT of any kind but the WebSocket's.
pub fn request_head(
    parts: &Parts,
    ended: bool,
    protocol: Option<&str>,
    key: &str,
    limits: &HeadLimits,
) -> Result<RequestHead, Failure> {
    let bad = Failure::BadRequest;
    let upgrade = match (parts.method == http::Method::CONNECT, protocol) {
        (false, _) => false,
        (true, Some(protocol)) if protocol.eq_ignore_ascii_case(websocket::PROTOCOL) => true,
        (true, _) => return Err(Failure::MethodNotAllowed),
    };
    let method = if upgrade {
        "GET"
    } else {
        parts.method.as_str()
    };
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    const VERSION_AND_BLANKS: usize = " HTTP/2.0 ".len();
    if method.len() > LONGEST_METHOD || !is_target(target.as_bytes()) {
        return Err(bad(BadRequest::RequestLine));
    }
    if method.len() + target.len() + VERSION_AND_BLANKS > limits.start_line {
        return Err(bad(BadRequest::RequestLineTooLong));
    }
    let host = host(parts)?;

    let mut writer = Writer::new(&parts.headers, limits);
    let refused = |error: HeadError| crate::admission::head_failure(error);
    let method = writer.put(method.as_bytes()).map_err(refused)?;
    let target = writer.put(target.as_bytes()).map_err(refused)?;
    writer
        .field(FieldId::Host, b"host", host)
        .map_err(refused)?;
    if upgrade {
        for (id, name, value) in [
            (FieldId::Connection, "connection", "Upgrade"),
            (FieldId::Upgrade, "upgrade", websocket::PROTOCOL),
            (FieldId::Other, "sec-websocket-key", key),
        ] {
            writer
                .field(id, name.as_bytes(), value.as_bytes())
                .map_err(refused)?;
        }
    }
    for (name, value) in &parts.headers {
        let id = FieldId::of(name.as_str().as_bytes());
        // The bridge makes its own key; a client's would let it choose what the dyno's answer is compared with.
        let made_here = upgrade && name == "sec-websocket-key";
        // What follows a CONNECT is no content (RFC 9110 §9.3.6), whatever length it claims.
        let meaningless = upgrade && id == FieldId::ContentLength;
        if !meaningless && id != FieldId::Host && id != FieldId::Cookie && !made_here {
            writer
                .field(id, name.as_str().as_bytes(), value.as_bytes())
                .map_err(refused)?;
        }
    }
    writer.cookies(&parts.headers).map_err(refused)?;
    Ok(RequestHead {
        version: Version::Http2,
        method,
        target,
        fields: writer.finish(),
        ended: ended && !upgrade,
    })
}

/// The one host of a request: `:authority`, or the Host field of a client that translates from HTTP/1. When both are
/// there they must agree (RFC 9113 §8.3.1).
fn host(parts: &Parts) -> Result<&[u8], Failure> {
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let mut fields = parts.headers.get_all(http::header::HOST).iter();
    let host = fields.next().map(HeaderValue::as_bytes);
    if fields.next().is_some() {
        return Err(Failure::BadRequest(BadRequest::HostRepeated));
    }
    match (authority, host) {
        (Some(authority), Some(host)) if !host.eq_ignore_ascii_case(authority.as_bytes()) => {
            Err(Failure::BadRequest(BadRequest::Host))
        }
        (Some(authority), _) => Ok(authority.as_bytes()),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(Failure::BadRequest(BadRequest::HostMissing)),
    }
}

/// The head of a response. `ended`: its stream ended with it.
///
/// # Errors
/// The limit that it breaks.
pub fn response_head(
    status: http::StatusCode,
    headers: &HeaderMap,
    ended: bool,
    limits: &HeadLimits,
) -> Result<ResponseHead, HeadError> {
    let mut writer = Writer::new(headers, limits);
    let reason = writer.put(status.canonical_reason().unwrap_or_default().as_bytes())?;
    for (name, value) in headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        let id = FieldId::of(name);
        let (longest, error) = match id {
            FieldId::SetCookie => (limits.cookie_line, HeadError::CookieTooLong),
            _ => (limits.field_line, HeadError::FieldTooLong),
        };
        if name.len() + SEPARATOR.len() + value.len() > longest {
            return Err(error);
        }
        writer.field(id, name, value)?;
    }
    Ok(ResponseHead {
        version: Version::Http2,
        status: status.as_u16(),
        reason,
        fields: writer.finish(),
        ended,
    })
}

/// Trailers that may be passed on, as HTTP/1 lines with their line ends. Fields that would be taken for the router's
/// word are left out, as in a chunked body.
pub fn trailers(map: &HeaderMap) -> Bytes {
    let mut lines = BytesMut::new();
    for (name, value) in map {
        let name = name.as_str().as_bytes();
        if FieldId::of(name).allowed_in_trailer() {
            for part in [name, b": ", value.as_bytes(), b"\r\n"] {
                lines.put_slice(part);
            }
        }
    }
    lines.freeze()
}

/// The trailers that [`trailers`] or a chunked body gave, as a field map.
pub fn trailer_map(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Ok(field) = parse_field(line) else {
            continue;
        };
        let (name, value) = (field.name.of(line), field.value.of(line));
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            map.append(name, value);
        }
    }
    map
}

/// Puts a head into one buffer and notes where its parts stand. Fields are written as lines of HTTP/1, which is what
/// nearly every dyno gets.
struct Writer<'l> {
    bytes: Vec<u8>,
    list: FieldList,
    limits: &'l HeadLimits,
}

const SEPARATOR: &[u8] = b": ";
const CRLF: &[u8] = b"\r\n";

impl<'l> Writer<'l> {
    fn new(headers: &HeaderMap, limits: &'l HeadLimits) -> Self {
        const TYPICAL_FIELD: usize = 64;
        Self {
            bytes: Vec::with_capacity(128 + headers.len() * TYPICAL_FIELD),
            list: FieldList::with_capacity(headers.len() + 1),
            limits,
        }
    }

    fn put(&mut self, part: &[u8]) -> Result<Span, HeadError> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(part);
        span(start, self.bytes.len())
    }

    fn field(&mut self, id: FieldId, name: &[u8], value: &[u8]) -> Result<(), HeadError> {
        if self.list.len() >= self.limits.fields {
            return Err(HeadError::TooManyFields);
        }
        // RFC 9113 §8.2.1: malformed. HTTP/1 would read it as another value.
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if blank(value.first()) || blank(value.last()) {
            return Err(HeadError::FieldLine);
        }
        // The limit of the whole is for what was sent.
        let added = self.list.len() * (SEPARATOR.len() + CRLF.len());
        let line = name.len() + SEPARATOR.len() + value.len();
        if name.len() > self.limits.field_name
            || line > self.limits.field_line
            || self.bytes.len() - added + name.len() + value.len() > self.limits.total
        {
            return Err(HeadError::FieldTooLong);
        }
        let start = self.bytes.len();
        self.bytes.reserve(line + CRLF.len());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(SEPARATOR);
        self.bytes.extend_from_slice(value);
        let line = span(start, self.bytes.len())?;
        self.bytes.extend_from_slice(CRLF);
        self.list.push(Field {
            id,
            is_plain: true,
            name: line.part(0, name.len()),
            value: line.part(name.len() + SEPARATOR.len(), line.len()),
        });
        Ok(())
    }

    /// Cookie crumbs are one field towards everything but HTTP/2 (RFC 9113 §8.2.3).
    fn cookies(&mut self, headers: &HeaderMap) -> Result<(), HeadError> {
        let mut crumbs = headers.get_all(http::header::COOKIE).iter();
        let Some(first) = crumbs.next() else {
            return Ok(());
        };
        let Some(second) = crumbs.next() else {
            return self.field(FieldId::Cookie, b"cookie", first.as_bytes());
        };
        let mut joined = first.as_bytes().to_vec();
        for crumb in std::iter::once(second).chain(crumbs) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(crumb.as_bytes());
        }
        self.field(FieldId::Cookie, b"cookie", &joined)
    }

    fn finish(self) -> Fields {
        Fields {
            bytes: self.bytes.into(),
            list: self.list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::admit;
    use crate::h1::Framing;
    use crate::limits::Limits;

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn head(parts: &Parts, ended: bool, protocol: Option<&str>) -> Result<RequestHead, Failure> {
        let limits = HeadLimits::request(&Limits::default());
        request_head(parts, ended, protocol, "KEY", &limits)
    }

    fn shown(head: &RequestHead) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        head.fields()
            .iter()
            .map(|(_, name, value)| format!("{}: {}", text(name), text(value)))
            .collect()
    }

    #[test]
    fn a_request_becomes_the_head_that_http_1_would_have_sent() {
        let parts = parts(
            "POST",
            "https://Shop.example.com:8443/a?b=c",
            &[
                ("cookie", "a=1"),
                ("accept", "*/*"),
                ("cookie", "b=2"),
                ("content-length", "5"),
            ],
        );
        let head = head(&parts, false, None).unwrap();
        assert_eq!(
            (head.method(), head.target()),
            (&b"POST"[..], &b"/a?b=c"[..])
        );
        assert_eq!(
            shown(&head),
            [
                "host: Shop.example.com:8443",
                "accept: */*",
                "content-length: 5",
                "cookie: a=1; b=2"
            ]
        );
        let admitted = admit(&head).unwrap();
        assert_eq!(admitted.host.name, "shop.example.com");
        assert_eq!(admitted.framing, Framing::Length(5));
    }

    #[test]
    fn the_body_ends_with_the_stream_or_its_length() {
        for (fields, ended, framing) in [
            (&[][..], true, Ok(Framing::None)),
            (&[], false, Ok(Framing::Chunked)),
            (&[("content-length", "3")], false, Ok(Framing::Length(3))),
            (&[("content-length", "0")], true, Ok(Framing::Length(0))),
            (
                &[("content-length", "3")],
                true,
                Err(Failure::BadRequest(BadRequest::ContentLength)),
            ),
            (
                &[("content-length", "3"), ("content-length", "4")],
                false,
                Err(Failure::BadRequest(BadRequest::ContentLength)),
            ),
        ] {
            let head = head(&parts("POST", "https://a/", fields), ended, None).unwrap();
            assert_eq!(
                admit(&head).map(|admitted| admitted.framing),
                framing,
                "{fields:?}"
            );
        }
    }

    #[test]
    fn authority_and_host_must_agree() {
        for (uri, fields, expected) in [
            ("https://a/", &[][..], Ok("a")),
            ("https://a/", &[("host", "A")], Ok("a")),
            ("/", &[("host", "b")], Ok("b")),
            ("https://a/", &[("host", "b")], Err(BadRequest::Host)),
            (
                "https://a/",
                &[("host", "a"), ("host", "a")],
                Err(BadRequest::HostRepeated),
            ),
            ("/", &[], Err(BadRequest::HostMissing)),
        ] {
            let found = head(&parts("GET", uri, fields), true, None);
            let found = found
                .as_ref()
                .map(|head| head.fields().first(FieldId::Host).unwrap());
            match expected {
                Ok(host) => assert_eq!(found, Ok(host.as_bytes()), "{uri} {fields:?}"),
                Err(reason) => assert_eq!(found, Err(&Failure::BadRequest(reason))),
            }
        }
    }

    #[test]
    fn only_a_websocket_may_connect() {
        let connect = |protocol| {
            head(
                &parts(
                    "CONNECT",
                    "https://a/chat",
                    &[("sec-websocket-key", "forged"), ("content-length", "5")],
                ),
                false,
                protocol,
            )
        };
        assert_eq!(connect(None).unwrap_err(), Failure::MethodNotAllowed);
        assert_eq!(
            connect(Some("connect-udp")).unwrap_err(),
            Failure::MethodNotAllowed
        );
        let upgrade = connect(Some("websocket")).unwrap();
        assert_eq!(
            shown(&upgrade),
            [
                "host: a",
                "connection: Upgrade",
                "upgrade: websocket",
                "sec-websocket-key: KEY"
            ]
        );
        let admitted = admit(&upgrade).unwrap();
        assert_eq!(
            (upgrade.method(), upgrade.target()),
            (&b"GET"[..], &b"/chat"[..])
        );
        assert!(admitted.upgrade && admitted.framing == Framing::None);
    }

    #[test]
    fn limits_are_those_of_http_1() {
        let long = "x".repeat(9000);
        for (uri, name, value, reason) in [
            (
                format!("https://a/{long}"),
                "a",
                "b",
                BadRequest::RequestLineTooLong,
            ),
            (
                "https://a/".to_owned(),
                "a",
                &*long,
                BadRequest::HeaderTooLong,
            ),
            (
                "https://a/".to_owned(),
                &"n".repeat(1001),
                "b",
                BadRequest::HeaderTooLong,
            ),
        ] {
            let refused = head(&parts("GET", &uri, &[(name, value)]), true, None);
            assert_eq!(refused.unwrap_err(), Failure::BadRequest(reason));
        }
        let many: Vec<(String, String)> = (0..1000)
            .map(|n| (format!("a{n}"), "b".to_owned()))
            .collect();
        let many: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let refused = head(&parts("GET", "https://a/", &many), true, None);
        assert_eq!(
            refused.unwrap_err(),
            Failure::BadRequest(BadRequest::TooManyHeaders)
        );
        assert!(head(&parts("GET", "https://a/", &many[1..]), true, None).is_ok());
    }

    #[test]
    fn values_that_begin_or_end_with_blanks_are_malformed() {
        for value in [" b", "b ", "\tb"] {
            let refused = head(&parts("GET", "https://a/", &[("a", value)]), true, None);
            assert_eq!(
                refused.unwrap_err(),
                Failure::BadRequest(BadRequest::HeaderLine)
            );
        }
    }

    #[test]
    fn trailers_lose_what_would_be_taken_for_the_routers_word() {
        let mut map = HeaderMap::new();
        for (name, value) in [
            ("grpc-status", "0"),
            ("x-request-id", "forged"),
            ("date", "x"),
        ] {
            map.insert(name, value.parse().unwrap());
        }
        let lines = trailers(&map);
        assert_eq!(&lines[..], b"grpc-status: 0\r\n");
        let back = trailer_map(&lines);
        assert_eq!((back.len(), back["grpc-status"].as_bytes()), (1, &b"0"[..]));
        assert!(trailer_map(b"").is_empty());
    }

    proptest::proptest! {
        /// Whatever fields a client sends, the dyno reads one request, with the same fields.
        #[test]
        fn no_field_can_forge_another_or_another_request(
            fields in proptest::collection::vec(("[a-z_-]{1,12}", proptest::collection::vec(proptest::prelude::any::<u8>(), 0..20)), 0..8),
            path in "/[!-~]{0,20}",
            ended: bool,
        ) {
            let mut request = http::Request::builder().method("POST").uri(format!("https://shop.test{path}"));
            for (name, value) in &fields {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    request = request.header(name.as_str(), value);
                }
            }
            let Ok(request) = request.body(()) else {
                return Ok(());
            };
            let Ok(head) = head(&request.into_parts().0, ended, None) else {
                return Ok(());
            };
            let Ok(admitted) = admit(&head) else {
                return Ok(());
            };
            let ours = crate::forward::RequestFields {
                forwarded_for: b"203.0.113.7",
                proto: "https",
                port: 443,
                request_start: 1,
                request_id: "id",
                via: "2.0 router",
                keep_alive: true,
                pass_expect: false,
                believed: crate::forward::Believed::default(),
            };
            let mut out = BytesMut::new();
            crate::forward::write_request(&head, &admitted, &ours, &mut out);
            let limits = HeadLimits { fields: usize::MAX, ..HeadLimits::request(&Limits::default()) };
            let read = crate::h1::HeadParser::request(limits).take_request(&mut out).unwrap().unwrap();
            proptest::prop_assert!(out.is_empty(), "something stands behind the head");
            let sent: Vec<_> = head.fields().iter().filter(|(id, ..)| *id == FieldId::Other).collect();
            let got: Vec<_> = read.fields().iter().filter(|(id, ..)| *id == FieldId::Other).collect();
            proptest::prop_assert_eq!(sent, got);
            let again = admit(&read).unwrap();
            proptest::prop_assert_eq!((again.framing, &again.host), (
                // A POST that ended with its head says so to the dyno.
                if admitted.framing == Framing::None { Framing::Length(0) } else { admitted.framing },
                &admitted.host,
            ));
        }
    }
}
