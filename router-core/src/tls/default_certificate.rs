//! The certificate of a listener for clients that ask for no name, or for one that no certificate has. It can be
//! replaced while the listener serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::certificate::{Certificate, CertificateError};
use super::files;
use super::watched::FileWatch;

/// A listener's default certificate.
#[derive(Debug)]
pub struct DefaultCertificate(ArcSwap<Certificate>);

impl DefaultCertificate {
    /// Starts with this one.
    pub fn new(certificate: Certificate) -> Self {
        Self(ArcSwap::from_pointee(certificate))
    }

    /// Starts with the pair in two files: PEM, the chain and its key.
    ///
    /// # Errors
    /// [`FilePairError`] says which file is at fault.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, FilePairError> {
        read_files(chain, key).map(Self::new)
    }

    /// The present one.
    pub fn current(&self) -> Arc<Certificate> {
        self.0.load_full()
    }

    /// Handshakes from now on get this one.
    pub fn replace(&self, certificate: Certificate) {
        self.0.store(Arc::new(certificate));
    }

    /// Takes the pair in these files whenever they change; a pair that cannot be used leaves the present one. Must be
    /// called on a tokio runtime.
    pub fn watch(
        self: &Arc<Self>,
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> FileWatch {
        let (certificate, chain, key) = (Arc::clone(self), chain.into(), key.into());
        FileWatch::start(vec![chain.clone(), key.clone()], move || {
            let read = read_files(&chain, &key).map_err(|error| error.to_string())?;
            certificate.replace(read);
            Ok(())
        })
    }
}

/// Why two files give no certificate.
#[derive(Debug, thiserror::Error)]
pub enum FilePairError {
    /// One of them cannot be read.
    #[error("{path}: cannot be read: {source}", path = .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// They can be read and make no certificate.
    #[error("{chain} with {key}: {source}", chain = .chain.display(), key = .key.display())]
    Pair {
        /// The file of the chain.
        chain: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        source: CertificateError,
    },
}

fn read_files(chain: &Path, key: &Path) -> Result<Certificate, FilePairError> {
    let failed = |path: &Path, source| FilePairError::File {
        path: path.to_owned(),
        source,
    };
    let chain_pem = files::read(chain).map_err(|error| failed(chain, error))?;
    let key_pem = files::read_secret(key).map_err(|error| failed(key, error))?;
    Certificate::from_pem(&chain_pem, &key_pem).map_err(|source| FilePairError::Pair {
        chain: chain.to_owned(),
        key: key.to_owned(),
        source,
    })
}
