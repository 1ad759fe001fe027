//! TLS towards clients: certificates and which one answers, handshakes, session tickets.
//!
//! Certificates come from several places ([`Origin`]) into one [`CertificateStore`], where the name that a client asks
//! for finds one. A listener may have a [`DefaultCertificate`] for all other names. Everything can change while
//! connections are being made; each handshake sees either the old or the new.

mod accept;
mod certificate;
mod challenges;
mod configs;
mod default_certificate;
pub(crate) mod files;
pub mod folder;
mod session;
mod store;
mod stream;
mod tickets;
mod watched;

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedCipherSuite};

pub(crate) use accept::{Accepted, Hello};
pub(crate) use certificate::why_no_pem;
pub use certificate::{Certificate, CertificateError, CertificateView};
pub use challenges::Challenges;
pub(crate) use configs::{TlsConfigs, TlsTerms};
pub use default_certificate::{DefaultCertificate, FilePairError};
pub use folder::{FileRejection, FolderHandle, FolderStatus};
pub use router_model::tls_version::TlsVersion;
pub(crate) use session::TlsSession;
pub use store::{CertificateStore, Origin};
pub(crate) use stream::TlsStream;
pub use tickets::{TicketKeyError, TicketKeys};
pub use watched::FileWatch;
pub(crate) use watched::{Identity, look};

/// The cryptography of everything here, named explicitly: rustls panics when it has to guess between two.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // The order of preference. 128 bits are enough for anybody, and their keys are made with SHA-256, for which
        // processors have instructions; SHA-384 was an eighth of a handshake.
        let costs_more = |suite: &SupportedCipherSuite| !AES_128.contains(&suite.suite());
        provider.cipher_suites.sort_by_key(costs_more);
        Arc::new(provider)
    });
    &PROVIDER
}

const AES_128: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];
