//! Header fields as places in one buffer. A field keeps the bytes and the case that the peer sent; the names that the
//! router itself cares about are recognised once, at parse time.

use bytes::Bytes;

/// A range of a head's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
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
    pub(crate) name: Span,
    pub(crate) value: Span,
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
    /// Recognises a name, whatever its case.
    pub fn of(name: &[u8]) -> Self {
        let id = Self::exact(name);
        if id == Self::Other && memchr::memchr(b'_', name).is_some() {
            return Self::alias(name);
        }
        id
    }

    fn exact(name: &[u8]) -> Self {
        let candidate: (&[u8], Self) = match name.len() {
            2 => (b"te", Self::Te),
            3 => (b"via", Self::Via),
            4 => match name.first() {
                Some(b'h' | b'H') => (b"host", Self::Host),
                _ => (b"date", Self::Date),
            },
            6 => match name.first() {
                Some(b'c' | b'C') => (b"cookie", Self::Cookie),
                Some(b'e' | b'E') => (b"expect", Self::Expect),
                _ => (b"server", Self::Server),
            },
            7 => match name.first() {
                Some(b't' | b'T') => (b"trailer", Self::Trailer),
                _ => (b"upgrade", Self::Upgrade),
            },
            9 => (b"forwarded", Self::Forwarded),
            10 => match name.first() {
                Some(b'c' | b'C') => (b"connection", Self::Connection),
                Some(b'k' | b'K') => (b"keep-alive", Self::KeepAlive),
                _ => (b"set-cookie", Self::SetCookie),
            },
            12 => (b"x-request-id", Self::XRequestId),
            14 => (b"content-length", Self::ContentLength),
            15 => match name.last() {
                Some(b'r' | b'R') => (b"x-forwarded-for", Self::XForwardedFor),
                _ => (b"x-request-start", Self::XRequestStart),
            },
            16 => match name.last() {
                Some(b'n' | b'N') => (b"proxy-connection", Self::ProxyConnection),
                _ => (b"x-forwarded-port", Self::XForwardedPort),
            },
            17 => match name.first() {
                Some(b't' | b'T') => (b"transfer-encoding", Self::TransferEncoding),
                _ => (b"x-forwarded-proto", Self::XForwardedProto),
            },
            19 => (b"proxy-authorization", Self::ProxyAuthorization),
            25 => (b"strict-transport-security", Self::StrictTransportSecurity),
            _ => return Self::Other,
        };
        if name.eq_ignore_ascii_case(candidate.0) {
            candidate.1
        } else {
            Self::Other
        }
    }

    fn alias(name: &[u8]) -> Self {
        const LONGEST: usize = 25;
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

/// The field section of a head.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    pub(crate) bytes: Bytes,
    pub(crate) list: Vec<Field>,
}

impl Fields {
    /// Every field, in the order received: which, name as sent, value without surrounding blanks.
    pub fn iter(&self) -> impl Iterator<Item = (FieldId, &[u8], &[u8])> {
        self.list.iter().map(|field| {
            (
                field.id,
                field.name.of(&self.bytes),
                field.value.of(&self.bytes),
            )
        })
    }

    /// The values of every line of one name, in order.
    pub fn values(&self, id: FieldId) -> impl Iterator<Item = &[u8]> {
        self.list
            .iter()
            .filter(move |field| field.id == id)
            .map(|field| field.value.of(&self.bytes))
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
        self.list.is_empty()
    }
}

/// The elements of a comma-separated list, blanks trimmed, empty ones left out (RFC 9110 §5.6.1).
pub fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether bytes are a token (RFC 9110 §5.6.2).
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether a byte may stand in a token.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
}

/// Whether a byte may stand in a field value: visible, blank, tab or obs-text (RFC 9110 §5.5).
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
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

    #[test]
    fn list_elements_skip_empty_ones() {
        let elements: Vec<_> = list_elements(b" close, ,Upgrade ,").collect();
        assert_eq!(elements, [b"close".as_slice(), b"Upgrade".as_slice()]);
        assert_eq!(list_elements(b" , ").count(), 0);
    }
}
