//! Reads a message head line by line as it arrives: strict (CRLF only, no folding, no blank before a colon), each limit
//! applied the moment it is passed, each byte looked at once however it is dripped in. RFC 9112 §2–§5; limits from the
//! Heroku routing article.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::field::{Field, FieldId, Fields, Span, is_token, is_token_byte, is_value_byte};
use crate::limits::Limits;

/// The protocol version of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2 (RFC 9113), whose heads come from [`crate::h2`].
    Http2,
}

/// What is wrong with a head, as a fact; the verdict differs between requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum HeadError {
    #[error("the start line is not of the form that RFC 9112 §3 and §4 give")]
    StartLine,
    #[error("the start line is longer than allowed")]
    StartLineTooLong,
    #[error("the protocol version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    #[error("a line does not end in CRLF")]
    LineEnding,
    #[error("a field line is malformed")]
    FieldLine,
    #[error("a field line is longer than allowed")]
    FieldTooLong,
    #[error("a Set-Cookie line is longer than allowed")]
    CookieTooLong,
    #[error("there are more field lines than allowed")]
    TooManyFields,
}

/// Limits of a head, in bytes without the line's CRLF.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Start line.
    pub start_line: usize,
    /// One field line.
    pub field_line: usize,
    /// One field name.
    pub field_name: usize,
    /// One `Set-Cookie` line.
    pub cookie_line: usize,
    /// Number of field lines.
    pub fields: usize,
    /// The whole head.
    pub total: usize,
}

impl HeadLimits {
    /// The limits of a request head.
    pub fn request(limits: &Limits) -> Self {
        Self {
            start_line: limits.request_line,
            field_line: limits.request_header_line,
            field_name: limits.request_header_name,
            cookie_line: limits.request_header_line,
            fields: limits.request_headers,
            total: limits.request_head,
        }
    }

    /// The limits of a response head.
    pub fn response(limits: &Limits) -> Self {
        Self {
            start_line: limits.response_status_line,
            field_line: limits.response_header_line,
            field_name: limits.response_header_line,
            cookie_line: limits.response_cookie_line,
            fields: limits.response_headers,
            total: limits.response_head,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
}

/// Reads one head after another from a growing buffer.
///
/// The buffer must start at the head's first byte and only ever grow between two calls; [`HeadParser::take_request`]
/// and [`HeadParser::take_response`] take the head out of it and make the parser ready for the next.
#[derive(Debug)]
pub struct HeadParser {
    kind: Kind,
    limits: HeadLimits,
    line_start: usize,
    scanned: usize,
    empty_lines: u8,
    start: Option<Start>,
    fields: Vec<Field>,
}

#[derive(Debug, Clone, Copy)]
struct Start {
    version: Version,
    first: Span,
    second: Span,
    status: u16,
}

impl HeadParser {
    /// A parser of requests.
    pub fn request(limits: HeadLimits) -> Self {
        Self::new(Kind::Request, limits)
    }

    /// A parser of responses.
    pub fn response(limits: HeadLimits) -> Self {
        Self::new(Kind::Response, limits)
    }

    fn new(kind: Kind, limits: HeadLimits) -> Self {
        Self {
            kind,
            limits,
            line_start: 0,
            scanned: 0,
            empty_lines: 0,
            start: None,
            fields: Vec::new(),
        }
    }

    /// Takes a complete request head out of `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The first rule of RFC 9112 or of the limits that the head breaks.
    pub fn take_request(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<RequestHead>, HeadError> {
        let Some((start, fields)) = self.take(buffer)? else {
            return Ok(None);
        };
        Ok(Some(RequestHead {
            version: start.version,
            method: start.first,
            target: start.second,
            fields,
            ended: false,
        }))
    }

    /// Takes a complete response head out of `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The first rule of RFC 9112 or of the limits that the head breaks.
    pub fn take_response(
        &mut self,
        buffer: &mut BytesMut,
    ) -> Result<Option<ResponseHead>, HeadError> {
        let Some((start, fields)) = self.take(buffer)? else {
            return Ok(None);
        };
        Ok(Some(ResponseHead {
            version: start.version,
            status: start.status,
            reason: start.second,
            fields,
            ended: false,
        }))
    }

    /// Whether the start line has been read completely.
    pub fn has_start_line(&self) -> bool {
        self.start.is_some()
    }

    /// Whether anything but empty lines has come of the next head, of which `buffered` bytes are in the buffer.
    pub fn has_begun(&self, buffered: usize) -> bool {
        self.start.is_some() || buffered > self.line_start
    }

    fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<(Start, Fields)>, HeadError> {
        let Some(length) = self.scan(buffer)? else {
            return Ok(None);
        };
        let bytes: Bytes = buffer.split_to(length).freeze();
        let list = std::mem::take(&mut self.fields);
        let start = self.start.take().ok_or(HeadError::StartLine)?;
        self.line_start = 0;
        self.scanned = 0;
        self.empty_lines = 0;
        Ok(Some((start, Fields { bytes, list })))
    }

    /// Walks over the lines that are complete; the head's length once its empty line is there.
    fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, HeadError> {
        loop {
            let rest = buffer.get(self.scanned..).unwrap_or_default();
            let Some(at) = memchr::memchr(b'\n', rest) else {
                self.scanned = buffer.len();
                self.check_partial(buffer)?;
                return Ok(None);
            };
            let newline = self.scanned + at;
            let line_start = self.line_start;
            let Some(line) = buffer
                .get(line_start..newline)
                .and_then(|line| line.strip_suffix(b"\r"))
            else {
                return Err(HeadError::LineEnding);
            };
            self.scanned = newline + 1;
            self.line_start = newline + 1;
            if self.start.is_none() {
                if line.is_empty() && self.kind == Kind::Request {
                    self.empty_line()?;
                    continue;
                }
                self.start = Some(self.start_line(line, line_start)?);
            } else if line.is_empty() {
                return Ok(Some(newline + 1));
            } else {
                let field = self.field_line(line, line_start)?;
                self.fields.push(field);
            }
            if newline > self.limits.total {
                return Err(HeadError::FieldTooLong);
            }
        }
    }

    /// RFC 9112 §2.2 asks to skip an empty line before a request; more than five are an attack or a broken client.
    fn empty_line(&mut self) -> Result<(), HeadError> {
        const MOST: u8 = 5;
        self.empty_lines += 1;
        if self.empty_lines > MOST {
            Err(HeadError::StartLine)
        } else {
            Ok(())
        }
    }

    /// What can be said of a line before its end has come: too long, or surely not HTTP.
    fn check_partial(&self, buffer: &[u8]) -> Result<(), HeadError> {
        let line = buffer.get(self.line_start..).unwrap_or_default();
        // The CR of an unfinished CRLF does not count.
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        if self.start.is_some() {
            if length > self.limits.field_line || buffer.len() > self.limits.total.saturating_add(2)
            {
                return Err(HeadError::FieldTooLong);
            }
            if self.kind == Kind::Response
                && length > self.limits.cookie_line
                && starts_like_set_cookie(line)
            {
                return Err(HeadError::CookieTooLong);
            }
            return Ok(());
        }
        if length > self.limits.start_line {
            return Err(HeadError::StartLineTooLong);
        }
        let plausible = match self.kind {
            Kind::Request => line
                .first()
                .is_none_or(|byte| is_token_byte(*byte) || *byte == b'\r'),
            Kind::Response => {
                let known = line.len().min(RESPONSE_PREFIX.len());
                line.get(..known) == RESPONSE_PREFIX.get(..known)
            }
        };
        if plausible {
            Ok(())
        } else {
            Err(HeadError::StartLine)
        }
    }

    fn start_line(&self, line: &[u8], at: usize) -> Result<Start, HeadError> {
        if line.len() > self.limits.start_line {
            return Err(HeadError::StartLineTooLong);
        }
        match self.kind {
            Kind::Request => request_line(line, at),
            Kind::Response => status_line(line, at),
        }
    }

    fn field_line(&self, line: &[u8], at: usize) -> Result<Field, HeadError> {
        if self.fields.len() >= self.limits.fields {
            return Err(HeadError::TooManyFields);
        }
        if line.len() > self.limits.field_line {
            return Err(HeadError::FieldTooLong);
        }
        let field = parse_field(line, at, self.kind == Kind::Response)?;
        if (field.name.end - field.name.start) as usize > self.limits.field_name {
            return Err(HeadError::FieldTooLong);
        }
        if field.id == FieldId::SetCookie && line.len() > self.limits.cookie_line {
            return Err(HeadError::CookieTooLong);
        }
        Ok(field)
    }
}

const RESPONSE_PREFIX: &[u8] = b"HTTP/1.";

fn starts_like_set_cookie(line: &[u8]) -> bool {
    line.get(..11)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"set-cookie:"))
}

/// One field line without its CRLF. `lenient` takes blanks before the colon away, as RFC 9112 §5.1 asks of a proxy for
/// responses.
pub(crate) fn parse_field(line: &[u8], at: usize, lenient: bool) -> Result<Field, HeadError> {
    let colon = memchr::memchr(b':', line).ok_or(HeadError::FieldLine)?;
    let (raw_name, raw_value) = line.split_at(colon);
    let name = if lenient {
        raw_name.trim_ascii_end()
    } else {
        raw_name
    };
    let raw_value = raw_value.get(1..).unwrap_or_default();
    if !is_token(name) || !raw_value.iter().all(|byte| is_value_byte(*byte)) {
        return Err(HeadError::FieldLine);
    }
    let value = trim_blanks(raw_value);
    let blanks = raw_value.len() - trim_blanks_start(raw_value).len();
    let value_start = at + colon + 1 + blanks;
    Ok(Field {
        id: FieldId::of(name),
        name: span(at, at + name.len())?,
        value: span(value_start, value_start + value.len())?,
    })
}

fn trim_blanks_start(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    value
}

fn trim_blanks(value: &[u8]) -> &[u8] {
    let mut value = trim_blanks_start(value);
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

pub(crate) fn span(start: usize, end: usize) -> Result<Span, HeadError> {
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(Span { start, end }),
        _ => Err(HeadError::FieldTooLong),
    }
}

pub(crate) const LONGEST_METHOD: usize = 127;

/// `method SP request-target SP HTTP-version`, single blanks only.
fn request_line(line: &[u8], at: usize) -> Result<Start, HeadError> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::StartLine);
    };
    if !is_token(method) || method.len() > LONGEST_METHOD || !is_target(target) {
        return Err(HeadError::StartLine);
    }
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(HeadError::Version);
        }
        _ => return Err(HeadError::StartLine),
    };
    let target_start = at + method.len() + 1;
    Ok(Start {
        version,
        first: span(at, at + method.len())?,
        second: span(target_start, target_start + target.len())?,
        status: 0,
    })
}

/// No blank, no control byte; bytes above ASCII only as UTF-8, which curl and older browsers send unescaped.
pub(crate) fn is_target(target: &[u8]) -> bool {
    let visible = target.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    !target.is_empty() && visible && (target.is_ascii() || std::str::from_utf8(target).is_ok())
}

/// `HTTP-version SP status-code [SP reason]`.
fn status_line(line: &[u8], at: usize) -> Result<Start, HeadError> {
    let (version, rest) = line.split_at_checked(8).ok_or(HeadError::StartLine)?;
    let version = match version {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        _ => return Err(HeadError::StartLine),
    };
    let (digits, reason) = rest.split_at_checked(4).ok_or(HeadError::StartLine)?;
    let status = match digits {
        [b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(HeadError::StartLine),
    };
    let reason_ok =
        matches!(reason, [] | [b' ', ..]) && reason.iter().all(|byte| is_value_byte(*byte));
    if !reason_ok {
        return Err(HeadError::StartLine);
    }
    let reason_start = (at + 13).min(at + line.len());
    Ok(Start {
        version,
        first: Span::default(),
        second: span(reason_start, at + line.len())?,
        status,
    })
}

/// A well-formed request head.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub(crate) version: Version,
    pub(crate) method: Span,
    pub(crate) target: Span,
    pub(crate) fields: Fields,
    pub(crate) ended: bool,
}

impl RequestHead {
    /// What the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The method, case as sent.
    pub fn method(&self) -> &[u8] {
        self.method.of(&self.fields.bytes)
    }

    /// The request target as sent.
    pub fn target(&self) -> &[u8] {
        self.target.of(&self.fields.bytes)
    }

    /// The field section.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether the stream has ended with this head (HTTP/2 only: there is no body and there are no trailers).
    pub fn is_whole(&self) -> bool {
        self.ended
    }
}

/// A well-formed response head.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub(crate) version: Version,
    pub(crate) status: u16,
    pub(crate) reason: Span,
    pub(crate) fields: Fields,
    pub(crate) ended: bool,
}

impl ResponseHead {
    /// What the dyno speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The status code, 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase as sent, empty when there is none.
    pub fn reason(&self) -> &[u8] {
        self.reason.of(&self.fields.bytes)
    }

    /// The field section.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether the stream has ended with this head (HTTP/2 only: there is no body and there are no trailers).
    pub fn is_whole(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests;
