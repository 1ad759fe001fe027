//! What a finished handshake says about its connection.

use std::sync::Arc;

use router_model::tls_version::TlsVersion;

use super::certificate::Certificate;

/// What a TLS handshake agreed on.
#[derive(Debug, Clone)]
pub(crate) struct TlsSession {
    pub(crate) version: TlsVersion,
    /// The name that the client asked for (SNI), normalised like a host; `None` when it sent none.
    pub(crate) sni: Option<Box<str>>,
    /// The certificate that answered.
    pub(crate) certificate: Arc<Certificate>,
}
