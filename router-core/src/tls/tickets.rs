//! Session tickets (RFC 5077, RFC 8446 §4.6.1): what lets a client come back without a full handshake. The router keeps
//! nothing of a session; the ticket holds it, sealed with a key of the router's. Whoever has such a key can read the
//! sessions it sealed, so keys are short-lived: they change by the clock, or whenever the file changes that several
//! routers share.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use super::files;
use super::watched::FileWatch;
use crate::clock::{self, Instant};

/// The keys that seal and open session tickets.
pub struct TicketKeys {
    keys: ArcSwap<Keys>,
    /// Held by whoever makes the next keys from the present ones; never across an await.
    changing: Mutex<()>,
}

/// For how long a key seals.
const SEALS: Duration = Duration::from_hours(12);
/// For how long a key opens: a ticket that was sealed last lives as long as one that was sealed first.
const OPENS: Duration = Duration::from_hours(24);

struct Keys {
    /// The first seals, all open.
    all: Vec<Arc<Key>>,
    /// They come from a file, and change when it does.
    shared: bool,
}

struct Key {
    id: [u8; ID],
    sealing: RandomizedNonceKey,
    since: Instant,
}

/// Bytes that say which key sealed a ticket.
const ID: usize = 16;
/// Bytes of a secret at least: the strength of the key and its id.
const SECRET: usize = 48;
/// More keys in a file than anybody rotates through; each costs a comparison per ticket.
const MOST_KEYS: usize = 16;

impl TicketKeys {
    pub(crate) fn new() -> Self {
        let now = clock::now();
        Self {
            keys: ArcSwap::from_pointee(Keys {
                all: Key::random(now).map(Arc::new).into_iter().collect(),
                shared: false,
            }),
            changing: Mutex::default(),
        }
    }

    /// Takes a new key for new tickets once the present one is old, and forgets those whose tickets have all expired.
    pub(crate) fn rotate(&self, now: Instant) {
        let due = |keys: &Keys| {
            let newest = keys.all.first();
            !keys.shared && newest.is_none_or(|key| now >= key.since + SEALS)
        };
        if !due(&self.keys.load()) {
            return;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = self.keys.load();
        if !due(&keys) {
            return;
        }
        let kept = keys.all.iter().filter(|key| now < key.since + OPENS);
        let all = Key::random(now)
            .map(Arc::new)
            .into_iter()
            .chain(kept.cloned())
            .collect();
        self.keys.store(Arc::new(Keys { all, shared: false }));
    }

    /// Takes the keys from the text of a key file: a secret of at least 48 random bytes on each line, base64 or
    /// hexadecimal, the newest first. From now on keys do not change by the clock any more.
    ///
    /// # Errors
    /// [`TicketKeyError`] says what is wrong with which line; the keys stay as they were.
    pub fn load(&self, text: &str) -> Result<(), TicketKeyError> {
        let now = clock::now();
        let lines = text.lines().enumerate();
        let lines = lines.map(|(at, line)| (at + 1, line.trim()));
        let mut all = Vec::new();
        for (at, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let secret = secret(line).ok_or(TicketKeyError::Unreadable(at))?;
            if secret.len() < SECRET {
                return Err(TicketKeyError::TooShort(at, secret.len()));
            }
            if all.len() == MOST_KEYS {
                return Err(TicketKeyError::TooMany);
            }
            let key = Key::derive(&secret, now).ok_or(TicketKeyError::Unreadable(at))?;
            all.push(Arc::new(key));
        }
        if all.is_empty() {
            return Err(TicketKeyError::Empty);
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.keys.store(Arc::new(Keys { all, shared: true }));
        Ok(())
    }

    /// Takes the keys from a file now.
    ///
    /// # Errors
    /// A text for people; the keys stay as they were.
    pub fn load_file(&self, path: &Path) -> Result<(), String> {
        let failed = |error: &dyn fmt::Display| {
            format!(
                "the ticket keys in {} cannot be used: {error}",
                path.display()
            )
        };
        let text = files::read_secret(path).map_err(|error| failed(&error))?;
        let text = std::str::from_utf8(&text).map_err(|error| failed(&error))?;
        self.load(text).map_err(|error| failed(&error))
    }

    /// Whether keys could be taken from a file.
    ///
    /// # Errors
    /// A text for people.
    pub fn check_file(path: &Path) -> Result<(), String> {
        Self::new().load_file(path)
    }

    /// Takes the keys from a file whenever it changes. Must be called on a tokio runtime.
    pub fn watch(self: &Arc<Self>, path: impl Into<PathBuf>) -> FileWatch {
        let (keys, path) = (Arc::clone(self), path.into());
        FileWatch::start(vec![path.clone()], move || keys.load_file(&path))
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from((OPENS - SEALS).as_secs()).unwrap_or(0)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.load().all.first()?.seal(plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = ticket.split_first_chunk::<ID>()?;
        let keys = self.keys.load();
        keys.all.iter().find(|key| key.id == *id)?.open(rest)
    }
}

/// Without the keys.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.load();
        f.debug_struct("TicketKeys")
            .field("keys", &keys.all.len())
            .field("shared", &keys.shared)
            .finish_non_exhaustive()
    }
}

/// A ticket is the key's id, the nonce, and the sealed session with its tag.
impl Key {
    fn random(now: Instant) -> Option<Self> {
        let mut secret = Zeroizing::new([0; SECRET]);
        rand::fill(secret.as_mut()).ok()?;
        Self::derive(secret.as_ref(), now)
    }

    /// The same secret gives the same key everywhere.
    fn derive(secret: &[u8], now: Instant) -> Option<Self> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let id = hmac::sign(&secret, b"router session ticket: id");
        let key = hmac::sign(&secret, b"router session ticket: key");
        Some(Self {
            id: *id.as_ref().first_chunk()?,
            sealing: RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()).ok()?,
            since: now,
        })
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let aad = Aad::from(self.id);
        let nonce = self
            .sealing
            .seal_in_place_append_tag(aad, &mut sealed)
            .ok()?;
        Some([&self.id, nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aad = Aad::from(self.id);
        let opened = self.sealing.open_in_place(nonce, aad, &mut sealed).ok()?;
        let length = opened.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

/// Hexadecimal if it can be and is long enough for that, else base64 with or without padding.
fn secret(line: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = line.as_bytes();
    let hex = digits.len() >= 2 * SECRET
        && digits.len().is_multiple_of(2)
        && digits.iter().all(u8::is_ascii_hexdigit);
    if hex {
        let pairs = line.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(pair, 16).ok()
        });
        return pairs.collect::<Option<_>>().map(Zeroizing::new);
    }
    let decoded = BASE64_STANDARD
        .decode(line)
        .or_else(|_| BASE64_STANDARD_NO_PAD.decode(line));
    decoded.ok().map(Zeroizing::new)
}

/// Why the text of a key file gives no keys. None of it repeats what the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketKeyError {
    /// No line with a key.
    #[error("there is no key; expected a line of base64 or hexadecimal for each, the newest first")]
    Empty,
    /// Neither base64 nor hexadecimal.
    #[error("line {0} is neither base64 nor hexadecimal")]
    Unreadable(usize),
    /// Not enough bytes to be safe.
    #[error(
        "line {0} has {1} bytes; a key needs at least 48 random ones (openssl rand -base64 48)"
    )]
    TooShort(usize, usize),
    /// More than anybody needs.
    #[error("there are more than {MOST_KEYS} keys; remove the oldest ones at the end")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_line(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; SECRET])
    }

    #[test]
    fn a_ticket_opens_only_unchanged_and_with_its_key() {
        let (keys, others) = (TicketKeys::new(), TicketKeys::new());
        let ticket = keys.encrypt(b"session").unwrap();
        assert_eq!(keys.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(others.decrypt(&ticket), None);
        assert_ne!(
            keys.encrypt(b"session").unwrap(),
            ticket,
            "a nonce is used once"
        );
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(keys.decrypt(&changed), None, "byte {at}");
            assert_eq!(keys.decrypt(&ticket[..at]), None, "length {at}");
        }
    }

    #[test]
    fn a_key_seals_for_twelve_hours_and_opens_for_twenty_four() {
        let keys = TicketKeys::new();
        let start = clock::now();
        let hours = |hours| start + Duration::from_hours(hours) + Duration::from_secs(1);
        let first = keys.encrypt(b"first").unwrap();
        let id = |ticket: &[u8]| ticket[..ID].to_vec();
        keys.rotate(hours(11));
        assert_eq!(id(&keys.encrypt(b"x").unwrap()), id(&first));
        keys.rotate(hours(12));
        let second = keys.encrypt(b"second").unwrap();
        assert_ne!(id(&second), id(&first));
        assert!(keys.decrypt(&first).is_some());
        keys.rotate(hours(23));
        assert!(keys.decrypt(&first).is_some());
        keys.rotate(hours(24) + Duration::from_secs(1));
        assert_eq!(keys.decrypt(&first), None);
        assert!(keys.decrypt(&second).is_some());
    }

    #[test]
    fn routers_with_one_file_open_each_others_tickets_across_a_rotation() {
        let (one, other) = (TicketKeys::new(), TicketKeys::new());
        let file = format!("# newest first\n{}\n", secret_line(1));
        one.load(&file).unwrap();
        let ticket = one.encrypt(b"session").unwrap();
        other
            .load(&format!("{}\n\n{file}", secret_line(2)))
            .unwrap();
        assert!(other.decrypt(&ticket).is_some());
        assert!(
            one.decrypt(&other.encrypt(b"x").unwrap()).is_none(),
            "not known to it yet"
        );
        other.rotate(clock::now() + Duration::from_hours(48));
        assert!(
            other.decrypt(&ticket).is_some(),
            "the clock does not rotate a file"
        );
        other.load(&secret_line(2)).unwrap();
        assert_eq!(other.decrypt(&ticket), None);
    }

    #[test]
    fn hexadecimal_and_base64_say_the_same_key() {
        let (one, other) = (TicketKeys::new(), TicketKeys::new());
        one.load(&"ab".repeat(SECRET)).unwrap();
        other.load(&secret_line(0xab)).unwrap();
        assert!(other.decrypt(&one.encrypt(b"x").unwrap()).is_some());
    }

    #[test]
    fn a_bad_file_names_its_line_and_leaves_the_keys() {
        let keys = TicketKeys::new();
        let ticket = keys.encrypt(b"x").unwrap();
        let good = secret_line(1);
        for (text, expected) in [
            (String::new(), TicketKeyError::Empty),
            ("# nothing\n\n".to_owned(), TicketKeyError::Empty),
            (format!("{good}\n not a key"), TicketKeyError::Unreadable(2)),
            (
                format!("\n{}", BASE64_STANDARD.encode([1; 47])),
                TicketKeyError::TooShort(2, 47),
            ),
            (
                format!("{}a", "ab".repeat(SECRET)),
                TicketKeyError::Unreadable(1),
            ),
            (
                format!("{good}\n").repeat(MOST_KEYS + 1),
                TicketKeyError::TooMany,
            ),
        ] {
            assert_eq!(keys.load(&text), Err(expected), "{text}");
            assert!(keys.decrypt(&ticket).is_some(), "{text}");
        }
    }

    #[test]
    fn nothing_prints_a_key() {
        let keys = TicketKeys::new();
        keys.load(&secret_line(7)).unwrap();
        assert_eq!(
            format!("{keys:?}"),
            "TicketKeys { keys: 1, shared: true, .. }"
        );
    }
}
