//! Where fields are written to: the bytes of an HTTP/1 head, or the field section of an HTTP/2 one.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::h1::{Field, FieldId, Fields};

/// A field of the router's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    ContentLength,
    Date,
    Server,
    SetCookie,
    StrictTransportSecurity,
    Te,
    Via,
    XForwardedFor,
    XForwardedPort,
    XForwardedProto,
    XRequestId,
    XRequestStart,
}

impl Own {
    /// How its line begins in HTTP/1.
    const fn line(self) -> &'static str {
        match self {
            Self::ContentLength => "Content-Length: ",
            Self::Date => "Date: ",
            Self::Server => "Server: ",
            Self::SetCookie => "Set-Cookie: ",
            Self::StrictTransportSecurity => "Strict-Transport-Security: ",
            Self::Te => "TE: ",
            Self::Via => "Via: ",
            Self::XForwardedFor => "X-Forwarded-For: ",
            Self::XForwardedPort => "X-Forwarded-Port: ",
            Self::XForwardedProto => "X-Forwarded-Proto: ",
            Self::XRequestId => "X-Request-Id: ",
            Self::XRequestStart => "X-Request-Start: ",
        }
    }

    /// Its name in HTTP/2, which has no capitals.
    const fn name(self) -> HeaderName {
        match self {
            Self::ContentLength => header::CONTENT_LENGTH,
            Self::Date => header::DATE,
            Self::Server => header::SERVER,
            Self::SetCookie => header::SET_COOKIE,
            Self::StrictTransportSecurity => header::STRICT_TRANSPORT_SECURITY,
            Self::Te => header::TE,
            Self::Via => header::VIA,
            Self::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            Self::XForwardedPort => HeaderName::from_static("x-forwarded-port"),
            Self::XForwardedProto => HeaderName::from_static("x-forwarded-proto"),
            Self::XRequestId => HeaderName::from_static("x-request-id"),
            Self::XRequestStart => HeaderName::from_static("x-request-start"),
        }
    }
}

pub(super) trait FieldWriter {
    /// Writes one of the fields that the peer sent.
    fn pass(&mut self, fields: &Fields, field: &Field);

    /// Writes a field of the router's.
    fn own(&mut self, own: Own, value: &[u8]);
}

/// Appends lines to an HTTP/1 head. Lines that stand one behind the other in the peer's head, and are written there as
/// they would be here, are copied together.
pub(super) struct Lines<'w> {
    out: &'w mut BytesMut,
    run: Run<'w>,
}

/// Bytes of the peer's head that are still to be copied.
struct Run<'w> {
    source: &'w [u8],
    start: usize,
    end: usize,
}

impl<'w> Lines<'w> {
    /// For the fields of one head.
    pub(super) fn new(out: &'w mut BytesMut, fields: &'w Fields) -> Self {
        let run = Run {
            source: &fields.bytes,
            start: 0,
            end: 0,
        };
        Self { out, run }
    }

    /// What is not a field.
    pub(super) fn put(&mut self, parts: &[&[u8]]) {
        self.copy_run();
        put(self.out, parts);
    }

    #[cold]
    fn write_anew(&mut self, fields: &Fields, field: &Field) {
        self.put(&[
            fields.name_of(field),
            b": ",
            fields.value_of(field),
            b"\r\n",
        ]);
    }

    fn copy_run(&mut self) {
        let Run { source, start, end } = self.run;
        if start != end {
            self.out
                .extend_from_slice(source.get(start..end).unwrap_or_default());
            self.run.start = end;
        }
    }
}

impl FieldWriter for Lines<'_> {
    #[inline]
    fn pass(&mut self, fields: &Fields, field: &Field) {
        let Some(line) = field.whole_line() else {
            return self.write_anew(fields, field);
        };
        if line.start != self.run.end {
            self.copy_run();
            self.run.start = line.start;
        }
        self.run.end = line.end;
    }

    // So that the name is a constant wherever this is called.
    #[inline(always)]
    fn own(&mut self, own: Own, value: &[u8]) {
        self.copy_run();
        self.out.extend_from_slice(own.line().as_bytes());
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }
}

impl FieldWriter for HeaderMap {
    fn pass(&mut self, fields: &Fields, field: &Field) {
        let name = match field.id {
            FieldId::ContentLength => header::CONTENT_LENGTH,
            FieldId::Cookie => header::COOKIE,
            FieldId::Date => header::DATE,
            FieldId::Server => header::SERVER,
            FieldId::SetCookie => header::SET_COOKIE,
            // Names and values were checked when they were read; one that http does not take has no place in HTTP/2.
            _ => match HeaderName::from_bytes(fields.name_of(field)) {
                Ok(name) => name,
                Err(_) => return,
            },
        };
        append(self, name, fields.value_of(field));
    }

    fn own(&mut self, own: Own, value: &[u8]) {
        append(self, own.name(), value);
    }
}

fn append(map: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        // It takes some 24,000 fields; heads have limits below that.
        map.try_append(name, value).ok();
    }
}

pub(super) fn put(out: &mut BytesMut, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_ours_has_one_name() {
        for own in [
            Own::ContentLength,
            Own::Date,
            Own::Server,
            Own::SetCookie,
            Own::StrictTransportSecurity,
            Own::Te,
            Own::Via,
            Own::XForwardedFor,
            Own::XForwardedPort,
            Own::XForwardedProto,
            Own::XRequestId,
            Own::XRequestStart,
        ] {
            let name = own.line().strip_suffix(": ").unwrap();
            assert_eq!(name.to_ascii_lowercase(), own.name().as_str());
        }
    }
}
