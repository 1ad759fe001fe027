//! TLS towards clients: certificates and which one answers, handshakes, session tickets.

mod certificate;
mod challenges;
mod default_certificate;
mod session;
mod store;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

pub use certificate::{Certificate, CertificateError, CertificateView};
pub use challenges::Challenges;
pub use default_certificate::DefaultCertificate;
pub use router_model::tls_version::TlsVersion;
pub(crate) use session::TlsSession;
pub use store::{CertificateStore, Origin};

/// The cryptography of everything here, named explicitly: rustls panics when it has to guess between two.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}
