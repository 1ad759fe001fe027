//! rustls' own settings. There are few: what differs between names and listeners is the oldest version and whether
//! HTTP/2 is offered. The certificate is chosen before the handshake goes on, so that what answered is known for sure.

use std::fmt;
use std::sync::Arc;

use router_model::tls_version::TlsVersion;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};

use super::certificate::Certificate;
use super::tickets::TicketKeys;

/// What is agreed to in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TlsTerms {
    /// The oldest version.
    pub(crate) min_version: TlsVersion,
    /// Whether HTTP/2 is offered.
    pub(crate) http2: bool,
}

/// The settings for all terms. All share the keys of session tickets: a ticket says under which name and version it was
/// made, and rustls resumes it for no other.
pub(crate) struct TlsConfigs {
    tls12: Arc<ServerConfig>,
    tls12_http2: Arc<ServerConfig>,
    tls13: Arc<ServerConfig>,
    tls13_http2: Arc<ServerConfig>,
    tickets: Arc<TicketKeys>,
}

impl TlsConfigs {
    pub(crate) fn new() -> Result<Self, rustls::Error> {
        let tickets = Arc::new(TicketKeys::new());
        let config = |min_version, http2| config(TlsTerms { min_version, http2 }, &tickets);
        Ok(Self {
            tls12: config(TlsVersion::V1_2, false)?,
            tls12_http2: config(TlsVersion::V1_2, true)?,
            tls13: config(TlsVersion::V1_3, false)?,
            tls13_http2: config(TlsVersion::V1_3, true)?,
            tickets,
        })
    }

    /// The settings of a handshake that this certificate answers.
    pub(crate) fn config(&self, terms: TlsTerms, certificate: &Certificate) -> Arc<ServerConfig> {
        let config = match (terms.min_version, terms.http2) {
            (TlsVersion::V1_2, false) => &self.tls12,
            (TlsVersion::V1_2, true) => &self.tls12_http2,
            (TlsVersion::V1_3, false) => &self.tls13,
            (TlsVersion::V1_3, true) => &self.tls13_http2,
        };
        // All but the last field is behind an Arc already.
        let mut config = ServerConfig::clone(config);
        config.cert_resolver = Arc::new(Chosen(Arc::clone(certificate.served())));
        Arc::new(config)
    }

    pub(crate) fn tickets(&self) -> &Arc<TicketKeys> {
        &self.tickets
    }
}

impl fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfigs")
            .field("tickets", &self.tickets)
            .finish_non_exhaustive()
    }
}

fn config(terms: TlsTerms, tickets: &Arc<TicketKeys>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions: &[&SupportedProtocolVersion] = match terms.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(super::provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Nobody));
    config.alpn_protocols = if terms.http2 {
        vec![HTTP2.to_vec(), HTTP1.to_vec()]
    } else {
        vec![HTTP1.to_vec()]
    };
    config.ticketer = Arc::clone(tickets) as Arc<_>;
    // Sessions live in tickets; a memory of them would be shared by all workers, and be full at once.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A replayed request is the app's to fear, so there is no early data (RFC 8446 §8).
    config.max_early_data_size = 0;
    // All suites are good; ours is the order of preference, so that what is agreed on is the same for all clients.
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

pub(super) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The certificate of one handshake.
struct Chosen(Arc<CertifiedKey>);

impl ResolvesServerCert for Chosen {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Without the key.
impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chosen")
    }
}

/// Stands where no certificate has been chosen yet.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
