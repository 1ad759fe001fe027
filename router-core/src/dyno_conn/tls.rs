//! TLS to an app's dynos (`dyno_tls`): the handshake, and who a dyno has to be. A dyno's certificate names the dyno, so
//! that an address which has passed to another dyno, of this app or of another, is noticed before it gets a request.
//!
//! A resumed session shows no certificate: it proves that the other end is who it was, or shares its ticket keys. So
//! sessions are kept per dyno, and dynos that share ticket keys are one and the same here.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use router_model::app::App;
use router_model::failure::Failure;
use router_model::settings::{self, Identity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::authorities::Authority;
use crate::clock::{self, Instant};
use crate::dyno::Dyno;
use crate::pool::Pool;
use crate::tls;

/// TLS to the dynos of one version of an app.
pub(crate) struct DynoTls {
    app: Arc<str>,
    settings: settings::DynoTls,
    authority: Authority,
    by_dyno: HashMap<u64, Arc<OfDyno>>,
}

/// What one dyno is shaken hands with.
struct OfDyno {
    terms: Terms,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// Of the last failure that was a warning. Guards nothing else; no `.await` happens under it.
    warned: Mutex<Option<Instant>>,
}

/// On which terms a connection to a dyno was opened: in the clear, or after this handshake. A kept connection is good
/// for requests on the same terms only; an app may take up TLS, or other authorities, while its dynos stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Terms(u64);

impl Terms {
    pub(crate) const CLEAR: Self = Self(0);

    /// Terms that no connection has yet.
    pub(super) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl DynoTls {
    /// For the dynos of a version of an app. What `previous` knows of dynos that are still there (their sessions) is
    /// taken over, as long as the settings are the same.
    pub(crate) fn new(
        app: &App,
        settings: &settings::DynoTls,
        authority: Authority,
        pool: &Pool,
        previous: Option<&Self>,
    ) -> Self {
        let mut new = Self {
            app: Arc::clone(&app.name),
            settings: settings.clone(),
            authority,
            by_dyno: HashMap::new(),
        };
        let previous = previous.filter(|previous| {
            previous.settings == *settings && previous.trusts_the_same(&new.authority)
        });
        for dyno in pool.all() {
            let known = previous.and_then(|previous| previous.by_dyno.get(&dyno.id()));
            let of_dyno = known.map_or_else(|| Arc::new(new.of_dyno(dyno)), Arc::clone);
            new.by_dyno.insert(dyno.id(), of_dyno);
        }
        new
    }

    /// Whether this authority is the one in use.
    pub(crate) fn trusts_the_same(&self, authority: &Authority) -> bool {
        self.authority.is_same(authority)
    }

    /// On which terms connections to a dyno are opened; `None` for a dyno of another version of the app.
    pub(crate) fn terms(&self, dyno: &Dyno) -> Option<Terms> {
        self.by_dyno.get(&dyno.id()).map(|known| known.terms)
    }

    /// Shakes hands with a dyno over a new connection to it, and makes sure that it is that dyno. With `http2`, it has
    /// to agree to that by ALPN.
    ///
    /// # Errors
    /// [`Failure::ConnectTimeout`] (H19) at `deadline`, [`Failure::Platform`] (H99) for a dyno of another version of the
    /// app, [`Failure::DynoIdentity`] (H21) for any other reason.
    pub(crate) async fn handshake(
        &self,
        dyno: &Dyno,
        stream: TcpStream,
        http2: bool,
        deadline: Instant,
    ) -> Result<Box<TlsStream<TcpStream>>, Failure> {
        let of_dyno = self.by_dyno.get(&dyno.id()).ok_or(Failure::Platform)?;
        let alpn = if http2 { vec![H2.to_vec()] } else { Vec::new() };
        let connector = TlsConnector::from(Arc::clone(&of_dyno.config));
        let connect = connector
            .with_alpn(alpn)
            .connect(of_dyno.name.clone(), stream);
        let Ok(shaken) = tokio::time::timeout_at(deadline, connect).await else {
            return Err(Failure::ConnectTimeout);
        };
        let refused = match shaken {
            Ok(stream) if http2 && stream.get_ref().1.alpn_protocol() != Some(H2) => {
                "it speaks no HTTP/2 (ALPN \"h2\")".to_owned()
            }
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => reason(&error),
        };
        of_dyno.tell(&self.app, dyno, &refused);
        Err(Failure::DynoIdentity)
    }

    fn of_dyno(&self, dyno: &Dyno) -> OfDyno {
        let verifier = Verifier {
            roots: self.authority.roots.clone(),
            expected: Expected::of(&self.settings.identity, &self.app, dyno),
            algorithms: tls::provider().signature_verification_algorithms,
        };
        let mut config = self
            .authority
            .builder
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        OfDyno {
            terms: Terms::next(),
            config: Arc::new(config),
            name: server_name(&self.settings.identity, dyno),
            warned: Mutex::new(None),
        }
    }
}

impl fmt::Debug for DynoTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynoTls")
            .field("settings", &self.settings)
            .field("dynos", &self.by_dyno.len())
            .finish_non_exhaustive()
    }
}

impl OfDyno {
    /// A warning now and then, for a dyno that is not what it should be is tried again and again.
    fn tell(&self, app: &str, dyno: &Dyno, reason: &str) {
        const EVERY: Duration = Duration::from_secs(60);
        let (name, address, now) = (dyno.name(), dyno.address(), clock::now());
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| now.saturating_duration_since(at) >= EVERY) {
            *warned = Some(now);
            tracing::warn!(%app, dyno = %name, %address, reason, "no TLS connection to dyno");
        } else {
            tracing::debug!(%app, dyno = %name, %address, reason, "no TLS connection to dyno");
        }
    }
}

/// Why a handshake failed. rustls shows its own errors well, and those of others as code.
fn reason(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(other)))) => {
            other.to_string()
        }
        _ => error.to_string(),
    }
}

const H2: &[u8] = b"h2";
/// rustls keeps up to eight tickets of TLS 1.3 for one server, and counts servers by the eight.
const SESSIONS: usize = 8;

/// What the dyno is asked for. A dyno's name is no hostname that servers know, so then nothing is asked for (SNI).
fn server_name(identity: &Identity, dyno: &Dyno) -> ServerName<'static> {
    let named = match identity {
        Identity::Name(name) => ServerName::try_from(name.to_string()).ok(),
        Identity::DynoName | Identity::AnyName => None,
    };
    named.unwrap_or_else(|| ServerName::from(dyno.address().ip()))
}

/// Who a certificate has to be for.
#[derive(Debug)]
enum Expected {
    /// One of these names: `web.1`, `web.1.shop`.
    Dyno([String; 2]),
    Name(Arc<str>),
    Anyone,
}

impl Expected {
    fn of(identity: &Identity, app: &str, dyno: &Dyno) -> Self {
        match identity {
            Identity::DynoName => {
                let name = dyno.name().to_string();
                let full = format!("{name}.{app}");
                Self::Dyno([name, full])
            }
            Identity::Name(name) => Self::Name(Arc::clone(name)),
            Identity::AnyName => Self::Anyone,
        }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let good = match self {
            Self::Anyone => true,
            // rustls refuses names whose last label is a number, so these are looked for by hand.
            Self::Dyno(names) => any_name(certificate, |name| {
                names.iter().any(|dyno| is_dyno(name, dyno))
            })?,
            Self::Name(name) => match ServerName::try_from(&**name) {
                Ok(name) => return verify_server_name(&parsed, &name),
                Err(_) => any_name(certificate, |san| is_dyno(san, name))?,
            },
        };
        if good {
            return Ok(());
        }
        let mut presented = Vec::new();
        any_name(certificate, |name| {
            presented.push(shown(name));
            presented.len() == MOST_SHOWN
        })?;
        let error = NotThisDyno {
            expected: self.to_string(),
            presented: presented.join(", "),
        };
        let error = CertificateError::Other(OtherError(Arc::new(error)));
        Err(rustls::Error::InvalidCertificate(error))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyno([name, full]) => write!(f, "{name} or {full}"),
            Self::Name(name) => f.write_str(name),
            Self::Anyone => f.write_str("anyone"),
        }
    }
}

/// A good certificate, of somebody else.
#[derive(Debug, thiserror::Error)]
#[error("the certificate must be for {expected}, and is for [{presented}]")]
struct NotThisDyno {
    expected: String,
    presented: String,
}

/// Names of a stranger's certificate that are shown.
const MOST_SHOWN: usize = 5;

/// Whether `wanted` is true for any of the certificate's alternative names; the common name is none.
fn any_name(
    certificate: &CertificateDer<'_>,
    wanted: impl FnMut(&GeneralName<'_>) -> bool,
) -> Result<bool, rustls::Error> {
    let bad = rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Err(bad);
    };
    let names = certificate.subject_alternative_name().map_err(|_| bad)?;
    Ok(names.is_some_and(|names| names.value.general_names.iter().any(wanted)))
}

/// Whether a name is this dyno's: a DNS name, or the last part of a URI's path (`spiffe://shop.example/dyno/web.1`).
fn is_dyno(name: &GeneralName<'_>, dyno: &str) -> bool {
    match name {
        GeneralName::DNSName(name) => name.eq_ignore_ascii_case(dyno),
        GeneralName::URI(uri) => {
            let path = uri
                .split_once("://")
                .and_then(|(_, rest)| rest.split_once('/'));
            path.is_some_and(|(_, path)| path.rsplit('/').next() == Some(dyno))
        }
        _ => false,
    }
}

/// A name as it can stand in a log.
fn shown(name: &GeneralName<'_>) -> String {
    const LONGEST: usize = 100;
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => {
            name.escape_debug().take(LONGEST).collect()
        }
        _ => "neither a DNS name nor a URI".to_owned(),
    }
}

/// Checks a dyno's certificate.
#[derive(Debug)]
struct Verifier {
    /// `None`: whoever it is.
    roots: Option<Arc<RootCertStore>>,
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(certificate)?,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
            self.expected.check(certificate)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use router_model::app::DynoName;
    use router_model::settings::Verify;
    use router_testkit::{TestCa, TestCertificate};
    use rustls_pki_types::pem::PemObject;

    use super::super::Authorities;
    use super::*;

    const WEB_1: &str = "10.0.0.1:5001";

    fn dyno() -> Dyno {
        let address: SocketAddr = WEB_1.parse().unwrap();
        Dyno::new(DynoName::parse("web.1").unwrap(), address, clock::now())
    }

    fn verifier(verify: &Verify, identity: &Identity) -> Verifier {
        Verifier {
            roots: Authorities::new().of(verify).unwrap().roots,
            expected: Expected::of(identity, "shop", &dyno()),
            algorithms: tls::provider().signature_verification_algorithms,
        }
    }

    /// Whether the certificate is taken for the dyno's, and if not, why.
    fn judge(verifier: &Verifier, certificate: &TestCertificate) -> Result<(), String> {
        let chain = CertificateDer::pem_slice_iter(certificate.chain_pem().as_bytes());
        let chain: Vec<_> = chain.map(Result::unwrap).collect();
        let nobody = ServerName::try_from("nobody.test").unwrap();
        verifier
            .verify_server_cert(&chain[0], &chain[1..], &nobody, &[], UnixTime::now())
            .map(|_| ())
            .map_err(|error| reason(&io::Error::other(error)))
    }

    #[tokio::test]
    async fn a_certificate_has_to_name_the_dyno() {
        let ca = TestCa::new("root");
        let pem = Verify::Pem(ca.pem().into());
        let name = Identity::Name("a.dynos.internal".into());
        for (identity, names, good) in [
            (&Identity::DynoName, &["web.1"][..], true),
            (&Identity::DynoName, &["WEB.1"], true),
            (&Identity::DynoName, &["web.1.shop"], true),
            (&Identity::DynoName, &["a.test", "web.1"], true),
            (&Identity::DynoName, &["spiffe://shop.test/web.1"], true),
            (
                &Identity::DynoName,
                &["spiffe://x/app/shop/web.1.shop"],
                true,
            ),
            (&Identity::DynoName, &["web.2"], false),
            (&Identity::DynoName, &["web.1.other"], false),
            (&Identity::DynoName, &["web.10"], false),
            (&Identity::DynoName, &["*.shop", "shop"], false),
            (&Identity::DynoName, &["spiffe://web.1"], false),
            (&Identity::DynoName, &["spiffe://x/web.1/web.2"], false),
            (&Identity::DynoName, &["spiffe://x/web.1?a=/"], false),
            (&Identity::DynoName, &["10.0.0.1"], false),
            (&Identity::DynoName, &[], false),
            (&name, &["a.dynos.internal"], true),
            (&name, &["*.dynos.internal"], true),
            (&name, &["web.1"], false),
            (&Identity::AnyName, &["whoever.test"], true),
            (&Identity::AnyName, &[], true),
        ] {
            let checked = judge(&verifier(&pem, identity), &ca.certificate(names));
            assert_eq!(checked.is_ok(), good, "{identity:?} {names:?} {checked:?}");
        }
        let checked = judge(
            &verifier(&pem, &Identity::DynoName),
            &ca.certificate(&["web.2", "spiffe://shop.test/web.2", "10.0.0.1"]),
        );
        let expected = "the certificate must be for web.1 or web.1.shop, and is for [web.2, spiffe://shop.test/web.2, neither a DNS name nor a URI]";
        assert_eq!(checked, Err(expected.to_owned()));
    }

    #[tokio::test]
    async fn a_certificate_has_to_be_in_force_and_signed_by_the_authority() {
        let (ca, other) = (TestCa::new("root"), TestCa::new("root"));
        let pem = Verify::Pem(ca.pem().into());
        let both = Verify::Pem((other.pem() + &ca.pem()).into());
        let names = &["web.1"];
        let good = ca.certificate(names);
        let indirect = ca.intermediate("middle").certificate(names);
        let foreign = other.certificate(names);
        let old = ca.certificate_valid(names, -10..-1);
        let young = ca.certificate_valid(names, 1..10);
        for (verify, certificate, expected) in [
            (&pem, &good, None),
            (&pem, &indirect, None),
            (&both, &good, None),
            (&both, &foreign, None),
            (&pem, &foreign, Some("BadSignature")),
            (&pem, &old, Some("expired")),
            (&pem, &young, Some("not valid yet")),
            (&Verify::System, &good, Some("UnknownIssuer")),
        ] {
            let checked = judge(&verifier(verify, &Identity::DynoName), certificate);
            match expected {
                None => assert_eq!(checked, Ok(())),
                Some(reason) => assert!(checked.unwrap_err().contains(reason), "{reason}"),
            }
        }
        let anybody = verifier(&Verify::Anybody, &Identity::AnyName);
        assert_eq!(judge(&anybody, &old), Ok(()));
    }

    #[test]
    fn only_a_name_of_its_own_is_asked_for() {
        let dyno = dyno();
        let address = ServerName::from(dyno.address().ip());
        for (identity, expected) in [
            (Identity::DynoName, address.clone()),
            (Identity::AnyName, address.clone()),
            (
                Identity::Name("a.test".into()),
                ServerName::try_from("a.test").unwrap(),
            ),
            (Identity::Name("a.1".into()), address),
        ] {
            assert_eq!(server_name(&identity, &dyno), expected);
        }
    }
}
