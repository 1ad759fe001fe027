//! Hostnames on both sides of a lookup: the domain that an app is bound to and the value of a request's `Host`. Both
//! are normalised to lower-case ASCII without a trailing dot, so that a lookup is a comparison of bytes. Reading a
//! request's host allocates only when the client sent upper-case letters. A wildcard stands for exactly one label and
//! never for its apex.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;

use crate::runs::{is_free_of, position};

/// A hostname bound to an app: `shop.example.com` or `*.shop.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Reads a domain in any case, as Unicode or punycode, with or without a trailing dot.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        if text.is_empty() {
            return Err(HostnameError::Empty);
        }
        // Punycode is not linear in its input; nothing this long could be a hostname.
        if text.len() > LONGEST_HOSTNAME * 4 {
            return Err(HostnameError::TooLong);
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(HostnameError::IpAddress);
        }
        let (wildcard, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let ascii = to_ascii(rest)?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        check_name(name, wildcard)?;
        Ok(Self(if wildcard {
            format!("*.{name}").into()
        } else {
            name.into()
        }))
    }

    /// The normalised text, `*.` included.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for every name of one more label.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// The key in the route table: the name itself, or for a wildcard the name with its leading dot, which is a slice
    /// of every host that it matches (see [`wildcard_key`]).
    pub fn key(&self) -> &str {
        self.0.strip_prefix('*').unwrap_or(&self.0)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text cannot be bound to an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing there, or only a dot.
    #[error("a hostname must not be empty")]
    Empty,
    /// More than 253 bytes in ASCII.
    #[error("a hostname must not be longer than {LONGEST_HOSTNAME} characters")]
    TooLong,
    /// Two dots in a row or a dot at the start.
    #[error("a hostname must not have an empty label (two dots in a row or a dot at the start)")]
    EmptyLabel,
    /// More than 63 bytes between two dots.
    #[error(
        "the parts of a hostname between dots must not be longer than {LONGEST_LABEL} characters"
    )]
    LabelTooLong,
    /// Anything but letters, digits, hyphen and underscore.
    #[error(
        "the character {0:?} is not allowed in a hostname; allowed are letters, digits, '-', '_' and '.'"
    )]
    BadCharacter(char),
    /// `-shop.example.com` or `shop-.example.com`.
    #[error("the parts of a hostname between dots must not begin or end with a hyphen")]
    HyphenAtEdge,
    /// A star that is not the whole first label.
    #[error("a wildcard is '*.' followed by a hostname, such as *.shop.example.com")]
    BadWildcard,
    /// An address, or a name whose last label is a number and would be read as one.
    #[error("an IP address (or a name ending in a number) is not a hostname")]
    IpAddress,
    /// Unicode or punycode that IDNA does not allow.
    #[error("not a valid internationalised hostname")]
    Idna,
}

/// The value of a request's `Host`, split and normalised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHost<'a> {
    /// Lower-case, without port and trailing dot; an IPv6 address keeps its brackets.
    pub name: Cow<'a, str>,
    /// The port, if one was given.
    pub port: Option<u16>,
}

/// Reads the value of a `Host` header.
pub fn parse_host(value: &[u8]) -> Result<RequestHost<'_>, HostError> {
    let text = std::str::from_utf8(value).map_err(|_| HostError::NotAscii)?;
    if is_normal(value) {
        let (name, port) = (Cow::Borrowed(text), None);
        return Ok(RequestHost { name, port });
    }
    if text.starts_with('[') {
        return parse_bracketed(text);
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(parse_port(name, port)?)),
        None => (text, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut upper_case = false;
    // A name begins as if after a dot: `.example.com` has an empty first label.
    let mut previous = b'.';
    for &byte in name.as_bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => upper_case = true,
            b'.' if previous != b'.' => {}
            b'.' => return Err(HostError::EmptyLabel),
            b'@' => return Err(HostError::UserInfo),
            0x80.. => return Err(HostError::NotAscii),
            _ => return Err(HostError::BadCharacter(byte)),
        }
        previous = byte;
    }
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if previous == b'.' {
        return Err(HostError::EmptyLabel);
    }
    Ok(RequestHost {
        name: lower_case(name, upper_case),
        port,
    })
}

/// Whether a host is as most clients send it: small letters, no port, and dots only between labels. [`parse_host`] would
/// find nothing to do.
fn is_normal(host: &[u8]) -> bool {
    let strange = |byte: u8| {
        let letter_or_digit = byte.is_ascii_lowercase() | byte.is_ascii_digit();
        !(letter_or_digit | (byte == b'-') | (byte == b'_') | (byte == b'.'))
    };
    let mut label = host;
    while let Some(dot) = position(label, b'.') {
        if dot == 0 {
            return false;
        }
        label = label.get(dot + 1..).unwrap_or_default();
    }
    !label.is_empty() && is_free_of(host, strange)
}

/// `.example.com` for `a.example.com`: the key of the only wildcard that could match the name. `None` for a single
/// label.
pub fn wildcard_key(name: &str) -> Option<&str> {
    position(name.as_bytes(), b'.').and_then(|dot| name.get(dot..))
}

/// Why the value of a `Host` header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// No name at all.
    #[error("the host is empty")]
    Empty,
    /// A byte outside ASCII; names travel as punycode.
    #[error("the host is not ASCII")]
    NotAscii,
    /// A byte that no hostname has.
    #[error("the host has the byte {0:#04x}")]
    BadCharacter(u8),
    /// `user@host`, which RFC 9110 §7.2 has no place for.
    #[error("the host has a user name in it")]
    UserInfo,
    /// Two dots in a row or a dot at the start.
    #[error("the host has an empty label")]
    EmptyLabel,
    /// Not a number from 0 to 65535.
    #[error("the port is not a number from 0 to 65535")]
    BadPort,
    /// `[` without `]`.
    #[error("the bracket is not closed")]
    UnclosedBracket,
    /// Something else than an IPv6 address in brackets.
    #[error("there is no IPv6 address between the brackets")]
    BadAddress,
}

fn parse_bracketed(text: &str) -> Result<RequestHost<'_>, HostError> {
    let end = text.find(']').ok_or(HostError::UnclosedBracket)?;
    let (name, rest) = text.split_at(end + 1);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    if name.len() != address.len() + 2 || address.parse::<Ipv6Addr>().is_err() {
        return Err(HostError::BadAddress);
    }
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(parse_port(name, port)?),
        None if rest.is_empty() => None,
        None => return Err(HostError::BadPort),
    };
    let upper_case = name.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(RequestHost {
        name: lower_case(name, upper_case),
        port,
    })
}

fn parse_port(name: &str, port: &str) -> Result<u16, HostError> {
    // `user:secret@host` splits at its first colon; say what it is.
    if name.contains('@') || port.contains('@') {
        return Err(HostError::UserInfo);
    }
    // `u16::from_str` alone would take "+80".
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::BadPort);
    }
    port.parse().map_err(|_| HostError::BadPort)
}

fn lower_case(name: &str, upper_case: bool) -> Cow<'_, str> {
    if upper_case {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Lower-case ASCII; goes through IDNA only when there is something for it to do or to object to.
fn to_ascii(name: &str) -> Result<Cow<'_, str>, HostnameError> {
    let lower = lower_case(name, name.bytes().any(|byte| byte.is_ascii_uppercase()));
    let needs_idna = !lower.is_ascii() || lower.split('.').any(|label| label.starts_with("xn--"));
    if !needs_idna {
        return Ok(lower);
    }
    // The deny list stays empty: `check_name` knows more exactly which characters are wrong and says so.
    idna::domain_to_ascii_cow(lower.as_bytes(), idna::AsciiDenyList::EMPTY)
        .map(|ascii| Cow::Owned(ascii.into_owned()))
        .map_err(|_| HostnameError::Idna)
}

fn check_name(name: &str, wildcard: bool) -> Result<(), HostnameError> {
    if name.is_empty() {
        return Err(HostnameError::Empty);
    }
    if name.contains('*') {
        return Err(HostnameError::BadWildcard);
    }
    let longest = if wildcard {
        LONGEST_HOSTNAME - 2
    } else {
        LONGEST_HOSTNAME
    };
    if name.len() > longest {
        return Err(HostnameError::TooLong);
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(HostnameError::EmptyLabel);
        }
        if label.len() > LONGEST_LABEL {
            return Err(HostnameError::LabelTooLong);
        }
        if let Some(bad) = label
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_'))
        {
            return Err(HostnameError::BadCharacter(bad));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(HostnameError::HyphenAtEdge);
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostnameError::IpAddress);
    }
    Ok(())
}

const LONGEST_HOSTNAME: usize = 253;
const LONGEST_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn domains() {
        for (text, expected) in [
            ("shop.example.com", Ok("shop.example.com")),
            ("Shop.EXAMPLE.com", Ok("shop.example.com")),
            ("shop.example.com.", Ok("shop.example.com")),
            ("*.shop.example.com", Ok("*.shop.example.com")),
            ("*.Shop.example.com.", Ok("*.shop.example.com")),
            ("localhost", Ok("localhost")),
            ("*.localhost", Ok("*.localhost")),
            ("my_app.example.com", Ok("my_app.example.com")),
            ("_acme.example.com", Ok("_acme.example.com")),
            ("1password.example.com", Ok("1password.example.com")),
            ("10.example.com", Ok("10.example.com")),
            ("bücher.example", Ok("xn--bcher-kva.example")),
            ("BÜCHER.example", Ok("xn--bcher-kva.example")),
            ("*.bücher.example", Ok("*.xn--bcher-kva.example")),
            ("xn--bcher-kva.example", Ok("xn--bcher-kva.example")),
            ("XN--BCHER-KVA.example", Ok("xn--bcher-kva.example")),
            ("例え。テスト", Ok("xn--r8jz45g.xn--zckzah")),
            ("", Err(HostnameError::Empty)),
            (".", Err(HostnameError::Empty)),
            ("*.", Err(HostnameError::Empty)),
            ("*", Err(HostnameError::BadWildcard)),
            ("*shop.example.com", Err(HostnameError::BadWildcard)),
            ("*.*.example.com", Err(HostnameError::BadWildcard)),
            ("shop.*.com", Err(HostnameError::BadWildcard)),
            (".example.com", Err(HostnameError::EmptyLabel)),
            ("shop..com", Err(HostnameError::EmptyLabel)),
            ("shop.com..", Err(HostnameError::EmptyLabel)),
            ("-shop.com", Err(HostnameError::HyphenAtEdge)),
            ("shop-.com", Err(HostnameError::HyphenAtEdge)),
            ("shop.com:80", Err(HostnameError::BadCharacter(':'))),
            ("https://shop.com", Err(HostnameError::BadCharacter(':'))),
            ("shop com", Err(HostnameError::BadCharacter(' '))),
            ("shop\0.com", Err(HostnameError::BadCharacter('\0'))),
            ("shop.com/x", Err(HostnameError::BadCharacter('/'))),
            ("127.0.0.1", Err(HostnameError::IpAddress)),
            ("::1", Err(HostnameError::IpAddress)),
            ("*.0.0.1", Err(HostnameError::IpAddress)),
            ("shop.1", Err(HostnameError::IpAddress)),
            ("xn--\u{ff}.example", Err(HostnameError::Idna)),
            ("xn--a.example", Err(HostnameError::Idna)),
        ] {
            let parsed = Domain::parse(text);
            assert_eq!(
                parsed.as_ref().map(Domain::as_str),
                expected.as_ref().map(|t| *t),
                "{text:?}"
            );
        }
    }

    #[test]
    fn lengths_of_domains() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(Domain::parse(&longest).is_ok());
        assert_eq!(
            Domain::parse(&format!("a{longest}")),
            Err(HostnameError::TooLong)
        );
        assert_eq!(
            Domain::parse(&format!("*.{longest}")),
            Err(HostnameError::TooLong)
        );
        assert_eq!(
            Domain::parse(&format!("a{label}.com")),
            Err(HostnameError::LabelTooLong)
        );
        assert_eq!(
            Domain::parse(&"ü".repeat(100_000)),
            Err(HostnameError::TooLong)
        );
    }

    #[test]
    fn keys_of_domains() {
        for (text, key, wildcard) in [
            ("shop.example.com", "shop.example.com", false),
            ("*.shop.example.com", ".shop.example.com", true),
        ] {
            let domain = Domain::parse(text).unwrap();
            assert_eq!((domain.key(), domain.is_wildcard()), (key, wildcard));
            assert_eq!(domain.to_string(), text);
        }
    }

    #[test]
    fn request_hosts() {
        for (value, expected) in [
            ("app.example", Ok(("app.example", None))),
            ("APP.Example:8080", Ok(("app.example", Some(8080)))),
            ("app.example.", Ok(("app.example", None))),
            ("app.example.:443", Ok(("app.example", Some(443)))),
            ("localhost", Ok(("localhost", None))),
            ("my_app.example", Ok(("my_app.example", None))),
            ("app.example:0", Ok(("app.example", Some(0)))),
            ("app.example:65535", Ok(("app.example", Some(65535)))),
            ("127.0.0.1:80", Ok(("127.0.0.1", Some(80)))),
            ("[::1]", Ok(("[::1]", None))),
            ("[::1]:80", Ok(("[::1]", Some(80)))),
            ("[2001:DB8::1]", Ok(("[2001:db8::1]", None))),
            ("", Err(HostError::Empty)),
            (".", Err(HostError::Empty)),
            (":80", Err(HostError::Empty)),
            ("..", Err(HostError::EmptyLabel)),
            (".example", Err(HostError::EmptyLabel)),
            ("app..example", Err(HostError::EmptyLabel)),
            ("app.example..", Err(HostError::EmptyLabel)),
            ("app.example:", Err(HostError::BadPort)),
            ("app.example:http", Err(HostError::BadPort)),
            ("app.example:+80", Err(HostError::BadPort)),
            ("app.example:-1", Err(HostError::BadPort)),
            ("app.example:65536", Err(HostError::BadPort)),
            ("app.example:80:80", Err(HostError::BadPort)),
            ("app.example: 80", Err(HostError::BadPort)),
            ("2001:db8::1", Err(HostError::BadPort)),
            ("user@app.example", Err(HostError::UserInfo)),
            ("user:secret@app.example", Err(HostError::UserInfo)),
            ("app example", Err(HostError::BadCharacter(b' '))),
            (" app.example", Err(HostError::BadCharacter(b' '))),
            ("app.example/x", Err(HostError::BadCharacter(b'/'))),
            ("app.example,b.example", Err(HostError::BadCharacter(b','))),
            ("app%2eexample", Err(HostError::BadCharacter(b'%'))),
            ("*.example", Err(HostError::BadCharacter(b'*'))),
            ("app\0example", Err(HostError::BadCharacter(0))),
            ("bücher.example", Err(HostError::NotAscii)),
            ("[::1", Err(HostError::UnclosedBracket)),
            ("[", Err(HostError::UnclosedBracket)),
            ("[]", Err(HostError::BadAddress)),
            ("[[::1]]", Err(HostError::BadAddress)),
            ("[app.example]", Err(HostError::BadAddress)),
            ("[127.0.0.1]", Err(HostError::BadAddress)),
            ("[fe80::1%eth0]", Err(HostError::BadAddress)),
            ("[::1]80", Err(HostError::BadPort)),
            ("[::1]:", Err(HostError::BadPort)),
        ] {
            let parsed = parse_host(value.as_bytes());
            let shown = parsed
                .as_ref()
                .map(|host| (host.name.as_ref(), host.port))
                .map_err(|error| *error);
            assert_eq!(shown, expected, "{value:?}");
        }
        assert_eq!(parse_host(b"app\xff.example"), Err(HostError::NotAscii));
    }

    #[test]
    fn a_lower_case_host_is_not_copied() {
        assert!(matches!(
            parse_host(b"app.example:80").unwrap().name,
            Cow::Borrowed(_)
        ));
        assert!(matches!(
            parse_host(b"App.example:80").unwrap().name,
            Cow::Owned(_)
        ));
    }

    #[test]
    fn wildcard_keys() {
        for (name, expected) in [
            ("a.example.com", Some(".example.com")),
            ("a.b.example.com", Some(".b.example.com")),
            ("example.com", Some(".com")),
            ("localhost", None),
            ("", None),
        ] {
            assert_eq!(wildcard_key(name), expected, "{name}");
        }
    }

    /// What the documentation says, word for word: one more label, and that label is not empty.
    fn matches_naively(domain: &str, name: &str) -> bool {
        match domain.strip_prefix("*.") {
            None => domain == name,
            Some(rest) => {
                let labels: Vec<_> = name.split('.').collect();
                labels.len() > 1 && labels[1..] == rest.split('.').collect::<Vec<_>>()
            }
        }
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "\\PC{0,40}|(\\*\\.)?[a-zA-Z0-9_ßÜé例。.-]{0,40}") {
            if let Ok(domain) = Domain::parse(&text) {
                prop_assert!(domain.as_str().is_ascii());
                prop_assert!(domain.as_str().len() <= 253);
                prop_assert_eq!(Domain::parse(domain.as_str()), Ok(domain.clone()));
                prop_assert_eq!(Domain::parse(&format!("{domain}.")), Ok(domain.clone()));
                prop_assert_eq!(Domain::parse(&domain.as_str().to_ascii_uppercase()), Ok(domain));
            }
        }

        #[test]
        fn an_exact_domain_is_a_request_host(text in "[a-zA-Z0-9_.-]{1,20}") {
            if let Ok(domain) = Domain::parse(&text) {
                prop_assert_eq!(parse_host(text.as_bytes()).unwrap().name, domain.as_str());
            }
        }

        #[test]
        fn keys_match_as_the_naive_model(
            domain in "(\\*\\.)?([ab]\\.){0,3}[ab]",
            name in "([ab]\\.){0,4}[ab]",
        ) {
            let parsed = Domain::parse(&domain).unwrap();
            let host = parse_host(name.as_bytes()).unwrap();
            let by_key = parsed.key() == host.name || wildcard_key(&host.name) == Some(parsed.key());
            prop_assert_eq!(by_key, matches_naively(&domain, &name));
        }

        #[test]
        fn a_request_host_never_panics_and_comes_out_normalised(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(host) = parse_host(&value) {
                prop_assert!(!host.name.is_empty() && host.name.is_ascii());
                prop_assert!(!host.name.starts_with('.') && !host.name.ends_with('.'));
                prop_assert_eq!(host.name.to_ascii_lowercase(), host.name.as_ref());
            }
        }
    }
}
