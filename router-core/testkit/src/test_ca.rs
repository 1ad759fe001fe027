//! A certificate authority of the test's own: certificates for any names and any time, made in a millisecond each.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls_dialer::provider;

/// An authority that clients (and the router) may be told to trust.
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The certificates between a leaf and the root, PEM, nearest first.
    intermediates: String,
}

impl TestCa {
    /// A root with a fresh key.
    pub fn new(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap());
        Self {
            issuer: issuer.expect("a root"),
            intermediates: String::new(),
        }
    }

    /// An authority under this one; its certificates carry it in their chain.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).expect("a CA");
        Self {
            intermediates: issuer.pem() + &self.intermediates,
            issuer,
        }
    }

    /// The authority's own certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The same, DER.
    pub fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A certificate for these names, valid now: DNS names (wildcards too), IP addresses, or URIs.
    pub fn certificate(&self, names: &[&str]) -> TestCertificate {
        self.certificate_valid(names, -1..89)
    }

    /// The same, valid from the first to the last day of a window relative to now: `-10..-1` expired yesterday, `1..10`
    /// is not valid yet.
    pub fn certificate_valid(&self, names: &[&str], days: Range<i64>) -> TestCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(first) = names.first() {
            params
                .distinguished_name
                .push(DnType::CommonName, (*first).to_owned());
        }
        params.subject_alt_names = names.iter().map(|name| alternative_name(name)).collect();
        params.not_before = day(days.start).into();
        params.not_after = day(days.end).into();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf");
        TestCertificate {
            chain_pem: certificate.pem() + &self.intermediates,
            key_pem: key.serialize_pem(),
            der: certificate.der().clone(),
        }
    }
}

/// A leaf with its chain and key.
#[derive(Clone)]
pub struct TestCertificate {
    chain_pem: String,
    key_pem: String,
    der: CertificateDer<'static>,
}

impl TestCertificate {
    /// The leaf and what is between it and the root, PEM.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The leaf, DER: what [`TlsFacts::certificate`](crate::TlsFacts::certificate) shows when it is served.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of the leaf in lower-case hexadecimal.
    pub fn fingerprint(&self) -> String {
        let suite = TLS13_AES_128_GCM_SHA256
            .tls13()
            .expect("a suite of TLS 1.3");
        let digest = suite.common.hash_provider.hash(&self.der);
        digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// What a TLS server needs to serve this certificate with these application protocols.
    pub(crate) fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let chain = CertificateDer::pem_slice_iter(self.chain_pem.as_bytes());
        let chain: Vec<_> = chain.map(|certificate| certificate.unwrap()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair that fits");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, name.to_owned());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = day(-365).into();
    params.not_after = day(3650).into();
    params
}

fn alternative_name(name: &str) -> SanType {
    let ascii = || Ia5String::try_from(name).expect("an ASCII name");
    if let Ok(address) = name.parse::<IpAddr>() {
        SanType::IpAddress(address)
    } else if name.contains("://") {
        SanType::URI(ascii())
    } else {
        SanType::DnsName(ascii())
    }
}

fn day(relative: i64) -> SystemTime {
    let distance = Duration::from_hours(24 * relative.unsigned_abs());
    if relative < 0 {
        SystemTime::now() - distance
    } else {
        SystemTime::now() + distance
    }
}
