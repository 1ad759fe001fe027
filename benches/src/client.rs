//! A client that waits for each answer, on one kept connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::dyno::BODY;

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// What the system says, as of too few file descriptors.
    pub fn connect(address: SocketAddr, host: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // Only a bench that goes wrong ever waits this long.
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let request = format!(
            "GET /items?page=2 HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
        );
        Ok(Self {
            stream,
            request: request.into_bytes(),
            answer: Vec::new(),
        })
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
        let request = format!(
            "GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.stream.write_all(request.as_bytes()).unwrap();
        let answer = self.read_until(b"\r\n\r\n");
        assert!(answer.starts_with(b"HTTP/1.1 101 "), "{answer:?}");
        let frame = b"\x81\x85\0\0\0\0hello";
        self.stream.write_all(frame).unwrap();
        self.read_until(frame);
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
