//! The value of `Strict-Transport-Security` (RFC 6797 §6.1), checked before it is ever sent: a browser ignores a
//! malformed one, and nobody notices.

use std::sync::Arc;

use serde::Serialize;

use crate::h1::field::is_token;

/// A whole value of `Strict-Transport-Security`, such as `max-age=31536000; includeSubDomains`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Hsts(Arc<str>);

impl Hsts {
    /// Reads a value: directives separated by `;`, `max-age` with a number of seconds among them, none twice,
    /// `includeSubDomains` and `preload` without a value. Directives of the future may be there.
    pub fn parse(text: &str) -> Result<Self, HstsError> {
        let mut seen: Vec<String> = Vec::new();
        let mut max_age = false;
        // The grammar has no strings with `;` in them for any directive that exists, and forbids nothing empty.
        for directive in text.split(';').map(|part| part.trim_matches([' ', '\t'])) {
            if directive.is_empty() {
                continue;
            }
            let (name, value) = match directive.split_once('=') {
                Some((name, value)) => (
                    name.trim_end_matches([' ', '\t']),
                    Some(value.trim_start_matches([' ', '\t'])),
                ),
                None => (directive, None),
            };
            if !is_token(name.as_bytes()) || !value.is_none_or(is_value) {
                return Err(HstsError::Shape);
            }
            let name = name.to_ascii_lowercase();
            match (&*name, value) {
                ("max-age", Some(value)) if is_seconds(value) => max_age = true,
                ("max-age", _) => return Err(HstsError::MaxAge),
                ("includesubdomains" | "preload", Some(_)) => return Err(HstsError::Valueless),
                _ => {}
            }
            if seen.contains(&name) {
                return Err(HstsError::Repeated);
            }
            seen.push(name);
        }
        if !max_age {
            return Err(HstsError::MaxAge);
        }
        Ok(Self(text.trim_matches([' ', '\t']).into()))
    }

    /// A year, for this host only: what `true` means in a route document.
    pub fn a_year() -> Self {
        Self(A_YEAR.into())
    }

    /// The value as it is sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no value of `Strict-Transport-Security`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HstsError {
    /// No directives at all, or something else between them.
    #[error(
        "must be directives separated by \";\", such as \"max-age=31536000; includeSubDomains\""
    )]
    Shape,
    /// It is missing, or its value is no number.
    #[error(
        "must have max-age with a number of seconds, such as \"max-age=31536000; includeSubDomains\""
    )]
    MaxAge,
    /// `includeSubDomains=1`.
    #[error("includeSubDomains and preload must not have a value")]
    Valueless,
    /// A directive twice.
    #[error("must not have a directive twice")]
    Repeated,
}

/// A token, or a string in quotes without anything to escape.
fn is_value(value: &str) -> bool {
    match value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(inner) => inner
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')),
        None => is_token(value.as_bytes()),
    }
}

/// Seconds, in quotes or not (RFC 6797 §6.1.1). More digits than a 64-bit number has are somebody's mistake.
fn is_seconds(value: &str) -> bool {
    let digits = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(value);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse::<u64>().is_ok()
}

const A_YEAR: &str = "max-age=31536000";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_what_is_wrong_with_others() {
        for (text, expected) in [
            ("max-age=31536000", Ok(())),
            ("max-age=31536000; includeSubDomains", Ok(())),
            ("includeSubDomains ; MAX-AGE=\"0\";; preload;", Ok(())),
            ("max-age = 1; future=\"a b\"; other=token", Ok(())),
            (" max-age=1\t", Ok(())),
            ("", Err(HstsError::MaxAge)),
            (";", Err(HstsError::MaxAge)),
            ("includeSubDomains", Err(HstsError::MaxAge)),
            ("max-age", Err(HstsError::MaxAge)),
            ("max-age=-1", Err(HstsError::MaxAge)),
            ("max-age=1y", Err(HstsError::MaxAge)),
            ("max-age=99999999999999999999", Err(HstsError::MaxAge)),
            ("max-age=", Err(HstsError::Shape)),
            ("max-age=1, includeSubDomains", Err(HstsError::Shape)),
            ("max-age=1 includeSubDomains", Err(HstsError::Shape)),
            ("max-age=1\r\nX: y", Err(HstsError::Shape)),
            ("max-age=1; x=\"a\nb\"", Err(HstsError::Shape)),
            ("max-age=1; x=\"a\\\"b\"", Err(HstsError::Shape)),
            ("max-age=1; é", Err(HstsError::Shape)),
            ("max-age=1; includeSubDomains=1", Err(HstsError::Valueless)),
            ("max-age=1; Max-Age=1", Err(HstsError::Repeated)),
        ] {
            assert_eq!(Hsts::parse(text).map(drop), expected, "{text:?}");
        }
        assert_eq!(Hsts::parse(" max-age=1\t").unwrap().as_str(), "max-age=1");
        assert_eq!(Hsts::parse(A_YEAR), Ok(Hsts::a_year()));
    }
}
