//! Listening sockets: one per worker and address, sharing the port (SO_REUSEPORT), so that the kernel spreads
//! connections and no lock is shared.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use router_model::proxy_header::Proxied;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

use super::connection;
use super::handshake;
use super::proxy_protocol::{self, NoHeader};
use super::silent::{Silent, SilentOnes};
use crate::client::Transport;
use crate::clock;
use crate::observe::Event;
use crate::peer::Peer;
use crate::socket;
use crate::tasks;
use crate::tls::{DefaultCertificate, TlsVersion};
use crate::worker::{Counted, Worker};

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

/// What a listening socket's connections have in common.
pub(super) struct Terms {
    settings: ListenerSettings,
    port: u16,
    trusted_proxies: Arc<[IpNet]>,
}

impl Terms {
    pub(super) fn new(settings: ListenerSettings, address: Option<SocketAddr>) -> Self {
        Self {
            port: address.unwrap_or(settings.address).port(),
            trusted_proxies: settings.trusted_proxies.clone().into(),
            settings,
        }
    }

    fn plain(&self) -> Speaks {
        if self.settings.http2_prior_knowledge {
            Speaks::Either
        } else {
            Speaks::Http1
        }
    }
}

/// Accepts connections until the router drains.
pub(super) async fn accept(
    worker: Arc<Worker>,
    listener: TcpListener,
    terms: Arc<Terms>,
    tasks: TaskTracker,
) {
    /// How many silent connections there may be for each handshake: a silent one costs a socket, a handshake the
    /// processor's time.
    const SILENT: usize = 8;
    let most = worker.shared.limits.tls_handshakes.saturating_mul(SILENT);
    let silent = SilentOnes::new(most);
    let mut quiet_until = clock::now();
    loop {
        let accepted = tokio::select! {
            // Cancel-safe: a connection that is not accepted stays in the backlog.
            accepted = listener.accept() => accepted,
            () = worker.drain.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => start(&worker, stream, address, &terms, &silent, &tasks),
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
    terms: &Arc<Terms>,
    silent: &Arc<SilentOnes>,
    tasks: &TaskTracker,
) {
    socket::tune(&stream);
    let peer = Peer {
        // An IPv4 client of a socket that listens on IPv6 too is still an IPv4 client.
        address: Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
        port: terms.port,
        trusted_proxies: Arc::clone(&terms.trusted_proxies),
        ..Peer::default()
    };
    if terms.settings.tls.is_none() && !terms.settings.proxy_protocol {
        return serve(worker, stream, peer, terms.plain(), tasks);
    }
    let (worker, terms, owner) = (Arc::clone(worker), Arc::clone(terms), tasks.clone());
    let silent = silent.enter();
    tasks::spawn(tasks, async move {
        greet(&worker, stream, peer, &terms, silent, &owner).await;
    });
}

/// What a connection speaks.
enum Speaks {
    Http1,
    Http2,
    /// Its first bytes tell.
    Either,
}

/// Serves in a task of its own, so that a connection does not keep the memory that its handshake needed.
fn serve<IO: Transport + 'static>(
    worker: &Arc<Worker>,
    io: IO,
    peer: Peer,
    speaks: Speaks,
    tasks: &TaskTracker,
) {
    let worker = Arc::clone(worker);
    match speaks {
        Speaks::Http1 => tasks::spawn(tasks, async move {
            connection::serve(&worker, io, peer).await;
        }),
        Speaks::Http2 => tasks::spawn(tasks, async move {
            connection::serve_h2(&worker, io, peer).await;
        }),
        Speaks::Either => tasks::spawn(tasks, async move {
            connection::serve_either(&worker, io, peer).await;
        }),
    }
}

/// What comes before a connection's first request: the PROXY header and the TLS handshake, where they are wanted.
async fn greet(
    worker: &Arc<Worker>,
    mut stream: TcpStream,
    mut peer: Peer,
    terms: &Terms,
    mut silent: Silent,
    tasks: &TaskTracker,
) {
    // Until it is served, where it counts by itself.
    let _counted = Counted::new(worker.shared.connections());
    if terms.settings.proxy_protocol {
        match proxied(worker, &mut stream, &mut silent).await {
            Ok(Some(addresses)) => {
                peer.address = Some(addresses.source);
                peer.port = addresses.destination.port();
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "a connection without a PROXY header was closed");
                return worker.event(Event::ProxyHeaderRefused);
            }
        }
    }
    let Some(tls) = &terms.settings.tls else {
        return serve(worker, stream, peer, terms.plain(), tasks);
    };
    if let Some(accepted) = handshake::accept(worker, stream, tls, silent).await {
        peer.tls = Some(accepted.session);
        let speaks = if accepted.http2 {
            Speaks::Http2
        } else {
            Speaks::Http1
        };
        serve(worker, accepted.stream, peer, speaks, tasks);
    }
}

/// Waits for the PROXY header; a drain does not wait for a connection that has said nothing yet.
async fn proxied(
    worker: &Worker,
    stream: &mut TcpStream,
    silent: &mut Silent,
) -> Result<Proxied, NoHeader> {
    let patience = worker.shared.timeouts.proxy_header;
    let header = tokio::time::timeout(patience, proxy_protocol::read(stream));
    tokio::select! {
        // The connection ends with either error, so nothing that was read is missed.
        header = header => header.unwrap_or(Err(NoHeader::Truncated)),
        () = worker.drain.cancelled() => Err(NoHeader::Truncated),
        () = silent.pushed_out() => Err(NoHeader::TooMany),
    }
}
