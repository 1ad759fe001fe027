//! The router as a `tower` service and layer, for programs that have a server of their own. A request enters the hot
//! path as the bytes of HTTP/1 through an in-process pipe (ADR 0005): one code path serves listeners and embedders, so
//! admission, headers, H-codes, timeouts and upgrades cannot differ between them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use router_model::hostname;
use tokio::io::DuplexStream;
use tokio_util::task::TaskTracker;
use tower_service::Service;

use crate::client::Transport;
use crate::peer::Peer;
use crate::router::Router;
use crate::server::connection;
use crate::tasks;
use crate::worker::Worker;

/// Who the client is: an embedder puts it into the request's extensions, for `X-Forwarded-For`, `fwd=` and
/// `consistent_hash`. Without it the address is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub SocketAddr);

/// Puts the router in front of a service: requests for known hosts go to dynos, all others to the service.
#[derive(Debug, Clone)]
pub struct RouterLayer {
    router: Router,
}

/// The service that [`RouterLayer`] makes.
#[derive(Debug, Clone)]
pub struct RouterService<S> {
    router: Router,
    inner: S,
}

/// The service behind [`Router::service`]: there is none, so the router answers unknown hosts itself.
#[derive(Debug, Clone, Copy)]
pub struct NoSuchApp;

impl Router {
    /// A layer that sends requests for known hosts to dynos and all others to the service it wraps.
    pub fn layer(&self) -> RouterLayer {
        RouterLayer {
            router: self.clone(),
        }
    }

    /// A service that serves known hosts and answers 404 to all others. Must be called on a tokio runtime.
    pub fn service(&self) -> RouterService<NoSuchApp> {
        RouterService {
            router: self.clone(),
            inner: NoSuchApp,
        }
    }

    /// Whether a request for this host would be served by an app.
    pub fn knows(&self, host: &str) -> bool {
        hostname::parse_host(host.as_bytes())
            .is_ok_and(|host| self.shared().table.lookup(&host.name).is_some())
    }
}

impl<S> tower_layer::Layer<S> for RouterLayer {
    type Service = RouterService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RouterService {
            router: self.router.clone(),
            inner,
        }
    }
}

type Answer<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

impl<B> Service<Request<B>> for RouterService<NoSuchApp>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<RouterBody>;
    type Error = Infallible;
    type Future = Answer<RouterBody, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let router = self.router.clone();
        Box::pin(async move { Ok(proxy(&router, request).await.map(RouterBody)) })
    }
}

impl<S, B, R> Service<Request<B>> for RouterService<S>
where
    S: Service<Request<B>, Response = Response<R>, Future: Send + 'static>,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Either<RouterBody, R>>;
    type Error = S::Error;
    type Future = Answer<Either<RouterBody, R>, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if host_of(&request).is_some_and(|host| self.router.knows(&host)) {
            let router = self.router.clone();
            return Box::pin(async move {
                Ok(proxy(&router, request)
                    .await
                    .map(|body| Either::Left(RouterBody(body))))
            });
        }
        let inner = self.inner.call(request);
        Box::pin(async move { Ok(inner.await?.map(|body| Either::Right(body))) })
    }
}

/// Any error of an embedder's body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response that went through the router.
#[derive(Debug)]
pub struct RouterBody(Option<Incoming>);

impl Body for RouterBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

fn host_of<B>(request: &Request<B>) -> Option<String> {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok());
    host.or_else(|| request.uri().authority().map(http::uri::Authority::as_str))
        .map(str::to_owned)
}

impl Transport for DuplexStream {
    fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn is_read_closed(&self) -> bool {
        false
    }

    fn end_with_error(&self, _: bool) {}
}

/// Bytes in flight in each direction of the pipe.
const PIPE: usize = 64 * 1024;

/// Sends a request through the hot path.
async fn proxy<B>(router: &Router, mut request: Request<B>) -> Response<Option<Incoming>>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let upgrade = hyper::upgrade::on(&mut request);
    let wants_upgrade = request.headers().contains_key(http::header::UPGRADE);
    let client = request
        .extensions()
        .get::<ClientAddress>()
        .map(|client| client.0);
    let port = host_of(&request)
        .and_then(|host| host.rsplit_once(':')?.1.parse().ok())
        .unwrap_or(80);
    let tasks = TaskTracker::new();
    let ours = spawn_connection(router.tidied_embedded(), client, port, &tasks);
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_headers(2000)
        .handshake(TokioIo::new(ours))
        .await;
    let Ok((mut sender, connection)) = handshake else {
        return unavailable();
    };
    let driver = connection.with_upgrades();
    tasks::spawn(&tasks, async move {
        // How the exchange ended is in the log; the pipe's own end says nothing new.
        drop(driver.await);
    });
    to_origin_form(&mut request);
    let Ok(mut response) = sender.send_request(request).await else {
        return unavailable();
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && wants_upgrade {
        bridge(upgrade, hyper::upgrade::on(&mut response), &tasks);
    } else {
        strip_pipe_fields(response.headers_mut());
    }
    response.map(Some)
}

/// Starts the router's end of a pipe and gives the other one.
fn spawn_connection(
    worker: &Arc<Worker>,
    client: Option<SocketAddr>,
    port: u16,
    tasks: &TaskTracker,
) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let worker = Arc::clone(worker);
    tasks::spawn(tasks, async move {
        connection::serve(&worker, theirs, Peer::plain(client, port)).await;
    });
    ours
}

/// A request as an HTTP/1.1 client would send it: origin-form, one Host, framing of hyper's own.
fn to_origin_form<B: Body>(request: &mut Request<B>) {
    if let Some(authority) = request.uri().authority().cloned() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str);
        if let Ok(uri) = path.parse() {
            *request.uri_mut() = uri;
        }
    }
    *request.version_mut() = Version::HTTP_11;
    // hyper sends no body of unknown length with a GET unless it is told that there is one.
    let unknown_length =
        request.body().size_hint().exact().is_none() && !request.body().is_end_stream();
    if unknown_length && !request.headers().contains_key(http::header::CONTENT_LENGTH) {
        request
            .headers_mut()
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Fields that spoke of the pipe; the embedder's server writes its own.
fn strip_pipe_fields(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}

/// Joins the embedder's upgraded connection with the pipe's.
fn bridge(
    client: hyper::upgrade::OnUpgrade,
    router: hyper::upgrade::OnUpgrade,
    tasks: &TaskTracker,
) {
    tasks::spawn(tasks, async move {
        let (Ok(client), Ok(router)) = tokio::join!(client, router) else {
            return;
        };
        let (mut client, mut router) = (TokioIo::new(client), TokioIo::new(router));
        // Either end closing ends the tunnel; its log line is the router's.
        drop(tokio::io::copy_bidirectional(&mut client, &mut router).await);
    });
}

/// The pipe itself failed; without a router on its other end there is nobody to name the failure.
fn unavailable() -> Response<Option<Incoming>> {
    let mut response = Response::new(None);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}
