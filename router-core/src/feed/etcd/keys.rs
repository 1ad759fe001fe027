//! Which key holds what. All that routes are made of lies between `PREFIX/apps/` and the end of the prefix, so that one
//! range and one watch have it all; what routers write (`PREFIX/acks/…`) lies before it and wakes nobody.
//!
//! ```text
//! PREFIX/acks/ROUTER   what is in force there, with a lease
//! PREFIX/apps/NAME     one app, as in a route document
//! PREFIX/certs/NAME    one certificate, as in a route document
//! PREFIX/meta          what concerns all of them
//! ```

use std::borrow::Cow;

/// The keys below one prefix.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: String,
}

/// What a key holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'k> {
    /// The app of this name.
    App(Cow<'k, str>),
    /// A certificate.
    Certificate,
    /// See [`super::store::Meta`].
    Meta,
    /// Nothing that this router knows.
    Other,
}

impl Layout {
    /// A slash at the end of the prefix makes no difference.
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/').to_owned();
        Self { prefix }
    }

    /// The first key that can hold something of the routes.
    pub(super) fn first(&self) -> Vec<u8> {
        self.below("apps/")
    }

    /// The first key after those of the prefix.
    pub(super) fn end(&self) -> Vec<u8> {
        // The character after the slash.
        format!("{}0", self.prefix).into_bytes()
    }

    pub(super) fn meta(&self) -> Vec<u8> {
        self.below("meta")
    }

    pub(super) fn ack(&self, router: &str) -> Vec<u8> {
        self.below(&format!("acks/{router}"))
    }

    pub(super) fn place<'k>(&self, key: &'k [u8]) -> Place<'k> {
        let below = |key: &'k [u8]| {
            let key = key.strip_prefix(self.prefix.as_bytes())?;
            key.strip_prefix(b"/")
        };
        match below(key) {
            Some(b"meta") => Place::Meta,
            Some(key) if key.starts_with(b"certs/") => Place::Certificate,
            Some(key) => key.strip_prefix(b"apps/").map_or(Place::Other, |name| {
                Place::App(String::from_utf8_lossy(name))
            }),
            None => Place::Other,
        }
    }

    fn below(&self, key: &str) -> Vec<u8> {
        format!("{}/{key}", self.prefix).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_holds() {
        for prefix in ["/router/v1", "/router/v1/"] {
            let layout = Layout::new(prefix);
            for (key, expected) in [
                ("/router/v1/apps/shop", Place::App("shop".into())),
                ("/router/v1/apps/a/b", Place::App("a/b".into())),
                ("/router/v1/apps/", Place::App("".into())),
                ("/router/v1/apps", Place::Other),
                ("/router/v1/certs/shop", Place::Certificate),
                ("/router/v1/meta", Place::Meta),
                ("/router/v1/meta/x", Place::Other),
                ("/router/v1/zones/x", Place::Other),
                ("/router/v10/apps/x", Place::Other),
                ("/router/v2/apps/x", Place::Other),
                ("", Place::Other),
            ] {
                assert_eq!(layout.place(key.as_bytes()), expected, "{key}");
            }
        }
        let layout = Layout::new("");
        assert_eq!(layout.place(b"/apps/a"), Place::App("a".into()));
    }

    #[test]
    fn one_range_has_everything_but_what_routers_write() {
        let layout = Layout::new("/router/v1");
        let within = |key: &[u8]| layout.first().as_slice() <= key && key < layout.end().as_slice();
        for key in ["apps/a", "certs/z", "meta", "zones"] {
            assert!(within(&layout.below(key)), "{key}");
        }
        assert!(!within(&layout.ack("r1")));
        assert!(!within(b"/router/v2/apps/a") && !within(b"/router/v1"));
    }
}
