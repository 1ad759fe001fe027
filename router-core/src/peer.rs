//! Who is on the other end of a client connection, as far as it is known: from the socket, a PROXY header and the TLS
//! handshake. Decided once per connection, shared by all its requests.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::tls::TlsSession;

/// The other end of a client connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    /// Who called: the source of a PROXY header, else the socket's peer. Unknown for some embedded requests.
    pub(crate) address: Option<SocketAddr>,
    /// The port that was called: the destination of a PROXY header, else the listener's own.
    pub(crate) port: u16,
    /// What the handshake agreed on; `None` in the clear.
    pub(crate) tls: Option<TlsSession>,
    /// The listener's `trusted_proxies`.
    pub(crate) trusted_proxies: Arc<[IpNet]>,
    /// It came when as many connections as are allowed were open (H22).
    pub(crate) above_limit: bool,
}

impl Peer {
    /// The peer of a connection in the clear, with nobody trusted.
    pub(crate) fn plain(address: Option<SocketAddr>, port: u16) -> Self {
        Self {
            address,
            port,
            ..Self::default()
        }
    }

    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip())
    }

    /// Whether what this address says about clients is believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted_proxies
            .iter()
            .any(|net| net.contains(&address))
    }

    /// Whether the other end is a proxy that is believed.
    pub(crate) fn is_trusted(&self) -> bool {
        !self.trusted_proxies.is_empty() && self.ip().is_some_and(|address| self.trusts(address))
    }

    /// `http` or `https`, as the connection itself shows it.
    pub(crate) fn proto(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}
