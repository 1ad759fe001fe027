//! How routes are published.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use super::server::Tls;
use super::tokens::Tokens;

/// Where routes are published, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishSettings {
    /// Where readers call.
    pub address: SocketAddr,
    /// The path of the route document.
    pub path: String,
    /// A file with the bearer tokens of readers, read again when it changes; without it, anybody may read.
    pub token_file: Option<PathBuf>,
    /// Readers come over TLS.
    pub tls: Option<PublishTls>,
    /// Most connections; nine tenths of them may be waiting for something new.
    pub connections: usize,
    /// Most bytes of changes that are remembered. Who has missed more gets the whole document.
    pub history: usize,
    /// How often a stream says that it is alive.
    pub heartbeat: Duration,
    /// How long a request that asks to be held is held at most.
    pub longest_wait: Duration,
    /// How long a reader may take for a whole document.
    pub document_time: Duration,
}

/// TLS to readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishTls {
    /// PEM file of the certificate chain, read again when it changes.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub private_key: PathBuf,
    /// PEM file of the authority whose certificates readers must have; without it they need none.
    pub client_ca: Option<PathBuf>,
}

impl PublishSettings {
    /// Published here, with defaults for all else.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            path: "/v1/routes".to_owned(),
            token_file: None,
            tls: None,
            connections: 10_000,
            history: 64 << 20,
            heartbeat: Duration::from_secs(5),
            longest_wait: Duration::from_mins(1),
            document_time: Duration::from_mins(5),
        }
    }

    /// Whether routes could be published so: the path can be asked for, and the files can be used.
    ///
    /// # Errors
    /// [`PublishError`], but not for the address, which is not touched.
    pub fn check(&self) -> Result<(), PublishError> {
        self.check_path()?;
        if let Some(path) = &self.token_file {
            Tokens::read(path.clone()).map_err(PublishError::Tokens)?;
        }
        self.tls.as_ref().map(Tls::read).transpose()?;
        Ok(())
    }

    pub(super) fn check_path(&self) -> Result<(), PublishError> {
        let path = &self.path;
        let good = path.starts_with('/') && !path.contains(['?', '#']) && !path.ends_with("/acks");
        let good = good && path.parse::<Uri>().is_ok();
        good.then_some(())
            .ok_or_else(|| PublishError::Path(path.clone()))
    }
}

/// Why routes cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The file of tokens cannot be used.
    #[error("{0}")]
    Tokens(String),
    /// The certificate, its key or the authority of readers cannot be used.
    #[error("{0}")]
    Tls(String),
    /// A path that no request can have.
    #[error("{0:?} is no path; it must begin with / and have neither a query nor /acks at its end")]
    Path(String),
}
