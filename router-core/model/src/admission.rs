//! Decides whether a well-formed request head is welcome (spec §1.2 steps 3 to 6, §1.17): one host, one meaning of
//! where its body ends, a target that a dyno may see. What is malformed or ambiguous stops here and never reaches a
//! dyno.
//!
//! Violations found before the app is known are an `Err`: they have no error code and no log line. Violations of a
//! known app (H26) are kept in [`Admitted::violation`], for the caller to report once it knows the app.

use crate::failure::{BadRequest, Failure};
use crate::h1::field::{is_token, list_elements};
use crate::h1::{FieldId, Framing, HeadError, RequestHead, Version};
use crate::hostname::{RequestHost, parse_host};

/// What the router has understood of an admitted request.
#[derive(Debug)]
pub struct Admitted<'a> {
    /// The normalised host.
    pub host: RequestHost<'a>,
    /// The Host field as the client sent it.
    pub host_as_sent: &'a [u8],
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client wants its connection kept.
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before its body.
    pub expects_continue: bool,
    /// Whether the client asks for a protocol upgrade that may be passed on.
    pub upgrade: bool,
    /// Whether the Connection field names fields of its own.
    pub nominates: bool,
    /// H26, to be answered once the app is known.
    pub violation: Option<Failure>,
}

/// The failure of a request whose head cannot be parsed.
pub fn head_failure(error: HeadError) -> Failure {
    match error {
        HeadError::StartLine => Failure::BadRequest(BadRequest::RequestLine),
        HeadError::StartLineTooLong => Failure::BadRequest(BadRequest::RequestLineTooLong),
        HeadError::Version => Failure::VersionNotSupported,
        HeadError::LineEnding => Failure::BadRequest(BadRequest::LineEnding),
        HeadError::FieldLine => Failure::BadRequest(BadRequest::HeaderLine),
        HeadError::FieldTooLong | HeadError::CookieTooLong => {
            Failure::BadRequest(BadRequest::HeaderTooLong)
        }
        HeadError::TooManyFields => Failure::BadRequest(BadRequest::TooManyHeaders),
    }
}

/// Admits a request or says why not.
///
/// # Errors
/// A [`Failure`] that has no error code: the app is not known yet.
pub fn admit(head: &RequestHead) -> Result<Admitted<'_>, Failure> {
    let host_as_sent = single_host(head)?;
    let host = parse_host(host_as_sent).map_err(|_| Failure::BadRequest(BadRequest::Host))?;
    let framing = framing(head)?;
    target(head, host_as_sent)?;
    let connection = connection(head);
    let expect = expect(head);
    let violation = match (&connection, expect) {
        (_, Expect::Unsupported) => Some(Failure::UnsupportedExpect),
        (Err(failure), _) => Some(*failure),
        (Ok(_), Expect::None | Expect::Continue) => None,
    };
    let connection = connection.unwrap_or_default();
    let http11 = head.version() >= Version::Http11;
    Ok(Admitted {
        host,
        host_as_sent,
        framing,
        keep_alive: if http11 {
            !connection.close
        } else {
            connection.keep_alive && !connection.close
        },
        expects_continue: http11 && expect == Expect::Continue,
        upgrade: http11 && connection.upgrade && may_upgrade(head),
        nominates: connection.nominates,
        violation,
    })
}

fn single_host(head: &RequestHead) -> Result<&[u8], Failure> {
    let mut hosts = head.fields().values(FieldId::Host);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Ok(host),
        (Some(_), Some(_)) => Err(Failure::BadRequest(BadRequest::HostRepeated)),
        (None, _) => Err(Failure::BadRequest(BadRequest::HostMissing)),
    }
}

/// RFC 9112 §6.3, with every ambiguity refused: both fields at once, codings other than chunked, lists, differing
/// lengths.
fn framing(head: &RequestHead) -> Result<Framing, Failure> {
    let length = content_length(head.fields().values(FieldId::ContentLength))
        .map_err(|()| Failure::BadRequest(BadRequest::ContentLength))?;
    let bad_coding = Failure::BadRequest(BadRequest::TransferEncoding);
    if head.version() == Version::Http2 {
        return stream_framing(head, length);
    }
    let mut codings = head.fields().values(FieldId::TransferEncoding).peekable();
    if codings.peek().is_none() {
        return Ok(length.map_or(Framing::None, Framing::Length));
    }
    match (codings.next(), codings.next()) {
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => {
            Ok(length.map_or(Framing::None, Framing::Length))
        }
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
            if length.is_some() {
                Err(Failure::BadRequest(BadRequest::AmbiguousLength))
            } else if head.version() == Version::Http10 {
                Err(bad_coding)
            } else {
                Ok(Framing::Chunked)
            }
        }
        _ => Err(bad_coding),
    }
}

/// The end of an HTTP/2 body is the end of its stream; a length that is given is held to by the h2 library.
fn stream_framing(head: &RequestHead, length: Option<u64>) -> Result<Framing, Failure> {
    match (head.is_whole(), length) {
        (true, None) => Ok(Framing::None),
        (true, Some(1..)) => Err(Failure::BadRequest(BadRequest::ContentLength)),
        (_, Some(length)) => Ok(Framing::Length(length)),
        (false, None) if is_connect_upgrade(head) => Ok(Framing::None),
        (false, None) => Ok(Framing::Chunked),
    }
}

/// Whether this was an extended CONNECT: nothing else brings a Connection field over HTTP/2.
fn is_connect_upgrade(head: &RequestHead) -> bool {
    head.fields().first(FieldId::Connection).is_some()
}

/// The one length that all Content-Length lines agree on.
pub(crate) fn content_length<'a>(
    values: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<u64>, ()> {
    let mut agreed = None;
    for value in values {
        let length = digits(value).ok_or(())?;
        if agreed.is_some_and(|agreed| agreed != length) {
            return Err(());
        }
        agreed = Some(length);
    }
    Ok(agreed)
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.iter().try_fold(0u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// Only origin-form reaches a dyno (spec §1.17, §10-21): CONNECT, `*` and absolute-form are refused with 405, the
/// latter with 400 when its authority is not the Host.
fn target(head: &RequestHead, host: &[u8]) -> Result<(), Failure> {
    if head.method() == b"CONNECT" {
        return Err(Failure::MethodNotAllowed);
    }
    match head.target() {
        [b'/', ..] => Ok(()),
        b"*" => Err(Failure::MethodNotAllowed),
        target => match authority(target) {
            Some(authority) if authority.eq_ignore_ascii_case(host) => {
                Err(Failure::MethodNotAllowed)
            }
            _ => Err(Failure::BadRequest(BadRequest::Target)),
        },
    }
}

/// The authority of an absolute-form target.
fn authority(target: &[u8]) -> Option<&[u8]> {
    let scheme_end = memchr::memmem::find(target, b"://")?;
    let (scheme, rest) = target.split_at(scheme_end);
    let scheme_ok = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let rest = rest.get(3..)?;
    let end = rest
        .iter()
        .position(|byte| b"/?#".contains(byte))
        .unwrap_or(rest.len());
    if scheme_ok { rest.get(..end) } else { None }
}

#[derive(Debug, Default, Clone, Copy)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    nominates: bool,
}

/// More names than this in the Connection fields of one message are an attack on those who compare each with every
/// field.
pub(crate) const MOST_CONNECTION_TOKENS: usize = 100;

/// The Connection field: what it asks for, or H26 when it cannot be parsed or asks for an upgrade to nothing (spec
/// §1.17).
fn connection(head: &RequestHead) -> Result<Connection, Failure> {
    let mut seen = Connection::default();
    let mut tokens = 0;
    for value in head.fields().values(FieldId::Connection) {
        // What nearly every client says.
        if value == b"keep-alive" && tokens < MOST_CONNECTION_TOKENS {
            tokens += 1;
            seen.keep_alive = true;
            continue;
        }
        let mut empty = true;
        for token in list_elements(value) {
            empty = false;
            tokens += 1;
            if !is_token(token) || tokens > MOST_CONNECTION_TOKENS {
                return Err(Failure::BadHeader);
            }
            if token.eq_ignore_ascii_case(b"close") {
                seen.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                seen.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                seen.upgrade = true;
            } else {
                seen.nominates = true;
            }
        }
        if empty && !value.is_empty() {
            return Err(Failure::BadHeader);
        }
    }
    if seen.upgrade
        && head
            .fields()
            .first(FieldId::Upgrade)
            .is_none_or(<[u8]>::is_empty)
    {
        return Err(Failure::BadHeader);
    }
    Ok(seen)
}

/// `Upgrade: h2c` is never passed on: a dyno that switched to it would speak HTTP/2 through the tunnel, past every rule
/// of ours.
fn may_upgrade(head: &RequestHead) -> bool {
    let mut protocols = head
        .fields()
        .values(FieldId::Upgrade)
        .flat_map(list_elements)
        .peekable();
    protocols.peek().is_some()
        && protocols.all(|protocol| !protocol.to_ascii_lowercase().starts_with(b"h2"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    None,
    Continue,
    Unsupported,
}

fn expect(head: &RequestHead) -> Expect {
    let mut seen = Expect::None;
    for value in head.fields().values(FieldId::Expect) {
        for expectation in list_elements(value) {
            if !expectation.eq_ignore_ascii_case(b"100-continue") {
                return Expect::Unsupported;
            }
            seen = Expect::Continue;
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::h1::{HeadLimits, HeadParser};
    use crate::limits::Limits;

    fn head(text: &str) -> RequestHead {
        let mut buffer = BytesMut::from(format!("{text}\r\n").as_bytes());
        HeadParser::request(HeadLimits::request(&Limits::default()))
            .take_request(&mut buffer)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn what_is_malformed_or_ambiguous_is_refused_before_the_app_is_known() {
        use BadRequest::{
            AmbiguousLength, ContentLength, Host, HostMissing, HostRepeated, Target,
            TransferEncoding,
        };
        let bad = Failure::BadRequest;
        for (text, failure) in [
            ("GET / HTTP/1.1\r\n", bad(HostMissing)),
            ("GET / HTTP/1.0\r\n", bad(HostMissing)),
            ("GET http://a/ HTTP/1.0\r\n", bad(HostMissing)),
            ("GET / HTTP/1.1\r\nHost:\r\n", bad(Host)),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n",
                bad(HostRepeated),
            ),
            ("GET / HTTP/1.1\r\nHost: a b\r\n", bad(Host)),
            ("GET / HTTP/1.1\r\nHost: a:x\r\n", bad(Host)),
            ("GET / HTTP/1.1\r\nHost: u@a\r\n", bad(Host)),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n",
                bad(ContentLength),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n",
                bad(ContentLength),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n",
                bad(ContentLength),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
                bad(ContentLength),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n",
                bad(ContentLength),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n",
                bad(AmbiguousLength),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
                bad(TransferEncoding),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                bad(TransferEncoding),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n",
                bad(TransferEncoding),
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n",
                bad(TransferEncoding),
            ),
            (
                "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
                bad(TransferEncoding),
            ),
            (
                "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n",
                Failure::MethodNotAllowed,
            ),
            (
                "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
                Failure::MethodNotAllowed,
            ),
            (
                "GET http://A/x HTTP/1.1\r\nHost: a\r\n",
                Failure::MethodNotAllowed,
            ),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n", bad(Target)),
            ("GET foo HTTP/1.1\r\nHost: a\r\n", bad(Target)),
            ("GET *x HTTP/1.1\r\nHost: a\r\n", bad(Target)),
        ] {
            assert_eq!(admit(&head(text)).unwrap_err(), failure, "{text:?}");
        }
    }

    #[test]
    fn framing_is_unambiguous() {
        for (fields, framing) in [
            ("", Framing::None),
            ("Content-Length: 0\r\n", Framing::Length(0)),
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Framing::Length(5),
            ),
            ("Transfer-Encoding: Chunked\r\n", Framing::Chunked),
            (
                "Transfer-Encoding: identity\r\nContent-Length: 3\r\n",
                Framing::Length(3),
            ),
        ] {
            let head = head(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}"));
            assert_eq!(admit(&head).unwrap().framing, framing, "{fields:?}");
        }
    }

    #[test]
    fn violations_wait_for_the_app() {
        for (fields, violation) in [
            ("Connection: ,\r\n", Some(Failure::BadHeader)),
            ("Connection: a b\r\n", Some(Failure::BadHeader)),
            ("Connection: upgrade\r\n", Some(Failure::BadHeader)),
            ("Connection: close, , x\r\n", None),
            ("Connection:\r\n", None),
            ("Expect: 100-CONTINUE\r\n", None),
            ("Expect:\r\n", None),
            ("Expect: 100 continue\r\n", Some(Failure::UnsupportedExpect)),
            ("Expect: foo\r\n", Some(Failure::UnsupportedExpect)),
            (
                "Expect: 100-continue, foo\r\n",
                Some(Failure::UnsupportedExpect),
            ),
        ] {
            let head = head(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}"));
            assert_eq!(admit(&head).unwrap().violation, violation, "{fields:?}");
        }
    }

    #[test]
    fn endless_connection_lists_are_refused() {
        for (count, violation) in [(100, None), (101, Some(Failure::BadHeader))] {
            let head = head(&format!(
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: {}\r\n",
                vec!["a"; count].join(",")
            ));
            assert_eq!(admit(&head).unwrap().violation, violation, "{count}");
        }
    }

    #[test]
    fn connections_and_upgrades() {
        // (version, fields, keep_alive, upgrade, expects_continue, nominates)
        for (version, fields, keep_alive, upgrade, expects, nominates) in [
            ("1.1", "", true, false, false, false),
            ("1.1", "Connection: Close\r\n", false, false, false, false),
            ("1.0", "", false, false, false, false),
            (
                "1.0",
                "Connection: Keep-Alive\r\n",
                true,
                false,
                false,
                false,
            ),
            (
                "1.1",
                "Connection: Upgrade\r\nUpgrade: websocket\r\n",
                true,
                true,
                false,
                false,
            ),
            (
                "1.1",
                "Connection: keep-alive, upgrade\r\nUpgrade: foo/2\r\n",
                true,
                true,
                false,
                false,
            ),
            ("1.1", "Upgrade: websocket\r\n", true, false, false, false),
            (
                "1.0",
                "Connection: Upgrade\r\nUpgrade: websocket\r\n",
                false,
                false,
                false,
                false,
            ),
            (
                "1.1",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
                true,
                false,
                false,
                true,
            ),
            (
                "1.1",
                "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
                true,
                false,
                false,
                false,
            ),
            (
                "1.1",
                "Expect: 100-continue\r\nConnection: x-y\r\n",
                true,
                false,
                true,
                true,
            ),
            (
                "1.0",
                "Expect: 100-continue\r\n",
                false,
                false,
                false,
                false,
            ),
        ] {
            let head = head(&format!("GET / HTTP/{version}\r\nHost: a\r\n{fields}"));
            let admitted = admit(&head).unwrap();
            assert_eq!(
                (
                    admitted.keep_alive,
                    admitted.upgrade,
                    admitted.expects_continue,
                    admitted.nominates,
                    admitted.violation
                ),
                (keep_alive, upgrade, expects, nominates, None),
                "{version} {fields:?}"
            );
        }
    }
}
