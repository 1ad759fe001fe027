//! One certificate chain with its key: read from PEM, checked, and never changed afterwards. What is held here can be
//! served. The key is inside rustls from the moment it is read; nothing prints it.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use router_model::hostname::{self, Domain};
use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use zeroize::Zeroize;

use crate::clock;

/// A certificate chain and its key, fit to be served.
pub struct Certificate {
    served: Arc<CertifiedKey>,
    names: Box<[Arc<str>]>,
    not_before: SystemTime,
    not_after: SystemTime,
    issuer: Box<str>,
    serial: Box<str>,
    fingerprint: [u8; 32],
    digest: Digest,
}

/// Says whether two pairs of PEM texts are the same, without keeping them.
pub(super) type Digest = [u8; 32];

impl Certificate {
    /// Reads a chain, the certificate itself first, and its unencrypted key (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    /// [`CertificateError`] when they cannot be served: unreadable, not belonging together, expired.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        Self::read(chain, key, digest(chain, key), clock::wall())
    }

    pub(super) fn read(
        chain: &[u8],
        key: &[u8],
        digest: Digest,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| CertificateError::Chain(why_no_pem(&error)))?;
        let leaf = chain.first().ok_or(CertificateError::NoCertificate)?;
        let facts = Facts::of(leaf)?;
        for other in chain.iter().skip(1) {
            parse(other)?;
        }
        let fingerprint = sha256([leaf.as_ref()]);
        let served = CertifiedKey::new(chain, signing_key(key)?);
        match served.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(error) => return Err(refused(error)),
        }
        if facts.not_after < now {
            return Err(CertificateError::Expired(facts.not_after));
        }
        Ok(Self {
            served: Arc::new(served),
            names: facts.names,
            not_before: facts.not_before,
            not_after: facts.not_after,
            issuer: facts.issuer,
            serial: facts.serial,
            fingerprint,
            digest,
        })
    }

    /// The names of the first certificate in a PEM text, fit to be served or not; `None` if it cannot be read.
    pub(crate) fn names_in(chain: &[u8]) -> Option<Box<[Arc<str>]>> {
        let leaf = CertificateDer::pem_slice_iter(chain).next()?.ok()?;
        Facts::of(&leaf).ok().map(|facts| facts.names)
    }

    /// Whether it stands for this host: one of its names is the same, or a wildcard for exactly one label. The host is
    /// lower-case ASCII without a trailing dot; an IPv6 address may have brackets.
    pub fn covers(&self, host: &str) -> bool {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(host).parse::<IpAddr>() {
            let address = address.to_string();
            return self.names.iter().any(|name| **name == *address);
        }
        let wildcard = hostname::wildcard_key(host);
        self.names.iter().any(|name| match name.strip_prefix('*') {
            Some(key) => wildcard == Some(key),
            None => **name == *host,
        })
    }

    /// The hostnames, wildcards and addresses that it stands for, lower-case.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.iter().map(|name| &**name)
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whole days of validity left; negative once it has expired.
    pub fn days_left(&self) -> i64 {
        let seconds = match self.not_after.duration_since(clock::wall()) {
            Ok(left) => signed(left),
            Err(past) => -signed(past.duration()),
        };
        seconds.div_euclid(24 * 60 * 60)
    }

    /// Who issued it, as a distinguished name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// SHA-256 of the certificate itself, in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        hex(&self.fingerprint)
    }

    /// What an operator may see of it; `origin` says where it is from.
    pub fn view(&self, origin: &'static str) -> CertificateView {
        let text = |time| humantime::format_rfc3339_seconds(time).to_string();
        CertificateView {
            names: self.names().map(str::to_owned).collect(),
            origin,
            issuer: self.issuer.to_string(),
            serial: self.serial.to_string(),
            not_before: text(self.not_before),
            not_after: text(self.not_after),
            days_left: self.days_left(),
            fingerprint: self.fingerprint(),
        }
    }

    pub(crate) fn served(&self) -> &Arc<CertifiedKey> {
        &self.served
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn shared_names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub(super) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// Without the key, and without the digest that the key is part of.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What an operator may see of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    /// What it stands for.
    pub names: Vec<String>,
    /// Where it is from: `listener`, `folder`, `document`, `acme`.
    pub origin: &'static str,
    /// Who issued it, as a distinguished name.
    pub issuer: String,
    /// Its serial number, hexadecimal.
    pub serial: String,
    /// From when on it is valid, as in RFC 3339.
    pub not_before: String,
    /// Until when it is valid, as in RFC 3339.
    pub not_after: String,
    /// Whole days of validity left; negative once it has expired.
    pub days_left: i64,
    /// SHA-256 of the certificate, hexadecimal.
    pub fingerprint: String,
}

/// Why a pair of chain and key cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Broken PEM where the chain should be.
    #[error("the certificate chain is not PEM: {0}")]
    Chain(&'static str),
    /// The chain is empty.
    #[error("there is no certificate: expected -----BEGIN CERTIFICATE----- and its end")]
    NoCertificate,
    /// Good PEM around something that is no X.509 certificate.
    #[error("a certificate of the chain cannot be read: {0}")]
    Malformed(String),
    /// Broken PEM where the key should be.
    #[error("the private key is not PEM: {0}")]
    Key(&'static str),
    /// No key, or an encrypted one.
    #[error(
        "there is no private key: expected -----BEGIN PRIVATE KEY----- (or RSA or EC PRIVATE KEY), not encrypted"
    )]
    NoKey,
    /// A key that TLS cannot use.
    #[error(
        "the private key cannot be used: {0}; allowed are RSA of 2048 bits and more, ECDSA and Ed25519"
    )]
    UnusableKey(String),
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the first certificate of the chain")]
    Mismatch,
    /// Its time is over.
    #[error("the certificate expired on {}", humantime::format_rfc3339_seconds(*.0))]
    Expired(SystemTime),
    /// It would never be chosen: certificates are found by their names.
    #[error("the certificate names no host: it has no subjectAltName of a DNS name or an address")]
    NoNames,
}

fn refused(error: rustls::Error) -> CertificateError {
    match error {
        rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch,
        rustls::Error::InvalidCertificate(error) => CertificateError::Malformed(error.to_string()),
        error => CertificateError::UnusableKey(error.to_string()),
    }
}

/// Said in our own words: the library's quote the line that they stumble over, which may be a key.
pub(crate) fn why_no_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a -----BEGIN line has no -----END line after it",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is not alone on its line",
        pem::Error::Base64Decode(_) => "what stands between BEGIN and END is not base64",
        pem::Error::Io(_) => "it cannot be read",
        pem::Error::NoItemsFound => "there is nothing of the kind in it",
        _ => "it is malformed",
    }
}

/// Nothing of the key's text is left behind once rustls has it.
fn signing_key(key: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateError> {
    let mut key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => CertificateError::NoKey,
        error => CertificateError::Key(why_no_pem(&error)),
    })?;
    let signing = any_supported_type(&key);
    key.zeroize();
    signing.map_err(refused)
}

/// What is read from the certificate itself.
struct Facts {
    names: Box<[Arc<str>]>,
    not_before: SystemTime,
    not_after: SystemTime,
    issuer: Box<str>,
    serial: Box<str>,
}

impl Facts {
    fn of(leaf: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let leaf = parse(leaf)?;
        Ok(Self {
            names: names(&leaf),
            not_before: system_time(leaf.validity().not_before.timestamp()),
            not_after: system_time(leaf.validity().not_after.timestamp()),
            issuer: leaf.issuer().to_string().into(),
            serial: hex(leaf.raw_serial()).into(),
        })
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    let parsed = X509Certificate::from_der(certificate);
    parsed
        .map(|(_, certificate)| certificate)
        .map_err(|error| CertificateError::Malformed(error.to_string()))
}

/// The names in subjectAltName; without that extension, as in certificates that were made by hand, the common name.
fn names(leaf: &X509Certificate<'_>) -> Box<[Arc<str>]> {
    let mut names: Vec<Arc<str>> = match leaf.subject_alternative_name() {
        Ok(Some(extension)) => {
            let named = extension.value.general_names.iter();
            named.filter_map(general_name).collect()
        }
        _ => {
            let common = leaf.subject().iter_common_name();
            let text = common.filter_map(|name| name.as_str().ok());
            text.filter_map(|name| Domain::parse(name).ok())
                .map(|name| name.as_str().into())
                .collect()
        }
    };
    names.sort();
    names.dedup();
    names.into()
}

fn general_name(name: &GeneralName<'_>) -> Option<Arc<str>> {
    match name {
        GeneralName::DNSName(name) => Domain::parse(name).ok().map(|name| name.as_str().into()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string().into())
        }
        _ => None,
    }
}

fn system_time(unix: i64) -> SystemTime {
    let seconds = Duration::from_secs(unix.unsigned_abs());
    let time = if unix < 0 {
        UNIX_EPOCH.checked_sub(seconds)
    } else {
        UNIX_EPOCH.checked_add(seconds)
    };
    time.unwrap_or(UNIX_EPOCH)
}

fn signed(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// The digest of a pair of PEM texts.
pub(super) fn digest(chain: &[u8], key: &[u8]) -> Digest {
    // The length keeps two texts apart that are only cut at different places.
    let length = (chain.len() as u64).to_be_bytes();
    sha256([&length, chain, key])
}

fn sha256<const N: usize>(parts: [&[u8]; N]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut sum = [0; 32];
    for (to, from) in sum.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    sum
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use router_testkit::TestCa;

    use super::*;

    #[test]
    fn no_error_quotes_a_key() {
        let pair = TestCa::new("root").certificate(&["a.test"]);
        let (chain, key) = (pair.chain_pem(), pair.key_pem());
        for broken in [
            key.replace('\n', " "),
            key.replace("-----END", "-----FIN"),
            key.replace("KEY-----\nM", "KEY-----\n!"),
        ] {
            let errors = [
                Certificate::from_pem(chain.as_bytes(), broken.as_bytes()).unwrap_err(),
                // The two in each other's place.
                Certificate::from_pem(broken.as_bytes(), broken.as_bytes()).unwrap_err(),
            ];
            for error in errors {
                let text = format!("{error} {error:?}");
                // Neither as it is nor as a list of byte values (`--` is 45, 45).
                let body = key.lines().nth(1).unwrap();
                assert!(
                    !text.contains(&body[..8]) && !text.contains("45, 45"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn names_and_what_they_cover() {
        let ca = TestCa::new("root").intermediate("middle");
        let names = [
            "B.test",
            "*.a.test",
            "127.0.0.1",
            "2001:DB8::1",
            "xn--bcher-kva.test",
            "uri://x",
        ];
        let pair = ca.certificate(&names);
        let read = Certificate::from_pem(pair.chain_pem().as_bytes(), pair.key_pem().as_bytes());
        let read = read.unwrap();
        let found: Vec<_> = read.names().collect();
        assert_eq!(
            found,
            [
                "*.a.test",
                "127.0.0.1",
                "2001:db8::1",
                "b.test",
                "xn--bcher-kva.test"
            ]
        );
        for (host, covered) in [
            ("b.test", true),
            ("x.a.test", true),
            ("xn--bcher-kva.test", true),
            ("127.0.0.1", true),
            ("[2001:db8::1]", true),
            ("[2001:0db8:0::1]", true),
            ("a.test", false),
            ("y.x.a.test", false),
            ("x.b.test", false),
            ("127.0.0.2", false),
            ("[::1]", false),
            ("", false),
            ("*.a.test", true),
        ] {
            assert_eq!(read.covers(host), covered, "{host}");
        }
        assert_eq!(read.served().cert.len(), 2);
        assert_eq!(read.fingerprint(), pair.fingerprint());
        assert_eq!((read.issuer(), read.days_left()), ("CN=middle", 88));
    }

    #[test]
    fn what_cannot_be_served_says_why() {
        let ca = TestCa::new("root");
        let (good, other) = (ca.certificate(&["a.test"]), ca.certificate(&["a.test"]));
        let expired = ca.certificate_valid(&["a.test"], -10..-1);
        let (chain, key) = (good.chain_pem(), good.key_pem());
        let garbage = chain.replacen("MII", "AAA", 1);
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let half = |text: &str| text[..text.len() / 2].to_owned();
        for (chain, key, expected) in [
            (chain, key, "fine"),
            ("", key, "there is no certificate"),
            (key, key, "there is no certificate"),
            (&half(chain), key, "the certificate chain is not PEM"),
            (
                &format!("{chain}{}", half(other.chain_pem())),
                key,
                "the certificate chain is not PEM",
            ),
            (&garbage, key, "a certificate of the chain cannot be read"),
            (chain, "", "there is no private key"),
            (chain, chain, "there is no private key"),
            (chain, &encrypted, "there is no private key"),
            (chain, &half(key), "the private key is not PEM"),
            (chain, other.key_pem(), "the private key does not belong to"),
            (
                &format!("{}{chain}", ca.pem()),
                key,
                "the private key does not belong to",
            ),
            (
                expired.chain_pem(),
                expired.key_pem(),
                "the certificate expired on 20",
            ),
        ] {
            let read = Certificate::from_pem(chain.as_bytes(), key.as_bytes());
            let said = read.map_or_else(|error| error.to_string(), |_| "fine".to_owned());
            assert!(
                said.starts_with(expected),
                "{said:?}, expected {expected:?}"
            );
        }
    }

    #[test]
    fn nothing_prints_a_key() {
        let pair = TestCa::new("root").certificate(&["a.test"]);
        let read = Certificate::from_pem(pair.chain_pem().as_bytes(), pair.key_pem().as_bytes());
        let shown = format!("{:?}", read.unwrap());
        assert!(
            shown.starts_with("Certificate { names: [\"a.test\"], not_after: "),
            "{shown}"
        );
        assert!(shown.len() < 150, "{shown}");
    }
}
