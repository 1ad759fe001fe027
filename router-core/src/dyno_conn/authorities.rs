//! Whose word is taken that a dyno is who it says (`dyno_tls.verify`): read when routes are applied, so that an app whose
//! authority cannot be read is rejected with the reason, and no request ever waits for a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};
use router_model::settings::Verify;
use rustls::{CertificateError, ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::tls;

/// A certificate authority, ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    /// `None`: anybody's word is taken.
    pub(super) roots: Option<Arc<RootCertStore>>,
    pub(super) builder: ConfigBuilder<ClientConfig, WantsVerifier>,
}

/// Authorities as they are at one moment: each is read once, however many apps name it.
#[derive(Debug)]
pub(crate) struct Authorities {
    read: HashMap<Verify, Result<Authority, String>>,
}

impl Authorities {
    pub(crate) fn new() -> Self {
        Self {
            read: HashMap::new(),
        }
    }

    /// The authority that a setting means.
    ///
    /// # Errors
    /// A reason for people.
    pub(crate) fn of(&mut self, verify: &Verify) -> Result<Authority, String> {
        if let Some(read) = self.read.get(verify) {
            return read.clone();
        }
        let read = Authority::read(verify);
        self.read.insert(verify.clone(), read.clone());
        read
    }

    /// What could not be read, and why.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.read
            .values()
            .filter_map(|read| read.as_ref().err().map(String::as_str))
    }
}

impl Authority {
    fn read(verify: &Verify) -> Result<Self, String> {
        let roots = match verify {
            Verify::File(path) => {
                let pem = read_file(path).map_err(|reason| format!("{} {reason}", path.display()));
                let roots = roots(&pem?).map_err(|reason| format!("{} {reason}", path.display()));
                Some(roots?)
            }
            Verify::Pem(pem) => {
                Some(roots(pem.as_bytes()).map_err(|reason| format!("the PEM text {reason}"))?)
            }
            Verify::System => Some(RootCertStore {
                roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
            }),
            Verify::Anybody => None,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        Ok(Self {
            roots: roots.map(Arc::new),
            builder,
        })
    }

    /// Whether it trusts the same as another.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (&self.roots, &other.roots) {
            (Some(one), Some(other)) => one.roots == other.roots,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// The certificates of a PEM text.
fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|error| format!("is broken PEM: {}", tls::why_no_pem(&error)))?;
        roots.add(certificate).map_err(|error| match error {
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => {
                "holds something that is no certificate".to_owned()
            }
            error => format!("holds a certificate that cannot be used: {error}"),
        })?;
    }
    if roots.is_empty() {
        return Err(
            "holds no certificate: expected -----BEGIN CERTIFICATE----- and its end".to_owned(),
        );
    }
    Ok(roots)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    /// A route document may name any file there is; bundles of all public authorities have a quarter of this.
    const LARGEST: u64 = 1 << 20;
    let mut pem = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut pem));
    match read {
        Err(error) => Err(format!("cannot be read: {error}")),
        Ok(length) if length as u64 > LARGEST => {
            Err("is too large for a certificate authority: more than a megabyte".to_owned())
        }
        Ok(_) => Ok(pem),
    }
}

#[cfg(test)]
mod tests {
    use router_testkit::TestCa;

    use super::*;

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str, text: &[u8]| {
            std::fs::write(folder.path().join(name), text).unwrap();
            Verify::File(folder.path().join(name))
        };
        let ca = TestCa::new("root").pem();
        let broken = ca.replace("\nMI", "\n%%");
        let other = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (verify, reason) in [
            (
                Verify::File("/nowhere/ca.pem".into()),
                "/nowhere/ca.pem cannot be read: No such file",
            ),
            (
                Verify::File(folder.path().into()),
                "cannot be read: Is a directory",
            ),
            (Verify::File("/dev/zero".into()), "/dev/zero is too large"),
            (
                written("empty.pem", b""),
                "empty.pem holds no certificate: expected",
            ),
            (
                written("other.pem", b"hello"),
                "other.pem holds no certificate",
            ),
            (
                written("broken.pem", broken.as_bytes()),
                "broken.pem is broken PEM",
            ),
            (
                Verify::Pem(other.into()),
                "the PEM text holds something that is no certificate",
            ),
            (
                Verify::Pem((ca.clone() + other).into()),
                "the PEM text holds something",
            ),
        ] {
            let error = Authorities::new().of(&verify).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        for good in [
            written("ca.pem", ca.as_bytes()),
            Verify::System,
            Verify::Anybody,
        ] {
            Authorities::new().of(&good).unwrap();
        }
    }

    #[test]
    fn authorities_are_the_same_when_they_trust_the_same() {
        let (one, other) = (TestCa::new("one").pem(), TestCa::new("two").pem());
        let settings = [
            Verify::Pem(one.as_str().into()),
            Verify::Pem(format!("{one}{other}").into()),
            Verify::System,
            Verify::Anybody,
        ];
        let read = |verify| Authorities::new().of(verify).unwrap();
        for (i, verify) in settings.iter().enumerate() {
            for (j, other) in settings.iter().enumerate() {
                assert_eq!(read(verify).is_same(&read(other)), i == j);
            }
        }
        let commented = Verify::Pem(format!("a comment\n{one}").into());
        assert!(read(&commented).is_same(&read(&settings[0])));
    }
}
