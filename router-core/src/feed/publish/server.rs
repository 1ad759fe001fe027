//! Where readers connect: the listening socket, TLS if any, one task for each connection.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::answer::Answering;
use super::settings::{PublishError, PublishTls};
use crate::outgoing::read_roots;
use crate::stall::Stall;
use crate::tls::{self, DefaultCertificate, FileWatch};
use crate::{socket, tasks};

/// TLS to readers, with a certificate that may be replaced at any time.
pub(super) struct Tls {
    acceptor: TlsAcceptor,
    /// Kept for its drop.
    _watch: FileWatch,
}

impl Tls {
    /// Reads the files. Must be called on a tokio runtime.
    pub(super) fn new(settings: &PublishTls) -> Result<Self, PublishError> {
        let (config, certificate) = Self::read(settings)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            _watch: certificate.watch(&settings.certificate, &settings.private_key),
        })
    }

    /// Reads the files, and watches none of them.
    pub(super) fn read(
        settings: &PublishTls,
    ) -> Result<(ServerConfig, Arc<DefaultCertificate>), PublishError> {
        let wrong = |error: &dyn std::fmt::Display| PublishError::Tls(error.to_string());
        let (chain, key) = (&settings.certificate, &settings.private_key);
        let certificate =
            DefaultCertificate::from_files(chain, key).map_err(|error| wrong(&error))?;
        let certificate = Arc::new(certificate);
        let builder = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(&error))?;
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let unusable = |why: &dyn std::fmt::Display| {
                    PublishError::Tls(format!("{}: {why}", path.display()))
                };
                let roots: RootCertStore = read_roots(path).map_err(|why| unusable(&why))?;
                let provider = Arc::clone(tls::provider());
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|why| unusable(&why))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Current(Arc::clone(&certificate))));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((config, certificate))
    }
}

/// Whatever the certificate is at the moment.
#[derive(Debug)]
struct Current(Arc<DefaultCertificate>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.0.current().served()))
    }
}

/// Serves readers until it is told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    answering: Arc<Answering>,
    tracker: TaskTracker,
) {
    let permits = Arc::new(Semaphore::new(answering.shared.settings.connections));
    let stop = answering.shared.stop.clone();
    // Waiting for a permit leaves further readers in the listen queue, which is as good a place as any.
    loop {
        let accepted = tokio::select! {
            // Cancel-safe, both: an accept that is dropped loses no connection.
            accepted = accept(&listener, &permits) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(None) => return,
            Ok(Some((stream, permit))) => {
                let answering = Arc::clone(&answering);
                let acceptor = tls.as_ref().map(|tls| tls.acceptor.clone());
                tasks::spawn(&tracker, async move {
                    let counted = answering.shared.stats.connections.enter();
                    connection(stream, acceptor, answering).await;
                    drop((counted, permit));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a reader's connection was not accepted");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)>> {
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
        return Ok(None);
    };
    let (stream, _) = listener.accept().await?;
    Ok(Some((stream, permit)))
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, answering: Arc<Answering>) {
    socket::tune(&stream);
    socket::notice_death(&stream);
    let stream = Stall::new(stream, TAKES_NOTHING);
    match tls {
        None => http(stream, answering).await,
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => http(stream, answering).await,
            Ok(Err(error)) => tracing::debug!(%error, "a reader's TLS handshake failed"),
            Err(_) => tracing::debug!("a reader's TLS handshake took too long"),
        },
    }
}

async fn http(stream: impl AsyncRead + AsyncWrite + Unpin, answering: Arc<Answering>) {
    let stop = answering.shared.stop.clone();
    let (asked, begun) = oneshot::channel::<()>();
    let asked = Mutex::new(Some(asked));
    let service = service_fn(move |request| {
        drop(asked.lock().unwrap_or_else(PoisonError::into_inner).take());
        let answering = Arc::clone(&answering);
        async move { Ok::<_, Infallible>(answering.answer(request).await) }
    });
    // Whoever only connects may show no token, and must not keep those out who would.
    let asks_nothing = async {
        if tokio::time::timeout(FIRST_HEAD, begun).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(100)
        .max_buf_size(MOST_BUFFERED)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let served = tokio::select! {
        // Cancel-safe, all: the connection goes on below, or is over.
        served = connection.as_mut() => served,
        () = asks_nothing => {
            tracing::debug!("a reader connected and asked nothing");
            return;
        }
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let ended = tokio::time::timeout(LAST_MOMENT, connection).await;
            ended.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a reader's connection ended early");
    }
}

/// A reader that takes nothing for so long is not there any more.
const TAKES_NOTHING: Duration = Duration::from_secs(30);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the first request head of a connection.
const FIRST_HEAD: Duration = Duration::from_secs(10);
/// Between requests and for a later request head.
const IDLE: Duration = Duration::from_secs(90);
const MOST_BUFFERED: usize = 64 * 1024;
/// For streams to come to their end when this one stops.
const LAST_MOMENT: Duration = Duration::from_secs(2);
/// Out of file descriptors: trying again at once would only burn a core.
const AFTER_ERROR: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::clock;
    use crate::feed::publish::settings::PublishSettings;
    use crate::feed::publish::shared::Shared;

    fn answering() -> Arc<Answering> {
        let settings = PublishSettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Arc::new(Answering {
            shared: Arc::new(Shared::new(settings)),
            tokens: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_connects_and_asks_nothing_is_sent_away_soon() {
        for head in ["", "GET /healthz HTT"] {
            let start = clock::now();
            let (mut reader, stream) = tokio::io::duplex(4096);
            let end = async {
                reader.write_all(head.as_bytes()).await.unwrap();
                reader.read(&mut [0]).await.unwrap()
            };
            let ((), read) = tokio::join!(http(stream, answering()), end);
            let took = clock::now() - start;
            assert_eq!((read, took.as_secs()), (0, FIRST_HEAD.as_secs()), "{head}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_may_take_longer_for_the_next_time() {
        let (mut reader, stream) = tokio::io::duplex(4096);
        let asks = async move {
            for _ in 0..3 {
                let request = b"GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n";
                reader.write_all(request).await.unwrap();
                let mut answer = [0; 4096];
                let length = reader.read(&mut answer).await.unwrap();
                assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
                tokio::time::sleep(IDLE / 2).await;
            }
        };
        tokio::join!(http(stream, answering()), asks);
    }
}
