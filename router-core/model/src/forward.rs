//! Writes heads: the request that a dyno gets and the response that a client gets (spec §1.10 to §1.12). Fields keep
//! their order, case and bytes; hop-by-hop ones are taken out, and each router field goes in exactly once, whatever the
//! peer sent.

use std::io::Write as _;
use std::net::IpAddr;

use bytes::BytesMut;

use crate::admission::Admitted;
use crate::h1::field::list_elements;
use crate::h1::{FieldId, Fields, Framing, RequestHead, ResponseHead};

/// What the router adds to a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestFields<'a> {
    /// `X-Forwarded-For`, from [`forwarded_for`].
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
}

/// The value of `X-Forwarded-For`: what the client sent, all lines joined in order, then the client's own address.
pub fn forwarded_for(fields: &Fields, client: Option<IpAddr>, out: &mut Vec<u8>) {
    out.clear();
    for value in fields
        .values(FieldId::XForwardedFor)
        .filter(|value| !value.is_empty())
    {
        if !out.is_empty() {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(value);
    }
    if let Some(client) = client {
        if !out.is_empty() {
            out.extend_from_slice(b", ");
        }
        // Writing to a Vec cannot fail.
        write!(out, "{}", client.to_canonical()).ok();
    }
}

/// The path and query that are passed on: the target without its fragment, which no client should have sent (spec
/// §1.17).
pub fn path_of(target: &[u8]) -> &[u8] {
    let end = memchr::memchr(b'#', target).unwrap_or(target.len());
    target.get(..end).unwrap_or_default()
}

/// Writes the request head for a dyno. Always HTTP/1.1, `Host` first, the router's fields after the client's, framing
/// last.
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
    let nominated = nominated(fields, admitted.nominates);
    for (id, name, value) in fields.iter() {
        let pass = match id {
            FieldId::Other
            | FieldId::Cookie
            | FieldId::Date
            | FieldId::Server
            | FieldId::SetCookie => !is_nominated(&nominated, name),
            FieldId::Trailer => admitted.framing == Framing::Chunked,
            FieldId::Upgrade => admitted.upgrade,
            FieldId::Expect => ours.pass_expect && admitted.expects_continue,
            FieldId::Host
            | FieldId::Connection
            | FieldId::ContentLength
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
            put(out, &[name, b": ", value, b"\r\n"]);
        }
    }
    write_router_fields(fields, ours, out);
    let connection: &[u8] = match (admitted.upgrade, ours.keep_alive) {
        (true, _) => b"Connection: Upgrade\r\n",
        (false, true) => b"Connection: keep-alive\r\n",
        (false, false) => b"Connection: close\r\n",
    };
    put(out, &[connection]);
    match admitted.framing {
        Framing::Length(length) => put_number(out, b"Content-Length: ", length),
        Framing::Chunked => put(out, &[b"Transfer-Encoding: chunked\r\n"]),
        // RFC 9110 §8.6: a method that usually has a body says so when it has none.
        Framing::None if !matches!(head.method(), b"GET" | b"HEAD") && !admitted.upgrade => {
            put(out, &[b"Content-Length: 0\r\n"]);
        }
        Framing::None | Framing::UntilClose => {}
    }
    put(out, &[b"\r\n"]);
}

fn write_router_fields(fields: &Fields, ours: &RequestFields<'_>, out: &mut BytesMut) {
    if !ours.forwarded_for.is_empty() {
        put(out, &[b"X-Forwarded-For: ", ours.forwarded_for, b"\r\n"]);
    }
    put(
        out,
        &[b"X-Forwarded-Proto: ", ours.proto.as_bytes(), b"\r\n"],
    );
    put_number(out, b"X-Forwarded-Port: ", u64::from(ours.port));
    put_number(out, b"X-Request-Start: ", ours.request_start);
    put(
        out,
        &[b"X-Request-Id: ", ours.request_id.as_bytes(), b"\r\n"],
    );
    write_via(fields, ours.via, out);
}

/// One `Via` line: what the peer sent, then ourselves (RFC 9110 §7.6.3).
fn write_via(fields: &Fields, via: &str, out: &mut BytesMut) {
    put(out, &[b"Via: "]);
    for value in fields
        .values(FieldId::Via)
        .filter(|value| !value.is_empty())
    {
        put(out, &[value, b", "]);
    }
    put(out, &[via.as_bytes(), b"\r\n"]);
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
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the dyno's Connection field names fields of its own.
    pub nominates: bool,
}

/// Writes the response head for a client. The status line is HTTP/1.1 with the dyno's reason phrase.
pub fn write_response(head: &ResponseHead, ours: &ResponseFields<'_>, out: &mut BytesMut) {
    let fields = head.fields();
    let switching = head.status() == 101;
    out.reserve(fields.bytes.len() + 256);
    write_status_line(head.status(), head.reason(), out);
    let chunked = fields
        .first(FieldId::TransferEncoding)
        .is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    let nominated = nominated(fields, ours.nominates);
    let (mut has_date, mut has_server, mut length_written) = (false, false, false);
    for (id, name, value) in fields.iter() {
        let pass = match id {
            FieldId::Date => {
                has_date = true;
                true
            }
            FieldId::Server => {
                has_server = true;
                true
            }
            // Chunked wins; equal lines become one; a switched protocol has no body.
            FieldId::ContentLength => {
                !chunked && !switching && !std::mem::replace(&mut length_written, true)
            }
            FieldId::TransferEncoding => chunked && !ours.to_http10 && !switching,
            FieldId::Trailer => ours.framing == Framing::Chunked && !ours.to_http10,
            // 426 tells the client what to upgrade to (RFC 9110 §15.5.22).
            FieldId::Upgrade => switching || head.status() == 426,
            FieldId::Connection
            | FieldId::KeepAlive
            | FieldId::ProxyAuthorization
            | FieldId::ProxyConnection
            | FieldId::Te
            | FieldId::Via => false,
            FieldId::Other
            | FieldId::Alias
            | FieldId::Cookie
            | FieldId::Expect
            | FieldId::Host
            | FieldId::SetCookie
            | FieldId::XForwardedFor
            | FieldId::XForwardedPort
            | FieldId::XForwardedProto
            | FieldId::XRequestId
            | FieldId::XRequestStart => !is_nominated(&nominated, name),
        };
        if pass {
            put(out, &[name, b": ", value, b"\r\n"]);
        }
    }
    if !has_server {
        put(out, &[b"Server: ", ours.server.as_bytes(), b"\r\n"]);
    }
    if !has_date {
        put(out, &[b"Date: ", ours.date.as_bytes(), b"\r\n"]);
    }
    if let Some(cookie) = ours.set_cookie {
        put(out, &[b"Set-Cookie: ", cookie.as_bytes(), b"\r\n"]);
    }
    write_via(fields, ours.via, out);
    let connection: &[u8] = match (switching, ours.keep_alive) {
        (true, _) => b"Connection: Upgrade\r\n\r\n",
        (false, true) => b"Connection: keep-alive\r\n\r\n",
        (false, false) => b"Connection: close\r\n\r\n",
    };
    put(out, &[connection]);
}

/// Writes an interim response (RFC 9110 §15.2). The fields of a 100 are dropped (spec §1.15), those of a 103 are its
/// point.
pub fn write_interim(head: &ResponseHead, out: &mut BytesMut) {
    write_status_line(head.status(), head.reason(), out);
    if head.status() != 100 {
        for (id, name, value) in head.fields().iter() {
            if id == FieldId::Other {
                put(out, &[name, b": ", value, b"\r\n"]);
            }
        }
    }
    put(out, &[b"\r\n"]);
}

/// The router's own 100.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Writes `HTTP/1.1 NNN reason`.
pub fn write_status_line(status: u16, reason: &[u8], out: &mut BytesMut) {
    let digits = [
        (status / 100 % 10) as u8 + b'0',
        (status / 10 % 10) as u8 + b'0',
        (status % 10) as u8 + b'0',
    ];
    put(out, &[b"HTTP/1.1 ", &digits, b" ", reason, b"\r\n"]);
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

fn is_nominated(nominated: &[&[u8]], name: &[u8]) -> bool {
    const FORWARDED: &[u8] = b"x-forwarded-";
    let forwarded = name.len() >= FORWARDED.len()
        && name
            .iter()
            .zip(FORWARDED)
            .all(|(a, b)| a.eq_ignore_ascii_case(b));
    !forwarded
        && nominated
            .iter()
            .any(|token| token.eq_ignore_ascii_case(name))
}

fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn put_number(out: &mut BytesMut, name: &[u8], number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        if let Some(digit) = digits.get_mut(at) {
            *digit = b'0' + (left % 10) as u8;
        }
        left /= 10;
        if left == 0 {
            break;
        }
    }
    put(out, &[name, digits.get(at..).unwrap_or_default(), b"\r\n"]);
}

#[cfg(test)]
mod tests;
