//! Listening sockets: one per worker and address, sharing the port (SO_REUSEPORT), so that the kernel spreads
//! connections and no lock is shared.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::connection;
use crate::clock;
use crate::peer::Peer;
use crate::socket;
use crate::tasks;
use crate::tls::{DefaultCertificate, TlsVersion};
use crate::worker::Worker;

/// Where to listen, and for what.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Makes it an https listener.
    pub tls: Option<TlsListenerSettings>,
    /// Every connection begins with a PROXY header (version 1 or 2), or is closed.
    pub proxy_protocol: bool,
    /// Clients whose `X-Forwarded-*` and `X-Request-Start` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Without TLS: a client may begin with HTTP/2 (RFC 9113 §3.3).
    pub http2_prior_knowledge: bool,
}

impl ListenerSettings {
    /// Plain HTTP/1 at this address, and nobody trusted.
    pub fn http(address: SocketAddr) -> Self {
        Self {
            address,
            tls: None,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            http2_prior_knowledge: false,
        }
    }
}

/// TLS of one listener.
#[derive(Debug, Clone)]
pub struct TlsListenerSettings {
    /// What clients get that name no host, or one that no certificate has. Without it their handshake fails.
    pub default: Option<Arc<DefaultCertificate>>,
    /// The oldest version spoken; an app may ask for a newer one.
    pub min_version: TlsVersion,
    /// Whether HTTP/2 is offered (ALPN); an app may decline it.
    pub http2: bool,
}

impl Default for TlsListenerSettings {
    fn default() -> Self {
        Self {
            default: None,
            min_version: TlsVersion::default(),
            http2: true,
        }
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct StartError {
    /// The address that could not be had.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

const BACKLOG: i32 = 4096;

/// Binds one socket for each of `workers`. The port is probed without SO_REUSEPORT first: with it, a second router on
/// the same address would start and take half of the connections.
pub(super) fn bind(
    settings: &ListenerSettings,
    workers: usize,
) -> Result<Vec<StdListener>, StartError> {
    let fail = |source| StartError {
        address: settings.address,
        source,
    };
    let probe = StdListener::bind(settings.address).map_err(fail)?;
    let address = probe.local_addr().map_err(fail)?;
    drop(probe);
    (0..workers)
        .map(|_| bind_one(address).map_err(fail))
        .collect()
}

fn bind_one(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts connections until the router drains.
pub(super) async fn accept(worker: Arc<Worker>, listener: TcpListener, tasks: TaskTracker) {
    let mut quiet_until = clock::now();
    let port = listener.local_addr().map_or(0, |address| address.port());
    loop {
        let accepted = tokio::select! {
            // Cancel-safe: a connection that is not accepted stays in the backlog.
            accepted = listener.accept() => accepted,
            () = worker.drain.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => start(&worker, stream, address, port, &tasks),
            Err(error) => {
                // Out of descriptors, mostly: connections in progress must end before new ones can be taken.
                if clock::now() >= quiet_until {
                    tracing::warn!(%error, "cannot accept connections");
                    quiet_until = clock::now() + Duration::from_secs(1);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

fn start(
    worker: &Arc<Worker>,
    stream: TcpStream,
    address: SocketAddr,
    port: u16,
    tasks: &TaskTracker,
) {
    socket::tune(&stream);
    let peer = Peer::plain(Some(address), port);
    let worker = Arc::clone(worker);
    tasks::spawn(tasks, async move {
        connection::serve(&worker, stream, peer).await;
    });
}
