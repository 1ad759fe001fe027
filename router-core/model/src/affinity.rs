//! The session affinity cookie: which dyno a client was served by, signed so that a client cannot choose one, and dated
//! so that it does not live for ever. Opaque to clients. It is a hint: a value that does not open is treated as none,
//! and a request never fails for it.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// How long a cookie holds, in seconds.
pub const LIFETIME_SECONDS: u64 = 86_400;

/// The key that cookies are signed with; the same on all routers whose cookies should be honoured by each other.
#[derive(Clone)]
pub struct AffinityKey(Hmac<Sha256>);

impl AffinityKey {
    /// Takes a secret of any length; 32 random bytes are right.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        #[expect(
            clippy::expect_used,
            reason = "HMAC takes keys of any length, RFC 2104 section 2"
        )]
        let mac = Hmac::new_from_slice(secret).expect("a key of any length");
        Self(mac)
    }

    /// The cookie value for a dyno: `base64url(version ‖ expiry ‖ dyno ‖ HMAC-SHA256)`.
    #[must_use]
    pub fn seal(&self, dyno: &str, expires_unix: u64) -> String {
        let mut value = Vec::with_capacity(HEAD_LENGTH + dyno.len() + MAC_LENGTH);
        value.push(VERSION);
        value.extend_from_slice(&expires_unix.to_be_bytes());
        value.extend_from_slice(dyno.as_bytes());
        let mac = self.0.clone().chain_update(&value).finalize().into_bytes();
        value.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(value)
    }

    /// The dyno of a cookie value that this key has sealed and that has not expired.
    #[must_use]
    pub fn open(&self, value: &str, now_unix: u64) -> Option<String> {
        if value.len() > LONGEST_VALUE {
            return None;
        }
        let value = URL_SAFE_NO_PAD.decode(value).ok()?;
        let (signed, mac) = value.split_at_checked(value.len().checked_sub(MAC_LENGTH)?)?;
        // Compares in constant time.
        self.0.clone().chain_update(signed).verify_slice(mac).ok()?;
        let (&version, rest) = signed.split_first()?;
        let (expires, dyno) = rest.split_first_chunk()?;
        if version != VERSION || u64::from_be_bytes(*expires) <= now_unix {
            return None;
        }
        String::from_utf8(dyno.to_vec()).ok()
    }
}

impl fmt::Debug for AffinityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AffinityKey(secret)")
    }
}

/// The name of the cookie of a router with this identity.
#[must_use]
pub fn cookie_name(identity: &str) -> String {
    format!("{identity}-session-affinity")
}

/// The first value of a cookie in one `Cookie` header value; other cookies may hold any bytes.
#[must_use]
pub fn find_cookie<'a>(header_value: &'a [u8], name: &str) -> Option<&'a str> {
    header_value.split(|&byte| byte == b';').find_map(|pair| {
        let value = pair
            .trim_ascii()
            .strip_prefix(name.as_bytes())?
            .trim_ascii_start();
        std::str::from_utf8(value.strip_prefix(b"=")?.trim_ascii_start()).ok()
    })
}

/// The `Set-Cookie` value that hands a sealed value to the client.
#[must_use]
pub fn set_cookie(name: &str, value: &str) -> String {
    format!("{name}={value}; Path=/; Max-Age={LIFETIME_SECONDS}; HttpOnly")
}

/// The first byte of every value, so that another layout can be told apart.
const VERSION: u8 = 1;
/// Version and expiry.
const HEAD_LENGTH: usize = 1 + size_of::<u64>();
const MAC_LENGTH: usize = 32;
/// No dyno name comes near it; spares hashing whatever a client makes up.
const LONGEST_VALUE: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_767_225_600;

    #[test]
    fn a_sealed_dyno_opens_until_it_expires() {
        let key = AffinityKey::new(b"secret");
        let value = key.seal("web.1", NOW + LIFETIME_SECONDS);
        for (now, open) in [
            (0, true),
            (NOW, true),
            (NOW + LIFETIME_SECONDS - 1, true),
            (NOW + LIFETIME_SECONDS, false),
            (u64::MAX, false),
        ] {
            assert_eq!(
                key.open(&value, now).as_deref(),
                open.then_some("web.1"),
                "at {now}"
            );
        }
    }

    #[test]
    fn the_layout_is_fixed() {
        // Other routers of a fleet may run another version of this program.
        let value = AffinityKey::new(b"secret").seal("web.1", NOW);
        let bytes = URL_SAFE_NO_PAD.decode(&value).unwrap();
        assert_eq!(&bytes[..9], [1, 0, 0, 0, 0, 0x69, 0x55, 0xb9, 0x00]);
        assert_eq!(&bytes[9..14], b"web.1");
        assert_eq!(bytes.len(), 14 + 32);
        assert!(
            value
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        );
    }

    #[test]
    fn what_this_key_did_not_seal_does_not_open() {
        let key = AffinityKey::new(b"secret");
        let foreign = AffinityKey::new(b"other").seal("web.1", NOW + 1);
        let genuine = key.seal("web.1", NOW + 1);
        let padded = format!("{genuine}==");
        let long = key.seal(&"x".repeat(600), NOW + 1);
        for value in [
            "",
            "AA",
            "web.1",
            "ÿÿ",
            "!!!!",
            &*"A".repeat(64),
            &foreign,
            &padded,
            &long,
            &genuine[1..],
        ] {
            assert_eq!(key.open(value, NOW), None, "{value}");
        }
        assert_eq!(key.open(&genuine, NOW).as_deref(), Some("web.1"));
    }

    #[test]
    fn another_version_under_the_same_key_does_not_open() {
        let key = AffinityKey::new(b"secret");
        let mut value = vec![VERSION + 1];
        value.extend_from_slice(&u64::MAX.to_be_bytes());
        value.extend_from_slice(b"web.1");
        let mac = key.0.clone().chain_update(&value).finalize().into_bytes();
        value.extend_from_slice(&mac);
        assert_eq!(key.open(&URL_SAFE_NO_PAD.encode(value), NOW), None);
    }

    #[test]
    fn the_key_is_never_printed() {
        assert_eq!(
            format!("{:?}", AffinityKey::new(b"secret")),
            "AffinityKey(secret)"
        );
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        for (header, expected) in [
            (&b"sid=1"[..], Some("1")),
            (b"a=b; sid=1; c=d", Some("1")),
            (b"a=b;sid=1", Some("1")),
            (b"  sid = 1 ;", Some("1")),
            (b"sid=", Some("")),
            (b"sid=a=b==", Some("a=b==")),
            (b"sid=1; sid=2", Some("1")),
            (b"x=\xff; sid=1", Some("1")),
            (b"sid=\xff; sid=2", Some("2")),
            (b"xsid=1", None),
            (b"sidx=1", None),
            (b"SID=1", None),
            (b"sid", None),
            (b"", None),
            (b";;;", None),
        ] {
            assert_eq!(
                find_cookie(header, "sid"),
                expected,
                "{}",
                header.escape_ascii()
            );
        }
    }

    #[test]
    fn cookie_texts_are_those_of_the_contract() {
        let name = cookie_name("router");
        assert_eq!(
            set_cookie(&name, "abc"),
            "router-session-affinity=abc; Path=/; Max-Age=86400; HttpOnly"
        );
    }

    proptest! {
        #[test]
        fn no_byte_of_a_value_can_be_changed(at in 0_usize..46, flip in 1_u8..) {
            let key = AffinityKey::new(b"secret");
            let mut bytes = URL_SAFE_NO_PAD.decode(key.seal("web.1", NOW + 1)).unwrap();
            bytes[at] ^= flip;
            prop_assert_eq!(key.open(&URL_SAFE_NO_PAD.encode(bytes), NOW), None);
        }

        #[test]
        fn any_header_and_any_value_can_be_read(header: Vec<u8>, value: String) {
            prop_assert!(find_cookie(&header, "sid").is_none_or(|found| found.len() < header.len()));
            prop_assert_eq!(AffinityKey::new(b"secret").open(&value, NOW), None);
        }
    }
}
