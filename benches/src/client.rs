//! A client that waits for each answer, on one kept connection, in the clear or over TLS.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::dyno::BODY;

/// A WebSocket message of 128 bytes, as a client sends it; its mask is zero, so that an echo is the same bytes.
pub const MESSAGE: [u8; 136] = {
    const HEAD: [u8; 8] = [0x82, 0xfe, 0, 128, 0, 0, 0, 0];
    let mut frame = [b'm'; 136];
    frame.split_at_mut(HEAD.len()).0.copy_from_slice(&HEAD);
    frame
};

/// One connection.
pub struct Client {
    stream: Box<dyn Stream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// What the system says, as of too few file descriptors.
    pub fn connect(address: SocketAddr, host: &str) -> io::Result<Self> {
        Ok(Self::over(Box::new(tcp(address)?), host))
    }

    /// Connects and does a whole TLS handshake; the certificate has to be good for the host.
    ///
    /// # Errors
    /// What the system or the other side says.
    pub fn connect_tls(
        address: SocketAddr,
        host: &str,
        trusting: &Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let tls = ClientConnection::new(Arc::clone(trusting), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(tls, tcp(address)?);
        stream.conn.complete_io(&mut stream.sock)?;
        Ok(Self::over(Box::new(stream), host))
    }

    fn over(stream: Box<dyn Stream>, host: &str) -> Self {
        let request = format!(
            "GET /items?page=2 HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
        );
        Self {
            stream,
            request: request.into_bytes(),
            answer: Vec::new(),
        }
    }

    /// Sends a request.
    pub fn send(&mut self) {
        self.stream.write_all(&self.request).unwrap();
    }

    /// Waits for the answer, which has to be the dyno's.
    pub fn receive(&mut self) {
        let answer = self.read_until(BODY);
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
    }

    /// Sends a request and waits for whatever answer there is.
    pub fn status(&mut self) -> u16 {
        self.send();
        self.answer()
    }

    /// Waits for whatever answer there is, and gives its status.
    pub fn answer(&mut self) -> u16 {
        self.answer.resize(4096, 0);
        let read = self.stream.read(&mut self.answer).unwrap();
        self.answer.truncate(read);
        let text = String::from_utf8_lossy(&self.answer);
        text.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Makes it a WebSocket and has a few bytes echoed, so that every buffer has been used.
    pub fn upgrade(&mut self, host: &str) {
        self.stream.write_all(handshake(host).as_bytes()).unwrap();
        let answer = self.read_until(b"\r\n\r\n");
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
        let frame = b"\x81\x85\0\0\0\0hello";
        self.stream.write_all(frame).unwrap();
        self.read_until(frame);
    }

    /// Sends a message through a WebSocket.
    pub fn send_message(&mut self) {
        self.stream.write_all(&MESSAGE).unwrap();
    }

    /// Waits for its echo.
    pub fn receive_message(&mut self) {
        self.answer.resize(MESSAGE.len(), 0);
        self.stream.read_exact(&mut self.answer).unwrap();
        assert_eq!(self.answer, MESSAGE);
    }

    fn read_until(&mut self, end: &[u8]) -> &[u8] {
        self.answer.clear();
        let mut bytes = [0; 4096];
        while !self.answer.ends_with(end) {
            let read = self.stream.read(&mut bytes).unwrap();
            assert!(read > 0, "the connection ended: {:?}", self.answer);
            self.answer
                .extend_from_slice(bytes.get(..read).unwrap_or_default());
        }
        &self.answer
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// The request of a WebSocket handshake.
pub fn handshake(host: &str) -> String {
    format!(
        "GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A TLS client that believes one authority and resumes nothing.
pub fn trusting(authority: &str) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    // Only a bench that goes wrong ever waits this long.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}
