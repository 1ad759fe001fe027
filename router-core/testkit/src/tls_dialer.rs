//! How a client of a test does its TLS handshake, and what came out of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::DEADLINE;
use crate::io::Io;
use crate::test_ca::TestCa;
use crate::wire::within;

/// A client's side of a handshake: which name it asks for, what it offers, whom it trusts. Its clones share one memory of
/// sessions, so that the second connection through the same dialer resumes if the router lets it.
#[derive(Clone)]
pub struct TlsDialer {
    config: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
    name: ServerName<'static>,
}

/// What a handshake agreed on, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// `tls1.2` or `tls1.3`.
    pub version: &'static str,
    /// The cipher suite, by its name in the standard.
    pub suite: String,
    /// The application protocol, `h2` or `http/1.1`.
    pub alpn: Option<String>,
    /// The leaf that was served, DER; of a resumed session the one it began with.
    pub certificate: Vec<u8>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

impl TlsDialer {
    /// Asks for `name` by SNI (an IP address is not sent, as RFC 6066 wants), accepts certificates of that authority for
    /// that name only, and offers TLS 1.2 and 1.3 and no application protocol.
    pub fn trusting(ca: &TestCa, name: &str) -> Self {
        Self::trusting_der(ca.der(), name)
    }

    /// The same for an authority that is known by its certificate only, PEM.
    pub fn trusting_root(pem: &str, name: &str) -> Self {
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        Self::trusting_der(root, name)
    }

    /// The same, but accepts whatever certificate is served: for tests that look at it themselves.
    pub fn trusting_anyone(name: &str) -> Self {
        Self::new(Arc::new(Anyone(provider())), name)
    }

    /// Sends no SNI; the certificate is still checked for the name.
    #[must_use]
    pub fn without_sni(mut self) -> Self {
        self.config_mut().enable_sni = false;
        self
    }

    /// Offers these application protocols, `h2` and `http/1.1` as a browser does.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&str]) -> Self {
        self.config_mut().alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        self
    }

    /// Offers one version only: `tls1.2` or `tls1.3`.
    #[must_use]
    pub fn only(self, version: &str) -> Self {
        let version: &'static SupportedProtocolVersion = match version {
            "tls1.2" => &rustls::version::TLS12,
            "tls1.3" => &rustls::version::TLS13,
            other => panic!("no such version: {other}"),
        };
        // Versions are chosen when a configuration is built, not later.
        let mut config = config(&[version], &self.verifier);
        config
            .alpn_protocols
            .clone_from(&self.config.alpn_protocols);
        config.enable_sni = self.config.enable_sni;
        Self {
            config: Arc::new(config),
            ..self
        }
    }

    /// The same memory of sessions and the same offers under another name.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self {
            name: server_name(name),
            ..self.clone()
        }
    }

    /// Connects and does the handshake.
    pub(crate) async fn dial(&self, address: SocketAddr) -> io::Result<Io> {
        let connect = within(DEADLINE, TcpStream::connect(address)).await;
        self.over(connect.expect("connecting in time")?).await
    }

    /// Does the handshake on a connection that is there, and to which something may have been sent already.
    pub(crate) async fn over(&self, stream: TcpStream) -> io::Result<Io> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = within(DEADLINE, connector.connect(self.name.clone(), stream))
            .await
            .expect("a handshake that ends in time")?;
        Ok(Io::Tls(Box::new(TlsStream::Client(stream))))
    }

    fn trusting_der(root: CertificateDer<'static>, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root");
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .expect("a verifier");
        Self::new(verifier, name)
    }

    fn new(verifier: Arc<dyn ServerCertVerifier>, name: &str) -> Self {
        Self {
            config: Arc::new(config(rustls::ALL_VERSIONS, &verifier)),
            verifier,
            name: server_name(name),
        }
    }

    fn config_mut(&mut self) -> &mut ClientConfig {
        Arc::make_mut(&mut self.config)
    }
}

impl TlsFacts {
    /// Nothing on a connection in the clear.
    pub(crate) fn of(io: &Io) -> Option<Self> {
        let session = io.tls()?;
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "tls1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "tls1.3",
            other => panic!("{other:?}"),
        };
        let suite = session.negotiated_cipher_suite().expect("a session");
        let alpn = session.alpn_protocol();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        Some(Self {
            version,
            suite: format!("{:?}", suite.suite()),
            alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()),
            certificate: leaf.map(|leaf| leaf.to_vec()).unwrap_or_default(),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

/// The cryptography of the testkit's both sides, named so that no process-wide default is needed.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn config(
    versions: &[&'static SupportedProtocolVersion],
    verifier: &Arc<dyn ServerCertVerifier>,
) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier))
        .with_no_client_auth()
}

fn server_name(name: &str) -> ServerName<'static> {
    ServerName::try_from(name.to_owned()).expect("a name")
}

/// Checks signatures, as every client does, and nothing about who it is.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ending, FakeDyno, RawClient};

    #[tokio::test]
    async fn a_handshake_tells_what_it_agreed_on() {
        let root = TestCa::new("root");
        let certificate = root.intermediate("middle").certificate(&[
            "a.test",
            "*.b.test",
            "127.0.0.1",
            "spiffe://c/d",
        ]);
        let dyno = FakeDyno::start_tls(&certificate).await;
        for (name, sni) in [
            ("a.test", Some("a.test")),
            ("x.b.test", Some("x.b.test")),
            ("127.0.0.1", None),
        ] {
            for version in ["tls1.2", "tls1.3"] {
                let dialer = TlsDialer::trusting(&root, name)
                    .alpn(&["h2", "http/1.1"])
                    .only(version);
                let (mut client, mut conn) = tokio::join!(
                    RawClient::connect_tls(dyno.address(), &dialer),
                    dyno.accept()
                );
                let facts = client.tls();
                assert_eq!(
                    (facts.version, facts.alpn.as_deref(), facts.resumed),
                    (version, Some("http/1.1"), false)
                );
                assert_eq!(facts.certificate, certificate.der());
                assert_eq!(conn.sni(), sni);
                client.send("GET / HTTP/1.1\r\n\r\n").await;
                conn.answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
                    .await;
                assert_eq!(client.read_response().await.text(), "x");
                client.assert_open();
                conn.close().await;
                assert_eq!(client.expect_end().await, Ending::Closed);
            }
        }
    }

    #[tokio::test]
    async fn a_second_connection_resumes_and_a_cut_is_told_from_an_end() {
        let ca = TestCa::new("root");
        let dyno = FakeDyno::start_tls(&ca.certificate(&["a.test"])).await;
        let dialer = TlsDialer::trusting(&ca, "a.test");
        for resumed in [false, true] {
            let (mut client, mut conn) = tokio::join!(
                RawClient::connect_tls(dyno.address(), &dialer),
                dyno.accept()
            );
            assert_eq!(client.tls().resumed, resumed);
            // Session tickets are read with the first bytes.
            conn.write("x").await;
            client.read_exact(1).await;
            drop(conn);
            assert_eq!(client.expect_end().await, Ending::Truncated);
        }
        let nameless = dialer.without_sni();
        let (client, conn) = tokio::join!(
            RawClient::connect_tls(dyno.address(), &nameless),
            dyno.accept()
        );
        assert_eq!(conn.sni(), None);
        drop(client);
    }

    #[tokio::test]
    async fn the_wrong_name_time_or_authority_fails_the_handshake() {
        let (ca, other) = (TestCa::new("root"), TestCa::new("other"));
        let bad = [
            ca.certificate(&["b.test"]),
            ca.certificate_valid(&["a.test"], -10..-1),
            ca.certificate_valid(&["a.test"], 1..10),
            other.certificate(&["a.test"]),
        ];
        for certificate in bad {
            let dyno = FakeDyno::start_tls(&certificate).await;
            let dialer = TlsDialer::trusting(&ca, "a.test");
            let (client, conn) = tokio::join!(
                RawClient::try_connect_tls(dyno.address(), &dialer),
                dyno.try_accept()
            );
            assert!(client.is_err() && conn.is_err());
            let dialer = TlsDialer::trusting_anyone("a.test");
            let (client, _) = tokio::join!(
                RawClient::connect_tls(dyno.address(), &dialer),
                dyno.accept()
            );
            assert_eq!(client.tls().certificate, certificate.der());
        }
    }
}
