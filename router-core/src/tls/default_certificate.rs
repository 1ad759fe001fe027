//! The certificate of a listener for clients that ask for no name, or for one that no certificate has.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::certificate::Certificate;

/// A listener's default certificate. It can be replaced while the listener serves.
#[derive(Debug)]
pub struct DefaultCertificate(ArcSwap<Certificate>);

impl DefaultCertificate {
    /// Starts with this one.
    pub fn new(certificate: Certificate) -> Self {
        Self(ArcSwap::from_pointee(certificate))
    }

    /// The present one.
    pub fn current(&self) -> Arc<Certificate> {
        self.0.load_full()
    }

    /// Handshakes from now on get this one.
    pub fn replace(&self, certificate: Certificate) {
        self.0.store(Arc::new(certificate));
    }
}
