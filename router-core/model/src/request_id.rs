//! The ID of a request: the client's if it sent a usable one, else a fresh UUID. Sent to the dyno as `X-Request-Id` and
//! printed in the log line, and by construction safe to print in both. A bad ID never refuses a request.

use std::fmt;

use uuid::{Builder, fmt::Hyphenated};

/// The ID of one request. A generated one lives in place, so that making, keeping and cloning it allocates nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Repr);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    /// A hyphenated UUID.
    Generated(Text),
    /// What [`accept`] let through.
    Client(Box<str>),
}

/// The text of a UUID. It begins at a whole word, for only then does looking whether it is text take it word by word.
#[derive(Clone, PartialEq, Eq, Hash)]
#[repr(align(8))]
struct Text([u8; Hyphenated::LENGTH]);

impl RequestId {
    /// The client's ID, if it is usable. With several `X-Request-Id` lines the caller takes the first usable one.
    #[must_use]
    pub fn from_client(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok().filter(|_| accept(value))?;
        Some(Self(Repr::Client(text.into())))
    }

    /// A version 4 UUID in lower case. The bytes must be random, but not secret.
    #[must_use]
    pub fn generate(random: [u8; 16]) -> Self {
        let mut text = Text([0; Hyphenated::LENGTH]);
        Builder::from_random_bytes(random)
            .as_uuid()
            .hyphenated()
            .encode_lower(&mut text.0);
        Self(Repr::Generated(text))
    }

    /// As sent to the dyno and logged.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // A UUID is ASCII, so the default is never seen; checking 36 bytes costs less than an allocation.
            Repr::Generated(text) => std::str::from_utf8(&text.0).unwrap_or_default(),
            Repr::Client(text) => text,
        }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a client's ID is kept: 20 to 200 bytes of `A-Z a-z 0-9 + / = -` (Heroku, "HTTP Request IDs").
#[must_use]
pub fn accept(value: &[u8]) -> bool {
    (20..=200).contains(&value.len())
        && value
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_the_documented_shape_are_kept() {
        let long = |length| "a".repeat(length);
        for (value, kept) in [
            (long(19), false),
            (long(20), true),
            (long(200), true),
            (long(201), false),
            (String::new(), false),
            ("AZaz09+/=-AZaz09+/=-".to_owned(), true),
            ("with_underscore_aaaaaaaa".to_owned(), false),
            ("with.dot.aaaaaaaaaaaaaaa".to_owned(), false),
            ("with space aaaaaaaaaaaaa".to_owned(), false),
            ("with\nline feed aaaaaaaaa".to_owned(), false),
            ("nön-ascii-aaaaaaaaaaaaaa".to_owned(), false),
        ] {
            assert_eq!(accept(value.as_bytes()), kept, "{value}");
            let id = RequestId::from_client(value.as_bytes());
            assert_eq!(id.as_ref().map(RequestId::as_str), kept.then_some(&*value));
        }
        assert_eq!(RequestId::from_client(&[0xff; 20]), None);
    }

    #[test]
    fn generated_ids_are_lower_case_version_4_uuids_that_would_be_kept() {
        for (random, expected) in [
            ([0x00; 16], "00000000-0000-4000-8000-000000000000"),
            ([0xff; 16], "ffffffff-ffff-4fff-bfff-ffffffffffff"),
            (
                *b"\x3f\x33\x6f\x1a\x9b\xe3\x07\x91\xaf\xe3\x59\x6a\x1f\x2a\x48\x1f",
                "3f336f1a-9be3-4791-afe3-596a1f2a481f",
            ),
        ] {
            let id = RequestId::generate(random);
            assert_eq!(id.as_str(), expected);
            assert_eq!(id.to_string(), expected);
            assert!(accept(id.as_str().as_bytes()));
        }
    }
}
