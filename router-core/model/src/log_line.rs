//! The log line of one exchange, in Heroku's form and as JSON. What is printed comes from strangers, so the invariant
//! is: whatever the bytes, one line is one line and no field can be forged. This runs once per request; it allocates
//! nothing but the growth of `out`.

use std::time::{Duration, SystemTime};

use self::timestamp::timestamp;
use crate::{
    decimal::Decimal,
    failure::Failure,
    runs::is_free_of,
    verdict::{self, Severity, Verdict},
};

mod timestamp;

/// The facts of one finished exchange of a known app. `method`, `path`, `host` and `forwarded_for` are bytes as they
/// came from the network.
#[derive(Debug, Clone, Copy)]
pub struct LogLine<'a> {
    /// When the exchange ended; the line's time stamp.
    pub ended: SystemTime,
    /// The app; not printed in the Heroku form, whose log is the app's own.
    pub app: &'a str,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// The method as received.
    pub method: &'a [u8],
    /// The path with its query, as received.
    pub path: &'a [u8],
    /// The `Host` as received.
    pub host: &'a [u8],
    /// The request ID that the dyno got.
    pub request_id: &'a str,
    /// The `X-Forwarded-For` that the dyno got.
    pub forwarded_for: &'a [u8],
    /// The dyno that was tried last, if any.
    pub dyno: Option<&'a str>,
    /// How long the last connection attempt took; zero on a kept connection.
    pub connect: Option<Duration>,
    /// How long the dyno and the client took; the lifetime of a tunnel.
    pub service: Option<Duration>,
    /// The status sent to the client; `None` if none was (H24).
    pub status: Option<u16>,
    /// Body bytes sent to the client, pages of the router included.
    pub bytes: u64,
    /// What the client spoke.
    pub protocol: Protocol,
    /// The TLS version (`tls1.3`) of the client's connection; `None` in the clear.
    pub tls: Option<&'a str>,
    /// The User-Agent, shown for H31 only, where it tells which kind of client holds on to the wrong connection.
    pub agent: Option<&'a [u8]>,
}

/// The protocol of the client's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl LogLine<'_> {
    /// Appends `TIME heroku[router]: at=info method=…` and a line feed.
    pub fn write_heroku(&self, out: &mut Vec<u8>) {
        out.reserve(TYPICAL_LENGTH + self.path.len() + self.forwarded_for.len());
        out.extend_from_slice(&timestamp(self.ended));
        match self.failure {
            None => out.extend_from_slice(b" heroku[router]: at=info method="),
            Some(failure) => {
                out.extend_from_slice(b" heroku[router]: ");
                write_outcome(out, verdict::of(failure));
                out.extend_from_slice(b"method=");
            }
        }
        write_bare(out, self.method);
        out.extend_from_slice(b" path=\"");
        write_quoted(out, self.path);
        out.extend_from_slice(b"\" host=");
        write_bare(out, self.host);
        out.extend_from_slice(b" request_id=");
        write_identifier(out, self.request_id);
        out.extend_from_slice(b" fwd=\"");
        write_quoted(out, self.forwarded_for);
        out.extend_from_slice(b"\" dyno=");
        write_identifier(out, self.dyno.unwrap_or_default());
        out.extend_from_slice(b" connect=");
        if let Some(connect) = self.connect {
            write_number(out, milliseconds(connect));
            out.extend_from_slice(b"ms");
        }
        out.extend_from_slice(b" service=");
        if let Some(service) = self.service {
            write_number(out, milliseconds(service));
            out.extend_from_slice(b"ms");
        }
        out.extend_from_slice(b" status=");
        if let Some(status) = self.status {
            write_number(out, u64::from(status));
        }
        out.extend_from_slice(b" bytes=");
        write_number(out, self.bytes);
        out.extend_from_slice(b" protocol=");
        out.extend_from_slice(self.protocol.as_str().as_bytes());
        match self.tls {
            None => out.extend_from_slice(b" tls=false"),
            Some(version) => {
                out.extend_from_slice(b" tls=true tls_version=");
                write_identifier(out, version);
            }
        }
        if self.failure == Some(Failure::Misdirected) {
            out.extend_from_slice(b" agent=\"");
            write_quoted(out, self.agent.unwrap_or_default());
            out.push(b'"');
        }
        out.push(b'\n');
    }

    /// Appends one JSON object with the same names and a line feed. Absent fields are left out, except that `status` is
    /// `null`; `connect` and `service` are milliseconds; bytes that are not UTF-8 become U+FFFD.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.reserve(TYPICAL_LENGTH + self.path.len() + self.forwarded_for.len());
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&timestamp(self.ended));
        out.push(b'"');
        write_member(out, "app", self.app.as_bytes());
        let verdict = self.failure.map(verdict::of);
        write_optional(out, "sock", verdict.and_then(|row| row.sock));
        write_member(out, "at", severity(verdict).as_bytes());
        write_optional(out, "code", verdict.and_then(|row| row.code));
        write_optional(out, "desc", verdict.map(|row| row.desc));
        write_optional(out, "cause", verdict.and_then(|row| row.cause));
        write_member(out, "method", self.method);
        write_member(out, "path", self.path);
        write_member(out, "host", self.host);
        write_member(out, "request_id", self.request_id.as_bytes());
        write_member(out, "fwd", self.forwarded_for);
        write_optional(out, "dyno", self.dyno);
        if let Some(connect) = self.connect {
            out.extend_from_slice(b",\"connect\":");
            write_number(out, milliseconds(connect));
        }
        if let Some(service) = self.service {
            out.extend_from_slice(b",\"service\":");
            write_number(out, milliseconds(service));
        }
        out.extend_from_slice(b",\"status\":");
        match self.status {
            Some(status) => write_number(out, u64::from(status)),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"bytes\":");
        write_number(out, self.bytes);
        write_member(out, "protocol", self.protocol.as_str().as_bytes());
        out.extend_from_slice(if self.tls.is_some() {
            b",\"tls\":true"
        } else {
            b",\"tls\":false"
        });
        write_optional(out, "tls_version", self.tls);
        if self.failure == Some(Failure::Misdirected) {
            write_member(out, "agent", self.agent.unwrap_or_default());
        }
        out.extend_from_slice(b"}\n");
    }
}

impl Protocol {
    /// As printed after `protocol=`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "http1.0",
            Self::Http11 => "http1.1",
            Self::Http2 => "http2.0",
        }
    }
}

/// What a line holds besides the path and the forwarded addresses; only saves the buffer from growing in steps.
const TYPICAL_LENGTH: usize = 320;

const fn severity(verdict: Option<&Verdict>) -> &'static str {
    match verdict {
        Some(row) => row.severity.as_str(),
        None => Severity::Info.as_str(),
    }
}

/// `sock= at= code= desc= cause=`, as many as there are, with a space after the last. The texts are our own.
fn write_outcome(out: &mut Vec<u8>, row: &Verdict) {
    if let Some(sock) = row.sock {
        out.extend_from_slice(b"sock=");
        out.extend_from_slice(sock.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(b"at=");
    out.extend_from_slice(row.severity.as_str().as_bytes());
    out.push(b' ');
    if let Some(code) = row.code {
        out.extend_from_slice(b"code=");
        out.extend_from_slice(code.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(b"desc=\"");
    out.extend_from_slice(row.desc.as_bytes());
    out.extend_from_slice(b"\" ");
    if let Some(cause) = row.cause {
        out.extend_from_slice(b"cause=\"");
        out.extend_from_slice(cause.as_bytes());
        out.extend_from_slice(b"\" ");
    }
}

/// The inside of a quoted value. UTF-8 stays readable; quotes, backslashes, whatever could end a line or move a cursor,
/// and stray bytes are escaped.
fn write_quoted(out: &mut Vec<u8>, value: &[u8]) {
    if is_plain(value) {
        return out.extend_from_slice(value);
    }
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut encoded = [0; 4];
            let encoded = character.encode_utf8(&mut encoded).as_bytes();
            if breaks_lines(character) || matches!(character, '"' | '\\') {
                encoded.iter().for_each(|&byte| write_escape(out, byte));
            } else {
                out.extend_from_slice(encoded);
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|&byte| write_escape(out, byte));
    }
}

/// A value without quotes around it: nothing in it may look like the end of a value or the start of another field.
fn write_bare(out: &mut Vec<u8>, value: &[u8]) {
    let special = |byte: u8| breaks_bare(byte) | (byte == b'=');
    if is_free_of(value, special) {
        return out.extend_from_slice(value);
    }
    write_escaped(out, value, special);
}

/// A bare value that we made or checked ourselves. A client's request ID may hold `=` and is printed as it is, so that
/// it can be searched for.
fn write_identifier(out: &mut Vec<u8>, value: &str) {
    if is_free_of(value.as_bytes(), breaks_bare) {
        return out.extend_from_slice(value.as_bytes());
    }
    write_escaped(out, value.as_bytes(), breaks_bare);
}

fn breaks_bare(byte: u8) -> bool {
    !byte.is_ascii_graphic() | (byte == b'"') | (byte == b'\\')
}

fn write_escaped(out: &mut Vec<u8>, value: &[u8], special: impl Fn(u8) -> bool) {
    for &byte in value {
        if special(byte) {
            write_escape(out, byte);
        } else {
            out.push(byte);
        }
    }
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        _ => out.extend_from_slice(&[b'\\', b'x', hex_digit(byte >> 4), hex_digit(byte & 15)]),
    }
}

fn write_optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        write_member(out, name, value.as_bytes());
    }
}

/// `,"name":"value"`.
fn write_member(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    if is_plain(value) {
        out.extend_from_slice(value);
    } else {
        write_json_text(out, value);
    }
    out.push(b'"');
}

fn write_json_text(out: &mut Vec<u8>, value: &[u8]) {
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut encoded = [0; 4];
            match character {
                '"' | '\\' | '\n' | '\r' | '\t' => write_escape(out, character as u8),
                // All of them lie in the basic plane: four digits are enough.
                _ if breaks_lines(character) => {
                    out.extend_from_slice(b"\\u");
                    for shift in [12, 8, 4, 0] {
                        out.push(hex_digit((character as u32 >> shift) as u8 & 15));
                    }
                }
                _ => out.extend_from_slice(character.encode_utf8(&mut encoded).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
}

/// Printable ASCII without quote and backslash, which is nearly every value.
fn is_plain(value: &[u8]) -> bool {
    is_free_of(value, |byte| {
        !(b' '..=b'~').contains(&byte) | (byte == b'"') | (byte == b'\\')
    })
}

/// Control characters, and the two separators at which some readers of logs end a line.
fn breaks_lines(character: char) -> bool {
    character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')
}

const fn hex_digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' + value - 10
    }
}

fn write_number(out: &mut Vec<u8>, value: u64) {
    if value < 10 {
        return out.push(b'0' + value as u8);
    }
    out.extend_from_slice(Decimal::of(value).as_bytes());
}

const fn milliseconds(duration: Duration) -> u64 {
    duration
        .as_secs()
        .saturating_mul(1000)
        .saturating_add(duration.subsec_millis() as u64)
}

#[cfg(test)]
mod tests;
