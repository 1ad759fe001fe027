//! Where every kind of dyno listens: a free port of 127.0.0.1, in the clear or with a certificate.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::io::Io;
use crate::test_ca::TestCertificate;

pub(crate) struct DynoListener {
    pub(crate) listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
}

impl DynoListener {
    /// Listens; from now on connections are established (by the kernel) and wait to be accepted.
    pub(crate) async fn bind() -> Self {
        Self::of(TcpListener::bind("127.0.0.1:0").await.expect("bind a dyno"))
    }

    /// The same, speaking TLS.
    pub(crate) async fn bind_tls(certificate: &TestCertificate, alpn: &[&str]) -> Self {
        Self {
            tls: Some(TlsAcceptor::from(certificate.server_config(alpn))),
            ..Self::bind().await
        }
    }

    pub(crate) fn of(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("local address");
        Self {
            listener,
            address,
            tls: None,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What makes a stream of an accepted connection; to be done in the connection's own task where others wait.
    pub(crate) fn handshake(
        &self,
        stream: TcpStream,
    ) -> impl Future<Output = io::Result<Io>> + Send + use<> {
        let tls = self.tls.clone();
        async move {
            let Some(tls) = tls else {
                return Ok(Io::Plain(stream));
            };
            let stream = tls.accept(stream).await?;
            Ok(Io::Tls(Box::new(TlsStream::Server(stream))))
        }
    }
}
