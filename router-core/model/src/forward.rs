//! Writes heads: the request that a dyno gets and the response that a client gets (spec §1.10 to §1.12). Fields keep
//! their order, case and bytes; hop-by-hop ones are taken out, and each router field goes in exactly once, whatever the
//! peer sent.

use bytes::BytesMut;
use http::HeaderMap;

pub use self::client::{Believed, ForwardedFor, client_address};
use self::writer::{FieldWriter, Lines, Own, put};
use crate::admission::Admitted;
use crate::decimal::Decimal;
use crate::h1::field::list_elements;
use crate::h1::{Field, FieldId, Fields, Framing, RequestHead, ResponseHead};
use crate::runs::position;

mod client;
mod writer;

/// What the router adds to a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFields<'a> {
    /// `X-Forwarded-For`, from [`ForwardedFor`].
    pub forwarded_for: &'a [u8],
    /// `X-Forwarded-Proto`: `http` or `https`.
    pub proto: &'a str,
    /// `X-Forwarded-Port`: the port that the client connected to.
    pub port: u16,
    /// `X-Request-Start`: Unix milliseconds.
    pub request_start: u64,
    /// `X-Request-Id`.
    pub request_id: &'a str,
    /// The router's own element of `Via`, `1.1 router`.
    pub via: &'a str,
    /// Whether the dyno may keep its connection.
    pub keep_alive: bool,
    /// Pass `Expect: 100-continue` on (`end_to_end_continue`).
    pub pass_expect: bool,
    /// What a trusted proxy said, which counts more than our own observation; else nothing.
    pub believed: Believed<'a>,
}

/// The path and query that are passed on: the target without its fragment, which no client should have sent (spec
/// §1.17).
pub fn path_of(target: &[u8]) -> &[u8] {
    let end = position(target, b'#').unwrap_or(target.len());
    target.get(..end).unwrap_or_default()
}

/// Writes the request head for an HTTP/1 dyno. Always HTTP/1.1, `Host` first, the router's fields after the client's,
/// framing last.
pub fn write_request(
    head: &RequestHead,
    admitted: &Admitted<'_>,
    ours: &RequestFields<'_>,
    out: &mut BytesMut,
) {
    let fields = head.fields();
    out.reserve(fields.bytes.len() + 256 + ours.forwarded_for.len());
    put(
        out,
        &[
            head.method(),
            b" ",
            path_of(head.target()),
            b" HTTP/1.1\r\nHost: ",
            admitted.host_as_sent,
            b"\r\n",
        ],
    );
    let mut lines = Lines::new(out, fields);
    pass_request_fields(head, admitted, ours, false, &mut lines);
    write_router_fields(fields, ours, &mut lines);
    let connection: &[u8] = match (admitted.upgrade, ours.keep_alive) {
        (true, _) => b"Connection: Upgrade\r\n",
        (false, true) => b"Connection: keep-alive\r\n",
        (false, false) => b"Connection: close\r\n",
    };
    lines.put(&[connection]);
    match admitted.framing {
        Framing::Length(length) => lines.own(Own::ContentLength, Decimal::of(length).as_bytes()),
        Framing::Chunked => lines.put(&[b"Transfer-Encoding: chunked\r\n"]),
        // RFC 9110 §8.6: a method that usually has a body says so when it has none.
        Framing::None if !matches!(head.method(), b"GET" | b"HEAD") && !admitted.upgrade => {
            lines.own(Own::ContentLength, b"0");
        }
        Framing::None | Framing::UntilClose => {}
    }
    lines.put(&[b"\r\n"]);
}

/// The request for an HTTP/2 dyno (RFC 9113 §8.3.1); `None` for a head that HTTP/2 cannot say.
pub fn h2_request(
    head: &RequestHead,
    admitted: &Admitted<'_>,
    ours: &RequestFields<'_>,
    scheme: &str,
) -> Option<http::Request<()>> {
    let mut fields = field_map(head.fields().len() + 8);
    pass_request_fields(head, admitted, ours, true, &mut fields);
    write_router_fields(head.fields(), ours, &mut fields);
    if let Framing::Length(length) = admitted.framing {
        fields.own(Own::ContentLength, Decimal::of(length).as_bytes());
    }
    let uri = http::Uri::builder()
        .scheme(scheme)
        .authority(admitted.host_as_sent)
        .path_and_query(path_of(head.target()))
        .build()
        .ok()?;
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::from_bytes(head.method()).ok()?;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = fields;
    Some(request)
}

/// Whether HTTP/2 can say a request: what http takes as a target is a little less than what HTTP/1 does.
pub fn fits_h2(head: &RequestHead, admitted: &Admitted<'_>) -> bool {
    http::uri::PathAndQuery::try_from(path_of(head.target())).is_ok()
        && http::uri::Authority::try_from(admitted.host_as_sent).is_ok()
        && http::Method::from_bytes(head.method()).is_ok()
        && head.fields().len() <= MOST_FIELDS
}

/// Room for so many fields; too many for a map are refused before they come here.
fn field_map(fields: usize) -> HeaderMap {
    HeaderMap::with_capacity(fields.min(MOST_FIELDS))
}

/// Fields that surely fit into a field map, the router's own included.
const MOST_FIELDS: usize = 20_000;

/// The client's own fields, without what is hop-by-hop or the router's to say. `Forwarded` (RFC 7239) is taken out: what
/// it would tell is in the `X-Forwarded` fields, and two accounts of one client can differ.
fn pass_request_fields(
    head: &RequestHead,
    admitted: &Admitted<'_>,
    ours: &RequestFields<'_>,
    to_h2: bool,
    out: &mut impl FieldWriter,
) {
    let fields = head.fields();
    let nominated = nominated(fields, admitted.nominates);
    for field in fields.lines() {
        let pass = match field.id {
            FieldId::Other
            | FieldId::Cookie
            | FieldId::Date
            | FieldId::Server
            | FieldId::StrictTransportSecurity
            | FieldId::SetCookie => !is_nominated(&nominated, fields, field),
            FieldId::Trailer => admitted.framing == Framing::Chunked,
            FieldId::Upgrade => admitted.upgrade && !to_h2,
            FieldId::Expect => ours.pass_expect && admitted.expects_continue,
            // gRPC servers refuse a request without it.
            FieldId::Te if to_h2 => {
                if list_elements(fields.value_of(field))
                    .any(|coding| coding.eq_ignore_ascii_case(b"trailers"))
                {
                    out.own(Own::Te, b"trailers");
                }
                false
            }
            FieldId::Host
            | FieldId::Connection
            | FieldId::ContentLength
            | FieldId::Forwarded
            | FieldId::KeepAlive
            | FieldId::ProxyAuthorization
            | FieldId::ProxyConnection
            | FieldId::Te
            | FieldId::TransferEncoding
            | FieldId::Via
            | FieldId::XForwardedFor
            | FieldId::XForwardedPort
            | FieldId::XForwardedProto
            | FieldId::XRequestId
            | FieldId::XRequestStart
            | FieldId::Alias => false,
        };
        if pass {
            out.pass(fields, field);
        }
    }
}

fn write_router_fields(fields: &Fields, ours: &RequestFields<'_>, out: &mut impl FieldWriter) {
    if !ours.forwarded_for.is_empty() {
        out.own(Own::XForwardedFor, ours.forwarded_for);
    }
    let believed = &ours.believed;
    out.own(
        Own::XForwardedProto,
        believed.proto.unwrap_or(ours.proto).as_bytes(),
    );
    let port = believed.port.unwrap_or(ours.port);
    out.own(Own::XForwardedPort, Decimal::of(u64::from(port)).as_bytes());
    match believed.request_start {
        Some(start) => out.own(Own::XRequestStart, start),
        None => out.own(
            Own::XRequestStart,
            Decimal::of(ours.request_start).as_bytes(),
        ),
    }
    out.own(Own::XRequestId, ours.request_id.as_bytes());
    write_via(fields, ours.via, out);
}

/// One `Via` line: what the peer sent, then ourselves (RFC 9110 §7.6.3).
fn write_via(fields: &Fields, via: &str, out: &mut impl FieldWriter) {
    if fields.first(FieldId::Via).is_none() {
        return out.own(Own::Via, via.as_bytes());
    }
    let mut line = Vec::with_capacity(64);
    for value in fields
        .values(FieldId::Via)
        .filter(|value| !value.is_empty())
    {
        line.extend_from_slice(value);
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(via.as_bytes());
    out.own(Own::Via, &line);
}

/// What the router adds to a response.
#[derive(Debug, Clone, Copy)]
pub struct ResponseFields<'a> {
    /// The router's own element of `Via`.
    pub via: &'a str,
    /// `Server`, when the app set none.
    pub server: &'a str,
    /// `Date`, when the app set none.
    pub date: &'a str,
    /// Whether the client's connection stays open afterwards.
    pub keep_alive: bool,
    /// The client is HTTP/1.0: no transfer coding.
    pub to_http10: bool,
    /// A Set-Cookie value of the router's own (session affinity).
    pub set_cookie: Option<&'a str>,
    /// `Strict-Transport-Security`, when the app set none (RFC 6797).
    pub hsts: Option<&'a str>,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the dyno's Connection field names fields of its own.
    pub nominates: bool,
}

/// Writes the response head for an HTTP/1 client. The status line is HTTP/1.1 with the dyno's reason phrase.
pub fn write_response(head: &ResponseHead, ours: &ResponseFields<'_>, out: &mut BytesMut) {
    let switching = head.status() == 101;
    out.reserve(head.fields().bytes.len() + 256);
    write_status_line(head.status(), head.reason(), out);
    let mut lines = Lines::new(out, head.fields());
    pass_response_fields(head, ours, false, &mut lines);
    let is_chunked = ours.framing == Framing::Chunked && !ours.to_http10;
    // A dyno that speaks HTTP/2 has no transfer coding of its own, and says with the stream that there is no content.
    if ours.framing == Framing::Length(0)
        && head.fields().first(FieldId::ContentLength).is_none()
        && !is_chunked
    {
        lines.own(Own::ContentLength, b"0");
    }
    if is_chunked && !is_chunked_by_dyno(head) {
        lines.put(&[b"Transfer-Encoding: chunked\r\n"]);
    }
    let connection: &[u8] = match (switching, ours.keep_alive) {
        (true, _) => b"Connection: Upgrade\r\n\r\n",
        (false, true) => b"Connection: keep-alive\r\n\r\n",
        (false, false) => b"Connection: close\r\n\r\n",
    };
    lines.put(&[connection]);
}

/// The response head for an HTTP/2 client. A 101 becomes the 200 of RFC 8441 §5.
pub fn h2_response(head: &ResponseHead, ours: &ResponseFields<'_>) -> http::Response<()> {
    let mut fields = field_map(head.fields().len() + 4);
    pass_response_fields(head, ours, true, &mut fields);
    let status = match head.status() {
        101 => 200,
        status => status,
    };
    h2_head(status, fields)
}

/// The interim response for an HTTP/2 client.
pub fn h2_interim(head: &ResponseHead) -> http::Response<()> {
    let mut fields = HeaderMap::new();
    pass_interim_fields(head, &mut fields);
    h2_head(head.status(), fields)
}

fn h2_head(status: u16, fields: HeaderMap) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.version_mut() = http::Version::HTTP_2;
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    *response.headers_mut() = fields;
    response
}

fn is_chunked_by_dyno(head: &ResponseHead) -> bool {
    head.fields()
        .first(FieldId::TransferEncoding)
        .is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"))
}

fn pass_response_fields(
    head: &ResponseHead,
    ours: &ResponseFields<'_>,
    to_h2: bool,
    out: &mut impl FieldWriter,
) {
    let fields = head.fields();
    let switching = head.status() == 101;
    let chunked = is_chunked_by_dyno(head);
    let nominated = nominated(fields, ours.nominates);
    let (mut has_date, mut has_server, mut length_written) = (false, false, false);
    let mut has_hsts = false;
    for field in fields.lines() {
        let pass = match field.id {
            FieldId::Date => {
                has_date = true;
                true
            }
            FieldId::Server => {
                has_server = true;
                true
            }
            FieldId::StrictTransportSecurity => {
                has_hsts = true;
                true
            }
            // Chunked wins; equal lines become one; a switched protocol has no body.
            FieldId::ContentLength => {
                !chunked && !switching && !std::mem::replace(&mut length_written, true)
            }
            FieldId::TransferEncoding => chunked && !ours.to_http10 && !switching && !to_h2,
            FieldId::Trailer => ours.framing == Framing::Chunked && !ours.to_http10,
            // 426 tells the client what to upgrade to (RFC 9110 §15.5.22).
            FieldId::Upgrade => !to_h2 && (switching || head.status() == 426),
            FieldId::Connection
            | FieldId::KeepAlive
            | FieldId::ProxyAuthorization
            | FieldId::ProxyConnection
            | FieldId::Te
            | FieldId::Via => false,
            // The answer to the router's own handshake means nothing to a client that made none.
            FieldId::Other
                if to_h2
                    && switching
                    && fields
                        .name_of(field)
                        .eq_ignore_ascii_case(b"sec-websocket-accept") =>
            {
                false
            }
            FieldId::Other
            | FieldId::Alias
            | FieldId::Cookie
            | FieldId::Expect
            | FieldId::Forwarded
            | FieldId::Host
            | FieldId::SetCookie
            | FieldId::XForwardedFor
            | FieldId::XForwardedPort
            | FieldId::XForwardedProto
            | FieldId::XRequestId
            | FieldId::XRequestStart => !is_nominated(&nominated, fields, field),
        };
        if pass {
            out.pass(fields, field);
        }
    }
    if !has_server {
        out.own(Own::Server, ours.server.as_bytes());
    }
    if !has_date {
        out.own(Own::Date, ours.date.as_bytes());
    }
    if let Some(hsts) = ours.hsts.filter(|_| !has_hsts) {
        out.own(Own::StrictTransportSecurity, hsts.as_bytes());
    }
    if let Some(cookie) = ours.set_cookie {
        out.own(Own::SetCookie, cookie.as_bytes());
    }
    write_via(fields, ours.via, out);
}

/// Writes an interim response (RFC 9110 §15.2). The fields of a 100 are dropped (spec §1.15), those of a 103 are its
/// point.
pub fn write_interim(head: &ResponseHead, out: &mut BytesMut) {
    write_status_line(head.status(), head.reason(), out);
    let mut lines = Lines::new(out, head.fields());
    pass_interim_fields(head, &mut lines);
    lines.put(&[b"\r\n"]);
}

fn pass_interim_fields(head: &ResponseHead, out: &mut impl FieldWriter) {
    if head.status() == 100 {
        return;
    }
    for field in head.fields().lines() {
        if field.id == FieldId::Other {
            out.pass(head.fields(), field);
        }
    }
}

/// The router's own 100.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes `HTTP/1.1 NNN reason`.
pub fn write_status_line(status: u16, reason: &[u8], out: &mut BytesMut) {
    let digit = |value: u16| (value % 10) as u8 + b'0';
    let (a, b, c) = (digit(status / 100), digit(status / 10), digit(status));
    let start = [
        b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', a, b, c, b' ',
    ];
    put(out, &[&start, reason, b"\r\n"]);
}

/// The names that the Connection field nominates, found once per head: looking through its lines again for every field
/// would let one request keep a core busy. Fields that carry the message's meaning cannot be nominated away (spec
/// §10-11); the callers see to that.
fn nominated(fields: &Fields, any: bool) -> Vec<&[u8]> {
    if !any {
        return Vec::new();
    }
    fields
        .values(FieldId::Connection)
        .flat_map(list_elements)
        .collect()
}

fn is_nominated(nominated: &[&[u8]], fields: &Fields, field: &Field) -> bool {
    !nominated.is_empty() && is_among(nominated, fields.name_of(field))
}

fn is_among(nominated: &[&[u8]], name: &[u8]) -> bool {
    const FORWARDED: &[u8] = b"x-forwarded-";
    let forwarded = name
        .split_at_checked(FORWARDED.len())
        .is_some_and(|(start, _)| start.eq_ignore_ascii_case(FORWARDED));
    !forwarded
        && nominated
            .iter()
            .any(|token| token.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests;
