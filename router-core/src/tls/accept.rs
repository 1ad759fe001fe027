//! The handshake with a client: its hello, what is agreed to, and how it can fail. Who may have what under which name is
//! decided by the caller, once the hello has said the name.

use std::io;
use std::sync::Arc;

use router_model::hostname;
use router_model::tls_version::TlsVersion;
use rustls::server::Acceptor;
use rustls::{AlertDescription, HandshakeKind, ProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::certificate::Certificate;
use super::configs::{HTTP2, TlsConfigs, TlsTerms};
use super::session::TlsSession;
use super::stream::TlsStream;
use crate::observe::TlsFailure;

/// A client that has said hello.
pub(crate) struct Hello {
    handshake: StartHandshake<TcpStream>,
    sni: Option<Box<str>>,
}

/// A finished handshake.
pub(crate) struct Accepted {
    pub(crate) stream: TlsStream,
    pub(crate) session: TlsSession,
    pub(crate) version: TlsVersion,
    pub(crate) resumed: bool,
    /// HTTP/2 was agreed on.
    pub(crate) http2: bool,
}

impl Hello {
    /// Waits for the client's hello.
    pub(crate) async fn read(stream: TcpStream) -> Result<Self, TlsFailure> {
        let handshake = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let handshake = handshake.map_err(|error| failure(&error))?;
        let name = handshake.client_hello().server_name().map(normalised);
        Ok(Self {
            sni: name,
            handshake,
        })
    }

    /// The name that the client asks for, normalised like a host.
    pub(crate) fn sni(&self) -> Option<&str> {
        self.sni.as_deref()
    }

    /// Goes on with this certificate on these terms.
    pub(crate) async fn accept(
        self,
        configs: &TlsConfigs,
        terms: TlsTerms,
        certificate: Arc<Certificate>,
    ) -> Result<Accepted, TlsFailure> {
        let config = configs.config(terms, &certificate);
        let accept = self.handshake.into_stream(config).into_fallible();
        let stream = match accept.await {
            Ok(stream) => stream,
            Err((error, mut socket)) => {
                // The alert has been written; without this, unread bytes would make the close destroy it.
                socket.shutdown().await.ok();
                return Err(failure(&error));
            }
        };
        let (_, session) = stream.get_ref();
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
            _ => TlsVersion::V1_2,
        };
        Ok(Accepted {
            version,
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            http2: session.alpn_protocol() == Some(HTTP2),
            session: TlsSession {
                version,
                sni: self.sni,
                certificate,
            },
            stream: TlsStream::new(stream),
        })
    }

    /// Ends the handshake because there is no certificate for the name (RFC 6066 §3).
    pub(crate) async fn refuse(self) -> TlsFailure {
        const FATAL: u8 = 2;
        let unrecognized = u8::from(AlertDescription::UnrecognisedName);
        // An alert record in the clear, as everything is at this point of a handshake.
        let alert = [21, 3, 3, 0, 2, FATAL, unrecognized];
        let mut socket = self.handshake.io;
        if socket.write_all(&alert).await.is_ok() {
            socket.shutdown().await.ok();
        }
        TlsFailure::NoCertificate
    }
}

/// A name that is no hostname stays as it is: no app and no certificate has it.
fn normalised(name: &str) -> Box<str> {
    match hostname::parse_host(name.as_bytes()) {
        Ok(host) => host.name.into(),
        Err(_) => name.into(),
    }
}

fn failure(error: &io::Error) -> TlsFailure {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::AlertReceived(_)) => TlsFailure::Alert,
        Some(rustls::Error::NoApplicationProtocol) => TlsFailure::Protocol,
        Some(rustls::Error::PeerIncompatible(_)) => TlsFailure::Incompatible,
        Some(_) => TlsFailure::Invalid,
        None => TlsFailure::Gone,
    }
}
