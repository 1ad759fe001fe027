//! Addresses at which connecting fails: refused at once, or never answered.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::fake_dyno::FakeDyno;

/// An address of 127.0.0.1 where nobody listens: connections are refused. It stays so until the process ends.
pub fn refused_address() -> SocketAddr {
    let reserved = ReservedAddress::new();
    let address = reserved.address();
    // The port must not become somebody else's while the test counts on it.
    std::mem::forget(reserved);
    address
}

/// An address that is taken but not listened at: refused at first, a dyno later.
pub struct ReservedAddress {
    socket: Socket,
    address: SocketAddr,
}

impl ReservedAddress {
    /// Takes a free port of 127.0.0.1.
    #[expect(
        clippy::new_without_default,
        reason = "it takes something of the system's"
    )]
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .expect("bind");
        let address = socket
            .local_addr()
            .expect("local address")
            .as_socket()
            .expect("an IP address");
        Self { socket, address }
    }

    /// The address for the route document.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The dyno comes up where it was expected.
    pub fn listen(self) -> FakeDyno {
        self.socket.listen(128).expect("listen");
        self.socket.set_nonblocking(true).expect("nonblocking");
        FakeDyno::at(self.socket.into())
    }
}

/// A listener whose accept queue is full, so that the kernel drops every further SYN and connecting only ever times out.
pub struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    /// Opens the listener and fills its queue. Blocks the calling thread for the length of one probe.
    pub fn start() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .expect("bind");
        listener.listen(0).expect("listen");
        let address = listener
            .local_addr()
            .expect("local address")
            .as_socket()
            .expect("an IP address");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(60)) {
            queued.push(stream);
            assert!(
                queued.len() < 64,
                "the accept queue of {address} does not fill up"
            );
        }
        Self {
            address,
            _listener: listener,
            _queued: queued,
        }
    }

    /// The address for the route document.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn a_refused_address_refuses() {
        assert_eq!(
            TcpStream::connect(refused_address()).unwrap_err().kind(),
            ErrorKind::ConnectionRefused
        );
    }

    #[test]
    fn a_black_hole_never_answers() {
        let hole = BlackHole::start();
        let error =
            TcpStream::connect_timeout(&hole.address(), Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
