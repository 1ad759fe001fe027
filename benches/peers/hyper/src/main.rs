//! A bare proxy on hyper: one `current_thread` runtime, a list of idle connections of its own, mimalloc, and nothing that can be left
//! out. It adds the headers that the router adds and writes no log line: the floor under everything that is built on hyper.
//!
//! `peer-hyper LISTEN ORIGIN [CERTIFICATE KEY]`

use std::cell::RefCell;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE, VIA};
use http::uri::Uri;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self as client, SendRequest};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");

type Failed = Box<dyn Error + Send + Sync>;
type Idle = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

/// What all connections share.
struct Proxy {
    origin: SocketAddr,
    idle: Idle,
    proto: HeaderValue,
    port: HeaderValue,
}

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, origin, files @ ..] = arguments.as_slice() else {
        return Err("peer-hyper LISTEN ORIGIN [CERTIFICATE KEY]".into());
    };
    let acceptor = match files {
        [certificate, key] => Some(acceptor(certificate, key)?),
        _ => None,
    };
    let listen: SocketAddr = listen.parse()?;
    let proxy = Rc::new(Proxy {
        origin: origin.parse()?,
        idle: Idle::default(),
        proto: HeaderValue::from_static(if acceptor.is_some() { "https" } else { "http" }),
        port: listen.port().into(),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, accept(listen, proxy, acceptor))
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Failed> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(
    listen: SocketAddr,
    proxy: Rc<Proxy>,
    acceptor: Option<TlsAcceptor>,
) -> Result<(), Failed> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)?;
    let listener: TcpListener = socket.listen(4096)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (proxy, acceptor) = (Rc::clone(&proxy), acceptor.clone());
        spawn_local(async move {
            // A client that goes away is no concern of the others.
            drop(serve(stream, peer.ip(), proxy, acceptor).await);
        });
    }
}

async fn serve(
    stream: TcpStream,
    peer: IpAddr,
    proxy: Rc<Proxy>,
    acceptor: Option<TlsAcceptor>,
) -> Result<(), Failed> {
    let forwarded_for = HeaderValue::from_str(&peer.to_string())?;
    let service = service_fn(move |req| handle(req, Rc::clone(&proxy), forwarded_for.clone()));
    let Some(acceptor) = acceptor else {
        let io = TokioIo::new(stream);
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades();
        return Ok(connection.await?);
    };
    // Boxed, so that a connection without TLS does not carry room for all that.
    Box::pin(serve_tls(stream, acceptor, service)).await
}

async fn serve_tls<S, F>(stream: TcpStream, acceptor: TlsAcceptor, service: S) -> Result<(), Failed>
where
    S: Service<Request<Incoming>, Response = Response<Kept>, Error = Failed, Future = F>,
    F: Future<Output = Result<Response<Kept>, Failed>> + 'static,
{
    let stream = acceptor.accept(stream).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    if is_http2 {
        hyper::server::conn::http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await?;
    } else {
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades()
            .await?;
    }
    Ok(())
}

async fn handle(
    mut req: Request<Incoming>,
    proxy: Rc<Proxy>,
    forwarded_for: HeaderValue,
) -> Result<Response<Kept>, Failed> {
    let upgrade = req.headers().get(UPGRADE).cloned();
    let of_client = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut req));
    if let (Some(authority), None) = (req.uri().authority(), req.headers().get(HOST)) {
        let host = HeaderValue::from_str(authority.as_str())?;
        req.headers_mut().insert(HOST, host);
    }
    if let Some(path) = req.uri().path_and_query().cloned() {
        *req.uri_mut() = Uri::from(path);
    }
    *req.version_mut() = Version::HTTP_11;
    add_headers(req.headers_mut(), &proxy, forwarded_for)?;
    if let Some(upgrade) = upgrade {
        req.headers_mut().insert(UPGRADE, upgrade);
        req.headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let mut sender = checkout(&proxy).await?;
    let mut res = sender.send_request(req).await?;
    if res.status() == StatusCode::SWITCHING_PROTOCOLS {
        let of_origin = hyper::upgrade::on(&mut res);
        if let Some(of_client) = of_client {
            spawn_local(async move {
                if let (Ok(one), Ok(other)) = (of_client.await, of_origin.await) {
                    let (mut one, mut other) = (TokioIo::new(one), TokioIo::new(other));
                    drop(copy_bidirectional(&mut one, &mut other).await);
                }
            });
        }
        return Ok(res.map(|body| Kept {
            body,
            sender: None,
            idle: Rc::clone(&proxy.idle),
        }));
    }
    res.headers_mut().remove(CONNECTION);
    res.headers_mut()
        .append(VIA, HeaderValue::from_static("1.1 hyper"));
    let idle = Rc::clone(&proxy.idle);
    Ok(res.map(|body| Kept {
        body,
        sender: Some(sender),
        idle,
    }))
}

fn add_headers(
    headers: &mut HeaderMap,
    proxy: &Proxy,
    forwarded_for: HeaderValue,
) -> Result<(), Failed> {
    headers.remove(CONNECTION);
    headers.append(FORWARDED_FOR, forwarded_for);
    headers.insert(FORWARDED_PROTO, proxy.proto.clone());
    headers.insert(FORWARDED_PORT, proxy.port.clone());
    let id = format!("{:032x}", fastrand::u128(..));
    headers.insert(REQUEST_ID, HeaderValue::from_str(&id)?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    headers.insert(REQUEST_START, HeaderValue::from(u64::try_from(now)?));
    headers.append(VIA, HeaderValue::from_static("1.1 hyper"));
    Ok(())
}

/// A kept connection that still works, or a new one.
async fn checkout(proxy: &Proxy) -> Result<SendRequest<Incoming>, Failed> {
    loop {
        let Some(mut sender) = proxy.idle.borrow_mut().pop() else {
            break;
        };
        if sender.is_ready() || sender.ready().await.is_ok() {
            return Ok(sender);
        }
    }
    let stream = TcpStream::connect(proxy.origin).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    spawn_local(async move { drop(connection.with_upgrades().await) });
    sender.ready().await?;
    Ok(sender)
}

/// A response body that gives its connection back when it has ended.
struct Kept {
    body: Incoming,
    sender: Option<SendRequest<Incoming>>,
    idle: Idle,
}

impl Body for Kept {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let (true, Some(sender)) = (self.body.is_end_stream(), self.sender.take()) {
            self.idle.borrow_mut().push(sender);
        }
    }
}

/// Spawns on the one thread that there is.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
