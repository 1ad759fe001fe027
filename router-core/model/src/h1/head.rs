//! Reads a message head line by line as it arrives: strict (CRLF only, no folding, no blank before a colon), each limit
//! applied the moment it is passed, each byte looked at once however it is dripped in. RFC 9112 §2–§5; limits from the
//! Heroku routing article.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::bytes::{is_token, is_token_byte, value_length, visible};
use super::field::{Field, FieldId, FieldList, Fields, Span};
use crate::limits::Limits;
use crate::runs::position;

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
    fields: FieldList,
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
            fields: FieldList::default(),
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
        let has_news = buffer.len() != self.scanned;
        let Some(length) = has_news.then(|| self.scan(buffer)).transpose()?.flatten() else {
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
        // A line whose end was not there is read once that has come, however many pieces it comes in.
        if self.scanned > self.line_start && !self.has_new_line_feed(buffer) {
            return self.wait(buffer);
        }
        loop {
            let line_start = self.line_start;
            let rest = buffer.get(line_start..).unwrap_or_default();
            let Some(line) = Line::first_of(rest)? else {
                return self.wait(buffer);
            };
            let line_end = line_start + line.text.len();
            self.line_start = line_end + CRLF.len();
            if self.start.is_none() {
                if line.text.is_empty() && self.kind == Kind::Request {
                    self.empty_line()?;
                    continue;
                }
                self.start = Some(self.start_line(line, line_start)?);
                self.fields = FieldList::with_capacity(TYPICAL_FIELDS);
            } else if line.text.is_empty() {
                return Ok(Some(self.line_start));
            } else {
                let field = self.field_line(line, line_start)?;
                self.fields.push(field);
            }
            if line_end >= self.limits.total {
                return Err(HeadError::FieldTooLong);
            }
        }
    }

    fn has_new_line_feed(&self, buffer: &[u8]) -> bool {
        let new = buffer.get(self.scanned..).unwrap_or_default();
        memchr::memchr(b'\n', new).is_some()
    }

    /// More bytes are needed, unless those that are here are enough to know better.
    fn wait(&mut self, buffer: &[u8]) -> Result<Option<usize>, HeadError> {
        self.scanned = buffer.len();
        self.check_partial(buffer)?;
        Ok(None)
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

    fn start_line(&self, line: Line<'_>, at: usize) -> Result<Start, HeadError> {
        if line.text.len() > self.limits.start_line {
            return Err(HeadError::StartLineTooLong);
        }
        match self.kind {
            _ if !line.is_clean => Err(HeadError::StartLine),
            Kind::Request => request_line(line.text, at),
            Kind::Response => status_line(line.text, at),
        }
    }

    fn field_line(&self, line: Line<'_>, at: usize) -> Result<Field, HeadError> {
        let Line { text, is_clean } = line;
        if self.fields.len() >= self.limits.fields {
            return Err(HeadError::TooManyFields);
        }
        if text.len() > self.limits.field_line {
            return Err(HeadError::FieldTooLong);
        }
        if !is_clean {
            return Err(HeadError::FieldLine);
        }
        let field = split_field(text, at, self.kind == Kind::Response)?;
        if field.name.len() > self.limits.field_name {
            return Err(HeadError::FieldTooLong);
        }
        if field.id == FieldId::SetCookie && text.len() > self.limits.cookie_line {
            return Err(HeadError::CookieTooLong);
        }
        Ok(field)
    }
}

/// Room for so many field lines at first.
const TYPICAL_FIELDS: usize = 16;

const CRLF: &[u8] = b"\r\n";

/// A line without its CRLF.
#[derive(Debug, Clone, Copy)]
struct Line<'b> {
    text: &'b [u8],
    /// There is nothing in it but what may stand in a field value. No line that has anything else is a good one.
    is_clean: bool,
}

impl<'b> Line<'b> {
    /// The line at the start of `bytes`; `None` when its end has not come.
    fn first_of(bytes: &'b [u8]) -> Result<Option<Self>, HeadError> {
        let (text, rest) = bytes
            .split_at_checked(value_length(bytes))
            .unwrap_or_default();
        if rest.starts_with(CRLF) {
            let is_clean = true;
            return Ok(Some(Self { text, is_clean }));
        }
        let Some(in_rest) = memchr::memchr(b'\n', rest) else {
            return Ok(None);
        };
        let text = bytes
            .get(..text.len() + in_rest)
            .and_then(|line| line.strip_suffix(b"\r"))
            .ok_or(HeadError::LineEnding)?;
        let is_clean = false;
        Ok(Some(Self { text, is_clean }))
    }
}

const RESPONSE_PREFIX: &[u8] = b"HTTP/1.";

fn starts_like_set_cookie(line: &[u8]) -> bool {
    line.get(..11)
        .is_some_and(|start| start.eq_ignore_ascii_case(b"set-cookie:"))
}

/// One field line without its CRLF.
pub(crate) fn parse_field(line: &[u8]) -> Result<Field, HeadError> {
    if value_length(line) == line.len() {
        split_field(line, 0, false)
    } else {
        Err(HeadError::FieldLine)
    }
}

/// Name and value of a field line in which there is nothing but what may stand in a value. `lenient` takes blanks before
/// the colon away, as RFC 9112 §5.1 asks of a proxy for responses.
fn split_field(line: &[u8], at: usize, lenient: bool) -> Result<Field, HeadError> {
    let colon = position(line, b':').ok_or(HeadError::FieldLine)?;
    let (mut name, value) = line.split_at_checked(colon).unwrap_or_default();
    if lenient {
        name = trim_blanks_end(name);
    }
    if !is_token(name) {
        return Err(HeadError::FieldLine);
    }
    let is_plain = name.len() == colon && is_plain_value(value);
    let value = if is_plain {
        colon + PLAIN.len()..line.len()
    } else {
        let value = trim_blanks_start(value.get(1..).unwrap_or_default());
        let start = line.len() - value.len();
        start..start + trim_blanks_end(value).len()
    };
    let line = span(at, at + line.len())?;
    Ok(Field {
        id: FieldId::of(name),
        is_plain,
        name: line.part(0, name.len()),
        value: line.part(value.start, value.end),
    })
}

/// How the router writes what is between name and value.
const PLAIN: &[u8] = b": ";

/// Whether a colon and what is behind it are written as the router would write them.
fn is_plain_value(value: &[u8]) -> bool {
    let is_visible = |byte: Option<&u8>| byte.is_some_and(|byte| !matches!(byte, b' ' | b'\t'));
    value
        .strip_prefix(PLAIN)
        .is_some_and(|value| is_visible(value.first()) && is_visible(value.last()))
}

fn trim_blanks_start(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    value
}

fn trim_blanks_end(mut value: &[u8]) -> &[u8] {
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
    let (method, rest) = split_at_blank(line)?;
    let (target, version) = split_at_blank(rest)?;
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

fn split_at_blank(line: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    position(line, b' ')
        .and_then(|blank| Some((line.get(..blank)?, line.get(blank + 1..)?)))
        .ok_or(HeadError::StartLine)
}

/// No blank, no control byte; bytes above ASCII only as UTF-8, which curl and older browsers send unescaped.
pub(crate) fn is_target(target: &[u8]) -> bool {
    let (visible, ascii) = visible(target);
    !target.is_empty() && visible && (ascii || std::str::from_utf8(target).is_ok())
}

/// `HTTP-version SP status-code [SP reason]`, in which there is nothing but what may stand in a value.
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
    if !matches!(reason, [] | [b' ', ..]) {
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
