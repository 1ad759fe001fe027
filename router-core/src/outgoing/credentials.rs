//! Whom the router believes when it calls somebody, and how it proves who it is itself. Both may be in files, which are
//! read again when they have changed; files that cannot be used leave what was read before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::tls::{self, Certificate, Identity};

/// How TLS connections to one host are made.
pub(crate) struct Credentials {
    /// PEM; without it, those that browsers believe.
    ca: Option<PathBuf>,
    /// A chain and its key, PEM.
    client: Option<(PathBuf, PathBuf)>,
    read: Option<(Vec<Option<Identity>>, Arc<ClientConfig>)>,
}

impl Credentials {
    pub(crate) fn new(ca: Option<PathBuf>, client: Option<(PathBuf, PathBuf)>) -> Self {
        Self {
            ca,
            client,
            read: None,
        }
    }

    /// The settings of the next connection. The same ones again, as long as no file has changed.
    ///
    /// # Errors
    /// A reason for people, if the files cannot be used and never could.
    pub(crate) fn config(&mut self) -> Result<Arc<ClientConfig>, String> {
        // Looked at before they are read: a change in between is seen as one next time.
        let now: Vec<_> = self.files().map(tls::look).collect();
        let settled = now.iter().all(Option::is_some);
        if let Some((seen, config)) = &self.read
            && settled
            && *seen == now
        {
            return Ok(Arc::clone(config));
        }
        match (self.build(), &self.read) {
            (Ok(config), _) => {
                let config = Arc::new(config);
                self.read = Some((now, Arc::clone(&config)));
                Ok(config)
            }
            (Err(error), Some((_, before))) => {
                tracing::warn!("{error}; what was read before stays in force");
                Ok(Arc::clone(before))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let pair = self.client.iter().flat_map(|(chain, key)| [chain, key]);
        self.ca.iter().chain(pair).map(PathBuf::as_path)
    }

    fn build(&self) -> Result<ClientConfig, String> {
        let roots = match &self.ca {
            None => system_roots(),
            Some(path) => read_roots(path)
                .map_err(|reason| format!("{} cannot be used: {reason}", path.display()))?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let Some((chain, key)) = &self.client else {
            return Ok(builder.with_no_client_auth());
        };
        let read = |path: &Path| {
            let read = fs::read(path).map(Zeroizing::new);
            read.map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let pair = Certificate::from_pem(&read(chain)?, &read(key)?).map_err(|error| {
            let (chain, key) = (chain.display(), key.display());
            format!("{chain} and {key}: {error}")
        })?;
        let pair = SingleCertAndKey::from(Arc::clone(pair.served()));
        Ok(builder.with_client_cert_resolver(Arc::new(pair)))
    }
}

/// The authorities that browsers believe.
pub(crate) fn system_roots() -> RootCertStore {
    webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect()
}

/// The authorities of a PEM file.
///
/// # Errors
/// A reason for people.
pub(crate) fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let text = fs::read(path).map_err(|error: io::Error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| tls::why_no_pem(&error).to_owned())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use router_testkit::TestCa;

    use super::*;
    use crate::clock;

    /// Files that were written just now are always read again, so these look old.
    fn write(path: &Path, content: &str, age: u64) {
        fs::write(path, content).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        let at = clock::wall() - Duration::from_secs(age);
        file.set_modified(at).unwrap();
    }

    #[test]
    fn files_are_read_again_when_they_change_and_bad_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (ca, pair) = (TestCa::new("one"), TestCa::new("us").certificate(&["us"]));
        write(&at("ca.pem"), &ca.pem(), 90);
        write(&at("us.crt"), pair.chain_pem(), 90);
        write(&at("us.key"), pair.key_pem(), 90);
        let mut credentials =
            Credentials::new(Some(at("ca.pem")), Some((at("us.crt"), at("us.key"))));
        let first = credentials.config().unwrap();
        assert!(Arc::ptr_eq(&first, &credentials.config().unwrap()));
        write(&at("ca.pem"), "nothing", 60);
        assert!(Arc::ptr_eq(&first, &credentials.config().unwrap()));
        write(&at("ca.pem"), &TestCa::new("two").pem(), 30);
        assert!(!Arc::ptr_eq(&first, &credentials.config().unwrap()));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let error = |ca: Option<&str>, client: Option<(&str, &str)>| {
            let client = client.map(|(chain, key)| (at(chain), at(key)));
            Credentials::new(ca.map(at), client).config().unwrap_err()
        };
        write(&at("empty"), "", 0);
        assert!(error(Some("none"), None).contains("none cannot be used: No such file"));
        assert!(
            error(Some("empty"), None)
                .ends_with("empty cannot be used: there is no certificate in it")
        );
        assert!(error(None, Some(("no", "no"))).contains("no cannot be read: No such file"));
        assert!(error(None, Some(("empty", "empty"))).contains("empty and "));
    }
}
