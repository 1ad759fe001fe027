//! Load on a whole router, of each kind that is counted and timed: a round is one operation on every connection, all begun
//! before the first is awaited, so that every run asks the same of a router, however slow it is. Any answer but the right
//! one ends it.

use std::net::SocketAddr;
use std::sync::Arc;

use router_core::Router;
use router_core::server::{ListenerSettings, Server, TlsListenerSettings};
use router_core::tls::Origin;
use router_testkit::{AppDoc, H2Client, RouteDoc, TestCa, TestCertificate, TlsDialer};
use rustls::ClientConfig;
use tokio::runtime::Runtime;

use crate::client::{self, Client};
use crate::dyno::BODY;
use crate::routes::{self, HOST};

/// What clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Requests on 64 kept connections.
    H1,
    /// The same over TLS.
    H1Tls,
    /// Requests on 16 HTTP/2 connections over TLS, 16 at once on each.
    H2,
    /// Messages of 128 bytes through 64 WebSockets, each echoed.
    WebSocket,
    /// 16 clients with a connection for each request.
    Connections,
    /// The same with TLS, whole handshakes.
    Handshakes,
}

impl Work {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::H1,
        Self::H1Tls,
        Self::H2,
        Self::WebSocket,
        Self::Connections,
        Self::Handshakes,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::H1 => "h1",
            Self::H1Tls => "h1-tls",
            Self::H2 => "h2-tls",
            Self::WebSocket => "websocket-message",
            Self::Connections => "connection-and-request",
            Self::Handshakes => "tls-handshake-and-request",
        }
    }

    /// Whether it needs a listener with TLS.
    pub fn is_tls(self) -> bool {
        match self {
            Self::H1Tls | Self::H2 | Self::Handshakes => true,
            Self::H1 | Self::WebSocket | Self::Connections => false,
        }
    }

    /// Rounds that make a count steady and do not take long under a tool that makes a router fifty times slower.
    pub fn counted_rounds(self) -> usize {
        match self {
            Self::H1 | Self::H1Tls | Self::WebSocket => 64,
            Self::H2 => 16,
            Self::Connections => 64,
            Self::Handshakes => 16,
        }
    }

    /// Operations of one round.
    pub fn operations(self) -> usize {
        match self {
            Self::H1 | Self::H1Tls | Self::WebSocket => CONNECTIONS,
            Self::H2 => H2_CONNECTIONS * STREAMS,
            Self::Connections | Self::Handshakes => NEW_AT_ONCE,
        }
    }
}

const CONNECTIONS: usize = 64;
const H2_CONNECTIONS: usize = 16;
const STREAMS: usize = 16;
const NEW_AT_ONCE: usize = 16;

/// An app with one dyno, and the authority of its certificate.
pub struct Site {
    document: Vec<u8>,
    certificate: TestCertificate,
    trusting: Arc<ClientConfig>,
    dialer: TlsDialer,
}

impl Site {
    /// Of this dyno, whose connections are kept or not.
    pub fn new(dyno: SocketAddr, keep_dyno_connections: bool) -> Self {
        let authority = TestCa::new("benches");
        let app = AppDoc::new("shop")
            .domain(HOST)
            .web(1, dyno)
            .setting("dyno_keepalive", keep_dyno_connections)
            .setting("concurrent_requests_per_dyno", 1000);
        let certificate = authority.certificate(&[HOST]);
        Self {
            document: RouteDoc::new(1, &[app])
                .certificate(&certificate)
                .to_bytes(),
            certificate,
            trusting: client::trusting(&authority.pem()),
            dialer: TlsDialer::trusting(&authority, HOST),
        }
    }

    /// The route document.
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Starts a router in this process, with one worker and two listeners.
    pub fn serve(&self) -> Served {
        let plain = ListenerSettings::http(([127, 0, 0, 1], 0).into());
        let tls = ListenerSettings {
            tls: Some(TlsListenerSettings::default()),
            ..plain.clone()
        };
        let server = Server::builder(self.router()).listener(plain).listener(tls);
        Served(server.start().unwrap())
    }

    fn router(&self) -> Router {
        let router = routes::router(&self.document);
        let (chain, key) = (self.certificate.chain_pem(), self.certificate.key_pem());
        let store = router.certificates();
        let certificate = store.read_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        store.insert(Origin::Document, certificate);
        router
    }

    /// Opens the connections to a router with this document, or to the dyno itself.
    pub fn open(&self, work: Work, address: SocketAddr) -> Load {
        let clients = |count, tls| (0..count).map(|_| self.connect(address, tls)).collect();
        match work {
            Work::H1 => Load::Requests(clients(CONNECTIONS, false)),
            Work::H1Tls => Load::Requests(clients(CONNECTIONS, true)),
            Work::WebSocket => {
                let mut clients: Vec<Client> = clients(CONNECTIONS, false);
                clients.iter_mut().for_each(|client| client.upgrade(HOST));
                Load::Messages(clients)
            }
            Work::H2 => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let clients = runtime.block_on(async {
                    let mut clients = Vec::new();
                    for _ in 0..H2_CONNECTIONS {
                        clients.push(H2Client::connect_tls(address, &self.dialer).await);
                    }
                    clients
                });
                Load::Streams { runtime, clients }
            }
            Work::Connections | Work::Handshakes => Load::New {
                address,
                trusting: work.is_tls().then(|| Arc::clone(&self.trusting)),
            },
        }
    }

    fn connect(&self, address: SocketAddr, tls: bool) -> Client {
        connect(address, tls.then_some(&self.trusting))
    }
}

fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Client {
    match tls {
        Some(trusting) => Client::connect_tls(address, HOST, trusting).unwrap(),
        None => Client::connect(address, HOST).unwrap(),
    }
}

/// A router of this process; it runs until this is dropped.
pub struct Served(Server);

impl Served {
    /// Where it listens, in the clear or with TLS.
    pub fn address(&self, tls: bool) -> SocketAddr {
        let addresses = self.0.addresses();
        *addresses.get(usize::from(tls)).expect("two listeners")
    }
}

/// Open connections.
pub enum Load {
    /// Kept connections of HTTP/1.
    Requests(Vec<Client>),
    /// WebSockets.
    Messages(Vec<Client>),
    /// Connections of HTTP/2.
    Streams {
        /// Where they live.
        runtime: Runtime,
        /// One for each connection.
        clients: Vec<H2Client>,
    },
    /// None: each operation has its own.
    New {
        /// Of the router.
        address: SocketAddr,
        /// With TLS.
        trusting: Option<Arc<ClientConfig>>,
    },
}

impl Load {
    /// One operation on each connection, or stream.
    pub fn round(&mut self) {
        match self {
            Self::Requests(clients) => {
                clients.iter_mut().for_each(Client::send);
                clients.iter_mut().for_each(Client::receive);
            }
            Self::Messages(clients) => {
                clients.iter_mut().for_each(Client::send_message);
                clients.iter_mut().for_each(Client::receive_message);
            }
            Self::Streams { runtime, clients } => runtime.block_on(streams(clients)),
            Self::New { address, trusting } => {
                for _ in 0..NEW_AT_ONCE {
                    let mut client = connect(*address, trusting.as_ref());
                    client.send();
                    client.receive();
                }
            }
        }
    }
}

async fn streams(clients: &mut [H2Client]) {
    let mut open = Vec::with_capacity(clients.len() * STREAMS);
    for client in clients {
        for _ in 0..STREAMS {
            let request = http::Request::get(format!("https://{HOST}/items?page=2"));
            open.push(client.open(request.body(()).unwrap(), true).await);
        }
    }
    for stream in open {
        let response = stream.response().await.whole();
        assert_eq!((response.status, &*response.body), (200, BODY));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dyno;

    #[test]
    fn every_kind_of_work_is_done() {
        for keep in [true, false] {
            let site = Site::new(dyno::start(), keep);
            let served = site.serve();
            for work in Work::ALL {
                let mut load = site.open(work, served.address(work.is_tls()));
                load.round();
                load.round();
            }
        }
    }
}
