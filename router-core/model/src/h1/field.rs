//! Header fields as places in one buffer. A field keeps the bytes and the case that the peer sent; the names that the
//! router itself cares about are recognised once, at parse time.

use std::ops::Range;

use bytes::Bytes;

pub use super::bytes::is_token;
use crate::runs::position;

/// A range of a head's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// A part of it, by its distances from the start.
    pub(crate) fn part(self, from: usize, to: usize) -> Self {
        Self {
            start: self.start + from as u32,
            end: self.start + to as u32,
        }
    }

    pub(crate) fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// One field line: which name it is and where name and value stand.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub(crate) id: FieldId,
    /// It is written as the router would write it, one blank behind the colon and none behind the value, so that the
    /// line can be copied.
    pub(crate) is_plain: bool,
    pub(crate) name: Span,
    pub(crate) value: Span,
}

impl Field {
    /// Where its line stands, CRLF included, if it can be copied as it is.
    pub(crate) fn whole_line(&self) -> Option<Range<usize>> {
        const CRLF: usize = 2;
        let (start, end) = (self.name.start as usize, self.value.end as usize);
        self.is_plain.then_some(start..end + CRLF)
    }
}

/// The field names that the router treats in a special way; all others are [`FieldId::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "each variant is the field name that it stands for"
)]
pub enum FieldId {
    Connection,
    ContentLength,
    Cookie,
    Date,
    Expect,
    Forwarded,
    Host,
    KeepAlive,
    ProxyAuthorization,
    ProxyConnection,
    Server,
    SetCookie,
    StrictTransportSecurity,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Via,
    XForwardedFor,
    XForwardedPort,
    XForwardedProto,
    XRequestId,
    XRequestStart,
    /// A name that turns into one of the router's own or a framing name when an application server maps `-` to `_`, as
    /// CGI and WSGI do (`X_Forwarded_For`). It is never passed on: behind such a server it would be a forged copy.
    Alias,
    /// Any other name.
    Other,
}

impl FieldId {
    /// Recognises a name, whatever its case. The name must be a token.
    pub fn of(name: &[u8]) -> Self {
        let id = Self::exact(name);
        if id == Self::Other && has_hyphens(name.len()) && position(name, b'_').is_some() {
            return Self::alias(name);
        }
        id
    }

    #[inline]
    fn exact(name: &[u8]) -> Self {
        let first = name.first().map_or(0, u8::to_ascii_lowercase);
        match (name.len(), first) {
            (2, b't') if is(name, b"te") => Self::Te,
            (3, b'v') if is(name, b"via") => Self::Via,
            (4, b'h') if is(name, b"host") => Self::Host,
            (4, b'd') if is(name, b"date") => Self::Date,
            (6, b'c') if is(name, b"cookie") => Self::Cookie,
            (6, b'e') if is(name, b"expect") => Self::Expect,
            (6, b's') if is(name, b"server") => Self::Server,
            (7, b't') if is(name, b"trailer") => Self::Trailer,
            (7, b'u') if is(name, b"upgrade") => Self::Upgrade,
            (9, b'f') if is(name, b"forwarded") => Self::Forwarded,
            (10, b'c') if is(name, b"connection") => Self::Connection,
            (10, b'k') if is(name, b"keep-alive") => Self::KeepAlive,
            (10, b's') if is(name, b"set-cookie") => Self::SetCookie,
            (12, b'x') if is(name, b"x-request-id") => Self::XRequestId,
            (14, b'c') if is(name, b"content-length") => Self::ContentLength,
            (15, b'x') if is(name, b"x-forwarded-for") => Self::XForwardedFor,
            (15, b'x') if is(name, b"x-request-start") => Self::XRequestStart,
            (16, b'p') if is(name, b"proxy-connection") => Self::ProxyConnection,
            (16, b'x') if is(name, b"x-forwarded-port") => Self::XForwardedPort,
            (17, b't') if is(name, b"transfer-encoding") => Self::TransferEncoding,
            (17, b'x') if is(name, b"x-forwarded-proto") => Self::XForwardedProto,
            (19, b'p') if is(name, b"proxy-authorization") => Self::ProxyAuthorization,
            (LONGEST, b's') if is(name, b"strict-transport-security") => {
                Self::StrictTransportSecurity
            }
            _ => Self::Other,
        }
    }

    #[cold]
    fn alias(name: &[u8]) -> Self {
        let mut dashed = [0u8; LONGEST];
        let Some(dashed) = dashed.get_mut(..name.len()) else {
            return Self::Other;
        };
        for (to, from) in dashed.iter_mut().zip(name) {
            *to = if *from == b'_' { b'-' } else { *from };
        }
        if Self::exact(dashed) == Self::Other {
            Self::Other
        } else {
            Self::Alias
        }
    }

    /// Whether a trailer of this name may be passed on. Framing, routing and the router's own fields may not: a
    /// recipient that merges trailers into headers would take them for the router's word (RFC 9110 §6.5.1).
    pub fn allowed_in_trailer(self) -> bool {
        self == Self::Other
    }
}

/// The longest name that is recognised.
const LONGEST: usize = 25;

/// Whether a name of ours of this length has a hyphen.
const fn has_hyphens(length: usize) -> bool {
    matches!(length, 10 | 12 | 14..=17 | 19 | LONGEST)
}

/// Whether a token is a name of ours, given in lower case. The bit that tells small letters from capitals is set in each
/// letter of our names, and in their hyphens; of the bytes of a token only the wanted one becomes the same by setting it.
fn is<const N: usize>(name: &[u8], ours: &[u8; N]) -> bool {
    const SMALL: u8 = 0x20;
    let differs = |name: &[u8; N]| {
        name.iter()
            .zip(ours)
            .fold(0, |differs, (a, b)| differs | (a | SMALL) ^ b)
    };
    name.try_into().is_ok_and(|name| differs(name) == 0)
}

/// The field lines of a head in order, and which names there are: most questions are about names that a head lacks.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldList {
    lines: Vec<Field>,
    present: u32,
}

impl FieldList {
    pub(crate) fn with_capacity(lines: usize) -> Self {
        Self {
            lines: Vec::with_capacity(lines),
            present: 0,
        }
    }

    pub(crate) fn push(&mut self, field: Field) {
        self.present |= bit(field.id);
        self.lines.push(field);
    }

    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The lines among which those of a name are: none, or all.
    fn with(&self, id: FieldId) -> &[Field] {
        if self.present & bit(id) == 0 {
            &[]
        } else {
            &self.lines
        }
    }
}

const fn bit(id: FieldId) -> u32 {
    1 << id as u32
}

/// The field section of a head.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    pub(crate) bytes: Bytes,
    pub(crate) list: FieldList,
}

impl Fields {
    /// Every field, in the order received: which, name as sent, value without surrounding blanks.
    pub fn iter(&self) -> impl Iterator<Item = (FieldId, &[u8], &[u8])> {
        self.lines()
            .iter()
            .map(|field| (field.id, self.name_of(field), self.value_of(field)))
    }

    pub(crate) fn lines(&self) -> &[Field] {
        &self.list.lines
    }

    pub(crate) fn name_of(&self, field: &Field) -> &[u8] {
        field.name.of(&self.bytes)
    }

    pub(crate) fn value_of(&self, field: &Field) -> &[u8] {
        field.value.of(&self.bytes)
    }

    /// The values of every line of one name, in order.
    pub fn values(&self, id: FieldId) -> impl Iterator<Item = &[u8]> {
        self.list
            .with(id)
            .iter()
            .filter(move |field| field.id == id)
            .map(|field| self.value_of(field))
    }

    /// The first value of a name.
    pub fn first(&self, id: FieldId) -> Option<&[u8]> {
        self.values(id).next()
    }

    /// The first value of a name that the router does not know by itself.
    pub fn named(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter()
            .find(|(_, n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, _, value)| value)
    }

    /// The bytes that the head takes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// How many field lines there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is no field at all.
    pub fn is_empty(&self) -> bool {
        self.list.lines.is_empty()
    }
}

/// The elements of a comma-separated list, blanks trimmed, empty ones left out (RFC 9110 §5.6.1).
pub fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_whatever_their_case_and_spoofs_are_marked() {
        for (name, id) in [
            ("Host", FieldId::Host),
            ("HOST", FieldId::Host),
            ("date", FieldId::Date),
            ("hose", FieldId::Other),
            ("X-Forwarded-For", FieldId::XForwardedFor),
            ("x-request-start", FieldId::XRequestStart),
            ("X-Request-ID", FieldId::XRequestId),
            ("x-forwarded-port", FieldId::XForwardedPort),
            ("Proxy-Connection", FieldId::ProxyConnection),
            ("x-forwarded-proto", FieldId::XForwardedProto),
            ("Transfer-Encoding", FieldId::TransferEncoding),
            ("Transfer_Encoding", FieldId::Alias),
            ("x_forwarded-for", FieldId::Alias),
            ("X_REQUEST_ID", FieldId::Alias),
            ("my_header", FieldId::Other),
            ("a_header_name_longer_than_any_of_ours", FieldId::Other),
            ("Accept", FieldId::Other),
            ("", FieldId::Other),
        ] {
            assert_eq!(FieldId::of(name.as_bytes()), id, "{name}");
        }
    }

    /// Every name of ours, with each of its bytes changed in every way that a token allows.
    #[test]
    fn a_name_of_ours_is_recognised_and_nothing_near_it() {
        for ours in [
            "connection",
            "content-length",
            "cookie",
            "date",
            "expect",
            "forwarded",
            "host",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "server",
            "set-cookie",
            "strict-transport-security",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "via",
            "x-forwarded-for",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-request-id",
            "x-request-start",
        ] {
            let id = FieldId::of(ours.as_bytes());
            assert_ne!(id, FieldId::Other, "{ours}");
            assert_eq!(FieldId::of(ours.to_ascii_uppercase().as_bytes()), id);
            for at in 0..ours.len() {
                for byte in (0..=u8::MAX).filter(|byte| is_token(&[*byte])) {
                    let mut name = ours.as_bytes().to_vec();
                    let was = std::mem::replace(&mut name[at], byte);
                    let expected = if byte.eq_ignore_ascii_case(&was) {
                        id
                    } else if (was, byte) == (b'-', b'_') {
                        FieldId::Alias
                    } else {
                        FieldId::Other
                    };
                    let text = String::from_utf8_lossy(&name);
                    assert_eq!(FieldId::of(&name), expected, "{text}");
                }
            }
        }
    }

    #[test]
    fn list_elements_skip_empty_ones() {
        let elements: Vec<_> = list_elements(b" close, ,Upgrade ,").collect();
        assert_eq!(elements, [b"close".as_slice(), b"Upgrade".as_slice()]);
        assert_eq!(list_elements(b" , ").count(), 0);
    }
}
